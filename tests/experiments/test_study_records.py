"""The studies of data/runs/study: the records that are shipped are those of their files, and nothing half done."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from psn_tutorial.experiments.study import read_study
from psn_tutorial.experiments.study_results import read_study_results
from psn_tutorial.experiments.study_run import plan
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.reporting.study import study_page
from psn_tutorial.runs.files import read_json

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "data" / "runs" / "study").glob("*.yaml"))
BEGUN = [file for file in FILES if file.with_suffix("").is_dir()]


@cache
def results_in(folder):
    """A study has hundreds of records, and each test looks at all of them."""
    return read_study_results(folder)


@pytest.fixture(params=BEGUN, ids=lambda file: file.stem)
def study(request, monkeypatch):
    """(what the file says, its folder), from the repository's root, as the protocol runs them."""
    monkeypatch.chdir(ROOT)
    file = request.param.relative_to(ROOT)
    return read_study(file, file.with_suffix("")), file.with_suffix("")


def test_every_record_was_made_with_the_settings_of_the_file(study):
    made, folder = study
    left = plan(made, folder, 1)  # raises for a record of other settings
    assert sum(part.recorded for part in left.parts) > 0
    assert len(list(folder.rglob("provenance.json"))) == sum(part.recorded for part in left.parts)


def test_tuning_took_the_best_on_seeds_that_no_final_run_has(study):
    made, folder = study
    tuned, figures_of = results_in(folder).tuned
    finals = read_json(folder / "comparison.json") if tuned else {}  # a study of coherence alone trains nothing
    for name, figures in figures_of.items():
        assert not set(made.tuning_seeds) & set(made.experiments[name].seeds)
        for arm, values in figures.items():
            if not (folder / name / arm).is_dir():
                continue
            taken = tuned[name].arms[f"{arm}.{int(np.argmax(values))}"].changes
            assert finals[name]["arms"][arm]["changes"] == taken, (name, arm)


def test_all_runs_of_a_complete_experiment_are_whole_and_of_one_base(study):
    _, folder = study
    found = results_in(folder)
    assert found.results or found.coherence, "an experiment of which nothing can be told is not shipped"
    for name, results in found.results.items():
        runs = [run for each in results.runs.values() for run in each]
        assert len({run.config["base_sha256"] for run in runs}) == 1, name
        for run in runs:
            failed = str(Path(name, run.folder.parent.name, run.folder.name)) in found.failed
            assert run.steps[-1]["step"] == run.settings.steps or failed
            assert run.provenance["steps_kept_every"] >= 1


def test_the_report_of_each_is_made_without_a_word_missing(study):
    _, folder = study
    found = results_in(folder)
    page = study_page(found)
    assert all(f"## {name}" in page for name in found.results)
    assert ("**Not finished**" in page) is bool(found.missing)
    assert (folder / "report.md").read_text() == page, "write it again: psn-tutorial report <folder>"


def test_a_run_that_stands_in_two_experiments_is_the_same_one(study):
    """Its record was copied, so even its clock is the same."""
    made, folder = study
    clocks: dict[str, str] = {}
    for path in sorted(folder.rglob("provenance.json")):
        record = RunRecord.read(path.parent)
        if path.parent.name == "base" or "steps" not in record.config:
            continue
        key = str(sorted((k, str(v)) for k, v in record.config.items()))
        started = record.provenance["started"]
        assert clocks.setdefault(key, started) == started, path
