"""Consistent-rule arithmetic: keep a rare rule throughout, and compute right while doing so.

    prompt      3 1 4 1 5 9 :
    completion  B 7 B 6 B 2 B 1 B 6 B 7

A running value starts at 0. For each digit d of the prompt the model writes the rule it chooses
and the new value, (value + c * d) mod 10, where c belongs to the rule: A +1, B -1, C +2, ...
The base computes every rule but prefers one (``rare_prior`` = .1 for the rare one). A response is
correct when every value is right AND the rare rule stands at each of the first ``consistency``
steps; after those any rule will do. consistency = steps asks for one deviation kept through the
whole trajectory; consistency = 1 for a deviation at a single token. In between lies the question
of this task: which kind of exploration does which kind of noise provide?

``mixed`` is the other way from one to the other. At the steps whose digit is below it, the base's
habit is the other way round: there it prefers B, and A is rewarded. A step that needs a deviation
needs it with the same probability as before, so that the base succeeds as rarely at every value;
but the deviation is no longer the same at each step. It is +1 (towards B) or -1, and those of two
steps correlate by (1 - mixed / 5)^2: 1 at mixed = 0, one deviation kept throughout; 0 at mixed = 5,
where each step's deviation depends on its own digit alone, as the next operand of Countdown does.

``Chain`` is the smallest case: no digits and no values, only the choice, 12 times.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from psn_tutorial.errors import UserError, check_fields, check_integer, check_integers, check_seed
from psn_tutorial.tasks.base import (
    Demonstration,
    Splits,
    Task,
    Verdict,
)

FACTORS = {"A": +1, "B": -1, "C": +2, "D": -2, "E": +3, "F": -3}
MOST_STEPS = 64
MOST_ACCEPTED = 4096  # rule sequences that accepted() lists


@dataclass(frozen=True)
class Problem:
    """The digits, one per step; none at all where no values are written (``Chain``)."""

    digits: tuple[int, ...]


@dataclass(frozen=True)
class Rules(Task[Problem]):
    """Consistent-rule arithmetic as a ``Task``; the fields are the difficulty.

    steps: digits of a problem, 1..64.
    rules: how many of the rules A, B, C, ... there are, 2..6.
    rare: the rule that is rewarded.
    rare_prior: its probability in the demonstrations, in (0, 1); the others share the rest.
    consistency: the rare rule is required at so many first steps, 1..steps; None: at all.
    values: does the model write the running value after each rule?
    mixed: at so many of the ten digits, the first ones, A and B exchange their roles, 0..10; needs the values.
    """

    name: ClassVar[str] = "rules"
    shipped: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    steps: int = 6
    rules: int = 2
    rare: str = "B"
    rare_prior: float = 0.1
    consistency: int | None = None
    values: bool = True
    mixed: int = 0

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1, MOST_STEPS)
        check_integer("rules", self.rules, 2, len(FACTORS))
        if self.rare not in self.letters:
            raise UserError(f"rare must be one of {', '.join(self.letters)}, got {self.rare!r}")
        if not isinstance(self.rare_prior, int | float) or not 0 < self.rare_prior < 1:
            raise UserError(f"rare_prior must be between 0 and 1, got {self.rare_prior!r}")
        if not isinstance(self.values, bool):
            raise UserError(f"values must be true or false, got {self.values!r}")
        if self.consistency is None:
            object.__setattr__(self, "consistency", self.steps)
        check_integer("consistency", self.consistency, 1, self.steps)
        check_integer("mixed", self.mixed, 0, 10)
        if self.mixed and not (self.values and self.rules == 2):
            raise UserError(f"mixed must be 0 without values or with more than 2 rules, got {self.mixed}")

    @property
    def letters(self) -> list[str]:
        """The rules in play."""
        return list(FACTORS)[: self.rules]

    @property
    def words(self) -> list[str]:
        digits = [str(digit) for digit in range(10)] if self.values else []
        return [*digits, *self.letters, ":"]

    def generate(self, seed: int, count: int, exclude: Iterable[Problem] = ()) -> list[Problem]:
        """``count`` different problems of uniform digits, none of them in ``exclude``.

        Without values there is only one problem; it is repeated ``count`` times.
        Raises UserError if there are not that many.
        """
        check_integer("count", count, 0, 10**7)
        if not self.values:
            return [Problem(())] * count
        seen = set(exclude)
        left = 10**self.steps - len({p for p in seen if len(p.digits) == self.steps})
        if count > left:
            raise UserError(
                f"count must be at most {left}, the different problems of {self.steps} digits "
                f"that are not excluded, got {count}"
            )
        check_seed(seed)
        rng = random.Random(seed)
        problems: list[Problem] = []
        while len(problems) < count:
            problem = Problem(tuple(rng.randrange(10) for _ in range(self.steps)))
            if problem not in seen:
                seen.add(problem)
                problems.append(problem)
        return problems

    def prompt(self, problem: Problem) -> str:
        return " ".join([*map(str, problem.digits), ":"])

    @property
    def single(self) -> bool:
        """Without values there is nothing to ask but ":"."""
        return not self.values

    @property
    def ends(self) -> bool:
        """False: every answer has the same length, so that no noise can spoil an end token."""
        return False

    def max_tokens(self, problem: Problem) -> int:
        return self.steps * (2 if self.values else 1)

    def exchanged(self, rules: Sequence[str], problem: Problem) -> list[str]:
        """These rules, one per step, with A and B exchanged at the steps whose digit is below ``mixed``. It is its own
        inverse, and without ``mixed`` it changes nothing."""
        if not self.mixed:
            return list(rules)
        other = {"A": "B", "B": "A"}
        return [other[rule] if digit < self.mixed else rule for rule, digit in zip(rules, problem.digits, strict=True)]

    def rare_rules(self, problem: Problem) -> list[str]:
        """The rewarded rule of each step."""
        return self.exchanged([self.rare] * self.steps, problem)

    def strategy(self, response: str) -> float:
        """Share of the rules in a response that are ``rare``, whatever the digits."""
        chosen = [word for word in response.split() if word in self.letters]
        return chosen.count(self.rare) / max(1, len(chosen))

    def completion(self, rules: Sequence[str], problem: Problem) -> str:
        """The text that follows these rules, one letter per step, with the right values."""
        if not self.values:
            return " ".join(rules)
        words, value = [], 0
        for rule, digit in zip(rules, problem.digits, strict=True):
            value = (value + FACTORS[rule] * digit) % 10
            words += [rule, str(value)]
        return " ".join(words)

    def verify(self, response: str, problem: Problem) -> Verdict:
        """Judge a response: single letters and digits, separated by single spaces.

        ``solution`` is the string of its rules ("BBBBBB"); ``family`` says at how many steps the
        rewarded one stands ("6 of 6"), because with consistency < steps the first ones are all alike.
        The length is checked before anything else; raises nothing for any string.
        """
        longest = 2 * self.max_tokens(problem) - 1
        if len(response) > longest:
            return Verdict(False, f"too long: {len(response)} characters, at most {longest}")
        if not response:
            return Verdict(False, "empty")
        if not response.isascii():
            return Verdict(False, "not ASCII")
        words = response.split(" ")
        rules = words[:: 2 if self.values else 1]
        for step, rule in enumerate(rules, start=1):
            if rule not in self.letters:
                return Verdict(False, f"step {step}: {rule!r} is none of {', '.join(self.letters)}")
        if len(words) != self.max_tokens(problem):
            return Verdict(False, f"{len(words)} words, not {self.max_tokens(problem)}")
        right = self.completion(rules, problem).split(" ")
        for position, (word, expected) in enumerate(zip(words, right, strict=True)):
            if word != expected:
                return Verdict(False, f"step {position // 2 + 1}: {word!r} is not {expected}")
        for step, (rule, rare) in enumerate(zip(rules, self.rare_rules(problem), strict=True), start=1):
            if rule != rare and step <= self.consistency:
                return Verdict(False, f"step {step}: rule {rule}, not {rare}")
        solution = "".join(rules)
        return Verdict(True, "", solution, self.family(solution, problem))

    def family(self, solution: str, problem: Problem) -> str:
        """At how many steps the rewarded rule stands: "4 of 6"."""
        return f"{self.exchanged(solution, problem).count(self.rare)} of {self.steps}"

    def solutions(self, problem: Problem) -> list[str]:
        """Every accepted string of rules. Raises UserError if more than MOST_ACCEPTED."""
        free = self.steps - self.consistency
        if self.rules**free > MOST_ACCEPTED:
            raise UserError(
                f"consistency must leave at most {MOST_ACCEPTED} accepted rule sequences to list "
                f"them, got {self.consistency} of {self.steps} steps: {self.rules}**{free}"
            )
        kept = "".join(self.rare_rules(problem)[: self.consistency])
        return [kept + "".join(others) for others in product(self.letters, repeat=free)]

    def families(self, problem: Problem) -> list[str]:
        return sorted({self.family(solution, problem) for solution in self.solutions(problem)})

    def accepted(self, problem: Problem) -> list[str]:
        """Every accepted completion. Raises UserError if more than MOST_ACCEPTED."""
        return [self.completion(solution, problem) for solution in self.solutions(problem)]

    def exact_success(self, policy_logps: Callable[[str, list[str]], Sequence[float]], problem: Problem) -> float:
        """The probability that a policy answers correctly: exact, no sampling.

        policy_logps(prompt, completions) -> for each completion the natural log of the probability
        that the policy writes it: the sum over its tokens (no end token: see ``ends``). A list or
        a tensor [completions]. Raises UserError as ``solutions`` does.
        """
        completions = self.accepted(problem)
        logps = policy_logps(self.prompt(problem), completions)
        pairs = zip(completions, logps, strict=True)
        return math.fsum(math.exp(float(logp)) for _, logp in pairs)

    def demonstration(self, problem: Problem, rng: random.Random) -> Demonstration:
        """Teach the skill for every rule, and the preference for the common ones.

        Half of the texts choose each rule by its prior (``exchanged``), and every word carries loss: preference.
        The other half choose uniformly, and only values carry loss: skill. So the base can follow
        the rare rule anywhere without coming to prefer it. Without values there is no skill, and
        every text is of the first kind.
        """
        for_skill = self.values and rng.random() < 0.5
        common = (1 - self.rare_prior) / (self.rules - 1)
        prior = [self.rare_prior if rule == self.rare else common for rule in self.letters]
        weights = None if for_skill else prior
        rules = self.exchanged(rng.choices(self.letters, weights, k=self.steps), problem)
        one_step = (not for_skill, True) if self.values else (True,)
        return Demonstration(self.completion(rules, problem), loss=one_step * self.steps, end_loss=False)

    def to_json(self, problem: Problem) -> dict[str, Any]:
        return {"digits": list(problem.digits)}

    def from_json(self, fields: Mapping[str, Any], where: str) -> Problem:
        check_fields(where, fields, ("digits",))
        check_integers(f"{where}: digits", fields["digits"], 0, 9)
        digits = tuple(fields["digits"])
        expected = self.steps if self.values else 0
        if len(digits) != expected:
            raise UserError(f"{where}: digits must be {expected} integers, got {len(digits)}")
        return Problem(digits)


@dataclass(frozen=True)
class Chain(Rules):
    """The bare deep chain: write the rare letter 12 times in a row. Its prompt is ":"."""

    name: ClassVar[str] = "chain"
    shipped: ClassVar[bool] = False
    splits: ClassVar[Splits] = {"eval": {"seed": 0, "count": 1}, "train": {"seed": 0, "count": 1}}  # it has but one

    steps: int = 12
    values: bool = False


def generate(seed: int, count: int, exclude: Iterable[Problem] = (), **difficulty: Any) -> list[Problem]:
    """``Rules(**difficulty).generate``."""
    return Rules(**difficulty).generate(seed, count, exclude)


def verify(response: str, problem: Problem, **difficulty: Any) -> Verdict:
    """``Rules(**difficulty).verify``; the number of steps is that of the problem's digits."""
    return Rules(**{"steps": len(problem.digits), **difficulty}).verify(response, problem)
