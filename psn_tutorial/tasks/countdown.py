"""Countdown: reach the target from the given numbers, using each of them exactly once.

    prompt      3 7 12 5 -> 38 :
    completion  3 * 7 = 21 , 5 + 21 = 26 , 12 + 26 = 38

Semantics. A step takes two of the numbers that are left and puts their result back. Every number
and every result is an integer in 0..limit: a difference is never negative and a division always
exact. The limit is 99 so that each value is one word, hence one token, of the tiny vocabulary.

A *solution* is the ordered sequence of its steps. The operand order inside + and * does not
matter (the smaller stands first), and numbers are values: two equal ones cannot be told apart.
Its *family* is its first step without the result ("3 * 7"): where the search goes first. RLVR is
reported to lose whole families ("Locked at the Entrance", arXiv 2608.29188). Since ``solve`` is
exhaustive, the coverage of solutions and of families is exact, not estimated.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import Any, ClassVar, NamedTuple

from psn_tutorial.errors import UserError, check_fields, check_integer, check_integers, check_seed
from psn_tutorial.tasks.base import (
    Demonstration,
    Splits,
    Task,
    Verdict,
)

OPERATORS = "+-*/"
LIMIT = 99
MOST_NUMBERS = 6  # seven have too many solutions to list
MOST_MISSES = 10_000  # draws in a row without a new problem, after which generate gives up

Multiset = tuple[int, ...]  # sorted


@dataclass(frozen=True)
class Problem:
    """The given numbers, in the order the prompt shows them, and the target."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> tuple[Multiset, int]:
        """Equal for two problems that differ only in the order of the numbers."""
        return tuple(sorted(self.numbers)), self.target


