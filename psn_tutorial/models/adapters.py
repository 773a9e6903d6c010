"""An adapter that is there already, as peft saves it: read, checked, and laid on its base.

Only what this package trains itself is taken: plain LoRA, in the linear layers of attention and MLP. Anything else in
an adapter_config.json would be a different model, and is refused by name.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from psn_tutorial.errors import UserError, shown
from psn_tutorial.models.loading import VOCABULARIES, check_finite, check_weights, load_tokenizer, reason
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.qlora import ADAPTED, QLoRAConfig, adapted, learned_weights, load_base, restore_weights
from psn_tutorial.strict_json import parse_json

CONFIG = "adapter_config.json"
# Fields that do not change what a loaded adapter computes here: dropout is off, and the initial values are replaced.
IDLE = ("auto_mapping", "inference_mode", "lora_dropout", "peft_type", "peft_version", "task_type")
PLAIN_STARTS = (True, False, "gaussian", "orthogonal")  # of init_lora_weights; others change the base too


@dataclass(frozen=True)
class Adapter:
    """LoRA weights and what they lie on.

    Attributes:
        name: the folder it came from.
        base: checkpoint folder or hub name.
        rank, alpha: it adds alpha / rank times B A.
        targets: names of the adapted linear layers, out of ``ADAPTED``.
        weights: by the names of :func:`psn_tutorial.models.qlora.learned_weights`.
        tokenizer: folder of a tokenizer of its own; None: the base's.
    """

    name: str
    base: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    weights: dict[str, Tensor]
    tokenizer: Path | None = None


def is_adapter(folder: str | Path) -> bool:
    """Is this the folder of an adapter, and not of a whole model?"""
    return (Path(folder) / CONFIG).is_file()


def read_adapter(folder: str | Path) -> Adapter:
    """The adapter in a folder that peft wrote.

    Raises:
        UserError: it cannot be read, is no plain LoRA, adapts other layers than ``ADAPTED``, or names no base.
    """
    folder = Path(folder)
    what = f"adapter {str(folder)!r}"
    try:
        held = dict(parse_json((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{what}: {CONFIG} cannot be read: {reason(error)}") from None
    rank, alpha, base, targets = _plain_lora(what, held)
    try:
        weights = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{what}: adapter_model.safetensors cannot be read: {reason(error)}") from None
    for name, tensor in weights.items():
        check_finite(what, name, tensor)
    named = {name.replace(".weight", ".default.weight"): tensor for name, tensor in weights.items()}
    own = (folder / "tokenizer_config.json").is_file() and any((folder / file).is_file() for file in VOCABULARIES)
    return Adapter(str(folder), base, rank, alpha, targets, named, folder if own else None)


def load_adapter(adapter: Adapter, config: QLoRAConfig, device: str = "cpu") -> Policy:
    """The base of ``adapter`` in the precision of ``config``, and the adapter on it, in eval mode.

    Raises:
        UserError: the base cannot be loaded, or the adapter was made for another one.
    """
    try:
        model, tokenizer = load_base(replace(config, base=adapter.base), device)
    except UserError as error:
        raise UserError(f"the base of adapter {adapter.name!r}: {error}") from None
    settings = replace(config, base=adapter.base, rank=adapter.rank, alpha=adapter.alpha)
    if adapter.tokenizer:
        tokenizer = load_tokenizer(adapter.name, adapter.tokenizer, model)
    model = adapted(model, settings, adapter.targets)
    ours, theirs = learned_weights(model), adapter.weights
    shapes = {n: (theirs[n].shape, ours[n].shape) for n in ours.keys() & theirs if theirs[n].shape != ours[n].shape}
    what = f"adapter {adapter.name!r} for the base {adapter.base!r}"
    check_weights(what, ours.keys() - theirs.keys(), theirs.keys() - ours.keys(), shapes)
    restore_weights(model, adapter.weights)
    return Policy(model, tokenizer)


def _plain_lora(what: str, held: dict[str, Any]) -> tuple[int, float, str, tuple[str, ...]]:
    """Rank, alpha, base and targets from an adapter_config.json. Raises UserError unless nothing else is set in it."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError(f"adapters need the extra 'qlora': pip install 'psn-tutorial[qlora]' ({error})") from None
    if held.get("peft_type") != "LORA":
        raise UserError(f"{what}: peft_type must be 'LORA', got {shown(held.get('peft_type'))}")
    if held.get("task_type") not in (None, "CAUSAL_LM"):
        raise UserError(f"{what}: task_type must be 'CAUSAL_LM', got {shown(held['task_type'])}")
    rest = {name: value for name, value in held.items() if name not in IDLE}
    rank, alpha, base, targets = (
        rest.pop(name, None) for name in ("r", "lora_alpha", "base_model_name_or_path", "target_modules")
    )
    if not isinstance(base, str) or not base:
        raise UserError(f"{what}: base_model_name_or_path must name the base, got {shown(base)}")
    if not isinstance(targets, list) or not targets or not set(map(str, targets)) <= set(ADAPTED):
        raise UserError(f"{what}: target_modules must be a list out of {', '.join(ADAPTED)}, got {shown(targets)}")
    try:
        QLoRAConfig(rank=rank, alpha=alpha)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    if (start := rest.pop("init_lora_weights", True)) not in PLAIN_STARTS:
        raise UserError(f"{what}: init_lora_weights must be one of {PLAIN_STARTS}, got {shown(start)}")
    plain = LoraConfig().to_dict()
    known = {field.name for field in fields(LoraConfig)}
    for name, value in rest.items():
        if value != plain.get(name) if name in known else value:
            raise UserError(f"{what}: {name} is {shown(value)}, and only plain LoRA can be loaded here")
    return rank, alpha, base, tuple(name for name in ADAPTED if name in targets)
