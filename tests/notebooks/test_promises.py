"""The promises of the opening cards are read right, and a broken one fails."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from promises import promised

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "card, expected",
    [
        ("| **Time** | 2 minutes on 2 CPU cores |\n| **Memory** | 1 GB |", (120, 1024)),
        ("| **Time** | about 40 seconds |\n| **Memory** | 600 MB |", (40, 600)),
        ("| **Memory** | 1.5 GB |\n| **Time** | 1 minute |", (60, 1536)),
    ],
)
def test_a_card_is_read(card, expected):
    assert promised(card) == expected


def write_notebook(path, memory):
    cells = [nbformat.v4.new_code_cell(source, execution_count=n) for n, source in ((1, "x = 1"), (2, "print(x + 1)"))]
    cells[1].outputs = [nbformat.v4.new_output("stream", text="2\n")]
    card = nbformat.v4.new_markdown_cell(f"# A notebook\n| **Time** | 1 minute |\n| **Memory** | {memory} |")
    nbformat.write(nbformat.v4.new_notebook(cells=[card, *cells]), path)


def test_a_notebook_beyond_its_promise_fails(tmp_path):
    write_notebook(tmp_path / "kept.ipynb", "2 GB")
    write_notebook(tmp_path / "broken.ipynb", "1 MB")
    (tmp_path / "tests" / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "notebooks" / "promises.py", tmp_path / "tests" / "notebooks")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--nbval",
            "--nbval-current-env",
            "-p",
            "tests.notebooks.promises",
            "kept.ipynb",
            "broken.ipynb",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "1 failed, 3 passed" in run.stdout, run.stdout
    assert "FAILED broken.ipynb" in run.stdout
    for name, promise in (("kept", 2048), ("broken", 1)):
        assert re.search(rf"^{name}: \d+ s of .* its card promises 60 s and {promise} MB$", run.stdout, re.M), name
