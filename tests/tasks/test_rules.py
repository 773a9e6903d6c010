"""Consistent rules against arithmetic written out in the test, and against full enumeration."""

import math
import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.tasks import rules as module
from psn_tutorial.tasks.rules import Chain, Problem, Rules

PROBLEM = Problem((3, 1, 4, 1, 5, 9))


@st.composite
def tasks_with_problems(draw, most_steps=4):
    steps, rules, values = draw(st.integers(1, most_steps)), draw(st.integers(2, 3)), draw(st.booleans())
    task = Rules(
        steps=steps,
        rules=rules,
        rare=draw(st.sampled_from("AB")),
        consistency=draw(st.integers(1, steps)),
        values=values,
        mixed=draw(st.integers(0, 10)) if values and rules == 2 else 0,
    )
    digits = draw(st.lists(st.integers(0, 9), min_size=steps, max_size=steps))
    return task, Problem(tuple(digits) if task.values else ())


def write(choices, digits):
    """The completion, by arithmetic that shares nothing with the module's."""
    words, total = [], 0
    for letter, digit in zip(choices, digits, strict=True):
        total += {"A": digit, "B": -digit, "C": 2 * digit, "D": -2 * digit, "E": 3 * digit, "F": -3 * digit}[letter]
        words += [letter, str(total % 10)]
    return " ".join(words)


def wanted(task, problem, step):
    """The rewarded letter of a step, written out."""
    turned = task.mixed > 0 and problem.digits[step] < task.mixed
    return {"A": "B", "B": "A"}[task.rare] if turned else task.rare


def test_the_example_of_the_module_by_hand():
    task = Rules()
    assert task.prompt(PROBLEM) == "3 1 4 1 5 9 :"
    text = "B 7 B 6 B 2 B 1 B 6 B 7"
    assert task.accepted(PROBLEM) == [text]
    assert task.max_tokens(PROBLEM) == 12 and not task.ends
    verdict = task.verify(text, PROBLEM)
    assert (verdict.correct, verdict.reason) == (True, "")
    assert (verdict.solution, verdict.family) == ("BBBBBB", "6 of 6")


@given(choices=st.text("ABCDEF", min_size=6, max_size=6))
def test_every_rule_is_computed_right(choices):
    task = Rules(rules=6, rare="F")
    assert task.completion(choices, PROBLEM) == write(choices, PROBLEM.digits)


@settings(max_examples=60, deadline=None)
@given(case=tasks_with_problems())
def test_accepted_are_exactly_the_verified_ones_of_all_completions(case):
    task, problem = case
    verified = []
    for choices in product(task.letters, repeat=task.steps):
        text = write(choices, problem.digits) if task.values else " ".join(choices)
        verdict = task.verify(text, problem)
        rewarded = [letter == wanted(task, problem, step) for step, letter in enumerate(choices)]
        kept = all(rewarded[: task.consistency])
        assert verdict.correct == kept
        if kept:
            verified.append(text)
            assert verdict.solution == "".join(choices)
            assert verdict.family == f"{sum(rewarded)} of {task.steps}"
            assert verdict.family in task.families(problem)
    assert sorted(task.accepted(problem)) == sorted(verified)
    assert sorted(task.solutions(problem)) == sorted(
        v.replace(" ", "").translate({ord(d): None for d in "0123456789"}) for v in verified
    )


