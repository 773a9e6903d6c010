"""What every task offers: problems, prompts, a verifier, demonstrations. And files of problems.

A task is a frozen dataclass: its fields are the difficulty, its methods the protocol below.
The trainer, the evaluation and the pre-training know nothing else of a task, so a new one needs
only these methods.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from psn_tutorial.errors import UserError

P = TypeVar("P")


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of one response.

    correct: the reward is 1.0 if so, else 0.0.
    reason: "" when correct, else one short sentence saying what is wrong.
    solution: the canonical text of a correct response: two responses that differ only in what the
        task calls irrelevant (Countdown: the operand order of + and *) share it. None if wrong.
    family: the group of solutions it belongs to, as ``Task.families`` names it. None if wrong.
    """

    correct: bool
    reason: str
    solution: str | None = None
    family: str | None = None


@dataclass(frozen=True)
class Demonstration:
    """One completion to imitate in pre-training.

    text: the completion, words separated by single spaces, without the end token.
    loss: one flag per word of ``text``: does the cross-entropy count there?
    end_loss: the same for the end token that follows the text (False where not ``Task.ends``).
    """

    text: str
    loss: tuple[bool, ...]
    end_loss: bool = True


class Task(Protocol[P]):
    """A family of problems ``P`` whose answers a program can check."""

    @property
    def name(self) -> str:
        """The name that ``get_task`` knows it by."""

    @property
    def words(self) -> list[str]:
        """Every word of prompts and completions; the tiny tokenizer has one token for each."""

    def generate(self, seed: int, count: int, exclude: Iterable[P] = ()) -> list[P]:
        """``count`` problems of this difficulty; the same seed gives the same problems."""

    def prompt(self, problem: P) -> str:
        """What the model reads, words separated by single spaces."""

    @property
    def ends(self) -> bool:
        """True: an answer ends with the end token. False: it ends after ``max_tokens`` words."""

    def max_tokens(self, problem: P) -> int:
        """Tokens of the longest correct completion, the end token included where ``ends``."""

    def verify(self, response: str, problem: P) -> Verdict:
        """Judge a response. Never raises for any text, and never evaluates it."""

    def solutions(self, problem: P) -> list[str]:
        """All distinct solutions, each as ``Verdict.solution`` names it."""

    def families(self, problem: P) -> list[str]:
        """The distinct families of the solutions, sorted."""

    def demonstration(self, problem: P, rng: random.Random) -> Demonstration:
        """One random completion to pre-train on."""

    def to_json(self, problem: P) -> dict[str, Any]:
        """The problem as one line of a problem file."""

    def from_json(self, fields: Mapping[str, Any], where: str) -> P:
        """The inverse of ``to_json``; UserError starting with ``where`` if the fields are wrong."""


def verdicts(task: "Task[P]", responses: Sequence[str], problems: Sequence[P]) -> list[Verdict]:
    """The verdict on each response to its problem; several at the same time where the task offers ``verify_many``."""
    if hasattr(task, "verify_many"):
        return task.verify_many(responses, problems)
    return [task.verify(response, problem) for response, problem in zip(responses, problems, strict=True)]


def require_integer(where: str, value: Any, low: int, high: int) -> int:
    """Return ``value`` if it is an integer in low..high (a bool is none); else UserError."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    too_long_to_print = isinstance(value, int) and abs(value) > 10**18
    shown = "one of more than 18 digits" if too_long_to_print else repr(value)[:80]
    raise UserError(f"{where} must be an integer in {low}..{high}, got {shown}")


def require_integers(where: str, value: Any, low: int, high: int) -> tuple[int, ...]:
    """Return a list or tuple of integers in low..high as a tuple; else UserError."""
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} must be a list of integers, got {repr(value)[:80]}")
    return tuple(require_integer(f"{where}[{i}]", v, low, high) for i, v in enumerate(value))


def require_seed(value: Any) -> int:
    """Return a seed if it is an integer >= 0 (random.Random takes -1 for 1, and None for luck)."""
    return require_integer("seed", value, 0, 2**63 - 1)


def require_fields(where: str, fields: Any, names: tuple[str, ...]) -> None:
    """UserError unless ``fields`` is a mapping with exactly these names."""
    if not isinstance(fields, Mapping) or set(fields) != set(names):
        got = ", ".join(map(str, fields)) if isinstance(fields, Mapping) else type(fields).__name__
        raise UserError(f"{where} must hold exactly the fields {', '.join(names)}, got {got[:80]}")
