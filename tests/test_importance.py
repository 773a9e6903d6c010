"""Importance weights by hand, against exact sums over an enumerable policy, and where numbers could overflow.

The statements of notebook 05 about such weights are checked in teaching/test_identities.py.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from psn_tutorial.errors import UserError
from psn_tutorial.importance import _wide, importance_weights, mixture_logps
from psn_tutorial.losses import policy_loss
from psn_tutorial.teaching import exact
from psn_tutorial.teaching.tabular import TabularPolicy, features, random_policy, trajectories

FULL = trajectories(3, 3)
ENDED = trajectories(3, 3, end=2)  # unequal lengths: 1, 2 and 3 tokens
WORLDS = pytest.mark.parametrize("every", [FULL, ENDED], ids=["full", "ended"])


def near(policy, seed, distance=1.0):
    """A policy whose logits differ from the given one's by N(0, distance^2)."""
    shift = random_policy(policy.every, seed, distance).weight
    return TabularPolicy(policy.every, policy.features, policy.weight + shift)


def pair(every, seed=0, distance=1.0):
    """A clean policy pi and a sampler mu near it."""
    pi = random_policy(every, seed)
    return pi, near(pi, seed + 100, distance)


def logps(policy):
    return policy.logps().detach()


def probabilities(policy):
    return exact.probabilities(logps(policy))


def weigh(pi, mu, every, **options):
    return importance_weights(logps(pi), logps(mu), every.mask, **options)


def sequence_weights(result):
    return result.weights[:, 0]  # every trajectory has a first token


def rewards_of(every, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(every), generator=generator, dtype=torch.float64)


def population(seed=0):
    """A sampler whose probabilities are quarters, and the batch of 64 rows in which a trajectory
    stands as often as it is likely: sample averages over it ARE expectations under mu."""
    generator = torch.Generator().manual_seed(seed)
    quarters = tensor([2.0, 1.0, 1.0], dtype=torch.float64) / 4
    order = torch.stack([torch.randperm(3, generator=generator) for _ in FULL.texts], 1)  # [V, prefixes]
    mu = TabularPolicy(FULL, features(FULL, "prefix"), quarters[order].log())
    counts = (probabilities(mu) * 64).round().long()
    assert counts.sum() == 64
    return mu, torch.arange(len(FULL)).repeat_interleave(counts)


# --- expectation one, and gradients through the loss --------------------------------------------


@WORLDS
def test_token_weights_average_to_one_at_every_position(every):
    pi, mu = pair(every)
    w = weigh(pi, mu, every, cap=None).weights
    p = probabilities(mu)[:, None]
    torch.testing.assert_close((p * w).sum(0), (p * every.mask).sum(0))  # share alive at t


def expected_gradient(pi, mu, every, rewards, **options):
    """E_mu[sum_t w_t R grad log pi_t]: policy_loss over all trajectories, each times mu(o)."""
    now = pi.logps()
    w = importance_weights(now.detach(), logps(mu), every.mask, **options).weights
    scale = len(every) * probabilities(mu) * rewards
    loss, _ = policy_loss(now, now.detach(), scale, every.mask, w, aggregation="dr_grpo", max_tokens=1)
    return torch.autograd.grad(-loss, pi.weight)[0]


@WORLDS
def test_sequence_level_gives_the_true_gradient(every):
    pi, mu = pair(every)
    rewards = rewards_of(every)
    estimate = expected_gradient(pi, mu, every, rewards, cap=None, level="sequence")
    torch.testing.assert_close(estimate, exact.value_gradient(pi, rewards))


@WORLDS
def test_on_policy_both_levels_are_exact_and_no_cap_bites(every):
    pi, _ = pair(every)
    rewards = rewards_of(every)
    for level in ("token", "sequence"):
        result = weigh(pi, pi, every, cap=1.0, level=level)
        assert torch.equal(result.weights, every.mask.double())
        assert (result.ess, result.mean_ratio, result.max_ratio) == (1.0, 1.0, 1.0)
        assert (result.clipped_fraction, result.kl_k1, result.kl_k3) == (0.0, 0.0, 0.0)
        estimate = expected_gradient(pi, pi, every, rewards, level=level)
        torch.testing.assert_close(estimate, exact.value_gradient(pi, rewards))


