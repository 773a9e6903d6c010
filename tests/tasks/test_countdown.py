"""Countdown against a brute force that shares no code with it."""

import random
from fractions import Fraction
from itertools import permutations, product

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.tasks.countdown import (
    Countdown,
    Problem,
    Solution,
    Step,
    family,
    generate,
    reachable,
    solve,
    verify,
)

# --- the oracle: play every game by hand, write it down, then sort the operands of + and * --------


def brute_force(numbers, target, limit=99, operators="+-*/"):
    """The canonical texts of all solutions."""
    if len(numbers) == 1:
        return {""} if numbers[0] == target else set()
    texts = set()
    for i, j in permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        results = {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b) if b else None}
        for operator in operators:
            c = results[operator]
            if c is None or c != int(c) or not 0 <= c <= limit:
                continue
            for ending in brute_force([*rest, int(c)], target, limit, operators):
                step = canonical(f"{a} {operator} {b} = {int(c)}")
                texts.add(f"{step} , {ending}" if ending else step)
    return texts


def canonical(text):
    """Each step of the text with the operands of + and * in order."""
    steps = []
    for step in text.split(" , "):
        words = step.split(" ")
        if len(words) == 5 and words[1] in ("+", "*") and words[0].isdigit() and words[2].isdigit():
            words[0], words[2] = sorted((words[0], words[2]), key=int)
        steps.append(" ".join(words))
    return " , ".join(steps)


def small_problems(most=4, largest=15):
    numbers = st.lists(st.integers(0, largest), min_size=2, max_size=most)
    return st.builds(lambda n, t: Problem(tuple(n), t), numbers, st.integers(0, 99))


def solvable(draw_seed, numbers=4):
    return generate(draw_seed, 1, numbers=numbers)[0]


# --- solver -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(problem=small_problems(), operators=st.sampled_from(["+-*/", "+-", "*", "/-", "+*"]))
@example(Problem((0, 0), 0), "+-*/")
@example(Problem((0, 5), 0), "/")
@example(Problem((4, 4), 1), "/")
@example(Problem((3, 3, 3, 3), 24), "+-*/")
@example(Problem((9, 11), 99), "*")
def test_solve_lists_exactly_what_brute_force_finds(problem, operators):
    texts = [solution.text for solution in solve(problem, operators=operators)]
    assert len(set(texts)) == len(texts)
    assert set(texts) == brute_force(list(problem.numbers), problem.target, 99, operators)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_solve_agrees_with_brute_force_on_generated_problems(seed):
    problem = solvable(seed)
    expected = brute_force(list(problem.numbers), problem.target)
    assert {s.text for s in solve(problem)} == expected and expected


@settings(max_examples=30, deadline=None)
@given(problem=small_problems(most=3), limit=st.integers(15, 40))
def test_the_limit_bounds_every_value(problem, limit):
    assume(problem.target <= limit)
    texts = {s.text for s in solve(problem, limit)}
    assert texts == brute_force(list(problem.numbers), problem.target, limit)


def test_the_example_of_the_module_by_hand():
    problem = Problem((3, 7, 12, 5), 38)
    task = Countdown()
    assert task.prompt(problem) == "3 7 12 5 -> 38 :"
    text = "3 * 7 = 21 , 5 + 21 = 26 , 12 + 26 = 38"
    assert text in task.solutions(problem)
    assert verify(text, problem).family == "3 * 7" in task.families(problem)
    assert task.max_tokens(problem) == len(text.split(" ")) + 1 == 18


def test_two_numbers_by_hand():
    def texts(numbers, target):
        return sorted(s.text for s in solve(Problem(numbers, target)))

    assert texts((2, 1), 3) == ["1 + 2 = 3"]
    assert texts((2, 2), 4) == ["2 * 2 = 4", "2 + 2 = 4"]
    assert texts((1, 6), 6) == ["1 * 6 = 6", "6 / 1 = 6"]
    assert texts((6, 4), 2) == ["6 - 4 = 2"]
    assert texts((0, 4), 0) == ["0 * 4 = 0", "0 / 4 = 0"]
    assert texts((50, 50), 0) == ["50 - 50 = 0"]
    assert texts((5, 2), 2) == []  # 5 / 2 is not exact
    assert texts((3, 4), 13) == []


def test_the_order_of_the_numbers_does_not_matter_and_the_answer_is_the_same_object_again():
    assert solve(Problem((3, 7, 12, 5), 38)) is solve(Problem((12, 5, 3, 7), 38))
    assert solve(Problem([3, 7, 12, 5], 38)) == solve(Problem((3, 7, 12, 5), 38))


