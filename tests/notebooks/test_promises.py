"""The opening cards promise what was measured, and a notebook far beyond its promise fails."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from psn_tutorial.runs.files import read_json
from tests.notebooks.execute import RECORD, ROOM, card
from tests.notebooks.promises import GROSS, promised

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("| **Time** | 2 minutes on 2 CPU cores |\n| **Memory** | 1 GB |", (120, 1024)),
        ("| **Time** | 40 seconds |\n| **Memory** | 600 MB |", (40, 600)),
        ("| **Memory** | 1.5 GB |\n| **Time** | 1 minute |", (60, 1536)),
    ],
)
def test_a_card_is_read(text, expected):
    assert promised(text) == expected


@pytest.mark.parametrize(
    ("seconds", "megabytes", "time", "memory"),
    [(5, 300, "10 seconds", "512 MB"), (62, 700, "2 minutes", "1.5 GB"), (40.1, 682, "90 seconds", "1 GB")],
)
def test_a_card_is_written_from_what_was_measured_and_rounded_up(seconds, megabytes, time, memory):
    text = "# Title 7\n| **Time** | 3 minutes on 1 core |\n| **Memory** | 9 GB |\n| **GPU?** | no; 2 GB |"
    written = card(text, {"processor_seconds": seconds, "peak_mb": megabytes})
    assert written == text.replace("3 minutes", time).replace("9 GB", memory)
    assert all(p >= ROOM * m for p, m in zip(promised(written), (seconds, megabytes), strict=True))


def test_the_record_has_every_notebook_and_no_other():
    assert sorted(read_json(RECORD)) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_opening_card_promises_what_was_measured(path):
    opening = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells[:2])
    assert card(opening, read_json(RECORD)[path.stem]) == opening


def write_notebook(path, memory):
    sources = ("x = 1", "kept = bytearray(200 << 20)", "print(x + 1)")
    cells = [nbformat.v4.new_code_cell(source, execution_count=n) for n, source in enumerate(sources, 1)]
    cells[-1].outputs = [nbformat.v4.new_output("stream", text="2\n")]
    text = nbformat.v4.new_markdown_cell(f"# A notebook\n| **Time** | 60 seconds |\n| **Memory** | {memory} |")
    nbformat.write(nbformat.v4.new_notebook(cells=[text, *cells]), path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_notebook_far_beyond_its_promise_fails(tmp_path, workers):
    """In one process, and in two of pytest-xdist; a little beyond is allowed."""
    write_notebook(tmp_path / "kept.ipynb", "2 GB")
    write_notebook(tmp_path / "exceeded.ipynb", "200 MB")
    write_notebook(tmp_path / "broken.ipynb", "1 MB")
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "--nbval"]
    command += ["--nbval-current-env", "-p", "tests.notebooks.promises", "-n", str(workers), "--dist", "loadfile"]
    run = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert "1 failed, 8 passed" in run.stdout, run.stdout
    assert re.search(r"^FAILED .*broken.ipynb::Cell 2", run.stdout, re.M), run.stdout
    for name, promise in (("kept", 2048), ("exceeded", 200), ("broken", 1)):
        measured = re.findall(
            rf"^{name}: \d+ s of .*, (\d+) MB; its card promises 60 s and {promise} MB$", run.stdout, re.M
        )
        assert len(measured) == 1 and 200 < int(measured[0]) < 200 * GROSS, run.stdout
