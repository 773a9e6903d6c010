"""What every task offers: problems, prompts, a verifier, demonstrations.

The trainer, the evaluation and the pre-training know nothing else of a task.
"""

import random
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from psn_tutorial.errors import UserError, shown
from psn_tutorial.extensions import tell_faults
from psn_tutorial.tasks.files import shipped_problems

P = TypeVar("P")
Splits = Mapping[str, Mapping[str, int]]  # split -> the arguments of ``generate``


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


def folded(text: str) -> str:
    """``text`` without differences of case, of spaces and of the forms of a character (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Task(ABC, Generic[P]):
    """A family of problems ``P`` whose answers a program can check.

    A task is a frozen dataclass derived from this class: its fields are the difficulty. What is abstract here must be
    written; what is not has a default that suits most tasks. Outside the package it is known by being named,
    ``--task my_module:Sorting``; in a notebook ``register_task`` makes it known by its name:

        @register_task
        @dataclass(frozen=True)
        class Sorting(Task[tuple[int, ...]]):
            name = "sorting"
            length: int = 5
            ...

    What its methods raise is told in a sentence that names the class and the method, the exception as its cause.

    Class attributes:
        name: what ``get_task`` and the command line know it by.
        splits: how its problems are made, "eval" and "train": the arguments of ``generate``.
        shipped: are the problems of its default difficulty in data/?
        exact: can it tell the exact success probability of a policy (:meth:`exact_success`)?
    """

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        tell_faults(cls, Task, {"prompt": str, "max_tokens": int})

    name: ClassVar[str]
    splits: ClassVar[Splits] = {
        "eval": {"seed": 1, "count": 100},
        "train": {"seed": 2, "count": 2000},
    }
    shipped: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    # Problems and what the model reads

    @abstractmethod
    def generate(self, seed: int, count: int, exclude: Iterable[P] = ()) -> list[P]:
        """``count`` problems of this difficulty; the same seed gives the same problems."""

    @abstractmethod
    def prompt(self, problem: P) -> str:
        """What the model reads; for a task with ``words``, words separated by single spaces."""

    @abstractmethod
    def to_json(self, problem: P) -> dict[str, Any]:
        """The problem as one line of a problem file."""

    @abstractmethod
    def from_json(self, fields: Mapping[str, Any], where: str) -> P:
        """The inverse of ``to_json``; UserError starting with ``where`` if the fields are wrong."""

    def from_rows(self, rows: Sequence[tuple[str, Any]]) -> list[P]:
        """The problems of a whole file, from (where, fields) of each row; what no row tells alone is checked here."""
        return [self.from_json(fields, where) for where, fields in rows]

    def asks(self, problem: P) -> Hashable:
        """What is asked, the same for two problems that only look different; here the prompt, its case and spaces
        aside. No problem that a policy is evaluated on may ask what one that it is trained on asks.
        """
        return folded(self.prompt(problem))

    @property
    def single(self) -> bool:
        """Has it but one problem, so that a policy can only be evaluated on what it is trained on?"""
        return False

    @property
    def words(self) -> list[str]:
        """Every word of prompts and completions, for a tokenizer with one token for each; [] in plain language."""
        return []

    @property
    def base(self) -> str:
        """The shipped base policy that a run starts from unless another is named."""
        return self.name

    def messages(self, problem: P) -> list[dict[str, str]] | None:
        """The prompt as a conversation, for a tokenizer's chat template; None if it is none."""
        return None

    def problems(self, use: str) -> list[P]:
        """The problems to train on ("train") or to evaluate on ("eval"), which are different ones.

        At the default difficulty of a task that is ``shipped``, those in data/<name>/<use>.jsonl; else made as
        ``splits`` says. Raises UserError when shipped ones are not beside the package, or too few can be made.
        """
        if self.shipped and self == type(self)():
            return shipped_problems(self, use)
        held_out = [] if use == "eval" else self.problems("eval")
        return self.generate(**self.splits[use], exclude=held_out)

    # Answers

    @abstractmethod
    def max_tokens(self, problem: P) -> int:
        """Tokens of the longest correct completion, the end token included where ``ends``."""

    @abstractmethod
    def verify(self, response: str, problem: P) -> Verdict:
        """Judge a response. Never raises for any text, and never evaluates it."""

    def answered(self, response: str) -> bool:
        """Does a response hold an answer that the verifier can read, right or wrong? Without further knowledge, yes."""
        return True

    def strategy(self, response: str) -> float:
        """How a response goes about its problem, right or wrong, as a number in [0, 1]: the share of one of two ways to
        do a step, of which a policy may have a habit. Without further knowledge, 0."""
        return 0.0

    @property
    def ends(self) -> bool:
        """True: an answer ends with the end token. False: it ends after ``max_tokens`` words."""
        return True

    def verify_many(self, responses: Sequence[str], problems: Sequence[P]) -> list[Verdict]:
        """The verdict on each response to its problem.

        Raises UserError when ``verify`` returns something else than a Verdict.
        """
        verdicts = [self.verify(response, problem) for response, problem in zip(responses, problems, strict=True)]
        for verdict in verdicts:
            if not isinstance(verdict, Verdict):
                raise UserError(f"the method verify of {self.name} must return a Verdict, got {shown(verdict)}")
        return verdicts

    def solutions(self, problem: P) -> list[str]:
        """All distinct solutions, each as ``Verdict.solution`` names it.

        Raises UserError where they cannot be listed: then there is no coverage to measure, only pass@k.
        """
        raise UserError(f"the solutions of a problem of {self.name} cannot be listed")

    def families(self, problem: P) -> list[str]:
        """The distinct families of the solutions, sorted. Raises UserError as ``solutions``."""
        return self.solutions(problem)

    def exact_success(self, policy_logps: Callable[[str, list[str]], Sequence[float]], problem: P) -> float:
        """The probability that a policy answers right, summed over all right answers; where ``exact``.

        policy_logps: (prompt, completions) -> log-probability of each completion, in nats.
        """
        raise UserError(f"{self.name} has no exact probabilities")

    def demonstration(self, problem: P, rng: random.Random) -> Demonstration:
        """One random completion to pre-train a base policy on. Raises UserError where there is none."""
        raise UserError(f"{self.name} has no demonstrations to pre-train on")
