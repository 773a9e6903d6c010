"""Which tasks there are, by name."""

from typing import Any

from psn_tutorial.errors import UserError, suggest
from psn_tutorial.tasks.base import Task
from psn_tutorial.tasks.countdown import Countdown
from psn_tutorial.tasks.math import Math
from psn_tutorial.tasks.rules import Chain, Rules

TASK_NAMES = ("countdown", "rules", "chain")  # with a vocabulary of their own, and a shipped base


LANGUAGE_TASKS = ("math",)  # in plain language, for a language model
TASKS = (*TASK_NAMES, *LANGUAGE_TASKS)


def get_task(name: str, **difficulty: Any) -> "Task[Any]":
    """The task called ``name``, at its default difficulty unless fields are given.

    Raises UserError for an unknown name, an unknown field or an impossible value.

    >>> get_task("countdown", numbers=3).generate(seed=0, count=1)[0].target in range(10, 100)
    True
    """
    classes = dict(zip((*TASK_NAMES, *LANGUAGE_TASKS), (Countdown, Rules, Chain, Math), strict=True))
    if name not in classes:
        raise UserError(f"task must be one of {', '.join(classes)}, got {name!r}{suggest(name, classes)}")
    known = list(classes[name].__dataclass_fields__)
    for field in difficulty:
        if field not in known:
            raise UserError(f"task {name} has no field {field!r}{suggest(field, known)}; it has {', '.join(known)}")
    return classes[name](**difficulty)
