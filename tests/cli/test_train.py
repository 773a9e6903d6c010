"""psn-tutorial train: what a run leaves, and what stops it."""

import errno
import os
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from psn_tutorial.config import RunConfig
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.tiny import load
from psn_tutorial.runs import files
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.tasks import get_task, load_split
from psn_tutorial.tasks.files import write_problems
from tests.cli.tiny_runs import NOISY, TINY, weights


def test_every_setting_is_a_flag_of_train_under_a_heading(psn):
    text = psn("train", "--help").out
    for field in fields(RunConfig):
        assert re.search(rf"--{field.name.replace('_', '-')}\b", text)
    plain = text.split("the task:")[0]  # what no heading names would stand there
    assert set(re.findall(r"  --([a-z-]+)", plain)) == {"out", "resume", "preset", "arm", "tensorboard"}


def test_train_leaves_a_record_and_an_ordinary_checkpoint(psn, tmp_path):
    said = psn("train", *NOISY, "--eval-every", 2, "--out", "run")
    assert said.code == 0
    assert said.out.splitlines()[-1] == "run: run    policy: run/policy"
    assert "run: step 4 of 4, reward 0.000, zero-contrast 1.00, sigma 0.5, ESS" in said.err
    assert re.search(r"success probability +\d", said.out)
    record = RunRecord.read(tmp_path / "run")
    assert [r["step"] for r in record.steps] == [1, 2, 3, 4] and record.finished
    assert list(record.evaluations.steps) == [2, 4]
    assert record.settings.sigma == 0.5 and record.settings.steps == 4
    assert record.provenance["command"] == ["psn-tutorial", "train", *NOISY, "--eval-every", "2", "--out", "run"]
    model, _ = load(tmp_path / "run" / "policy")
    exported = model.state_dict()
    assert torch.equal(torch.cat([exported[n].flatten() for n in sorted(exported)]), weights(tmp_path / "run"))
    # The last evaluation is of that very policy: the clean one, sampled with the run's seed.
    task = get_task("chain")
    again = evaluate(
        Policy(model, load(tmp_path / "run" / "policy").tokenizer), task, load_split("chain", "eval"), samples=4
    )
    assert [(r.n, r.c) for r in again] == [(r.n, r.c) for r in record.evaluations.last]
    assert again[0].exact == pytest.approx(record.evaluations.last[0].exact, rel=1e-6)


def test_train_without_evaluation(psn, tmp_path):
    said = psn("train", *TINY, "--no-evaluate", "--out", "run")
    assert said.code == 0 and said.out == "run: run    policy: run/policy\n"
    assert not (tmp_path / "run" / "eval.json").exists() and RunRecord.read(tmp_path / "run").finished


