"""Metrics against counting, summaries and comparisons against the intervals, sentences."""

import json
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.estimators import pass_at_k_interval
from psn_tutorial.evaluation.intervals import bootstrap_interval, paired_difference, seed_interval
from psn_tutorial.evaluation.metrics import METRICS, Summary, compare, in_words, per_problem, summarise
from psn_tutorial.evaluation.results import ProblemResult

KS = [2**i for i in range(9)]


def evaluation(rng, p, n=256, names=None):
    """An evaluation with made-up solutions: each problem has 10, five samples deep."""
    results = []
    for i, c in enumerate(rng.binomial(n, p)):
        found = {f"s{j}": 1 for j in range(min(int(c), 7))}
        families = {f"f{j}": 1 for j in range(min(int(c), 3))}
        name = names[i] if names else f"problem {i}"
        results.append(ProblemResult(name, n, int(c), found, 10, families, 4))
    return results


def test_metrics_are_taken_per_problem():
    results = [
        ProblemResult("a", 8, 3, {"s": 1, "t": 2}, 4, {"f": 3}, 1),
        ProblemResult("b", 8, 0, {}, 5, {}, 2),
        ProblemResult("c", 8, 0, {}, 0, {}, 0),
    ]
    assert per_problem(results, "pass@8") == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert per_problem(results, "pass@1") == {"a": 0.375, "b": 0.0, "c": 0.0}
    assert per_problem(results, "coverage") == {"a": 0.5, "b": 0.0}  # c has nothing to cover
    assert per_problem(results, "family_coverage") == {"a": 1.0, "b": 0.0}
    assert per_problem(results, "coverage@1")["a"] == pytest.approx((1 / 8 + 2 / 8) / 4)
    assert per_problem(results, "zero_contrast@8") == {"a": 0.0, "b": 1.0, "c": 1.0}


def test_exact_probabilities_give_exact_pass_at_k():
    exact = [0.0, 1e-6, 0.25, 1.0, 1.00001]
    results = [ProblemResult(str(p), 0, 0, exact=p) for p in exact]
    assert list(per_problem(results, "success").values()) == [0.0, 1e-6, 0.25, 1.0, 1.0]
    values = per_problem(results, "pass@256")
    expected = [0.0, float(1 - (1 - Fraction(1, 10**6)) ** 256), 1 - 0.75**256, 1.0, 1.0]
    assert list(values.values()) == pytest.approx(expected, rel=1e-12)
    summary = summarise([results])
    assert list(summary) == [f"pass@{k}" for k in KS] + ["success"]
    assert summary["success"] == bootstrap_interval([0.0, 1e-6, 0.25, 1.0, 1.0])


def test_samples_count_where_there_are_samples():
    results = [ProblemResult("a", 4, 2, exact=0.9), ProblemResult("b", 4, 0, exact=0.1)]
    assert per_problem(results, "pass@1") == {"a": 0.5, "b": 0.0}
    assert per_problem(results, "success") == {"a": 0.9, "b": 0.1}


def test_the_glossary_says_how_each_name_is_written():
    results = [ProblemResult("a", 8, 3, {"s": 3}, 4, {"f": 3}, 1, exact=0.5)]
    for name, metric in METRICS.items():
        for with_k, written in ((True, f"{name}@2"), (False, name)):
            if metric.at_k in (with_k, None):
                assert 0 <= per_problem(results, written)["a"] <= 1
            else:
                with pytest.raises(UserError, match=f"metric must be {name}"):
                    per_problem(results, written)
    assert in_words("coverage") == "solutions found" and in_words("pass@16") == "pass@16"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("pas@1", r"metric must be one of pass, .* got 'pas@1' \(did you mean 'pass'\?\)"),
        ("pass", "pass@K with a whole number"),
        ("pass@0", "pass@K with a whole number"),
        ("pass@-1", "pass@K with a whole number"),
        ("pass@x", "pass@K with a whole number"),
        ("pass@²", "pass@K with a whole number"),
        ("zero_contrast", "zero_contrast@K with"),
        ("coverage@", "coverage@K with"),
        ("success@2", "success alone"),
        ("success", "success needs exact probabilities"),
        ("pass@512", "k must be at most num_samples = 256, got 512"),
        (None, "metric must be one of"),
    ],
)
def test_unknown_metrics_get_a_sentence(metric, words):
    results = evaluation(np.random.default_rng(0), np.full(3, 0.5))
    with pytest.raises(UserError, match=words):
        per_problem(results, metric)


@pytest.mark.parametrize(
    ("evaluations", "words"),
    [
        ([], "got none"),
        ([[]], "at least one ProblemResult"),
        ([ProblemResult("a", 2, 1)], "an evaluation must be a list"),
        ([[{"n": 2, "c": 1}]], "an evaluation must be a list"),
        ([[ProblemResult("a", 2, 1)] * 2], "the problem 'a' more than once"),
        ([[ProblemResult("a", 0, 0)]], "pass@1 needs samples or exact probabilities"),
        ([[ProblemResult("a", 2, 1), ProblemResult("b", 0, 0)]], "pass@1 needs samples or"),
    ],
)
def test_unusable_evaluations_get_a_sentence(evaluations, words):
    with pytest.raises(UserError, match=words):
        summarise(evaluations)


# --- summaries and comparisons -------------------------------------------------------------------


