"""Cells start quietly, show a figure with its numbers folded away, and say what holds."""

import matplotlib

matplotlib.use("Agg")  # before pyplot: no screen is needed

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbclient import NotebookClient

from psn_tutorial.reporting.plotting import VERMILION
from psn_tutorial.teaching.cells import confirm, start
from psn_tutorial.teaching.folded import Folded

EVIL = "<script>alert(1)</script>"
FIGURE = """
figure, axes = plt.subplots()
axes.plot([1, 2], [0.25, 4.5], color="#D55E00", label="PSN-GRPO")
axes.legend()
show(figure, {"PSN-GRPO": [0.25, 4.5]}, digits=2)
"""


@pytest.fixture(scope="module")
def outputs():
    cells = ["import matplotlib.pyplot as plt\nfrom psn_tutorial.teaching.cells import show, start\nstart()", FIGURE]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)  # the kernel's own backend draws into the notebook
        NotebookClient(book, timeout=300).execute()
    return [cell.outputs for cell in book.cells]


def test_a_start_says_nothing(outputs):
    assert outputs[0] == []


def test_a_figure_is_shown_once_with_its_legend_and_its_numbers(outputs):
    picture, numbers = outputs[1]
    assert "image/png" in picture.data and picture.metadata["legend"] == {"PSN-GRPO": VERMILION}
    assert numbers.data["text/plain"] == "PSN-GRPO  0.25  4.5"
    assert "<details><summary>The numbers in this figure</summary>" in numbers.data["text/html"]


def test_a_start_takes_one_thread_and_the_style_of_the_figures(monkeypatch):
    threads = torch.get_num_threads()
    with plt.rc_context():
        start()
        assert torch.get_num_threads() == 1 and plt.rcParams["axes.spines.top"] is False
    torch.set_num_threads(threads)


def test_a_fold_is_closed_and_its_text_is_text():
    html = Folded(f"Why {EVIL}", EVIL)._repr_html_()
    assert EVIL not in html and html.count("&lt;script&gt;") == 2 and "<details>" in html and "open" not in html
    assert str(Folded("Why", EVIL)) == EVIL
    wrapped = Folded("Why", EVIL, wrap=True)._repr_html_()
    assert EVIL not in wrapped and "<pre" in html and "<pre" not in wrapped


def test_a_claim_is_told_and_a_false_one_raised(capsys):
    confirm("the mean is 1", torch.tensor(True))
    assert capsys.readouterr().out == "✓ the mean is 1\n"
    with pytest.raises(AssertionError, match="this does not hold here: the mean is 2"):
        confirm("the mean is 2", torch.tensor(False))
    assert capsys.readouterr().out == ""
