"""Schedulers: exact rules, ends, floors and ceilings, resuming, refusals."""

import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.schedulers import (
    AnnealedSigma,
    ConstantSigma,
    KLTargetSigma,
    RealtimeSigma,
    ScheduleConfig,
    make_scheduler,
)

KL = st.floats(-1, 10)


def test_constant_stays():
    scheduler = ConstantSigma(0.02)
    assert scheduler.sigma == 0.02
    assert scheduler.update({"kl_k1": 9.0}) == scheduler.update({}) == scheduler.sigma == 0.02
    assert ConstantSigma(0).sigma == 0


@pytest.mark.parametrize(
    "shape, expected",
    [
        ("linear", [0.4, 0.325, 0.25, 0.175, 0.1]),
        ("exponential", [0.4, 0.4 * 0.25**0.25, 0.2, 0.4 * 0.25**0.75, 0.1]),
        ("cosine", [0.4, 0.1 + 0.3 * (2 + 2**0.5) / 4, 0.25, 0.1 + 0.3 * (2 - 2**0.5) / 4, 0.1]),
    ],
)
def test_annealing_by_hand(shape, expected):
    scheduler = AnnealedSigma(0.4, 0.1, 4, shape)
    assert scheduler.sigma == 0.4
    got = [scheduler.sigma] + [scheduler.update({}) for _ in range(4)]
    assert got == pytest.approx(expected, rel=1e-12)
    assert got[-1] == 0.1  # exactly
    assert [scheduler.update({}) for _ in range(3)] == [0.1] * 3


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-5, 3),
    st.floats(1e-5, 3),
    st.integers(1, 30),
    st.sampled_from(["linear", "cosine", "exponential"]),
)
def test_annealing_is_monotone_and_stays_between_its_ends(start, end, steps, shape):
    scheduler = AnnealedSigma(start, end, steps, shape)
    path = [scheduler.sigma] + [scheduler.update({}) for _ in range(steps + 2)]
    assert path[0] == pytest.approx(start) and path[steps:] == [end] * 3
    assert path == pytest.approx(sorted(path, reverse=start > end), rel=1e-9)
    assert len(set(path)) > 1 or start == pytest.approx(end)


# --- Variant I, as released ---------------------------------------------------------------------


def released(sigma, kl, target=0.003, coeff=1.01, low=1e-6, high=0.5):
    """The rule of the authors' released code."""
    if kl > 1.1 * target:
        sigma /= coeff
    if kl < target / 1.1:
        sigma *= coeff
    return max(low, min(high, sigma))


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-6, 0.5), st.lists(KL, max_size=20))
def test_kl_target_is_the_released_rule(sigma, signals):
    scheduler = KLTargetSigma(sigma)
    for kl in signals:
        expected = released(scheduler.sigma, kl)
        assert scheduler.update({"kl_k1": kl, "reward": 1.0}) == expected == scheduler.sigma


def test_kl_target_dead_band_is_open_at_its_ends():
    for kl, factor in [
        (0.003, 1),
        (0.003 * 1.1, 1),
        (math.nextafter(0.003 * 1.1, 1), 1 / 1.01),
        (0.003 / 1.1, 1),
        (math.nextafter(0.003 / 1.1, 0), 1.01),
        (0.0, 1.01),
        (-0.5, 1.01),  # k1 is signed; a negative estimate is a small one
        (5.0, 1 / 1.01),
    ]:
        got = KLTargetSigma(0.01).update({"kl_k1": kl})
        assert got == pytest.approx(0.01 * factor, rel=1e-12), kl


def test_kl_target_settings_are_used():
    options = {"target": 1.0, "tolerance": 2.0, "factor": 1.5, "low": 0.1, "high": 10.0}
    for kl, expected in [(2.1, 1 / 1.5), (1.9, 1.0), (0.6, 1.0), (0.4, 1.5)]:
        assert KLTargetSigma(1.0, **options).update({"kl_k1": kl}) == pytest.approx(expected)


