"""pass@k against exact fractions and subsets, its properties, coverage and zero contrast against counting."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.estimators import coverage, pass_at_k, pass_at_k_interval, zero_contrast
from psn_tutorial.evaluation.intervals import bootstrap_interval

counts = st.integers(1, 1000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


def oracle(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


@given(counts)
@settings(max_examples=300, deadline=None)
def test_pass_at_k_is_exact(case):
    assert abs(Fraction(pass_at_k(*case)) - oracle(*case)) <= Fraction(1, 10**12)


def test_pass_at_k_is_exact_on_a_grid_up_to_1000():
    for n in (999, 1000):
        grid = [0, 1, 2, 3, 10, 100, 250, 499, 500, 501, 900, n - 2, n - 1, n]
        for c, k in itertools.product(grid, grid[1:]):
            assert abs(Fraction(pass_at_k(n, c, k)) - oracle(n, c, k)) <= Fraction(1, 10**12)


def test_pass_at_k_is_the_mean_over_all_subsets():
    for n, c in [(6, 2), (7, 1), (5, 5), (5, 0)]:
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-14)


def test_all_samples_taken_is_no_estimate():
    assert pass_at_k(8, 1, 8) == 1.0  # with replacement it would be .656
    assert pass_at_k(8, 0, 8) == 0.0
    assert isinstance(pass_at_k(8, 1, 8), float)


@given(counts)
@settings(deadline=None)
def test_certainties_are_exact(case):
    n, c, k = case
    assert pass_at_k(n, c, n) == float(c > 0)
    assert pass_at_k(n, 0, k) == 0.0
    assert pass_at_k(n, c, 1) == pytest.approx(c / n, abs=1e-15)
    if n - c < k:
        assert pass_at_k(n, c, k) == 1.0


@given(st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_monotone_in_k_and_c(n):
    table = pass_at_k(n, np.arange(n + 1)[:, None], np.arange(1, n + 1))
    assert table.shape == (n + 1, n)
    assert (np.diff(table, axis=0) >= -1e-14).all() and (np.diff(table, axis=1) >= -1e-14).all()
    assert table.min() == 0.0 and table.max() == 1.0


@given(st.integers(1, 60), st.floats(0, 1), st.data())
@settings(max_examples=60, deadline=None)
def test_unbiased_over_the_binomial(n, p, data):
    k = data.draw(st.integers(1, n))
    # scipy's binom.pmf overflows for p near 2.2e-308, so the chances are written out.
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    expectation = np.dot(chances, pass_at_k(n, np.arange(n + 1), k))
    assert expectation == pytest.approx(1 - (1 - p) ** k, abs=1e-10)


def test_arrays_broadcast_and_agree_with_scalars():
    n, c = np.array([256, 100, 8]), np.array([3, 0, 8])
    table = pass_at_k(n, c, np.array([1, 4, 8])[:, None])
    assert table.shape == (3, 3)
    for i, k in enumerate((1, 4, 8)):
        for j in range(3):
            assert table[i, j] == pass_at_k(int(n[j]), int(c[j]), k)
    assert pass_at_k([4, 4], [1, 2], 2).shape == (2,)
    assert pass_at_k(4.0, 1.0, 2) == 0.5


@pytest.mark.parametrize(
    ("n", "c", "k", "words"),
    [
        (8, 1, 9, "k must be at most num_samples = 8, got 9"),
        (8, 9, 1, "num_correct must be at most num_samples = 8, got 9"),
        (8, -1, 1, "num_correct must be whole numbers >= 0, got -1"),
        (-8, 0, 1, "num_samples must be whole numbers >= 0, got -8"),
        (8, 1, 0, "k must be whole numbers >= 1, got 0"),
        (0, 0, 1, "k must be at most num_samples = 0"),
        (8, math.nan, 1, "num_correct .* got nan"),
        (math.nan, 1, 1, "num_samples .* got nan"),
        (math.inf, 1, 1, "num_samples .* got inf"),
        (8, 1, math.nan, "k .* got nan"),
        (8, 1.5, 1, "num_correct .* got 1.5"),
        (8, "1", 1, "num_correct .* got '1'"),
        ([8, 8], [1, 9], 1, "num_correct must be at most num_samples = 8, got 9"),
        ([8, 4], [1, 1], 5, "k must be at most num_samples = 4, got 5"),
    ],
)
def test_impossible_counts_get_a_sentence(n, c, k, words):
    with pytest.raises(UserError, match=words):
        pass_at_k(n, c, k)


def test_intervals_of_all_k_share_their_resamples():
    c = np.random.default_rng(3).binomial(64, 0.2, 50)
    for k in (1, 8, 64):
        expected = bootstrap_interval(pass_at_k(64, c, k), seed=4)
        assert pass_at_k_interval(64, c, k, seed=4) == expected
    # Monotone in k problem by problem, so monotone in every resample, so at both bounds.
    intervals = [pass_at_k_interval(64, c, 2**i) for i in range(7)]
    lows, highs = [i.low for i in intervals], [i.high for i in intervals]
    assert lows == sorted(lows) and highs == sorted(highs)


def test_pass_at_16_covers_a_beta_binomial_population():
    """E[1 - (1 - p)^k] over Beta(a, b) is 1 - B(a, b + k) / B(a, b)."""
    rng, a, b, k, trials = np.random.default_rng(21), 0.4, 2.0, 16, 400
    logs = [math.lgamma(x) for x in (b + k, a + b, a + b + k, b)]
    truth = 1 - math.exp(logs[0] + logs[1] - logs[2] - logs[3])
    covered = 0
    for _ in range(trials):
        c = rng.binomial(64, rng.beta(a, b, 150))
        covered += truth in pass_at_k_interval(64, c, k, resamples=500)
    assert 0.915 <= covered / trials <= 0.98


# --- coverage and zero contrast ------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), max_size=4), st.integers(0, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_coverage_is_the_mean_over_all_subsets(found, wrong, data):
    n = sum(found) + wrong
    assume(1 <= n <= 9)
    k = data.draw(st.integers(1, n))
    samples = [i for i, count in enumerate(found) for _ in range(count)] + [None] * wrong
    subsets = [set(s) - {None} for s in itertools.combinations(samples, k)]
    expected = np.mean([len(s) for s in subsets]) / (len(found) + 2)
    assert coverage(found, len(found) + 2, n, k) == pytest.approx(expected, abs=1e-12)
    assert coverage(found, len(found) + 2, n) == len(found) / (len(found) + 2)


@given(st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_zero_contrast_counts_the_groups_without_gradient(n, data):
    c, group = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    same = math.comb(c, group) + math.comb(n - c, group)
    expected = same / math.comb(n, group)
    if group == 1:
        expected = 1.0  # alone, a sample is both all right or all wrong, never both at once
    assert zero_contrast(n, c, group) == pytest.approx(expected, abs=1e-12)
