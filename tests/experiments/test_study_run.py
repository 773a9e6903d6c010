"""A study: run, stopped, killed, gone on with from its records alone, read back and reported."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml

from psn_tutorial.cli import main
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation import shifts
from psn_tutorial.evaluation.coherence import CoherenceConfig, read_coherence
from psn_tutorial.evaluation.verdicts import effect, judge
from psn_tutorial.experiments import study_run
from psn_tutorial.experiments.study import PRESETS, read_study
from psn_tutorial.experiments.study_jobs import CoherenceJob
from psn_tutorial.experiments.study_results import novelty, read_study_results, stages, watched
from psn_tutorial.experiments.study_run import plan, run_study
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.parallel import Outcome
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.reporting.study import seeds_figure, study_page
from psn_tutorial.runs.files import read_json, write_json
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the folder of a finished quick study, what the command said); to be read only."""
    folder = tmp_path_factory.mktemp("study")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = "import sys; from psn_tutorial.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "study", "--preset", "quick", "--out", "quick", "--workers", "2"]
    said = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=folder)
    assert said.returncode == 0, said.stderr
    return folder / "quick", said


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """The same, to be changed: quick in the current folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished[0], tmp_path / "quick")


def quick():
    return read_study(PRESETS["quick"], Path("quick"))


def records(folder):
    """What a record says, without clock and machine: {file: content}."""
    files = [path for path in folder.rglob("*") if path.is_file() and "provenance" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.startswith("steps.")}


def figures_of(folder, run, step):
    """Mean exact success, from eval.json alone."""
    record = RunRecord.read(folder / run).evaluations.steps[step]
    return np.mean([result.exact for result in record])


# --- what it leaves and says ------------------------------------------------------------------------


def test_records_alone_are_left_in_the_folders_of_compare(finished):
    folder, _ = finished
    runs = [p.parent.relative_to(folder).as_posix() for p in sorted(folder.rglob("provenance.json"))]
    arms = [f"chain-3/{arm}/seed-{seed}" for arm in ("grpo", "psn", "psn-no-tis") for seed in (0, 1)]
    arms += [f"countdown/{arm}/seed-{seed}" for arm in ("grpo-as-it-is", "psn-mlp") for seed in (0, 1)]
    tuning = [f"tuning/chain-3/{arm}.{i}/seed-100" for arm in ("grpo", "psn") for i in (0, 1)]
    assert sorted(runs) == sorted(
        [*arms, *tuning, "bases/chain-3", "chain-3/base", "countdown/base", "coherence/chain-3"]
    )
    assert not list(folder.rglob("checkpoints")) and not list(folder.rglob(".*"))
    weights = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    assert weights == {"bases/chain-3/weights"}
    for run in arms:
        record = RunRecord.read(folder / run)
        assert record.finished and record.provenance["threads"] == 1
        assert record.provenance["command"][:3] == ["psn-tutorial", "study", "--preset"]
    assert RunRecord.read(folder / arms[0]).config["base"] == "quick/bases/chain-3/weights"
    assert RunRecord.read(folder / "countdown/base").evaluations.samples == 32
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 300_000


def test_it_says_what_is_running_and_what_is_left(finished):
    _, said = finished
    assert "in all 18 records, 0 there; about" in said.stdout and "with 2 processes of one thread" in said.stdout
    lines = [line for line in said.stderr.splitlines() if "/18]" in line]
    assert len(lines) == 18 and "[1/18]: " in lines[0] and lines[0].startswith("bases/chain-3 ")
    assert all("left, until " in line for line in lines[:-1]) and lines[-1].endswith("; nothing left")
    assert "What is found that the base did not find?" in said.stdout
    assert said.stdout.splitlines()[-1] == "report: quick/report.md    figures: quick/summary.json"


def test_the_best_candidates_were_taken(finished):
    folder, _ = finished
    for arm in ("grpo", "psn"):
        ends = [figures_of(folder, f"tuning/chain-3/{arm}.{i}/seed-100", 8) for i in (0, 1)]
        taken = read_json(folder / "tuning/comparison.json")["chain-3"]["arms"][f"{arm}.{int(np.argmax(ends))}"]
        assert read_json(folder / "comparison.json")["chain-3"]["arms"][arm]["changes"] == taken["changes"]
        assert RunRecord.read(folder / f"chain-3/{arm}/seed-1").config.items() >= taken["changes"].items()
    follower = RunRecord.read(folder / "chain-3/psn-no-tis/seed-0").config
    assert follower["sigma"] == RunRecord.read(folder / "chain-3/psn/seed-0").config["sigma"]
    assert follower["correction"] == "none"


def test_verdicts_are_those_of_the_records(finished):
    folder, _ = finished
    found = read_study_results(folder)
    assert not found.missing and not found.failed and list(found.results) == ["chain-3", "countdown"]
    sides = {a: [figures_of(folder, f"chain-3/{a}/seed-{s}", 8) for s in (0, 1)] for a in ("grpo", "psn", "psn-no-tis")}
    others = {(a, "success"): effect(sides[a], sides["grpo"]) for a in ("psn", "psn-no-tis")}
    expected = judge(others, dict.fromkeys(others, 0.05))
    for key, one in found.results["chain-3"].judged().items():
        assert one.effect.p == pytest.approx(expected[key].effect.p) and one.verdict == expected[key].verdict
        assert one.corrected == pytest.approx(expected[key].corrected)
    written = read_json(folder / "summary.json")["experiments"]
    assert written["chain-3"]["judged"]["psn"]["success"]["p"] == pytest.approx(expected["psn", "success"].effect.p)
    figures = {figure for _, figure in found.results["countdown"].judged()}
    assert {"pass@1", "pass@16"} <= figures <= {"pass@1", "pass@16", "pass@16 at equal pass@1"}


def test_the_figure_of_an_experiment_shows_every_seed_and_verdict(finished):
    folder, _ = finished
    results = read_study_results(folder).results["chain-3"]
    figure, numbers = seeds_figure(results)
    plt.close(figure)
    assert list(numbers) == ["GRPO", "PSN-GRPO", "PSN-GRPO without TIS"]
    ends = [figures_of(folder, f"chain-3/psn/seed-{seed}", 8) for seed in (0, 1)]
    assert numbers["PSN-GRPO"]["seeds"] == pytest.approx(ends)
    assert numbers["PSN-GRPO"]["verdict"] == results.judged()["psn", "success"].verdict
    assert numbers["GRPO"]["verdict"] == "the reference"
    (base,) = (line.get_xdata()[0] for line in figure.axes[0].lines)
    assert base == pytest.approx(results.summaries["base"]["success"].value)


def test_early_midway_and_late_and_what_training_met(finished):
    folder, _ = finished
    results = read_study_results(folder).results["chain-3"]
    assert list(stages(results, "psn")) == ["step 4", "step 8"]
    steps = [run.steps for run in results.runs["psn"]]
    met = watched(results, "psn")
    assert met["ess"]["last third"] == pytest.approx(np.mean([r["ess"] for s in steps for r in s[5:]]))
    assert met["sigma"]["first third"] == pytest.approx(np.mean([r["sigma"] for s in steps for r in s[:2]]))
    assert watched(results, "grpo")["noise_to_update"] == {"first third": None, "last third": None}


def test_new_families_are_those_of_the_records(finished):
    folder, _ = finished
    results = read_study_results(folder).results["countdown"]
    assert novelty(read_study_results(folder).results["chain-3"], "psn") is None
    base = {r.problem: set(r.families) for r in results.base.evaluations.last}
    assert any(" " in name for names in base.values() for name in names)
    means = [np.mean([len(set(r.families) - base[r.problem]) for r in e]) for e in results.final("psn-mlp")]
    assert novelty(results, "psn-mlp").value == pytest.approx(np.mean(means))


def test_the_report_is_made_from_the_records_alone(copy, capsys):
    before = {name: (copy / name).read_bytes() for name in ("report.md", "summary.json")}
    for name in before:
        (copy / name).unlink()
    assert main(["report", "quick"]) == 0
    assert {name: (copy / name).read_bytes() for name in before} == before
    page = before["report.md"].decode()
    for words in ("## chain-3", "## countdown", "| verdict |", "new families", "Tuning of chain-3", "| taken |", "ICC"):
        assert words in page
    assert page == study_page(read_study_results(copy))


# --- going on ---------------------------------------------------------------------------------------


def test_what_is_recorded_is_left_alone(copy, monkeypatch):
    def nothing(jobs, *rest):
        assert not list(jobs)
        return []

    monkeypatch.setattr(study_run, "run_parallel", nothing)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert run_study(quick(), copy, bars=False) == []
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert plan(quick(), "quick", 2).seconds == 0


def test_a_checkout_of_some_records_ends_in_the_same_ones(copy, finished):
    """Another machine has what was committed: finished runs, no checkpoint, nothing of .running."""
    shutil.rmtree(copy / "bases/chain-3/weights")
    assert plan(quick(), "quick", 1).seconds == 0, "they are not needed any more"
    gone = ["chain-3/psn/seed-1", "tuning/chain-3/psn.1", "countdown/base", "countdown/psn-mlp/seed-0", "coherence"]
    for name in gone:
        shutil.rmtree(copy / name)
    kept = {path: path.stat().st_mtime_ns for path in copy.rglob("provenance.json")}
    assert copy / "bases/chain-3/provenance.json" in kept
    text = str(plan(quick(), "quick", 1))
    assert "in all 18 records, 12 there" in text, "the weights are needed again"
    assert run_study(quick(), "quick", 2, ["psn-tutorial", "study"], bars=False) == []
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    now, then = records(copy), records(finished[0])
    assert now.keys() == then.keys() | (now.keys() & {"report.md", "summary.json"})
    assert all(now[name] == then[name] for name in now), [name for name in now if now[name] != then[name]]


def test_runs_from_two_makings_of_a_base_are_told(copy):
    path = copy / "chain-3/psn/seed-1/config.json"
    assert "different makings" not in study_page(read_study_results(copy))
    write_json(path, read_json(path) | {"base_sha256": "another"})
    assert "Its runs began with 2 different makings of their base" in study_page(read_study_results(copy))


def test_coherence_goes_on_with_the_sites_that_are_left(tmp_path, monkeypatch):
    """A site of a large model takes minutes: stopped, those that are measured are kept."""
    whole = CoherenceJob(tmp_path / "whole", "coherence/a", (), CoherenceConfig(task="chain", draws=3), None)
    config = replace(whole.config, sites=("head", "norms", "mlp"))
    whole, stopped = (replace(whole, out=tmp_path / name, config=config) for name in ("whole", "stopped"))
    whole.run(Stop())
    measured, measure = [], shifts.coherence

    def once(policy, task, problems, noise, *others):
        if measured == ["head", "norms"]:
            raise KeyboardInterrupt
        measured.append(noise.targets)
        return measure(policy, task, problems, noise, *others)

    monkeypatch.setattr(shifts, "coherence", once)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(Stop())
    assert [one.site for one in read_coherence(stopped.scratch / "coherence.jsonl")] == ["head", "norms"]
    other = replace(stopped, config=replace(config, draws=4))
    with pytest.raises(UserError, match="was made with draws 3, and not 4: choose another folder"):
        other.run(Stop())
    measured[:] = ["again"]
    stopped.run(Stop())
    assert measured == ["again", "mlp"] and stopped.recorded
    assert records(stopped.place) == records(whole.place)


def test_killed_in_the_middle_it_goes_on_from_the_checkpoint(copy, tmp_path):
    """SIGKILL of the command: its jobs save what they have; the next call takes it up."""
    content = yaml.safe_load(PRESETS["quick"].read_text())
    del content["bases"], content["experiments"]["chain-{steps}"], content["coherence"]
    content["experiments"]["countdown"]["common"] |= {"steps": 400, "eval_every": 400}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(content))
    code = "import sys; from psn_tutorial.cli import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, "study", "long.yaml", "--workers", "1"]
    parent = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    steps = tmp_path / "long/.running/countdown/grpo-as-it-is/seed-0/steps.jsonl"
    deadline = time.monotonic() + 1800
    try:
        while not (steps.is_file() and steps.read_bytes().count(b"\n") > 3):
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    run = RunFolder.open(steps.parent)
    while run.latest_checkpoint() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "long/countdown/grpo-as-it-is").exists()
    taken, study = run.latest_checkpoint().step, read_study("long.yaml", Path("long"))
    jobs = {job.name: job for job in study_run.jobs_of(study, Path("long"), (), study.experiments)["countdown"]}
    job = jobs["countdown/grpo-as-it-is/seed-0"]
    assert not job.recorded and job.taken >= taken >= 3


def test_a_run_that_stands_in_another_experiment_is_copied(copy, monkeypatch):
    """The last experiment once more under another name: nothing is trained, and the copies are its records."""
    study = quick()
    twice = {**study.experiments, "again": study.experiments["countdown"]}
    study = replace(study, experiments=twice, drafts={**study.drafts, "again": study.drafts["countdown"]})
    names = ["grpo-as-it-is/seed-0", "psn-mlp/seed-1"]
    left = {job.name: job for job in study_run.jobs_of(study, copy, (), study_run._tuned(study, copy)[0])["again"]}
    shutil.rmtree(copy / "countdown/psn-mlp/seed-0")
    with monkeypatch.context() as patched, Stop() as stop:
        patched.setattr(Trainer, "step", None)
        for name in names:
            (left[f"again/{name}"].scratch).mkdir(parents=True)  # an own beginning is given up
            (left[f"again/{name}"].scratch / "steps.jsonl").write_text("")
            assert left[f"again/{name}"].run(stop) == f"the same run as countdown/{name}"
    for name in names:
        files = [path.relative_to(copy / "countdown" / name) for path in (copy / "countdown" / name).iterdir()]
        assert sorted(files) == sorted(
            path.relative_to(copy / "again" / name) for path in (copy / "again" / name).iterdir()
        )
        assert all(
            (copy / "again" / name / f).read_bytes() == (copy / "countdown" / name / f).read_bytes() for f in files
        )
    with Stop() as stop:  # the other one is not there: it is trained
        assert left["again/psn-mlp/seed-0"].run(stop) is None
    assert RunRecord.read(copy / "again/psn-mlp/seed-0").finished


# --- failing ----------------------------------------------------------------------------------------


def test_a_run_that_training_ends_is_recorded_and_counts_as_nothing_right(copy, monkeypatch):
    run = copy / "chain-3/psn/seed-1"
    shutil.rmtree(run)
    (job,) = [
        job
        for job in study_run.jobs_of(quick(), Path("quick"), ("psn-tutorial",), study_run._tuned(quick(), copy)[0])[
            "chain-3"
        ]
        if job.name == "chain-3/psn/seed-1"
    ]
    step = Trainer.step

    def until(trainer):
        if trainer.step_number == 5:
            raise UserError("the gradient of step 6 is not finite: lr or sigma is too large")
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", until)
    with Stop() as stop:
        note = job.run(stop)
    assert note.startswith("failed at step 5, which is recorded: the gradient of step 6 is not finite")
    assert job.recorded and not (run / "checkpoints").exists() and len(RunRecord.read(run).steps) == 5
    found = read_study_results(copy)
    assert found.failed == {"chain-3/psn/seed-1": "the gradient of step 6 is not finite: lr or sigma is too large"}
    means = found.results["chain-3"].seed_means("psn", "success")
    assert means[1] == 0 < means[0] and "Runs that training itself ended" in study_page(found)
    assert list(stages(found.results["chain-3"], "psn")) == ["step 4", "step 8"]


def test_a_job_that_fails_is_told_and_stops_neither_the_others_nor_the_next_call(copy, monkeypatch):
    shutil.rmtree(copy / "tuning/chain-3/psn.1")
    shutil.rmtree(copy / "chain-3/grpo/seed-0")
    shutil.rmtree(copy / "countdown/base")
    ran = []

    def failing(jobs, workers, watch, stop, folder, preload):
        found = []
        for job in jobs:
            ran.append(job.name)
            found.append(Outcome(job, 1.0, error="it rains"))
            watch.ended(found[-1])
        return found

    monkeypatch.setattr(study_run, "run_parallel", failing)
    assert run_study(quick(), "quick", 2, bars=False) == [
        "tuning/chain-3/psn.1/seed-100: it rains",
        "chain-3: cannot be tuned before all its candidates are recorded",
        "countdown/base: it rains",
    ]
    assert ran == ["tuning/chain-3/psn.1/seed-100", "countdown/base"]


def test_an_unfinished_study_is_reported_as_far_as_it_has_come(copy, capsys):
    shutil.rmtree(copy / "chain-3/psn-no-tis/seed-1")
    shutil.rmtree(copy / "countdown/base")
    found = read_study_results(copy)
    assert found.missing == ["chain-3/psn-no-tis/seed-1", "countdown/base"]
    assert list(found.results) == ["chain-3"] and list(found.results["chain-3"].runs) == ["grpo", "psn"]
    assert main(["report", "quick"]) == 0
    assert "2 records are missing, such as chain-3/psn-no-tis/seed-1" in capsys.readouterr().out
    assert "**Not finished**: 2 records are missing" in (copy / "report.md").read_text()


# --- the command --------------------------------------------------------------------------------------


def test_a_dry_run_tells_and_touches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "--preset", "quick", "--dry-run", "--workers", "3"]) == 0
    out = capsys.readouterr().out
    assert "tuning/chain-3" in out and "in all 18 records, 0 there" in out and "3 processes" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name either a file or --preset"),
        (["x.yaml", "--preset", "quick"], "name either a file or --preset"),
        (["--preset", "quik"], "preset must be one of 'quick', got 'quik' (did you mean 'quick'?)"),
        (["x.yaml"], "cannot read x.yaml: No such file or directory"),
        (["--preset", "quick", "--workers", "0"], "workers must be a whole number >= 1, got 0"),
        (["study"], "the study's folder cannot be study, which is a file: name another with --out"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study").write_text("question: x")
    assert main(["study", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_records_of_other_settings_are_refused_before_anything_is_written(copy, capsys):
    config = json.loads((copy / "chain-3/grpo/seed-0/config.json").read_text())
    write_json(copy / "chain-3/grpo/seed-0/config.json", config | {"lr": 0.5})
    before = records(copy)
    assert main(["study", "--preset", "quick", "--out", "quick"]) == 2
    assert "chain-3/grpo/seed-0 was made with lr 0.5, and not 0.003" in capsys.readouterr().err
    assert records(copy) == before


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no study: it has no study.json"):
        read_study_results(tmp_path)
