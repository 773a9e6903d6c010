"""Answers to the same questions side by side: what a policy wrote before and after, and what another one wrote.

In a notebook an :class:`Answers` shows itself as a table, in a terminal as text; the page of a comparison has one too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from psn_tutorial.errors import UserError
from psn_tutorial.experiments.results import Results
from psn_tutorial.runs.transcripts import Transcript, read_transcripts

MARKS = {True: "✓", False: "✗"}


class Row(NamedTuple):
    """One question, its reference answer, and the answers of each column."""

    question: str
    reference: str
    cells: list[list[Transcript]]


@dataclass(frozen=True)
class Answers:
    """columns: heading -> answers, to the same questions in every column.

    Raises UserError where there is no answer, or a column lacks a question that another has.
    """

    columns: Mapping[str, Sequence[Transcript]]

    def __post_init__(self) -> None:
        asked = {heading: {t.problem for t in column} for heading, column in self.columns.items()}
        if not any(asked.values()):
            raise UserError("columns must hold at least one answer, got none")
        every = set().union(*asked.values())
        for heading, problems in asked.items():
            if missing := every - problems:
                raise UserError(f"column {heading!r} has no answer to problem {min(missing)}, which another column has")

    @property
    def rows(self) -> list[Row]:
        """By the place of the problem."""
        first = {t.problem: t for column in self.columns.values() for t in column}
        return [
            Row(
                t.question,
                t.reference,
                [[a for a in column if a.problem == problem] for column in self.columns.values()],
            )
            for problem, t in sorted(first.items())
        ]

    def __str__(self) -> str:
        lines = []
        for row in self.rows:
            lines += [f"{row.question}  ({row.reference})"]
            for heading, cell in zip(self.columns, row.cells, strict=True):
                lines += [f"  {heading}"] + [f"    {MARKS[t.correct]} {' '.join(t.answer.split())}" for t in cell]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        template = templates().get_template("side_by_side.html")
        return template.render(answers=self)


def templates() -> Environment:
    """The Jinja templates of this package; they escape what they are given."""
    return Environment(
        loader=PackageLoader("psn_tutorial.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def before_and_after(results: Results) -> Answers | None:
    """The base and every arm at the end of its training, first seed, clean policies; None where no answers are kept."""
    columns: dict[str, list[Transcript]] = {}
    for arm, runs in results.runs.items():
        clean = [t for t in read_transcripts(runs[0].folder) if t.sampler == "clean"]
        last = max((t.step for t in clean), default=0)
        columns.setdefault("base", [t for t in clean if t.step == 0])
        columns[results.label(arm)] = [t for t in clean if t.step == last]
    return Answers(columns) if all(columns.values()) else None
