"""data/MANIFEST.json: every shipped file with its SHA-256 and the command that made it.

``python -m psn_tutorial.runs.manifest`` brings it up to date after a base policy or a run record has come into data/.
The problem files enter themselves (:mod:`psn_tutorial.tasks.splits`), with the arguments that make them again.
"""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError
from psn_tutorial.runs.files import read_json
from psn_tutorial.tasks.files import DATA, MANIFEST

WRITTEN = "written by hand, before the runs it describes"
NOT_SHIPPED = {".running", "weights"}  # of a study: what is not finished, and its bases


def update(data: Path = DATA) -> None:
    """Enter every file below ``data``; drop the entries of files that are gone.

    Raises UserError for a file whose origin no record tells.
    """
    old = read_json(data / MANIFEST) if (data / MANIFEST).is_file() else {}
    files = [
        path
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.name != MANIFEST and not NOT_SHIPPED & {*path.relative_to(data).parts}
    ]
    entries = {path.relative_to(data).as_posix(): _entry(path, data, old) for path in files}
    (data / MANIFEST).write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")


def _entry(path: Path, data: Path, old: dict[str, Any]) -> dict[str, Any]:
    content = path.read_bytes()
    name = path.relative_to(data).as_posix()
    entry = dict(old.get(name, {}))
    if path.parent.parent == data / "runs" and path.suffix in (".md", ".yaml"):
        entry["made_by"] = WRITTEN
    elif name.startswith(("bases/", "runs/")):
        entry["made_by"] = _command(path, data)
    if "made_by" not in entry:
        raise UserError(f"{name} has no record that tells how it was made, so it cannot enter the manifest")
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    if path.suffix == ".jsonl":
        entry["rows"] = content.count(b"\n")
    return entry


def _command(path: Path, data: Path) -> str:
    """The command in the provenance next to a file, below it (a comparison's), or of the base's record."""
    if data / "bases" in path.parents:
        folder = data / "runs" / f"base-{path.parent.name}"
    else:
        folder = next((f for f in path.parents if (f / "provenance.json").is_file()), path.parent)
    for provenance in sorted(folder.rglob("provenance.json")):
        return shlex.join(read_json(provenance)["command"])
    raise UserError(f"{path.relative_to(data)} has no provenance.json beside it that tells how it was made")


if __name__ == "__main__":
    update()
