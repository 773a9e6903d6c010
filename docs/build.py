"""The documentation site: ``make docs`` writes build/site/html/index.html.

    python docs/build.py [FOLDER]

The pages of docs/ and of the top level, the notebooks with their stored outputs, and the docstrings. No notebook is
executed, nothing is fetched, and a warning of Sphinx is an error. The sources are first laid out in FOLDER/source,
where links to files of the repository become links to pages of the site.
"""

import ast
import importlib.resources
import json
import re
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import main as sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))  # this tree, whatever is installed

from docs.badges import unmarked  # noqa: E402
from psn_tutorial.teaching.paper import INDEX  # noqa: E402

TOP = ("README.md", "LOG.md", "CHANGELOG.md", "CONTRIBUTING.md")
# Code, which stays as it is, or a link or picture whose text may hold code.
CODE_OR_LINK = re.compile(r"```.*?```|(!?)\[((?:`[^`]*`|[^\[\]`])*)\]\(([^)\s]+)\)|`[^`\n]+`", re.S)
WIDGET = "application/vnd.jupyter.widget-view+json"


def pages() -> dict[Path, str]:
    """{file of the repository: its path in the site's sources}."""
    found = {path: path.name for path in sorted(DOCS.glob("*.md"))}
    found |= {ROOT / name: name for name in TOP}
    return found | {path: f"notebooks/{path.name}" for path in sorted(ROOT.glob("notebooks/*.ipynb"))}


def linked(text: str, page: Path, source: Path) -> str:
    """The Markdown of ``page`` with its links to files of the repository led to the pages of the site.

    A module or package leads to its docstrings, "module.py#name" to that of the name, a test of the index to its code.
    Pictures are copied. What the site does not have, such as a folder of records, keeps its words without a link.
    """
    up = "../" * (pages()[page].count("/"))

    def lead(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if words is None or re.match(r"\w+:|#", target):
            return match[0]
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve()
        inside = file.relative_to(ROOT)
        if picture:
            (source / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, source / inside)
            return f"![{words}]({up}{inside.as_posix()})"
        if file in pages():
            return f"[{words}]({up}{pages()[file]}{'#' * bool(anchor)}{anchor})"
        if inside.parts[0] == "psn_tutorial":
            kind, dotted = "obj" if anchor else "mod", ".".join(inside.with_suffix("").parts)
            return f"{{py:{kind}}}`{words.replace('`', '')} <{'.'.join(filter(None, [dotted, anchor]))}>`"
        if inside.parts[0] == "tests" and anchor:
            return f"[{words}]({up}checks.md#{anchor})"
        return words

    return CODE_OR_LINK.sub(lead, text)


def notebook(path: Path, source: Path) -> str:
    """The notebook as the site shows it: numbered, solutions folded away, and of a slider what needs no kernel."""
    book = json.loads(path.read_text(encoding="utf-8"))
    book["metadata"].pop("widgets", None)
    book["cells"] = unmarked(book["cells"])
    if number := re.match(r"\d+", path.name):
        first = book["cells"][0]
        first["source"] = re.sub(r"^# ", f"# {number[0]}. ", "".join(first["source"]))
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = linked("".join(cell["source"]), path, source)
            continue
        if "solution" in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append("hide-cell")
        for shown in [output["data"] for output in cell.get("outputs", []) if "data" in output]:
            shown.pop(WIDGET, None)
            if "text/markdown" in shown:
                shown["text/markdown"] = linked("".join(shown["text/markdown"]), path, source)
    return json.dumps(book)


def checks() -> str:
    """A page with the code of every test that the index of paper and code names."""
    text = ["# The tests behind the index\n\nEvery step, identity and answer is held by one of these.\n"]
    for file in dict.fromkeys(entry.test.partition("::")[0] for entry in INDEX):
        code = (ROOT / "tests" / file).read_text(encoding="utf-8")
        wanted = {entry.test.partition("::")[2] for entry in INDEX if entry.test.startswith(f"{file}::")}
        text.append(f"## tests/{file}\n")
        for node in ast.parse(code).body:
            if getattr(node, "name", None) in wanted:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                lines = code.splitlines()[first - 1 : node.end_lineno]
                text.append(f"### `{node.name}`\n\n```python\n" + "\n".join(lines) + "\n```\n")
    return "\n".join(text)


def reference() -> dict[str, str]:
    """A page for each module, and one that lists them: {path in the sources: text}."""
    rows, texts = [], {}
    for file in sorted((ROOT / "psn_tutorial").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        summary = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        rows.append(f"   * - :py:mod:`{module}`\n     - {summary}")
        texts[f"reference/{module}.rst"] = f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n"
    title = "Reference\n=========\n\nEvery module with its public functions and classes, from their docstrings.\n"
    table = "\n.. list-table::\n\n" + "\n".join(rows)
    tree = "\n\n.. toctree::\n   :hidden:\n   :glob:\n\n   *\n"
    return texts | {"reference/index.rst": title + table + tree}


def lay_out(source: Path) -> None:
    """Write the sources of the site into ``source``."""
    texts = {"checks.md": checks(), **reference()}
    for path, name in pages().items():
        text = path.read_text(encoding="utf-8")
        texts[name] = notebook(path, source) if path.suffix == ".ipynb" else linked(text, path, source)
    for name, text in texts.items():
        file = source / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def copy_mathjax(static: Path) -> None:
    """MathJax with its fonts, from the package django-static-mathjax, which holds nothing else."""
    files = importlib.resources.files("mathjax") / "static" / "mathjax" / "es5"
    with importlib.resources.as_file(files) as es5:
        fonts = Path("output", "chtml", "fonts", "woff-v2")
        shutil.copytree(es5 / fonts, static / "mathjax" / fonts, dirs_exist_ok=True)
        shutil.copy(es5 / "tex-chtml-full.js", static / "mathjax")


def main(folder: Path = ROOT / "build" / "site") -> int:
    """Build the site in ``folder``/html; returns the exit code of Sphinx."""
    source, html, kept = folder / "source", folder / "html", folder / "doctrees"
    for old in (source, html, kept):
        shutil.rmtree(old, ignore_errors=True)
    lay_out(source)
    copy_mathjax(html / "_static")
    strict = ["-q", "--fail-on-warning", "--jobs", "auto"]
    code = sphinx([*strict, "--conf-dir", str(DOCS), "--doctree-dir", str(kept), str(source), str(html)])
    if code == 0:
        print(f"the documentation: {html / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
