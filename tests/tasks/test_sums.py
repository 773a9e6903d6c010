"""Worded sums: every answer worked out again, once from the question and once from the solution."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.math import OWN_SPLITS, Math, load_problems, verify_many
from psn_tutorial.tasks.questions import Problem
from psn_tutorial.tasks.sums import GAINS, HIGHEST, LOSSES, LOWEST, PEOPLE, THINGS, generate

MANY = generate(seed=5, count=2000)
TASK = Math(source="sums")


def deeds(problem):
    """[(sign, number), ...] as the question tells them, the start first; the verbs are listed here once more."""
    signs = {
        "has": "+",
        "buys": "+",
        "finds": "+",
        "gets": "+",
        "wins": "+",
        "gives": "-",
        "loses": "-",
        "sells": "-",
        "leaves": "-",
    }
    return [(signs[verb], int(number)) for verb, number in re.findall(r"(\w+) ([0-9]+)", problem.question)]


def test_the_question_has_the_answer():
    for problem in MANY:
        told = deeds(problem)
        totals = [sum(n if sign == "+" else -n for sign, n in told[: i + 1]) for i in range(len(told))]
        assert all(LOWEST <= n <= HIGHEST for _, n in told) and min(totals) >= 0
        assert len(told) == problem.level + 1 and problem.answer == str(totals[-1])


def test_the_solution_works_it_out_step_by_step():
    for problem in MANY:
        told, steps = deeds(problem), re.findall(r"([0-9]+) ([+-]) ([0-9]+) = ([0-9]+)\.", problem.solution)
        assert " ".join("{} {} {} = {}.".format(*step) for step in steps) == problem.solution
        assert [(sign, int(n)) for _, sign, n, _ in steps] == told[1:]
        assert all(int(a) + (int(n) if sign == "+" else -int(n)) == int(b) for a, sign, n, b in steps)
        assert [a for a, _, _, _ in steps] == [str(told[0][1]), *(b for _, _, _, b in steps[:-1])]
        assert steps[-1][3] == problem.answer


def test_the_words_fit_each_other():
    asks = r"How many (\w+) (?:has (\w+) now|are there in the end)\?"
    sentence = re.compile(r"(\w+) has \d+ (\w+)\. (She|He) (.+)\. " + asks)
    seen = set()
    for problem in MANY:
        name, things, pronoun, told, asked, person = sentence.fullmatch(problem.question).groups()
        assert PEOPLE[name] == pronoun and things == asked in THINGS and person in (None, name)
        ways = [re.sub(r"\d+", "{}", way) for way in told.split(" and ")]
        assert len(set(ways)) == len(ways) and set(ways) <= {*GAINS, *LOSSES}
        seen |= {name, things, *ways, person is None}
    assert seen == {*PEOPLE, *THINGS, *GAINS, *LOSSES, True, False}


def test_both_levels_and_the_whole_range_occur():
    assert 0.45 < sum(p.level == 1 for p in MANY) / len(MANY) < 0.55 and {p.level for p in MANY} == {1, 2}
    assert {n for p in MANY for _, n in deeds(p)} == set(range(LOWEST, HIGHEST + 1))
    assert all(0 <= int(p.answer) <= 60 for p in MANY) and "0" in {p.answer for p in MANY}


@given(st.integers(0, 2**63 - 1), st.integers(0, 40))
def test_the_seed_gives_the_problems_and_a_longer_list_goes_on(seed, count):
    problems = generate(seed, count)
    assert problems == generate(seed, 40)[:count] and len({p.question for p in problems}) == count
    if count == 40:
        assert problems != generate(seed - 1 if seed else 1, 40)


def test_what_is_excluded_is_not_asked_again():
    hidden = [Problem(p.question, "another answer", id="another id") for p in MANY[::2]]
    assert generate(seed=5, count=1000, exclude=hidden) == MANY[1::2]


@pytest.mark.parametrize(
    ("seed", "count", "sentence"),
    [
        (-1, 1, "seed must be a whole number"),
        (0, -1, r"count must be a whole number >= 0 and <= 1000000, got -1"),
        (0, 10**6 + 1, "count must be"),
        (0, 1.0, "count must be"),
    ],
)
def test_impossible_requests_are_refused(seed, count, sentence):
    with pytest.raises(UserError, match=sentence):
        generate(seed, count)


# As a source of the task math


def test_the_splits_share_no_question():
    train, held_out = (load_problems("sums", split) for split in OWN_SPLITS)
    assert (len(train), len(held_out)) == (480, 120)
    assert len({p.question for p in train + held_out}) == 600
    assert sorted(train + held_out, key=str) == sorted(load_problems("sums"), key=str)
    assert (TASK.problems("train"), TASK.problems("eval")) == (train, held_out)
    for some in (train, held_out):
        assert {p.level for p in some} == {1, 2}


def test_there_are_as_many_as_pretraining_wants_beside_those():
    own = load_problems("Sums")
    problems = TASK.generate(seed=0, count=20_000, exclude=own)
    assert len({p.question for p in problems} - {p.question for p in own}) == 20_000
    assert not set(TASK.generate(seed=0, count=600)) - set(own)  # the same seed, had they not been excluded
    some = Math("sums", split="eval").generate(seed=0, count=120)
    assert set(some) == set(TASK.problems("eval"))


def test_a_right_answer_is_recognised_and_a_near_miss_is_not():
    problems = TASK.problems("eval")[:20]
    right = [TASK.demonstration(problem, random.Random(0)).text for problem in problems]
    assert right[0] == rf"{problems[0].solution} The answer is \boxed{{{problems[0].answer}}}."
    near = [rf"The answer is \boxed{{{int(problem.answer) + 1}}}." for problem in problems]
    golds = [problem.answer for problem in problems]
    assert verify_many(right + near, golds * 2) == [True] * 20 + [False] * 20


def test_a_share_of_the_demonstrations_is_worked_and_all_are_right():
    task, rng = Math(source="sums", worked=0.25), random.Random(0)
    shown = [(problem, task.demonstration(problem, rng).text) for problem in MANY]
    worked = [text == f"{p.solution} The answer is \\boxed{{{p.answer}}}." for p, text in shown]
    at_once = [text == f"The answer is \\boxed{{{p.answer}}}." for p, text in shown]
    assert all(a != b for a, b in zip(worked, at_once, strict=True))
    assert abs(sum(worked) / len(MANY) - 0.25) < 4 * (0.25 * 0.75 / len(MANY)) ** 0.5
    unsolved = Problem("How many?", "3")
    assert Math(worked=0.0).demonstration(unsolved, rng).text == r"The answer is \boxed{3}."
    for share in (-0.1, 1.1, float("nan"), "half"):
        with pytest.raises(UserError, match="worked must be"):
            Math(worked=share)


def test_the_name_of_the_source_is_told():
    with pytest.raises(UserError, match="source must be one of word_problems, sums, gsm8k, .*got 'sum' .*'sums'"):
        get_task("math", source="sum").generate(0, 1)
    with pytest.raises(UserError, match="split must be one of 'train', 'eval', got 'test'"):
        load_problems("sums", "test")


# Harder ones

HARD = [
    {"steps": 4},
    {"largest": 500},
    {"distractors": 1.0},
    {"steps": 6, "largest": 99, "distractors": 0.5},
]


@pytest.mark.parametrize("knobs", HARD)
def test_harder_sums_have_their_answer_too(knobs):
    problems = generate(seed=3, count=300, **knobs)
    largest = knobs.get("largest", HIGHEST)
    aside = re.compile(r" (Her|His) (brother|sister|cousin|neighbour) has ([0-9]+) (\w+)\.")
    for problem in problems:
        found = aside.search(problem.question)
        bare = aside.sub("", problem.question)
        total = int(re.search("has ([0-9]+)", bare)[1])
        for verb, number in re.findall(r"(?:She |He |, |and )(?:is )?(\w+) (?:up )?([0-9]+)", bare):
            total += int(number) * (-1 if verb in ("gives", "loses", "sells", "leaves", "throws", "lends") else 1)
            assert LOWEST <= int(number) <= largest and total >= 0
        assert problem.answer == str(total)
        assert len(re.findall("=", problem.solution)) == problem.level == (knobs.get("steps") or problem.level)
        if found:  # another person's things, and a question that names the one who is meant
            assert found[4] in problem.question.split("?")[0].split("How many")[1]
            assert problem.question.split()[0] in problem.question.split("How many")[1]
            assert found[1] == {"She": "Her", "He": "His"}[PEOPLE[problem.question.split()[0]]]
    share = sum(bool(aside.search(problem.question)) for problem in problems) / 300
    assert abs(share - knobs.get("distractors", 0.0)) < 0.1


def test_the_knobs_at_rest_change_nothing():
    assert generate(seed=5, count=50, steps=0, largest=HIGHEST, distractors=0.0) == MANY[:50]
    assert Math(source="sums", sum_steps=3).problems("train") != TASK.problems("train")
    task = Math(source="sums", sum_steps=3, sum_largest=50, sum_distractors=0.3)
    held_out = {problem.question for problem in task.problems("eval")}
    assert not held_out & {problem.question for problem in task.problems("train")}
    assert {problem.level for problem in task.generate(1, 20)} == {3}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"source": "sums", "sum_steps": 7}, "sum_steps must be a whole number >= 0 and <= 6, got 7"),
        ({"source": "sums", "sum_largest": 1}, "sum_largest must be a whole number >= 2 and <= 1000000, got 1"),
        ({"source": "sums", "sum_distractors": 1.5}, "sum_distractors must be >= 0 and <= 1, got 1.5"),
        ({"sum_steps": 3}, "sum_steps must stay 0 for problems that are no sums"),
        ({"source": "sums", "path": "x.jsonl", "sum_largest": 30}, "sum_largest must stay 20 for problems that are no"),
    ],
)
def test_knobs_that_cannot_be(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Math(**settings)


def test_more_sums_than_there_are():
    with pytest.raises(UserError, match="there are hardly more different sums, got 1000000"):
        generate(seed=0, count=10**6, steps=1, largest=2)
