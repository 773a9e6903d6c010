"""What a study will cost, from records of what such work took.

A run's time goes with the tokens that its rollouts and its evaluations may have, a base's with the tokens it reads
times the numbers in its weights. The rates are those of records: the study's own of the most similar work, and, before
there are any, the shipped ones. A first estimate is good to a factor of two; an arm that costs more than others (a KL
term, separate probes) is only told apart once one of its runs is recorded.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from psn_tutorial.config import EvaluationConfig, RunConfig
from psn_tutorial.experiments.study_jobs import BaseJob, CoherenceJob, MeasureJob, StudyJob, TrainJob
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.models.bases import BASES, PretrainConfig, TinyConfig
from psn_tutorial.runs.files import read_json
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.files import DATA

# the shipped records that tell the first rates
RUNS = {
    "rules": "full/rules/psn/seed-0",
    "chain": "full/rules/psn/seed-0",
    "countdown": "full/countdown/psn/seed-0",
    "math": "qlora/sums/psn/seed-0",
}
BASE = "rules"
EVALUATED = 1 / 3  # cost of a token of an evaluation, which is only sampled, by that of a training token
PASSES = 3  # forward passes per draw of a coherence: the answers, the rewarded ones, and the search for sigma
PRETRAINED = 3 * 10**8  # numbers in the matrices of a model of which nothing is known
VOCABULARY = 512  # of a task in plain language
OVERHEAD = 1.0  # seconds of every job: to load a policy, and to write and move a record


class Costs:
    """Estimates, in seconds of one process, for the ``jobs`` of a study."""

    def __init__(self, jobs: Iterable[StudyJob]):
        self._rates: dict[tuple[str, ...], list[float]] = {}
        self._units: dict[str, float] = {}  # by the job's name; estimates are asked for after every job that ends
        for job in jobs:
            if job.recorded:
                self.learn(job, read_json(job.place / "provenance.json")["wall_seconds"])

    def learn(self, job: StudyJob, seconds: float) -> None:
        """A job took so many seconds. Of a run that is copied they tell nothing."""
        if _is_copied(job):
            return
        for key in _likeness(job):
            self._rates.setdefault(key, []).append(max(0.0, seconds - OVERHEAD) / self._units_of(job))

    def seconds(self, job: StudyJob) -> float:
        """What a job should take."""
        if _is_copied(job):
            return OVERHEAD
        rates = next((self._rates[key] for key in _likeness(job) if key in self._rates), None)
        return OVERHEAD + self._units_of(job) * (sum(rates) / len(rates) if rates else _shipped_rate(job))

    def _units_of(self, job: StudyJob) -> float:
        if job.name not in self._units:
            self._units[job.name] = units(job)
        return self._units[job.name]


def _is_copied(job: StudyJob) -> bool:
    return isinstance(job, TrainJob) and job.twin is not None


def _likeness(job: StudyJob) -> list[tuple[str, ...]]:
    """What jobs have in common, the most telling first: kind and arm, kind and experiment, ..., kind and task."""
    kind, folders = type(job).__name__, job.name.split("/")
    return [*((kind, *folders[:n]) for n in range(len(folders) - 1, 0, -1)), (kind, "task", _task(job))]


def _task(job: StudyJob) -> str:
    return job.experiment.task if isinstance(job, MeasureJob) else job.config.task  # type: ignore[attr-defined]


def units(job: StudyJob) -> float:
    """What a job's time is taken to be proportional to: tokens, or, where models of many sizes are made, tokens times
    weights."""
    if isinstance(job, TrainJob):
        return _run_tokens(job.config)
    if isinstance(job, MeasureJob):
        return _evaluated_tokens(job.experiment.measured_base) * EVALUATED
    if isinstance(job, BaseJob):
        return _read_tokens(job.config) * weights(job.config)
    assert isinstance(job, CoherenceJob)
    config = job.config
    read = PASSES * config.draws * len(config.sites) * config.problems * _length(config.task, config.difficulty)
    numbers = weights(job.made_as) if job.made_as else PRETRAINED
    return read * numbers / 3  # a step of training goes forward and, which costs twice that, back


def _run_tokens(config: RunConfig) -> float:
    """Tokens of a whole run, in those of training."""
    sampled = config.steps * config.prompts * config.group * _answer(config.task, config.difficulty)
    evaluated = len(config.evaluated_steps) * _evaluated_tokens(config.evaluation()) if config.evaluate else 0
    return sampled + EVALUATED * evaluated


def _evaluated_tokens(config: EvaluationConfig) -> float:
    """Of one evaluation; exact probabilities read one answer."""
    problems = config.eval_problems or get_task(config.task, **config.difficulty).splits["eval"]["count"]
    return problems * max(1, config.samples) * _answer(config.task, config.difficulty)


def _read_tokens(config: PretrainConfig) -> float:
    return config.steps * config.batch * _length(config.task, config.difficulty)


def _answer(name: str, difficulty: dict) -> int:
    task = get_task(name, **difficulty)
    return task.max_tokens(task.generate(0, 1)[0])


def _length(name: str, difficulty: dict) -> int:
    task = get_task(name, **difficulty)
    problem = task.generate(0, 1)[0]
    return len(task.prompt(problem).split()) + task.max_tokens(problem)


def weights(config: PretrainConfig) -> int:
    """Numbers in the matrices of a model."""
    model: TinyConfig = config.model
    words = len(get_task(config.task, **config.difficulty).words) or VOCABULARY
    attention = 2 * model.hidden**2 * (1 + model.kv_heads / model.heads)
    embeddings = words * model.hidden * (1 if model.tied else 2)
    return round(model.layers * (attention + 3 * model.hidden * model.ff) + embeddings)


def _shipped_rate(job: StudyJob) -> float:
    run = isinstance(job, TrainJob | MeasureJob)
    return _rate_of_run(_task(job)) if run else _rate_of_base()


@cache
def _rate_of_run(task: str) -> float:
    """Seconds per training token."""
    record = RunRecord.read(DATA / "runs" / RUNS.get(task, RUNS["countdown"]))
    return record.provenance["wall_seconds"] / _run_tokens(record.settings)


@cache
def _rate_of_base() -> float:
    """Seconds per token and weight."""
    seconds = RunRecord.read(DATA / "runs" / f"base-{BASE}").provenance["wall_seconds"]
    return seconds / units(BaseJob(Path(), "base", (), BASES[BASE]))