# --- what the cap does --------------------------------------------------------------------------


@pytest.mark.parametrize("mode, above", [("truncate", 3.0), ("mask", 0.0)])
def test_token_cap_by_hand(mode, above):
    ratios = tensor([[0.5, 4.0, 2.0], [8.0, 1.0, 9.0]], dtype=torch.float64)
    mask = tensor([[1, 1, 1], [1, 1, 0]])
    result = importance_weights(ratios.log(), torch.zeros(2, 3), mask, cap=3.0, mode=mode)
    expected = tensor([[0.5, above, 2.0], [above, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(result.weights, expected)
    assert result.clipped_fraction == pytest.approx(2 / 5)
    assert result.mean_ratio == pytest.approx((0.5 + 4 + 2 + 8 + 1) / 5)
    assert result.max_ratio == pytest.approx(8.0)
    assert result.ess == pytest.approx(15.5**2 / (5 * (0.25 + 16 + 4 + 64 + 1)))
    assert result.kl_k1 == pytest.approx(-math.log(0.5 * 4 * 2 * 8) / 5)
    assert result.kl_k3 == pytest.approx((15.5 - 5 - math.log(32)) / 5)


@pytest.mark.parametrize("mode, above", [("truncate", 3.0), ("mask", 0.0)])
def test_sequence_cap_by_hand(mode, above):
    ratios = tensor([[0.5, 4.0, 2.0], [2.0, 0.5, 9.0]], dtype=torch.float64)
    mask = tensor([[1.0, 1, 1], [1, 1, 0]])
    result = importance_weights(ratios.log(), torch.zeros(2, 3), mask, cap=3.0, mode=mode, level="sequence")
    expected = tensor([[above, above, above], [1.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(result.weights, expected)
    assert result.clipped_fraction == 0.5  # of sequences
    assert result.mean_ratio == pytest.approx((4 + 1) / 2)
    assert result.ess == pytest.approx(25 / (2 * 17))
    assert result.kl_k1 == pytest.approx(-math.log(4) / 5)  # per token at either level


def test_a_ratio_equal_to_the_cap_is_not_above_it():
    pi, mu = pair(FULL)
    for level in ("token", "sequence"):
        free = weigh(pi, mu, FULL, cap=None, level=level)
        for mode in ("truncate", "mask"):
            capped = weigh(pi, mu, FULL, cap=free.max_ratio, level=level, mode=mode)
            assert capped.clipped_fraction == 0
            assert torch.equal(capped.weights, free.weights)


# --- what the statistics estimate ---------------------------------------------------------------


def test_population_ess_is_one_over_one_plus_chi_square():
    mu, rows = population()
    pi = random_policy(FULL, 3)
    p, q = probabilities(pi), probabilities(mu)
    chi_square = ((p - q).square() / q).sum()
    torch.testing.assert_close(exact.chi_square(logps(pi), logps(mu)), chi_square)
    batch = logps(pi)[rows], logps(mu)[rows], FULL.mask[rows]
    for cap in (None, 10.0, 1.0, 1e-3):  # raw statistics: whatever the cap
        result = importance_weights(*batch, cap=cap, level="sequence")
        assert result.ess == pytest.approx(1 / (1 + chi_square.item()), rel=1e-12)
        assert result.mean_ratio == pytest.approx(1.0, rel=1e-12)
        assert result.max_ratio == pytest.approx((p / q).max().item(), rel=1e-12)
    capped = importance_weights(*batch, cap=1.0, level="sequence").weights[:, 0]
    assert result.ess < 0.9 * (capped.sum().square() / (64 * capped.square().sum())).item()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_k1_and_k3_are_unbiased_for_the_kl_from_sampler_to_target(level):
    mu, rows = population()
    pi = random_policy(FULL, 3)
    p, q = probabilities(pi), probabilities(mu)
    per_token = ((q * (q / p).log()).sum() / 3).item()
    reverse = ((p * (p / q).log()).sum() / 3).item()
    batch = logps(pi)[rows], logps(mu)[rows], FULL.mask[rows]
    result = importance_weights(*batch, level=level)
    assert result.kl_k1 == pytest.approx(per_token, rel=1e-12)
    assert result.kl_k3 == pytest.approx(per_token, rel=1e-12)
    assert abs(per_token - reverse) > 0.01  # so that the direction is tested


def test_k1_is_signed_and_k3_is_not():
    likelier, unlikelier = tensor([[-1.0, -1.0]]), tensor([[-1.1, -1.2]])
    mask = torch.ones(1, 2)
    assert importance_weights(likelier, unlikelier, mask).kl_k1 == pytest.approx(-0.15)
    assert importance_weights(unlikelier, likelier, mask).kl_k1 == pytest.approx(0.15)
    assert importance_weights(likelier, unlikelier, mask).kl_k3 > 0
    assert importance_weights(unlikelier, likelier, mask).kl_k3 > 0


# --- numbers that could overflow ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cap", [None, 10.0])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_nothing_overflows(level, cap, dtype):
    target = torch.zeros(4, 50, dtype=dtype)
    sampler = torch.zeros(4, 50, dtype=dtype)
    sampler[0], target[1] = -1000.0, -1000.0
    result = importance_weights(target, sampler, torch.ones(4, 50), cap=cap, level=level)
    assert result.weights.isfinite().all() and result.weights.dtype == dtype
    assert (result.weights[1] < 1e-30).all() and (result.weights[2:] == 1).all()
    largest = torch.full((50,), cap or math.exp(80), dtype=dtype)
    torch.testing.assert_close(result.weights[0], largest)
    for name in ("ess", "clipped_fraction", "kl_k1", "kl_k3", "mean_ratio", "max_ratio"):
        assert math.isfinite(getattr(result, name)), name
    assert result.ess == pytest.approx(1 / 4)  # one row in four carries everything


def test_ess_survives_ratios_that_underflow():
    target = torch.full((4, 50), -300.0)
    result = importance_weights(target, torch.zeros(4, 50), torch.ones(4, 50), level="sequence")
    assert result.ess == 1.0 and result.mean_ratio == 0.0


def test_the_default_is_the_papers_token_level_truncation_at_ten():
    ratios = tensor([[12.0, 9.0]])
    batch = ratios.log(), torch.zeros(1, 2), torch.ones(1, 2)
    result = importance_weights(*batch)
    torch.testing.assert_close(result.weights, tensor([[10.0, 9.0]]))
    same(importance_weights(*batch, cap=10, level="token", mode="truncate"), result)


def test_half_precision_gives_float32_weights():
    target = tensor([[-1.0, -2.0]], dtype=torch.bfloat16)
    result = importance_weights(target, target, torch.ones(1, 2))
    assert result.weights.dtype == mixture_logps(target[None], torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_float32_log_probs_are_computed_in_float64(level):
    target, sampler = torch.rand(2, 4, 50, generator=torch.Generator().manual_seed(0)).log()
    mask = torch.ones(4, 50)
    wide = importance_weights(target.double(), sampler.double(), mask, level=level)
    same(importance_weights(target, sampler, mask, level=level), replace(wide, weights=wide.weights.float()))


def test_a_device_without_float64_computes_in_float32():
    assert _wide(SimpleNamespace(device=torch.device("mps"))) == torch.float32


# --- padding and mask ---------------------------------------------------------------------------


def same(a, b):
    assert torch.equal(a.weights, b.weights)
    for name in ("ess", "clipped_fraction", "kl_k1", "kl_k3", "mean_ratio", "max_ratio"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_padding_never_leaks(junk, level):
    pi, mu = pair(ENDED)
    target, sampler, mask = logps(pi), logps(mu), ENDED.mask
    clean = importance_weights(target, sampler, mask, level=level)
    assert (clean.weights[~mask] == 0).all() and (clean.weights[mask] > 0).all()
    dirty = importance_weights(target.masked_fill(~mask, junk), sampler, mask, level=level)
    same(clean, dirty)
    same(clean, importance_weights(target, sampler.masked_fill(~mask, junk), mask, level=level))
    same(clean, importance_weights(target, sampler, mask.float(), level=level))
    same(clean, importance_weights(target, sampler, mask.long(), level=level))


def test_a_mask_shifted_by_one_changes_the_weights():
    pi, mu = pair(ENDED)
    target, sampler = logps(pi), logps(mu)
    short = torch.nn.functional.pad(ENDED.mask[:, 1:], (0, 1))  # loses the end-of-text token
    exact = importance_weights(target, sampler, ENDED.mask, cap=None, level="sequence")
    wrong = importance_weights(target, sampler, short, cap=None, level="sequence")
    q = probabilities(mu)
    assert abs((q * sequence_weights(exact)).sum() - 1) < 1e-12
    assert abs((q * sequence_weights(wrong)).sum() - 1) > 0.05


def test_rows_without_tokens_count_for_nothing():
    pi, mu = pair(ENDED)
    target, sampler, mask = logps(pi), logps(mu), ENDED.mask
    none = torch.zeros(2, 3)
    for level in ("token", "sequence"):
        with_rows = importance_weights(
            torch.cat([target, none]),
            torch.cat([sampler, none]),
            torch.cat([mask, none.bool()]),
            level=level,
        )
        without = importance_weights(target, sampler, mask, level=level)
        assert with_rows.ess == pytest.approx(without.ess, rel=1e-12)
        assert with_rows.mean_ratio == pytest.approx(without.mean_ratio, rel=1e-12)
        assert (with_rows.weights[-2:] == 0).all()


def test_no_gradient_reaches_the_weights():
    target = torch.full((2, 3), -1.0, requires_grad=True)
    assert not importance_weights(target, target - 0.1, torch.ones(2, 3)).weights.requires_grad
    assert not mixture_logps(target[None], torch.ones(2, 3)).requires_grad
    assert target.grad is None


# --- properties ---------------------------------------------------------------------------------

RATIOS = st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=6).map(
    lambda rows: tensor(rows, dtype=torch.float64)
)


@settings(max_examples=60, deadline=None)
@given(
    RATIOS,
    st.sampled_from(["token", "sequence"]),
    st.sampled_from(["truncate", "mask"]),
    st.floats(0.01, 50),
)
def test_whatever_the_ratios(log_ratio, level, mode, cap):
    sampler = torch.full_like(log_ratio, -3.0)
    mask = torch.ones_like(log_ratio)
    result = importance_weights(sampler + log_ratio, sampler, mask, cap, level, mode)
    units = log_ratio if level == "token" else log_ratio.sum(1)
    n = units.numel()
    assert 1 / n - 1e-12 <= result.ess <= 1 + 1e-12
    assert result.kl_k3 >= 0
    assert (result.weights >= 0).all() and result.weights.max() <= cap * (1 + 1e-12)
    assert result.mean_ratio <= result.max_ratio * (1 + 1e-12)
    assert result.clipped_fraction * n == pytest.approx(round(result.clipped_fraction * n))
    # A shift of both log-probs and an order of the rows are no information.
    moved = importance_weights(log_ratio.flip(0), torch.zeros_like(mask), mask, cap, level, mode)
    torch.testing.assert_close(moved.weights.flip(0), result.weights, rtol=1e-9, atol=1e-12)
    assert moved.ess == pytest.approx(result.ess, rel=1e-9)


# --- several draws ------------------------------------------------------------------------------


def draws(every, count=4, seed=20):
    pi = random_policy(every, seed)
    return pi, torch.stack([logps(near(pi, seed + 1 + j)) for j in range(count)])


@WORLDS
def test_mixture_conditionals_multiply_to_the_mean_of_the_draws(every):
    _, each = draws(every)
    mixed = mixture_logps(each, every.mask)
    expected = each.sum(-1).exp().mean(0)
    torch.testing.assert_close(mixed.sum(-1).exp(), expected)
    assert abs(expected.sum() - 1) < 1e-12


@WORLDS
def test_mixture_conditionals_are_distributions(every):
    _, each = draws(every)
    mixed = mixture_logps(each, every.mask)
    for prefix in range(len(every.texts)):
        here = every.mask & (every.prefixes == prefix)
        chosen, p = every.tokens[here].tolist(), mixed[here].exp().tolist()
        assert sum(dict(zip(chosen, p, strict=True)).values()) == pytest.approx(1.0, rel=1e-12)


def test_mixture_of_one_or_of_equal_draws_is_the_draw():
    _, each = draws(ENDED)
    one = each[:1]
    torch.testing.assert_close(mixture_logps(one, ENDED.mask), one[0])
    torch.testing.assert_close(mixture_logps(one.expand(3, -1, -1), ENDED.mask), one[0])


def test_mixture_does_not_see_the_order_of_draws_nor_padding():
    _, each = draws(ENDED)
    mixed = mixture_logps(each, ENDED.mask)
    torch.testing.assert_close(mixture_logps(each.flip(0), ENDED.mask), mixed)
    dirty = each.masked_fill(~ENDED.mask, float("nan"))
    assert torch.equal(mixture_logps(dirty, ENDED.mask.float()), mixed)
    assert (mixed[~ENDED.mask] == 0).all()


def test_mixture_of_long_rows_does_not_underflow():
    each = torch.stack([torch.full((1, 4000), -2.0), torch.full((1, 4000), -3.0)])
    mixed = mixture_logps(each, torch.ones(1, 4000))
    assert mixed[0, 0] == pytest.approx(math.log((math.exp(-2) + math.exp(-3)) / 2), rel=1e-6)
    torch.testing.assert_close(mixed[0, 100:], torch.full((3900,), -2.0))  # it has decided


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"cap": 0}, "cap must be > 0 or None (no cap), got 0"),
        ({"cap": -1.0}, "cap must be > 0 or None (no cap), got -1.0"),
        ({"cap": float("nan")}, "cap must be > 0 or None (no cap), got nan"),
        ({"cap": "10"}, "cap must be > 0 or None (no cap), got '10'"),
        ({"level": "tokens"}, "level must be one of 'token', 'sequence', got 'tokens' (did you"),
        ({"mode": "clip"}, "mode must be one of 'truncate', 'mask', got 'clip'"),
        (
            {"sampler_logps": torch.zeros(2, 4)},
            "sampler_logps has the shape [2, 4], which does not match target_logps [2, 3]",
        ),
        ({"mask": torch.ones(3, 3)}, "mask has the shape [3, 3], which does not match target_"),
        ({"mask": torch.full((2, 3), 0.5)}, "mask must hold only 0 and 1"),
        ({"mask": torch.zeros(2, 3)}, "mask selects no token"),
        (
            {"target_logps": tensor([[-1.0, float("nan"), -1], [-1, -1, -1]])},
            "target_logps must be finite where mask is 1, got nan in row 0, token 1",
        ),
        (
            {"sampler_logps": tensor([[-1.0, -1, -1], [-1, -1, -float("inf")]])},
            "sampler_logps must be finite where mask is 1, got -inf in row 1, token 2",
        ),
    ],
)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_refusals(change, sentence, level):
    good = {
        "target_logps": torch.full((2, 3), -1.0),
        "sampler_logps": torch.full((2, 3), -1.0),
        "mask": torch.ones(2, 3),
        "level": level,
    }
    importance_weights(**good)
    with pytest.raises(UserError) as refusal:
        importance_weights(**{**good, **change})
    assert str(refusal.value).startswith(sentence)


def test_mixture_refusals():
    with pytest.raises(UserError, match=r"logps must have the shape \[N, B, T\].*got \[2, 3\]"):
        mixture_logps(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(UserError, match="N >= 1"):
        mixture_logps(torch.zeros(0, 2, 3), torch.ones(2, 3))
    with pytest.raises(UserError, match=r"mask has the shape \[2, 4\].*logps\[0\] \[2, 3\]"):
        mixture_logps(torch.zeros(5, 2, 3), torch.ones(2, 4))
