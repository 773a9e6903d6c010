"""Make a tiny base model: supervised pre-training on a task's demonstrations.

The base knows the format and the arithmetic of its task and finds solutions with modest probability; reinforcement
learning starts from it, as RLVR starts from a pretrained language model.
"""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from psn_tutorial.errors import UserError
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.tiny import TinyConfig, build_model, build_tokenizer
from psn_tutorial.tasks.base import Task


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a base model.

    Attributes:
        task: "countdown", "rules" or "chain"; ``difficulty`` its fields, empty for the defaults.
        model: sizes of the network.
        problems, demonstrations: how many problems the demonstrations are drawn from, and how many of these there are.
        steps, batch, lr, warmup: optimiser steps, texts per step, peak learning rate (AdamW, cosine to 0), steps
            to reach it.
    """

    task: str = "countdown"
    difficulty: dict[str, Any] = field(default_factory=dict)
    model: TinyConfig = TinyConfig()
    problems: int = 20_000
    demonstrations: int = 100_000
    steps: int = 3000
    batch: int = 256
    lr: float = 3e-3
    warmup: int = 100
    seed: int = 0

    def __post_init__(self):
        for name in ("problems", "demonstrations", "steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise UserError(f"lr must be > 0, got {self.lr}")


# The shipped bases. The rule base is untied, as the large Qwens are, so that noise can act on the unembedding alone.
BASES = {
    "countdown": PretrainConfig("countdown"),
    "rules": PretrainConfig("rules", model=TinyConfig(tied=False), problems=50_000, demonstrations=50_000, steps=2000),
    "chain": PretrainConfig(
        "chain", model=TinyConfig(hidden=32, ff=128, tied=False), problems=1, demonstrations=50_000, steps=300
    ),
}  # fmt: skip


def demonstrations(
    task: Task, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig, exclude: list
) -> tuple[Tensor, Tensor]:
    """Texts to imitate: ids [N, S] (padded on the right) and the mask [N, S] of the tokens that carry loss."""
    rng = random.Random(config.seed)
    problems = task.generate(config.seed, config.problems, exclude=exclude)
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    rows, masks = [], []
    for i in range(config.demonstrations):
        problem = problems[i % len(problems)]
        shown = task.demonstration(problem, rng)
        prompt = tokenizer(task.prompt(problem))["input_ids"]
        answer = tokenizer.convert_tokens_to_ids(shown.text.split(" "))
        rows.append([*prompt, *answer, end])
        masks.append([False] * len(prompt) + [*shown.loss, shown.end_loss])
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([row + [False] * (longest - len(row)) for row in masks])
    return ids, mask


def pretrain(
    task: Task, config: PretrainConfig, exclude: list | None = None
) -> Iterator[tuple[dict[str, float], nn.Module, PreTrainedTokenizerFast]]:
    """Train a base model from its seed; yields (record, model, tokenizer) after every step.

    Args:
        task: what to demonstrate, at the difficulty of the config.
        exclude: problems never to demonstrate (the evaluation split).

    Yields:
        A record {"step", "loss" (nats per token), "lr", "seconds"}, and the model, in place.
    """
    tokenizer = build_tokenizer(task.words)
    model = build_model(config.model, tokenizer, config.seed)
    ids, mask = demonstrations(task, tokenizer, config, exclude or [])
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
    generator = torch.Generator().manual_seed(config.seed)
    for step in range(1, config.steps + 1):
        started = time.perf_counter()
        for settings in optimizer.param_groups:
            settings["lr"] = config.lr * _schedule(step, config)
        rows = torch.randint(len(ids), (config.batch,), generator=generator)
        loss = _loss(model, ids[rows], mask[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        record = {"step": step, "loss": loss.item(), "lr": settings["lr"], "seconds": time.perf_counter() - started}
        yield record, model, tokenizer


def _schedule(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then a cosine down to zero: the factor on the peak learning rate."""
    if step <= config.warmup:
        return step / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup)))


def _loss(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy, nats per token that carries loss; ids and mask [B, S]."""
    logits = forward(model, ids[:, :-1])
    wanted = mask[:, 1:]
    return F.cross_entropy(logits[wanted], ids[:, 1:][wanted])