def test_kl_target_floor_and_ceiling():
    scheduler = KLTargetSigma(0.499)
    assert [scheduler.update({"kl_k1": 0.0}) for _ in range(3)][1:] == [0.5, 0.5]
    scheduler = KLTargetSigma(1.005e-6)
    assert [scheduler.update({"kl_k1": 1.0}) for _ in range(3)] == [1e-6] * 3
    assert scheduler.update({"kl_k1": 0.0}) == pytest.approx(1.01e-6)  # and it comes back


def test_kl_target_settles_where_the_kl_meets_the_target():
    scheduler = KLTargetSigma(0.001, target=0.01)
    for _ in range(2000):
        scheduler.update({"kl_k1": scheduler.sigma**2})  # KL grows with sigma squared
    assert 0.01 / 1.12 < scheduler.sigma**2 < 0.01 * 1.12


@pytest.mark.parametrize("signals", [{}, {"kl_k3": 1.0}])
def test_kl_target_needs_its_signal(signals):
    with pytest.raises(UserError, match="signals must have the field 'kl_k1', got"):
        KLTargetSigma(0.01).update(signals)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_kl_target_refuses_a_broken_signal(bad):
    scheduler = KLTargetSigma(0.01)
    with pytest.raises(UserError, match="kl_k1 must be a finite number"):
        scheduler.update({"kl_k1": bad})
    assert scheduler.sigma == 0.01


# --- Variant II, ours ---------------------------------------------------------------------------

SIGNALS = st.tuples(st.floats(-1, 1), st.floats(0, 50))


def both(similarity, certainty=None):
    return {"similarity": similarity, "self_certainty": similarity if certainty is None else certainty}


def test_realtime_by_hand():
    """Ranges [0.9, 1.0] and [2, 6]; then places .5 and .25, with mix .6 an indicator of .4."""
    for target, factor in [(0.39, 2.0), (0.41, 0.5)]:
        scheduler = RealtimeSigma(0.1, target=target, mix=0.6, factor=2.0, high=10.0)
        for similarity, certainty in [(0.9, 2.0), (1.0, 6.0)]:
            scheduler.update(both(similarity, certainty))
        before = scheduler.sigma
        assert scheduler.update(both(0.95, 3.0)) == pytest.approx(before * factor, rel=1e-12)
        assert scheduler.similarity_range == [0.9, 1.0] and scheduler.certainty_range == [2.0, 6.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(SIGNALS, max_size=12), st.floats(0.01, 0.99), st.floats(0, 1), st.sampled_from(["running", "none"]))
def test_collapsed_rollouts_raise_sigma_and_diverse_ones_lower_it(past, target, mix, scale):
    """The orientation. Whatever came before: alike and certain as never before means more noise."""
    for collapsed in (True, False):
        scheduler = RealtimeSigma(0.1, target, mix, 1.1, scale)
        for similarity, certainty in [(0.2, 1.0), (0.3, 2.0), *past]:
            scheduler.update(both(similarity, certainty))
        before = scheduler.sigma = 0.1
        after = scheduler.update(both(1.0, 60.0) if collapsed else both(-1.0, -10.0))
        assert after == (before * 1.1 if collapsed else before / 1.1)


@settings(max_examples=100, deadline=None)
@given(st.lists(SIGNALS, min_size=3, max_size=12), SIGNALS, st.floats(0, 1), st.floats(0, 10))
def test_a_rise_of_either_signal_never_lowers_sigma(past, now, more, surer):
    """Inside the ranges seen so far; outside, the range itself moves with the signal."""
    results = []
    for signals in (both(now[0], now[1]), both(min(now[0] + more, 1.0), min(now[1] + surer, 60.0))):
        scheduler = RealtimeSigma(0.1)
        for similarity, certainty in [(-1.0, 0.0), (1.0, 60.0), *past]:
            scheduler.update(both(similarity, certainty))
        results.append(scheduler.update(signals))
    assert results[0] <= results[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(SIGNALS, min_size=1, max_size=20), st.floats(1.01, 3))
