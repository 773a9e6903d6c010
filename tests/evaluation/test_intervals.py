"""Intervals: formulas against scipy, coverage by simulation, sentences for wrong input."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    number,
    paired_difference,
    resampled_means,
    seed_interval,
    welch_interval,
)

figures = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.1372, 0.1208, 0.1549, n=200), ".137 [.121, .155]"),
        (Interval(-0.0211, -0.3, 0.0004, n=200), "-.021 [-.300, .000]"),
        (Interval(-0.0002, -0.0004, -0.0001, n=9), "-2.0e-04 [-4.0e-04, -1.0e-04]"),
        (Interval(1.1e-6, 8e-7, 1.4e-6, n=9), "1.1e-06 [8.0e-07, 1.4e-06]"),
        (Interval(1.0, 1.0, 1.0, n=5), "1.000 [1.000, 1.000]"),
        (Interval(0.0, 0.0, 0.0, n=5), ".000 [.000, .000]"),
        (Interval(10.5, -10.25, 20.0, n=5), "10.500 [-10.250, 20.000]"),
        (Interval(-0.0004, -0.0004, 0.1, n=5), ".000 [.000, .100]"),
        (Interval(0.5, 0.25, 0.75, n=3, unit="seeds"), ".500 [.250, .750] (3 seeds)"),
        (Interval(0.5, math.nan, math.nan, n=1), ".500 [no interval: 1 problem]"),
        (Interval(0.5, math.nan, math.nan, n=1, unit="seeds"), ".500 [no interval: 1 seed]"),
    ],
)
def test_prints_as_in_a_paper(interval, text):
    assert str(interval) == text


def test_format_takes_digits_and_leaves_the_seeds_out():
    interval = Interval(0.5, 0.25, 0.75, n=3, unit="seeds")
    assert f"{interval:.2f}" == ".50 [.25, .75]"
    assert f"{interval:.1%}" == "50.0% [25.0%, 75.0%]"
    assert 0.25 in interval and 0.75 in interval and 0.2499 not in interval and 0.76 not in interval


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.2, 0.1, 0.3), "higher"),
        (Interval(-0.2, -0.3, -0.1), "lower"),
        (Interval(0.2, -0.001, 0.4), "undecided"),
        (Interval(0.2, 0.0, 0.4), "undecided"),  # 0 itself lies in the interval
        (Interval(-0.2, -0.4, 0.0), "undecided"),
        (Interval(0.0, 0.0, 0.0), "undecided"),
        (Interval(0.2, math.nan, math.nan, n=1), "no interval, so undecided"),
    ],
)
def test_only_an_interval_without_zero_shows_a_difference(interval, verdict):
    assert interval.verdict == verdict


def test_a_number_has_three_decimals_or_two_digits():
    assert [number(x) for x in (0.8081, -0.0211, 0.0, 1.0, 0.0005)] == [".808", "-.021", ".000", "1.000", ".001"]
    assert [number(x) for x in (1.14e-6, -3e-4, 0.000499)] == ["1.1e-06", "-3.0e-04", "5.0e-04"]


def test_json_has_null_where_there_is_no_bound():
    record = bootstrap_interval([0.5]).to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == {
        "value": 0.5,
        "low": None,
        "high": None,
        "level": 0.95,
        "n": 1,
        "unit": "problems",
    }


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).beta(0.3, 1.8, 150)
    ours = bootstrap_interval(values, 0.9, resamples=20_000, seed=5)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, method="percentile", n_resamples=20_000, rng=6
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean(), abs=1e-15)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.001)
    assert (ours.level, ours.n, ours.unit) == (0.9, 150, "problems")


def test_resampled_means_are_means_of_resamples():
    # Powers of a large base: the mean tells which problem was drawn how often.
    digits = resampled_means(10.0 ** np.arange(4), resamples=500, seed=3) * 4
    counts = np.array([[int(c) for c in f"{round(d):04d}"] for d in digits])
    assert (counts.sum(1) == 4).all()
    # Each problem is drawn Binomial(4, 1/4): mean 1, variance 3/4.
    assert counts.mean(0) == pytest.approx(np.ones(4), abs=0.15)
    assert counts.var(0) == pytest.approx(np.full(4, 0.75), abs=0.2)


@given(figures, st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_every_metric_sees_the_same_resamples(values, seed):
    a = np.array(values)
    stacked = resampled_means(np.stack([a, 1 - a]), 100, seed)
    assert stacked[0] == pytest.approx(1 - stacked[1], abs=1e-12)
    assert stacked[0] == pytest.approx(resampled_means(a, 100, seed), abs=1e-12)
    shifted = paired_difference(a + 0.125, a, resamples=100, seed=seed)
    assert [shifted.value, shifted.low, shifted.high] == pytest.approx([0.125] * 3, abs=1e-12)


def test_same_seed_same_bits_other_seed_other_resamples():
    values = np.random.default_rng(2).random(40)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_equal_values_have_no_width():
    interval = bootstrap_interval(np.ones(30))
    assert (interval.low, interval.value, interval.high) == (1.0, 1.0, 1.0)


def test_bootstrap_covers_at_its_level():
    """Beta-binomial population, pass@1 of 120 problems x 16 samples: true mean a / (a + b)."""
    rng = np.random.default_rng(11)
    a, b, problems, trials = 0.5, 2.0, 120, 600
    hits = {0.95: 0, 0.8: 0}
    for _ in range(trials):
        values = rng.binomial(16, rng.beta(a, b, problems)) / 16
        for level in hits:
            hits[level] += a / (a + b) in bootstrap_interval(values, level, resamples=500)
    # Binomial error of the share: .009 and .016; the percentile bootstrap is a little short.
    assert 0.92 <= hits[0.95] / trials <= 0.975
    assert 0.76 <= hits[0.8] / trials <= 0.845


def test_paired_difference_covers_where_the_unpaired_one_would_be_far_too_wide():
    rng = np.random.default_rng(12)
    covered, width, unpaired = 0, 0.0, 0.0
    for _ in range(300):
        p = rng.beta(0.5, 2.0, 100) * 0.9
        a, b = rng.binomial(64, p + 0.05) / 64, rng.binomial(64, p) / 64
        interval = paired_difference(a, b, resamples=500)
        covered += 0.05 in interval
        width += interval.high - interval.low
        alone = [bootstrap_interval(side, resamples=500) for side in (a, b)]
        unpaired += math.hypot(*(side.high - side.low for side in alone))
    assert 0.91 <= covered / 300 <= 0.98
    assert width < 0.5 * unpaired


def test_seed_interval_is_the_t_interval():
    values = [0.17, 0.18, 0.166]
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    ours = seed_interval(values, 0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-14)
    assert (ours.n, ours.unit, ours.level) == (3, "seeds", 0.9)
    constant = seed_interval([0.0, 0.0, 0.0])
    assert (constant.low, constant.value, constant.high) == (0.0, 0.0, 0.0)
    tied = seed_interval([0.9, 0.9])
    assert (
        tied.value == 0.9 and math.isnan(tied.low) and math.isnan(tied.high) and tied.verdict.startswith("no interval")
    )
    assert math.isnan(seed_interval([0.3]).low) and seed_interval([0.3]).value == 0.3


def test_seed_interval_covers_with_three_seeds():
    draws = np.random.default_rng(13).normal(0.6, 0.02, (2000, 3))
    covered = np.mean([0.6 in seed_interval(row) for row in draws])
    assert 0.935 <= covered <= 0.965


def test_welch_is_scipys_and_survives_zero_variance():
    a, b = [0.5, 0.6, 0.58], [0.4, 0.45]
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    ours = welch_interval(a, b)
    assert ours.value == pytest.approx(np.mean(a) - np.mean(b))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert (ours.n, ours.unit) == (2, "seeds")
    dead = welch_interval([0.0, 0.0, 0.0], [0.5, 0.5])
    assert (dead.low, dead.value, dead.high) == (-0.5, -0.5, -0.5)


def test_mappings_are_matched_by_problem():
    a = {"x": 0.75, "y": 0.5, "z": 0.25}
    b = {"z": 0.125, "x": 0.625, "y": 0.375}
    interval = paired_difference(a, b)
    assert (interval.low, interval.value, interval.high) == (0.125, 0.125, 0.125)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_interval([0.1, math.nan]), "values must be finite .* nan at place 1"),
        (lambda: bootstrap_interval([0.1, math.inf]), "finite"),
        (lambda: bootstrap_interval([]), "at least one number"),
        (lambda: bootstrap_interval([[0.1, 0.2]]), "list of at least one number"),
        (lambda: bootstrap_interval(["a", "b"]), "must be numbers"),
        (lambda: bootstrap_interval([0.1, 0.2], level=1.0), r"level must be .* got 1\.0"),
        (lambda: bootstrap_interval([0.1, 0.2], level=95), "level must be"),
        (lambda: bootstrap_interval([0.1, 0.2], resamples=99), "resamples must be .* got 99"),
        (lambda: bootstrap_interval([0.1, 0.2], seed=-1), "seed must be"),
        (lambda: seed_interval([0.1, math.nan]), "nan at place 1"),
        (lambda: seed_interval([0.1, 0.2], level=0), "level must be"),
        (lambda: seed_interval([]), "at least one number"),
        (lambda: paired_difference([0.1, 0.2], [0.1]), "the same problems, got 2 and 1"),
        (lambda: paired_difference([0.1, math.nan], [0.1, 0.2]), "a must be finite"),
        (lambda: paired_difference([0.1, 0.2], [math.nan, 0.2]), "b must be finite"),
        (lambda: paired_difference({"x": 1.0}, {"y": 1.0}), "the second lacks 1 .* 'x'"),
        (lambda: paired_difference({"x": 1.0}, {"x": 1.0, "y": 1.0}), "the first lacks 1 .* 'y'"),
    ],
)
def test_wrong_input_gets_a_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_small_figures_keep_their_zero_short():
    assert str(Interval(3.7e-5, 0.0, 1.2e-4)) == "3.7e-05 [0, 1.2e-04]"
