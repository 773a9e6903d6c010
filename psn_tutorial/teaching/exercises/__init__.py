"""Exercises: the reader writes a function, :func:`check` compares it with an oracle of its own.

The oracle of an exercise counts, enumerates or integrates; it never calls the library's function for
the same thing. Next to it stand the mistakes one is likely to make: a function that makes one of them
is told so, and the tests prove that the checker notices each.

>>> print(check("pass_at_k", lambda n, c, k: 1 - (1 - c / n) ** k))
pass_at_k(n=2, c=1, k=2) must be 1, got 0.75: this draws with replacement, 1 - (1 - c/n)^k
>>> print(check("pass_at_k", lambda n, c, k: ...))
not yet: pass_at_k(n=1, c=1, k=1) must be 1, got ...
"""

from collections.abc import Callable
from typing import Any

from psn_tutorial.errors import check_choice
from psn_tutorial.teaching.exercises import comparing, counting, grpo, noise, quantised, scaling, weights
from psn_tutorial.teaching.exercises.card import Card
from psn_tutorial.teaching.exercises.grading import Exercise, Grade, grade

MODULES = (counting, grpo, weights, noise, quantised, scaling, comparing)
EXERCISES: dict[str, Exercise] = {name: made for module in MODULES for name, made in module.EXERCISES.items()}


def exercise(name: str) -> Card:
    """An exercise for the last line of a cell: what to write, with hints and a solution folded away.

    The next cell holds the stub, as ``print(exercise(name).stub)`` gives it, and hands it to :func:`check`.
    Raises UserError: there is no such exercise.
    """
    check_choice("name", name, EXERCISES)
    return Card(name, EXERCISES[name])


def check(name: str, function: Callable[..., Any]) -> Grade:
    """Grade a reader's function; ``EXERCISES[name].task`` says what it has to do.

    Args:
        name: one of ``EXERCISES``.
        function: takes the exercise's arguments in order; numbers, lists, arrays and tensors are all
            welcome as its result.

    Returns:
        Grade: true when every case came out right. Printed it is one sentence: "passed: ...", "not yet: ..."
        for a stub, or the first input that fails with the expected and the received value. A function
        that crashes is reported, not raised.

    Raises:
        UserError: there is no such exercise.
    """
    check_choice("name", name, EXERCISES)
    return grade(name, EXERCISES[name], function)