def test_it_is_the_quoted_rule_with_beta_the_inverse_of_the_factor(signals, factor):
    beta, low, high = 1 / factor, 0.01, 0.4
    scheduler = RealtimeSigma(0.1, 0.3, 0.7, factor, low=low, high=high)
    sigma, seen = 0.1, []
    for similarity, certainty in signals:
        seen.append((similarity, certainty))
        places = []
        for number in (0, 1):
            values = [pair[number] for pair in seen]
            wide = max(values) > min(values)
            places.append((values[-1] - min(values)) / (max(values) - min(values)) if wide else 0.5)
        indicator = 0.7 * places[0] + 0.3 * places[1]
        if abs(indicator - 0.3) < 1e-9:
            return  # the quoted rule lowers sigma there, ours leaves it
        sigma = min(max(beta * sigma if indicator <= 0.3 else sigma / beta, low), high)
        assert scheduler.update(both(similarity, certainty)) == pytest.approx(sigma, rel=1e-9)


def test_without_two_different_values_nothing_is_known_and_sigma_stays():
    scheduler = RealtimeSigma(0.1)
    assert [scheduler.update(both(0.95, 7.0)) for _ in range(3)] == [0.1] * 3
    assert scheduler.update(both(0.96, 7.0)) == pytest.approx(0.105)
    assert RealtimeSigma(0.1, target=0.2).update(both(0.95)) > 0.1  # 0.5 is above this target


def test_the_similarity_of_chains_of_thought_needs_its_range():
    """In a band near 1 an absolute target is always exceeded: sigma climbs to its ceiling whatever happens."""
    path = [0.97, 0.93, 0.97, 0.93, 0.94, 0.95]
    absolute = RealtimeSigma(0.1, mix=1.0, similarity_scale="none", high=0.12)
    assert [absolute.update(both(x)) for x in path][-3:] == [0.12] * 3 and absolute.similarity_range is None
    placed = RealtimeSigma(0.1, mix=1.0, high=0.12)
    assert [placed.update(both(x)) < 0.1 for x in path] == [False, True, False, True, True, True]


def test_realtime_floor_and_ceiling():
    scheduler = RealtimeSigma(0.1, factor=2.0, low=0.06, high=0.15)
    assert [scheduler.update(both(x)) for x in (1, 2, 3)] == [0.1, 0.15, 0.15]
    assert [scheduler.update(both(x)) for x in (0, -1)] == [0.075, 0.06]


@pytest.mark.parametrize("start", [0.05, 0.8])
def test_only_a_raw_similarity_has_a_set_point(start):
    """A plant whose similarity falls from 1 to 0 as sigma rises and is 0.5 at sigma 0.2, read with some noise."""
    ends = {}
    for scale in ("running", "none"):
        scheduler, rng = RealtimeSigma(start, mix=1.0, similarity_scale=scale, high=10.0), random.Random(0)
        for _ in range(300):
            scheduler.update(both(1 / (1 + (scheduler.sigma / 0.2) ** 2) + rng.gauss(0, 0.02)))
        ends[scale] = scheduler.sigma
    assert 0.17 < ends["none"] < 0.23
    assert start / 2 < ends["running"] < start * 2  # it makes its range where it stands


@pytest.mark.parametrize(
    "signals, sentence",
    [
        ({"similarity": 0.9}, "signals must have the field 'self_certainty', got ['similarity']"),
        ({"self_certainty": 0.9}, "signals must have the field 'similarity', got ['self_certainty']"),
        ({"similarity": None, "self_certainty": 1.0}, "similarity must be a finite number"),
        ({"similarity": 0.9, "self_certainty": math.inf}, "self_certainty must be a finite number"),
    ],
)
def test_realtime_refuses_broken_signals_and_keeps_its_ranges(signals, sentence):
    scheduler = RealtimeSigma(0.1)
    scheduler.update(both(0.9, 3.0))
    before = scheduler.state_dict()
    with pytest.raises(UserError) as refusal:
        scheduler.update(signals)
    assert str(refusal.value).startswith(sentence)
    assert scheduler.state_dict() == before


# --- resuming -----------------------------------------------------------------------------------

MAKERS = [
    lambda: ConstantSigma(0.1),
    lambda: AnnealedSigma(0.4, 0.1, 12, "cosine"),
    lambda: KLTargetSigma(0.01),
]


