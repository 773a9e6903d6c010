"""psn-tutorial notebooks: the notebooks with what they read, in a folder of the reader's."""

import json
import re
import shutil

import nbformat
import pytest

from psn_tutorial import RunRecord
from psn_tutorial.cli import main
from psn_tutorial.cli.notebooks import lay_out
from psn_tutorial.errors import UserError
from psn_tutorial.tasks.files import SHIPPED

NOTEBOOKS = sorted(path.name for path in (SHIPPED / "notebooks").glob("*.ipynb"))


@pytest.fixture
def shipped(tmp_path):
    """Two small notebooks and a record."""
    folder = tmp_path / "shipped"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "data" / "runs").mkdir(parents=True)
    (folder / "data" / "runs" / "record.json").write_text("{}")
    text = "[a](b.ipynb#part) [`code`](../psn_tutorial/noise.py) `[x](y)` ![p](../p.svg) [w](https://example.org)"
    text += " [d](../data)"
    for name in ("a.ipynb", "b.ipynb"):
        book = nbformat.v4.new_notebook()
        book.cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("[x](gone.py)")]
        nbformat.write(book, folder / "notebooks" / name)
    return folder


def test_all_notebooks_and_all_data_are_laid_out(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert main(["notebooks", str(folder)]) == 0
    assert f"{len(NOTEBOOKS)} notebooks in {folder / 'notebooks'}" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "notebooks").iterdir()) == NOTEBOOKS
    for name in NOTEBOOKS:
        ours = nbformat.read(SHIPPED / "notebooks" / name, as_version=4)
        theirs = nbformat.read(folder / "notebooks" / name, as_version=4)
        nbformat.validate(theirs)
        for one, other in zip(ours.cells, theirs.cells, strict=True):
            assert one.cell_type == other.cell_type == "markdown" or one == other
    files = [path for path in (SHIPPED / "data").rglob("*") if path.is_file()]
    assert all((folder / path.relative_to(SHIPPED)).read_bytes() == path.read_bytes() for path in files)


def test_what_the_notebooks_read_is_where_they_look_for_it(tmp_path):
    lay_out(tmp_path / "folder")
    folder = tmp_path / "folder" / "notebooks"
    named = {
        word
        for name in NOTEBOOKS
        for cell in nbformat.read(folder / name, as_version=4).cells
        for word in re.findall(r"[\"'(](\.\./[\w./-]+)", cell.source)
    }
    assert "../data/runs/full" in named and all((folder / word).exists() for word in named)
    assert RunRecord.read(folder / "../data/runs/full/rules/psn/seed-0").steps


def test_links_that_lead_nowhere_become_words(tmp_path, shipped):
    assert lay_out(tmp_path / "folder", shipped) == 2
    book = json.loads((tmp_path / "folder" / "notebooks" / "a.ipynb").read_text())
    texts = ["".join(cell["source"]) for cell in book["cells"]]
    assert texts == ["[a](b.ipynb#part) `code` `[x](y)` p [w](https://example.org) [d](../data)", "[x](gone.py)"]


def test_an_empty_folder_will_do(tmp_path, shipped):
    (tmp_path / "empty").mkdir()
    assert lay_out(tmp_path / "empty", shipped) == 2


def test_nothing_that_is_there_is_touched(tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    assert main(["notebooks", str(mine)]) == 2
    assert "FOLDER must be new or an empty folder" in capsys.readouterr().err
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    assert main(["notebooks", str(mine / "notes.txt")]) == 2
    assert "which is a file" in capsys.readouterr().err
    assert (mine / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_told(tmp_path, shipped, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert main(["notebooks", str(tmp_path / "file" / "below")]) == 2
    assert re.search(r"FOLDER cannot be written, got .*below: Not a directory", capsys.readouterr().err)

    def refuse(*args, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(UserError, match="FOLDER cannot be written"):
        lay_out(tmp_path / "folder", shipped)


def test_an_installation_without_notebooks_says_so(tmp_path):
    with pytest.raises(UserError, match="there are no notebooks in"):
        lay_out(tmp_path / "folder", tmp_path)


@pytest.mark.parametrize("words", [[], ["a", "b"], [""]])
def test_one_folder_is_wanted(words, capsys):
    assert main(["notebooks", *words]) == 2
    assert "see psn-tutorial notebooks --help" in capsys.readouterr().err
