"""The command line, in process where it can be; as a process where signals and pipes matter."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import psn_tutorial
from psn_tutorial.cli import COMMANDS, main
from psn_tutorial.config import RunConfig
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.progress import follow
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.jobs.training import TrainingJob
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.tiny import load
from psn_tutorial.runs import files
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.tasks import get_task, load_split
from psn_tutorial.tasks.files import write_problems

# A few steps of the smallest task; the entropy bonus moves the weights even where nothing is right.
TINY = [
    "--task",
    "chain",
    "--steps",
    "4",
    "--prompts",
    "2",
    "--group",
    "4",
    "--samples",
    "4",
    "--entropy-coef",
    "0.01",
    "--lr",
    "0.001",
]
NOISY = [*TINY, "--sigma", "0.5", "--relative", "--targets", "all", "--draws", "4"]


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def psn(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return run


def process(*words, **options):
    """The same as a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(psn_tutorial.__file__).parents[1])}
    code = "import sys; from psn_tutorial.cli import main; sys.exit(main())"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], **pipes | options)


def weights(folder):
    model = RunFolder.open(folder).latest_checkpoint().tensors["model"]
    return torch.cat([model[name].flatten() for name in sorted(model)])


def timeless(run):
    return [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in RunFolder.open(run).steps()]


# --- help -----------------------------------------------------------------------------------------


