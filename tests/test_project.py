"""What the project says of itself is true: versions, paths, commands, links, sums."""

import ast
import gzip
import hashlib
import importlib
import importlib.util
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import psn_tutorial

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {".git", ".venv", "build", "dist", "__pycache__"}


def tracked() -> list[Path]:
    """The project's own files: as git knows them, or all, in an unpacked archive."""
    if (ROOT / ".git").exists():
        listing = ["git", "-C", str(ROOT), "ls-files", "-z"]
        names = subprocess.run(listing, capture_output=True, check=True).stdout.decode().split("\0")
        found = [ROOT / name for name in names if name]
    else:
        found = [
            path for path in ROOT.rglob("*") if not SKIPPED & set(path.parts) and ROOT / "runs" not in path.parents
        ]
    return [path for path in found if path.is_file()]


FILES = tracked()


def text_of(path: Path) -> str | None:
    """What a file says, also a packed one; None of a binary file."""
    content = path.read_bytes()
    try:
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except UnicodeDecodeError:
        return None


def prose() -> Iterator[tuple[str, Path, str]]:
    """(label, folder, Markdown) of every page: .md files and the text cells of notebooks."""
    for path in FILES:
        name = str(path.relative_to(ROOT))
        if path.suffix == ".md":
            yield name, path.parent, path.read_text(encoding="utf-8")
        elif path.suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
            yield name, path.parent, "\n\n".join(texts)


PAGES = [pytest.param(folder, text, id=name) for name, folder, text in prose()]


# Versions and citation


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    version = psn_tutorial.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert project["project"]["dynamic"] == ["version"]  # it is written once, in the package
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "psn_tutorial.__version__"
    assert citation()["version"] == version
    headings = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == version


def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


# The part of the CFF 1.2.0 schema that this file uses: a key that is not listed is not allowed.
PERSON = {"family-names", "given-names", "orcid", "affiliation", "email", "website", "alias"}
ENTITY = {"name", "website", "email", "orcid", "alias"}
TOP = {
    "cff-version",
    "message",
    "title",
    "authors",
    "version",
    "type",
    "license",
    "abstract",
    "keywords",
    "references",
    "date-released",
    "repository-code",
    "url",
    "doi",
    "identifiers",
    "preferred-citation",
}
REFERENCE = {
    "type",
    "title",
    "authors",
    "year",
    "month",
    "url",
    "doi",
    "identifiers",
    "journal",
    "notes",
}
REFERENCE_TYPES = {"article", "book", "conference-paper", "generic", "report", "software", "thesis"}


def check_authors(authors) -> None:
    assert isinstance(authors, list) and authors
    for author in authors:
        assert author and (author.keys() <= PERSON or author.keys() <= ENTITY and author["name"])
        assert all(isinstance(value, str) and value for value in author.values())


def check_identifiers(identifiers) -> None:
    for identifier in identifiers:
        assert {"type", "value"} <= identifier.keys() <= {"type", "value", "description"}
        assert identifier["type"] in {"doi", "url", "swh", "other"}


def test_the_citation_is_valid_cff():
    cff = citation()
    assert {"cff-version", "message", "title", "authors"} <= cff.keys() <= TOP
    assert cff["cff-version"] == "1.2.0" and cff["type"] in {"software", "dataset"}
    assert all(isinstance(cff[key], str) and cff[key] for key in ("message", "title", "version"))
    assert all(isinstance(word, str) for word in cff["keywords"])
    assert len(set(cff["keywords"])) == len(cff["keywords"])
    check_authors(cff["authors"])
    check_identifiers(cff.get("identifiers", []))
    for reference in cff["references"]:
        assert {"type", "title", "authors"} <= reference.keys() <= REFERENCE
        assert reference["type"] in REFERENCE_TYPES
        assert 1 <= reference["month"] <= 12 and isinstance(reference["year"], int)
        check_authors(reference["authors"])
        check_identifiers(reference.get("identifiers", []))


def test_the_citation_names_the_paper_and_no_invented_given_names():
    (paper,) = citation()["references"]
    assert paper["authors"] == [{"family-names": name} for name in ("Bai", "Wang", "Ye", "Chen")]
    assert "arXiv:2602.02555" in [identifier["value"] for identifier in paper["identifiers"]]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation()["license"] == project["license"] == "Apache-2.0"
    license_text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in license_text and "END OF TERMS AND CONDITIONS" in license_text


# Requirements


def test_the_lock_file_pins_every_line_once_and_torch_first():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "torch==2.13.0"
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [line.split("==")[0] for line in lines]
    assert len(set(names)) == len(names)


