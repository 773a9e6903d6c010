"""A finished run as a record alone: what every figure is computed from, small enough to be committed.

What only serves to go on goes: checkpoints, the exported policy, TensorBoard's curves. Step figures keep five
significant digits, and the two long files are packed (<file>.gz).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from psn_tutorial.runs.files import finite_or_null, in_words, pack, read_bytes
from psn_tutorial.runs.folder import RunFolder

DIGITS = 5  # significant ones of a step's figures


def trim(folder: str | Path) -> None:
    """Leave the record alone in a finished run's ``folder``. Stopped half-way, it can be called again.

    Raises UserError when ``folder`` is no run folder, or something cannot be written.
    """
    run = RunFolder.open(folder)
    steps, path = run.steps(), run.path / "steps.jsonl"
    lines = [json.dumps(finite_or_null(_rounded(record)), allow_nan=False, separators=(",", ":")) for record in steps]
    with in_words(run.path, "the run is complete, but not trimmed"):
        if path.is_file():
            pack(path, "".join(f"{line}\n" for line in lines).encode())
        if (evaluations := run.path / "eval.json").is_file():
            pack(evaluations, read_bytes(evaluations))
        for name in ("checkpoints", "policy", "tensorboard"):
            if (run.path / name).is_dir():
                shutil.rmtree(run.path / name)


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{x:.{DIGITS}g}") if isinstance(x, float) else x for name, x in record.items()}
