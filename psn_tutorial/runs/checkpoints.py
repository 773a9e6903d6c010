"""Checkpoints: a folder of safetensors files and a state.json that holds their SHA-256.

Nothing is pickled, and nothing that differs from what was written is ever loaded.
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
from psn_tutorial.runs.files import parse_json, sync_folder, write_bytes

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
        # Permissions and the like are the user's to mend: falling back would throw work away.
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _seal(content: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack_optimizer(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the optimiser's state as tensors ("<parameter name>/exp_avg") and a JSON object.

    Parameters go by their names in ``model``, never by position, so that a reordered model cannot
    silently swap moments. Raises ValueError for an optimised parameter that ``model`` lacks.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {}
    groups, scalars = [], {}
    for group in optimizer.param_groups:
        try:
            members = [names[id(parameter)] for parameter in group["params"]]
        except KeyError:
            raise ValueError("the optimiser holds a parameter that the model does not") from None
        options = {option: value for option, value in group.items() if option != "params"}
        groups.append({"parameters": members, "options": options})
        for name, parameter in zip(members, group["params"], strict=True):
            for slot, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}/{slot}"] = value
                else:
                    scalars[f"{name}/{slot}"] = value
    return tensors, {"groups": groups, "scalars": scalars}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
) -> None:
    """Give ``optimizer`` the state that ``pack_optimizer`` returned, bit for bit.

    Raises UserError when its groups do not hold the parameters of the saved ones, by name.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    target = optimizer.state_dict()
    members = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    if [set(group["parameters"]) for group in state["groups"]] != [set(m) for m in members]:
        saved = {name for group in state["groups"] for name in group["parameters"]}
        differing = sorted(saved ^ {name for group in members for name in group})
        raise UserError(
            "the saved optimiser state belongs to other parameters or groups: "
            + (", ".join(differing[:5]) or "the groups differ")
        )
    index_of: dict[str, int] = {}
    for group, saved, group_names in zip(target["param_groups"], state["groups"], members, strict=True):
        index_of.update(zip(group_names, group["params"], strict=True))
        for option, value in saved["options"].items():
            # JSON has no tuples; betas is one.
            is_tuple = isinstance(group.get(option), tuple)
            group[option] = tuple(value) if is_tuple else value
    target["state"] = {}
    for key, value in [*tensors.items(), *state["scalars"].items()]:
        name, slot = key.rsplit("/", 1)
        target["state"].setdefault(index_of[name], {})[slot] = value
    optimizer.load_state_dict(target)