@settings(max_examples=200, deadline=None)
@given(case=tasks_with_problems(), data=st.data())
def test_one_changed_word_is_wrong_unless_it_is_a_free_choice(case, data):
    task, problem = case
    words = data.draw(st.sampled_from(task.accepted(problem))).split(" ")
    position = data.draw(st.integers(0, len(words) - 1))
    words[position] = data.draw(st.sampled_from([*task.words, "", "Z", "10", "-1", "a"]))
    text = " ".join(words)
    assert task.verify(text, problem).correct == (text in task.accepted(problem))


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "empty"),
        ("B", "1 words, not 12"),
        ("B 7", "2 words, not 12"),
        ("B 7 B 6 B 2 B 1 B 6 B", "11 words, not 12"),
        ("B 7 B 6 B 2 B 1 B 6 B 7 ", "too long: 24 characters, at most 23"),
        (" B 7 B 6 B 2 B 1 B 6 B 7", "too long: 24 characters, at most 23"),
        ("B7B6B2B1B6B7", "step 1: 'B7B6B2B1B6B7' is none of A, B"),
        ("7 B 6 B 2 B 1 B 6 B 7 B", "step 1: '7' is none of A, B"),
        ("B 7 C 6 B 2 B 1 B 6 B 7", "step 2: 'C' is none of A, B"),
        ("B 7 B 6 B 3 B 1 B 6 B 7", "step 3: '3' is not 2"),
        ("B 7 B 6 B B B 1 B 6 B 7", "step 3: 'B' is not 2"),
        ("B 7 B 6 B 2 B 1 B 6 A 5", "step 6: rule A, not B"),
        ("A 3 A 4 A 8 A 9 A 4 A 3", "step 1: rule A, not B"),
        ("A  A  A  A  A  A  A  A ", "16 words, not 12"),
        ("B  B  B  B  B  B  B  B ", "16 words, not 12"),
        ("B\t7 B 6", "step 1: 'B\\t7' is none of A, B"),
        ("B 7\n", "2 words, not 12"),
        ("B \x00", "2 words, not 12"),
        ("B 7 B 6 B 2 B 1 B 6 B \x00", "step 6: '\\x00' is not 7"),
        ("B ٧", "not ASCII"),
        ("Β 7", "not ASCII"),  # a Greek capital
        ("exec('1')", "step 1: \"exec('1')\" is none of A, B"),
    ],
)
def test_every_rejection_gives_its_reason(response, reason):
    verdict = Rules().verify(response, PROBLEM)
    assert verdict.correct is False
    assert verdict.reason == reason
    assert (verdict.solution, verdict.family) == (None, None)


class OnlyLength(str):
    """A response that fails the test if anything but its length is looked at."""

    def _touched(self, *_):
        raise AssertionError("read before its length was checked")

    split = isascii = strip = encode = __iter__ = __getitem__ = __eq__ = __contains__ = _touched
    __hash__ = str.__hash__


FLOODS = ["B 7 " * 10**6, "+" * 10**7, "[" * 10**7, "٣" * 10**7]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda text: text[:3])
@pytest.mark.parametrize("task", [Rules(), Chain()])
def test_a_flood_is_rejected_by_its_length_alone(flood, task):
    [problem] = task.generate(0, 1)
    reason = task.verify(OnlyLength(flood), problem).reason
    assert reason == f"too long: {len(flood)} characters, at most 23"


@settings(max_examples=300, deadline=None)
@given(response=st.text(max_size=30) | st.text("AB 0123456789\0٣", max_size=24))
@pytest.mark.parametrize("task", [Rules(), Chain(), Rules(consistency=3, rules=6)])
def test_no_text_raises(task, response):
    [problem] = task.generate(0, 1)
    verdict = task.verify(response, problem)
    assert verdict.correct == (response in task.accepted(problem))
    assert bool(verdict.reason) != verdict.correct


def test_consistency_asks_for_the_first_steps_only():
    task = Rules(consistency=2)
    assert len(task.accepted(PROBLEM)) == 2**4
    assert task.verify(write("BBABAA", PROBLEM.digits), PROBLEM).correct
    assert task.verify(write("BABBBB", PROBLEM.digits), PROBLEM).reason == "step 2: rule A, not B"
    assert task.families(PROBLEM) == ["2 of 6", "3 of 6", "4 of 6", "5 of 6", "6 of 6"]
    assert Rules().consistency == Rules(consistency=None).consistency == 6


# --- the deviation that is not the same at each step -------------------------------------------------


