"""Run folders: settings, provenance, one line per step, checkpoints that survive any crash.

    <run>/config.json        all settings and the seed
          provenance.json    commit, versions, hardware, command, wall time
          steps.jsonl        one JSON object per step
          eval.json          written by the evaluation
          transcripts.jsonl  some answers as text, where they are asked for
          checkpoints/step-000100/{model.safetensors, optimizer.safetensors, state.json}

Nothing here is pickled. Every file and folder appears under its own name only when it is complete
and on the disk (temporary name, fsync, rename), so a process killed at any point leaves a folder
that ``RunFolder.open(path).resume()`` continues. One process at a time writes to a run. A finished
run that is kept as a record only (:mod:`psn_tutorial.runs.trimming`) holds no checkpoints, and its
steps and evaluations as .gz.
"""

import itertools
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psn_tutorial.errors import UserError
from psn_tutorial.runs.files import (
    append_line,
    drop_half_line,
    finite_or_null,
    in_words,
    json_bytes,
    new_folder,
    read_bytes,
    read_json,
    sync_file,
    sync_folder,
    write_bytes,
    write_json,
)
from psn_tutorial.runs.provenance import commit, now, provenance
from psn_tutorial.strict_json import parse_json

if TYPE_CHECKING:  # at run time inside the functions that use them: importing torch takes seconds
    from psn_tutorial.runs.checkpoints import Checkpoint, Tensors


class DamagedCheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over."""


class RunFolder:
    """One run folder. Make it with ``RunFolder.create``, come back to it with ``RunFolder.open``.

    Attributes: ``path``, ``config`` and ``provenance`` (the two JSON objects).
    """

    def __init__(self, path: Path, config: dict[str, Any], provenance: dict[str, Any]):
        self.path = path
        self.config = config
        self.provenance = provenance
        self._clock = time.perf_counter()
        self._log_checked = False
        self._made = False  # by this object; and
        self._stood = False  # an empty folder was there before

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        command: Sequence[str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> "RunFolder":
        """Make the run folder ``path``. ``command`` is the argument list that asked for it; ``facts`` join the
        provenance.

        Raises UserError when ``path`` holds anything already, or cannot be written.
        """
        path = Path(path)
        if path.is_dir() and any(path.iterdir()):
            raise UserError(
                f"the run folder {path} already exists and is not empty; "
                f"continue that run with --resume, or choose another folder"
            )
        if path.exists() and not path.is_dir():
            raise UserError(f"the run folder {path} cannot be made: a file of that name exists")
        known, stood = provenance(command) | dict(facts or {}), path.is_dir()
        with in_words(f"the run folder {path}", "nothing was changed"):
            path.parent.mkdir(parents=True, exist_ok=True)
            # The folder gets its name when it is complete, so that an incomplete run is never seen.
            with new_folder(path.parent / f".{path.name}.new") as folder:
                write_bytes(folder / "config.json", json_bytes(config))
                write_bytes(folder / "provenance.json", json_bytes(known))
                write_bytes(folder / "steps.jsonl", b"")
                (folder / "checkpoints").mkdir()
                sync_folder(folder)
                os.rename(folder, path)
            sync_folder(path.parent)
        run = cls.open(path)
        run._made, run._stood = True, stood
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing run folder. Raises UserError when ``path`` is none."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"there is no run folder {path}")
        objects = []
        for name in ("config.json", "provenance.json"):
            if not (path / name).is_file():
                raise UserError(f"{path} is not a run folder: it has no {name}")
            objects.append(read_json(path / name))
            if not isinstance(objects[-1], dict):
                raise UserError(f"{path / name} must hold a JSON object")
        return cls(path, *objects)

    def discard_if_empty(self) -> None:
        """Remove a folder that this object has made and nothing was recorded in, so that its name is free again.

        For work that failed at its start. A folder with a step, a checkpoint, an evaluation or a foreign file stays.
        """
        names = {path.name for path in self.path.glob("*")}
        foreign = names - {"config.json", "provenance.json", "steps.jsonl", "checkpoints", "tensorboard"}
        steps = self.path / "steps.jsonl"
        recorded = not steps.is_file() or steps.stat().st_size or any(self.path.glob("checkpoints/*"))
        if not self._made or foreign or recorded:
            return
        shutil.rmtree(self.path)
        if self._stood:
            self.path.mkdir()

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one step's record, which has a whole number "step", to steps.jsonl.

        NaN and infinities become null, because JSON cannot hold them. Raises UserError when the line
        cannot be written; what was written before stays as it was.
        """
        if type(record.get("step")) is not int:
            raise ValueError(f"a step record needs a whole number 'step', got {record.get('step')}")
        line = json.dumps(finite_or_null(record), allow_nan=False).encode() + b"\n"
        path = self.path / "steps.jsonl"
        with in_words(path, "the records before it are kept"):
            if not self._log_checked:
                drop_half_line(path)
                self._log_checked = True
            append_line(path, line)

    def steps(self) -> list[dict[str, Any]]:
        """Return the step records; a half-written last line is left out.

        Raises UserError, naming the line, when any other line is broken.
        """
        return [record for record, _ in self._records()]

    def save_checkpoint(self, step: int, tensors: "Tensors", state: Mapping[str, Any], keep: int = 2) -> Path:
        """Write checkpoints/step-<step>/ and drop all but the newest ``keep``. Returns the folder.

        ``tensors`` maps a file name ("model", "optimizer") to its tensors; ``state`` is any JSON
        object without NaN. When this returns, the checkpoint and all step records before it are
        on the disk. Raises UserError when the disk is full or cannot be written; the checkpoints
        before this one are then untouched.
        """
        from psn_tutorial.runs.checkpoints import write_checkpoint  # here: records are read without torch

        if keep < 1:
            raise UserError(f"keep must be >= 1, got {keep}")
        folder = self.path / "checkpoints" / f"step-{step:06d}"
        with in_words(f"the checkpoint {folder}", "the checkpoints before it are kept"):
            folder.parent.mkdir(exist_ok=True)
            self._tidy()
            sync_file(self.path / "steps.jsonl")
            with new_folder(folder.with_name(f".new-{folder.name}")) as new:
                write_checkpoint(new, step, tensors, state)
                if folder.exists():
                    os.rename(folder, folder.with_name(f".old-{folder.name}"))
                os.rename(new, folder)
            sync_folder(folder.parent)
            for _, older in self._checkpoint_folders()[keep:]:
                # Renamed first to a name that is never read, so that a kill leaves no half checkpoint.
                os.rename(older, older.with_name(f".gone-{older.name}"))
            self._tidy()
        self.record_time()
        return folder

    def latest_checkpoint(self) -> "Checkpoint | None":
        """Return the newest intact checkpoint, or None.

        A truncated, corrupted or incomplete one is named in a DamagedCheckpointWarning of one
        sentence, and the one before it is used. Raises UserError for one that cannot be read at
        all (permissions) or that a newer version of this software wrote.
        """
        # here: records are read without torch
        from psn_tutorial.runs.checkpoints import DamagedCheckpoint, read_checkpoint

        damaged, found = [], None
        for step, folder in self._checkpoint_folders():
            try:
                found = read_checkpoint(folder, step)
                break
            except DamagedCheckpoint as error:
                damaged.append(f"the checkpoint {folder} is damaged ({error})")
        if damaged:
            used = "no earlier one is left" if found is None else f"step {found.step} is used"
            warnings.warn(f"{', '.join(damaged)}; {used}", DamagedCheckpointWarning, stacklevel=2)
        return found

    def resume(self) -> "Checkpoint | None":
        """Bring the folder back to its newest intact checkpoint and return that, or None.

        Step records after it and damaged checkpoints after it are dropped, because the steps that
        made them are about to be taken again. None: the run starts again from its beginning.
        """
        checkpoint = self.latest_checkpoint()
        step = -1 if checkpoint is None else checkpoint.step
        kept = itertools.takewhile(lambda line: line[0]["step"] <= step, self._records())
        end = max((end for _, end in kept), default=0)
        with in_words(self.path / "steps.jsonl", "nothing was changed"):
            self._tidy()
            os.truncate(self.path / "steps.jsonl", end)
            for newer, folder in self._checkpoint_folders():
                if newer > step:
                    shutil.rmtree(folder)
        resumed = {"step": max(step, 0), "date": now(), "commit": commit()}
        self.provenance.setdefault("resumed", []).append(resumed)
        self.record_time()
        return checkpoint

    def record_time(self) -> None:
        """Add the seconds since the last call (or since opening) to the provenance's wall time."""
        clock = time.perf_counter()
        seconds = self.provenance.get("wall_seconds", 0.0) + clock - self._clock
        self.provenance["wall_seconds"] = round(seconds, 3)
        self._clock = clock
        write_json(self.path / "provenance.json", self.provenance)

    def _records(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each step record and the byte at which its line ends."""
        path = self.path / "steps.jsonl"
        try:
            lines = read_bytes(path).splitlines(keepends=True)
        except FileNotFoundError:
            raise UserError(f"{path} is missing; put it back, or start a new run") from None
        end = 0
        for number, line in enumerate(lines, 1):
            end += len(line)
            try:
                record = parse_json(line.decode())
                if not line.endswith(b"\n") or type(record["step"]) is not int:
                    raise ValueError
            except (ValueError, TypeError, KeyError, RecursionError):
                if number == len(lines):
                    return  # the line the process was writing when it was stopped
                raise UserError(f"{path}, line {number}: this is not a step record") from None
            yield record, end

    def _checkpoint_folders(self) -> list[tuple[int, Path]]:
        """Return (step, folder), the newest first; other files and folders are left out."""
        found: dict[int, Path] = {}
        for folder in sorted(self._our_folders("(?:[.]old-)?")):  # ".old-..." sorts first
            found[int(folder.name.rsplit("-", 1)[1])] = folder
        return sorted(found.items(), reverse=True)

    def _tidy(self) -> None:
        """Remove what a killed process left incomplete; put back what it was about to replace."""
        for folder in self._our_folders("[.]old-"):
            target = folder.with_name(folder.name.removeprefix(".old-"))
            if not target.exists():
                os.rename(folder, target)
        for folder in self._our_folders("[.](?:new|old|gone)-"):
            shutil.rmtree(folder)

    def _our_folders(self, prefix: str) -> list[Path]:
        """Return the folders named <prefix>step-<number>; ``prefix`` is a pattern."""
        name = re.compile(prefix + r"step-\d{6,}")
        folders = self.path.glob("checkpoints/*")
        return [folder for folder in folders if name.fullmatch(folder.name) and folder.is_dir()]
