"""A trimmed run says the same as before, in fewer bytes."""

import gzip
import json

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.results import ProblemResult
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.runs.files import pack, read_bytes, read_json, stands
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.runs.trimming import trim


@pytest.fixture
def run(tmp_path):
    """A run of 40 steps, an evaluation, and what is not a record."""
    run = RunFolder.create(tmp_path / "run", {"steps": 40, "group": 2, "seed": 0})
    for step in range(1, 41):
        figures = {"reward": step / 512, "ess": 0.123456789, "tokens": 123456789, "similarity": None, "loss": -1e-9 / 3}
        run.log({"step": step, **figures})
    record = EvaluationRecord("countdown", 8)
    record.steps[40] = [ProblemResult("1 2 -> 3 :", 8, 3, {"1 + 2 = 3": 3}, 1, {"1 + 2": 3}, 1)]
    record.write(run.path / "eval.json")
    for name in ("checkpoints/step-000040", "policy", "tensorboard"):
        (run.path / name).mkdir(parents=True)
        (run.path / name / "model.safetensors").write_bytes(b"0" * 1000)
    return run.path


def test_only_the_record_is_left_and_reads_the_same(run):
    before = RunRecord.read(run)
    size = sum((run / name).stat().st_size for name in ("steps.jsonl", "eval.json"))
    trim(run)
    left = {path.name for path in run.iterdir()}
    assert left == {"config.json", "provenance.json", "steps.jsonl.gz", "eval.json.gz"}
    after = RunRecord.read(run)
    assert (after.config, after.provenance) == (before.config, before.provenance)
    assert after.evaluations == EvaluationRecord.read(run / "eval.json")
    assert [r.families for r in after.evaluations.last] == [{"1 + 2": 3}]
    for old, new in zip(before.steps, after.steps, strict=True):
        assert new.keys() == old.keys() and new["similarity"] is None
        assert (new["step"], new["tokens"]) == (old["step"], old["tokens"])
        assert all(new[name] == pytest.approx(old[name], rel=5e-4, abs=0) for name in ("reward", "ess", "loss"))
        assert round(new["reward"] * 512) == new["step"]
    assert after.steps[0]["ess"] == 0.1235
    assert sum(path.stat().st_size for path in run.glob("*.gz")) < size / 4


def test_to_trim_again_changes_nothing_and_the_bytes_do_not_depend_on_the_clock(run, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)
    trim(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    trim(run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert before["steps.jsonl.gz"][4:8] == b"\0\0\0\0"


def test_some_steps_are_kept_with_the_first_and_the_last_and_the_record_says_so(run):
    trim(run, every=15)
    record = RunRecord.read(run)
    assert [step["step"] for step in record.steps] == [1, 15, 30, 40]
    assert record.provenance["steps_kept_every"] == 15
    trim(run, every=15)
    assert [step["step"] for step in RunRecord.read(run).steps] == [1, 15, 30, 40]
    with pytest.raises(UserError, match="every must be a whole number >= 1, got 0"):
        trim(run, 0)


def test_stopped_between_packing_and_removing_it_reads_the_plain_file_and_goes_on(run):
    plain = (run / "steps.jsonl").read_bytes()
    trim(run)
    (run / "steps.jsonl").write_bytes(plain)
    assert RunFolder.open(run).steps()[0]["ess"] == 0.123456789
    trim(run)
    assert not (run / "steps.jsonl").exists() and RunFolder.open(run).steps()[0]["ess"] == 0.1235


def test_a_trimmed_run_cannot_be_gone_on_with_and_loses_nothing_by_the_attempt(run):
    trim(run)
    with pytest.raises(UserError, match="cannot write .*steps.jsonl"):
        RunFolder.open(run).resume()
    assert len(RunFolder.open(run).steps()) == 40


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        trim(tmp_path)


def test_a_packed_file_stands_for_the_file(tmp_path):
    path = tmp_path / "x.json"
    assert not stands(path)
    path.write_text('{"a": 1}')
    pack(path, json.dumps({"a": 2}).encode())
    assert stands(path) and not path.exists() and read_json(path) == {"a": 2}
    assert gzip.decompress((tmp_path / "x.json.gz").read_bytes()) == read_bytes(path)
    (tmp_path / "x.json.gz").write_bytes((tmp_path / "x.json.gz").read_bytes()[:-6])
    with pytest.raises(UserError, match="cannot read .*x.json: Compressed file ended"):
        read_json(path)
    (tmp_path / "x.json.gz").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot read .*x.json: Not a gzipped file"):
        read_json(path)
