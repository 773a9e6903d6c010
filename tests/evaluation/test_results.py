"""Results of problems: judged by the task's verifier, read from JSON, sentences for impossible numbers."""

import dataclasses
import json
import math
from collections import Counter

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.metrics import per_problem, summarise
from psn_tutorial.evaluation.results import ProblemResult, tally
from psn_tutorial.tasks.countdown import Countdown
from psn_tutorial.tasks.registry import get_task


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
    class Unlistable(Countdown):
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
    line = json.dumps(dataclasses.asdict(result))
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