class Step(NamedTuple):
    """``left operator right = result``; for + and * the smaller operand is ``left``."""

    left: int
    operator: str
    right: int
    result: int

    @property
    def text(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"


@dataclass(frozen=True)
class Solution:
    """A sequence of steps that uses every number once and ends at the target."""

    steps: tuple[Step, ...]

    @property
    def text(self) -> str:
        """As a model writes it."""
        return " , ".join(step.text for step in self.steps)


def family(solution: Solution) -> str:
    """The first operand pair and operator, such as "3 * 7"."""
    first = solution.steps[0]
    return f"{first.left} {first.operator} {first.right}"


# --- the rules of the game -----------------------------------------------------------------------


@lru_cache(maxsize=100_000)
def _steps(small: int, large: int, operators: str, limit: int) -> tuple[Step, ...]:
    """Every legal step with the operands small <= large."""
    steps = []
    for operator in operators:
        if operator == "+" and small + large <= limit:
            steps.append(Step(small, "+", large, small + large))
        if operator == "*" and small * large <= limit:
            steps.append(Step(small, "*", large, small * large))
        if operator == "-":
            steps.append(Step(large, "-", small, large - small))
        if operator == "/" and small > 0 and large % small == 0:
            steps.append(Step(large, "/", small, large // small))
        if operator == "/" and small == 0 and large > 0:
            steps.append(Step(0, "/", large, 0))
    return tuple(steps)


def _moves(numbers: Multiset, operators: str, limit: int) -> Iterator[tuple[Step, Multiset]]:
    """Every legal step from these numbers, and what is left after it."""
    for small, large in dict.fromkeys(combinations(numbers, 2)):
        rest = list(numbers)
        rest.remove(small)
        rest.remove(large)
        for step in _steps(small, large, operators, limit):
            yield step, tuple(sorted([*rest, step.result]))


@lru_cache(maxsize=100_000)
def _endings(numbers: Multiset, target: int, operators: str, limit: int) -> tuple[tuple[Step, ...], ...]:
    """Every sequence of steps from these numbers to the target."""
    if len(numbers) == 1:
        return ((),) if numbers[0] == target else ()
    return tuple(
        (step, *ending)
        for step, rest in _moves(numbers, operators, limit)
        for ending in _endings(rest, target, operators, limit)
    )


@lru_cache(maxsize=100_000)
def reachable(numbers: Multiset, operators: str = OPERATORS, limit: int = LIMIT) -> frozenset[int]:
    """Every value that all of the (sorted) numbers can make.

    The last step joins two groups of numbers, so try every split in two. Much cheaper than
    listing the solutions.
    """
    if len(numbers) == 1:
        return frozenset(numbers)
    values = set()
    for size in range(1, len(numbers) // 2 + 1):
        for chosen in combinations(range(len(numbers)), size):
            left = tuple(numbers[i] for i in chosen)
            right = tuple(n for i, n in enumerate(numbers) if i not in chosen)
            for a in reachable(left, operators, limit):
                for b in reachable(right, operators, limit):
                    steps = _steps(min(a, b), max(a, b), operators, limit)
                    values.update(step.result for step in steps)
    return frozenset(values)


# --- solver, verifier, generator -----------------------------------------------------------------


def solve(problem: Problem, limit: int = LIMIT, operators: str = OPERATORS) -> tuple[Solution, ...]:
    """ALL distinct solutions, in a fixed order; () if there is none.

    Raises UserError for more than MOST_NUMBERS numbers, or one outside 0..limit.
    """
    _check_problem("problem", problem, limit)
    return _solutions(*problem.key, operators, limit)


@lru_cache(maxsize=32_768)  # more than the problems of a pre-training, which goes round them
def _solutions(numbers: Multiset, target: int, operators: str, limit: int) -> tuple[Solution, ...]:
    return tuple(Solution(steps) for steps in _endings(numbers, target, operators, limit))


_NUMBER = re.compile(r"0|[1-9][0-9]*")


def verify(response: str, problem: Problem, limit: int = LIMIT, operators: str = OPERATORS) -> Verdict:
    """Judge a response by the semantics above; the words are separated by single spaces.

    The length is checked before anything else, so hostile text costs nothing, and nothing is ever
    evaluated: each word is compared with what is allowed there. Raises nothing for any string.
    """
    steps_needed = len(problem.numbers) - 1
    longest = steps_needed * (3 * len(str(limit)) + len(" + ") + len(" = ") + len(" , "))
    if len(response) > longest:
        return Verdict(False, f"too long: {len(response)} characters, at most {longest}")
    if not response:
        return Verdict(False, "empty")
    if not response.isascii():
        return Verdict(False, "not ASCII")

    left_over = list(problem.numbers)
    steps = []
    for position, text in enumerate(response.split(" , "), start=1):
        step = _read_step(text, left_over, limit, operators)
        if isinstance(step, str):
            return Verdict(False, f"step {position}: {step}")
        left_over.remove(step.left)
        left_over.remove(step.right)
        left_over.append(step.result)
        steps.append(step)
    if len(left_over) > 1:
        return Verdict(False, f"numbers left over: {', '.join(map(str, left_over))}")
    if left_over[0] != problem.target:
        return Verdict(False, f"the final value is {left_over[0]}, not {problem.target}")
    solution = Solution(tuple(steps))
    return Verdict(True, "", solution.text, family(solution))


def _read_step(text: str, available: list[int], limit: int, operators: str) -> Step | str:
    """The step that ``text`` writes, in canonical order; a string says what is wrong with it."""
    words = text.split(" ")
    if len(words) != 5 or words[3] != "=":
        return f"{text!r} is not of the form 'a + b = c'"
    if words[1] not in list(operators):  # a list: "" and "+-" are in the string
        return f"{words[1]!r} is none of the operators {' '.join(operators)}"
    for word in (words[0], words[2], words[4]):
        if not _NUMBER.fullmatch(word):
            zeros = word.isdigit()
            return f"{word!r} has leading zeros" if zeros else f"{word!r} is not a number"
        if int(word) > limit:
            return f"{word} is outside 0..{limit}"
    left, right, result = int(words[0]), int(words[2]), int(words[4])

    if left not in available:
        return f"{left} is not available"
    others = list(available)
    others.remove(left)
    if right not in others:
        return f"{right} is not available" + (" a second time" if right == left else "")
    low, high = sorted((left, right))
    if words[1] in "+*":
        left, right = low, high
    step = Step(left, words[1], right, result)
    if step not in _steps(low, high, operators, limit):
        return f"{text!r} is wrong"
    return step


def generate(
    seed: int,
    count: int,
    numbers: int = 4,
    largest: int = 15,
    target: tuple[int, int] = (10, 99),
    operators: str = OPERATORS,
    limit: int = LIMIT,
    exclude: Iterable[Problem] = (),
) -> list[Problem]:
    """``count`` solvable problems, no two alike and none alike to one of ``exclude``.

    Two problems are alike when they differ only in the order of the numbers. The numbers are
    uniform in 1..largest, the target uniform over what they can make within ``target`` (both ends
    included): so it is as often a value with one solution as one with a hundred.
    Raises UserError for an impossible difficulty, or when there are too few problems.
    """
    _check_difficulty(numbers, largest, target, operators, limit)
    check_integer("count", count, 0, 10**7)
    check_seed(seed)
    rng = random.Random(seed)
    seen = {problem.key for problem in exclude}
    problems: list[Problem] = []
    misses = 0
    while len(problems) < count:
        given = tuple(rng.randint(1, largest) for _ in range(numbers))
        makeable = reachable(tuple(sorted(given)), operators, limit)
        targets = sorted(t for t in makeable if target[0] <= t <= target[1])
        problem = Problem(given, rng.choice(targets)) if targets else None
        if problem is None or problem.key in seen:
            misses += 1
            if misses == MOST_MISSES:
                raise UserError(
                    f"count must be at most the number of different problems of this difficulty: "
                    f"asked for {count}, found {len(problems)}"
                )
            continue
        misses = 0
        seen.add(problem.key)
        problems.append(problem)
    return problems


def _check_difficulty(numbers: int, largest: int, target: tuple[int, int], operators: str, limit: int) -> None:
    check_integer("limit", limit, 1, 9999)
    check_integer("numbers", numbers, 2, MOST_NUMBERS)
    check_integer("largest", largest, 1, limit)
    check_integers("target", target, 0, limit)
    if len(target) != 2 or target[0] > target[1]:
        raise UserError(f"target must be (lowest, highest), got {target}")
    if not isinstance(operators, str) or not operators or len(set(operators)) < len(operators):
        raise UserError(f"operators must be some of {OPERATORS}, each once, got {operators!r}")
    if not set(operators) <= set(OPERATORS):
        raise UserError(f"operators must be some of {OPERATORS}, got {operators!r}")


def _check_problem(where: str, problem: Problem, limit: int) -> None:
    if not 2 <= len(problem.numbers) <= MOST_NUMBERS:
        raise UserError(f"{where}: numbers must be 2..{MOST_NUMBERS}, got {len(problem.numbers)}")
    check_integers(f"{where}: numbers", problem.numbers, 0, limit)
    check_integer(f"{where}: target", problem.target, 0, limit)


# --- the task ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Countdown(Task[Problem]):
    """Countdown as a ``Task``; the fields are the difficulty, as ``generate`` describes it.

    With 4 numbers a prompt has 7 words and every correct completion 17, then the end token.
    """

    name: ClassVar[str] = "countdown"
    shipped: ClassVar[bool] = True
    splits: ClassVar[Splits] = {"eval": {"seed": 1, "count": 200}, "train": {"seed": 2, "count": 4000}}

    numbers: int = 4
    largest: int = 15
    target: tuple[int, int] = (10, 99)
    operators: str = OPERATORS
    limit: int = LIMIT

    def __post_init__(self) -> None:
        if isinstance(self.target, list):  # from JSON
            object.__setattr__(self, "target", tuple(self.target))
        _check_difficulty(self.numbers, self.largest, self.target, self.operators, self.limit)

    @property
    def words(self) -> list[str]:
        """0..limit and 8 signs: 108 words by default, whatever ``operators`` is."""
        return [str(value) for value in range(self.limit + 1)] + [*OPERATORS, "=", ",", "->", ":"]

    def generate(self, seed: int, count: int, exclude: Iterable[Problem] = ()) -> list[Problem]:
        return generate(seed, count, **asdict(self), exclude=exclude)

    def prompt(self, problem: Problem) -> str:
        return f"{' '.join(map(str, problem.numbers))} -> {problem.target} :"

    def asks(self, problem: Problem) -> tuple[Multiset, int]:
        """The order of the numbers is of no account."""
        return problem.key

    @property
    def ends(self) -> bool:
        return True

    def max_tokens(self, problem: Problem) -> int:
        return 6 * (len(problem.numbers) - 1)

    def verify(self, response: str, problem: Problem) -> Verdict:
        return verify(response, problem, self.limit, self.operators)

    def solutions(self, problem: Problem) -> list[str]:
        return [solution.text for solution in solve(problem, self.limit, self.operators)]

    def families(self, problem: Problem) -> list[str]:
        return sorted({family(s) for s in solve(problem, self.limit, self.operators)})

    def accepted(self, problem: Problem) -> list[str]:
        """Every accepted completion: of each solution, the operands of + and * in either order."""
        texts = []
        for solution in solve(problem, self.limit, self.operators):
            orders = []
            for step in solution.steps:
                turned = step._replace(left=step.right, right=step.left)
                orders.append({step.text, turned.text if step.operator in "+*" else step.text})
            texts += [" , ".join(steps) for steps in product(*map(sorted, orders))]
        return texts

    def demonstration(self, problem: Problem, rng: random.Random) -> Demonstration:
        """A uniformly random solution, the operands of + and * in random order.

        Imitating one solution of many, never the same, is what gives the base its spread.
        Raises UserError if the problem has no solution.
        """
        solutions = solve(problem, self.limit, self.operators)
        if not solutions:
            raise UserError(f"problem {self.prompt(problem)!r} has no solution to demonstrate")
        texts = []
        for step in rng.choice(solutions).steps:
            if step.operator in "+*" and rng.random() < 0.5:
                step = step._replace(left=step.right, right=step.left)
            texts.append(step.text)
        text = " , ".join(texts)
        return Demonstration(text, loss=(True,) * len(text.split(" ")))

    def to_json(self, problem: Problem) -> dict[str, Any]:
        return {"numbers": list(problem.numbers), "target": problem.target}

    def from_json(self, fields: Mapping[str, Any], where: str) -> Problem:
        check_fields(where, fields, ("numbers", "target"))
        check_integers(f"{where}: numbers", fields["numbers"], 0, self.limit)
        problem = Problem(tuple(fields["numbers"]), fields["target"])
        _check_problem(where, problem, self.limit)
        return problem
