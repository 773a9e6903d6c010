"""The rules of the house for notebooks, as tests."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

import psn_tutorial

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CARD = ("learn", "need", "Time", "Memory", "GPU", "paper")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param, nbformat.read(request.param, as_version=4)


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def prose(book):
    return [cell.source for cell in book.cells if cell.cell_type == "markdown"]


def trees(book):
    return [ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.M)) for cell in code_cells(book)]


def printed(book):
    """Everything the cells show as text."""
    parts = []
    for cell in code_cells(book):
        for output in cell.outputs:
            parts.append(output.get("text", ""))
            parts.append(output.get("data", {}).get("text/plain", ""))
    return "\n".join(map("".join, parts))


def can_fail(check):
    """Not a constant, not a tuple (which is true), its message a text, and about something that was computed."""
    test = check.test
    if (
        check.msg is not None
        and not isinstance(check.msg, ast.JoinedStr)
        and not (isinstance(check.msg, ast.Constant) and isinstance(check.msg.value, str))
    ):
        return False  # "assert a, b" checks a alone
    if isinstance(test, ast.Constant | ast.Tuple):
        return False
    return any(isinstance(node, ast.Name | ast.Call) for node in ast.walk(test))


def test_the_notebooks_of_the_start_are_here():
    assert {"00_start_here", "07_psn_grpo_end_to_end"} <= {path.stem for path in NOTEBOOKS}


def test_it_is_valid_and_runs_on_python3(notebook):
    _, book = notebook
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"


def test_the_opening_card_says_what_a_reader_must_know(notebook):
    _, book = notebook
    opening = "\n".join(prose(book)[:2])
    assert book.cells[0].cell_type == "markdown" and opening.startswith("# ")
    for field in CARD:
        assert re.search(rf"\*\*[^*]*{field}[^*]*\*\*", opening), field
    assert re.search(r"\*\*Time\*\*.*\d+ (minutes|seconds)", opening)
    assert re.search(r"\*\*Memory\*\*.*\d+(\.\d+)? [GM]B", opening)


def test_it_closes_with_where_to_go_next(notebook):
    _, book = notebook
    assert book.cells[-1].cell_type == "markdown" and "next" in book.cells[-1].source.lower()


def test_cells_are_short(notebook):
    _, book = notebook
    assert max(len(cell.source.splitlines()) for cell in code_cells(book)) <= 25


def test_every_cell_was_executed_in_order_without_an_error(notebook):
    _, book = notebook
    counts = [cell.execution_count for cell in code_cells(book)]
    assert counts == list(range(1, len(counts) + 1))
    assert not [o for cell in code_cells(book) for o in cell.outputs if o.output_type == "error"]


def test_it_checks_itself(notebook):
    _, book = notebook
    checks = [node for tree in trees(book) for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert len(checks) >= 4 and all(map(can_fail, checks))


def test_checks_that_cannot_fail_are_noticed():
    checks = [
        ast.parse(f"assert {text}").body[0] for text in ("True", "a, b", "(a, b)", "1 < 2", "a == b", "a < b, 'why'")
    ]
    assert [can_fail(check) for check in checks] == [False] * 4 + [True] * 2


def test_nothing_of_the_library_is_defined_again(notebook):
    _, book = notebook
    public = set(psn_tutorial.__all__)
    for cell, tree in zip(code_cells(book), trees(book), strict=True):
        if "build-it-yourself" in cell.metadata.get("tags", []):
            continue
        defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert not defined & public


def test_every_figure_has_its_numbers_printed(notebook):
    _, book = notebook
    for cell in code_cells(book):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert "digest(" in cell.source, cell.source.splitlines()[0]


def test_links_and_named_files_exist(notebook):
    path, book = notebook
    for text in prose(book):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), target
        for named in re.findall(r"`([\w./-]+\.(?:py|ipynb|json|jsonl|md|toml))`", text):
            assert (ROOT / named).exists() or list(ROOT.glob(f"*/{named}")) or list(ROOT.glob(f"*/*/{named}")), named


def test_decimals_in_prose_stand_in_an_output_or_in_a_record(notebook):
    """Decimals of the running text: not of formulas, code, tables (the card) or version numbers."""
    _, book = notebook
    records = "".join(p.read_text() for p in sorted((ROOT / "data" / "runs").glob("*/summary.json")))
    known = printed(book) + records + "\n".join(cell.source for cell in code_cells(book))
    for text in prose(book):
        text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|^\|.*$|\]\([^)]*\)", " ", text, flags=re.S | re.M)
        for number in re.findall(r"(?<![\w.])\d*\.\d+(?![\w.]*\d)", text):
            if not re.search(rf"arXiv\s*{re.escape(number)}", text):
                assert number.lstrip("0") in known, number


def test_small_sizes_are_parameters_and_not_branches(notebook):
    _, book = notebook
    for tree in trees(book):
        for node in ast.walk(tree):
            if isinstance(node, ast.If):
                assert not re.search(r"\b(TEST|CI|FAST)\b", ast.unparse(node.test))


def test_outputs_name_no_place_of_a_machine(notebook):
    path, book = notebook
    text = json.dumps([cell.outputs for cell in code_cells(book)])
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", text)
