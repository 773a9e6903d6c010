"""A notebook is read in twenty minutes: its cells, its lines of code and its words are counted."""

from pathlib import Path

import nbformat
import pytest

from docs.badges import BADGES
from docs.badges import CELL as INSTALL

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELLS, CODE, WORDS = (25, 45), (0, 220), (700, 1500)  # from, to

# Notebooks that are still too large. A name is taken off once its notebook is within; none is added.
TOO_LARGE: set[str] = set()


def counted(book) -> dict[str, int]:
    """Cells; lines of code that are not blank; words of the text cells, formulas and tables with them. What
    docs/badges.py adds to a published notebook is not read."""
    cells = [cell for cell in book.cells if cell.get("id") != INSTALL]
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    text = [BADGES.sub("", cell.source) for cell in cells if cell.cell_type == "markdown"]
    lines = sum(bool(line.strip()) for source in code for line in source.splitlines())
    return {"cells": len(cells), "lines of code": lines, "words": sum(len(source.split()) for source in text)}


def faults(count: dict[str, int]) -> list[str]:
    """What is too small or too large, a sentence each."""
    return [
        f"{name} must be {low} to {high}, got {count[name]}"
        for name, (low, high) in zip(count, (CELLS, CODE, WORDS), strict=True)
        if not low <= count[name] <= high
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_can_be_read_in_twenty_minutes(path):
    wrong = faults(counted(nbformat.read(path, as_version=4)))
    if path.stem in TOO_LARGE:
        assert wrong, f"{path.stem} is within: take it off the list TOO_LARGE"
    else:
        assert not wrong, "; ".join(wrong)


def test_the_list_names_notebooks_that_are_here():
    assert {path.stem for path in NOTEBOOKS} >= TOO_LARGE


def test_what_is_counted():
    cells = [
        nbformat.v4.new_markdown_cell("# A title\n\nfour words $x = 1$"),
        nbformat.v4.new_code_cell("x = 1\n\n\ny = 2\n    \n# a comment counts"),
    ]
    count = counted(nbformat.v4.new_notebook(cells=cells))
    assert count == {"cells": 2, "lines of code": 3, "words": 8}
    assert faults(count) == ["cells must be 25 to 45, got 2", "words must be 700 to 1500, got 8"]
    assert faults({"cells": 45, "lines of code": 220, "words": 1500}) == []
    assert faults({"cells": 46, "lines of code": 221, "words": 1501}) == [
        "cells must be 25 to 45, got 46",
        "lines of code must be 0 to 220, got 221",
        "words must be 700 to 1500, got 1501",
    ]
