"""The mean reward of the rollouts, for schedules that look at it: TRL tells no public hook what it has found."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from trl import GRPOTrainer
from trl.trainer.utils import is_async_callable


class RewardSums:
    """Listens to the reward functions of ``trainer`` while it trains.

    What one returns counts with its weight, and one that is None or not a number as 0, as in TRL's own sum.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.trainer = trainer
        self.clear()
        trainer.reward_funcs = [self._heard(i, function) for i, function in enumerate(trainer.reward_funcs)]

    def clear(self) -> None:
        self.total, self.answers = 0.0, 0

    def mean(self, accelerator: Accelerator) -> float:
        """The mean reward of all answers since the last call, over all processes. Forgets them."""
        both = torch.tensor([self.total, self.answers], device=accelerator.device)
        self.clear()
        total, answers = accelerator.reduce(both, reduction="sum").tolist()
        return total / max(1.0, answers)

    def _heard(self, i: int, function: Any) -> Any:
        """The same reward function, whose answers are taken note of; a reward model stays what it is."""
        if isinstance(function, nn.Module):
            function.register_forward_hook(lambda *call: self._add(i, call[-1].logits[:, 0]))
            return function
        return (_then_async if is_async_callable(function) else _then)(function, functools.partial(self._add, i))

    def _add(self, i: int, rewards: Sequence[float | None] | Tensor) -> None:
        if not self.trainer.model.training:
            return
        known = torch.tensor([torch.nan if reward is None else float(reward) for reward in rewards])
        self.total += float(self.trainer.reward_weights[i]) * float(known.nansum())
        self.answers += len(known) * (i == 0)


def _then(function: Callable, see: Callable) -> Callable:
    @functools.wraps(function, updated=())
    def seen(*values: Any, **named: Any) -> Any:
        found = function(*values, **named)
        see(found)
        return found

    return seen


def _then_async(function: Callable, see: Callable) -> Callable:
    @functools.wraps(function, updated=())
    async def seen(*values: Any, **named: Any) -> Any:
        found = await function(*values, **named)
        see(found)
        return found

    return seen
