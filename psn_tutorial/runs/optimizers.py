"""The state of an optimiser as named tensors and a JSON object, as a checkpoint holds it.

Not by ``torch.distributed.checkpoint.state_dict``: its ``get_optimizer_state_dict`` takes a step with an optimiser that
has taken none, so that a run saved before its first step would end in other weights, and the state of another model is
loaded without an error.
"""

from collections.abc import Mapping
from typing import Any

import torch

from psn_tutorial.errors import UserError


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
