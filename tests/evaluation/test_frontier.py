"""The frontier: a path with known answers, the trap it is there to avoid, coverage, sentences."""

import math

import numpy as np
import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.frontier import frontier
from psn_tutorial.evaluation.results import ProblemResult


def flat(x, y, problems=4):
    """An evaluation whose pass@1 is x / 8 and pass@8 is y on every problem but the last few."""
    solved = round(y * problems)
    counts = [0] * problems
    for i in range(x * problems):
        counts[i % solved] += 1
    return [ProblemResult(f"p{i}", 8, c) for i, c in enumerate(counts)]


def gap(point, path, **options):
    return frontier([point], [path], y="pass@8", **options)


def test_known_answers_on_a_straight_path():
    # From (1/8, 1) to (3/8, 1/2): at 2/8 the path stands at 3/4.
    path = [flat(1, 1.0), flat(3, 0.5)]
    for y, expected in [(1.0, 0.25), (0.75, 0.0), (0.5, -0.25)]:
        result = gap(flat(2, y), path)
        assert result.difference.value == pytest.approx(expected, abs=1e-12)
        assert (result.x, result.y) == pytest.approx((0.25, y))
        assert (result.path_low, result.path_high) == pytest.approx((0.125, 0.375))


def test_the_best_passage_of_a_path_that_turns_back_counts():
    path = [flat(1, 0.5), flat(3, 0.5), flat(1, 1.0)]  # 2/8 is passed at .5 and again at .75
    assert gap(flat(2, 1.0), path).difference.value == pytest.approx(0.25)
    assert gap(flat(2, 1.0), path[::-1]).difference.value == pytest.approx(0.25)


def test_an_upright_piece_offers_its_better_end():
    path = [flat(2, 0.5), flat(2, 1.0)]
    assert gap(flat(2, 0.75), path).difference.value == pytest.approx(-0.25)
    assert gap(flat(2, 0.75), path[::-1]).difference.value == pytest.approx(-0.25)


def test_no_extrapolation():
    for x in (0, 4):
        point = flat(x, 1.0) if x else [ProblemResult(f"p{i}", 8, 0) for i in range(4)]
        result = gap(point, [flat(1, 1.0), flat(3, 0.5)])
        assert result.difference is None and result.verdict == "no overlap"
        assert f"{x / 8:.3f}".lstrip("0") in str(result)
        assert ".125 to .375, and nothing is extrapolated" in str(result)


def test_a_checkpoint_of_the_path_lies_on_it():
    rng = np.random.default_rng(0)
    p = rng.beta(0.4, 2, 60)
    path = [
        [ProblemResult(f"p{i}", 64, int(c)) for i, c in enumerate(rng.binomial(64, p ** (1 - t)))]
        for t in (0.0, 0.1, 0.2)
    ]
    for end in (path[0], path[-1]):
        result = frontier([end], [path], y="pass@64")
        assert result.inside == 1.0
        parts = (result.difference.value, result.difference.low, result.difference.high)
        assert parts == pytest.approx((0, 0, 0), abs=1e-9)
        assert result.verdict == "undecided"


def arm(rng, skill, strength):
    """One arm after ``strength`` of training: sharper, so that easy problems gain and hard die."""
    gain = np.clip(skill * (1 + strength), 0, 0.95)
    p = np.where(skill < 0.02 * strength, 0.0, gain)
    return [ProblemResult(f"p{i}", 256, int(c)) for i, c in enumerate(rng.binomial(256, p))]


def test_a_slower_arm_is_not_above_though_it_wins_at_equal_steps():
    rng = np.random.default_rng(1)
    skill = rng.beta(0.3, 1.5, 200)
    path = [arm(rng, skill, s) for s in (0.0, 0.25, 0.5, 1.0)]
    slower = arm(rng, skill, 0.4)
    last = path[-1]
    share = [np.mean([r.c > 0 for r in e]) for e in (slower, last)]
    assert share[0] > share[1], "at equal steps the slower arm finds more"
    assert frontier([slower], [path]).verdict == "undecided"


def test_covers_at_its_level_and_sees_a_true_gap():
    rng = np.random.default_rng(2)
    covered = above = 0
    trials = 100
    for _ in range(trials):
        skill = rng.beta(0.3, 1.5, 120)
        path = [arm(rng, skill, s) for s in (0.0, 0.5, 1.0)]
        on_it = frontier([arm(rng, skill, 0.5)], [path], resamples=300)
        covered += 0.0 in on_it.difference
        p = np.clip(skill * 1.5, 0.01, 0.95)  # as sharp, and nothing died
        better = [ProblemResult(f"p{i}", 256, int(c)) for i, c in enumerate(rng.binomial(256, p))]
        above += frontier([better], [path], resamples=300).verdict == "above"
    # The gap's own noise is small against that of the problems; the best-passage rule, and
    # the point's place at a corner of the path, cost a little.
    assert covered / trials >= 0.9
    assert above / trials >= 0.95


def test_seeds_are_the_unit_when_there_are_several():
    paths = [[flat(1, 1.0), flat(3, 0.5)]] * 3
    points = [flat(2, 1.0), flat(2, 0.75), flat(2, 1.0)]
    result = frontier(points, paths, y="pass@8")
    assert (result.difference.n, result.difference.unit) == (3, "seeds")
    assert result.difference.value == pytest.approx(0.5 / 3)
    assert "(3 seeds)" in str(result) and "overlap" not in str(result)
    assert frontier(points, paths[:1], y="pass@8") == result  # one path serves all
    points[2] = flat(4, 1.0)
    result = frontier(points, paths, y="pass@8")
    assert result.difference.n == 2 and result.inside == pytest.approx(2 / 3)
    assert "from the 67% of seeds that overlap" in str(result)
    points[0] = flat(4, 1.0)
    result = frontier(points, paths, y="pass@8")
    assert math.isnan(result.difference.low) and result.verdict == "undecided"
    points[1] = flat(4, 1.0)
    assert frontier(points, paths, y="pass@8").verdict == "no overlap"


def test_resamples_outside_the_path_are_told():
    rng = np.random.default_rng(3)
    near = [ProblemResult(f"p{i}", 64, int(c)) for i, c in enumerate(rng.binomial(64, 0.30, 50))]
    low = [ProblemResult(f"p{i}", 64, int(c)) for i, c in enumerate(rng.binomial(64, 0.10, 50))]
    edge = [ProblemResult(r.problem, 64, r.c + (-1) ** i) for i, r in enumerate(near)]
    result = frontier([near], [[low, edge]], y="pass@64")
    assert 0.2 < result.inside < 0.8
    assert f"{result.inside:.0%} of resamples that overlap" in str(result)


def test_one_problem_has_a_gap_and_no_interval():
    path = [[ProblemResult("p", 8, c)] for c in (1, 3)]
    result = gap([ProblemResult("p", 8, 2)], path)
    assert result.difference.value == 0.0 and math.isnan(result.difference.low)


@pytest.mark.parametrize(
    ("points", "paths", "words"),
    [
        ([], [], "got 0 for 0 points"),
        ([flat(2, 1.0)] * 3, [[flat(1, 1.0), flat(3, 0.5)]] * 2, "got 2 for 3 points"),
        ([flat(2, 1.0)], [[flat(1, 1.0)]], "a path needs at least 2 checkpoints, got 1"),
        ([flat(2, 1.0)], [[flat(1, 1.0), flat(3, 0.5)[:3]]], "the same problems"),
    ],
)
def test_wrong_input_gets_a_sentence(points, paths, words):
    with pytest.raises(UserError, match=words):
        frontier(points, paths, y="pass@8")
