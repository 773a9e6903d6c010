"""Work that fails after its start leaves nothing, or what it has recorded and a sentence that says how to go on."""

import os
import signal
from pathlib import Path

import pytest
import torch

from psn_tutorial.errors import UserError
from psn_tutorial.experiments import run as comparing
from psn_tutorial.jobs import evaluating, pretraining, training
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.trainer import Trainer
from tests.cli.tiny_runs import NOISY, TINY, process, timeless, weights

PRETRAIN = "pretrain --task chain --steps 4 --demonstrations 9 --model-hidden 16 --out base --record record".split()
COMPARE = "compare --preset quick --experiment rules --seeds 0 --out out".split()
ERRORS = [
    (UserError("no more noise"), "no more noise"),
    (MemoryError(), "out of memory; a smaller --micro-batch or --samples needs less"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory; a smaller --micro-batch"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory; a smaller --micro-batch"),
    (OSError(5, "Input/output error"), "Input/output error"),
]


def failing(error, after=0):
    """A function that passes its calls on so many times, and then raises ``error``."""

    def wrap(honest):
        calls = []

        def call(*args, **options):
            calls.append(1)
            if len(calls) > after:
                raise error
            return honest(*args, **options)

        return call

    return wrap


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(("error", "said"), ERRORS)
def test_a_run_that_fails_in_its_first_step_leaves_nothing(psn, tmp_path, monkeypatch, error, said):
    monkeypatch.setattr(Trainer, "step", failing(error)(Trainer.step))
    refused = psn("train", *TINY, "--out", "run")
    assert refused.code == 2 and said in refused.err and "--resume" not in refused.err
    assert everything(tmp_path) == []
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert psn("train", *TINY, "--out", "run").code == 0  # the same command again


def test_weights_that_grow_without_bound_end_in_a_sentence(psn):
    said = psn("train", *TINY, "--lr", 1e30, "--out", "run")
    assert said.code == 2 and "the policy's logits are not finite: its weights, or the noise on them, are" in said.err
    assert "Traceback" not in said.err and said.err.endswith("go on with: psn-tutorial train --resume run\n")


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(psn, monkeypatch):
    honest = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *rest: honest(*rest) * torch.nan)
    said = psn("train", *TINY, "--out", "run")
    assert said.code == 2 and "the gradient of step 1 is not finite: lr or sigma is too large" in said.err
    assert not Path("run").exists()


def test_an_empty_folder_that_was_there_stays(psn, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "step", failing(UserError("no"))(Trainer.step))
    (tmp_path / "run").mkdir()
    assert psn("train", *TINY, "--out", "run").code == 2
    assert everything(tmp_path) == ["run"]


def test_a_failing_run_with_steps_stays_and_goes_on_to_the_same_end(psn, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", failing(UserError("no more noise"), after=3)(Trainer.step))
        said = psn("train", *NOISY, "--save-every", 2, "--out", "run")
    assert said.code == 2 and said.err.splitlines()[-1] == (
        "psn-tutorial: no more noise; when that is fixed, go on with: psn-tutorial train --resume run"
    )
    assert len(timeless("run")) == 3
    assert (
        psn("train", "--resume", "run").code == 0
        and psn("train", *NOISY, "--save-every", 2, "--out", "whole").code == 0
    )
    assert torch.equal(weights("run"), weights("whole")) and timeless("run") == timeless("whole")


def test_a_run_whose_evaluation_fails_stays(psn, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", failing(UserError("the verifier left"))(training.evaluate))
        said = psn("train", *TINY, "--out", "run")
    assert said.code == 2 and said.err.endswith(
        "the verifier left; when that is fixed, go on with: psn-tutorial train --resume run\n"
    )
    assert psn("train", "--resume", "run").code == 0 and RunRecord.read("run").finished


@pytest.mark.parametrize("error", [UserError("the verifier left"), KeyboardInterrupt()])
def test_a_failing_evaluation_leaves_nothing(psn, tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "evaluate", failing(error)(evaluating.evaluate))
        assert psn("evaluate", "--task", "chain", "--samples", 4, "--out", "e").code in (2, 130)
    assert everything(tmp_path) == []
    assert psn("evaluate", "--task", "chain", "--samples", 8, "--out", "e").code == 0  # other settings are welcome


def test_a_failing_pretraining_leaves_nothing(psn, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pretraining.Pretraining, "step", failing(UserError("no"))(pretraining.Pretraining.step))
        said = psn(*PRETRAIN)
    assert (said.code, said.err) == (2, "psn-tutorial: no\n") and everything(tmp_path) == []
    assert psn(*PRETRAIN).code == 0


def test_a_failing_pretraining_with_a_checkpoint_says_how_to_go_on(psn, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "evaluate", failing(UserError("no"))(pretraining.evaluate))
        said = psn(*PRETRAIN)
    assert said.code == 2 and said.err == (
        "psn-tutorial: no; when that is fixed, go on with: psn-tutorial pretrain --resume record --out base\n"
    )
    again = psn(*PRETRAIN)
    assert again.code == 2 and "choose another folder, or go on with --resume record" in again.err
    assert psn("pretrain", "--resume", "record", "--out", "base").code == 0


def test_a_failing_comparison_leaves_nothing_unless_something_is_recorded(psn, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "evaluate", failing(UserError("no"))(evaluating.evaluate))
        assert psn(*COMPARE).code == 2
    assert everything(tmp_path) == []
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", failing(UserError("no"), after=1)(Trainer.step))
        assert psn(*COMPARE).code == 2
    assert (tmp_path / "out/rules/base/eval.json").is_file()
    assert psn(*COMPARE).code == 0  # goes on
    with pytest.raises(UserError, match="holds another comparison"):
        comparing.run_comparison("demo", tmp_path / "out", progress=False)
    assert (tmp_path / "out/comparison.json").is_file()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_killed_before_its_first_step_is_gone_on_with(psn, tmp_path):
    child = process("train", *TINY, "--out", tmp_path / "run")
    while not (tmp_path / "run" / "config.json").exists():
        assert child.poll() is None
    os.kill(child.pid, signal.SIGKILL)
    child.wait(600)
    child.stdout.close(), child.stderr.close()
    again = psn("train", *TINY, "--out", "run")
    assert again.code == 2 and "continue that run with --resume, or choose another folder" in again.err
    assert psn("train", "--resume", "run").code == 0 and psn("train", *TINY, "--out", "whole").code == 0
    assert torch.equal(weights("run"), weights("whole"))


def test_only_a_folder_that_was_made_now_is_removed(tmp_path):
    made = RunFolder.create(tmp_path / "run", {})
    RunFolder.open(tmp_path / "run").discard_if_empty()
    assert (tmp_path / "run").is_dir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    made.discard_if_empty()
    assert (tmp_path / "run" / "thesis.txt").exists()
    Path(tmp_path / "run" / "thesis.txt").unlink()
    made.discard_if_empty()
    assert not (tmp_path / "run").exists()
    made.discard_if_empty()  # once more is no error
