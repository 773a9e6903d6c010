"""Group advantages by hand, and Pass@k advantages against every k-subset."""

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from psn_tutorial.advantages import group_advantages, only_unsolved, pass_at_k_advantages, zero_contrast
from psn_tutorial.errors import UserError

BINARY = st.integers(2, 8).flatmap(lambda g: st.lists(st.integers(0, 1), min_size=g, max_size=g))
REAL = st.integers(2, 8).flatmap(lambda g: st.lists(st.floats(-5, 5), min_size=g, max_size=g))


def row(rewards):
    return tensor([rewards], dtype=torch.float64)


# --- GRPO ---------------------------------------------------------------------------------------


def test_standardised_by_hand():
    # One right of four: mean 1/4, unbiased variance (9/16 + 3/16) / 3 = 1/4, deviation 1/2.
    got = group_advantages(row([1, 0, 0, 0]), eps=0)
    torch.testing.assert_close(got, row([1.5, -0.5, -0.5, -0.5]), rtol=1e-14, atol=0)


def test_centred_by_hand():
    got = group_advantages(row([1, 0, 0, 0]), scale="none")
    torch.testing.assert_close(got, row([0.75, -0.25, -0.25, -0.25]), rtol=1e-14, atol=0)


def test_the_default_is_verls_unbiased_deviation_plus_one_millionth():
    torch.testing.assert_close(group_advantages(row([1, 0])), row([0.5, -0.5]) / (sqrt(0.5) + 1e-6), rtol=1e-14, atol=0)


def test_groups_do_not_mix():
    rewards = tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [3, 3, 3, 7]])
    for scale in ("std", "none"):
        together = group_advantages(rewards, scale)
        apart = torch.cat([group_advantages(one[None], scale) for one in rewards])
        assert torch.equal(together, apart)


@pytest.mark.parametrize("same", [0.0, 1.0, 0.1, 1e30, -1 / 3])
@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_no_contrast_is_exactly_zero(same, size):
    rewards = torch.full((3, size), same)
    for scale in ("std", "none"):
        assert (group_advantages(rewards, scale, eps=0) == 0).all()
    assert zero_contrast(rewards).all()


def test_zero_contrast_by_hand():
    rewards = tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, 1]])
    assert zero_contrast(rewards).tolist() == [True, True, False, False]
    assert not zero_contrast(row([1e-200, 2e-200])).any()  # whose deviation underflows to 0


def test_mere_rounding_is_not_blown_up():
    rewards = tensor([[0.3, 0.1 + 0.2, 0.3]], dtype=torch.float64)
    assert rewards[0, 0] != rewards[0, 1]
    assert group_advantages(rewards).abs().max() < 1e-9


@settings(max_examples=60, deadline=None)
@given(REAL, st.floats(-3, 3), st.floats(0.5, 20))
def test_shift_and_scale_and_order(rewards, shift, factor):
    rewards = row(rewards)
    for scale in ("std", "none"):
        base = group_advantages(rewards, scale)
        assert abs(base.sum().item()) < 1e-8
        torch.testing.assert_close(group_advantages(rewards.flip(1), scale).flip(1), base)
    if rewards.std() > 1e-2:
        for scale, power in (("std", 0), ("none", 1)):
            base = group_advantages(rewards, scale)
            shifted = group_advantages(rewards + shift, scale)
            torch.testing.assert_close(shifted, base, rtol=1e-6, atol=1e-6)
            scaled = group_advantages(rewards * factor, scale)
            torch.testing.assert_close(scaled, base * factor**power, rtol=2e-4, atol=1e-6)
        assert group_advantages(rewards, eps=0).std() == pytest.approx(1.0)


# --- Pass@k -------------------------------------------------------------------------------------


def by_subsets(rewards, k):
    """The definition: every k-subset earns its best reward, normalised; a mean over one's own."""
    subsets = list(combinations(range(len(rewards)), k))
    scores = np.array([max(rewards[i] for i in subset) for subset in subsets], dtype=float)
    if scores.std() == 0:
        return [0.0] * len(rewards)
    normal = (scores - scores.mean()) / scores.std()
    return [float(np.mean([normal[j] for j, subset in enumerate(subsets) if i in subset])) for i in range(len(rewards))]


@pytest.mark.parametrize("size", range(2, 8))
def test_pass_at_k_is_its_definition(size):
    for k in range(1, size + 1):
        for right in range(size + 1):
            rewards = [1] * right + [0] * (size - right)
            got = pass_at_k_advantages(row(rewards), k)
            expected = row(by_subsets(rewards, k))
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_pass_at_k_by_hand():
    # One right of 4, k = 2: R = 1 - C(3,2)/C(4,2) = 1/2, s = 1/2; 1/2 - C(2,1)/C(3,1) = -1/6.
    got = pass_at_k_advantages(row([0, 1, 0, 0]), 2)
    torch.testing.assert_close(got, row([-1 / 3, 1, -1 / 3, -1 / 3]), rtol=1e-14, atol=0)