def test_flags_are_laid_over_the_arm_of_a_preset(psn, tmp_path):
    said = psn("train", "--preset", "quick", "--task", "rules", "--steps", 1, "--draws", 4, "--eval-problems", 2)
    assert said.code == 0 and "run: runs/rules-psn0.8-seed0 " in said.out
    settings = RunRecord.read("runs/rules-psn0.8-seed0").settings
    assert (settings.steps, settings.draws, settings.targets, settings.samples) == (1, 4, "head", 0)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--draws 4", "draws must stay 1 without noise (sigma 0), got 4"),
        ("--draws 4 --antithetic", "draws must stay 1 without noise (sigma 0), got 4"),
        ("--mixture", "mixture must stay False without noise (sigma 0), got True"),
        ("--sigma 0.5 --sigma-end 0.1", "sigma_end must stay 0.0 with the schedule constant, got 0.1"),
        ("--preset quick --arm grpo --draws 4", "draws must stay 1 without noise (sigma 0), got 4"),
        ("--preset quick --arm psn --draws 1 --mixture", "mixture must stay False with one draw, got True"),
        ("--schedule kl_target", "command line: sigma must be >= 1e-06 and <= 0.5, got 0.0"),
        ("--compute bfloat16", "compute must be 'float32' without lora_rank"),
    ],
)
def test_a_flag_that_could_not_have_an_effect_is_refused(psn, flags, sentence):
    """Each of these would be plain GRPO, or noise that stays as it is, without a word."""
    for command in ("train", "preflight"):
        if command == "train" or "--preset" not in flags:
            said = psn(command, "--task", "rules", "--group", 8, *flags.split())
            assert said.code == 2 and sentence in said.err and len(said.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_noise_may_grow_from_nothing(psn):
    flags = "--schedule annealed --sigma 0 --sigma-end 0.4 --sigma-steps 2 --relative --targets all --draws 4"
    assert psn("train", *TINY, *flags.split()).code == 0
    records = RunRecord.read("runs/chain-psn0.4-seed0").steps
    assert [record["sigma"] for record in records] == [0.0, 0.2, 0.4, 0.4]
    assert [record["kl_k3"] > 1e-5 for record in records] == [False, True, True, True]


def test_problems_of_ones_own(psn, tmp_path):
    task = get_task("rules")
    mine = task.generate(7, 5)
    write_problems(tmp_path / "mine.jsonl", task, mine)
    words = ["--task", "rules", "--samples", 0, "--eval-file", "mine.jsonl"]
    assert psn("evaluate", *words).code == 0
    record = RunRecord.read("runs/eval-base-rules").evaluations
    assert [r.problem for r in record.last] == [task.prompt(p) for p in mine]
    words += ["--train-file", "mine.jsonl", "--steps", 1, "--prompts", 2, "--out", "run"]
    said = psn("train", *words)
    assert said.code == 2 and "5 of the 5 problems to evaluate on are also trained on, such as" in said.err
    said = psn("train", *words, "--allow-overlap")
    assert said.code == 0 and RunRecord.read("run").settings.train_file == "mine.jsonl"


def test_a_full_disk_loses_nothing_that_was_written(psn, tmp_path, monkeypatch):
    """From the second checkpoint on the disk is full; the run then goes on once there is room."""
    write, count = files.write_bytes, []

    def full(path, data):
        count.append(path)
        if "step-000004" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr("psn_tutorial.runs.checkpoints.write_bytes", full)
    said = psn("train", *NOISY, "--save-every", 2, "--steps", 6, "--out", "run")
    assert said.code == 2
    assert said.err.splitlines()[-1] == (
        "psn-tutorial: cannot write the checkpoint run/checkpoints/step-000004: the disk is full; "
        "the checkpoints before it are kept; when that is fixed, go on with: psn-tutorial train --resume run"
    )
    assert RunFolder.open("run").latest_checkpoint().step == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert psn("train", "--resume", "run").code == 0
    assert psn("train", *NOISY, "--save-every", 2, "--steps", 6, "--out", "whole").code == 0
    assert torch.equal(weights("run"), weights("whole"))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("odd"), "odd"),
    ],
)
def test_a_policy_that_cannot_be_written_leaves_no_half_of_it(psn, monkeypatch, error, why):
    """safetensors and tokenizers, which are Rust, raise errors of their own kinds."""

    def broken(self, folder):
        (Path(folder) / "half").write_text("half")
        raise error

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", broken)
    said = psn("train", *TINY, "--out", "run")
    assert said.code == 2 and said.err.splitlines()[-1] == (
        f"psn-tutorial: cannot write run/policy: {why}; the checkpoints of the run are kept; "
        "when that is fixed, go on with: psn-tutorial train --resume run"
    )
    assert not any(p.name in ("half", "policy") for p in Path("run").rglob("*"))
    monkeypatch.undo()


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(psn):
    psn("train", *NOISY, "--save-every", 2, "--out", "run")
    whole = weights("run")
    newest = Path("run/checkpoints/step-000004/model.safetensors")
    newest.write_bytes(newest.read_bytes()[:100])
    said = psn("train", "--resume", "run")
    assert said.code == 0
    first = said.err.splitlines()[0]
    assert first.startswith("psn-tutorial: the checkpoint run/checkpoints/step-000004 is damaged (")
    assert first.endswith("; step 2 is used")
    assert torch.equal(weights("run"), whole)


def test_a_run_goes_on_only_from_its_own_base(psn, tmp_path):
    shutil.copytree(base_folder("chain"), tmp_path / "base")
    psn("train", *TINY, "--base", "base", "--out", "run")
    state = load(tmp_path / "base")[0]
    with torch.no_grad():
        next(state.parameters()).add_(1e-3)
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(base_folder("chain"), tmp_path / "base")
    state.save_pretrained(tmp_path / "base")
    said = psn("train", "--resume", "run")
    assert said.code == 2
    assert said.err == "psn-tutorial: run was started from another base policy than the one in base\n"


def test_a_foreign_checkpoint_is_refused(psn, tmp_path):
    psn("train", *TINY, "--out", "run")
    psn("pretrain", "--task", "chain", "--steps", 4, "--demonstrations", 9, "--model-hidden", 16, "--out", "small")
    psn("train", *TINY, "--base", "small", "--out", "other")
    shutil.rmtree("run/checkpoints")
    shutil.copytree("other/checkpoints", "run/checkpoints")
    said = psn("train", "--resume", "run")
    assert said.code == 2
    assert said.err.startswith("psn-tutorial: the checkpoint of step 4 in run is foreign: ")
