"""Which problems a run trains on and is evaluated on: those of a file, or the task's own."""

from typing import Any

from psn_tutorial.config import EvaluationConfig, ProbeConfig, RunConfig
from psn_tutorial.errors import UserError, shown
from psn_tutorial.extensions import in_one_sentence
from psn_tutorial.tasks import Task
from psn_tutorial.tasks.files import read_problems


def training_problems(task: Task, config: RunConfig) -> list[Any]:
    """The problems of ``train_file``, else the task's own. Raises UserError when there are none."""
    return read_problems(config.train_file, task) if config.train_file else _own(task, "train")


def held_out_problems(task: Task, config: EvaluationConfig | ProbeConfig) -> list[Any]:
    """The problems to evaluate on: those of ``eval_file``, else the task's own; each once.

    Raises UserError when there are none, when ``eval_problems`` asks for more than there are, and without samples
    where they are needed.
    """
    if isinstance(config, EvaluationConfig):
        config.check_samples(task)
    problems = read_problems(config.eval_file, task) if config.eval_file else _own(task, "eval")
    problems = list({task.prompt(problem): problem for problem in problems}.values())
    if config.eval_problems and config.eval_problems > len(problems):
        raise UserError(f"eval_problems must be <= {len(problems)}, the problems there are, got {config.eval_problems}")
    return problems[: config.eval_problems]


def _own(task: Task, use: str) -> list[Any]:
    with in_one_sentence(f"the problems of {task.name} cannot be made"):
        problems = list(task.problems(use))
    if not problems:
        raise UserError(f"{task.name} must have problems to {'evaluate' if use == 'eval' else use} on, got none")
    return problems


def check_apart(task: Task, training: list[Any], held_out: list[Any], config: RunConfig) -> None:
    """Raise UserError when a run would be evaluated on what it is trained on; questions are compared, not files.

    Not where ``allow_overlap`` says that it is wanted, where nothing is evaluated, and for a task with one problem.
    """
    if config.allow_overlap or not config.evaluate or task.single:
        return
    trained = {task.asks(problem) for problem in training}
    both = [problem for problem in held_out if task.asks(problem) in trained]
    if both:
        raise UserError(
            f"{len(both)} of the {len(held_out)} problems to evaluate on are also trained on, such as "
            f"{shown(task.asks(both[0]))}: choose another split or file, or say that it is wanted with --allow-overlap"
        )
