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

from psn_tutorial.config import EvaluationConfig, RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.jobs.records import settings_of
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.loading import MODELS, quiet
from psn_tutorial.models.policy import Policy, unknown_token
from psn_tutorial.models.qlora import QLoRAConfig, load_base, load_qlora, restore_weights
from psn_tutorial.models.tiny import load
from psn_tutorial.runs.files import in_words, new_folder
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.tasks import Task, get_task


def base_of(config: RunConfig | EvaluationConfig) -> str | Path:
    """What a run begins with: the base it names, or the shipped one; of a language task, that of its problems.

    Raises UserError when there is none.
    """
    if getattr(config, "base", None):
        return config.base
    return base_folder(get_task(config.task, **config.difficulty).base)


def starting_policy(config: RunConfig) -> Policy:
    """The policy that a run with these settings begins with.

    Raises:
        UserError: the base cannot be loaded, or there is none for the task.
    """
    base = base_of(config)
    if not config.lora_rank:
        return load_policy(base, config.device)
    settings = QLoRAConfig(
        str(base),
        config.four_bit,
        compute=config.compute,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        seed=config.seed,
    )
    return load_qlora(settings, device_of(config.device))


def device_of(name: str) -> str:
    """The device that one of DEVICES means: "auto" is CUDA if there is any. Raises UserError for CUDA without any."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device must be cpu or auto here: there is no CUDA device, got 'cuda'")
    return name


def load_policy(folder: str | Path, device: str = "cpu") -> Policy:
    """Load the clean policy of a checkpoint folder, of a run's newest checkpoint, or a language model by its short
    name, onto a device of DEVICES.

    Raises UserError when ``folder`` is none of these, or the run has no checkpoint.
    """
    return policy_and_step(folder, device)[0]


def policy_and_step(folder: str | Path, device: str = "cpu") -> tuple[Policy, int]:
    """As :func:`load_policy`, with the training step of the checkpoint; 0 of what is no run."""
    if str(folder) in MODELS:
        return load_base(QLoRAConfig(str(folder), four_bit=False), device_of(device)), 0
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} holds an adapter without its base: name the run that made it, or load it with peft onto the base"
        )
    if not (folder / "provenance.json").is_file():
        model, tokenizer = load(folder)
        return Policy(model.to(device_of(device)), tokenizer), 0
    run = RunFolder.open(folder)
    policy = starting_policy(replace(settings_of(run.path, run.config), device=device))
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise UserError(f"the run {folder} has no checkpoint yet")
    try:
        restore_weights(policy.model, checkpoint.tensors["model"])
    except (RuntimeError, KeyError):
        raise UserError(f"the checkpoint in {folder} does not fit its base policy") from None
    return policy, checkpoint.step


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
                policy.model.save_pretrained(new)
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
    """Raise UserError unless ``folder`` is missing or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists and is not empty; choose another folder")
