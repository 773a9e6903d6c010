"""The neighbours of the method on enumerable policies: what noise in the prompt and the gate do in expectation."""

from itertools import product

import pytest
import torch

from psn_tutorial.advantages import group_advantages, only_unsolved
from psn_tutorial.importance import importance_weights
from psn_tutorial.teaching import exact
from psn_tutorial.teaching.tabular import TabularPolicy, features, random_policy, trajectories

EVERY = trajectories(3, 3, end=2)
REWARDS = torch.rand(len(EVERY), generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def asked(prompt, prompts=4):
    """One policy that reads a prompt: all prompts share its weights, and each moves its logits."""
    table = features(EVERY, "prefix")
    place = torch.nn.functional.one_hot(torch.tensor(prompt), prompts).double().expand(len(table), -1)
    weight = torch.randn(3, table.shape[1] + prompts, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TabularPolicy(EVERY, torch.cat([table, place], 1), weight)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_behind_prefixes_the_weighted_update_is_the_gradient_of_the_clean_prompt(cap):
    """Averaged over three prefixes; capped, the exact gradient of what min(pi, C mu) weighs."""
    clean, behind = asked(0), [asked(prompt).logps().detach() for prompt in (1, 2, 3)]
    target, updates, expected = clean.logps().detach(), [], []
    p = exact.probabilities(target)
    for sampler in behind:
        weights = importance_weights(target, sampler, EVERY.mask, cap, "sequence").weights
        updates.append(exact.surrogate_gradient(clean, sampler, weights, REWARDS))
        mass = p if cap is None else torch.minimum(p, cap * exact.probabilities(sampler))
        values = mass * REWARDS * clean.logps().sum(1)  # sum of min(pi, C mu) R log pi, the first two held still
        expected.append(torch.autograd.grad(values.sum(), clean.weight)[0])
    torch.testing.assert_close(sum(updates), sum(expected), atol=1e-12, rtol=0)
    true = 3 * exact.value_gradient(clean, REWARDS)
    if cap is None:
        torch.testing.assert_close(sum(updates), true, atol=1e-12, rtol=0)
    else:
        assert (sum(updates) - true).norm() > 0.01 * true.norm()
    plain = sum(exact.surrogate_gradient(clean, s, torch.ones_like(s), REWARDS) for s in behind)
    assert (plain - true).norm() > 0.1 * true.norm()  # without the ratio it is another gradient


@pytest.mark.parametrize("scale", ["none", "std"])
def test_the_gate_weighs_a_problems_later_update_by_the_chance_that_it_is_still_unsolved(scale):
    """Two steps on one problem, G = 2, every pair of groups: the second update is the ungated one, times the
    probability (1 - J)^G that the first group had no success; so what is easy stops to count, and what is hard does
    not."""
    every = trajectories(2, 2)
    policy = random_policy(every, seed=1)
    p = exact.probabilities(policy.logps().detach())
    scores = [torch.autograd.grad(policy.logps()[o].sum(), policy.weight)[0] for o in range(4)]
    right = torch.tensor([0.0, 0.0, 0.0, 1.0])
    success, gated, ungated = float(p[3]), torch.zeros_like(policy.weight), torch.zeros_like(policy.weight)
    for first, second in product(product(range(4), repeat=2), repeat=2):
        chance = float(p[[*first, *second]].prod())
        advantages = group_advantages(right[list(second)][None], scale)
        solved = torch.tensor([bool(right[list(first)].any())])
        for into, kept in ((ungated, advantages), (gated, only_unsolved(advantages, solved))):
            into += chance * sum(float(a) * scores[o] for a, o in zip(kept[0], second, strict=True)) / 2
    torch.testing.assert_close(gated, (1 - success) ** 2 * ungated, atol=1e-12, rtol=0)
    assert 0.05 < success < 0.95 and float(ungated.norm()) > 1e-3
    if scale == "none":  # the group's own mean takes 1 / G of the gradient
        value = exact.value_gradient(policy, right.double())
        torch.testing.assert_close(ungated, value / 2, atol=1e-12, rtol=0)
