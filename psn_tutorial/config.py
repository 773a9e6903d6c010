"""The settings of a training run: flat, so that every field is a flag of the command line."""

from dataclasses import dataclass, field
from typing import Any

from psn_tutorial.errors import UserError
from psn_tutorial.importance import LEVELS, MODES
from psn_tutorial.losses import AGGREGATIONS
from psn_tutorial.noise import NoiseConfig
from psn_tutorial.schedulers import ScheduleConfig
from psn_tutorial.settings import check_choice, check_positive, check_range
from psn_tutorial.tasks.base import TASK_NAMES

SPREADS = ("pooled", "per_group")
ADVANTAGES = ("std", "none", "pass_at_k")
CORRECTIONS = (*LEVELS, "none")


def _option(default: Any, text: str, choices: tuple | None = None) -> Any:
    return field(default=default, metadata={"help": text} | ({"choices": choices} if choices else {}))


@dataclass(frozen=True)
class TrainConfig(ScheduleConfig):
    """One training run. sigma = 0 is plain GRPO; everything of :class:`ScheduleConfig` is here too."""

    # The problem and the batch
    task: str = _option("countdown", "what to train on", TASK_NAMES)
    base: str | None = _option(None, "checkpoint folder to start from; none: the shipped base of the task")
    seed: int = _option(0, "seed of problems, sampling and noise")
    steps: int = _option(300, "rollout batches, each followed by its updates")
    prompts: int = _option(32, "prompts per step (P)")
    group: int = _option(16, "rollouts per prompt (G)")
    temperature: float = _option(1.0, "temperature of the policy, on both sides of every ratio")
    # Exploration
    sampling_temperature: float | None = _option(
        None, "action-space noise: sample at this temperature, correct by importance; none: as the policy"
    )
    sigma: float = _option(0.0, "noise of the first step; 0: plain GRPO")
    targets: str = _option("mlp", "mlp, attention, embeddings, head, norms, all, or a regular expression")
    relative: bool = _option(False, "sigma is a multiple of each tensor's RMS")
    draws: int = _option(1, "noise draws per step; 1 is the released code")
    spread: str = _option("pooled", "how draws are spread over groups", SPREADS)
    antithetic: bool = _option(False, "draws come in pairs, eps and -eps")
    # Correction
    correction: str = _option("token", "level of the importance weights", CORRECTIONS)
    correction_mode: str = _option("truncate", "what becomes of a ratio above the cap", MODES)
    cap: float = _option(10.0, "largest importance weight (C)")
    mixture: bool = _option(False, "weights against the mixture of a group's draws (balance heuristic)")
    # GRPO
    advantage: str = _option("std", "scale of the group advantages, or Pass@k training", ADVANTAGES)
    pass_k: int = _option(4, "k of Pass@k training")
    aggregation: str = _option("grpo", "how tokens are averaged", AGGREGATIONS)
    clip_low: float = _option(0.2, "ratios are clipped below 1 - clip_low")
    clip_high: float = _option(0.2, "and above 1 + clip_high")
    kl_coef: float = _option(0.0, "weight of the KL (k3) to the base")
    entropy_coef: float = _option(0.0, "weight of the entropy bonus")
    updates: int = _option(1, "optimiser steps per rollout batch")
    # Optimisation
    lr: float = _option(1e-4, "learning rate of AdamW")
    grad_clip: float = _option(1.0, "largest gradient norm")
    micro_batch: int = _option(1024, "rollouts per forward and backward pass; bounds the memory")
    save_every: int = _option(50, "steps between checkpoints")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (
            ("task", TASK_NAMES), ("spread", SPREADS), ("correction", CORRECTIONS), ("correction_mode", MODES),
            ("advantage", ADVANTAGES), ("aggregation", AGGREGATIONS),
        ):  # fmt: skip
            check_choice(name, getattr(self, name), allowed)
        for name in ("steps", "prompts", "draws", "updates", "micro_batch", "save_every"):
            check_range(name, getattr(self, name), low=1, whole=True)
        check_range("seed", self.seed, low=0, whole=True)
        check_range("group", self.group, low=2, whole=True)
        check_range("pass_k", self.pass_k, low=1, high=self.group, whole=True)
        for name in ("temperature", "lr", "grad_clip", "cap"):
            check_positive(name, getattr(self, name))
        if self.sampling_temperature is not None:
            check_positive("sampling_temperature", self.sampling_temperature)
        for name in ("kl_coef", "entropy_coef", "clip_high"):
            check_range(name, getattr(self, name), low=0)
        check_range("clip_low", self.clip_low, low=0, high=1)
        self._check_draws()

    def _check_draws(self) -> None:
        rows = self.prompts if self.spread == "per_group" else self.prompts * self.group
        if rows % self.draws:
            what = "prompts" if self.spread == "per_group" else "rollouts"
            raise UserError(f"draws must divide the {rows} {what} of a step, got {self.draws}")
        if self.antithetic and self.draws % 2:
            raise UserError(f"draws must be even when antithetic, got {self.draws}")
        if self.mixture and (self.spread != "pooled" or self.group % self.draws):
            raise UserError(
                f"mixture weights need spread 'pooled' and draws that divide group {self.group}, "
                f"got {self.spread!r} and {self.draws}"
            )

    def noise(self, sigma: float) -> NoiseConfig | None:
        """The noise of a step whose scheduler says ``sigma``; None when there is none."""
        if self.sigma == 0:
            return None
        return NoiseConfig(sigma, self.targets, self.relative, self.seed, self.antithetic)

    @property
    def off_policy(self) -> bool:
        """Does another distribution than the policy's sample the rollouts?"""
        return self.sigma > 0 or self.sampling_temperature not in (None, self.temperature)
