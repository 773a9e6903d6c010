"""Badges lead to notebooks that exist, and the cell beside them installs only where the package is missing."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from docs import build
from docs.badges import BADGES, CELL, EXTRAS, NOTEBOOKS, install, main
from tests.notebooks.test_size import counted

ROOT = NOTEBOOKS.parent


@pytest.fixture
def marked(tmp_path) -> list[Path]:
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copyfile(path, tmp_path / path.name)
    main(["someone/psn", "--branch", "v1.0"], tmp_path)
    return sorted(tmp_path.glob("*.ipynb"))


def shown(cell) -> list[dict]:
    """The outputs of a cell without the number of their run."""
    return [{key: value for key, value in out.items() if key != "execution_count"} for out in cell.get("outputs", [])]


def test_each_badge_names_its_own_notebook_which_exists(marked):
    for path in marked:
        card = nbformat.read(path, as_version=4).cells[0].source
        targets = re.findall(r"\]\((https://[^)]*/)(notebooks/[^)]*)\)", card.split("\n\n")[1])
        assert [target for _, target in targets] == [f"notebooks/{path.name}"] * 2
        assert (ROOT / targets[0][1]).is_file()
        assert all("someone/psn/" in place and "v1.0" in place for place, _ in targets)


def plain(book) -> list[tuple[str, list]]:
    """What a reader reads of each cell, badges and the cell that installs apart."""
    cells = [cell for cell in book.cells if cell.id != CELL]
    return [(BADGES.sub("", cell.source), shown(cell)) for cell in cells]


def test_everything_else_stays_and_a_second_address_replaces_the_first(marked):
    main(["other/name"], marked[0].parent)
    for path in marked:
        book, before = nbformat.read(path, as_version=4), nbformat.read(NOTEBOOKS / path.name, as_version=4)
        nbformat.validate(book)
        assert plain(book) == plain(before)
        assert [cell.id for cell in book.cells].count(CELL) == 1 and book.cells[1].id == CELL
        assert "someone" not in path.read_text() and "other/name" in book.cells[1].source
        assert counted(book) == counted(before)


def test_the_documentation_shows_neither_badges_nor_the_cell(marked, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "linked", lambda text, page, source: text)
    for path in marked:
        now, before = (build.notebook(page, tmp_path) for page in (path, NOTEBOOKS / path.name))
        assert re.sub(r'"execution_count": \d+', "", now) == re.sub(r'"execution_count": \d+', "", before)


def test_the_cell_brings_what_is_missing_and_nothing_else(monkeypatch, tmp_path):
    called, source, find_spec = [], install("someone/psn", "main"), importlib.util.find_spec

    def run(words, check):
        assert check, "a command that fails must stop the cell"
        called.append(words)
        if words[0] == "git":
            (tmp_path / words[-1] / "notebooks").mkdir(parents=True)
            (tmp_path / words[-1] / "data" / "runs").mkdir(parents=True)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(NOTEBOOKS)
    exec(source, {})
    assert not called and Path.cwd() == NOTEBOOKS
    monkeypatch.chdir(tmp_path)  # as Colab begins
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(source, {})
    clone, pip = called
    assert clone[-2] == "https://github.com/someone/psn" and "main" in clone
    assert pip == [sys.executable, "-m", "pip", "install", "--quiet", f"..[{EXTRAS}]"]
    assert Path.cwd() == tmp_path / clone[-1] / "notebooks"
    monkeypatch.chdir(tmp_path)  # the kernel is restarted: the package is there, and the folder is found again
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    exec(source, {})
    assert len(called) == 2 and Path.cwd() == tmp_path / clone[-1] / "notebooks"


def test_the_extras_it_asks_for_exist():
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS.split(",")) <= known.keys()


@pytest.mark.parametrize("words", [["nobody"], ["a b/c"], ["a/b/c"], ["a/b", "--branch", "x y"]])
def test_an_address_that_is_none_gets_a_sentence(words, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(words, tmp_path)
    assert "must be made of letters" in capsys.readouterr().err
