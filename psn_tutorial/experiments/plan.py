"""What a study consists of: its jobs, part by part, which of them are recorded, and what the rest will take."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psn_tutorial.config import check_effects
from psn_tutorial.experiments.cost import Costs
from psn_tutorial.experiments.experiment import Experiment
from psn_tutorial.experiments.study import BASES_FOLDER, COHERENCE, TUNING, WEIGHTS, Study
from psn_tutorial.experiments.study_jobs import BaseJob, CoherenceJob, MeasureJob, StudyJob, TrainJob
from psn_tutorial.models.bases import BASES, PretrainConfig
from psn_tutorial.tasks import get_task


def jobs_of(
    study: Study,
    out: Path,
    command: Sequence[str],
    experiments: Mapping[str, Experiment],
    untuned: Collection[str] = (),
) -> dict[str, list]:
    """Part -> all jobs of it, recorded or not, in the order in which they are run: the bases; of each experiment its
    tuning and then itself, so that a study stopped early has whole experiments; the coherences.

    experiments: the study's, settled as far as they are; untuned: those whose arms are not settled yet.
    """
    command, tuning = tuple(command), study.tuning
    parts: dict[str, list] = {"bases": []}
    for name, experiment in experiments.items():
        if name in tuning:
            parts[f"{TUNING}/{name}"] = list(_runs(out, f"{TUNING}/{name}", tuning[name], command))
        parts[name] = list(_experiment(out, name, experiment, command, name not in untuned))
    parts = _with_twins(parts)
    parts["coherence"] = [
        CoherenceJob(out, f"{COHERENCE}/{name}", command, config, _made_as(config.policy, config.task, study))
        for name, config in study.coherence.items()
    ]
    used = {_begins_with(job) for jobs in parts.values() for job in jobs if not job.recorded}
    made = [BaseJob(out, f"{BASES_FOLDER}/{name}", command, config) for name, config in study.bases.items()]
    parts["bases"] = [replace(job, needed=job.weights.as_posix() in used) for job in made]
    return {name: jobs for name, jobs in parts.items() if jobs}


def _with_twins(parts: dict[str, list]) -> dict[str, list]:
    """The same jobs; a run of the very settings and seed of an earlier one knows it by name."""
    first: dict[str, str] = {}

    def twinned(job: StudyJob) -> StudyJob:
        if not (isinstance(job, TrainJob) and job.settled):
            return job
        name = first.setdefault(json.dumps(job.settings, sort_keys=True), job.name)
        return job if name == job.name else replace(job, twin=name)

    return {part: [twinned(job) for job in jobs] for part, jobs in parts.items()}


def _begins_with(job: StudyJob) -> str | None:
    """The folder of the base that a job begins with; None for the shipped one."""
    if isinstance(job, MeasureJob):
        return job.experiment.common.get("base")
    return job.config.policy if isinstance(job, CoherenceJob) else job.config.base


def _experiment(
    out: Path, name: str, experiment: Experiment, command: tuple[str, ...], settled: bool
) -> Iterator[StudyJob]:
    yield MeasureJob(out, f"{name}/base", command, experiment)
    yield from _runs(out, name, experiment, command, settled)


def _runs(
    out: Path, name: str, experiment: Experiment, command: tuple[str, ...], settled: bool = True
) -> Iterator[StudyJob]:
    """Seed by seed, so that a study stopped early has all arms of its first seeds. Raises UserError for an arm with a
    setting that cannot have an effect in it."""
    for arm, made in experiment.arms.items():
        check_effects(experiment.config(arm, experiment.seeds[0]), made.changes, f"{name}, arm {arm}: ")
    for seed in experiment.seeds:
        for arm in experiment.arms:
            yield TrainJob(out, f"{name}/{arm}/seed-{seed}", command, experiment.config(arm, seed), settled)


def _made_as(policy: str | None, task: str, study: Study) -> PretrainConfig | None:
    """How a policy was made; of a folder that the study does not make, the task's shipped base stands for it. None for
    a pretrained language model."""
    name = Path(policy).parent.name if policy and Path(policy).name == WEIGHTS else None
    return study.bases.get(name, BASES.get(get_task(task).base))


@dataclass(frozen=True)
class Part:
    """Jobs that a plan shows in one line."""

    name: str
    jobs: int
    recorded: int
    seconds: float  # of one process, for what is left


@dataclass(frozen=True)
class Plan:
    """What is left of a study, as far as it is known."""

    parts: list[Part]
    workers: int

    @property
    def seconds(self) -> float:
        """Until it is done, with all workers busy."""
        return sum(part.seconds for part in self.parts) / self.workers

    def __str__(self) -> str:
        width = max((len(part.name) for part in self.parts), default=0)
        lines = [
            f"{part.name:<{width}}  {part.jobs:>5} records, {part.recorded:>5} there, {duration(part.seconds):>10} left"
            for part in self.parts
        ]
        total = sum(part.jobs for part in self.parts)
        there = sum(part.recorded for part in self.parts)
        return "\n".join(
            [
                *lines,
                f"in all {total} records, {there} there; about {duration(self.seconds)} left with {self.workers} "
                f"{'process' if self.workers == 1 else 'processes'} of one thread",
            ]
        )


def plan_of(parts: Mapping[str, Sequence[StudyJob]], workers: int) -> Plan:
    """The plan of all parts. Raises UserError for a record that was made with other settings."""
    costs = Costs(job for jobs in parts.values() for job in jobs)
    return Plan(
        [
            Part(
                name,
                len(jobs),
                sum(job.recorded for job in jobs),
                math.fsum(costs.seconds(job) for job in jobs if not job.recorded),
            )
            for name, jobs in parts.items()
        ],
        workers,
    )


def duration(seconds: float) -> str:
    """In words: 45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
