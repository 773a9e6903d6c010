"""p-values against SciPy and by hand, Holm against a table, verdicts against their sentences."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.intervals import Interval
from psn_tutorial.evaluation.verdicts import (
    VERDICTS,
    effect,
    hedges_g,
    holm,
    judge,
    paired_p,
    sign_flip_p,
    verdict,
)

FIGURES = st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=8)
PAIRS = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 100).map(lambda x: x / 100), min_size=n, max_size=n)] * 2)
)


# --- p-values -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(x=FIGURES)
def test_p_is_that_of_scipys_paired_t_test(x):
    if np.std(x, ddof=1) > 1e-9:
        assert paired_p(x) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, rel=1e-9)


def test_p_without_spread_and_of_one_seed():
    """Two seeds that tie by chance are no proof: what is left is how many ways there are to give them signs."""
    assert paired_p([0.0, 0.0, 0.0]) == 1 and paired_p([0.5]) == 1
    assert paired_p([0.5, 0.5]) == 0.5 and paired_p([0.1, 0.1, 0.1]) == 0.25
    tied = judge({"arm": effect([0.9, 0.9], [0.8, 0.8])}, {"arm": 0.05})
    assert tied["arm"].verdict == "undecided"


def test_p_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt 3, t = 2 sqrt 3 with 2 degrees of freedom, of which
    P(|T| > t) = 1 - t / sqrt(2 + t^2)."""
    t = 2 * math.sqrt(3)
    assert paired_p([1, 2, 3]) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-12)


@pytest.mark.parametrize(("x", "p"), [([1, 2, 3, 4, 5], 2 / 32), ([1, 1, 1, -1], 10 / 16), ([0, 0], 1), ([3, -1], 1)])
def test_sign_flips_counted_by_hand(x, p):
    """1, 1, 1, -1 has the sum 2: as far from 0 are the sums of 4 (2 ways) and of 2 (8 ways)."""
    assert sign_flip_p(x) == p