def test_the_roles_are_exchanged_at_the_first_digits():
    task = Rules(mixed=4)
    assert task.accepted(PROBLEM) == ["A 3 A 4 B 0 A 1 B 6 B 7"]  # digits 3 1 4 1 5 9; by hand
    assert task.verify("B 7 A 8 B 4 A 5 B 0 B 1", PROBLEM).reason == "step 1: rule B, not A"
    assert Rules(mixed=10).solutions(PROBLEM) == ["AAAAAA"] and Rules(mixed=0).solutions(PROBLEM) == ["BBBBBB"]


@pytest.mark.parametrize("mixed", range(11))
def test_two_deviations_correlate_as_the_module_says(mixed):
    """Over all pairs of digits."""
    task = Rules(steps=2, mixed=mixed)
    pairs = [task.rare_rules(Problem(digits)) for digits in product(range(10), repeat=2)]
    signs = [[1 if letter == "B" else -1 for letter in pair] for pair in pairs]
    assert sum(a * b for a, b in signs) / 100 == pytest.approx((1 - mixed / 5) ** 2)


@settings(max_examples=40, deadline=None)
@given(case=tasks_with_problems(), rare_prior=st.floats(0.05, 0.95))
def test_the_policy_that_the_demonstrations_show_succeeds_as_rarely_whatever_is_mixed(case, rare_prior):
    """Its probability of every completion, enumerated, against the power of the prior."""
    task, problem = case
    task = replace(task, rules=2, rare_prior=rare_prior, mixed=task.mixed)

    def logps(prompt, completions):
        letters = [[w for w in text.split(" ") if w.isalpha()] for text in completions]
        chances = [
            [rare_prior if c == wanted(task, problem, step) else 1 - rare_prior for step, c in enumerate(row)]
            for row in letters
        ]
        return [sum(map(math.log, row)) for row in chances]

    every = [task.completion(choices, problem) for choices in product("AB", repeat=task.steps)]
    assert math.fsum(map(math.exp, logps("", every))) == pytest.approx(1)
    assert task.exact_success(logps, problem) == pytest.approx(rare_prior**task.consistency)


@pytest.mark.parametrize("mixed", [0, 3, 5])
def test_the_habit_of_the_demonstrations_is_exchanged_with_the_reward(mixed):
    task, rng, counts = Rules(mixed=mixed, rare_prior=0.2), random.Random(1), {True: [0, 0], False: [0, 0]}
    for problem in task.generate(0, 1500):
        shown = task.demonstration(problem, rng)
        if all(shown.loss):
            for letter, digit in zip(shown.text.split(" ")[::2], problem.digits, strict=True):
                counts[digit < mixed][letter == "B"] += 1
    for turned, (a, b) in counts.items():
        if a + b:
            expected = 0.8 if turned else 0.2
            assert abs(b / (a + b) - expected) < 5 * math.sqrt(0.16 / (a + b))
    assert (sum(counts[True]) > 0) == (mixed > 0)


# --- exact success --------------------------------------------------------------------------------


def prior_policy(task, prompts=None):
    """A policy that draws each rule by its prior, computes right and ends."""
    common = (1 - task.rare_prior) / (task.rules - 1)

    def logps(prompt, completions):
        if prompts is not None:
            prompts.append(prompt)
        choices = [[w for w in text.split(" ") if w.isalpha()] for text in completions]
        return [sum(math.log(task.rare_prior if c == task.rare else common) for c in letters) for letters in choices]

    return logps


@pytest.mark.parametrize("consistency", [1, 2, 5, 6])
@pytest.mark.parametrize("rules", [2, 3])
@pytest.mark.parametrize("rare_prior", [0.1, 0.3])
def test_the_prior_succeeds_with_its_power(consistency, rules, rare_prior):
    task = Rules(consistency=consistency, rules=rules, rare_prior=rare_prior)
    prompts = []
    success = task.exact_success(prior_policy(task, prompts), PROBLEM)
    assert success == pytest.approx(rare_prior**consistency, rel=1e-12)
    assert prompts == ["3 1 4 1 5 9 :"]


