"""Evaluation: pass@k against exact fractions, properties, metrics against counting, sentences."""

import itertools
import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.estimators import coverage, pass_at_k, pass_at_k_interval, zero_contrast
from psn_tutorial.evaluation.intervals import bootstrap_interval, paired_difference, seed_interval
from psn_tutorial.evaluation.metrics import Summary, compare, per_problem, summarise
from psn_tutorial.evaluation.results import ProblemResult, tally
from psn_tutorial.tasks.registry import get_task

KS = [2**i for i in range(9)]
counts = st.integers(1, 1000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


def oracle(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


def evaluation(rng, p, n=256, names=None):
    """An evaluation with made-up solutions: each problem has 10, five samples deep."""
    results = []
    for i, c in enumerate(rng.binomial(n, p)):
        found = {f"s{j}": 1 for j in range(min(int(c), 7))}
        families = {f"f{j}": 1 for j in range(min(int(c), 3))}
        name = names[i] if names else f"problem {i}"
        results.append(ProblemResult(name, n, int(c), found, 10, families, 4))
    return results


# --- pass@k ---------------------------------------------------------------------------------------


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
    lows, highs = zip(*((i.low, i.high) for i in (pass_at_k_interval(64, c, k) for k in KS[:7])), strict=True)
    assert list(lows) == sorted(lows) and list(highs) == sorted(highs)


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


# --- coverage and zero contrast -------------------------------------------------------------------


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


# --- results --------------------------------------------------------------------------------------


def test_tally_counts_solutions_by_what_the_verifier_calls_them():
    task = get_task("countdown")
    problem = task.generate(seed=5, count=1)[0]
    solutions = task.solutions(problem)
    flipped = " , ".join(
        f"{b} {op} {a} = {v}" if op in "+*" else f"{a} {op} {b} = {v}"
        for a, op, b, _, v in (step.split() for step in solutions[0].split(" , "))
    )
    responses = Counter({solutions[0]: 3, "1 + 1 = 3": 4, "": 1})
    responses[flipped] += 2
    result = tally(problem, responses, task)
    assert (result.n, result.c) == (10, 5)
    assert result.solutions == {solutions[0]: 5}
    assert list(result.families.values()) == [5]
    assert set(result.families) <= set(task.families(problem))
    assert result.total_solutions == len(solutions)
    assert result.total_families == len(task.families(problem))
    assert result.problem == task.prompt(problem)
    everything = tally(problem, dict.fromkeys(solutions, 1), task)
    assert per_problem([everything], "coverage") == {result.problem: 1.0}
    assert per_problem([everything], "family_coverage") == {result.problem: 1.0}


def test_tally_leaves_coverage_open_where_solutions_cannot_be_listed():
    class Unlistable:
        def prompt(self, problem):
            return "?"

        def verify(self, response, problem):
            return get_task("chain").verify(response, get_task("chain").generate(0, 1)[0])

        def solutions(self, problem):
            raise UserError("too many")

    result = tally(None, {" ".join("B" * 12): 2, "A": 1}, Unlistable(), exact=0.5)
    assert (result.n, result.c, result.total_solutions, result.exact) == (3, 2, None, 0.5)
    with pytest.raises(UserError, match="coverage needs samples and the number of all solutions"):
        per_problem([result], "coverage")
    assert list(summarise([[result]])) == ["pass@1", "pass@2", "success"]


def test_results_survive_json():
    result = ProblemResult("1 2 -> 3 :", 8, 3, {"1 + 2 = 3": 3}, 2, {"1 2 +": 3}, 1, 0.25)
    line = json.dumps(result.to_json())
    assert ProblemResult.from_json(json.loads(line), "eval.json") == result
    least = ProblemResult.from_json({"problem": "p", "n": 2, "c": 1}, "eval.json")
    assert least == ProblemResult("p", 2, 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"problem": "p", "n": 2}, "eval.json, problem 3: the field 'c' is missing"),
        ({"problem": "p", "n": 2, "c": 1, "sol": {}}, "unknown field 'sol'.*allowed are problem"),
        ({"problem": "p", "n": 2, "c": 3}, "problem 3: c must be .* got 3"),
        ({"problem": "p", "n": -1, "c": 0}, "n must be"),
        ({"problem": "p", "n": 2.0, "c": 0}, "n must be"),
        ({"problem": "p", "n": 2, "c": math.nan}, "c must be"),
        ({"problem": 7, "n": 2, "c": 1}, "problem must be a text, got 7"),
        ({"problem": "p", "n": 2, "c": 1, "solutions": {"a": 2}}, r"solutions\['a'\] must be"),
        ({"problem": "p", "n": 2, "c": 1, "solutions": ["a"]}, "solutions must map texts"),
        (
            {"problem": "p", "n": 2, "c": 1, "solutions": {"a": 1}, "total_solutions": 0},
            "total_solutions must be",
        ),
        ({"problem": "p", "n": 2, "c": 1, "exact": 1.5}, "exact must be"),
        ({"problem": "p", "n": 2, "c": 1, "exact": math.nan}, "exact must be"),
        ([], "expected an object"),
    ],
)
def test_broken_results_get_a_sentence(fields, words):
    with pytest.raises(UserError, match=words):
        ProblemResult.from_json(fields, "eval.json, problem 3")


# --- metrics --------------------------------------------------------------------------------------


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


# --- summaries and comparisons --------------------------------------------------------------------


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
