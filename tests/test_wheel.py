"""The wheel: what it carries, and that it works where no clone is."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "psn_tutorial", "data", "notebooks")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def called(*words, **more):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=900, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no earlier build can lend a file."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in SOURCES:
        path = ROOT / name
        shutil.copytree(path, tree / name, ignore=unwanted) if path.is_dir() else shutil.copy(path, tree / name)
    called(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, tree)
    (found,) = out.glob("*.whl")
    return found


def files_below(folder):
    found = [path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name for name in found if "__pycache__" not in name and "/." not in name}


def test_it_carries_the_package_the_data_and_the_notebooks_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = {f"psn_tutorial/shipped/{name}" for name in files_below(ROOT / "data") | files_below(ROOT / "notebooks")}
    assert shipped <= names and len(shipped) > 100
    assert names - shipped == files_below(ROOT / "psn_tutorial")


def test_it_is_small(wheel):
    assert wheel.stat().st_size < 20_000_000


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of a new environment: the wheel, and the libraries of this one."""
    home = tmp_path_factory.mktemp("environment")
    called(sys.executable, "-m", "venv", "--without-pip", home)
    found = next(path for path in (home / "bin" / "python", home / "Scripts" / "python.exe") if path.exists())
    called(*PIP, "--python", found, "install", "--no-deps", "--no-index", wheel)
    site = called(found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    libraries = [path for path in sys.path if path.endswith("-packages")]
    Path(site, "libraries.pth").write_text("\n".join(libraries))
    return found


USE = """
import psn_tutorial
from psn_tutorial import base_folder, get_task, load_policy, load_split, read_comparison
from psn_tutorial.models.bases import BASES
from psn_tutorial.tasks.files import DATA
print(psn_tutorial.__file__)
assert all(load_policy(base_folder(name)) for name in BASES)
assert len(load_split("countdown", "eval")) and len(load_split("rules", "train"))
assert read_comparison(DATA / "runs" / "full").results
"""


def test_it_finds_its_models_problems_and_records_outside_of_a_clone(python, tmp_path):
    where = called(python, "-c", USE, cwd=tmp_path, env=outside()).strip()
    assert not Path(where).is_relative_to(ROOT) and Path(where).is_relative_to(python.parents[1])


def test_its_command_lays_out_notebooks_and_trains(python, tmp_path):
    command = [python.parent / "psn-tutorial"]
    assert "notebooks in mine" in called(*command, "notebooks", "mine", cwd=tmp_path, env=outside())
    notebooks = sorted(path.name for path in (tmp_path / "mine" / "notebooks").iterdir())
    assert notebooks == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    settings = ["--task", "rules", "--steps", "1", "--prompts", "2", "--group", "2", "--no-evaluate"]
    called(*command, "train", *settings, "--out", "run", cwd=tmp_path, env=outside())
    assert (tmp_path / "run" / "steps.jsonl").read_text().count("\n") == 1


def outside():
    """The environment without what leads to this tree."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
