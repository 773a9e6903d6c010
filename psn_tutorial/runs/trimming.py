"""A finished run as a record alone: what every figure is computed from, small enough to be committed.

What only serves to go on goes: checkpoints, the exported policy, TensorBoard's curves. Step figures keep four
significant digits, perhaps of some steps only, and the two long files are packed (<file>.gz).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from psn_tutorial.errors import check_count
from psn_tutorial.runs.files import finite_or_null, in_words, pack, read_bytes, write_json
from psn_tutorial.runs.folder import RunFolder

DIGITS = 4  # significant ones of a step's figures


def trim(folder: str | Path, every: int = 1) -> None:
    """Leave the record alone in a finished run's ``folder``. Stopped half-way, it can be called again.

    every: keep the figures of so many-th steps, of the first and of the last; the provenance says so.

    Raises UserError when ``folder`` is no run folder, or something cannot be written.
    """
    run = RunFolder.open(folder)
    check_count("every", every)
    steps, path = run.steps(), run.path / "steps.jsonl"
    steps = [record for record in steps if record["step"] % every == 0 or record in (steps[0], steps[-1])]
    lines = [json.dumps(finite_or_null(_rounded(record)), allow_nan=False, separators=(",", ":")) for record in steps]
    with in_words(run.path, "the run is complete, but not trimmed"):
        if path.is_file():
            if every > 1:
                write_json(run.path / "provenance.json", run.provenance | {"steps_kept_every": every})
            pack(path, "".join(f"{line}\n" for line in lines).encode())
        if (evaluations := run.path / "eval.json").is_file():
            pack(evaluations, read_bytes(evaluations))
        for name in ("checkpoints", "policy", "tensorboard"):
            if (run.path / name).is_dir():
                shutil.rmtree(run.path / name)


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{x:.{DIGITS}g}") if isinstance(x, float) else x for name, x in record.items()}
