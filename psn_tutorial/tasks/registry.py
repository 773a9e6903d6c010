"""Which tasks there are, by name. A task of your own is one class and one call of :func:`register_task`."""

import dataclasses
import inspect
from typing import Any

from psn_tutorial.errors import UserError, suggest
from psn_tutorial.tasks.base import Task
from psn_tutorial.tasks.countdown import Countdown
from psn_tutorial.tasks.math import Math
from psn_tutorial.tasks.rules import Chain, Rules

_CLASSES: dict[str, type[Task]] = {task.name: task for task in (Countdown, Rules, Chain, Math)}

TASKS = _CLASSES.keys()  # a view: a task that is registered later is in it
TASK_NAMES = ("countdown", "rules", "chain")  # those with a vocabulary of their own and a shipped base of that name


def register_task(task: type[Task]) -> type[Task]:
    """Make a task known to ``get_task``, to all settings and to the command line; usable as a decorator.

    Raises UserError unless ``task`` is a class derived from ``Task`` that has a name of its own and lacks no method.
    """
    if not (inspect.isclass(task) and issubclass(task, Task)):
        raise UserError(f"a task must be a class derived from psn_tutorial.tasks.Task, got {task!r}")
    if missing := sorted(task.__abstractmethods__):
        raise UserError(f"the task {task.__name__} lacks {', '.join(missing)}")
    name = getattr(task, "name", None)
    if not isinstance(name, str) or not name:
        raise UserError(f"the task {task.__name__} needs a name, such as name = 'sorting', got {name!r}")
    if _CLASSES.get(name, task) is not task:
        raise UserError(f"there is a task called {name!r} already: choose another name for {task.__name__}")
    _CLASSES[name] = task
    return task


def get_task(name: str, **difficulty: Any) -> Task[Any]:
    """The task called ``name``, at its default difficulty unless fields are given.

    Raises UserError for an unknown name, an unknown field or an impossible value.

    >>> get_task("countdown", numbers=3).generate(seed=0, count=1)[0].target in range(10, 100)
    True
    """
    if name not in _CLASSES:
        raise UserError(f"task must be one of {', '.join(_CLASSES)}, got {name!r}{suggest(name, _CLASSES)}")
    known = [field.name for field in dataclasses.fields(_CLASSES[name])]
    for field in difficulty:
        if field not in known:
            raise UserError(f"task {name} has no field {field!r}{suggest(field, known)}; it has {', '.join(known)}")
    return _CLASSES[name](**difficulty)
