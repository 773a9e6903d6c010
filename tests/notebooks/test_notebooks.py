"""The rules of the house for notebooks, as tests; nbval runs the notebooks themselves."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from psn_tutorial.reporting.plotting.legends import legend_faults

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CARD = ("learn", "need", "Time", "Memory", "GPU", "paper")
UNCOMPARED = "nbval-ignore-output"  # nbval passes over any other spelling in silence
TAGS = {UNCOMPARED, "build-it-yourself", "solution"}


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


def tags(cell):
    return set(cell.metadata.get("tags", []))


def checks(tree):
    """Assertions, and claims given to ``confirm``."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Assert) or called(node) == "confirm"]


def called(node):
    """The name of the function that is called, "" for what is no call."""
    return getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""


def library_names():
    """Every public function and class of the library, wherever it stands."""
    for path in (ROOT / "psn_tutorial").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield node.name


def decimals(text):
    """The decimals of running text: not those of formulas, code, tables (the card), links and arXiv numbers."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|^\|.*$|\]\([^)]*\)|arXiv\s*[\d.]+", " ", text, flags=re.S | re.M)
    return re.findall(r"(?<![\w.])\d*\.\d+(?!\.?\w)", text)


def shown_in(number, text):
    """Is the number printed in the text, as it stands (0.5, .5 and 0.50 are one), and not as part of a longer one?"""
    digits = number.lstrip("0")
    return re.search(rf"(?<![\d.])0?{re.escape(digits)}0*(?!\d)", text) is not None


def can_fail(check):
    """Not a constant, not a tuple (which is true), its message a text, and about something that was computed."""
    claim, test = check.args if isinstance(check, ast.Call) else (check.msg, check.test)
    text = isinstance(claim, ast.JoinedStr) or isinstance(claim, ast.Constant) and isinstance(claim.value, str)
    if claim is not None and not text:
        return False  # "assert a, b" checks a alone
    if isinstance(test, ast.Constant | ast.Tuple):
        return False
    return any(isinstance(node, ast.Name | ast.Call) for node in ast.walk(test))


def test_the_notebooks_are_here_in_reading_order():
    assert {path.stem[:2] for path in NOTEBOOKS} >= {"00", "01", "02", "03", "04", "05", "06", "07", "08", "10"}


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
    found = [check for tree in trees(book) for check in checks(tree)]
    assert len(found) >= 4 and all(map(can_fail, found))


def test_checks_that_cannot_fail_are_noticed():
    texts = ("True", "a, b", "(a, b)", "1 < 2", "a == b", "a < b, 'why'")
    found = [ast.parse(f"assert {text}").body[0] for text in texts]
    assert [can_fail(check) for check in found] == [False] * 4 + [True] * 2
    claims = ("'why', True", "why, a == b", "'why', (a, b)", "'why', a == b", "f'{why}', a < b")
    found = [check for text in claims for check in checks(ast.parse(f"confirm({text})"))]
    assert [can_fail(check) for check in found] == [False] * 3 + [True] * 2


def test_its_tags_are_known(notebook):
    _, book = notebook
    for cell in book.cells:
        assert tags(cell) <= TAGS, cell.source


def test_what_is_not_compared_is_checked(notebook):
    """A cell whose output nbval passes over asserts something, or the cell after it does."""
    _, book = notebook
    cells, parsed = code_cells(book), trees(book)
    for i, cell in enumerate(cells):
        if UNCOMPARED in tags(cell):
            assert any(checks(tree) for tree in parsed[i : i + 2]), cell.source


def bare_formats(tree):
    """Formats that print a measured number as if it were a count (.0f, .0%, .3g), or with one digit (.0e)."""
    specs = [n.format_spec for n in ast.walk(tree) if isinstance(n, ast.FormattedValue) and n.format_spec]
    specs = ["".join(part.value for part in spec.values if isinstance(part, ast.Constant)) for spec in specs]
    found = [spec for spec in specs if re.search(r"\.0[fe%]$|\.1g$", spec) or re.search(r"^[^#]*\.\d+g$", spec)]
    for call in [n for n in ast.walk(tree) if isinstance(n, ast.Call)]:
        name = called(call)
        options = [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords]
        found += ["digits=1"] if name in ("digest", "show") and "digits=1" in options else []
        found += ["round(x)"] if isinstance(call.func, ast.Name) and name == "round" and len(call.args) == 1 else []
    return found


def test_a_measured_number_shows_a_point_and_two_digits(notebook):
    """What shows no point is compared as a count (outputs.py), and 577.6 is a count on one machine and not on the next.

    Two digits, because one unit in the last of them is allowed.
    """
    _, book = notebook
    for cell, tree in zip(code_cells(book), trees(book), strict=True):
        assert UNCOMPARED in tags(cell) or not bare_formats(tree), (bare_formats(tree), cell.source)


def test_formats_without_a_point_are_noticed():
    bad = ("f'{x:.0f}'", "f'{x:>8.0%}'", "f'{x:.0e}'", "f'{x:#.1g}'", "f'{x:8.3g}'", "digest(x, digits=1)", "round(x)")
    good = ("f'{x:.1f}'", "f'{x:+.2%}'", "f'{x:.1e}'", "f'{x:#.2g}'", "f'{x:,}'", "digest(x, digits=2)", "round(x, 2)")
    assert [len(bare_formats(ast.parse(text))) for text in bad + good] == [1] * len(bad) + [0] * len(good)


def test_nothing_of_the_library_is_defined_again(notebook):
    """Except where the notebook builds it, to show that it is the same."""
    _, book = notebook
    public = set(library_names())
    for cell, tree in zip(code_cells(book), trees(book), strict=True):
        if "build-it-yourself" in tags(cell):
            assert checks(tree), cell.source
            continue
        methods = {f for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for f in n.body}
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        defined = {n.name for n in nodes if n not in methods}
        named = (n for n in ast.walk(tree) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Lambda))
        defined |= {target.id for n in named for target in n.targets if isinstance(target, ast.Name)}
        assert not defined & public


# Notebooks with figures that ``show`` of psn_tutorial.teaching.cells did not show: a digest is printed beside these,
# and their colours are not tested. A name is taken off with the last such figure of its notebook; none is added.
FIGURES_BY_HAND: set[str] = set()


def figures(book):
    """(cell, output) of every picture."""
    for cell in code_cells(book):
        yield from ((cell, output) for output in cell.outputs if "image/png" in output.get("data", {}))


def test_every_figure_has_its_numbers_printed(notebook):
    """Pictures are not compared; the text below them is, and ``show`` writes it."""
    path, book = notebook
    by_hand = [cell for cell, output in figures(book) if "legend" not in output.metadata]
    assert bool(by_hand) is (path.stem in FIGURES_BY_HAND), "show figures with show, and take the name off the list"
    for cell in by_hand:
        assert "digest(" in cell.source, cell.source
        assert any(output.get("name") == "stdout" and output.text.strip() for output in cell.outputs)


def test_every_arm_has_its_own_colour_in_every_legend(notebook):
    _, book = notebook
    for cell, output in figures(book):
        faults = list(legend_faults(output.metadata.get("legend", {})))
        assert not faults, (faults, cell.source)


def test_a_text_cell_says_something(notebook):
    """A heading, a formula, a table, or a sentence that ends: no placeholder that a draft has left."""
    _, book = notebook
    for text in prose(book):
        assert re.search(r"^#|[.:?!]\)?\s*$|\$\$|\|$", text, re.MULTILINE), text


def test_links_and_named_files_exist(notebook):
    path, book = notebook
    endings = "py|ipynb|json|jsonl|md|toml|cfg|safetensors|html"
    for text in prose(book):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), target
        for named in re.findall(rf"`([\w./-]+\.(?:{endings}))`", text):
            beside = not named.startswith("/") and "/" not in named and any((ROOT / "psn_tutorial").rglob(named))
            assert (ROOT / named).exists() or (path.parent / named).exists() or beside, named


def test_paths_in_the_code_are_relative_and_exist(notebook):
    path, book = notebook
    for tree in trees(book):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"[/~][\w.-]*/|[A-Z]:\\", node.value), node.value
                if node.value.startswith("../"):
                    assert (path.parent / node.value).exists(), node.value


def test_decimals_in_prose_stand_in_an_output_or_in_a_record(notebook):
    """A figure in running text is one that a cell prints, or one of a comparison's summary.json."""
    _, book = notebook
    records = "".join(p.read_text() for p in sorted((ROOT / "data" / "runs").glob("*/summary.json")))
    known = printed(book) + records
    for text in prose(book):
        for number in decimals(text):
            assert shown_in(number, known), number


def test_decimals_are_found_and_compared_whole():
    prose = "From .137 to 0.18, not $0.5$, `0.7` or [this](x/2.5), in arXiv 2602.02555 (v1.2.3).\n| 3.5 |"
    assert decimals(prose) == [".137", "0.18"]
    assert (
        shown_in("0.18", "is .18 [.1, .2]")
        and shown_in("0.4", "0.40")
        and shown_in(".18", "0.18,")
        and shown_in("1.8", "(1.8)")
    )
    assert not shown_in("0.18", "1.18 .181 0.185") and not shown_in("1.8", "11.8 1.85 .8")


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
    assert '"stderr"' not in text, "a warning; it may name a place, and it is not the reader's"
