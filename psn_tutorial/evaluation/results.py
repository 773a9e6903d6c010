"""The result of a problem as counts: samples, correct ones, distinct solutions."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psn_tutorial.errors import UserError, check_range, shown, suggest
from psn_tutorial.tasks.base import Task


@dataclass(frozen=True)
class ProblemResult:
    """The counts of one problem; one line of eval.json.

    problem: the prompt, which identifies the problem when arms are compared.
    n, c: samples, and how many of them are correct.
    solutions: distinct solution -> samples that found it; families: the same per family.
    total_solutions, total_families: how many there are; None where the task cannot list them.
    exact: the success probability of one sample where it can be computed, else None; then n may
        be 0.

    Raises UserError for impossible numbers.
    """

    problem: str
    n: int
    c: int
    solutions: dict[str, int] = field(default_factory=dict)
    total_solutions: int | None = None
    families: dict[str, int] = field(default_factory=dict)
    total_families: int | None = None
    exact: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.problem, str):
            raise UserError(f"problem must be a text, got {shown(self.problem)}")
        check_range("n", self.n, low=0, whole=True)
        check_range("c", self.c, low=0, high=self.n, whole=True)
        for name in ("solutions", "families"):
            counts, total = getattr(self, name), getattr(self, f"total_{name}")
            if not isinstance(counts, Mapping):
                raise UserError(f"{name} must map texts to counts, got {shown(counts)}")
            for text, count in counts.items():
                check_range(f"{name}[{shown(text)}]", count, low=1, high=self.c, whole=True)
            if total is not None:
                check_range(f"total_{name}", total, low=len(counts), whole=True)
        if self.exact is not None:
            # The sum of many float32 probabilities may end a little above 1.
            check_range("exact", self.exact, low=0, high=1 + 1e-4)

    @classmethod
    def from_json(cls, fields: Any, where: str) -> "ProblemResult":
        """The result with these fields, as JSON holds them. UserError starting with ``where`` if they are wrong."""
        known = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping):
            raise UserError(f"{where}: expected an object, got {shown(fields)}")
        for name in fields:
            if name not in known:
                raise UserError(
                    f"{where}: unknown field {shown(name)}{suggest(name, known)}; allowed are {', '.join(known)}"
                )
        for name in ("problem", "n", "c"):
            if name not in fields:
                raise UserError(f"{where}: the field {name!r} is missing")
        try:
            return cls(**fields)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


Evaluation = Sequence[ProblemResult]


def tally(problem: Any, responses: Mapping[str, int], task: Task, exact: float | None = None) -> ProblemResult:
    """Judge the responses to one problem: {response text: how many samples gave it}.

    Each distinct text is verified once. ``exact`` is the success probability, if it is known.
    """
    solutions: Counter[str] = Counter()
    families: Counter[str] = Counter()
    correct = 0
    judged = task.verify_many(list(responses), [problem] * len(responses))
    for count, verdict in zip(responses.values(), judged, strict=True):
        if verdict.correct:
            correct += count
            solutions.update({verdict.solution: count} if verdict.solution is not None else {})
            families.update({verdict.family: count} if verdict.family is not None else {})
    try:
        totals = len(task.solutions(problem)), len(task.families(problem))
    except UserError:  # too many to list: then coverage is not defined, and pass@k still is
        totals = None, None
    return ProblemResult(
        problem=task.prompt(problem),
        n=sum(responses.values()),
        c=correct,
        solutions=dict(sorted(solutions.items())),
        total_solutions=totals[0],
        families=dict(sorted(families.items())),
        total_families=totals[1],
        exact=exact,
    )


def check_evaluations(name: str, evaluations: Sequence[Evaluation]) -> None:
    """Raise UserError unless ``evaluations`` is a list of at least one evaluation."""
    if not isinstance(evaluations, Sequence) or not evaluations:
        raise UserError(f"{name} must be a list of evaluations, one per seed, got none")
    for evaluation in evaluations:
        check_evaluation(evaluation)


def check_evaluation(evaluation: Evaluation) -> None:
    """Raise UserError unless ``evaluation`` is a list of at least one ProblemResult, each of another problem."""
    listed = isinstance(evaluation, Sequence) and all(isinstance(r, ProblemResult) for r in evaluation)
    if not listed or not evaluation:
        raise UserError(f"an evaluation must be a list of at least one ProblemResult, got {shown(evaluation)}")
    twice = [problem for problem, n in Counter(r.problem for r in evaluation).items() if n > 1]
    if twice:
        raise UserError(f"an evaluation holds the problem {shown(twice[0])} more than once")
