"""Which parameters get the noise: by their role in the model, and by the depth of the layer that they stand in.

Both are read from a parameter's name, such as model.layers.3.mlp.up_proj.weight, so that a choice is the same for a
model with an adapter, in 4 bits or not. ``targets`` is a role of TARGETS, a regular expression, or a filter of one's
own; ``layers`` narrows it to some of the model's layers.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from psn_tutorial.choices import LAYERS, TARGETS
from psn_tutorial.errors import UserError, shown
from psn_tutorial.extensions import imported, in_one_sentence, is_named

NUMBERED = re.compile(r"\.(?:layers|h)\.(\d+)\.")  # Qwen, Llama and most others; GPT-2
RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def role(name: str) -> str:
    """The role of a parameter, read from its path: one of ``TARGETS`` except "all", or "other"."""
    parts = name.split(".")
    if any("norm" in part for part in parts):
        return "norms"
    for part, kind in (("mlp", "mlp"), ("self_attn", "attention"), ("embed_tokens", "embeddings"), ("lm_head", "head")):
        if part in parts:
            return kind
    return "other"


def layer_of(name: str) -> int | None:
    """The number, from 0, of the layer that a parameter stands in; None for embeddings, head and last norm."""
    found = NUMBERED.search(f".{name}")
    return int(found[1]) if found else None


def filter_of(targets: str) -> Callable[[str], bool]:
    """The filter of parameter names that ``targets`` means.

    A role is one of the model: the weights of an adapter on it have none, and "all" leaves them out. One's own filter
    is written module:name and is a function that gets a parameter's name and returns True or False:

        def second_matrices(name):
            return name.endswith("down_proj.weight")

    Raises:
        UserError: no valid regular expression, or an own filter that cannot be imported or is no function; the filter
            raises it where it fails or returns something else.
    """
    if targets in TARGETS:
        return lambda name: "lora_" not in name and (targets == "all" or role(name) == targets)
    if is_named(targets):
        return _own_filter(targets)
    try:
        expression = re.compile(targets)
    except re.error as error:
        raise UserError(
            f"targets must be one of {', '.join(TARGETS)}, a regular expression, or module:name, "
            f"got {targets!r} ({error})"
        ) from None
    return lambda name: expression.search(name) is not None


def _own_filter(targets: str) -> Callable[[str], bool]:
    own = imported("targets", targets)
    if not callable(own):
        raise UserError(f"targets {targets} must be a function of a parameter's name, got {shown(own)}")

    def wants(name: str) -> bool:
        with in_one_sentence(f"targets {targets} fails on {name}"):
            answer = own(name)
        if not isinstance(answer, bool):
            raise UserError(f"targets {targets} must return True or False, got {shown(answer)} for {name}")
        return answer

    return wants


def check_layers(layers: Any) -> None:
    """Raise UserError unless ``layers`` is one of LAYERS, a number, or two with a hyphen such as 4-7."""
    found = RANGE.fullmatch(layers) if isinstance(layers, str) else None
    if layers not in LAYERS and not (found and int(found[1]) <= int(found[2] or found[1])):
        raise UserError(
            f"layers must be one of {', '.join(LAYERS)}, a layer's number from 0, or a range such as 4-7, "
            f"got {shown(layers)}"
        )


def in_layers(number: int, layers: str, depth: int) -> bool:
    """Is layer ``number``, of ``depth`` counted from 0, among ``layers``? Both ends of a range belong to it.

    "first", "middle" and "last" are the thirds of the depth: a layer is in the third that its middle lies in, so that
    the first and the last have equally many, and each layer is in one of them. Of two layers none is in the middle.
    """
    if layers in LAYERS:
        third = 3 * (2 * number + 1) // (2 * depth)
        return layers == "all" or layers == LAYERS[1 + third]
    first, last = RANGE.fullmatch(layers).groups()
    return int(first) <= number <= int(last or first)


def chosen(names: Iterable[str], targets: str, layers: str = "all") -> set[str]:
    """Those of a model's parameter ``names`` that ``targets`` and ``layers`` name together; empty where ``targets``
    names none.

    Raises:
        UserError: as :func:`filter_of`, or ``layers`` leaves nothing of what ``targets`` names.
    """
    names = list(names)
    found = set(filter(filter_of(targets), names))
    if layers == "all" or not found:
        return found
    numbers = {name: layer_of(name) for name in names}
    depth = 1 + max((number for number in numbers.values() if number is not None), default=-1)
    inside = {name for name in found if numbers[name] is not None and in_layers(numbers[name], layers, depth)}
    if not inside:
        there = f"its {depth} layers are numbered from 0" if depth else "it has no numbered layers"
        raise UserError(
            f"layers {layers!r} leaves nothing of what targets {targets!r} names in the model: {there}"
            + ("" if any(numbers[name] is not None for name in found) else f", and {min(found)} is in none")
        )
    return inside