def test_help_and_version_need_no_heavy_library():
    code = (
        "import sys; from psn_tutorial.cli import main; main(['--help']); main(['--version']); "
        "main([]); main(['trian']); print('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert said.stdout.splitlines()[-1] == "False"
    assert f"psn-tutorial {psn_tutorial.__version__}" in said.stdout
    assert all(f"  {name}" in said.stdout for name in COMMANDS)
    assert said.stderr == (
        "psn-tutorial: the command must be one of pretrain, preflight, train, evaluate, compare, report, doctor, "
        "got 'trian' (did you mean 'train'?)\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(psn, command):
    said = psn(command, "--help")
    assert said.code == 0 and said.err == ""
    examples = re.findall(rf"^ +psn-tutorial ({command} .*)$", said.out, re.M)
    assert examples
    known = set(re.findall(r"--[a-z][a-z-]*", said.out))
    for example in examples:
        assert set(re.findall(r"--[a-z-]+", example)) <= known


def test_every_setting_is_a_flag_of_train_under_a_heading(psn):
    text = psn("train", "--help").out
    for field in fields(RunConfig):
        assert re.search(rf"--{field.name.replace('_', '-')}\b", text)
    plain = text.split("the task:")[0]  # what no heading names would stand there
    assert set(re.findall(r"  --([a-z-]+)", plain)) == {"out", "resume", "preset", "arm", "tensorboard"}


# --- a run ----------------------------------------------------------------------------------------


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


def test_a_finished_run_is_evaluated_again_and_compared(psn, tmp_path):
    psn("train", *TINY, "--out", "run")
    said = psn("evaluate", "run", "--against", "run")
    assert said.code == 0 and "record: runs/eval-run-chain" in said.out
    assert "minus run" in said.out and "no difference shown" in said.out
    again = RunRecord.read("runs/eval-run-chain")
    assert again.evaluations == RunRecord.read("run").evaluations
    # The same question gets the recorded answer; another one is refused in the same folder.
    assert psn("evaluate", "run").out.endswith("record: runs/eval-run-chain\n")
    refused = psn("evaluate", "run", "--samples", 8)
    assert refused.code == 2 and "runs/eval-run-chain was made with samples 4, and not 8" in refused.err
    base = psn("evaluate", "--task", "chain", "--samples", 0)
    assert base.code == 0 and "record: runs/eval-base-chain" in base.out and "pass@256" in base.out


def test_a_task_at_another_difficulty(psn):
    """Reward for the rare rule at the first step only: the base succeeds now and then."""
    words = ["--difficulty", "consistency=1", "--task", "rules", "--samples", 64, "--eval-problems", 3]
    said = psn("evaluate", *words)
    assert said.code == 0
    record = RunRecord.read("runs/eval-base-rules").evaluations
    assert record.last[0].exact > 0.01 and record.last[0].total_solutions == 2**5
    shipped = load_split("rules", "eval")[:3]
    assert [r.problem for r in record.last] == [get_task("rules").prompt(p) for p in shipped]


def test_problems_of_ones_own(psn, tmp_path):
    task = get_task("rules")
    mine = task.generate(7, 5)
    write_problems(tmp_path / "mine.jsonl", task, mine)
    words = ["--task", "rules", "--samples", 0, "--eval-file", "mine.jsonl"]
    assert psn("evaluate", *words).code == 0
    record = RunRecord.read("runs/eval-base-rules").evaluations
    assert [r.problem for r in record.last] == [task.prompt(p) for p in mine]
    said = psn("train", *words, "--train-file", "mine.jsonl", "--steps", 1, "--prompts", 2, "--out", "run")
    assert said.code == 0 and RunRecord.read("run").settings.train_file == "mine.jsonl"


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


# --- mistakes -------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path):
    """Folders and files that are not what they should be."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "broken.jsonl").write_text('{"digits": [1, 2, 3, 4, 5, 6]}\n{"digits": [1, 2, 3\n')
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "cut").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base_folder("rules") / name, tmp_path / "cut")
    whole = (base_folder("rules") / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "comparison.json").write_text("{")
    return tmp_path


CHAIN_BASE = base_folder("chain")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train --sgima 1", "unknown flag '--sgima' (did you mean '--sigma'?); see psn-tutorial train --help"),
        ("train rules", "unknown word 'rules'; see psn-tutorial train --help"),
        ("train --sigma=x", "argument --sigma: must be a finite number, got 'x'"),
        ("train --sigma -1", "sigma must be >= 0, got -1.0"),
        ("train --steps 0", "steps must be a whole number >= 1, got 0"),
        ("train --steps", "argument --steps: expected one argument"),
        ("train --correction tokn", "correction must be one of 'token', 'sequence', 'none', got 'tokn' (did you"),
        ("train --group 1", "group must be a whole number >= 2, got 1"),
        ("train --draws 3", "draws must divide the 512 rollouts of a step, got 3"),
        ("train --task rles", "task must be one of 'countdown', 'rules', 'chain', 'math', got 'rles' (did you mean"),
        ("train --difficulty nmbers=3", "task countdown has no field 'nmbers' (did you mean 'numbers'?)"),
        ("train --difficulty numbers", "argument --difficulty: must be NAME=VALUE, once each, got 'numbers'"),
        ("train --samples 0", "samples must be >= 1: countdown has no exact probabilities, got 0"),
        ("train --task rules --sigma 1 --targets layers.7", "targets"),
        ("train --task rules --sigma 1 --targets (", "targets"),
        ("train --base nowhere", "checkpoint must be a folder with a config.json"),
        ("train --base empty", "checkpoint must be a folder with a config.json"),
        ("train --base cut --task rules", "checkpoint 'cut' cannot be loaded"),
        (f"train --base {CHAIN_BASE}", "the policy does not know 107 of the words of countdown, such as '0'"),
        ("train --task rules --train-file broken.jsonl", "broken.jsonl line 2 is not JSON"),
        ("train --task rules --eval-file broken.jsonl", "broken.jsonl line 2 is not JSON"),
        ("train --task rules --train-file none.jsonl", "none.jsonl holds no problems"),
        ("train --task rules --train-file nowhere.jsonl", "nowhere.jsonl cannot be read: No such file"),
        ("train --task rules --eval-problems 101", "eval_problems must be <= 100, the problems there are, got 101"),
        ("train --task chain --out taken", "the run folder taken already exists and is not empty"),
        ("train --task chain --out file", "the run folder file cannot be made: a file of that name exists"),
        ("train --resume nowhere", "there is no run folder nowhere"),
        ("train --resume taken", "taken is not a run folder: it has no config.json"),
        ("train --resume taken --lr 1", "--resume takes the settings from the folder: leave out --lr"),
        ("train --preset quick", "--preset needs --task, one of rules, countdown, got None"),
        ("train --preset quik --task rules", "preset must be one of quick, demo, full, qlora, got 'quik' (did you"),
        ("train --preset quick --task rules --arm nps", "arm must be one of grpo, hot, psn, got 'nps' (did you"),
        ("evaluate nowhere", "checkpoint must be a folder with a config.json"),
        ("evaluate --task rules --against empty", "empty is not a run folder: it has no config.json"),
        ("evaluate --task chain --out taken", "the run folder taken already exists and is not empty"),
        ("evaluate --temperature 0", "temperature must be > 0, got 0.0"),
        ("compare --preset big", "preset must be one of quick, demo, full, qlora, got 'big'"),
        ("compare --preset quick --out taken", "taken already exists and holds no comparison"),
        ("compare --preset quick --out file", "file already exists and holds no comparison"),
        ("compare --resume empty", "empty holds no comparison: it has no comparison.json"),
        ("compare --resume half", "half/comparison.json, line 1: not valid JSON"),
        ("compare --resume half --seeds 1", "--resume takes the settings from the folder: leave out --seeds"),
        ("compare --file nowhere.json", "there is no file nowhere.json"),
        ("compare --file nowhere.json --preset quick", "--preset and --file cannot both say what to compare"),
        ("compare --preset quick --experiment rule", "experiment must be one of 'rules', 'countdown', got 'rule'"),
        ("compare --preset quick --arms pns", "arm must be one of 'grpo', 'hot', 'psn', got 'pns' (did you"),
        ("compare --preset quick --seeds one", "argument --seeds: must be a whole number, got 'one'"),
        ("compare --preset quick --seeds 1 1", "seeds must be different numbers, at least one, got (1, 1)"),
        ("compare --preset quick --base b", "base serves one experiment, and there are rules, countdown"),
        ("compare --preset quick --experiment rules --base nowhere", "checkpoint must be a folder with a config"),
        ("report nowhere", "nowhere holds no comparison: it has no comparison.json"),
        ("report", "the following arguments are required: FOLDER"),
        ("pretrain --model-heads 0", "heads must be a whole number >= 1, got 0"),
        ("pretrain --task chain --out taken", "taken already exists and is not empty; choose another folder"),
        ("pretrain --task chain --record taken", "taken already exists and is not empty; choose another folder"),
        ("pretrain --resume taken", "taken is not a run folder: it has no config.json"),
        ("doctor --onlin", "unknown flag '--onlin'"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(psn, places, words, sentence):
    before = sorted(path for path in places.rglob("*"))
    said = psn(*words.split())
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("psn-tutorial: ") and said.err.count("\n") == 1
    assert sentence in said.err and "Traceback" not in said.err
    assert sorted(path for path in places.rglob("*")) == before
    assert (places / "taken" / "thesis.txt").read_text() == "years of work"


def test_a_filter_that_matches_nothing_names_it(psn):
    said = psn("train", "--task", "rules", "--sigma", 1, "--targets", "layers.7")
    assert "'layers.7'" in said.err and said.code == 2


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
        "the checkpoints before it are kept; when that is mended, go on with: psn-tutorial train --resume run"
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
        "when that is mended, go on with: psn-tutorial train --resume run"
    )
    assert not any(p.name in ("half", "policy") for p in Path("run").rglob("*"))
    monkeypatch.undo()


def test_other_errors_of_the_system_are_sentences_too(psn, monkeypatch):
    for error, sentence in (
        (PermissionError(errno.EACCES, "Permission denied", "secret"), "psn-tutorial: secret: Permission denied\n"),
        (OSError("odd"), "psn-tutorial: odd\n"),
        (MemoryError(), "psn-tutorial: out of memory; a smaller --micro-batch or --samples needs less\n"),
    ):
        monkeypatch.setattr("psn_tutorial.cli.doctor.run", lambda words, error=error: (_ for _ in ()).throw(error))
        said = psn("doctor")
        assert (said.code, said.err) == (2, sentence)


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
    shutil.copytree(CHAIN_BASE, tmp_path / "base")
    psn("train", *TINY, "--base", "base", "--out", "run")
    state = load(tmp_path / "base")[0]
    with torch.no_grad():
        next(state.parameters()).add_(1e-3)
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(CHAIN_BASE, tmp_path / "base")
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


def test_a_reader_that_leaves_early_is_no_error():
    child = process("doctor", "--offline", "--json")
    child.stdout.close()
    err = child.stderr.read()
    assert (child.wait(600), err) == (141, "")


# --- stopping and going on --------------------------------------------------------------------------


def test_resume_of_a_finished_run_changes_nothing(psn):
    psn("train", *NOISY, "--out", "run")
    before = weights("run"), timeless("run"), EvaluationRecord.read("run/eval.json")
    said = psn("train", "--resume", "run")
    assert said.code == 0 and said.out.endswith("run: run    policy: run/policy\n")
    assert torch.equal(before[0], weights("run"))
    assert before[1:] == (timeless("run"), EvaluationRecord.read("run/eval.json"))


def wait_for(path, lines, child):
    deadline = time.monotonic() + 600
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
        time.sleep(0.01)


LONG = [*NOISY, "--steps", "12", "--save-every", "5", "--eval-every", "4"]


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


def stopped_after(steps):
    """A Stop that is asked for when so many steps are taken."""

    class Planned(Stop):
        taken = 0

        @property
        def asked(self):
            self.taken += 1
            return signal.SIGTERM if self.taken >= steps else None

        @asked.setter
        def asked(self, value):
            pass

    return Planned()


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


def test_a_job_can_be_followed_from_python(tmp_path):
    config = RunConfig(task="chain", steps=2, prompts=2, group=4, samples=0)
    job = TrainingJob.start(tmp_path / "run", config)
    with Stop() as stop:
        follow(job, stop, "run", bar=True)
    assert RunRecord.read(tmp_path / "run").finished
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["command"] is None