def test_six_numbers_are_solved_and_seven_refused():
    solutions = solve(Problem((1, 2, 3, 4, 5, 6), 10))
    assert len({s.text for s in solutions}) == len(solutions) > 10_000
    with pytest.raises(UserError, match="numbers must be 2..6, got 7"):
        solve(Problem((1,) * 7, 7))
    with pytest.raises(UserError, match="numbers must be 2..6, got 1"):
        solve(Problem((7,), 7))
    with pytest.raises(UserError, match=r"numbers\[1\] must be a whole number >= 0 and <= 99, got 100"):
        solve(Problem((7, 100), 7))
    with pytest.raises(UserError, match="target must be a whole number >= 0 and <= 99, got 100"):
        solve(Problem((7, 7), 100))


@settings(max_examples=15, deadline=None)
@given(numbers=st.lists(st.integers(0, 15), min_size=1, max_size=4).map(sorted).map(tuple))
def test_reachable_values_are_those_with_a_solution(numbers):
    expected = {t for t in range(100) if brute_force(list(numbers), t)}
    assert reachable(numbers) == expected


def test_family_is_the_first_pair_and_operator():
    assert family(Solution((Step(7, "-", 3, 4), Step(4, "*", 5, 20)))) == "7 - 3"
    assert verify("5 * 3 = 15", Problem((3, 5), 15)).family == "3 * 5"


# --- verifier -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), numbers=st.integers(2, 5))
def test_every_solution_verifies_as_itself(seed, numbers):
    problem = solvable(seed, numbers)
    for solution in solve(problem):
        verdict = verify(solution.text, problem)
        assert (verdict.correct, verdict.reason) == (True, "")
        assert verdict.solution == solution.text
        assert verdict.family == family(solution)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 300), data=st.data())
def test_a_changed_solution_is_correct_exactly_when_brute_force_says_so(seed, data):
    problem = solvable(seed)
    words = data.draw(st.sampled_from(solve(problem))).text.split(" ")
    position = data.draw(st.integers(0, len(words) - 1))
    change = data.draw(st.sampled_from(["replace", "swap", "drop", "double", "operands"]))
    if change == "replace":
        words[position] = data.draw(st.sampled_from([*words, *Countdown().words]))
    elif change == "swap":
        other = data.draw(st.integers(0, len(words) - 1))
        words[position], words[other] = words[other], words[position]
    elif change == "drop":
        del words[position]
    elif change == "double":
        words.insert(position, words[position])
    else:
        step = 6 * (position // 6)
        words[step], words[step + 2] = words[step + 2], words[step]
    text = " ".join(words)
    verdict = verify(text, problem)
    expected = canonical(text) in brute_force(list(problem.numbers), problem.target)
    assert verdict.correct == expected
    assert verdict.solution == (canonical(text) if expected else None)
    assert bool(verdict.reason) != expected


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 300), choice=st.randoms(use_true_random=False))
def test_a_random_game_is_judged_by_its_last_value_and_found_among_the_solutions(seed, choice):
    problem = solvable(seed)
    left, texts = list(problem.numbers), []
    while len(left) > 1:  # play at random; a step may leave the range or not be exact
        choice.shuffle(left)
        a, b = left.pop(), left.pop()
        operator = choice.choice("+-*/")
        c = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]
        texts.append(f"{a} {operator} {b} = {c}")
        left.append(c)
    text = " , ".join(texts)
    solutions = brute_force(list(problem.numbers), problem.target)
    verdict = verify(text, problem)
    assert verdict.correct == (canonical(text) in solutions)
    if verdict.correct:
        assert verdict.solution in {s.text for s in solve(problem)}