def test_the_lock_file_fits_the_ranges():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = project["optional-dependencies"]
    assert extras.keys() >= {"notebooks", "qlora", "embeddings", "trl", "test", "dev"}
    for name, lines in {"": project["dependencies"], **extras}.items():
        for requirement in map(Requirement, lines):
            if name != "dev":
                assert requirement.specifier.contains(pins[requirement.name]), requirement
    ranges = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert all(version in ranges["torch"] for version in ("2.11.0", "2.12.1", "2.13.0"))
    assert "2.10.0" not in ranges["torch"] and "2.14.0" not in ranges["torch"]
    assert "5.17.0" in ranges["transformers"] and "6.0.0" not in ranges["transformers"]


def test_the_conda_environment_installs_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "psn-tutorial"
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert "--constraint requirements.lock" in pip
    assert any(line.startswith("--editable .") for line in pip)


# What the pages name


CODE_FILE = re.compile(r"\.(py|md|ipynb|ya?ml|toml|cfg|lock|cff)$")
PATH_WORD = re.compile(r"[\w.][\w.-]*(/[\w.-]+)*/?")


def named_paths(text: str) -> set[str]:
    """The words in backticks and code blocks that claim to be paths of this project."""
    words: set[str] = set()
    for block in re.findall(r"```.*?```", text, re.S):
        words |= {word.rstrip(",.;") for word in block.split()}
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)):
        words |= set(span.split())
    tops = {path.name for path in ROOT.iterdir()}
    return {
        word
        for word in words
        if PATH_WORD.fullmatch(word)
        and (CODE_FILE.search(word) or ("/" in word and word.split("/")[0] in tops))
        and word.split("/")[0] not in {"runs", ".venv"}  # the reader makes these
    }


def exists(word: str, folder: Path) -> bool:
    if (ROOT / word).exists() or (folder / word).exists():
        return True
    return "/" not in word and any(path.name == word for path in FILES)


@pytest.mark.parametrize(("folder", "text"), PAGES)
def test_every_named_path_exists(folder, text):
    missing = {word for word in named_paths(text) if not exists(word, folder)}
    assert not missing, f"named, but not there: {sorted(missing)}"


