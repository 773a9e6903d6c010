"""Which weights a run starts from, and the clean policy that a folder holds.

A policy is a tiny model all of whose weights learn, or a language model of which an adapter learns
(:mod:`psn_tutorial.models.qlora`); the loop treats both alike.
"""

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from psn_tutorial.config import EvaluationConfig, ProbeConfig, RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.jobs.records import settings_of
from psn_tutorial.models.adapters import Adapter, is_adapter, load_adapter, read_adapter
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.gguf import folder_of, is_gguf, source_of
from psn_tutorial.models.loading import MODELS, quiet
from psn_tutorial.models.policy import Policy, unknown_token
from psn_tutorial.models.qlora import ADAPTED, QLoRAConfig, load_base, load_qlora, restore_weights
from psn_tutorial.models.tiny import load
from psn_tutorial.runs.checkpoints import Checkpoint
from psn_tutorial.runs.files import in_words, new_folder
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.tasks import Task, get_task


def base_of(config: RunConfig | EvaluationConfig | ProbeConfig) -> str | Path:
    """What a run begins with: the base it names, or the shipped one; of a language task, that of its problems.

    Raises UserError when there is none.
    """
    if getattr(config, "base", None):
        return config.base
    return base_folder(get_task(config.task, **config.difficulty).base)


def starting_policy(config: RunConfig) -> Policy:
    """The policy that a run with these settings begins with: the base, a new adapter on it, or the adapter and the
    newest weights of an earlier run.

    Raises:
        UserError: the base cannot be loaded, there is none for the task, or its adapter is of another rank or alpha.
    """
    base, adapter = base_of(config), adapter_of(base_of(config))
    if adapter is None and not config.lora_rank:
        return _full_weights(base, config.device)[0]
    device = device_of(config.device)
    settings = QLoRAConfig(
        str(_folder_of_weights(base) if adapter is None else adapter.base),
        config.four_bit,
        compute=config.compute,
        rank=config.lora_rank or adapter.rank,
        alpha=config.lora_alpha,
        seed=config.seed,
    )
    if adapter is None:
        return load_qlora(settings, device)
    if (config.lora_rank, config.lora_alpha) != (adapter.rank, adapter.alpha):
        raise UserError(
            f"lora_rank and lora_alpha must be those of the adapter in {base}, {adapter.rank} and {adapter.alpha:g}, "
            f"got {config.lora_rank} and {config.lora_alpha:g}"
        )
    return load_adapter(adapter, settings, device)


def adapter_of(base: str | Path) -> Adapter | None:
    """The adapter that a base stands for: a folder of peft, or the newest checkpoint of a run with one; else None.

    Raises UserError when it cannot be read.
    """
    if not is_run(base):
        if not is_adapter(base):
            return None
        adapter, config = read_adapter(base), _exported_by(base)
        return replace(adapter, base=_below(config)[0]) if config else adapter
    run = RunFolder.open(base)
    config = settings_of(run.path, run.config)
    if not config.lora_rank:
        return None
    below, first = _below(config)
    targets, tokenizer = (first.targets, first.tokenizer) if first else (ADAPTED, None)
    weights = _newest(run).tensors["model"]
    return Adapter(str(base), below, config.lora_rank, config.lora_alpha, targets, weights, tokenizer)


def _below(config: RunConfig) -> tuple[str, Adapter | None]:
    """What lies below the adapter of a run: its base, and the adapter that it began with."""
    base = base_of(config)
    first = adapter_of(base)
    return (first.base if first else str(_folder_of_weights(base))), first


def trained_by(folder: str | Path) -> RunConfig | None:
    """The settings of the run that made a policy, whose folder or whose <run>/policy this is; None for any other."""
    if is_run(folder):
        run = RunFolder.open(folder)
        return settings_of(run.path, run.config)
    return _exported_by(folder)


def _exported_by(folder: str | Path) -> RunConfig | None:
    """The settings of the run that wrote its adapter into ``folder``, <run>/policy; None where there is no run."""
    run = Path(folder).absolute().parent
    if Path(folder).name != "policy" or not is_run(run):
        return None
    return settings_of(run, RunFolder.open(run).config)


def _folder_of_weights(base: str | Path) -> str | Path:
    """What transformers loads for a base: of a run without an adapter the policy that it has written at its end."""
    if not is_run(base):
        return base
    if not (Path(base) / "policy").is_dir():
        raise UserError(f"the run {base} has not written its policy yet: finish it with --resume {base}")
    return Path(base) / "policy"


def source_of_base(base: Any) -> dict[str, Any]:
    """{"base": what a GGUF file says of itself, and its SHA-256}, for a record's provenance; also of a run that began
    with one, and of what that has written; {} for any other base."""
    if trained_by(base):
        run = base if is_run(base) else Path(base).absolute().parent
        held = RunFolder.open(run).provenance.get("base")
        return {"base": held} if held else {}
    return {"base": source_of(folder_of(base))} if is_gguf(base) else {}


