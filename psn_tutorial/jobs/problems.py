"""Which problems a run trains on and is measured on: a file, the shipped ones, or generated ones."""

from collections.abc import Sequence
from typing import Any

from psn_tutorial.config import EvaluationConfig, RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.tasks import Task, load_split
from psn_tutorial.tasks.files import read_problems
from psn_tutorial.tasks.registry import LANGUAGE_TASKS
from psn_tutorial.tasks.splits import SPLITS


def training_problems(task: Task, config: RunConfig) -> list[Any]:
    """The problems of ``train_file``, else the shipped ones; at another difficulty, made alike."""
    if config.train_file:
        return read_problems(config.train_file, task)
    if config.task in LANGUAGE_TASKS:
        return task.problems("train")
    if not config.difficulty:
        return load_split(config.task, "train")
    return _generated(task, config.task, "train", exclude=_generated(task, config.task, "eval"))


def held_out_problems(task: Task, config: EvaluationConfig) -> list[Any]:
    """The problems to evaluate on: ``eval_file``, else as ``training_problems``."""
    if config.eval_file:
        problems = read_problems(config.eval_file, task)
    elif config.task in LANGUAGE_TASKS:
        problems = task.problems("eval")
    elif not config.difficulty:
        problems = load_split(config.task, "eval")
    else:
        problems = _generated(task, config.task, "eval")
    # A problem counts once; without digits or numbers a task has but a single one.
    problems = list({task.prompt(problem): problem for problem in problems}.values())
    if config.eval_problems and config.eval_problems > len(problems):
        raise UserError(f"eval_problems must be <= {len(problems)}, the problems there are, got {config.eval_problems}")
    return problems[: config.eval_problems]


def _generated(task: Task, name: str, split: str, exclude: Sequence[Any] = ()) -> list[Any]:
    arguments = SPLITS.get(name, {}).get(split, {"seed": 0, "count": 1})
    return task.generate(**arguments, exclude=exclude)