PROBLEM = Problem((3, 7, 12, 5), 38)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "empty"),
        (" ", "step 1: ' ' is not of the form 'a + b = c'"),
        ("38", "step 1: '38' is not of the form 'a + b = c'"),
        ("3 * 7 = 21 ,", "step 1: '3 * 7 = 21 ,' is not of the form 'a + b = c'"),
        (" 3 * 7 = 21", "step 1: ' 3 * 7 = 21' is not of the form 'a + b = c'"),
        ("3*7=21", "step 1: '3*7=21' is not of the form 'a + b = c'"),
        ("3 * 7 : 21", "step 1: '3 * 7 : 21' is not of the form 'a + b = c'"),
        ("3 * 7 = 21, 5 + 21 = 26", "step 1: '3 * 7 = 21, 5 + 21 = 26' is not of the form"),
        ("3 * 7 = 21 , ", "step 2: '' is not of the form 'a + b = c'"),
        ("3  7 = 10", "step 1: '' is none of the operators + - * /"),
        ("3 ** 7 = 10", "step 1: '**' is none of the operators + - * /"),
        ("3 +- 7 = 10", "step 1: '+-' is none of the operators + - * /"),
        ("3 ^ 7 = 10", "step 1: '^' is none of the operators + - * /"),
        ("03 * 7 = 21", "step 1: '03' has leading zeros"),
        ("3 * 7 = 021", "step 1: '021' has leading zeros"),
        ("3 * 7 = 2.1", "step 1: '2.1' is not a number"),
        ("3 - 7 = -4", "step 1: '-4' is not a number"),
        ("3 * +7 = 21", "step 1: '+7' is not a number"),
        ("3 * 7 = 2_1", "step 1: '2_1' is not a number"),
        ("3 * 7 = 21\n", "step 1: '21\\n' is not a number"),
        ("3 * 7 = 1e1", "step 1: '1e1' is not a number"),
        ("3 * 7 = 100", "step 1: 100 is outside 0..99"),
        ("100 * 7 = 21", "step 1: 100 is outside 0..99"),
        ("4 * 7 = 28", "step 1: 4 is not available"),
        ("3 * 4 = 12", "step 1: 4 is not available"),
        ("3 + 3 = 6", "step 1: 3 is not available a second time"),
        ("3 * 7 = 22", "step 1: '3 * 7 = 22' is wrong"),
        ("7 / 3 = 2", "step 1: '7 / 3 = 2' is wrong"),
        ("3 - 7 = 4", "step 1: '3 - 7 = 4' is wrong"),
        ("3 / 12 = 4", "step 1: '3 / 12 = 4' is wrong"),
        ("3 * 7 = 21 , 3 + 21 = 24", "step 2: 3 is not available"),
        ("3 * 7 = 21 , 12 * 5 = 60 , 7 + 60 = 67", "step 3: 7 is not available"),
        ("3 * 7 = 21", "numbers left over: 12, 5, 21"),
        ("3 * 7 = 21 , 5 + 12 = 17", "numbers left over: 21, 17"),
        ("3 * 7 = 21 , 5 + 12 = 17 , 21 - 17 = 4", "the final value is 4, not 38"),
        ("\u0663 * 7 = 21", "not ASCII"),
        ("3 × 7 = 21", "not ASCII"),
        ("３ * 7 = 21", "not ASCII"),
        ("3\u00a0* 7 = 21", "not ASCII"),
        ("3 * 7 = 21\x00", "step 1: '21\\x00' is not a number"),
        ("3\x00* 7 = 21", "step 1: '3\\x00* 7 = 21' is not of the form"),
        ("__import__('os').abort()", "step 1: \"__import__('os').abort()\" is not of the form"),
        ("9**9**9**9 + 1 = 2", "step 1: '9**9**9**9' is not a number"),
        ("((((3)))) + 7 = 10", "step 1: '((((3))))' is not a number"),
        ("+" * 40, "step 1: '" + "+" * 40),
    ],
)
def test_every_rejection_gives_its_reason(response, reason):
    verdict = verify(response, PROBLEM)
    assert verdict.correct is False
    assert verdict.reason.startswith(reason)
    assert (verdict.solution, verdict.family) == (None, None)


def test_more_steps_than_numbers_are_rejected():
    text = "1 * 1 = 1 , 1 * 1 = 1"
    reason = "step 2: 1 is not available a second time"
    assert verify(text, Problem((1, 1), 1)).reason == "too long: 21 characters, at most 15"
    assert verify(text, Problem((1, 1), 1), limit=9999).reason == reason


def test_a_zero_may_be_divided_but_divides_nothing():
    assert verify("0 / 5 = 0", Problem((0, 5), 0)).correct
    assert verify("5 / 0 = 0", Problem((0, 5), 0)).reason == "step 1: '5 / 0 = 0' is wrong"
    assert verify("0 / 0 = 0", Problem((0, 0), 0)).reason == "step 1: '0 / 0 = 0' is wrong"


def test_operators_that_are_not_in_play_are_rejected():
    verdict = verify("3 * 5 = 15", Problem((3, 5), 15), operators="+-")
    assert verdict.reason == "step 1: '*' is none of the operators + -"
    assert Countdown(operators="+-").verify("3 * 5 = 15", Problem((3, 5), 15)) == verdict