def test_one_evaluation_is_bootstrapped_over_its_problems():
    rng = np.random.default_rng(7)
    results = evaluation(rng, rng.beta(0.3, 1.8, 60))
    summary = summarise([results], seed=9)
    assert list(summary) == [f"pass@{k}" for k in KS] + ["coverage", "family_coverage"]
    n, c = np.array([r.n for r in results]), np.array([r.c for r in results])
    for k in KS:
        assert summary[f"pass@{k}"] == pass_at_k_interval(n, c, k, seed=9)
    found = [len(r.solutions) / 10 for r in results]
    assert summary["coverage"] == bootstrap_interval(found, seed=9)
    assert list(summarise([results], ks=[3], metrics=["zero_contrast@16"])) == [
        "pass@3",
        "zero_contrast@16",
    ]
    few = evaluation(rng, [0.5, 0.5], n=10)
    assert list(summarise([few]))[:4] == ["pass@1", "pass@2", "pass@4", "pass@8"]
    with pytest.raises(UserError, match="k must be at most num_samples = 10, got 16"):
        summarise([few], ks=[1, 16])


def test_several_evaluations_are_seeds():
    rng = np.random.default_rng(8)
    seeds = [evaluation(rng, np.full(30, p)) for p in (0.1, 0.2, 0.3)]
    means = [np.mean([r.c / r.n for r in seed]) for seed in seeds]
    summary = summarise(seeds)
    assert summary["pass@1"].value == pytest.approx(np.mean(means))
    expected = seed_interval(means)
    assert expected.low < 0, "the case must test the cut at 0"
    assert summary["pass@1"].low == 0.0
    assert summary["pass@1"].high == pytest.approx(expected.high)
    assert summary["pass@256"].high <= 1.0
    assert str(summary["pass@1"]).endswith("(3 seeds)")
    assert str(summary).endswith("(95 % intervals: t over 3 seeds)")


def test_summary_prints_as_a_table_and_as_json():
    results = evaluation(np.random.default_rng(9), [0.5, 0.5], n=2)
    text = str(summarise([results], metrics=[]))
    lines = text.splitlines()
    assert lines[0].startswith("pass@1  .") and lines[1].startswith("pass@2  ")
    assert lines[2] == "(95 % intervals: bootstrap over 2 problems)"
    record = json.loads(json.dumps(summarise([results], metrics=[]).to_json()))
    assert record["pass@1"]["n"] == 2
    assert str(Summary()) == ""


def test_one_problem_has_a_figure_and_no_interval():
    chain = [[ProblemResult(":", 0, 0, exact=0.957)]]
    summary = summarise(chain, ks=[])
    assert str(summary) == ("success  .957 [no interval: 1 problem]\n(95 % intervals: bootstrap over 1 problem)")
    two = summarise([chain[0], [ProblemResult(":", 0, 0, exact=0.903)]], ks=[])
    assert two["success"].unit == "seeds" and two["success"].value == pytest.approx(0.93)


def test_compare_one_seed_each_pairs_by_problem():
    rng = np.random.default_rng(10)
    p = rng.beta(0.5, 2, 40)
    a, b = evaluation(rng, p), evaluation(rng, p * 0.8)
    for metric in ("pass@1", "pass@64", "coverage"):
        va, vb = per_problem(a, metric), per_problem(b, metric)
        expected = paired_difference(list(va.values()), list(vb.values()))
        assert compare([a], [b], metric) == expected
        assert compare([a], [b[::-1]], metric) == expected  # the order of problems is no matter
    back = compare([b], [a], "pass@1")
    forth = compare([a], [b], "pass@1")
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low))


def test_compare_several_seeds():
    rng = np.random.default_rng(11)
    p = np.full(20, 0.5)
    a = [evaluation(rng, p) for _ in range(3)]
    b = [evaluation(rng, p * 0.9) for _ in range(3)]
    ma, mb = ([np.mean(list(per_problem(e, "pass@1").values())) for e in side] for side in (a, b))
    assert compare(a, b, "pass@1") == seed_interval(np.subtract(ma, mb))
    assert compare(a, b[:1], "pass@1") == seed_interval(np.array(ma) - mb[0])
    assert compare(a[:1], b, "pass@1") == seed_interval(ma[0] - np.array(mb))
    welch = stats.ttest_ind(ma, mb[:2], equal_var=False).confidence_interval(0.95)
    uneven = compare(a, b[:2], "pass@1")
    assert (uneven.low, uneven.high) == pytest.approx((welch.low, welch.high))
    assert uneven.unit == "seeds"


def test_a_difference_stays_where_it_can_be():
    def certain(exact):
        return [ProblemResult("p", 0, 0, exact=exact), ProblemResult("q", 0, 0, exact=exact)]

    low, high = [certain(0.0)] * 3, [certain(x) for x in (0.8, 1.0, 1.0)]
    up, down = compare(high, low, "success"), compare(low, high, "success")
    assert up.high == 1.0 and 0.6 < up.low < up.value and down.low == -1.0
    assert compare(high[:2], low, "success").high == 1.0  # Welch


def test_compare_refuses_different_problems_in_any_seed():
    rng = np.random.default_rng(12)
    a = evaluation(rng, [0.5, 0.5], names=["x", "y"])
    b = evaluation(rng, [0.5, 0.5], names=["x", "z"])
    with pytest.raises(UserError, match="the same problems: the second lacks 1 of them.*'y'"):
        compare([a], [b], "pass@1")
    with pytest.raises(UserError, match="the same problems"):
        compare([a, a], [a, b], "pass@1")
    with pytest.raises(UserError, match="the same problems"):
        compare([a, b], [a, a], "pass@1")
