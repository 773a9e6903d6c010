"""A rare strategy for a pretrained model: which of two words stands behind each number of a list?

    prompt      61. cat
                62. dog        ... six such lists, in which one word in ten is the rare one,

                37.            and the first number of another
    completion   dog
                38. dog
                39. dog        ...

The lists of the prompt give the model a habit, as demonstrations give it to the tiny models of
:mod:`psn_tutorial.tasks.rules`. Right is an answer that counts on and has the rare word behind every number: one
deviation from the habit, kept throughout. Any language model reads the prompt, as plain text without a chat template.
"""

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from psn_tutorial.errors import UserError, check_fields, check_integer, check_seed, shown
from psn_tutorial.tasks.base import Splits, Task, Verdict

LOWEST, HIGHEST = 10, 99  # numbers of two digits, so that all lists have equally many tokens
EXAMPLES_SEED = 0


@dataclass(frozen=True)
class Habit(Task[int]):
    """The lists as a ``Task``; a problem is the number that its list begins with. The fields are the difficulty.

    steps: numbers of a list, 1..32.
    usual, rare: the two words; each must be one token of the model, with the space before it: an answer in more tokens
        is cut off and never right.
    rare_prior: probability of the rare word in the lists of the prompt, in (0, 1).
    examples: how many lists the prompt has.

    ``letters``, ``rare_rules`` and ``completion`` bear the names of :class:`psn_tutorial.tasks.rules.Rules`, because
    :mod:`psn_tutorial.evaluation.shifts` asks both for them.
    """

    name: ClassVar[str] = "habit"
    exact: ClassVar[bool] = True
    splits: ClassVar[Splits] = {"eval": {"seed": 1, "count": 20}, "train": {"seed": 2, "count": 38}}

    steps: int = 8
    usual: str = "cat"
    rare: str = "dog"
    rare_prior: float = 0.1
    examples: int = 6

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1, 32)
        check_integer("examples", self.examples, 0, 64)
        for name in ("usual", "rare"):
            word = getattr(self, name)
            if not isinstance(word, str) or not re.fullmatch(r"[^\W\d_]+", word):
                raise UserError(f"{name} must be one word of letters, got {shown(word)}")
        if self.usual == self.rare:
            raise UserError(f"usual and rare must be two words, got {self.usual!r} for both")
        if not isinstance(self.rare_prior, int | float) or not 0 < self.rare_prior < 1:
            raise UserError(f"rare_prior must be between 0 and 1, got {self.rare_prior!r}")

    @property
    def letters(self) -> list[str]:
        """The words in play, the usual one first."""
        return [self.usual, self.rare]

    @property
    def last_first(self) -> int:
        """The largest number that a list can begin with."""
        return HIGHEST - self.steps + 1

    @property
    def ends(self) -> bool:
        """False: what follows the last word is not looked at."""
        return False

    def generate(self, seed: int, count: int, exclude: Iterable[int] = ()) -> list[int]:
        """``count`` different first numbers, none in ``exclude``. Raises UserError if there are not that many."""
        check_integer("count", count, 0, 10**7)
        check_seed(seed)
        left = sorted(set(range(LOWEST, self.last_first + 1)) - set(exclude))
        if count > len(left):
            raise UserError(f"count must be at most {len(left)}, the first numbers that are not excluded, got {count}")
        return random.Random(seed).sample(left, count)

    def prompt(self, problem: int) -> str:
        rng, lists = random.Random(EXAMPLES_SEED), []
        for _ in range(self.examples):
            first = rng.randint(LOWEST, self.last_first)
            words = rng.choices(self.letters, (1 - self.rare_prior, self.rare_prior), k=self.steps)
            lists.append(f"{first}.{self.completion(words, first)}\n\n")
        return f"{''.join(lists)}{problem}."

    def max_tokens(self, problem: int) -> int:
        """A token for each word, digit, full stop and new line, as Qwen and SmolLM2 write them."""
        return 5 * self.steps - 4

    def rare_rules(self, problem: int) -> list[str]:
        """The rewarded word of each step."""
        return [self.rare] * self.steps

    def completion(self, rules: Sequence[str], problem: int) -> str:
        """The text that has these words, one per step."""
        return "".join(f"\n{problem + i}. {word}" if i else f" {word}" for i, word in enumerate(rules))

    def verify(self, response: str, problem: int) -> Verdict:
        """Judge a response by its first ``steps`` entries. ``solution`` is their words; ``family`` says how often the
        rare one is among them. Raises nothing for any string."""
        rest, words = f" {response.lstrip(' ')}", []  # some tokenizers lose a space that comes first
        for step in range(self.steps):
            before = f"\n{problem + step}. " if step else " "
            if not rest.startswith(before):
                return Verdict(False, f"entry {step + 1} does not begin with {before!r}")
            rest = rest.removeprefix(before)
            word = re.split(r"\W", rest, maxsplit=1)[0]
            if word not in self.letters:
                return Verdict(False, f"entry {step + 1}: {word[:12]!r} is none of {', '.join(self.letters)}")
            words.append(word)
            rest = rest.removeprefix(word)
        if self.usual in words:
            return Verdict(False, f"entry {words.index(self.usual) + 1}: {self.usual}, not {self.rare}")
        solution = " ".join(words)
        return Verdict(True, "", solution, self.family(solution, problem))

    def family(self, solution: str, problem: int) -> str:
        """How often the rare word is in it: "8 of 8"."""
        return f"{solution.split().count(self.rare)} of {self.steps}"

    def strategy(self, response: str) -> float:
        """Share of the words in play that are the rare one."""
        chosen = [word for word in re.findall(r"\w+", response) if word in self.letters]
        return chosen.count(self.rare) / max(1, len(chosen))

    def solutions(self, problem: int) -> list[str]:
        return [" ".join(self.rare_rules(problem))]

    def families(self, problem: int) -> list[str]:
        return [self.family(solution, problem) for solution in self.solutions(problem)]

    def accepted(self, problem: int) -> list[str]:
        """The accepted completion, as far as it is looked at."""
        return [self.completion(self.rare_rules(problem), problem)]

    def exact_success(self, policy_logps: Callable[[str, list[str]], Sequence[float]], problem: int) -> float:
        """The probability that a policy writes the right answer, token by token as its tokenizer splits that text. It
        could write the same text in other tokens too, which models hardly ever do."""
        (logp,) = policy_logps(self.prompt(problem), self.accepted(problem))
        return math.exp(float(logp))

    def to_json(self, problem: int) -> dict[str, Any]:
        return {"first": problem}

    def from_json(self, fields: Mapping[str, Any], where: str) -> int:
        check_fields(where, fields, ("first",))
        check_integer(f"{where}: first", fields["first"], LOWEST, self.last_first)
        return fields["first"]
