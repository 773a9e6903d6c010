"""Run folders: what was written comes back bit for bit, or one sentence says why it does not."""

import errno
import json
import math
import os
import resource
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import psn_tutorial
from psn_tutorial.errors import UserError
from psn_tutorial.runs import checkpoints, files
from psn_tutorial.runs import provenance as provenance_module
from psn_tutorial.runs.files import read_json, write_json
from psn_tutorial.runs.folder import DamagedCheckpointWarning, RunFolder

HERE = Path(__file__).parent


def tensors_of(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors that only this step writes."""
    weight = torch.arange(2000, dtype=torch.float32) + step
    return {"model": {"weight": weight}, "optimizer": {"weight/exp_avg": weight.double() / 3}}


def assert_is_checkpoint(found, step: int) -> None:
    assert found.step == step and found.state == {"sigma": 0.1 * step}
    expected = tensors_of(step)
    assert found.tensors.keys() == expected.keys()
    for name, group in expected.items():
        assert found.tensors[name].keys() == group.keys()
        assert all(torch.equal(found.tensors[name][key], group[key]) for key in group)


def save(run: RunFolder, step: int, **options) -> Path:
    return run.save_checkpoint(step, tensors_of(step), {"sigma": 0.1 * step}, **options)


def train(run: RunFolder, first: int, last: int, every: int = 2) -> None:
    for step in range(first, last + 1):
        run.log({"step": step, "reward": step / 7})
        if step % every == 0:
            save(run, step)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"seed": 1})


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# Folders


def test_create_then_open(tmp_path, no_warnings):
    made = RunFolder.create(tmp_path / "deep" / "run", {"seed": 1, "sigma": 0.1}, ["psn-tutorial", "x"])
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["run"]
    names = ["checkpoints", "config.json", "provenance.json", "steps.jsonl"]
    assert sorted(path.name for path in made.path.iterdir()) == names
    again = RunFolder.open(tmp_path / "deep" / "run")
    assert again.config == made.config == {"seed": 1, "sigma": 0.1}
    assert again.provenance == made.provenance
    assert again.steps() == [] and again.latest_checkpoint() is None


def test_create_takes_an_empty_folder_and_ordinary_permissions(tmp_path):
    (tmp_path / "run").mkdir()
    run = RunFolder.create(tmp_path / "run", {})
    mask = os.umask(0)
    os.umask(mask)
    save(run, 1)
    for path in [run.path, *run.path.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask


def test_an_existing_run_is_never_touched(run):
    train(run, 1, 2)
    before = everything_in(run.path)
    with pytest.raises(UserError, match=r"already exists and is not empty; .*--resume"):
        RunFolder.create(run.path, {"seed": 2})
    assert everything_in(run.path) == before


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="a file of that name exists"):
        RunFolder.create(tmp_path / "run", {})
    with pytest.raises(UserError, match="cannot write the run folder"):
        RunFolder.create(tmp_path / "run" / "inner", {})
    assert (tmp_path / "run").read_text() == "mine"


def test_open_refuses_what_is_no_run(tmp_path, run):
    with pytest.raises(UserError, match="there is no run folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a run folder: it has no config.json"):
        RunFolder.open(tmp_path)
    (run.path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="config.json must hold a JSON object"):
        RunFolder.open(run.path)
    (run.path / "config.json").write_text('{"seed": 1,\n')
    with pytest.raises(UserError, match="config.json, line 2: not valid JSON"):
        RunFolder.open(run.path)
    (run.path / "provenance.json").unlink()
    (run.path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="it has no provenance.json"):
        RunFolder.open(run.path)


def test_a_create_that_was_killed_leaves_no_run_and_is_no_obstacle(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def stop(*_):
        raise Killed

    monkeypatch.setattr(os, "rename", stop)
    with pytest.raises(Killed):
        RunFolder.create(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    (tmp_path / ".run.new" / "checkpoints").mkdir(parents=True)
    assert RunFolder.create(tmp_path / "run", {}).steps() == []
    assert not (tmp_path / ".run.new").exists()


# Step records


def test_records_are_strict_json_and_lose_only_nan_and_infinity(run):
    run.log(
        {
            "step": 1,
            "nan": math.nan,
            "list": [math.inf, -math.inf, 1.5],
            "numpy": np.float64(0.1),
            "tensor": torch.tensor([1.0, math.nan]),
            "count": np.int64(3),
            "third": 1 / 3,
            "word": "µ\u2028\n",
            "none": None,
            "flag": True,
        }
    )

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = (run.path / "steps.jsonl").read_text()
    assert text.endswith("\n") and text.count("\n") == 1
    expected = {
        "step": 1,
        "nan": None,
        "list": [None, None, 1.5],
        "numpy": 0.1,
        "tensor": [1.0, None],
        "count": 3,
        "third": 1 / 3,
        "word": "µ\u2028\n",
        "none": None,
        "flag": True,
    }
    assert json.loads(text, parse_constant=refuse) == expected
    assert run.steps() == [expected]


def test_a_record_without_a_step_is_the_programmers_error(run):
    for record in ({}, {"step": 1.0}, {"step": True}):
        with pytest.raises(ValueError, match="whole number 'step'"):
            run.log(record)
    assert (run.path / "steps.jsonl").read_bytes() == b""


@pytest.mark.parametrize("tail", [b'{"step": 3, "rew', b"\0\0\0\n", b'{"step": 3}', b"{}\n", b"\n"])
def test_a_half_written_last_line_is_dropped(run, tail):
    train(run, 1, 2)
    path = run.path / "steps.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    again = RunFolder.open(run.path)
    assert [record["step"] for record in again.steps()] == [1, 2]
    assert again.resume().step == 2
    assert path.read_bytes() == whole


def test_logging_after_a_half_line_does_not_glue_two_records(run):
    run.log({"step": 1})
    with open(run.path / "steps.jsonl", "ab") as file:
        file.write(b'{"step": 2, "re')
    again = RunFolder.open(run.path)
    again.log({"step": 2})
    assert again.steps() == [{"step": 1}, {"step": 2}]


def test_a_broken_line_in_the_middle_is_named_and_nothing_is_cut(run):
    train(run, 1, 4)
    path = run.path / "steps.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"junk\n" + b"".join(lines[2:]))
    before = everything_in(run.path)
    for read in (run.steps, run.resume):
        with pytest.raises(UserError, match=r"steps.jsonl, line 2: this is not a step record"):
            read()
    assert everything_in(run.path) == before


def test_a_lost_log_is_named(run):
    save(run, 1)
    (run.path / "steps.jsonl").unlink()
    with pytest.raises(UserError, match="steps.jsonl is missing"):
        RunFolder.open(run.path).resume()


# Checkpoints


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
def test_every_bit_comes_back(run, dtype, no_warnings):
    generator = torch.Generator().manual_seed(3)
    size = torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 256, (24 * size,), dtype=torch.uint8, generator=generator)
    matrix = raw.view(dtype).reshape(4, 6)  # NaNs of every kind among them
    tied = {"a": matrix, "b": matrix, "view": matrix.T, "scalar": matrix[0, 0], "none": matrix[:0]}
    run.save_checkpoint(1, {"model": tied}, {})
    found = run.latest_checkpoint().tensors["model"]
    assert found.keys() == tied.keys()
    for name, tensor in tied.items():
        assert found[name].dtype == dtype and found[name].shape == tensor.shape
        expected = tensor.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), expected)


def test_the_state_comes_back_exactly_or_is_refused(run):
    state = {"pi": math.pi, "tiny": 5e-324, "word": "µ", "list": [1, None, True], "big": 2**63}
    run.save_checkpoint(1, {}, state)
    assert run.latest_checkpoint().state == state
    before = everything_in(run.path / "checkpoints")
    with pytest.raises(ValueError):
        run.save_checkpoint(2, {}, {"sigma": math.nan})
    assert everything_in(run.path / "checkpoints") == before


def test_only_safetensors_and_json_are_written(run):
    train(run, 1, 2)
    write_json(run.path / "eval.json", [])
    endings = {path.suffix for path in run.path.rglob("*") if path.is_file()}
    assert endings == {".json", ".jsonl", ".safetensors"}
    for path in run.path.rglob("*.json"):
        json.loads(path.read_text())


def test_the_newest_two_stay(run):
    for step in (1, 2, 1_000_000, 3_000_000):
        save(run, step)
    names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
    assert names == ["step-1000000", "step-3000000"]
    assert_is_checkpoint(run.latest_checkpoint(), 3_000_000)
    save(run, 3_000_001, keep=1)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-3000001"]
    with pytest.raises(UserError, match="keep must be >= 1, got 0"):
        save(run, 4_000_000, keep=0)


def test_the_same_step_again_replaces(run):
    save(run, 1)
    run.save_checkpoint(1, {"model": {"x": torch.ones(1)}}, {"new": True})
    assert run.latest_checkpoint().state == {"new": True}
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(run):
    folder = save(run, 1)
    os.rename(folder, folder.with_name(".old-step-000001"))
    before = everything_in(run.path)
    assert_is_checkpoint(run.latest_checkpoint(), 1)
    assert everything_in(run.path) == before  # reading changes nothing: another process may write
    assert_is_checkpoint(run.resume(), 1)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-000001"]


def test_foreign_files_are_neither_read_nor_removed(run, no_warnings):
    folder = run.path / "checkpoints"
    (folder / "step-000009").write_text("a file")
    for name in ("best", "step-9", "step-x", ".old-best", ".new-", "step-000009.bak"):
        (folder / name).mkdir()
    foreign = everything_in(folder)
    train(run, 1, 6)
    (folder / "step-000006" / "notes.txt").write_text("mine")
    assert_is_checkpoint(RunFolder.open(run.path).resume(), 6)
    after = everything_in(folder)
    assert foreign.items() <= after.items()
    assert after["step-000006/notes.txt"] == b"mine"


def test_a_newer_format_is_said_and_not_passed_over(run, monkeypatch):
    save(run, 1)
    monkeypatch.setattr(checkpoints, "_FORMAT", 2)
    save(run, 2)
    monkeypatch.undo()
    with pytest.raises(UserError, match="step-000002 has format 2; .* reads up to 1"):
        run.resume()
    assert (run.path / "checkpoints" / "step-000002").is_dir()


def damage_is_noticed(run: RunFolder) -> None:
    """The newest of the checkpoints 2 and 4 is damaged: 2 is used, one sentence names 4."""
    with pytest.warns(DamagedCheckpointWarning) as caught:
        found = RunFolder.open(run.path).latest_checkpoint()
    assert_is_checkpoint(found, 2)
    assert len(caught) == 1
    sentence = str(caught[0].message)
    assert str(run.path / "checkpoints" / "step-000004") in sentence
    assert sentence.endswith("; step 2 is used") and "\n" not in sentence


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_bit_or_cut_is_noticed(tmp_path_factory, data):
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / "run", {})
    train(run, 1, 4)
    folder = run.path / "checkpoints" / "step-000004"
    name = data.draw(st.sampled_from(["model.safetensors", "optimizer.safetensors", "state.json"]))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    (folder / name).write_bytes(content)
    if name == "state.json" and json_means_the_same(content):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_is_checkpoint(RunFolder.open(run.path).latest_checkpoint(), 4)
    else:
        damage_is_noticed(run)


def json_means_the_same(content: bytes) -> bool:
    """A changed blank (a newline that became a tab, a cut last newline) changes no value."""
    try:
        value = json.loads(content)
        return value["seal"] == checkpoints._seal({k: v for k, v in value.items() if k != "seal"})
    except (ValueError, KeyError, TypeError):
        return False


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_missing_file_is_noticed(run, name):
    train(run, 1, 4)
    (run.path / "checkpoints" / "step-000004" / name).unlink()
    damage_is_noticed(run)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b'{"seal": 1}', b"[" * 100_000, b"\xff", b'{"seal": NaN}']
)
def test_a_foreign_state_is_noticed(run, content):
    train(run, 1, 4)
    (run.path / "checkpoints" / "step-000004" / "state.json").write_bytes(content)
    damage_is_noticed(run)


def test_a_renamed_checkpoint_is_noticed(run):
    save(run, 2)
    save(run, 3)
    folder = run.path / "checkpoints"
    os.rename(folder / "step-000003", folder / "step-000004")
    damage_is_noticed(run)


def test_a_state_that_points_outside_is_noticed(run):
    train(run, 1, 4)
    path = run.path / "checkpoints" / "step-000004" / "state.json"
    content = json.loads(path.read_text())
    content["files"]["../step-000004/model.safetensors"] = content["files"]["model.safetensors"]
    del content["seal"]
    content["seal"] = checkpoints._seal(content)
    path.write_text(json.dumps(content))
    damage_is_noticed(run)


def test_resume_after_damage_takes_the_lost_steps_again(run):
    train(run, 1, 5)
    model = run.path / "checkpoints" / "step-000004" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:100])
    again = RunFolder.open(run.path)
    with pytest.warns(DamagedCheckpointWarning, match=r"has 100 bytes instead of \d+"):
        assert again.resume().step == 2
    assert [record["step"] for record in again.steps()] == [1, 2]
    train(again, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_is_checkpoint(RunFolder.open(run.path).resume(), 4)
    assert [record["step"] for record in again.steps()] == [1, 2, 3, 4]


def test_resume_with_nothing_left_starts_from_the_beginning(run):
    train(run, 1, 3)
    (run.path / "checkpoints" / "step-000002" / "state.json").unlink()
    again = RunFolder.open(run.path)
    with pytest.warns(DamagedCheckpointWarning, match="; no earlier one is left$"):
        assert again.resume() is None
    assert again.steps() == [] and list((run.path / "checkpoints").iterdir()) == []


def test_resume_writes_down_where_and_adds_the_time(run):
    train(run, 1, 3)
    seconds = read_json(run.path / "provenance.json")["wall_seconds"]
    again = RunFolder.open(run.path)
    again._clock -= 100.0
    again.resume()
    facts = read_json(run.path / "provenance.json")
    assert [entry["step"] for entry in facts["resumed"]] == [2]
    assert seconds + 100 <= facts["wall_seconds"] < seconds + 200
    assert facts["started"] == run.provenance["started"]


def test_everything_is_on_the_disk_before_it_gets_its_name(run, monkeypatch):
    """After a power cut a name may stand for an empty file unless this order is kept."""
    events = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(descriptor):
        events.append(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    def rename(old, new):
        inside = [path.stat().st_ino for path in [old, *Path(old).rglob("*")]]
        events.append(("rename", inside, Path(new).parent.stat().st_ino))
        real_rename(old, new)

    run.log({"step": 1})
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    save(run, 1)
    (place,) = [i for i, event in enumerate(events) if isinstance(event, tuple)]
    _, inside, parent = events[place]
    assert len(inside) == 4  # the folder and its three files
    assert {*inside, (run.path / "steps.jsonl").stat().st_ino} <= set(events[:place])
    assert parent in events[place + 1 :]


# Full and unwritable disks


class FullDisk:
    """From the ``allowed``-th byte on, every write of the process meets a full disk."""

    def __init__(self, monkeypatch, allowed: int):
        self.left = allowed
        real_open, real_write = open, os.write

        def full_open(path, mode="r", *args, **kwargs):
            file = real_open(path, mode, *args, **kwargs)
            return file if "w" not in mode else LimitedFile(file, self)

        def full_write(descriptor, data):
            part = data[: self.take(len(data))]
            return real_write(descriptor, part)

        monkeypatch.setattr(files, "open", full_open, raising=False)
        monkeypatch.setattr(files.os, "write", full_write)

    def take(self, wanted: int) -> int:
        if self.left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        granted = min(self.left, wanted)
        self.left -= granted
        return granted


class LimitedFile:
    def __init__(self, file, disk: FullDisk):
        self.file, self.disk = file, disk

    def write(self, data):
        granted = self.disk.take(len(data))
        self.file.write(data[:granted])
        if granted < len(data):
            self.disk.take(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("allowed", [0, 1, 5000, 8300, 24_500])
def test_a_full_disk_costs_only_the_new_checkpoint(run, monkeypatch, allowed):
    train(run, 1, 4)
    before = everything_in(run.path)
    with monkeypatch.context() as patched:
        FullDisk(patched, allowed)
        with pytest.raises(UserError) as error:
            save(run, 6)
    folder = run.path / "checkpoints" / "step-000006"
    assert str(error.value) == (
        f"cannot write the checkpoint {folder}: the disk is full; the checkpoints before it are kept"
    )
    assert everything_in(run.path) == before  # the half-written one gives its space back
    save(run, 6)
    assert_is_checkpoint(run.latest_checkpoint(), 6)


def test_a_full_disk_leaves_no_half_record(run, monkeypatch):
    run.log({"step": 1})
    with monkeypatch.context() as patched:
        FullDisk(patched, 7)
        with pytest.raises(UserError, match=r"steps.jsonl: the disk is full; the records before"):
            run.log({"step": 2})
        assert (run.path / "steps.jsonl").read_text() == '{"step": 1}\n'
    run.log({"step": 2})
    assert run.steps() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("allowed", [0, 3])
def test_a_full_disk_leaves_the_old_json_file(tmp_path, monkeypatch, allowed):
    write_json(tmp_path / "eval.json", {"old": 1})
    with monkeypatch.context() as patched:
        FullDisk(patched, allowed)
        with pytest.raises(UserError, match="eval.json: the disk is full; what stood there is kept"):
            write_json(tmp_path / "eval.json", {"new": 2})
    assert read_json(tmp_path / "eval.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


def test_a_full_disk_makes_no_half_run(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        FullDisk(patched, 10)
        with pytest.raises(UserError, match="cannot write the run folder .*: the disk is full"):
            RunFolder.create(tmp_path / "run", {"seed": 1})
    assert list(tmp_path.iterdir()) == []


def test_the_operating_systems_own_limit(run):
    """The same without any stand-in: the kernel cuts a file at 4096 bytes."""
    train(run, 1, 4)
    before = everything_in(run.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(UserError, match="cannot write the checkpoint .*: File too large; the"):
            save(run, 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything_in(run.path) == before
    assert_is_checkpoint(run.latest_checkpoint(), 4)


def test_a_run_folder_that_vanished(run, tmp_path):
    os.rename(run.path, tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot write .*steps.jsonl: No such file or directory"):
        run.log({"step": 1})
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        save(run, 1)


# Kill


KILLED_RUNS = """
import os, random, signal, sys, time, warnings
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_folder import RunFolder, assert_is_checkpoint, save

warnings.simplefilter("error")  # a kill must never leave a damaged checkpoint
path, chance, rounds = Path(sys.argv[1]), random.Random(5), int(sys.argv[3])

def write_until_killed(done):
    run = RunFolder.open(path) if path.exists() else RunFolder.create(path, {"seed": 1})
    checkpoint = run.resume()
    step = checkpoint.step if checkpoint else 0
    while True:
        step += 1
        run.log({"step": step, "reward": step / 7})
        if step % 2 == 0:
            save(run, step)
            os.write(done, b"%d\\n" % step)
        if step % 10 == 0:
            save(run, step)  # the same step again: Ctrl-C just after a checkpoint

highest = 0
for _ in range(rounds):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_until_killed(write_end)
        except BaseException as error:
            print(repr(error), flush=True)
        os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        promised = [pipe.readline() for _ in range(chance.randrange(4))]  # as far as it gets, however slow the machine
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer failed by itself"
        highest = max([highest, *map(int, promised), *map(int, pipe)])
    if not path.exists():
        assert highest == 0
        continue
    run = RunFolder.open(path)
    found = run.latest_checkpoint()
    assert (found.step if found else 0) >= highest, "a checkpoint that was promised is gone"
    steps = [record["step"] for record in run.steps()]
    assert steps == list(range(1, len(steps) + 1)), steps
    if found:
        assert_is_checkpoint(found, found.step)
        assert len(steps) >= found.step
names = sorted(item.name for item in path.parent.iterdir())
assert names in ([path.name], [f".{path.name}.new", path.name]), names
assert len(list((path / "checkpoints").iterdir())) <= 6  # nothing piles up
print(highest)
"""


def test_sigkill_at_random_moments(tmp_path):
    """A writer is killed again and again; each time the folder holds all that was promised."""
    command = [sys.executable, "-c", KILLED_RUNS, str(tmp_path / "run"), str(HERE), "40"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) >= 40  # it came on from life to life


CALLS = ["write", "fsync", "rename", "replace", "truncate", "mkdir", "unlink", "rmdir"]


@pytest.mark.parametrize("name", CALLS)
def test_death_at_every_system_call(run, name):
    """os._exit at the 1st, 2nd, ... call: no clean-up code runs, and nothing promised is lost."""
    promise = run.path.parent / "promised"
    promise.write_text("0")
    for call in range(1, 60):
        child = os.fork()
        if child == 0:
            die_at_call(name, call)
            again = RunFolder.open(run.path)
            checkpoint = again.resume()
            step = checkpoint.step if checkpoint else 0
            train(again, step + 1, step + 2)
            promise.write_text(str(step + 2))
            save(again, step + 2)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            after = RunFolder.open(run.path)
            found = after.latest_checkpoint()
            steps = [record["step"] for record in after.steps()]
        assert steps == list(range(1, len(steps) + 1))
        assert (found.step if found else 0) >= int(promise.read_text())
        assert found is None or len(steps) >= found.step
        for step, folder in after._checkpoint_folders():  # whoever looks sees only whole ones
            assert_is_checkpoint(checkpoints.read_checkpoint(folder, step), step)
        if code == 0:
            return  # it makes fewer calls than this: every one has been tried
    pytest.fail("the writer never came through")


def die_at_call(name: str, call: int) -> None:
    real, seen = getattr(os, name), 0

    def counted(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == call:
            if name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            os._exit(9)
        return real(*args, **kwargs)

    setattr(os, name, counted)


# Provenance and JSON files


def test_provenance_names_versions_and_hides_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [
        "psn-tutorial",
        "train",
        f"--out={tmp_path}/runs/a",
        str(tmp_path / "data.jsonl"),
        "/etc/somewhere/model",
        "--map=x:/srv/a b/c,/srv/d",
        "--model",
        "Qwen/Qwen2-0.5B",
        "https://example.org/a/b",
    ]
    facts = provenance_module.provenance(command)
    assert facts["command"] == [
        "psn-tutorial",
        "train",
        "--out=runs/a",
        "data.jsonl",
        "model",
        "--map=x:c,d",
        "--model",
        "Qwen/Qwen2-0.5B",
        "https://example.org/a/b",
    ]
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["versions"]["psn_tutorial"] == psn_tutorial.__version__
    assert facts["threads"] == torch.get_num_threads() and facts["cpu"]
    assert facts["started"].endswith("+00:00")
    text = json.dumps({key: value for key, value in facts.items() if key != "command"})
    assert str(tmp_path) not in text and str(Path(psn_tutorial.__file__).parents[1]) not in text
    values = {word for value in facts.values() for word in str(value).split()}
    assert socket.gethostname() not in values
    assert provenance_module.provenance()["command"] is None


def test_the_commit_is_this_projects_own(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "psn_tutorial"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(psn_tutorial, "__file__", str(package / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance_module.commit() is None  # no repository
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    assert provenance_module.commit() == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed")
    assert provenance_module.commit() == git("rev-parse", "HEAD") + "+dirty"
    inner = tmp_path / "site-packages" / "psn_tutorial"
    inner.mkdir(parents=True)
    monkeypatch.setattr(psn_tutorial, "__file__", str(inner / "__init__.py"))
    assert provenance_module.commit() is None  # installed inside another checkout
    monkeypatch.setenv("PATH", "")
    assert provenance_module.commit() is None  # no git


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "line 1: not valid JSON"),
        (b'{"a": 1}\n]', "line 2: not valid JSON"),
        (b"NaN", "NaN is not valid JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "the field 'a' stands twice in one object"),
        (b"\xff\xfe", "is not a text file in UTF-8"),
        (b"[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_broken_json_file_is_named(tmp_path, content, sentence):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert sentence in str(error.value) and str(path) in str(error.value)


def test_a_missing_json_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_json(tmp_path)
