"""Outputs are compared as numbers where they hold measured ones, and to the letter elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.outputs import RELATIVE, agree, differences, unit

ROOT = Path(__file__).resolve().parents[2]

SAME = [
    ("", ""),
    ("KL 0.1571 nats", "KL 0.1572 nats"),  # one in the last digit
    ("KL 123456.7", "KL 123466.7"),  # a ten-thousandth, and many digits
    ("0.0999", "0.1000"),
    ("1.50e-06", "1.51e-06"),
    ("9.9e-06", "1.0e-05"),
    ("2.0", "2"),  # "%.3g" drops zeros
    ("x -0.00 y", "x 0.00 y"),  # a rounded zero has no sign
    ("+0.01", "+0.02"),
    ("47.4% against 44.2%", "47.5% against 44.2%"),
    (".137 [.121, .155]", ".138 [.120, .154]"),
    ("nan, inf, -inf", "nan, inf, -inf"),
    ("a   0.5\nbb  1.5", "a  0.5\nbb 1.5"),
    ("a 0.5  \n", "a 0.5\n"),
    ("[0.1, 2.0]", "[0.1, 2.1]"),
    ("<td>0.25</td>", "<td>0.26</td>"),
]
DIFFERENT = [
    ("16 answers", "17 answers"),
    ("1,365 weights", "1,366 weights"),
    ("14%", "15%"),
    ("007", "7"),
    ("KL 0.1571", "KL 0.1574"),  # three in the last digit
    ("KL 123456.7", "KL 123656.7"),
    ("0.25", "-0.25"),
    ("+0.01", "-0.01"),
    ("KL -1.7e-08", "KL 1.5e-08"),
    ("1.0e-06", "2.0e-06"),
    ("1.0e-06", "1.0e-07"),
    ("1.0e-06", "1.0e+06"),
    ("9.8e-07", "9.8"),
    (".137 [.121, .155]", ".137 [.121, .165]"),
    (".137 [.121, .155]", ".137 [.121, .155] (3 seeds)"),
    ("0.5", "nan"),
    ("nan", "inf"),
    ("inf", "-inf"),
    ("0.5 0.5", "0.5"),
    ("0.5", "0.5 0.5"),
    ("0.5 0.5", "0.5\n0.5"),
    ("0.5\n", "0.5\n\n"),
    ("right", "wrong"),
    ("right: True", "right: False"),
    ("undecided", "above"),
    ("qwen2.5-0.5b", "qwen2.5-0.6b"),  # names and versions are words
    ("torch 2.13.0", "torch 2.13.1"),
    ("0x1.5", "0x1.6"),
    ("1.5e", "1.6e"),
    ("47.4%", "47.4"),
    ("0.5-0.7", "0.5-0.9"),
    ("3", "4.0"),
    ("<td>0.25</td>", "<th>0.25</th>"),
]


@pytest.mark.parametrize(("stored", "got"), SAME)
def test_the_same_up_to_the_tolerance(stored, got):
    assert differences(stored, got) == differences(got, stored) == []


@pytest.mark.parametrize(("stored", "got"), DIFFERENT)
def test_not_the_same(stored, got):
    assert differences(stored, got) and differences(got, stored)


@pytest.mark.parametrize(
    ("number", "expected"), [("0.25", 0.01), ("-.5", 0.1), ("1.5e-06", 1e-7), ("2E3", 1e3), ("12", 1), ("+7.", 1)]
)
def test_the_unit_of_the_last_digit(number, expected):
    assert unit(number) == pytest.approx(expected)


def test_the_tolerance_is_a_share_of_the_number_and_a_unit():
    assert agree("1000.00", f"{1000 * (1 + RELATIVE):.2f}") and not agree("1000.00", f"{1000 * (1 + 2 * RELATIVE):.2f}")


def test_the_message_names_the_numbers_and_the_lines():
    assert differences("a 1 b 0.5, 0.70", "a 1 b 0.5, 0.90") == ["number 3: 0.70 is stored, the cell printed 0.90"]
    assert differences("x\nfour 1.0\n", "x\nfive 1.0\ny") == [
        "'four 1.0' is stored, the cell printed 'five 1.0'",
        "None is stored, the cell printed 'y'",
    ]


PRINTS = 'print("KL 0.1234 after 12 steps")'
SHOWS = "from IPython.display import HTML; HTML('<b>0.1234</b>')"
CELLS = [  # source, stored output, what the run says of it
    (PRINTS, "KL  0.1235 after 12 steps\n", None),
    (PRINTS, "KL 0.1334 after 12 steps\n", "stdout: number 1: 0.1334 is stored, the cell printed 0.1234"),
    (PRINTS, "KL 0.1234 after 13 steps\n", "stdout: number 2: 13 is stored, the cell printed 12"),
    (PRINTS, "ESS 0.1234 after 12 steps\n", "is stored, the cell printed 'KL 0.1234 after 12 steps'"),
    ("0.1234", {"text/plain": "0.1235"}, None),
    ("0.1234", {"text/plain": "0.1334"}, "text/plain: number 1: 0.1334 is stored, the cell printed 0.1234"),
    (SHOWS, {"text/plain": "<IPython.core.display.HTML object>", "text/html": "<b>0.1235</b>"}, None),
    (
        SHOWS,
        {"text/plain": "<IPython.core.display.HTML object>", "text/html": "<b>0.2</b>"},
        "text/html: number 1: 0.2",
    ),
]


def test_nbval_compares_so(tmp_path):
    cells = []
    for count, (source, stored, _) in enumerate(CELLS, 1):
        cells.append(nbformat.v4.new_code_cell(source, execution_count=count))
        if isinstance(stored, str):
            cells[-1].outputs = [nbformat.v4.new_output("stream", text=stored)]
        else:
            cells[-1].outputs = [nbformat.v4.new_output("execute_result", stored, execution_count=count)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--nbval", "--nbval-current-env", "-p", "tests.notebooks.outputs", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    for number, (_, _, message) in enumerate(CELLS):
        failed = re.search(rf"^FAILED .*::Cell {number}\b", run.stdout, re.M)
        assert bool(failed) is (message is not None), run.stdout
        assert message is None or message in run.stdout, run.stdout
