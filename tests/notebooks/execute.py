"""``make notebooks``: run the notebooks anew, store what they show, and write down what they took.

    python -m tests.notebooks.execute [NOTEBOOK ...]

One after the other, all of them if none is named. The processor time and the largest memory of each go to
data/notebooks.json with the machine they were measured on; from there the lines Time and Memory of the notebook's
opening card are written, rounded up.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from psn_tutorial.runs.files import read_json, write_json
from psn_tutorial.runs.manifest import update
from psn_tutorial.runs.provenance import provenance
from psn_tutorial.tasks.files import MANIFEST
from psn_tutorial.teaching.sliders.moving import WIDGET
from tests.notebooks.promises import MEMORY, TIME, used

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "data" / "notebooks.json"
ROOM = 1.5  # a promise is at least so many times what was measured
SECONDS = (10, 20, 30, 40, 60, 90, 120, 180, 240, 300, 420, 600)
MEGABYTES = (512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)


def execute(path: Path) -> dict:
    """Run a notebook in a kernel of its own and store its outputs; return what it took."""
    book = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(book, timeout=None, record_timing=False, store_widget_state=False, resources=where)
    with client.setup_kernel():
        for i, cell in enumerate(book.cells):
            client.execute_cell(cell, i)
        seconds, megabytes = used(client.km.provisioner.pid)
    drop_widgets(book)
    nbformat.write(book, path)
    facts = provenance()
    machine = {key: facts[key] for key in ("cpu", "cpu_count", "system", "versions")}
    return {"processor_seconds": round(seconds, 1), "peak_mb": round(megabytes), "machine": machine}


def drop_widgets(book: nbformat.NotebookNode) -> None:
    """Leave out the sliders: without their kernel they cannot move, and the still pictures before them stay."""
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if set(output.get("data", {"text": ""})) != {WIDGET}]


def card(text: str, took: dict) -> str:
    """The opening card with the promises that the record allows."""
    seconds = next(step for step in SECONDS if step >= ROOM * took["processor_seconds"])
    megabytes = next(step for step in MEGABYTES if step >= ROOM * took["peak_mb"])
    time = f"{seconds} seconds" if seconds < 120 else f"{seconds // 60} minutes"
    memory = f"{megabytes} MB" if megabytes < 1024 else f"{megabytes / 1024:g} GB"
    return MEMORY.sub(memory, TIME.sub(time, text))


def main(paths: list[Path]) -> None:
    for path in paths or sorted((ROOT / "notebooks").glob("*.ipynb")):
        print(f"{path.stem} ...", flush=True)
        took = execute(path)
        print(f"    {took['processor_seconds']} s of processor time, {took['peak_mb']} MB", flush=True)
        record = read_json(RECORD) if RECORD.exists() else {}
        write_json(RECORD, record | {path.stem: took})
        book = nbformat.read(path, as_version=4)
        for cell in book.cells[:2]:
            cell.source = card(cell.source, took)
        nbformat.write(book, path)
    entries = read_json(RECORD.parent / MANIFEST)
    write_json(RECORD.parent / MANIFEST, entries | {RECORD.name: {"made_by": "make notebooks"}})
    update()


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