@settings(deadline=None, max_examples=40)
@given(x=st.lists(st.integers(-50, 50), min_size=2, max_size=7))
def test_sign_flips_are_scipys_exact_permutation_test(x):
    found = stats.permutation_test(
        (np.array(x, float),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert sign_flip_p(x) == pytest.approx(found.pvalue)


@given(x=st.lists(st.floats(-1, 1), min_size=1, max_size=7))
def test_a_sign_flip_p_is_a_share_of_all_signs_and_the_same_for_both_directions(x):
    p = sign_flip_p(x)
    assert 2 / 2 ** len(x) <= p <= 1 and p * 2 ** len(x) == int(p * 2 ** len(x))
    assert sign_flip_p([-v for v in x]) == p
    sums = [sum(s * v for s, v in zip(signs, x, strict=True)) for signs in product((1, -1), repeat=len(x))]
    far = sum(abs(s) >= abs(sum(x)) - 1e-9 for s in sums)
    assert far >= p * 2 ** len(x) >= sum(abs(s) > abs(sum(x)) + 1e-9 for s in sums)


def test_more_seeds_than_are_enumerated_are_refused():
    assert sign_flip_p([1.0] * 20) == 2 / 2**20
    with pytest.raises(UserError, match="the number of seeds must be a whole number <= 20, got 21"):
        sign_flip_p([1.0] * 21)


# --- effect sizes -------------------------------------------------------------------------------------


def test_g_is_unbiased_for_normal_differences():
    """Its mean over many samples is the true ratio; the uncorrected one's is not. 5 standard errors."""
    samples = np.random.default_rng(0).normal(1.0, 1.0, size=(20_000, 5))
    gs = np.array([hedges_g(x) for x in samples])
    plain = samples.mean(1) / samples.std(1, ddof=1)
    assert abs(gs.mean() - 1) < 5 * gs.std() / math.sqrt(len(gs)) < abs(plain.mean() - 1)


def test_g_needs_three_seeds_and_a_spread():
    assert hedges_g([1, 2]) is None and hedges_g([1, 1, 1]) is None
    # 4 degrees of freedom: gamma(2) / (sqrt 2 gamma(1.5)) = .79788
    assert hedges_g([1, 2, 3, 4, 5]) == pytest.approx(3 / math.sqrt(2.5) * 0.7978845608)


@settings(deadline=None)
@given(pair=PAIRS)
def test_the_chance_of_improvement_is_mann_whitneys(pair):
    a, b = pair
    assert effect(a, b).improvement == pytest.approx(stats.mannwhitneyu(a, b).statistic / len(a) ** 2)
    assert effect(a, b).improvement + effect(b, a).improvement == pytest.approx(1)


@settings(deadline=None)
@given(pair=PAIRS)
def test_an_effect_is_paired_by_seed_and_turns_with_its_sides(pair):
    a, b = pair
    found, back = effect(a, b), effect(b, a)
    differences = np.subtract(a, b)
    assert found.difference.value == pytest.approx(differences.mean())
    assert (found.p, found.sign_flip) == (paired_p(differences), sign_flip_p(differences))
    assert back.p == pytest.approx(found.p) and back.difference.value == pytest.approx(-found.difference.value)
    if differences.std() > 1e-9:  # the interval holds 0 just where p says so
        assert (0 in found.difference) == (found.p >= 0.05)


def test_sides_of_different_seeds_are_refused():
    with pytest.raises(UserError, match="a and b must hold the same seeds, got 2 and 3 of them"):
        effect([1, 2], [1, 2, 3])


# --- many comparisons ---------------------------------------------------------------------------------


def test_holm_by_hand():
    """Sorted .01, .02, .03, .04 times 4, 3, 2, 1 is .04, .06, .06, .04; never below the one before."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


@given(ps=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_least_level_at_which_its_procedure_rejects(ps):
    """Its definition, by another way: reject in order while p(i) <= level / (m - i), stop at the first that fails."""
    corrected = holm(ps)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for i, place in enumerate(sorted(range(len(ps)), key=lambda k: ps[k])):
            if ps[place] * (len(ps) - i) > level:
                break
            rejected.add(place)
        assert {i for i, p in enumerate(corrected) if p <= level} == rejected
    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True))


def test_false_alarms_among_many_stay_rare():
    """20 comparisons of arms that do not differ, 5 seeds: an uncorrected alarm in most studies, a corrected one in 5 %
    at most (4 standard errors)."""
    chance, any_plain, any_corrected = np.random.default_rng(0), 0, 0
    for _ in range(600):
        ps = [paired_p(x) for x in chance.normal(size=(20, 5))]
        any_plain += min(ps) < 0.05
        any_corrected += min(holm(ps)) < 0.05
    assert any_plain > 300 and any_corrected / 600 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 600)


def test_p_outside_of_0_to_1_is_refused():
    with pytest.raises(UserError, match=r"ps\[1\] must be >= 0 and <= 1, got 1.5"):
        holm([0.5, 1.5])


# --- the words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "value", "high", "corrected", "word"),
    [
        (0.10, 0.20, 0.30, 0.001, "gain"),
        (-0.30, -0.20, -0.10, 0.001, "loss"),
        (0.01, 0.03, 0.06, 0.04, "gain"),
        (0.01, 0.20, 0.40, 0.2, "undecided"),  # the correction takes it back
        (0.01, 0.20, 0.40, 0.05, "undecided"),
        (-0.04, 0.00, 0.04, 0.9, "no difference shown"),
        (0.01, 0.02, 0.03, 1e-9, "no difference shown"),  # certain, and smaller than what matters
        (-0.05, 0.00, 0.04, 0.9, "undecided"),
        (-0.04, 0.00, 0.05, 0.9, "undecided"),
        (math.nan, 0.90, math.nan, 1.0, "undecided"),
    ],
)
def test_each_word_is_said_when_its_sentence_holds(low, value, high, corrected, word):
    assert verdict(Interval(value, low, high, 0.95, 5, "seeds"), corrected, 0.05) == word
    assert word in VERDICTS


@given(value=st.floats(-1, 1), half=st.floats(0, 1), p=st.floats(0, 1), margin=st.floats(0.001, 1))
def test_a_verdict_turns_with_the_sides(value, half, p, margin):
    turned = {"gain": "loss", "loss": "gain"}
    one = verdict(Interval(value, value - half, value + half), p, margin)
    assert verdict(Interval(-value, -value - half, -value + half), p, margin) == turned.get(one, one)


def test_a_family_is_judged_together():
    strong, weak = (
        effect([0.9, 0.8, 0.95, 0.85, 0.9], [0.1, 0.2, 0.1, 0.1, 0.2]),
        effect([0.2, 0.3, 0.15], [0.1, 0.1, 0]),
    )
    assert 0.05 / 2 < weak.p < 0.05
    alone = judge({"weak": weak}, {"weak": 0.02})
    both = judge({"strong": strong, "weak": weak, "again": weak}, dict.fromkeys(("strong", "weak", "again"), 0.02))
    assert alone["weak"].verdict == "gain"
    assert [j.verdict for j in both.values()] == ["gain", "undecided", "undecided"]
    assert both["weak"].corrected == pytest.approx(2 * weak.p)
    written = both["strong"].to_json()
    assert written["verdict"] == "gain" and written["difference"]["n"] == 5 and written["p"] == strong.p


def test_a_margin_must_be_above_0():
    with pytest.raises(UserError, match="margin must be > 0, got 0"):
        verdict(Interval(0, 0, 0), 1.0, 0)
