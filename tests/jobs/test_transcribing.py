"""The answers that a run keeps: of which policy, to which questions, and what becomes of them on a resumed run."""

import json
from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest
import torch

from psn_tutorial.config import RunConfig, check_effects
from psn_tutorial.errors import UserError
from psn_tutorial.jobs.interrupt import Interrupted, Stop
from psn_tutorial.jobs.training import TrainingJob
from psn_tutorial.jobs.transcribing import ANSWERS
from psn_tutorial.runs.transcripts import FILE, read_transcripts, write_transcripts
from tests.cli.tiny_runs import stopped_after, timeless, weights

SETTINGS = RunConfig(
    task="rules", steps=4, prompts=2, group=4, samples=2, eval_problems=5, eval_every=2, save_every=3, transcripts=3,
    sigma=0.8, relative=True, targets="head", draws=4, lr=1e-3, entropy_coef=0.01,
)  # fmt: skip


def finished(folder, config=SETTINGS, stop=None):
    job = TrainingJob.resume(folder) if folder.exists() else TrainingJob.start(folder, config)
    with stop or Stop() as asked:
        list(job.train(asked))
    return job


def by_sampler(transcripts):
    return {key: list(found) for key, found in groupby(transcripts, key=lambda t: (t.step, t.sampler))}


def test_the_same_questions_before_on_the_way_and_after(tmp_path):
    job = finished(tmp_path / "run")
    transcripts = read_transcripts(tmp_path / "run")
    groups = by_sampler(transcripts)
    assert list(groups) == [(step, sampler) for step in (0, 2, 4) for sampler in ("clean", "exploring")]
    for (_, sampler), found in groups.items():
        assert [t.problem for t in found] == [place for place in range(3) for _ in range(ANSWERS)]
        assert [t.question for t in found] == [job.task.prompt(job.held_out[t.problem]) for t in found]
        assert {t.sigma for t in found} == {0.0 if sampler == "clean" else 0.8}
    for t in transcripts:
        verdict = job.task.verify(t.answer, job.held_out[t.problem])
        assert (t.correct, t.reason) == (verdict.correct, verdict.reason)


def test_the_clean_answers_are_the_policys_and_the_exploring_ones_the_noisy_samplers(tmp_path):
    """Of the rule that the base takes once in ten times, noise of this size makes some answers that keep to it."""
    job = finished(tmp_path / "run", replace(SETTINGS, steps=1, eval_every=1, eval_problems=60, transcripts=60))
    groups = by_sampler(job.transcripts)
    rules = {key: Counter(t.answer.count("B") for t in found) for key, found in groups.items()}
    often = {key: sum(count for b, count in found.items() if b >= 4) / 240 for key, found in rules.items()}
    assert often[0, "clean"] < 0.02 < often[0, "exploring"]
    assert len({t.answer for t in groups[0, "clean"]}) > 60


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sigma": 0.0}, {("clean", 0.0, 1.0)}),
        ({"sigma": 0.0, "sampling_temperature": 2.0}, {("clean", 0.0, 1.0), ("exploring", 0.0, 2.0)}),
        ({"temperature": 0.5}, {("clean", 0.0, 0.5), ("exploring", 0.8, 0.5)}),
    ],
)
def test_what_explores_is_what_training_samples_from(tmp_path, changes, expected):
    plain = {"targets": "mlp", "relative": False, "draws": 1} if changes.get("sigma") == 0.0 else {}
    job = finished(tmp_path / "run", replace(SETTINGS, **plain, **changes))
    assert {(t.sampler, t.sigma, t.temperature) for t in job.transcripts} == expected


def test_they_change_nothing_in_the_training_and_none_are_the_default(tmp_path):
    finished(tmp_path / "with")
    finished(tmp_path / "without", replace(SETTINGS, transcripts=0))
    assert torch.equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert timeless(tmp_path / "with") == timeless(tmp_path / "without")
    assert read_transcripts(tmp_path / "without") == [] and not (tmp_path / "without" / FILE).exists()
    assert RunConfig().transcripts == 0


def test_a_resumed_run_keeps_those_of_its_checkpoint_and_writes_the_others_anew(tmp_path):
    finished(tmp_path / "whole")
    with pytest.raises(Interrupted):
        finished(tmp_path / "stopped", stop=stopped_after(4))
    lost = read_transcripts(tmp_path / "stopped")
    assert {t.step for t in lost} == {0, 2}
    write_transcripts(tmp_path / "stopped", [*lost, replace(lost[0], step=4, answer="of a step that is done again")])
    finished(tmp_path / "stopped")
    assert read_transcripts(tmp_path / "stopped") == read_transcripts(tmp_path / "whole")


def test_a_wrong_line_is_named(tmp_path):
    finished(tmp_path / "run", replace(SETTINGS, steps=1, eval_every=0))
    lines = (tmp_path / "run" / FILE).read_text().splitlines()
    for bad, said in (
        ("{", "line 2: .*JSON|line 2"),
        (json.dumps({"step": 1}), "line 2: the field 'sampler' is missing"),
    ):
        (tmp_path / "run" / FILE).write_text("\n".join([lines[0], bad, *lines[2:]]))
        with pytest.raises(UserError, match=said):
            read_transcripts(tmp_path / "run")


def test_more_questions_than_are_held_out_are_refused(tmp_path):
    with pytest.raises(UserError, match="transcripts must be a whole number <= 5, got 6"):
        TrainingJob.start(tmp_path / "run", replace(SETTINGS, transcripts=6))
    assert not (tmp_path / "run").exists()


def test_settings_without_an_effect_are_refused():
    with pytest.raises(UserError, match="transcripts must be a whole number >= 0, got -1"):
        replace(SETTINGS, transcripts=-1)
    with pytest.raises(UserError, match="transcripts must stay 0 without evaluations, got 3"):
        check_effects(replace(SETTINGS, evaluate=False), {"transcripts"})
