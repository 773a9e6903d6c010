"""Checkpoints: a folder of safetensors files and a state.json that holds their SHA-256.

Nothing is pickled, and a file that is not as it was written is never loaded.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from psn_tutorial.errors import UserError
from psn_tutorial.runs.files import sync_folder, write_bytes
from psn_tutorial.strict_json import parse_json

Tensors = dict[str, dict[str, torch.Tensor]]  # file name without ending -> name -> tensor

_FORMAT = 1
_TENSOR_FILE = re.compile(r"([A-Za-z0-9_]+)\.safetensors")


class Checkpoint(NamedTuple):
    """What was saved. All tensors are on the CPU."""

    step: int
    tensors: Tensors
    state: dict[str, Any]


class DamagedCheckpoint(Exception):
    """A checkpoint folder does not hold what was written into it; the text is the reason."""


def write_checkpoint(folder: Path, step: int, tensors: Tensors, state: Mapping[str, Any]) -> None:
    files = {}
    for name, group in tensors.items():
        # safetensors refuses tensors that share memory (tied weights): each gets its own copy.
        own = {
            key: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for key, tensor in group.items()
        }
        data = safetensors.torch.save(own)
        files[f"{name}.safetensors"] = {"sha256": _sha256(data), "bytes": len(data)}
        write_bytes(folder / f"{name}.safetensors", data)
    content = {"format": _FORMAT, "step": step, "files": files, "state": dict(state)}
    content["seal"] = _seal(content)
    # Not finite_or_null: a resumed run must get back exactly what was saved, or the error here.
    text = json.dumps(content, indent=1, allow_nan=False)
    write_bytes(folder / "state.json", text.encode() + b"\n")
    sync_folder(folder)


def read_checkpoint(folder: Path, step: int) -> Checkpoint:
    """Read and verify one checkpoint. Raises DamagedCheckpoint, or UserError (see callers)."""
    try:
        content = parse_json(_read_file(folder / "state.json").decode())
        seal = content.pop("seal")
        sealed = seal == _seal(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sealed = False
    if not sealed:
        raise DamagedCheckpoint("state.json is not as it was written")
    if content["format"] > _FORMAT:
        raise UserError(
            f"the checkpoint {folder} has format {content['format']}; "
            f"this version of psn_tutorial reads up to {_FORMAT}"
        )
    if content["step"] != step:
        raise DamagedCheckpoint(f"it was written at step {content['step']}")
    tensors: Tensors = {}
    for name, expected in content["files"].items():
        stem = _TENSOR_FILE.fullmatch(name)
        if stem is None:
            raise DamagedCheckpoint(f"it lists the foreign file {name!r}")
        data = _read_file(folder / name)
        if len(data) != expected["bytes"]:
            raise DamagedCheckpoint(f"{name} has {len(data)} bytes instead of {expected['bytes']}")
        if _sha256(data) != expected["sha256"]:
            raise DamagedCheckpoint(f"{name} is not as it was written")
        tensors[stem[1]] = safetensors.torch.load(data)
    return Checkpoint(step, tensors, content["state"])


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise DamagedCheckpoint(f"{path.name} is missing") from None
    except OSError as error:
        # The user can correct permissions and the like; an older checkpoint would lose work.
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _seal(content: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