class OnlyLength(str):
    """A response that fails the test if anything but its length is looked at."""

    def _touched(self, *_):
        raise AssertionError("read before its length was checked")

    split = isascii = strip = encode = __iter__ = __getitem__ = __eq__ = __contains__ = _touched
    __hash__ = str.__hash__


FLOODS = ["+" * 10**7, "(" * 10**7, "9" * 10**7, "9**" * 10**6, "\0" * 10**7, "٣" * 10**7]


@pytest.mark.parametrize("flood", [*FLOODS, "3 * 7 = 21 , " * 10**6], ids=lambda text: text[:3])
def test_a_flood_is_rejected_by_its_length_alone(flood):
    verdict = verify(OnlyLength(flood), PROBLEM)
    assert verdict.reason == f"too long: {len(flood)} characters, at most 45"


def test_the_longest_correct_response_is_not_too_long():
    text = "50 + 49 = 99 , 99 - 10 = 89 , 89 - 10 = 79"
    assert verify(text, Problem((50, 49, 10, 10), 79)).correct
    wide = Countdown(limit=999, largest=500)
    assert wide.verify("500 + 499 = 999", Problem((500, 499), 999)).correct
    assert not verify("x" * 45, PROBLEM).reason.startswith("too long")
    assert verify("x" * 46, PROBLEM).reason.startswith("too long")


ALPHABET = st.sampled_from([*"0123456789+-*/=, ", "\0", "\n", "\t", "٣", "²", "(", "e", "_", "."])


@settings(max_examples=300, deadline=None)
@given(response=st.text(max_size=50) | st.text(ALPHABET, max_size=50))
def test_no_text_raises_and_every_wrong_one_has_a_reason(response):
    verdict = verify(response, PROBLEM)
    assert not verdict.correct and verdict.reason


# --- generator -----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    numbers=st.integers(3, 5),
    largest=st.integers(9, 30),
    low=st.integers(0, 15),
    operators=st.sampled_from(["+-*/", "+-", "+", "+*"]),
)
def test_generated_problems_are_of_the_difficulty_asked_for(seed, numbers, largest, low, operators):
    arguments = dict(numbers=numbers, largest=largest, target=(low, low + 30), operators=operators)
    problems = generate(seed, 8, **arguments)
    assert problems == generate(seed, 8, **arguments)
    assert len({p.key for p in problems}) == 8
    for problem in problems:
        assert len(problem.numbers) == numbers
        assert all(1 <= n <= largest for n in problem.numbers)
        assert low <= problem.target <= low + 30
        assert solve(problem, operators=operators)


def test_another_seed_gives_other_problems_and_a_longer_list_begins_alike():
    assert generate(0, 20) != generate(1, 20)
    assert generate(0, 40)[:20] == generate(0, 20)
    assert generate(0, 0) == []


def test_every_pair_and_every_target_can_come_up():
    everything = generate(0, 5, numbers=2, largest=2, target=(0, 3), operators="+-")
    assert {p.key for p in everything} == {
        ((1, 1), 0),
        ((1, 1), 2),
        ((1, 2), 1),
        ((1, 2), 3),
        ((2, 2), 0),
    }
    with pytest.raises(UserError, match="count must be at most .* asked for 6, found 5"):
        generate(0, 6, numbers=2, largest=2, target=(0, 3), operators="+-")


