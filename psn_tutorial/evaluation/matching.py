"""The temperature, or the top-p, at which a sampler without noise is as far from the policy as a wanted KL.

The KL of such a sampler follows from the policy's own logits, exactly at every prefix, and for all settings at once:
what has to be sampled is only where the prefixes lie. So the answers of one setting give the KL of all of them, the
setting of the wanted KL among them is where the next answers come from, and after a few rounds nothing moves any more.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psn_tutorial.errors import check_choice, check_count, check_positive
from psn_tutorial.evaluation.calibrate import OutOfReachError
from psn_tutorial.evaluation.probes import Sampler
from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.noise import stream
from psn_tutorial.rollout import LOGITS, Rollouts, completion_logits, sample
from psn_tutorial.tasks.base import Task

FAR = {"temperature": (1e-4, 2.0), "top_p": (1e-4, 0.95)}  # how far above 1, or below it, a setting is looked for
COARSE, FINE, NEAR = 9, 5, 1.5  # settings that a round computes: in the whole range; within a factor of the last one
ROUNDS, TOLERANCE = 12, 0.01  # rounds at most, and when two settings are the same


def sampler_of_kl(
    policy: Policy,
    task: Task,
    problems: Sequence[Any],
    target: float,
    setting: str,
    seed: int = 0,
    batch: int = 256,
    answers: int = 1,
) -> Sampler:
    """The sampler whose ``setting``, "temperature" (above 1) or "top_p", gives it the KL ``target``, nats per token.

    Args:
        batch: answers sampled at once, though never fewer than those to one problem; bounds the memory, and is part of
            the random stream.
        answers: to each problem; they say which prefixes the KL is averaged over.

    Raises:
        OutOfReachError: no setting in FAR has this KL.
        UserError: a target or a count that is not above 0, or another setting.
    """
    check_positive("target", target)
    for name, value in (("answers", answers), ("batch", batch)):
        check_count(name, value)
    check_choice("setting", setting, tuple(FAR))
    least, most = FAR[setting]
    grid = np.geomspace(least, most, COARSE)
    far, low, high = 0.0, 0.0, math.inf  # the first answers are the policy's own
    for _ in range(ROUNDS):
        now = _sampler(setting, far)
        kls = mean_kls(policy, task, problems, now, setting, [_value(setting, x) for x in grid], seed, batch, answers)
        logs = np.log(np.maximum(kls, 1e-300))  # the KL goes with a power of the distance: a line, in logs
        new = math.exp(np.interp(math.log(target), logs, np.log(grid)))
        if abs(new - far) < TOLERANCE * far:
            break
        low, high = (max(low, far), high) if new > far else (low, min(high, far))
        far = math.sqrt(low * high) if low and high < math.inf else new  # with both sides known, between them
        grid = np.geomspace(max(least, far / NEAR), min(most, far * NEAR), FINE)
    if not kls[0] <= target <= kls[-1]:
        words, end, kl = ("least", least, kls[0]) if target < kls[0] else ("most", most, kls[-1])
        raise OutOfReachError(f"target must be at {words} {kl:.3g}, the KL at {_sampler(setting, end)}, got {target:g}")
    return _sampler(setting, new)


@torch.no_grad()
def mean_kls(
    policy: Policy,
    task: Task,
    problems: Sequence[Any],
    sampler: Sampler,
    setting: str,
    values: Sequence[float],
    seed: int = 0,
    batch: int = 256,
    answers: int = 1,
) -> np.ndarray:
    """:func:`kls_of_settings` averaged over the tokens of ``answers`` to each problem by ``sampler``, which has no
    noise: [S]. Where a value is the sampler's own, this is its KL to the policy, nats per token."""
    sums, tokens = torch.zeros(len(values), dtype=torch.float64), 0
    size = max(1, batch // answers)
    for start in range(0, len(problems), size):
        some = problems[start : start + size]
        prompts = encode(policy.tokenizer, asked(policy.tokenizer, task, some))
        room, random = max(map(task.max_tokens, some)), stream(seed, "match", start)
        how = {"ends": task.ends, "top_p": sampler.top_p}
        rollouts = sample(policy, prompts, answers, room, random, sampler.temperature, **how)
        for logits in _logits(policy, rollouts):
            sums += kls_of_settings(logits, setting, values).double().sum(1).cpu()
        tokens += int(rollouts.mask.sum())
    return (sums / tokens).numpy()


def kls_of_settings(logits: Tensor, setting: str, values: Sequence[float]) -> Tensor:
    """KL(mu || pi) in nats of mu at each of S values of a setting, pi = softmax(logits): [S, N] of ``logits`` [N, V].

    At a temperature T, mu = softmax(logits / T), and the KL is E_mu[logits] (1/T - 1) - log Z(T) + log Z(1). With
    top-p, mu is pi among the tokens that are left, of mass m: the KL is -log m (:func:`psn_tutorial.rollout.choose`).
    """
    if setting == "top_p":
        mass = logits.float().softmax(-1).sort(descending=True).values.cumsum(-1)
        enough = torch.searchsorted(mass, mass.new_tensor(values).repeat(len(mass), 1))  # the fewest that have it
        return -mass.gather(1, enough.clamp(max=mass.shape[1] - 1)).clamp(max=1).log().T
    logits = logits.float()
    logits = (logits - logits.amax(-1, keepdim=True)).clamp_(min=-1e30)  # 0 times minus infinity is no number
    clean, found = logits.logsumexp(-1), []
    for temperature in values:
        mu = (logits / temperature).exp_()
        z, mean = mu.sum(-1), torch.linalg.vecdot(mu, logits)
        found.append(mean / z * (1 / temperature - 1) - z.log() + clean)
    return torch.stack(found)


def _logits(policy: Policy, rollouts: Rollouts) -> Iterator[Tensor]:
    """The policy's logits [n, V] at all tokens of the rollouts, a few rows at a time."""
    rows, length = rollouts.tokens.shape
    size = max(1, LOGITS // (length * policy.model.get_input_embeddings().weight.shape[0]))
    for some in torch.arange(rows).split(size):
        yield completion_logits(policy.model, rollouts, some, 1.0)[rollouts.mask[some]]


def _value(setting: str, far: float) -> float:
    """The setting so far from the policy's own, 1."""
    return 1 + far if setting == "temperature" else 1 - far


def _sampler(setting: str, far: float) -> Sampler:
    return Sampler(**{setting: _value(setting, far)})
