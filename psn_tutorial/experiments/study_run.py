"""Run a study: part by part, its jobs in parallel processes, and what is recorded left alone."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from psn_tutorial.experiments.cost import Costs
from psn_tutorial.experiments.experiment import Experiment, experiments_to_json
from psn_tutorial.experiments.plan import Plan, jobs_of, plan_of
from psn_tutorial.experiments.results import FILE
from psn_tutorial.experiments.study import STUDY, TUNING, Study
from psn_tutorial.experiments.study_jobs import RUNNING
from psn_tutorial.experiments.study_progress import StudyProgress
from psn_tutorial.experiments.tuning import candidate_figures, choices
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.parallel import run_parallel, threads
from psn_tutorial.runs.files import in_words, write_json

PRELOADED = ("psn_tutorial.experiments.run", "psn_tutorial.evaluation.shifts", "psn_tutorial.jobs.pretraining")


def plan(study: Study, out: str | Path, workers: int | None = None) -> Plan:
    """What is recorded and what is left, without touching anything. Arms that are not tuned yet stand in it with their
    first candidates. Raises UserError for a record that was made with other settings."""
    out = Path(out)
    return plan_of(jobs_of(study, out, (), *_tuned(study, out)), workers or threads())


def run_study(
    study: Study,
    out: str | Path,
    workers: int | None = None,
    command: Sequence[str] = (),
    bars: bool | None = None,
) -> list[str]:
    """Run what is left of a study in the folder ``out``; returns a sentence for each job that failed.

    Args:
        workers: processes at once; None: as many as the machine has cores.
        command: the argument list that asked for it, for the provenance of the records.
        bars: draw them; None: when the error output is a terminal, else a line is printed for each job that ends.

    A job that fails stops no other; the same call tries it again.

    Raises:
        UserError: a record was made with other settings, or another process is at work in ``out``.
        Interrupted: Ctrl-C; everything is saved, and the same call goes on.
    """
    out, workers = Path(out), workers or threads()
    plan(study, out, workers)  # a record of other settings is told before anything is written
    with in_words(out, "nothing was changed"):
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / STUDY, {"question": study.question})
    if study.tuning:
        (out / TUNING).mkdir(exist_ok=True)
        write_json(out / TUNING / FILE, experiments_to_json(study.tuning))
    failures: list[str] = []
    with Stop() as stop:
        experiments, untuned, parts, left = _state(study, out, command)
        ran = False
        for number, part in enumerate(names := list(parts)):
            if ran:  # what it has recorded may settle the arms of later parts
                experiments, untuned, parts, left = _state(study, out, command)
            ran = bool(left[part])
            if part in experiments:
                write_json(out / FILE, experiments_to_json(experiments))
            if part in untuned:
                failures.append(f"{part}: cannot be tuned before all its candidates are recorded")
            if part in untuned or not ran:
                continue
            later = [job for after in names[number + 1 :] for job in left[after]]
            every = [job for jobs in parts.values() for job in jobs]
            done = len(every) - sum(map(len, left.values()))
            with StudyProgress(left[part], later, done, Costs(every), workers, bars) as progress:
                outcomes = run_parallel(left[part], workers, progress, stop, out, PRELOADED)
            failures += [f"{outcome.job.name}: {outcome.error}" for outcome in outcomes if outcome.error]
    _tidy(out / RUNNING)
    return failures


def _state(study: Study, out: Path, command: Sequence[str]) -> tuple[dict, list[str], dict, dict]:
    """As :func:`_tuned`, with the jobs of every part, and those of them that are not recorded."""
    experiments, untuned = _tuned(study, out)
    parts = jobs_of(study, out, command, experiments, untuned)
    left = {name: [job for job in jobs if not job.recorded] for name, jobs in parts.items()}
    return experiments, untuned, parts, left


def _tuned(study: Study, out: Path) -> tuple[dict[str, Experiment], list[str]]:
    """The experiments with the chosen candidates, and the names of those of which a candidate is not recorded."""
    figures = candidate_figures(study.tuning, out)
    untuned = [name for name, arms in figures.items() if any(None in values for values in arms.values())]
    return study.settled(choices(figures)), untuned


def _tidy(folder: Path) -> None:
    """Remove the empty folders below ``folder``, and it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()
