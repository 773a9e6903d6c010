"""Train every arm of one or several experiments, each run in a folder of its own.

    <out>/comparison.json                      the experiments
          <experiment>/base/                   the base policy, evaluated
          <experiment>/<arm>/seed-<n>/         an ordinary run folder
          summary.json                         every figure, with its interval (by reporting/page.py)

Run it again and it goes on where it stopped: finished runs are kept, an interrupted one continues
from its checkpoint.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from psn_tutorial.config import RunConfig, check_effects
from psn_tutorial.errors import UserError
from psn_tutorial.experiments.experiment import Experiment, experiments_from_json, experiments_to_json
from psn_tutorial.experiments.presets import preset
from psn_tutorial.experiments.results import FILE, Comparison, read_comparison
from psn_tutorial.jobs.evaluating import evaluate_policy, open_or_create
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.progress import follow
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.jobs.training import TrainingJob
from psn_tutorial.runs.files import read_json, write_json


def run_comparison(
    experiments: str | Mapping[str, Experiment],
    out: str | Path,
    progress: bool | None = None,
    command: Sequence[str] | None = None,
) -> Comparison:
    """Run what is left to run of the experiments in the folder ``out``, and read it all back.

    Args:
        experiments: {name: Experiment}, or the name of a preset.
        progress: show progress bars; None: when the error output is a terminal.
        command: the argument list that asked for it, for the provenance of the runs.

    Raises:
        UserError: ``out`` holds something else, or runs made with other settings.
        Interrupted: Ctrl-C; everything is saved, and the same call goes on.
    """
    if isinstance(experiments, str):
        experiments = preset(experiments)
    out, show = Path(out), sys.stderr.isatty() if progress is None else progress
    _check_policies(experiments)
    stood, made = out.is_dir(), _claim(out, experiments)
    try:
        _run_all(out, experiments, command, progress, show)
    except Exception:
        if made:
            _unclaim(out, stood)
        raise
    return read_comparison(out)


def _run_all(
    out: Path,
    experiments: Mapping[str, Experiment],
    command: Sequence[str] | None,
    progress: bool | None,
    show: bool,
) -> None:
    """Run what is left to run."""
    with Stop() as stop:
        for name, experiment in experiments.items():
            with stop.at_once():
                measure_base(out / name / "base", experiment, command, show)
        runs = [
            (out / name / arm / f"seed-{seed}", experiment.config(arm, seed))
            for name, experiment in experiments.items()
            for seed in experiment.seeds
            for arm in experiment.arms
        ]
        for number, (folder, config) in enumerate(runs, start=1):
            label = f"{' '.join(folder.parts[-3:])} [{number}/{len(runs)}]"
            started = time.perf_counter()
            done = train_run(folder, config, command, stop, label, show)
            seconds = f"{time.perf_counter() - started:.0f} s" if done else "finished before"
            if progress is not False:
                print(f"{label}: {seconds}", file=sys.stderr, flush=True)


def _check_policies(experiments: Mapping[str, Experiment]) -> None:
    """Load what every arm needs once, so that a mistake is found before the first run, not after it."""
    for experiment in experiments.values():
        for name, arm in experiment.arms.items():
            config = experiment.config(name, experiment.seeds[0])
            check_effects(config, arm.changes, f"arm {name}: ")
            experiment.check_metrics(config, TrainingJob(config).task)


def _claim(out: Path, experiments: Mapping[str, Experiment]) -> bool:
    """Make the folder, or check that it holds the same experiments; tells whether it is made now."""
    content = experiments_to_json(experiments)
    if (out / FILE).is_file():
        if experiments_from_json(read_json(out / FILE), str(out / FILE)) != dict(experiments):
            raise UserError(
                f"{out} holds another comparison; choose another folder, or continue that one with --resume {out}"
            )
        return False
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists and holds no comparison; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}") from None
    write_json(out / FILE, content)
    return True


def _unclaim(out: Path, stood: bool) -> None:
    """Give the folder's name free again where no run in it has recorded anything: what is left are empty folders."""
    if any(path.is_file() and path != out / FILE for path in out.rglob("*")):
        return
    (out / FILE).unlink()
    for folder in sorted([*out.rglob("*"), *([] if stood else [out])], reverse=True):
        folder.rmdir()


def measure_base(folder: Path, experiment: Experiment, command: Sequence[str] | None, show: bool) -> None:
    """Evaluate the policy that all arms start from into ``folder``, unless that holds it already."""
    config = experiment.config(experiment.reference, experiment.seeds[0])
    evaluate_policy(folder, config, experiment.measured_base, command, show)


def train_run(
    folder: Path, config: RunConfig, command: Sequence[str] | None, stop: Stop, label: str = "", show: bool = False
) -> bool:
    """Train what is left of the run in ``folder``; False when it was finished before.

    Raises Interrupted, with everything saved, when ``stop`` was asked for; UserError for another run in ``folder``.
    """
    stop.check()
    job, begun = TrainingJob(config), (folder / "config.json").is_file()
    run = open_or_create(folder, job.settings, command, job.sources)
    if begun and RunRecord.read(folder).finished:
        return False
    if begun:
        job.go_on(run)
    else:
        job.trainer.run = run
    follow(job, stop, label, show)
    return True