def test_excluded_problems_do_not_come_back_in_another_order():
    task = Countdown(numbers=2, largest=5, target=(2, 99))
    turned = [Problem(p.numbers[::-1], p.target) for p in task.generate(0, 10)]
    again = task.generate(0, 20, exclude=turned)
    assert not {p.key for p in again} & {p.key for p in turned}
    assert again == generate(0, 20, numbers=2, largest=5, target=(2, 99), exclude=turned)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("numbers", 1, "numbers must be a whole number >= 2 and <= 6, got 1"),
        ("numbers", 7, "numbers must be a whole number >= 2 and <= 6, got 7"),
        ("largest", 0, "largest must be a whole number >= 1 and <= 99, got 0"),
        ("largest", 100, "largest must be a whole number >= 1 and <= 99, got 100"),
        ("target", (10, 100), r"target\[1\] must be a whole number >= 0 and <= 99, got 100"),
        ("target", (20, 10), r"target must be \(lowest, highest\), got \(20, 10\)"),
        ("target", (20,), r"target must be \(lowest, highest\)"),
        ("target", 20, "target must be a list of whole numbers, got 20"),
        ("operators", "", r"operators must be some of \+-\*/"),
        ("operators", "++", r"operators must be some of \+-\*/, each once, got '\+\+'"),
        ("operators", "+^", r"operators must be some of \+-\*/, got '\+\^'"),
        ("operators", None, "operators must be some of"),
        ("limit", 0, "limit must be a whole number >= 1 and <= 9999, got 0"),
        ("limit", True, "limit must be a whole number >= 1 and <= 9999, got True"),
    ],
)
def test_an_impossible_difficulty_is_one_sentence(field, value, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        Countdown(**{field: value})
    with pytest.raises(UserError, match=f"^{sentence}"):
        generate(0, 1, **{field: value})


def test_a_single_target_and_the_ends_of_every_range_are_possible():
    assert {p.target for p in generate(0, 20, target=(24, 24))} == {24}
    assert Countdown(numbers=6, largest=99, target=(0, 99)).numbers == 6
    fields = {"numbers": [0, 99], "target": 0}
    assert Countdown().from_json(fields, "here") == Problem((0, 99), 0)


def test_a_negative_count_is_refused():
    with pytest.raises(UserError, match="count must be a whole number"):
        generate(0, -1)


# --- task -----------------------------------------------------------------------------------------


def test_the_vocabulary_is_fixed_because_checkpoints_depend_on_it():
    expected = [str(n) for n in range(100)] + ["+", "-", "*", "/", "=", ",", "->", ":"]
    assert Countdown().words == Countdown(operators="+").words == expected
    assert len(Countdown(limit=20, largest=9, target=(1, 20)).words) == 29


def test_demonstrations_are_uniform_over_solutions_and_operand_orders():
    task, problem = Countdown(), Problem((3, 7, 12, 5), 38)
    counts: dict[str, int] = {}
    texts = set()
    rng = random.Random(0)
    solutions = task.solutions(problem)
    draws = 400 * len(solutions)
    for _ in range(draws):
        text = task.demonstration(problem, rng).text
        texts.add(text)
        solution = task.verify(text, problem).solution
        counts[solution] = counts.get(solution, 0) + 1
    assert set(counts) == set(solutions)
    assert all(abs(count - 400) < 5 * 20 for count in counts.values())  # 5 standard deviations
    for first in ("3 * 7 = 21", "7 * 3 = 21"):
        share = sum(text.startswith(first) for text in texts) / len(texts)
        assert share > 0.05


def test_minus_and_division_keep_their_operand_order_in_demonstrations():
    task, rng = Countdown(), random.Random(0)
    for problem in generate(0, 100):
        assert task.verify(task.demonstration(problem, rng).text, problem).correct


def test_a_problem_without_solution_has_no_demonstration():
    with pytest.raises(UserError, match="'1 1 -> 99 :' has no solution"):
        Countdown().demonstration(Problem((1, 1), 99), random.Random(0))
    assert Countdown().solutions(Problem((1, 1), 99)) == []


def test_difficulty_reaches_solver_and_verifier():
    task = Countdown(limit=20, largest=9, target=(1, 20), operators="+-*")
    problem = Problem((9, 9, 2), 16)
    expected = brute_force([9, 9, 2], 16, limit=20, operators="+-*")
    assert "9 + 9 = 18 , 18 - 2 = 16" in expected
    assert set(task.solutions(problem)) == expected
    assert task.families(problem) == sorted({text.split(" =")[0] for text in expected})
    assert task.verify("9 * 9 = 81", problem).reason == "step 1: 81 is outside 0..20"


def test_accepted_are_all_the_texts_that_verify():
    """Every text of two true steps over the values in reach is tried, and each accepted one stands there once."""
    task, most = Countdown(numbers=3, largest=9), 0
    for problem in (Problem((1, 3, 3), 10), Problem((8, 2, 2), 8), Problem((1, 1, 1), 90)):
        pairs = list(permutations(problem.numbers, 2))
        results = {r for a, b in pairs for r in (a + b, abs(a - b), a * b, a // b)}
        steps = {
            f"{a} {operator} {b} = {c}"
            for a, b, c in product({*problem.numbers, problem.target, *results}, repeat=3)
            for operator, result in zip("+-*/", (a + b, a - b, a * b, a / b if b else None), strict=True)
            if result == c
        }
        texts = (f"{first} , {second}" for first, second in product(steps, repeat=2))
        right = [text for text in texts if task.verify(text, problem).correct]
        assert sorted(task.accepted(problem)) == sorted(right)
        most = max(most, len(right))
    assert right == [] and most > 4
