"""The index of paper and code is complete in both directions."""

import ast
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

import psn_tutorial
from psn_tutorial.teaching.paper import COLUMNS, DIVERGENCES, INDEX, QUESTIONS, ROOT, table

# Modules of the method, by their names inside psn_tutorial; a package stands for all of its modules.
MODULES = (
    "noise",
    "importance",
    "advantages",
    "losses",
    "schedulers",
    "signals",
    "evaluation.estimators",
    "evaluation.metrics",
    "evaluation.frontier",
)
# Public too, but not of the method: what these functions are built from, or what holds their results.
PLUMBING = {
    "noise": {"Tally", "on_head_alone", "other_forwards", "select", "share_rows"},
    "schedulers": {"Scheduler", "ScheduleConfig", "make_scheduler"},
    "signals": {"mean_certainty"},
    "evaluation.estimators": {"zero_contrast"},
    "evaluation.metrics": {"Metric", "Summary", "in_words", "parse_metric", "per_problem"},
    "evaluation.frontier": {"FrontierGap", "frontier_gaps"},
}

entries = pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry.test.partition("::")[2])


def public(module):
    """The functions and classes that a module or package defines for others."""
    path = ROOT / "psn_tutorial" / Path(*module.split("."))
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    defined = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    return {n.name for n in defined if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")}


def within(name, module):
    """Is ``name`` the module itself, or a module of the package?"""
    return f"{name}.".startswith(f"{module}.")


def explanations(entry):
    """The cells of the entry's notebook, or the pages of docs/ without their tables."""
    if entry.notebook:
        assert entry.notebook_file, f"there is no notebook {entry.notebook}"
        return [cell.source for cell in nbformat.read(ROOT / entry.notebook_file, as_version=4).cells]
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    return [re.sub(r"^\|.*$", "", page, flags=re.M) for page in pages]


@entries
def test_its_function_is_there_and_documented(entry):
    assert callable(entry.load()) and len(entry.load().__doc__) > 30
    assert (ROOT / entry.file).is_file()


@entries
def test_its_test_is_there(entry):
    file, _, name = entry.test.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@entries
def test_a_cell_of_its_notebook_or_a_page_names_the_function(entry):
    assert any(re.search(rf"\b{entry.name}\b", text) for text in explanations(entry))


@pytest.mark.parametrize("module", MODULES)
def test_what_the_library_offers_of_the_method_is_in_the_index(module):
    indexed = {entry.name for entry in INDEX if within(entry.module, module)}
    exported = {name for home, names in psn_tutorial._HOME.items() if within(home, module) for name in names}
    offered = public(module) - PLUMBING.get(module, set())
    assert exported <= offered, "an exported name is no plumbing"
    assert offered == indexed
    assert PLUMBING.get(module, set()) <= public(module)


def test_no_entry_stands_twice():
    assert max(Counter((entry.what, entry.test) for entry in INDEX).values()) == 1


def test_the_released_code_is_told_where_it_differs():
    assert all(entry.released for entry in DIVERGENCES)
    assert not any(entry.released for entry in INDEX if entry not in DIVERGENCES)


def test_every_question_names_its_thread():
    link = r"\[[\w.-]+ \d+\]\(https://github.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)"
    assert all(re.fullmatch(f"{link}(, {link})*", entry.source) for entry in QUESTIONS)


@pytest.mark.parametrize("columns", [COLUMNS, ("released", "what", "function")])
def test_the_table_has_a_row_for_every_entry_and_its_links_lead_somewhere(columns):
    rows = table(INDEX, columns).splitlines()
    assert len(rows) == len(INDEX) + 2
    assert {row.count("|") for row in rows} == {len(columns) + 2}
    targets = re.findall(r"\]\((\.\.[^)]+)\)", "\n".join(rows))
    taught = [entry for entry in INDEX if entry.notebook]
    linked = {"function": len(INDEX), "test": len(INDEX), "notebook": len(taught)}
    assert len(targets) == sum(linked.get(column, 0) for column in columns)
    assert all((ROOT / "docs" / target.partition("#")[0]).is_file() for target in targets)
