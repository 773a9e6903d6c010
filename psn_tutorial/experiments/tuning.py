"""Which candidate of a tuned arm is taken: the best mean of the experiment's first metric over the tuning seeds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from psn_tutorial.evaluation.metrics import per_problem
from psn_tutorial.experiments.experiment import Experiment
from psn_tutorial.experiments.study import FAILED, TUNING
from psn_tutorial.jobs.records import RunRecord

Figures = dict[str, dict[str, list[float | None]]]


def choices(figures: Figures) -> dict[str, dict[str, int]]:
    """Experiment -> arm -> number of its best candidate, of equally good ones the first; no arm of which a candidate is
    not recorded."""
    return {
        name: {arm: int(np.argmax(values)) for arm, values in arms.items() if None not in values}
        for name, arms in figures.items()
    }


def candidate_figures(tuning: Mapping[str, Experiment], out: Path) -> Figures:
    """Experiment -> arm -> mean figure of each candidate; None for one that is not recorded on every tuning seed.

    tuning: :attr:`psn_tutorial.experiments.study.Study.tuning`, whose arms are named <arm>.<number>.
    """
    found: Figures = {}
    for name, experiment in tuning.items():
        for candidate in experiment.arms:
            folders = [out / TUNING / name / candidate / f"seed-{seed}" for seed in experiment.seeds]
            figures = [_figure(folder, experiment.metrics[0]) for folder in folders if folder.is_dir()]
            mean = float(np.mean(figures)) if len(figures) == len(folders) else None
            found.setdefault(name, {}).setdefault(candidate.rpartition(".")[0], []).append(mean)
    return found


def _figure(folder: Path, metric: str) -> float:
    """The metric at the end of a run; 0, the worst there is, where training itself failed."""
    if (folder / FAILED).is_file():
        return 0.0
    return float(np.mean(list(per_problem(RunRecord.read(folder).evaluations.last, metric).values())))
