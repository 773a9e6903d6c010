"""Which tasks there are, by name. One of your own is a class, which a setting names as my_module:MyTask.

A task has a name, which no other may have, and is known by it once it is registered: ours are; :func:`register_task`
registers one in Python; and :func:`get_task` one that is named as module:Class, or that an installed package offers in
its entry points:

    [project.entry-points."psn_tutorial.tasks"]
    sorting = "my_package.tasks:Sorting"

Our names stand first: an entry point that bears one of them is passed over.
"""

import dataclasses
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

from psn_tutorial.errors import UserError, suggest
from psn_tutorial.extensions import check_named, imported, in_one_sentence, is_named
from psn_tutorial.tasks.base import Task
from psn_tutorial.tasks.countdown import Countdown
from psn_tutorial.tasks.habit import Habit
from psn_tutorial.tasks.judged import Judged
from psn_tutorial.tasks.math import Math
from psn_tutorial.tasks.rules import Chain, Rules

OWN: tuple[type[Task], ...] = (Countdown, Rules, Chain, Math, Judged, Habit)
TASK_NAMES = ("countdown", "rules", "chain")  # those with a vocabulary of their own and a shipped base of that name
ENTRY_POINTS = "psn_tutorial.tasks"

_CLASSES: dict[str, type[Task]] = {task.name: task for task in OWN}


class _Names:
    """The names of all tasks that are registered or offered by an installed package, as they are now."""

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*_CLASSES, *offered())))


TASKS = _Names()


@cache
def offered() -> dict[str, str]:
    """The tasks that installed packages offer: name -> module:Class. Imports none of them."""
    from importlib.metadata import entry_points  # here: importing and searching take a tenth of a second

    own = {task.name for task in OWN}
    found = entry_points(group=ENTRY_POINTS)
    return {entry.name: f"{entry.module}:{entry.attr}" for entry in found if entry.name not in own}


def is_registered(name: str) -> bool:
    """Is the class of this name here, so that ``get_task`` imports nothing?"""
    return name in _CLASSES


def check_task(name: Any) -> None:
    """Raise UserError unless ``name`` is that of a task or is written as module:Class. Imports nothing."""
    if not (isinstance(name, str) and is_registered(name)):
        check_named("task", name, TASKS)


def register_task(task: type[Task]) -> type[Task]:
    """Make a task known by its name to ``get_task``, to all settings and to the command line; usable as a decorator.

    A class that is written anew, in a cell of a notebook, replaces the earlier one of that module and name.

    Raises UserError unless ``task`` is a class derived from ``Task`` that has a name of its own and lacks no method.
    """
    if not (inspect.isclass(task) and issubclass(task, Task)):
        raise UserError(f"a task must be a class derived from psn_tutorial.tasks.Task, got {task!r}")
    if missing := sorted(task.__abstractmethods__):
        raise UserError(f"the task {task.__name__} lacks {', '.join(missing)}")
    name = getattr(task, "name", None)
    if not isinstance(name, str) or not name:
        raise UserError(f"the task {task.__name__} needs a name, such as name = 'sorting', got {name!r}")
    known = _CLASSES.get(name, task)
    if (known.__module__, known.__qualname__) != (task.__module__, task.__qualname__):
        raise UserError(f"there is a task called {name!r} already: choose another name for {task.__name__}")
    _CLASSES[name] = task
    return task


def get_task(name: str, **difficulty: Any) -> Task[Any]:
    """The task called ``name``, at its default difficulty unless fields are given.

    name: of a task in TASKS, or module:Class, whose module is imported and whose class is registered.

    Raises UserError for an unknown name, a class that cannot be imported or registered, an unknown or missing field,
    or an impossible value.

    >>> get_task("countdown", numbers=3).generate(seed=0, count=1)[0].target in range(10, 100)
    True
    """
    task = _class(name)
    fields = [field for field in dataclasses.fields(task) if field.init] if dataclasses.is_dataclass(task) else []
    known = [field.name for field in fields]
    for field in difficulty:
        if field not in known:
            has = ", ".join(known) or "none"
            raise UserError(f"task {name} has no field {field!r}{suggest(field, known)}; it has {has}")
    for field in fields:
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in difficulty:
            raise UserError(f"task {name} needs its field {field.name!r}: --difficulty {field.name}=...")
    with in_one_sentence(f"task {name} cannot be made"):
        return task(**difficulty)


def _class(name: str) -> type[Task]:
    """The class that ``name`` stands for, registered."""
    if is_named(name):
        return register_task(imported("task", name))
    if name not in _CLASSES and name in offered():
        task = register_task(imported(f"task {name} of an installed package,", offered()[name]))
        if task.name != name:
            raise UserError(f"the entry point of the task {task.name!r} must have its name, got {name!r}")
    if name not in _CLASSES:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {name!r}{suggest(name, TASKS)}")
    return _CLASSES[name]
