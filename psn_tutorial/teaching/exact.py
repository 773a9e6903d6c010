"""Exact expectations, gradients and distances on an enumerable policy: the oracle of tests and notebooks.

Nothing here samples. A batch is the set of ALL trajectories (:mod:`psn_tutorial.teaching.tabular`), [B, T] log-probs of
it say everything about a policy, and an expectation is a sum of B terms in float64. pi is the target, mu the sampler.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor

from psn_tutorial.advantages import group_advantages
from psn_tutorial.errors import check_count, check_range
from psn_tutorial.teaching.tabular import TabularPolicy


def probabilities(logps: Tensor) -> Tensor:
    """pi(o) of every trajectory, [B, T] -> [B]; they sum to 1."""
    return logps.sum(-1).exp()


def expectation(logps: Tensor, values: Tensor) -> Tensor:
    """E_pi[f] for ``values`` [B] of f, a scalar with the gradient of ``logps``."""
    return (probabilities(logps) * values).sum()


def value_gradient(policy: TabularPolicy, rewards: Tensor) -> Tensor:
    """The true policy gradient dE_pi[R] / dW, [V, D], by differentiating the sum; ``rewards`` [B]."""
    return torch.autograd.grad(expectation(policy.logps(), rewards), policy.weight)[0]


def surrogate_gradient(
    policy: TabularPolicy, sampler_logps: Tensor, weights: Tensor | float, advantages: Tensor
) -> Tensor:
    """What a score-function estimator computes on average: E_mu[ A sum_t w_t grad log pi(o_t | o_<t) ], [V, D].

    Args:
        policy: pi; its own log-probs carry the gradient.
        sampler_logps: [B, T] of mu, which generates the trajectories.
        weights: [B, T] importance weights, or one number for all; constants to the gradient.
        advantages: [B].
    """
    factor = probabilities(sampler_logps).detach() * advantages
    score = (torch.as_tensor(weights).detach() * policy.logps()).sum(-1)
    return torch.autograd.grad((factor * score).sum(), policy.weight)[0]


def gradient_moments(
    policy: TabularPolicy, sampler_logps: Tensor, weights: Tensor | float, advantages: Tensor
) -> tuple[Tensor, float]:
    """Mean and total variance of ONE rollout's estimate A sum_t w_t grad log pi_t.

    Arguments as in :func:`surrogate_gradient`. A batch of n independent rollouts has variance / n.

    Returns:
        The mean [V, D], and E|g|^2 - |E g|^2 (the trace of the covariance).
    """
    weights = torch.as_tensor(weights, dtype=torch.float64).expand(policy.every.mask.shape)
    own = (advantages[:, None] * _scores(policy, weights)).detach()  # [B, V * D]
    chance = probabilities(sampler_logps).detach()
    mean = chance @ own
    variance = float(chance @ own.square().sum(1) - mean.square().sum())
    return mean.view_as(policy.weight), max(variance, 0.0)


def _scores(policy: TabularPolicy, weights: Tensor) -> Tensor:
    """sum_t w_t dlog pi(o_t | o_<t) / dW of every trajectory, [B, V * D].

    In closed form: token a at a prefix with features x has the gradient (onehot(a) - pi(. | prefix)) x^T.
    """
    every = policy.every
    chance = policy.logits().softmax(-1)[every.prefixes]  # [B, T, V]
    chosen = F.one_hot(every.tokens, every.vocabulary).double()
    error = (weights * every.mask)[..., None] * (chosen - chance)
    return torch.einsum("btv,btd->bvd", error, policy.features[every.prefixes]).flatten(1)


def kl(logps: Tensor, other_logps: Tensor) -> Tensor:
    """KL(p || q) = E_p[log p - log q] of whole trajectories in nats; both [B, T], p first."""
    return expectation(logps, (logps - other_logps).sum(-1))


def chi_square(target_logps: Tensor, sampler_logps: Tensor) -> Tensor:
    """chi^2(pi || mu) = E_mu[w^2] - 1 of whole trajectories: the variance of the sequence weights w = pi / mu."""
    return expectation(sampler_logps, (2 * (target_logps - sampler_logps).sum(-1)).exp()) - 1


def population_ess(target_logps: Tensor, sampler_logps: Tensor) -> Tensor:
    """1 / (1 + chi^2): what ``importance_weights(...).ess`` at the sequence level tends to as the batch grows."""
    return 1 / (1 + chi_square(target_logps, sampler_logps))


def population_pass_at_k(success: Any, k: Any) -> Any:
    """1 - (1 - p)^k: the chance that one of k independent samples is right; arrays broadcast.

    The figure that ``evaluation.pass_at_k`` estimates from n samples without bias.
    """
    with np.errstate(divide="ignore"):  # success 1: log 0 = -inf, and exp(-inf) is the 0 it should be
        return -np.expm1(np.asarray(k) * np.log1p(-np.asarray(success, dtype=float)))


def population_coverage(probabilities: Any, k: int) -> float:
    """Mean share of the listed solutions (each with its probability) that k independent samples hit at least once."""
    return float(np.mean(population_pass_at_k(probabilities, k)))


def group_advantage(success: float, group: int, scale: str = "std") -> tuple[float, float]:
    """A rollout's mean GRPO advantage when its own reward is 0, and when it is 1.

    Exact over the other G - 1 rollouts of its group, of which Binomial(G - 1, success) are right.

    Args:
        success: each rollout's probability of reward 1, in [0, 1].
        group: G >= 2.
        scale: "std" or "none", as in ``advantages.group_advantages``.
    """
    check_range("success", success, low=0, high=1)
    check_count("group", group, low=2)
    right = np.arange(group + 1)
    rewards = (torch.arange(group) < torch.arange(group + 1)[:, None]).double()  # [G + 1, G]: row c has c right
    advantages = group_advantages(rewards, scale).numpy()
    others = binom.pmf(right[:-1], group - 1, success)
    wrong_one, right_one = advantages[right[:-1], -1], advantages[right[1:], 0]
    return float(others @ wrong_one), float(others @ right_one)


def gaussian_mean(f: Callable[[Tensor], Tensor], sigma: float, nodes: int = 2001) -> Tensor:
    """E[f(sigma z)] for z ~ N(0, 1), by the trapezoidal rule on [-12, 12].

    ``f`` maps a vector of shifts [nodes] to values [nodes, ...]. For smooth f the error of this rule falls
    exponentially in the number of nodes: products of a dozen sigmoids, at sigma up to 10, come out to 1e-12.
    """
    check_count("nodes", nodes, low=2)
    z = torch.linspace(-12, 12, nodes, dtype=torch.float64)
    density = (-z.square() / 2).exp()
    return torch.tensordot(density / density.sum(), f(sigma * z), dims=1)
