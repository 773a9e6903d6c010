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

from psn_tutorial.checkpoints import Checkpoint, pack_optimizer, unpack_optimizer
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.tiny import TinyConfig, build_model, build_tokenizer
from psn_tutorial.runs import Run
from psn_tutorial.settings import check_choice, check_count, check_positive, option
from psn_tutorial.tasks.base import TASK_NAMES, Task


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a base model."""

    task: str = option("countdown", "what to demonstrate", TASK_NAMES)
    difficulty: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "fields of the task that differ from its default"}
    )
    model: TinyConfig = TinyConfig()
    problems: int = option(20_000, "problems that the demonstrations are drawn from")
    demonstrations: int = option(100_000, "texts to imitate")
    steps: int = option(3000, "optimiser steps")
    batch: int = option(256, "texts per step")
    lr: float = option(3e-3, "peak learning rate of AdamW; a cosine takes it to 0")
    warmup: int = option(100, "steps to the peak")
    seed: int = option(0, "seed of weights, problems and order")

    def __post_init__(self):
        check_choice("task", self.task, TASK_NAMES)
        for name in ("problems", "demonstrations", "steps", "batch"):
            check_count(name, getattr(self, name))
        for name in ("warmup", "seed"):
            check_count(name, getattr(self, name), low=0)
        check_positive("lr", self.lr)


# The shipped bases. Countdown sees few problems often: a base that has read more solves them all within 256 samples and
# leaves nothing to explore. The rule base is untied, as the large Qwens are, so that noise can act on the unembedding
# alone.
BASES = {
    "countdown": PretrainConfig("countdown", problems=7000, demonstrations=7000, steps=1500),
    "rules": PretrainConfig(
        "rules", model=TinyConfig(tied=False), problems=50_000, demonstrations=50_000, steps=2500
    ),
    "chain": PretrainConfig(
        "chain", model=TinyConfig(hidden=32, ff=128, tied=False), problems=1, demonstrations=50_000, steps=300
    ),
}


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


class Pretraining:
    """Trains a base model from its seed; can be stopped at any step and goes on bit for bit.

    Args:
        task: what to demonstrate, at the difficulty of the config.
        exclude: problems never to demonstrate (what policies are trained and evaluated on).
        run: where records and checkpoints go; None keeps nothing.

    Attributes: ``model`` (trained in place), ``tokenizer``, ``step_number``.
    """

    def __init__(
        self, task: Task, config: PretrainConfig, exclude: list | None = None, run: Run | None = None
    ):
        self.config, self.run, self.step_number = config, run, 0
        self.tokenizer = build_tokenizer(task.words)
        self.model = build_model(config.model, self.tokenizer, config.seed)
        self.ids, self.mask = demonstrations(task, self.tokenizer, config, exclude or [])
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.generator = torch.Generator().manual_seed(config.seed)

    def train(self) -> Iterator[dict[str, Any]]:
        """Take the steps that are left; yields {"step", "loss" (nats a token), "lr", "seconds"}."""
        while self.step_number < self.config.steps:
            record = self.step()
            if self.run:
                self.run.log(record)
            yield record

    def step(self) -> dict[str, Any]:
        """One optimiser step; returns its record."""
        started = time.perf_counter()
        self.step_number += 1
        for settings in self.optimizer.param_groups:
            settings["lr"] = self.config.lr * _schedule(self.step_number, self.config)
        rows = self._rows()
        loss = _loss(self.model, self.ids[rows], self.mask[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            "step": self.step_number, "loss": loss.item(), "lr": settings["lr"],
            "seconds": time.perf_counter() - started,
        }  # fmt: skip

    def _rows(self) -> Tensor:
        return torch.randint(len(self.ids), (self.config.batch,), generator=self.generator)

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        optimizer, state = pack_optimizer(self.optimizer, self.model)
        tensors = {"model": self.model.state_dict(), "optimizer": optimizer}
        self.run.save_checkpoint(self.step_number, tensors, {"optimizer": state})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, bit for bit."""
        self.model.load_state_dict(checkpoint.tensors["model"])
        tensors, state = checkpoint.tensors["optimizer"], checkpoint.state["optimizer"]
        unpack_optimizer(self.optimizer, self.model, tensors, state)
        while self.step_number < checkpoint.step:  # the random stream, to where it stood
            self._rows()
            self.step_number += 1


def pretrain(
    task: Task, config: PretrainConfig, exclude: list | None = None
) -> Iterator[tuple[dict[str, float], nn.Module, PreTrainedTokenizerFast]]:
    """:class:`Pretraining` from beginning to end: yields (record, model, tokenizer) per step."""
    training = Pretraining(task, config, exclude)
    for record in training.train():
        yield record, training.model, training.tokenizer


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