@pytest.mark.parametrize("make", MAKERS)
@settings(max_examples=30, deadline=None)
@given(st.lists(KL, max_size=15), st.lists(KL, max_size=15))
def test_a_resumed_scheduler_goes_on_bit_for_bit(make, before, after):
    whole, resumed = make(), make()
    for kl in before:
        whole.update({"kl_k1": kl})
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert resumed.sigma == whole.sigma
    for kl in after:
        assert resumed.update({"kl_k1": kl}) == whole.update({"kl_k1": kl})
    assert resumed.state_dict() == whole.state_dict()


@settings(max_examples=40, deadline=None)
@given(st.lists(SIGNALS, max_size=8), st.lists(SIGNALS, max_size=8), st.sampled_from(["running", "none"]))
def test_a_resumed_realtime_schedule_goes_on_bit_for_bit(before, after, scale):
    whole, resumed = (RealtimeSigma(0.1, similarity_scale=scale) for _ in range(2))
    for signals in before:
        whole.update(both(*signals))
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for signals in after:
        assert resumed.update(both(*signals)) == whole.update(both(*signals))
    assert resumed == whole


@pytest.mark.parametrize(
    "scheduler, state, sentence",
    [
        (
            KLTargetSigma(0.01),
            {"step": 3},
            "the state of KLTargetSigma must have the fields ['sigma'], got ['step']",
        ),
        (AnnealedSigma(1, 0, 5), {"sigma": 3}, "the state of AnnealedSigma must have the fields"),
        (ConstantSigma(1), {"sigma": 3}, "the state of ConstantSigma must have the fields []"),
        (KLTargetSigma(0.01), {"sigma": 7.0}, "sigma must be >= 1e-06 and <= 0.5, got 7.0"),
        (AnnealedSigma(1, 0, 5), {"step": -1}, "step must be a whole number >= 0, got -1"),
        (
            RealtimeSigma(0.1),
            {"sigma": 0.1, "similarity_range": [1.0, 0.5], "certainty_range": None},
            "similarity_range[1] must be >= 1.0, got 0.5",
        ),
        (
            RealtimeSigma(0.1),
            {"sigma": 0.1, "similarity_range": None, "certainty_range": 3.0},
            "certainty_range must be none or [least, greatest], got 3.0",
        ),
        (
            RealtimeSigma(0.1),
            {"sigma": 0.1, "similarity_range": None, "certainty_range": [1.0, 2.0, 3.0]},
            "certainty_range must be none or [least, greatest], got [1.0, 2.0, 3.0]",
        ),
        (
            RealtimeSigma(0.1),
            {"sigma": 0.1, "similarity_range": [math.nan, 0.5], "certainty_range": None},
            "similarity_range[0] must be a finite number, got nan",
        ),
    ],
)
def test_a_foreign_state_is_refused_and_changes_nothing(scheduler, state, sentence):
    before = scheduler.state_dict()
    with pytest.raises(UserError) as refusal:
        scheduler.load_state_dict(state)
    assert str(refusal.value).startswith(sentence)
    assert scheduler.state_dict() == before


# --- settings and refusals ----------------------------------------------------------------------


def test_make_scheduler_hands_every_setting_on():
    config = ScheduleConfig(
        sigma=0.2,
        sigma_end=0.05,
        sigma_steps=7,
        sigma_shape="cosine",
        kl_target=0.02,
        kl_tolerance=1.5,
        kl_factor=1.2,
        sigma_low=1e-3,
        sigma_high=0.9,
        realtime_target=0.3,
        realtime_mix=0.7,
        realtime_factor=1.4,
        similarity_scale="none",
    )
    assert make_scheduler(config) == ConstantSigma(0.2)
    annealed = make_scheduler(replace(config, schedule="annealed"))
    assert annealed == AnnealedSigma(0.2, 0.05, 7, "cosine")
    assert make_scheduler(replace(config, schedule="kl_target")) == KLTargetSigma(
        0.2, target=0.02, tolerance=1.5, factor=1.2, low=1e-3, high=0.9
    )
    assert make_scheduler(replace(config, schedule="realtime")) == RealtimeSigma(
        0.2, target=0.3, mix=0.7, factor=1.4, similarity_scale="none", low=1e-3, high=0.9
    )
    assert make_scheduler(ScheduleConfig("realtime", 0.2)) == RealtimeSigma(0.2)


