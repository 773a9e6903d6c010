"""Advantages: how much better a rollout did than its group.

The G rollouts of one prompt are each other's baseline; no value network. A group whose rollouts all
earn the same teaches nothing ("zero contrast") and gets exactly 0.
"""

from math import comb

import torch
from torch import Tensor

from psn_tutorial.choices import SCALES
from psn_tutorial.errors import UserError, check_choice, check_range


def group_advantages(rewards: Tensor, scale: str = "std", eps: float = 1e-6) -> Tensor:
    """GRPO's advantages: (r - mean of the group) / standard deviation of the group.

    Source: DeepSeekMath (arXiv 2402.03300), section 4.1.2. The standard deviation is the unbiased
    one (divided by G - 1) plus ``eps``, as in verl, from which the released code of the paper is
    forked; TRL does the same with 1e-4. ``scale="none"`` only subtracts the mean (Dr. GRPO, arXiv
    2503.20783): dividing by the deviation gives nearly solved and nearly hopeless prompts a
    larger say.

    Args:
        rewards: [P, G], a tensor or nested list: P prompts, G >= 2 rollouts of each.
        scale: "std" or "none".
        eps: added to the standard deviation, in units of reward; keeps differences that are mere
            rounding from being blown up.

    Returns:
        [P, G] float; sums to 0 in every row; exactly 0 in a row of equal rewards.

    Raises:
        UserError: rewards not [P, G >= 2] or not finite, an unknown scale, a negative eps.
    """
    check_choice("scale", scale, SCALES)
    check_range("eps", eps, low=0)
    rewards = _checked(rewards)
    centred = rewards - rewards.mean(1, keepdim=True)
    if scale == "std":
        centred = centred / (rewards.std(1, keepdim=True, correction=1) + eps)
    # The mean of G equal floats need not be that float: without this, rounding becomes a signal.
    return centred.masked_fill(zero_contrast(rewards)[:, None], 0.0)


def pass_at_k_advantages(rewards: Tensor, k: int) -> Tensor:
    """Advantages of Pass@k training: a set of k rollouts is rewarded when ANY of them is right.

    Source: arXiv 2508.10751 (RUCAIBox/Passk_Training). Take every k-subset S of the group's G
    rollouts, give S the reward max_{i in S} r_i, normalise those rewards over all subsets, and let
    a rollout's advantage be the mean over the subsets it is in. With c right rollouts and
    m = G - c wrong ones:

        R     = 1 - C(m, k) / C(G, k)                     mean reward of a subset
        s     = sqrt(R (1 - R))                           its standard deviation
        right = (1 - R) / s                               all its subsets earn 1
        wrong = (1 - R - C(m-1, k-1) / C(G-1, k-1)) / s   the rest of S is wrong too in that share

    A right rollout among many right ones earns little: what counts is the group's first success. At
    k = 1 this is :func:`group_advantages` with the biased standard deviation (divided by G).

    Args:
        rewards: [P, G] of 0 and 1, a tensor or nested list, G >= 2.
        k: size of a subset, 1 <= k <= G.

    Returns:
        [P, G] float; sums to 0 in every row; exactly 0 where no subset or every subset succeeds
        (c = 0 or m < k), which is a wider class than :func:`zero_contrast`.

    Raises:
        UserError: rewards not [P, G >= 2] or not 0/1; k not a whole number in 1..G.
    """
    rewards = _checked(rewards)
    size = rewards.shape[1]
    check_range("k", k, low=1, high=size, whole=True)
    right = rewards == 1
    if not (right | (rewards == 0)).all():
        raise UserError("rewards must be 0 or 1 for Pass@k training")

    # One row for every count of wrong rollouts; Python's whole numbers divide without overflow.
    table = torch.zeros(size + 1, 2, dtype=torch.float64)
    for wrong in range(k, size):  # fewer than k wrong ones, or all of them wrong: no contrast, 0
        failure = comb(wrong, k) / comb(size, k)  # 1 - R
        deviation = (failure * (1 - failure)) ** 0.5
        alone = comb(wrong - 1, k - 1) / comb(size - 1, k - 1)
        table[wrong] = torch.tensor([failure - alone, failure], dtype=torch.float64) / deviation
    table = table.to(rewards)
    by_group = table[size - right.sum(1)]  # [P, 2]: what a wrong and a right rollout get
    return by_group.gather(1, right.long())


def only_unsolved(advantages: Tensor, solved: Tensor) -> Tensor:
    """The gate "unsolved": problems that an earlier step has solved no longer learn.

    Source: arXiv 2606.15455 (Understanding Diversity Collapse in RLVR via the Lens of Overtraining), whose argument is
    that with few rollouts a single success puts a problem where its pass@k at large k hardly grows any more, while
    further updates go on to concentrate the policy on what it samples anyway. Read were its abstract, which reports the
    intervention (updates restricted to problems with zero observed success), and what others write of it, not the
    paper itself. The rule here is therefore ours: a group keeps its advantages as long as no EARLIER step of the run
    has seen a correct rollout of its problem, of the noisy sampler too. The group that brings the first success is the
    one that teaches: within a group that has none, GRPO's advantages are 0. Their method, Bayesian Boundary Gating,
    according to a public reimplementation, weighs a group by its number of successes and lets groups without any learn
    by REINFORCE with a signed reward; neither is done here.

    Costs nothing. It slows training: the mean of the loss is still over all rollouts of the step, and when every
    problem has been solved once nothing is learned any more, so that few problems stand still early. A KL or entropy
    term goes on for all rollouts.

    Args:
        advantages: [P, G].
        solved: [P] bool, the problem of each group was solved by an earlier step.

    Returns:
        [P, G]; exactly 0 in the rows that are solved.
    """
    return advantages.masked_fill(solved[:, None], 0.0)


def zero_contrast(rewards: Tensor) -> Tensor:
    """Which groups earn the same reward throughout and so give no gradient.

    Args:
        rewards: [P, G], a tensor or nested list, G >= 2.

    Returns:
        [P] bool.

    Raises:
        UserError: rewards not [P, G >= 2] or not finite.
    """
    rewards = _checked(rewards)
    return rewards.amax(1) == rewards.amin(1)


def _checked(rewards: Tensor) -> Tensor:
    """``rewards`` as a float tensor [P, G]."""
    rewards = torch.as_tensor(rewards)
    if not rewards.is_floating_point():
        rewards = rewards.float()
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise UserError(
            f"rewards must have the shape [P, G] with at least 2 rollouts per prompt, got {list(rewards.shape)}"
        )
    if not rewards.isfinite().all():
        raise UserError(f"rewards must be finite, got {rewards[~rewards.isfinite()][0].item()}")
    return rewards
