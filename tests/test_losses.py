"""The loss token by token, by hand; its gradient against the exact policy gradient."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from psn_tutorial.errors import UserError
from psn_tutorial.losses import AGGREGATIONS, kl_k3, loss_normaliser, policy_loss
from psn_tutorial.teaching.exact import probabilities, value_gradient
from psn_tutorial.teaching.tabular import TabularPolicy, random_policy, trajectories

aggregations = pytest.mark.parametrize("aggregation", AGGREGATIONS)


def f64(values):
    return tensor(values, dtype=torch.float64)


def one_token(ratio, advantage, **options):
    """Loss, d loss / d log pi, and statistics of a single token with the given ratio."""
    logps = f64([[math.log(ratio) - 1.0]]).requires_grad_()
    loss, statistics = policy_loss(logps, f64([[-1.0]]), f64([advantage]), torch.ones(1, 1), **options)
    loss.backward()
    return loss.item(), logps.grad.item(), statistics


# --- the clip, one token ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio, advantage, value, slope, clipped",
    [
        (1.0, 2.0, 2.0, 2.0, 0),  # on policy
        (1.1, 2.0, 2.2, 2.2, 0),  # inside the region the clip is not there
        (0.9, -2.0, -1.8, -1.8, 0),
        (1.5, 2.0, 2.4, 0.0, 1),  # already risen enough: no more reward for rising
        (0.5, 2.0, 1.0, 1.0, 0),  # fallen although good: the full way back
        (1.5, -2.0, -3.0, -3.0, 0),  # risen although bad: the full way back
        (0.5, -2.0, -1.6, 0.0, 1),  # already fallen enough
    ],
)
def test_clip_by_hand(ratio, advantage, value, slope, clipped):
    loss, gradient, statistics = one_token(ratio, advantage)
    assert loss == pytest.approx(-value)
    assert gradient == pytest.approx(-slope)
    assert statistics["clip_fraction"] == clipped
    assert statistics["ratio_mean"] == pytest.approx(ratio)
    assert statistics["tokens"] == 1


def test_asymmetric_clip():
    bounds = {"clip_low": 0.1, "clip_high": 0.4}
    assert one_token(1.5, 1.0, **bounds)[0] == pytest.approx(-1.4)
    assert one_token(1.3, 1.0, **bounds)[0] == pytest.approx(-1.3)
    assert one_token(0.5, -1.0, **bounds)[0] == pytest.approx(0.9)
    assert one_token(0.95, -1.0, **bounds)[0] == pytest.approx(0.95)
    assert one_token(1.3, 1.0, **bounds)[2]["clip_fraction"] == 0
    assert one_token(0.85, -1.0, **bounds)[2]["clip_fraction"] == 1
    assert one_token(1.01, 1.0, clip_low=0.0, clip_high=0.0)[0] == pytest.approx(-1.0)


@pytest.mark.parametrize("weight", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("ratio, advantage", [(1.1, 2.0), (1.5, 2.0), (1.5, -2.0), (0.5, -2.0)])
def test_the_weight_multiplies_the_clipped_term_and_nothing_else(ratio, advantage, weight):
    plain, slope, _ = one_token(ratio, advantage)
    weighted, weighted_slope, _ = one_token(ratio, advantage, weights=f64([[weight]]))
    assert weighted == pytest.approx(weight * plain)
    assert weighted_slope == pytest.approx(weight * slope)
    terms = {"ref_logps": f64([[-2.0]]), "entropy": f64([[0.7]])}
    terms |= {"kl_coef": 0.5, "entropy_coef": 0.1}
    full, _, _ = one_token(ratio, advantage, weights=f64([[weight]]), **terms)
    rho = math.exp(-2.0 - (math.log(ratio) - 1.0))
    k3 = rho - 1 - math.log(rho)
    assert full == pytest.approx(weight * plain + 0.5 * k3 - 0.1 * 0.7)


# --- aggregation, unequal lengths ---------------------------------------------------------------

MASK = tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
# On policy a token's loss is -advantage * weight: with weights, every token has its own.
LOGPS = torch.full((3, 3), -1.0, dtype=torch.float64)
ADVANTAGES = f64([1.0, -2.0, 3.0])
WEIGHTS = f64([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def aggregated(aggregation, **options):
    return policy_loss(LOGPS, LOGPS, ADVANTAGES, MASK, WEIGHTS, aggregation=aggregation, **options)


def test_aggregations_by_hand():
    rows = [1 * (1 + 2 + 3), -2 * 4, 3 * (7 + 8)]
    grpo, _ = aggregated("grpo")
    assert grpo.item() == pytest.approx(-(rows[0] / 3 + rows[1] / 1 + rows[2] / 2) / 3)
    assert torch.equal(policy_loss(LOGPS, LOGPS, ADVANTAGES, MASK, WEIGHTS)[0], grpo)  # the default
    dapo, _ = aggregated("dapo")
    assert dapo.item() == pytest.approx(-sum(rows) / 6)
    dr_grpo, statistics = aggregated("dr_grpo", max_tokens=10)
    assert dr_grpo.item() == pytest.approx(-sum(rows) / (3 * 10))
    assert statistics["tokens"] == 6


def test_normalisers_by_hand():
    assert loss_normaliser(MASK) == loss_normaliser(MASK, "grpo") == 3
    assert loss_normaliser(MASK.bool(), "dapo") == 6
    assert loss_normaliser(MASK.float(), "dr_grpo", 10) == 30


def test_statistics_are_token_means_and_ignore_padding():
    old = LOGPS - f64([[0.0, 0.5, -0.5], [0.1, 9, 9], [0.0, 0.3, 9]])
    ratios = [1, math.exp(0.5), math.exp(-0.5), math.exp(0.1), 1, math.exp(0.3)]
    entropy = f64([[1, 2, 3], [4, 50, 60], [7, 8, 90]])
    _, statistics = policy_loss(LOGPS, old, f64([1.0, 1.0, -1.0]), MASK, ref_logps=old, entropy=entropy)
    assert statistics["ratio_mean"] == pytest.approx(sum(ratios) / 6)
    # exp(.5) rose although good; exp(-.5) fell although good, exp(.3) rose although bad: free.
    assert statistics["clip_fraction"] == pytest.approx(1 / 6)
    k3 = [1 / r - 1 + math.log(r) for r in ratios]
    assert statistics["kl_ref"] == pytest.approx(sum(k3) / 6)
    assert statistics["entropy"] == pytest.approx((1 + 2 + 3 + 4 + 7 + 8) / 6)
    assert all(type(number) is float for number in statistics.values())
    assert set(aggregated("grpo")[1]) == {"tokens", "ratio_mean", "clip_fraction"}


@st.composite
def batches(draw):
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    lengths = [draw(st.integers(1, columns)) for _ in range(rows)]
    cuts = sorted(draw(st.sets(st.integers(1, rows - 1))) if rows > 1 else [])
    return lengths, columns, [0, *cuts, rows], draw(st.integers(0, 10**6))


@aggregations
@settings(max_examples=40, deadline=None)
@given(batches())
def test_micro_batches_add_up(aggregation, batch):
    lengths, columns, cuts, seed = batch
    rows = len(lengths)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.arange(columns) < tensor(lengths)[:, None]
    fields = {
        "old_logps": random(rows, columns),
        "advantages": random(rows),
        "mask": mask,
        "weights": random(rows, columns).exp(),
        "ref_logps": random(rows, columns),
        "entropy": random(rows, columns).abs(),
    }
    options = {"aggregation": aggregation, "max_tokens": 6, "kl_coef": 0.1, "entropy_coef": 0.2}
    logps = (fields["old_logps"] + 0.3 * random(rows, columns)).requires_grad_()
    whole, statistics = policy_loss(logps, **fields, **options)
    (gradient,) = torch.autograd.grad(whole, logps)

    normaliser = loss_normaliser(mask, aggregation, 6)
    parts, tokens, ratio_sum = [], 0.0, 0.0
    for start, stop in pairwise(cuts):
        part, part_statistics = policy_loss(
            logps[start:stop],
            **{name: field[start:stop] for name, field in fields.items()},
            **options,
            normaliser=normaliser,
        )
        parts.append(part)
        tokens += part_statistics["tokens"]
        ratio_sum += part_statistics["tokens"] * part_statistics["ratio_mean"]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(sum(parts), logps)[0], gradient, rtol=1e-12, atol=1e-12)
    assert tokens == statistics["tokens"] == sum(lengths)
    assert ratio_sum / tokens == pytest.approx(statistics["ratio_mean"])


@aggregations
def test_the_own_normaliser_is_the_default(aggregation):
    own = loss_normaliser(MASK, aggregation, 10)
    assert torch.equal(
        aggregated(aggregation, max_tokens=10)[0],
        aggregated(aggregation, max_tokens=10, normaliser=own)[0],
    )


# --- the exact policy gradient ------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, 2])
def test_one_on_policy_update_follows_the_exact_policy_gradient(end):
    """Every trajectory once, its reward times its probability: the loss is an expectation."""
    every = trajectories(3, 3, end)
    policy = random_policy(every, 0)
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(len(every), generator=generator, dtype=torch.float64)
    now = policy.logps()
    p = probabilities(now).detach()
    advantages = len(every) * p * (rewards - 0.4)  # a baseline changes nothing
    true = value_gradient(policy, rewards)

    def gradient(aggregation, max_tokens=None, normaliser=None):
        loss, _ = policy_loss(
            now,
            now.detach(),
            advantages,
            every.mask,
            aggregation=aggregation,
            max_tokens=max_tokens,
            normaliser=normaliser,
        )
        return torch.autograd.grad(-loss, policy.weight, retain_graph=True)[0]

    torch.testing.assert_close(gradient("dr_grpo", max_tokens=1), true)
    torch.testing.assert_close(gradient("dapo", normaliser=len(every)), true)
    per_length = gradient("grpo")  # each trajectory divided by its own length
    if end is None:
        torch.testing.assert_close(per_length, true / 3)
    else:
        cosine = (per_length * true).sum() / (per_length.norm() * true.norm())
        assert cosine < 0.999  # the length bias that Dr. GRPO removes

    shifted = torch.nn.functional.pad(every.mask[:, 1:], (0, 1))  # forgets the last token of each
    loss, _ = policy_loss(now, now.detach(), advantages, shifted, aggregation="dr_grpo", max_tokens=1)
    wrong = torch.autograd.grad(-loss, policy.weight)[0]
    assert (wrong - true).norm() > 0.05 * true.norm()


def test_off_policy_gradient_is_importance_sampling_towards_the_current_policy():
    every = trajectories(3, 1)
    old = random_policy(every, 0)
    policy = TabularPolicy(every, old.features, old.weight + random_policy(every, 1, 0.05).weight)
    rewards, sampled = f64([0.3, 0.9, 0.1]), old.logps().detach()
    loss, _ = policy_loss(
        policy.logps(), sampled, 3 * probabilities(sampled) * rewards, every.mask, clip_low=1.0, clip_high=100.0
    )
    (gradient,) = torch.autograd.grad(-loss, policy.weight)
    torch.testing.assert_close(gradient, value_gradient(policy, rewards))


def test_the_same_tensor_as_old_still_learns():
    logps = f64([[-1.0]]).requires_grad_()
    policy_loss(logps, logps, f64([2.0]), torch.ones(1, 1))[0].backward()
    assert logps.grad.item() == -2.0


def test_gradient_reaches_only_the_current_policy_and_its_entropy():
    fields = {
        name: torch.full((2, 3), -1.0, requires_grad=True)
        for name in ("logps", "old_logps", "weights", "ref_logps", "entropy")
    }
    advantages = torch.ones(2, requires_grad=True)
    loss, _ = policy_loss(advantages=advantages, mask=torch.ones(2, 3), kl_coef=1.0, entropy_coef=1.0, **fields)
    loss.backward()
    assert fields["logps"].grad is not None and fields["entropy"].grad is not None
    for name in ("old_logps", "weights", "ref_logps"):
        assert fields[name].grad is None, name
    assert advantages.grad is None


# --- KL to the reference and entropy ------------------------------------------------------------


def test_k3_by_hand_and_its_minimum():
    pi, ref = f64([0.5, 0.2]).log(), f64([0.25, 0.4]).log()
    torch.testing.assert_close(kl_k3(pi, ref), f64([0.5 - 1 - math.log(0.5), 2 - 1 - math.log(2)]))
    same = f64([-1.0, -3.0]).requires_grad_()
    k3 = kl_k3(same, same.detach())
    assert (k3 == 0).all()
    (gradient,) = torch.autograd.grad(k3.sum(), same)
    assert (gradient == 0).all()


def test_k3_is_unbiased_for_kl_of_the_policy_to_the_reference():
    every = trajectories(5, 1)
    pi, ref = random_policy(every, 0).logps().detach(), random_policy(every, 1).logps().detach()
    p, q = probabilities(pi), probabilities(ref)
    k3 = kl_k3(pi, ref)[:, 0]
    torch.testing.assert_close((p * k3).sum(), (p * (p / q).log()).sum())
    assert abs((p * k3).sum() - (q * (q / p).log()).sum()) > 0.01  # not the other direction


@settings(max_examples=100, deadline=None)
@given(st.floats(-60, 0), st.floats(-60, 0))
def test_k3_is_never_negative_nor_infinite_and_pulls_towards_the_reference(pi, ref):
    now = f64([pi]).requires_grad_()
    k3 = kl_k3(now, f64([ref]))
    (gradient,) = torch.autograd.grad(k3.sum(), now)
    assert k3.item() >= 0 and k3.isfinite() and gradient.isfinite()
    # It pulls log pi towards log ref; beyond exp(20) it may stop pulling, never push away.
    assert gradient.item() * (pi - ref) >= 0


def test_kl_term_enters_with_its_coefficient_and_is_aggregated_like_the_rest():
    ref = LOGPS - 0.7
    k3 = math.exp(-0.7) - 1 + 0.7
    for aggregation, share in (("grpo", 1.0), ("dapo", 1.0), ("dr_grpo", 6 / 30)):
        options = {"max_tokens": 10, "ref_logps": ref}
        without, _ = aggregated(aggregation, max_tokens=10)
        watched, statistics = aggregated(aggregation, **options)
        assert torch.equal(watched, without)  # coefficient 0: measured, not trained on
        assert statistics["kl_ref"] == pytest.approx(k3)
        with_kl, _ = aggregated(aggregation, **options, kl_coef=0.5)
        assert (with_kl - without).item() == pytest.approx(0.5 * k3 * share)


def test_entropy_bonus_rewards_entropy():
    entropy = torch.full((3, 3), 0.9, dtype=torch.float64, requires_grad=True)
    for aggregation, share in (("grpo", 1.0), ("dapo", 1.0), ("dr_grpo", 6 / 30)):
        without, _ = aggregated(aggregation, max_tokens=10)
        loss, _ = aggregated(aggregation, max_tokens=10, entropy=entropy, entropy_coef=0.5)
        assert (loss - without).item() == pytest.approx(-0.5 * 0.9 * share)
        (gradient,) = torch.autograd.grad(loss, entropy)
        assert (gradient[MASK.bool()] < 0).all() and (gradient[~MASK.bool()] == 0).all()


def test_a_term_that_is_only_watched_cannot_spoil_the_loss():
    infinite = torch.full_like(LOGPS, math.inf)
    watched, statistics = aggregated("grpo", ref_logps=-infinite, entropy=infinite)
    assert torch.equal(watched, aggregated("grpo")[0])
    assert statistics["kl_ref"] == statistics["entropy"] == math.inf


# --- padding, extremes, types -------------------------------------------------------------------


@aggregations
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_padding_never_leaks_into_value_or_gradient(aggregation, junk):
    def run(fill):
        generator = torch.Generator().manual_seed(3)
        names = ("logps", "old_logps", "weights", "ref_logps", "entropy")
        fields = {name: torch.rand(3, 3, generator=generator).neg().masked_fill(MASK == 0, fill) for name in names}
        fields["logps"].requires_grad_()
        fields["entropy"].requires_grad_()
        loss, statistics = policy_loss(
            advantages=tensor([1.0, -2.0, 3.0]),
            mask=MASK,
            aggregation=aggregation,
            max_tokens=5,
            kl_coef=0.5,
            entropy_coef=0.5,
            **fields,
        )
        loss.backward()
        return loss, statistics, fields["logps"].grad, fields["entropy"].grad

    loss, statistics, gradient, entropy_gradient = run(junk)
    clean_loss, clean_statistics, clean_gradient, clean_entropy_gradient = run(-0.5)
    assert torch.equal(loss, clean_loss) and statistics == clean_statistics
    assert torch.equal(gradient, clean_gradient)
    assert torch.equal(entropy_gradient, clean_entropy_gradient)
    assert (gradient[MASK == 0] == 0).all() and gradient[MASK == 1].ne(0).any()


def test_extreme_ratios_stay_finite():
    for jump in (-200.0, 200.0):
        for advantage in (-1.0, 1.0):
            logps = tensor([[jump - 200.0]]).requires_grad_()
            loss, statistics = policy_loss(
                logps,
                tensor([[-200.0]]),
                tensor([advantage]),
                torch.ones(1, 1),
                ref_logps=tensor([[-200.0]]),
                kl_coef=1.0,
            )
            loss.backward()
            assert loss.isfinite() and logps.grad.isfinite().all()
            assert all(math.isfinite(number) for number in statistics.values())


@pytest.mark.parametrize("log_ratio, slope", [(19.9, math.exp(19.9)), (20.1, 0.0)])
def test_a_ratio_is_held_at_exp_20(log_ratio, slope):
    loss, gradient, _ = one_token(math.exp(log_ratio), -1.0)
    assert loss == pytest.approx(math.exp(min(log_ratio, 20.0)))
    assert gradient == pytest.approx(slope)


def test_half_precision_is_computed_in_float32():
    logps = torch.full((1, 2), -1.0, dtype=torch.bfloat16, requires_grad=True)
    old = torch.full((1, 2), -1.1, dtype=torch.bfloat16)
    loss, _ = policy_loss(logps, old, f64([1.0]), torch.ones(1, 2))  # logps alone decides
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.exp(-1.0 - old[0, 0].item()), rel=1e-6)
    loss.backward()
    assert logps.grad.dtype == torch.bfloat16


def test_a_row_without_tokens_adds_nothing():
    mask = torch.cat([MASK, torch.zeros(1, 3)])
    more = torch.cat([LOGPS, LOGPS[:1]])
    for aggregation in AGGREGATIONS:
        weights = torch.cat([WEIGHTS, WEIGHTS[:1]])
        loss, _ = policy_loss(
            more,
            more,
            torch.cat([ADVANTAGES, f64([99.0])]),
            mask,
            weights,
            aggregation=aggregation,
            max_tokens=10,
            normaliser=2.0,
        )
        expected, _ = aggregated(aggregation, max_tokens=10, normaliser=2.0)
        torch.testing.assert_close(loss, expected)
    loss, statistics = policy_loss(more, more, torch.ones(4), torch.zeros(4, 3), normaliser=2.0)
    assert loss.item() == 0 and statistics == {"tokens": 0, "ratio_mean": 0, "clip_fraction": 0}


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            {"weights": torch.ones(3, 4)},
            "weights has the shape [3, 4], which does not match logps [3, 3]",
        ),
        ({"old_logps": torch.ones(2, 3)}, "old_logps has the shape [2, 3], which does not match"),
        ({"ref_logps": torch.ones(3)}, "ref_logps has the shape [3], which does not match logps"),
        ({"entropy": torch.ones(3, 1)}, "entropy has the shape [3, 1], which does not match"),
        ({"mask": torch.ones(3, 1)}, "mask has the shape [3, 1], which does not match logps"),
        ({"advantages": torch.ones(3, 3)}, "advantages must have the shape [B] = [3], got [3, 3]"),
        ({"advantages": torch.ones(1)}, "advantages must have the shape [B] = [3], got [1]"),
        ({"mask": torch.full((3, 3), 2)}, "mask must hold only 0 and 1"),
        ({"mask": torch.zeros(3, 3)}, "mask selects no token"),
        (
            {"aggregation": "drgrpo"},
            "aggregation must be one of 'grpo', 'dapo', 'dr_grpo', got 'drgrpo' (did you mean",
        ),
        ({"aggregation": "mean", "normaliser": 2.0}, "aggregation must be one of"),
        (
            {"aggregation": "dr_grpo"},
            "max_tokens (needed by aggregation 'dr_grpo') must be a whole number >= 1, got None",
        ),
        ({"aggregation": "dr_grpo", "max_tokens": 0}, "max_tokens (needed by"),
        ({"normaliser": 0.0}, "normaliser must be > 0, got 0.0"),
        ({"clip_low": -0.1}, "clip_low must be >= 0 and <= 1, got -0.1"),
        ({"clip_low": 1.1}, "clip_low must be >= 0 and <= 1, got 1.1"),
        ({"clip_high": -0.1}, "clip_high must be >= 0, got -0.1"),
        ({"kl_coef": -1.0}, "kl_coef must be >= 0, got -1.0"),
        ({"kl_coef": 0.1}, "kl_coef 0.1 needs ref_logps [B, T], got None"),
        ({"entropy_coef": -1.0}, "entropy_coef must be >= 0, got -1.0"),
        ({"entropy_coef": 0.1}, "entropy_coef 0.1 needs entropy [B, T], got None"),
    ],
)
def test_refusals(change, sentence):
    good = {"logps": LOGPS, "old_logps": LOGPS, "advantages": ADVANTAGES, "mask": MASK}
    policy_loss(**good)
    with pytest.raises(UserError) as refusal:
        policy_loss(**{**good, **change})
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize(
    "mask, aggregation, sentence",
    [
        (MASK, "mean", "aggregation must be one of"),
        (MASK / 2, "dapo", "mask must hold only 0 and 1"),
        (0 * MASK, "dapo", "mask selects no token"),
    ],
)
def test_refusals_of_the_normaliser(mask, aggregation, sentence):
    with pytest.raises(UserError, match=sentence):
        loss_normaliser(mask, aggregation)