def test_the_defaults_are_the_released_ones():
    config = ScheduleConfig(schedule="kl_target")
    assert make_scheduler(config) == KLTargetSigma(0.001)
    assert make_scheduler(ScheduleConfig("annealed", 0.2)) == AnnealedSigma(0.2, 0.0, 100)
    assert KLTargetSigma(0.001) == KLTargetSigma(0.001, 0.003, 1.1, 1.01, 1e-6, 0.5)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: ConstantSigma(-1.0), "sigma must be >= 0, got -1.0"),
        (lambda: ConstantSigma(math.nan), "sigma must be >= 0, got nan"),
        (lambda: ConstantSigma("0.1"), "sigma must be a finite number >= 0, got '0.1'"),
        (lambda: AnnealedSigma(-1, 0, 5), "start must be >= 0, got -1"),
        (lambda: AnnealedSigma(1, -2, 5), "end must be >= 0, got -2"),
        (lambda: AnnealedSigma(1, 0, 0), "steps must be a whole number >= 1, got 0"),
        (lambda: AnnealedSigma(1, 0, 2.5), "steps must be a whole number >= 1, got 2.5"),
        (
            lambda: AnnealedSigma(1, 0, 5, "cos"),
            "shape must be one of 'linear', 'cosine', 'exponential', got 'cos' (did you mean 'cos",
        ),
        (lambda: AnnealedSigma(1, 0, 5, "exponential"), "end must be > 0, got 0"),
        (lambda: AnnealedSigma(0, 1, 5, "exponential"), "start must be > 0, got 0"),
        (lambda: KLTargetSigma(0.0), "sigma must be >= 1e-06 and <= 0.5, got 0.0"),
        (lambda: KLTargetSigma(0.8), "sigma must be >= 1e-06 and <= 0.5, got 0.8"),
        (lambda: KLTargetSigma(0.1, target=0.0), "target must be > 0, got 0.0"),
        (lambda: KLTargetSigma(0.1, tolerance=0.9), "tolerance must be >= 1, got 0.9"),
        (lambda: KLTargetSigma(0.1, factor=1.0), "factor must be > 1, got 1.0"),
        (lambda: KLTargetSigma(0.1, low=0.0), "low must be > 0, got 0.0"),
        (lambda: KLTargetSigma(0.1, low=0.2, high=0.1), "high must be >= 0.2, got 0.1"),
        (
            lambda: ScheduleConfig(schedule="anneal"),
            "schedule must be one of 'constant', 'annealed', 'kl_target', 'realtime', got 'anneal'",
        ),
        (lambda: RealtimeSigma(0.1, target=1.5), "target must be >= 0 and <= 1, got 1.5"),
        (lambda: RealtimeSigma(0.1, mix=-0.1), "mix must be >= 0 and <= 1, got -0.1"),
        (lambda: RealtimeSigma(0.1, factor=0.9), "factor must be > 1, got 0.9"),
        (lambda: RealtimeSigma(0.1, similarity_scale="rank"), "similarity_scale must be one of"),
        (lambda: RealtimeSigma(0.1, low=0.0), "low must be > 0, got 0.0"),
        (lambda: RealtimeSigma(0.1, low=0.2, high=0.15), "high must be >= 0.2, got 0.15"),
        (lambda: RealtimeSigma(0.8), "sigma must be >= 1e-06 and <= 0.5, got 0.8"),
        (lambda: ScheduleConfig(sigma=-1.0), "sigma must be >= 0, got -1.0"),
        (
            lambda: ScheduleConfig(schedule="kl_target", sigma=0.8),
            "sigma must be >= 1e-06 and <= 0.5, got 0.8",
        ),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(UserError) as refusal:
        make()
    assert str(refusal.value).startswith(sentence)
