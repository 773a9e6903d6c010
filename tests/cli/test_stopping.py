"""psn-tutorial train, stopped or killed at any moment, goes on to the same result; signals need a real process."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from psn_tutorial.cli import main
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.runs.folder import RunFolder
from tests.cli.tiny_runs import LONG, NOISY, process, stopped_after, timeless, weights


def test_resume_of_a_finished_run_changes_nothing(psn):
    psn("train", *NOISY, "--out", "run")
    before = weights("run"), timeless("run"), EvaluationRecord.read("run/eval.json")
    said = psn("train", "--resume", "run")
    assert said.code == 0 and said.out.endswith("run: run    policy: run/policy\n")
    assert torch.equal(before[0], weights("run"))
    assert before[1:] == (timeless("run"), EvaluationRecord.read("run/eval.json"))


def test_a_finished_run_without_checkpoints_is_not_begun_again(psn):
    """Such are the shipped records: the first step taken anew would overwrite what they say."""
    psn("train", *NOISY, "--out", "run")
    shutil.rmtree("run/checkpoints")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    said = psn("train", "--resume", "run")
    assert said.code == 2 and said.err.strip().endswith(
        "run is finished and has no checkpoint left: there is nothing to go on with"
    )
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def wait_for(path, lines, child):
    deadline = time.monotonic() + 600
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
        time.sleep(0.01)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(psn, tmp_path):
    folder = tmp_path / "a run"
    child = process("train", *NOISY, "--steps", 100_000, "--save-every", 100_000, "--out", folder)
    wait_for(folder / "steps.jsonl", 3, child)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=600)
    assert child.returncode == 130 and out == ""
    step = RunFolder.open(folder).latest_checkpoint().step
    assert step == len(timeless(folder)) >= 3
    assert "stopping: this step is finished and saved first; Ctrl-C again stops at once" in err
    assert err.splitlines()[-1] == (
        f"psn-tutorial: stopped and saved; go on with: psn-tutorial train --resume '{folder}'"
    )
    assert "Traceback" not in err


@pytest.mark.parametrize("steps", range(1, 13, 3))
def test_a_stop_after_any_step_is_resumed_bitwise(psn, tmp_path, monkeypatch, steps):
    psn("train", *LONG, "--out", "whole")
    monkeypatch.setattr("psn_tutorial.jobs.interrupt.Stop", lambda: stopped_after(steps))
    said = psn("train", *LONG, "--out", "run")
    assert said.code == 128 + signal.SIGTERM
    assert said.err.endswith("stopped and saved; go on with: psn-tutorial train --resume run\n")
    monkeypatch.setattr("psn_tutorial.jobs.interrupt.Stop", Stop)
    assert psn("train", "--resume", "run").code == 0
    assert torch.equal(weights("run"), weights("whole")) and timeless("run") == timeless("whole")
    assert EvaluationRecord.read("run/eval.json") == EvaluationRecord.read("whole/eval.json")


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(words, run, steps, delay):
    """Run a command line in a forked copy of this process and kill it so many steps and seconds later.

    True if it was killed, False if it was done before. The steps are counted, so that it comes on however slow it is.
    """
    record = Path(run, "steps.jsonl")
    target = lines(record) + steps
    child = os.fork()
    if child == 0:
        code = 1
        try:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1), os.dup2(silent, 2)
            code = main([str(word) for word in words])
        finally:
            os._exit(code)
    status = None
    while lines(record) < target and status is None:
        time.sleep(0.001)
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
    if status is None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), "it failed by itself"
    return status == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_random_moments_ends_in_the_very_same_run(psn):
    """Killed again and again, at random moments; three such lives."""
    longer = [*LONG, "--steps", "24"]
    assert psn("train", *longer, "--out", "whole").code == 0
    chance, kills = random.Random(0), 0
    for life in range(3):
        run = f"run{life}"
        for _ in range(5):
            begun = Path(run, "config.json").exists()
            words = ["train", *(["--resume", run] if begun else [*longer, "--out", run])]
            kills += killed(words, run, chance.choice((0, 0, 2, 6)), chance.uniform(0.0, 0.1))
        begun = Path(run, "config.json").exists()
        assert psn("train", *(["--resume", run] if begun else [*longer, "--out", run])).code == 0
        assert torch.equal(weights(run), weights("whole")) and timeless(run) == timeless("whole")
        assert EvaluationRecord.read(f"{run}/eval.json") == EvaluationRecord.read("whole/eval.json")
        exported = [Path(r, "policy/model.safetensors").read_bytes() for r in (run, "whole")]
        assert exported[0] == exported[1]
    assert kills >= 1


def test_sigkill_of_a_real_process(psn, tmp_path):
    child = process("train", *LONG, "--out", tmp_path / "run")
    wait_for(tmp_path / "run" / "steps.jsonl", 7, child)
    child.kill()
    child.wait(600)
    for stream in (child.stdout, child.stderr):
        stream.close()
    assert psn("train", "--resume", "run").code == 0 and psn("train", *LONG, "--out", "whole").code == 0
    assert torch.equal(weights("run"), weights("whole")) and timeless("run") == timeless("whole")
