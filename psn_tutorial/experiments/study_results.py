"""A study read back from its records, as far as it has come: its experiments, what was tuned, and coherence."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.coherence import Coherence, figures, read_coherence
from psn_tutorial.evaluation.intervals import Interval, seed_interval
from psn_tutorial.evaluation.novelty import new_families
from psn_tutorial.evaluation.results import Evaluation
from psn_tutorial.experiments.experiment import Experiment, experiments_from_json
from psn_tutorial.experiments.results import FILE, Results
from psn_tutorial.experiments.study import COHERENCE, FAILED, STUDY, TUNING
from psn_tutorial.experiments.tuning import Figures, candidate_figures
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.runs.files import read_json

WATCHED = ("zero_contrast", "ess", "clipped_fraction", "noise_to_update", "sigma", "seconds")


@dataclass(frozen=True)
class StudyResults:
    """A study's records.

    results: experiment -> Results, with the arms of which all seeds are recorded; no experiment without its base or its
        reference.
    missing: the folders of runs and bases that are not recorded.
    failed: folder -> why training itself ended it. Such a run counts as one that answers nothing right.
    tuned: the experiments that tune, and the mean figure of each of their candidates.
    coherence: name -> its sites.
    """

    folder: Path
    question: str
    results: dict[str, Results]
    missing: list[str]
    failed: dict[str, str]
    tuned: tuple[dict[str, Experiment], Figures]
    coherence: dict[str, list[Coherence]]

    def to_json(self) -> dict[str, Any]:
        """Every figure, as summary.json holds it."""
        return {
            "question": self.question,
            "experiments": {name: _experiment_json(results) for name, results in self.results.items()},
            "tuning": self.tuned[1],
            "coherence": {
                name: {site.site: _coherence_json(site) for site in sites} for name, sites in self.coherence.items()
            },
            "missing": self.missing,
            "failed": self.failed,
        }


def _coherence_json(site: Coherence) -> dict[str, Any]:
    exact = ("sigma", "clean_success", "temperature", "tempered_success")
    return {name: getattr(site, name) for name in exact} | _json(figures(site))


def is_study(folder: str | Path) -> bool:
    """Does ``folder`` hold a study?"""
    return (Path(folder) / STUDY).is_file()


def read_study_results(folder: str | Path) -> StudyResults:
    """Read what there is of a study. Raises UserError when it is none, or a record is wrong."""
    folder = Path(folder)
    if not is_study(folder):
        raise UserError(f"{folder} holds no study: it has no {STUDY}")
    missing: list[str] = []
    failed: dict[str, str] = {}
    results = {}
    for name, experiment in _experiments(folder / FILE).items():
        if read := _results(folder, name, experiment, missing, failed):
            results[name] = read
    tuning = _experiments(folder / TUNING / FILE)
    lines = {path.parent.name: read_coherence(path) for path in sorted(folder.glob(f"{COHERENCE}/*/coherence.jsonl"))}
    question = read_json(folder / STUDY)["question"]
    return StudyResults(folder, question, results, missing, failed, (tuning, candidate_figures(tuning, folder)), lines)


def _experiments(file: Path) -> dict[str, Experiment]:
    content = read_json(file) if file.is_file() else {}
    return experiments_from_json(content, str(file)) if content else {}


def _results(
    folder: Path, name: str, experiment: Experiment, missing: list[str], failed: dict[str, str]
) -> Results | None:
    base = folder / name / "base"
    runs: dict[str, list[RunRecord]] = {}
    read = RunRecord.read(base) if base.is_dir() else None
    if read is None:
        missing.append(f"{name}/base")
    for arm in experiment.arms:
        places = {f"{name}/{arm}/seed-{seed}": folder / name / arm / f"seed-{seed}" for seed in experiment.seeds}
        gone = [place for place, path in places.items() if not path.is_dir()]
        missing += gone
        if read and not gone:
            runs[arm] = [_run(path, read, place, failed) for place, path in places.items()]
    if read is None or experiment.reference not in runs:
        return None
    arms = {arm: experiment.arms[arm] for arm in runs}
    return Results(name, replace(experiment, arms=arms), read, runs)


def _run(path: Path, base: RunRecord, place: str, failed: dict[str, str]) -> RunRecord:
    """A run; one that failed with an evaluation at its last step in which nothing is right."""
    run = RunRecord.read(path)
    if not (path / FAILED).is_file():
        return run
    failed[place] = read_json(path / FAILED)["error"]
    evaluations = run.evaluations or replace(base.evaluations, steps={})
    nothing = [
        replace(r, n=evaluations.samples, c=0, solutions={}, families={}, exact=None if r.exact is None else 0.0)
        for r in base.evaluations.last
    ]
    return replace(run, evaluations=replace(evaluations, steps={**evaluations.steps, run.settings.steps: nothing}))


def bases_of(results: Results) -> int:
    """How many different policies the runs of an experiment began with: 1, unless the weights of a base were made again
    on a machine that rounds otherwise."""
    return len({run.config["base_sha256"] for runs in results.runs.values() for run in runs})


def stages(results: Results, arm: str) -> dict[str, list[Evaluation]]:
    """The evaluations of an arm early, in the middle and late in training: {"step 75": one per seed, ...}."""
    shared = set.intersection(*(set(run.evaluations.steps) for run in results.runs[arm]))
    steps = sorted(shared)
    chosen = dict.fromkeys((steps[0], steps[(len(steps) - 1) // 2], steps[-1]))
    return {f"step {step}": [run.evaluations.steps[step] for run in results.runs[arm]] for step in chosen}


def watched(results: Results, arm: str) -> dict[str, dict[str, float | None]]:
    """What training met, {figure: {"first third": mean, "last third": mean}} over steps and seeds; None where it is not
    defined, such as a noise that is not there."""
    found: dict[str, dict[str, float | None]] = {}
    for figure in WATCHED:
        for words, part in (("first third", 0), ("last third", 2)):
            values = [
                step[figure]
                for run in results.runs[arm]
                for step in run.steps[part * len(run.steps) // 3 : (part + 1) * len(run.steps) // 3]
                if step.get(figure) is not None
            ]
            found.setdefault(figure, {})[words] = float(np.mean(values)) if values else None
    return found


def novelty(results: Results, arm: str) -> Interval | None:
    """New families per problem at the end (:mod:`psn_tutorial.evaluation.novelty`), t over the seeds; None where the
    evaluations sample nothing or the record does not name families."""
    base = results.base.evaluations.last
    if not results.base.evaluations.samples or all(r.total_families is None for r in base):
        return None
    try:
        counts = [new_families(evaluation, base) for evaluation in results.final(arm)]
    except UserError:
        return None
    return seed_interval([float(np.mean(list(count.values()))) for count in counts])


def _experiment_json(results: Results) -> dict[str, Any]:
    judged: dict[str, dict[str, Any]] = {}
    for (arm, figure), one in results.judged().items():
        judged.setdefault(arm, {})[figure] = one.to_json()
    arms = {
        arm: {
            "settings": results.experiment.arms[arm].changes,
            "stages": {step: results.summary(found).to_json() for step, found in stages(results, arm).items()},
            "training": watched(results, arm),
            "new_families": (found := novelty(results, arm)) and found.to_json(),
            "seconds": float(np.mean([run.provenance["wall_seconds"] for run in results.runs[arm]])),
        }
        for arm in results.runs
    }
    base = results.summaries["base"].to_json()
    return {"base": base, "bases": bases_of(results), "arms": arms, "judged": judged}


def _json(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.to_json() for name, interval in intervals.items()}