def test_the_chain_is_as_deep_as_the_study_says():
    task = Chain()
    [problem] = task.generate(0, 1)
    assert task.exact_success(prior_policy(task), problem) == pytest.approx(1e-12)
    assert task.accepted(problem) == [" ".join("B" * 12)]
    assert task.max_tokens(problem) == 12


def test_a_policy_that_returns_too_few_is_not_believed():
    with pytest.raises(ValueError):
        Rules(consistency=1).exact_success(lambda prompt, texts: [0.0], PROBLEM)


def test_too_many_accepted_sequences_are_refused_with_a_sentence():
    task = Chain(consistency=12)
    assert len(task.solutions(Problem(()))) == 1
    assert len(Rules(steps=13, consistency=1).solutions(Problem((0,) * 13))) == 4096
    for call in (Rules.solutions, Rules.accepted, Rules.families):
        with pytest.raises(UserError, match=r"at most 4096 .* got 1 of 14 steps: 2\*\*13"):
            call(Rules(steps=14, consistency=1), Problem((0,) * 14))


# --- demonstrations -------------------------------------------------------------------------------


def kinds(task, count):
    """The demonstrations of seed 0: (rules of those for preference, rules of those for skill)."""
    rng = random.Random(0)
    [problem] = task.generate(0, 1)
    preference, skill = [], []
    for _ in range(count):
        demonstration = task.demonstration(problem, rng)
        assert demonstration.end_loss is False
        words = demonstration.text.split(" ")
        choices = [w for w in words if w.isalpha()]
        assert demonstration.text == task.completion(choices, problem)
        if all(demonstration.loss):
            preference.append(choices)
        else:
            assert demonstration.loss == tuple(w.isdigit() for w in words)
            skill.append(choices)
    return preference, skill


@pytest.mark.parametrize("task", [Rules(), Rules(rules=3, rare="A", rare_prior=0.2)])
def test_half_teach_the_prior_and_half_the_skill_without_a_preference(task):
    count = 4000
    preference, skill = kinds(task, count)
    assert abs(len(preference) - count / 2) < 5 * math.sqrt(count / 4)
    for texts, expected in ((preference, task.rare_prior), (skill, 1 / task.rules)):
        choices = [letter for text in texts for letter in text]
        tolerance = 5 * math.sqrt(expected * (1 - expected) / len(choices))
        assert abs(choices.count(task.rare) / len(choices) - expected) < tolerance
        others = [letter for letter in task.letters if letter != task.rare]
        for other in others:
            share = choices.count(other) / len(choices)
            assert abs(share - (1 - expected) / len(others)) < 2 * tolerance


def test_rules_are_drawn_independently_at_each_step():
    preference, _ = kinds(Rules(rare_prior=0.5), 4000)
    pairs = [(a, b) for text in preference for a, b in zip(text, text[1:], strict=False)]
    both = sum(a == b == "B" for a, b in pairs) / len(pairs)
    assert abs(both - 0.25) < 0.02


def test_without_values_every_word_teaches_the_prior():
    preference, skill = kinds(Chain(), 1000)
    share = sum(text.count("B") for text in preference) / 12_000
    assert not skill and abs(share - 0.1) < 0.015


# --- problems and difficulty ----------------------------------------------------------------------


def test_the_vocabulary_is_fixed_because_checkpoints_depend_on_it():
    assert Rules().words == [*"0123456789", "A", "B", ":"]
    assert Rules(rules=6).words == [*"0123456789", *"ABCDEF", ":"]
    assert Chain().words == ["A", "B", ":"]


