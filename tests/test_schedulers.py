"""Schedulers: exact rules, ends, floors and ceilings, resuming, refusals."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.schedulers import (
    AnnealedSigma,
    ConstantSigma,
    KLTargetSigma,
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
        sigma=0.2, sigma_end=0.05, sigma_steps=7, sigma_shape="cosine",
        kl_target=0.02, kl_tolerance=1.5, kl_factor=1.2, sigma_low=1e-3, sigma_high=0.9,
    )
    assert make_scheduler(config) == ConstantSigma(0.2)
    annealed = make_scheduler(replace(config, schedule="annealed"))
    assert annealed == AnnealedSigma(0.2, 0.05, 7, "cosine")
    assert make_scheduler(replace(config, schedule="kl_target")) == KLTargetSigma(
        0.2, target=0.02, tolerance=1.5, factor=1.2, low=1e-3, high=0.9
    )


def test_the_defaults_are_the_released_ones():
    config = ScheduleConfig(schedule="kl_target")
    assert make_scheduler(config) == KLTargetSigma(0.001)
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
            "schedule must be one of 'constant', 'annealed', 'kl_target', got 'anneal' (did you",
        ),
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
