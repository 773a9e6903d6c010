"""What an experiment is: one task, one base policy, and several arms trained from it.

An arm is a label and the settings in which it differs from what all arms share. Experiments are
data: a comparison writes them to comparison.json, and can read them from such a file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from psn_tutorial.config import EvaluationConfig, RunConfig
from psn_tutorial.errors import UserError, check_choice, check_positive, check_range, shown
from psn_tutorial.evaluation.metrics import parse_metric
from psn_tutorial.settings import from_mapping, to_mapping
from psn_tutorial.tasks.base import Task
from psn_tutorial.tasks.registry import check_task, get_task, is_registered


@dataclass(frozen=True)
class Arm:
    """One way to train. ``changes`` are RunConfig fields laid over those that all arms share."""

    label: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """Several arms on one task, from one base policy.

    question: what the experiment asks, in one or two sentences; the report opens with it.
    arms: name -> Arm. The names become names of folders.
    common: RunConfig fields that all arms share.
    seeds: one run per arm and seed; arms are paired by seed.
    reference: the arm that the others are compared with.
    metrics: what the tables show, names as in ``evaluation.metrics.METRICS``.
    frontier: (x, y): compare y at EQUAL x with the reference's path of checkpoints; (): do not.
    margin: the smallest difference that matters, in the units of the metrics (:mod:`psn_tutorial.evaluation.verdicts`).
    base_samples: answers per problem of the base's evaluation; None: as many as of the arms'.

    Raises UserError for what a RunConfig refuses, naming the arm.
    """

    task: str
    question: str
    arms: dict[str, Arm]
    common: dict[str, Any]
    seeds: tuple[int, ...] = (0,)
    reference: str = "grpo"
    metrics: tuple[str, ...] = ("pass@1",)
    frontier: tuple[str, ...] = ()
    margin: float = 0.05
    base_samples: int | None = None

    def __post_init__(self) -> None:
        check_task(self.task)
        for name in self.arms:
            check_name("arm", name)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds must be different numbers, at least one, got {self.seeds}")
        check_choice("reference", self.reference, self.arms)
        check_positive("margin", self.margin)
        if self.base_samples is not None:
            check_range("base_samples", self.base_samples, low=1, whole=True)
        if len(self.frontier) not in (0, 2):
            raise UserError(f"frontier must name two metrics or none, got {self.frontier}")
        for name in self.arms:
            for seed in self.seeds:
                config = self.config(name, seed)
            task = get_task(self.task, **config.difficulty) if is_registered(self.task) else None
            self.check_metrics(config, task)

    def check_metrics(self, config: RunConfig, task: Task | None) -> None:
        """Raise UserError when the evaluations of a run cannot give the metrics. task: None where it is a class of
        another package, which is not imported before it is needed."""
        for metric in (*self.metrics, *self.frontier):
            _check_metric(metric, config, task)

    @property
    def measured_base(self) -> EvaluationConfig:
        """How the base is evaluated, once for all seeds."""
        config = self.config(self.reference, self.seeds[0]).evaluation()
        return replace(config, seed=0, samples=self.base_samples or config.samples)

    def config(self, arm: str, seed: int) -> RunConfig:
        """The settings of one run."""
        where = f"arm {arm}"
        fields = {**self.common, **self.arms[arm].changes, "task": self.task, "seed": seed}
        return from_mapping(RunConfig, fields, where)


def _check_metric(metric: str, config: RunConfig, task: Task | None) -> None:
    """Raise UserError when the evaluations of a run cannot give this metric."""
    name, k = parse_metric(metric)
    if name == "success" and task is not None and not task.exact:
        raise UserError(f"metrics: {config.task} has no exact {metric}")
    needed = k or 1
    if name != "success" and config.samples < needed and not (name == "pass" and not config.samples):
        raise UserError(f"metrics: {metric} needs samples >= {needed}, got {config.samples}")


def check_name(what: str, name: str) -> None:
    """Raise UserError unless ``name``, of an arm or an experiment, can be the name of its folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name == "base":
        raise UserError(
            f"{what} must be named with letters, digits, '.', '-' and '_', and not 'base', got {shown(name)}"
        )


def experiments_from_json(content: Any, where: str) -> dict[str, Experiment]:
    """Read {name: experiment}, the inverse of ``experiments_to_json``.

    Raises UserError, starting with ``where``, for anything that is not one.
    """
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{where}: expected an object of experiments by name, got {shown(content)}")
    experiments = {}
    for name, fields in content.items():
        check_name("experiment", name)
        here = f"{where}, {name}"
        arms = fields.get("arms") if isinstance(fields, Mapping) else None
        if isinstance(arms, Mapping):
            made = {arm: from_mapping(Arm, arms[arm], f"{here}, arm {arm}") for arm in arms}
            fields = {**fields, "arms": made}
        experiments[name] = from_mapping(Experiment, fields, here)
    return experiments


def experiments_to_json(experiments: Mapping[str, Experiment]) -> dict[str, Any]:
    """{name: experiment} as JSON holds it."""
    return {name: to_mapping(experiment) for name, experiment in experiments.items()}


def narrowed(
    experiments: Mapping[str, Experiment],
    names: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    base: str | None = None,
) -> dict[str, Experiment]:
    """Only some experiments, with only some arms, with other seeds, from another base policy.

    None changes nothing. The reference arm is always kept. Raises UserError for names that do not
    exist, and for a base given to several experiments.
    """
    for name in names or ():
        check_choice("experiment", name, experiments)
    chosen = {name: e for name, e in experiments.items() if not names or name in names}
    if base and len(chosen) > 1:
        raise UserError(f"base serves one experiment, and there are {', '.join(chosen)}")
    for name, experiment in chosen.items():
        for arm in arms or ():
            check_choice("arm", arm, experiment.arms)
        kept = {arm: made for arm, made in experiment.arms.items() if not arms or arm in (*arms, experiment.reference)}
        common = experiment.common | ({"base": base} if base else {})
        chosen[name] = replace(experiment, arms=kept, common=common, seeds=tuple(seeds or experiment.seeds))
    return chosen