@settings(max_examples=60, deadline=None)
@given(BINARY, st.data())
def test_pass_at_k_properties(rewards, data):
    size = len(rewards)
    k = data.draw(st.integers(1, size))
    got = pass_at_k_advantages(row(rewards), k)[0]
    right = tensor(rewards).bool()
    assert abs(got.sum().item()) < 1e-9
    assert (got[right] >= 0).all() and (got[~right] <= 1e-12).all()
    if right.sum() == 0 or (~right).sum() < k:
        assert (got == 0).all()
    else:
        assert (got[right] > 0).all()
    perm = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pass_at_k_advantages(row(rewards)[:, perm], k)[0], got[perm])


def test_pass_at_one_is_grpo_with_the_biased_deviation():
    rewards = tensor([[1.0, 0, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]).double()
    unbiased = group_advantages(rewards, eps=0)
    torch.testing.assert_close(pass_at_k_advantages(rewards, 1), unbiased * sqrt(6 / 5))


def test_larger_k_leaves_less_for_one_more_success():
    rewards = row([1] * 4 + [0] * 12)
    first = [pass_at_k_advantages(rewards, k)[0, 0].item() for k in (1, 2, 4, 8, 13)]
    assert first == sorted(first, reverse=True) and first[-1] == 0.0


def test_pass_at_k_of_large_groups_stays_exact():
    rewards = torch.zeros(2, 512)
    rewards[0, 0] = 1
    got = pass_at_k_advantages(rewards, 256)  # C(512, 256) is beyond float64's 1e308 squared
    torch.testing.assert_close(got[0, 0].item(), 1.0)  # R = 1/2 exactly
    assert (got[1] == 0).all() and got.isfinite().all()


# --- types and refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("function", [group_advantages, lambda r: pass_at_k_advantages(r, 2)])
def test_whole_numbers_booleans_arrays_and_lists_are_rewards(function):
    rewards = [[1, 0, 0], [1, 1, 0]]
    expected = function(tensor(rewards, dtype=torch.float32))
    assert expected.dtype == torch.float32
    for kind in (rewards, tensor(rewards), tensor(rewards).bool(), np.array(rewards)):
        assert torch.equal(function(kind), expected)
    assert function(tensor(rewards, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("function", [group_advantages, lambda r: pass_at_k_advantages(r, 1), zero_contrast])
@pytest.mark.parametrize(
    "rewards, sentence",
    [
        (torch.ones(4), "rewards must have the shape [P, G] with at least 2 rollouts per prompt, "),
        (torch.ones(4, 1), "rewards must have the shape [P, G] with at least 2 rollouts"),
        (torch.ones(2, 2, 2), "rewards must have the shape [P, G]"),
        (tensor([[1.0, float("nan")]]), "rewards must be finite, got nan"),
        (tensor([[1.0, float("inf")]]), "rewards must be finite, got inf"),
    ],
)
def test_bad_rewards(function, rewards, sentence):
    with pytest.raises(UserError) as refusal:
        function(rewards)
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize("k", [0, 5, -1, 2.0, True, "2", None])
def test_k_must_be_in_the_group(k):
    with pytest.raises(UserError, match="k must be a whole number >= 1 and <= 4, got"):
        pass_at_k_advantages(torch.ones(2, 4), k)


def test_other_refusals():
    with pytest.raises(UserError, match="scale must be one of 'std', 'none', got 'sd' .did you"):
        group_advantages(torch.ones(2, 4), scale="sd")
    with pytest.raises(UserError, match="eps must be >= 0, got -1"):
        group_advantages(torch.ones(2, 4), eps=-1.0)
    with pytest.raises(UserError, match="rewards must be 0 or 1"):
        pass_at_k_advantages(tensor([[0.5, 1.0]]), 1)


# --- The gate -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 1), min_size=4, max_size=4)), min_size=1, max_size=6))
def test_the_gate_takes_whole_groups_and_leaves_the_others_as_they_are(groups):
    advantages = group_advantages([rewards for _, rewards in groups])
    before = advantages.clone()
    left = only_unsolved(advantages, tensor([solved for solved, _ in groups]))
    for row, (solved, _), kept in zip(before, groups, left, strict=True):
        assert torch.equal(kept, torch.zeros(4) if solved else row)
    assert torch.equal(advantages, before)  # not in place