def anchors(text: str) -> set[str]:
    """What a link can name in a page: its headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("folder", "text"), PAGES)
def test_every_link_leads_somewhere(folder, text):
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|attachment:|mailto:", target):
            file, _, anchor = target.partition("#")
            assert not file or (folder / file).exists(), target
            if anchor and (not file or file.endswith(".md")):
                assert anchor in anchors((folder / file).read_text(encoding="utf-8") if file else text), target


@pytest.mark.parametrize(("folder", "text"), PAGES)
def test_every_named_target_of_make_exists(folder, text):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.S))
    named = re.findall(r"\bmake (?:[A-Z]+=\S+ )*([a-z]+)\b", code)
    assert set(named) <= targets


@pytest.mark.parametrize(("folder", "text"), PAGES)
def test_every_named_part_of_the_library_exists(folder, text):
    for dotted in set(re.findall(r"`(psn_tutorial(?:\.\w+)+)", text)):
        parts = dotted.split(".")
        found = psn_tutorial
        for depth, part in enumerate(parts[1:], 2):
            if not hasattr(found, part):
                importlib.import_module(".".join(parts[:depth]))
            found = getattr(found, part)


def test_the_named_commands_explain_themselves(capsys):
    from psn_tutorial.cli import COMMANDS, main

    named = set(re.findall(r"`psn-tutorial (\w+)", (ROOT / "README.md").read_text()))
    assert named == set(COMMANDS)
    for command in sorted(named):
        assert main([command, "--help"]) == 0
        assert f"psn-tutorial {command}" in capsys.readouterr().out


def test_the_layout_table_names_every_folder_of_the_top_level():
    readme = (ROOT / "README.md").read_text()
    folders = {path.relative_to(ROOT).parts[0] for path in FILES if path.parent != ROOT}
    for folder in folders - {".ci"}:
        assert f"[{folder}/]({folder})" in readme


@pytest.mark.parametrize(("folder", "text"), PAGES)
def test_every_named_module_can_be_run(folder, text):
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(("folder", "text"), PAGES)
def test_every_named_command_knows_its_options(folder, text, capsys):
    from psn_tutorial.cli import COMMANDS, main

    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.S)
    for name, options in re.findall(r"psn-tutorial (\w+)((?:[ =][^\s`]+)*)", "\n".join(code)):
        assert name in COMMANDS
        main([name, "--help"])
        known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
        assert set(re.findall(r"--[a-z][\w-]*", options)) <= known


def test_the_layout_table_names_every_module_and_package():
    from tests.architecture import files

    readme = (ROOT / "README.md").read_text()
    layout = readme[readme.index("## What stands where") : readme.index("## How results are recorded")]
    linked = re.findall(r"^\|.*", layout, re.M)
    linked = re.findall(r"\]\(psn_tutorial/(\w+)(?:\.py)?\)", "\n".join(linked))
    assert sorted(linked) == sorted(files())


# CONTRIBUTING.md


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def names_in_code() -> set[str]:
    """Every function, class, field and constant that the library and its tests define."""
    names = set()
    for path in [path for path in FILES if path.suffix == ".py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_name_that_contributing_gives_is_defined():
    named = set(re.findall(r"`(\w+)`", CONTRIBUTING))
    assert len(named) > 40 and named <= names_in_code()


def test_contributing_lists_what_a_task_must_have_and_may_have():
    from psn_tutorial.tasks import Task

    must, may = (
        set(re.findall(r"`([a-z_]+)`", re.search(rf"- It {word} have(.*?)\n- ", CONTRIBUTING, re.S)[1]))
        for word in ("must", "may")
    )
    public = {name for name in (*vars(Task), *Task.__annotations__) if not name.startswith("_")}
    assert must == Task.__abstractmethods__
    assert may == public - must - {"name"}


def test_the_picture_of_the_architecture_is_shown():
    for page in (CONTRIBUTING, (ROOT / "README.md").read_text()):
        assert "](architecture.svg)" in page


# What must not be in the project


MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:work|home|root|Users|opt|mnt|srv|media|private)/[\w.-]+")
WELL_KNOWN_HOSTS = {
    "arxiv.org",
    "colab.research.google.com",
    "doi.org",
    "example.org",
    "github.com",
    "huggingface.co",
    "keepachangelog.com",
    "localhost",
    "mybinder.org",
    "semver.org",
    "www.apache.org",
    "www.w3.org",
}
MADE_UP_PATHS = {"tests/runs/test_folder.py"}  # it tests that such paths are taken out of records


FOLDERS: dict[str, list[Path]] = {}  # a study has a thousand small records: its files are read in one test
for file in FILES:
    FOLDERS.setdefault("/".join(file.parent.relative_to(ROOT).parts[:4]), []).append(file)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_machine_path_and_no_foreign_host(folder):
    for path in FOLDERS[folder]:
        name, text = str(path.relative_to(ROOT)), text_of(path)
        if text is None:
            assert path.suffix in {".safetensors", ".png"}, f"{name}: a binary file of an unexpected kind"
            continue
        if name not in MADE_UP_PATHS:
            assert not MACHINE_PATHS.findall(text), name
        hosts = set(re.findall(r"\w+://(?:[^/\s@]+@)?([\w.-]+\w)", text))
        if name == "README.md":
            hosts.discard("download.pytorch.org")  # the reader's own choice of a CPU build
        assert hosts <= WELL_KNOWN_HOSTS, name


def test_only_the_readers_pip_chooses_where_packages_come_from():
    for name in (
        "Makefile",
        ".ci/run",
        "requirements.lock",
        "pyproject.toml",
        "environment.yml",
        ".pre-commit-config.yaml",
    ):
        text = (ROOT / name).read_text()
        assert not re.search(r"://|index-url|find-links|trusted-host", text), name


def test_no_pickled_file():
    forbidden = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".npy", ".npz", ".ckpt"}
    assert not [path for path in FILES if path.suffix in forbidden]


# Data


def data_files() -> dict[str, Path]:
    folder = ROOT / "data"
    inside = [path for path in FILES if path.is_relative_to(folder)]
    return {path.relative_to(folder).as_posix(): path for path in inside}


def test_every_data_file_is_in_the_manifest_with_its_sum_and_origin():
    files = data_files()
    manifest = json.loads(files.pop("MANIFEST.json").read_text())
    assert manifest.keys() == files.keys()
    for name, entry in manifest.items():
        content = files[name].read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest(), name
        assert isinstance(entry["made_by"], str) and entry["made_by"].strip(), name
        if name.endswith(".jsonl"):
            assert entry["rows"] == content.count(b"\n") == len(content.splitlines()), name
            assert all(json.loads(line) for line in content.splitlines()), name


def test_shipped_data_is_small():
    sizes = {name: path.stat().st_size for name, path in data_files().items()}
    models = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert models < 5_000_000
    assert sum(sizes.values()) < 20_000_000
