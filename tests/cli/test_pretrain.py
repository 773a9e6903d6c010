"""psn-tutorial pretrain: a policy, its record, and going on."""

import signal
from pathlib import Path

from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.models.tiny import load
from tests.cli.tiny_runs import TINY, stopped_after, timeless


def test_pretrain_makes_a_policy_and_its_record(psn, tmp_path):
    words = ["--task", "chain", "--steps", 3, "--demonstrations", 50, "--model-hidden", 16, "--batch", 8]
    said = psn("pretrain", *words, "--out", "base", "--record", "record")
    assert said.code == 0 and said.out.endswith("policy: base    record: record\n")
    record = RunRecord.read("record")
    assert [r["step"] for r in record.steps] == [1, 2, 3]
    assert record.config["model"]["hidden"] == 16 and record.config["model"]["tied"] is False  # of the shipped base
    assert list(record.evaluations.steps) == [3] and record.evaluations.last[0].n == 256
    model, _ = load(tmp_path / "base")
    assert model.config.hidden_size == 16
    trained = psn("train", *TINY, "--base", "base", "--steps", 1, "--out", "run")
    assert trained.code == 0
    twice = psn("pretrain", *words, "--out", "base2", "--record", "record")
    assert twice.code == 2 and "record already exists and is not empty; choose another folder" in twice.err
    done = psn("pretrain", "--resume", "record", "--out", "base2")
    assert done.code == 2 and "the base policy of record is finished" in done.err


def test_pretraining_stops_and_goes_on_bitwise(psn, monkeypatch):
    words = ["--task", "chain", "--steps", 6, "--demonstrations", 50, "--model-hidden", 16, "--batch", 8]
    psn("pretrain", *words, "--out", "whole", "--record", "whole-record")
    monkeypatch.setattr("psn_tutorial.jobs.interrupt.Stop", lambda: stopped_after(7))
    said = psn("pretrain", *words, "--out", "base", "--record", "record")
    assert said.code == 128 + signal.SIGTERM and not Path("base").exists()
    assert said.err.endswith("go on with: psn-tutorial pretrain --resume record --out base\n")
    monkeypatch.setattr("psn_tutorial.jobs.interrupt.Stop", Stop)
    assert 0 < len(timeless("record")) < 6
    assert psn("pretrain", "--resume", "record", "--out", "base").code == 0
    assert Path("base/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert EvaluationRecord.read("record/eval.json") == EvaluationRecord.read("whole-record/eval.json")
