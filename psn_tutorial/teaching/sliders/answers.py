"""A slider over the size of the noise: what the model says, and how far that is from the clean policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from psn_tutorial.errors import UserError, check_count
from psn_tutorial.importance import importance_weights
from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.noise import NoiseConfig, stream
from psn_tutorial.reporting.rollout_table import RolloutTable, rollout_table, token_texts
from psn_tutorial.rollout import completion_logps, responses, sample
from psn_tutorial.tasks.base import Task
from psn_tutorial.teaching.sliders.moving import slide_html

SIGMAS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2, 1.6)


@dataclass(frozen=True)
class Heard:
    """The answers at one sigma, under a heading."""

    heading: str
    table: RolloutTable

    def __str__(self) -> str:
        return f"{self.heading}\n{self.table}"

    def _repr_html_(self) -> str:
        return f"<p><strong>{escape(self.heading)}</strong></p>{self.table._repr_html_()}"


def sigma_slider(
    policy: Policy,
    task: Task[Any],
    problem: Any,
    targets: str = "head",
    answers: int = 6,
    values: Sequence[float] = SIGMAS,
    relative: bool = True,
    seed: int = 0,
) -> None:
    """sigma against what the model says: ``answers`` answers to one problem, each under a draw of its own.

    All settings use the same draws and the same random numbers, so that only sigma differs. Tokens are shaded by their
    importance weight pi / mu, uncapped. targets, relative: of :class:`psn_tutorial.noise.NoiseConfig`.

    Raises UserError: fewer than three values.
    """
    check_count("answers", answers)
    if len(values) < 3:
        raise UserError(f"values must be at least three, got {len(values)}")
    still = (values[0], values[len(values) // 2], values[-1])

    def hear(sigma: float) -> Heard:
        return heard(policy, task, problem, NoiseConfig(sigma, targets, relative), answers, seed)

    slide_html("sigma", values, hear, still)


@torch.no_grad()
def heard(policy: Policy, task: Task[Any], problem: Any, noise: NoiseConfig, answers: int, seed: int) -> Heard:
    """What the policy answers under draws 0, 1, ... of this noise."""
    prompts = encode(policy.tokenizer, asked(policy.tokenizer, task, [problem]))
    longest, chance = task.max_tokens(problem), stream(seed, "a slider")
    rollouts = sample(policy, prompts, answers, longest, chance, 1.0, noise, torch.arange(answers)[None])
    clean, _ = completion_logps(policy.model, rollouts, torch.arange(answers), temperature=1.0)
    weights = importance_weights(clean, rollouts.logps, rollouts.mask, cap=None)
    verdicts = task.verify_many(responses(policy.tokenizer, rollouts), [problem] * answers)
    tokens = token_texts(policy.tokenizer, rollouts)
    right = sum(verdict.correct for verdict in verdicts)
    heading = f"sigma {noise.sigma:g}: {right} of {answers} right, KL {weights.kl_k3:.3f} nats per token"
    return Heard(heading, rollout_table([task.prompt(problem)] * answers, tokens, verdicts, weights=weights.weights))