def is_run(folder: str | Path) -> bool:
    """Is this a run folder, and no checkpoint?"""
    return (Path(folder) / "provenance.json").is_file()


def device_of(name: str) -> str:
    """The device that one of DEVICES means: "auto" is CUDA if there is any. Raises UserError for CUDA without any."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device must be cpu or auto here: there is no CUDA device, got 'cuda'")
    return name


def load_policy(folder: str | Path, device: str = "cpu") -> Policy:
    """Load the clean policy of a checkpoint folder, of an adapter's folder, of a run's newest checkpoint, or a language
    model by its short name, onto a device of DEVICES.

    Raises UserError when ``folder`` is none of these, or the run has no checkpoint.
    """
    return policy_and_step(folder, device)[0]


def policy_and_step(folder: str | Path, device: str = "cpu", four_bit: bool = False) -> tuple[Policy, int]:
    """As :func:`load_policy`, with the training step of the checkpoint; 0 of what is no run.

    A run, and the adapter that it has written, are in the precision they were trained in; other adapters in float32.

    four_bit: round the base to NF4 in any case.
    """
    if is_run(folder):
        return _of_run(RunFolder.open(folder), device, four_bit)
    if adapter := adapter_of(folder):
        config = _exported_by(folder) or RunConfig()
        settings = QLoRAConfig(adapter.base, four_bit or config.four_bit, compute=config.compute)
        return load_adapter(adapter, settings, device_of(device)), 0
    if four_bit:
        return load_base(QLoRAConfig(str(folder), compute="float32"), device_of(device)), 0
    if str(folder) in MODELS:
        return load_base(QLoRAConfig(str(folder), four_bit=False), device_of(device)), 0
    return _full_weights(folder, device)


def _full_weights(base: str | Path, device: str) -> tuple[Policy, int]:
    """A policy all of whose weights can learn, in float32, and the step of a run's newest checkpoint."""
    if is_run(base):
        return _of_run(RunFolder.open(base), device)
    model, tokenizer = load(base)
    return Policy(model.to(device_of(device)), tokenizer), 0


def _of_run(run: RunFolder, device: str, four_bit: bool = False) -> tuple[Policy, int]:
    config = settings_of(run.path, run.config)
    if four_bit and not config.lora_rank:
        raise UserError(f"four_bit is for checkpoint folders and adapters: name {run.path / 'policy'}, got {run.path}")
    checkpoint = _newest(run)
    policy = starting_policy(replace(config, device=device, four_bit=four_bit or config.four_bit))
    try:
        restore_weights(policy.model, checkpoint.tensors["model"])
    except (RuntimeError, KeyError):
        raise UserError(f"the checkpoint in {run.path} does not fit its base policy") from None
    return policy, checkpoint.step


def _newest(run: RunFolder) -> Checkpoint:
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise UserError(f"the run {run.path} has no checkpoint yet")
    return checkpoint


def check_words(tokenizer: PreTrainedTokenizerBase, task: Task[Any]) -> None:
    """Raise UserError when a policy cannot read the task's words: it was made for another one."""
    if not task.words:
        return  # plain language: any language model reads it
    ids = tokenizer(task.words)["input_ids"]
    unknown = [word for word, row in zip(task.words, ids, strict=True) if unknown_token(tokenizer) in row]
    if unknown:
        raise UserError(
            f"the policy does not know {len(unknown)} of the words of {task.name}, "
            f"such as {unknown[0]!r}: it was made for another task"
        )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of all weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_policy(policy: Policy, folder: Path) -> None:
    """Write an ordinary checkpoint folder, complete or not at all; what stands there is kept.

    Raises UserError when ``folder`` holds anything already, or cannot be written.
    """
    require_new(folder)
    with in_words(folder, "the checkpoints of the run are kept"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with quiet(), new_folder(folder.with_name(f".{folder.name}.new")) as new:
            try:
                # No adapter here widens the vocabulary, and peft would ask the hub about the base to find that out.
                own = {"save_embedding_layers": False} if hasattr(policy.model, "peft_config") else {}
                policy.model.save_pretrained(new, **own)
                policy.tokenizer.save_pretrained(new)
            except OSError:
                raise
            except Exception as error:  # safetensors and tokenizers raise types of their own
                full = f"os error {errno.ENOSPC}" in str(error)
                raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error
            for file in new.iterdir():
                file.chmod(0o644)  # safetensors leaves its files to their owner alone
            os.rename(new, folder)


def require_new(folder: Path) -> None:
    """Raise UserError unless ``folder`` is an empty folder, or is missing and can be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists and is not empty; choose another folder")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"cannot make the folder {folder}: {above} is a file")
