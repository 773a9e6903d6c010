"""An exercise as a notebook shows it: what to write, hints and a solution, each folded away until it is wanted."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from psn_tutorial.teaching.exercises import solutions
from psn_tutorial.teaching.exercises.grading import Exercise
from psn_tutorial.teaching.folded import Folded


@dataclass(frozen=True)
class Card:
    """What :func:`psn_tutorial.teaching.exercises.exercise` returns; it shows itself."""

    name: str
    exercise: Exercise

    @property
    def function(self) -> Callable[..., Any]:
        """The solution."""
        return getattr(solutions, self.name)

    @property
    def stub(self) -> str:
        """The function to fill in, with the types of its arguments and of its result."""
        return self.solution.splitlines()[0] + "\n    return ...\n"

    @property
    def solution(self) -> str:
        return inspect.getsource(self.function).replace(f"def {self.name}(", f"def my_{self.name}(", 1)

    @property
    def hints(self) -> list[Folded]:
        every = enumerate(solutions.HINTS[self.name], 1)
        return [Folded(f"Hint {number}", hint, wrap=True) for number, hint in every]

    def __str__(self) -> str:
        return f"Write my_{self.name}.\n{self.exercise.task}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        folded = [*self.hints, Folded("Solution", self.solution)]
        task = "</p><p>".join(map(escape, self.exercise.task.split("\n\n")))
        return f"<p>Write <code>my_{self.name}</code>.</p><p>{task}</p>" + "".join(f._repr_html_() for f in folded)
