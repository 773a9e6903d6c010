"""A finished comparison, read from its records: the experiments, and the figures of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.frontier import FrontierGap, frontier, frontier_gaps
from psn_tutorial.evaluation.intervals import Interval
from psn_tutorial.evaluation.metrics import Summary, compare, per_problem, summarise
from psn_tutorial.evaluation.results import Evaluation
from psn_tutorial.evaluation.verdicts import Judged, effect, judge
from psn_tutorial.experiments.experiment import Experiment, experiments_from_json
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.runs.files import read_json, stands

FILE = "comparison.json"


@dataclass(frozen=True)
class Results:
    """The records of one experiment, and the figures computed from them.

    base: the evaluation of the policy that all arms start from.
    runs: arm -> one RunRecord per seed, in the order of the experiment's seeds.
    """

    name: str
    experiment: Experiment
    base: RunRecord
    runs: dict[str, list[RunRecord]]

    def label(self, arm: str) -> str:
        """What an arm, or "base", is called in tables and figures."""
        return "base" if arm == "base" else self.experiment.arms[arm].label

    @property
    def others(self) -> list[str]:
        """The arms that are compared with the reference."""
        return [arm for arm in self.runs if arm != self.experiment.reference]

    def final(self, arm: str) -> list[Evaluation]:
        """The last evaluation of each seed; of the base its only one."""
        runs = [self.base] if arm == "base" else self.runs[arm]
        return [run.evaluations.last for run in runs]

    def paths(self, arm: str) -> list[dict[int, Evaluation]]:
        """Per seed: step -> evaluation, from the base (step 0) to the end."""
        return [{0: self.base.evaluations.last, **run.evaluations.steps} for run in self.runs[arm]]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Arm -> metric -> interval at the end of training; the base first."""
        return {arm: self.summary(self.final(arm)) for arm in ("base", *self.runs)}

    def summary(self, evaluations: Sequence[Evaluation]) -> Summary:
        """The experiment's metrics, with intervals."""
        ks = [int(m.removeprefix("pass@")) for m in self.metrics if m.startswith("pass@")]
        others = [m for m in self.metrics if not m.startswith("pass@")]
        return summarise(evaluations, ks, others)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the experiment's tables, then those of its frontier."""
        return tuple(dict.fromkeys((*self.experiment.metrics, *self.experiment.frontier)))

    def difference(self, arm: str, other: str) -> dict[str, Interval]:
        """Metric -> interval of arm - other at the end of training, on the same problems."""
        return {m: compare(self.final(arm), self.final(other), m) for m in self.metrics}

    def frontier(self, arm: str) -> FrontierGap:
        """The end of ``arm`` against the reference's path of checkpoints, at equal x."""
        return frontier(self.final(arm), self._reference_paths, *self.experiment.frontier)

    @property
    def _reference_paths(self) -> list[list[Evaluation]]:
        return [list(path.values()) for path in self.paths(self.experiment.reference)]

    def judged(self) -> dict[tuple[str, str], Judged]:
        """(arm, figure) -> the effect of each arm against the reference, seeds paired, corrected together.

        The figures are those of the frontier, at equal steps, and its gap, "y at equal x", over the seeds that overlap;
        of an experiment without a frontier its first metric.
        """
        experiment, effects = self.experiment, {}
        for arm in self.others:
            for metric in experiment.frontier or experiment.metrics[:1]:
                sides = (self.seed_means(a, metric) for a in (arm, experiment.reference))
                effects[arm, metric] = effect(*sides)
            if experiment.frontier:
                gaps = frontier_gaps(self.final(arm), self._reference_paths, *experiment.frontier)
                if (overlap := gaps[np.isfinite(gaps)]).size:
                    x, y = experiment.frontier
                    effects[arm, f"{y} at equal {x}"] = effect(overlap, np.zeros_like(overlap))
        return judge(effects, dict.fromkeys(effects, experiment.margin))

    def seed_means(self, arm: str, metric: str) -> list[float]:
        """The metric at the end of training, of each seed."""
        return [float(np.mean(list(per_problem(evaluation, metric).values()))) for evaluation in self.final(arm)]

    def training(self, arm: str) -> dict[str, Any]:
        """Counts and means over all training steps of an arm's runs.

        correct: right rollouts, of ``rollouts``; first_correct: the step of the first one, per
        seed, None without any. The rest are means of the step figures (see ``runs.steps``).
        """
        config, runs = self.runs[arm][0].config, self.runs[arm]
        rollouts = config["prompts"] * config["group"]
        steps = [record for run in runs for record in run.steps]
        tokens, seconds = (sum(r[name] for r in steps) for name in ("tokens", "seconds"))
        return {
            "rollouts": rollouts * len(steps),
            "correct": round(sum(r["reward"] * rollouts for r in steps)),
            "first_correct": [next((r["step"] for r in run.steps if r["reward"] > 0), None) for run in runs],
            **{
                name: sum(r[name] for r in steps) / len(steps)
                for name in ("zero_contrast", "ess", "clipped_fraction", "kl_k3")
            },
            "tokens_per_second": tokens / seconds,
            "seconds_per_step": seconds / len(steps),
        }

    def to_json(self) -> dict[str, Any]:
        """Every figure with its interval, as summary.json holds it."""
        reference = self.experiment.reference

        def minus(other: str) -> dict[str, Any]:
            return {
                arm: {metric: interval.to_json() for metric, interval in self.difference(arm, other).items()}
                for arm in self.runs
                if arm != other
            }

        figures = {
            "final": {arm: summary.to_json() for arm, summary in self.summaries.items()},
            "minus_base": minus("base"),
            f"minus_{reference}": minus(reference),
            "training": {arm: self.training(arm) for arm in self.runs},
        }
        if self.experiment.frontier:
            figures["frontier"] = {arm: self.frontier(arm).to_json() for arm in self.others}
        return figures


@dataclass(frozen=True)
class Comparison:
    """Several experiments, finished, in one folder. ``results``: name of the experiment -> Results."""

    folder: Path
    results: dict[str, Results]

    def to_json(self) -> dict[str, Any]:
        """The content of summary.json."""
        return {name: results.to_json() for name, results in self.results.items()}


def read_comparison(folder: str | Path) -> Comparison:
    """Read a finished comparison. Raises UserError when it is none, or not finished."""
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} holds no comparison: it has no {FILE}")
    experiments = experiments_from_json(read_json(folder / FILE), str(folder / FILE))
    results = {}
    for name, experiment in experiments.items():
        runs = {
            arm: [_read_run(folder, f"{name}/{arm}/seed-{seed}") for seed in experiment.seeds]
            for arm in experiment.arms
        }
        results[name] = Results(name, experiment, _read_run(folder, f"{name}/base"), runs)
    return Comparison(folder, results)


def _read_run(folder: Path, name: str) -> RunRecord:
    path = folder / name
    record = RunRecord.read(path) if stands(path / "eval.json") else None
    if record is None or (path.name != "base" and not record.finished):
        raise UserError(
            f"the comparison in {folder} is not finished: {path} is missing or incomplete; "
            f"go on with `psn-tutorial compare --resume {folder}`"
        )
    return record