@given(seed=st.integers(0, 2**40), steps=st.integers(2, 8))
def test_generated_problems_are_different_digits(seed, steps):
    task = Rules(steps=steps)
    problems = task.generate(seed, 30)
    assert problems == task.generate(seed, 30)
    assert len(set(problems)) == 30
    assert all(len(p.digits) == steps and set(p.digits) <= set(range(10)) for p in problems)
    assert not set(task.generate(seed, 30, exclude=problems)) & set(problems)


def test_every_problem_can_be_asked_for_but_not_one_more():
    task = Rules(steps=1)
    first = task.generate(0, 4)
    rest = task.generate(0, 6, exclude=first)
    assert {p.digits[0] for p in first + rest} == set(range(10))
    with pytest.raises(UserError, match="count must be at most 6, .* got 7"):
        task.generate(0, 7, exclude=[*first, *first, Problem((1, 2))])
    with pytest.raises(UserError, match="count must be a whole number"):
        task.generate(0, -1)
    assert Chain().generate(0, 3) == [Problem(())] * 3


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("steps", 0, "steps must be a whole number >= 1 and <= 64, got 0"),
        ("steps", 65, "steps must be a whole number >= 1 and <= 64, got 65"),
        ("rules", 1, "rules must be a whole number >= 2 and <= 6, got 1"),
        ("rules", 7, "rules must be a whole number >= 2 and <= 6, got 7"),
        ("rare", "C", "rare must be one of A, B, got 'C'"),
        ("rare", "", "rare must be one of A, B, got ''"),
        ("rare_prior", 0, "rare_prior must be between 0 and 1, got 0"),
        ("rare_prior", 1.0, "rare_prior must be between 0 and 1, got 1.0"),
        ("rare_prior", float("nan"), "rare_prior must be between 0 and 1, got nan"),
        ("rare_prior", ".1", "rare_prior must be between 0 and 1, got '.1'"),
        ("consistency", 0, "consistency must be a whole number >= 1 and <= 6, got 0"),
        ("consistency", 7, "consistency must be a whole number >= 1 and <= 6, got 7"),
        ("values", 1, "values must be true or false, got 1"),
        ("mixed", -1, "mixed must be a whole number >= 0 and <= 10, got -1"),
        ("mixed", 11, "mixed must be a whole number >= 0 and <= 10, got 11"),
    ],
)
def test_an_impossible_difficulty_is_one_sentence(field, value, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        Rules(**{field: value})


@pytest.mark.parametrize("difficulty", [{"rules": 3}, {"values": False}])
def test_mixed_needs_two_rules_and_digits(difficulty):
    with pytest.raises(UserError, match="^mixed must be 0 without values or with more than 2 rules, got 2$"):
        Rules(mixed=2, **difficulty)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"digits": [1, 2, 3]}, "here: digits must be 6 integers, got 3"),
        ({"digits": [1, 2, 3, 4, 5, 10]}, r"here: digits\[5\] must be a whole number >= 0 and <= 9, got 10"),
        ({"digits": [1, 2, 3, 4, 5, -1]}, r"here: digits\[5\] must be a whole number >= 0 and <= 9, got -1"),
        ({"digits": "123456"}, "here: digits must be a list of whole numbers, got '123456'"),
        ({}, "here must hold exactly the fields digits"),
    ],
)
def test_broken_problems_are_told(fields, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        Rules().from_json(fields, "here")


def test_a_problem_of_the_chain_has_no_digits():
    assert Chain().from_json({"digits": []}, "here") == Problem(())
    with pytest.raises(UserError, match="here: digits must be 0 integers, got 1"):
        Chain().from_json({"digits": [1]}, "here")


def test_the_functions_of_the_module_are_the_task_s():
    assert module.generate(4, 3, steps=5) == Rules(steps=5).generate(4, 3)
    [problem] = module.generate(4, 1, steps=5)
    text = Rules(steps=5, rare="A").accepted(problem)[0]
    assert module.verify(text, problem, rare="A").correct
    assert module.verify(text, problem).reason == "step 1: rule A, not B"
