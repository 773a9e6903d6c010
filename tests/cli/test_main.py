"""Help, mistakes and exit codes of all commands."""

import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import psn_tutorial
from psn_tutorial.cli import COMMANDS
from psn_tutorial.models.bases import base_folder
from tests.cli.tiny_runs import process


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
        "psn-tutorial: the command must be one of pretrain, preflight, train, evaluate, probe, compare, study, report, "
        "notebooks, doctor, got 'trian' (did you mean 'train'?)\n"
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


@pytest.fixture
def places(tmp_path):
    """Folders and files that are not what they should be."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "broken.jsonl").write_text('{"digits": [1, 2, 3, 4, 5, 6]}\n{"digits": [1, 2, 3\n')
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "odd").mkdir()
    for name in ("config.json", "provenance.json"):
        (tmp_path / "odd" / name).write_text("{}")
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
        (
            "train --task rles",
            "task must be one of 'countdown', 'rules', 'chain', 'math', 'judged', 'habit', got 'rles' (did you",
        ),
        ("train --difficulty nmbers=3", "task countdown has no field 'nmbers' (did you mean 'numbers'?)"),
        ("train --difficulty numbers", "argument --difficulty: must be NAME=VALUE, once each, got 'numbers'"),
        ("train --samples 0", "samples must be >= 1: countdown has no exact probabilities, got 0"),
        ("train --task rules --sigma 1 --targets layers.7", "targets 'layers.7' matches no parameter of the model"),
        (
            "train --task rules --sigma 1 --targets (",
            "targets must be one of mlp, attention, embeddings, head, norms, all",
        ),
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
        ("train --resume=", "resume must not be empty; see psn-tutorial train --help"),
        ("train --eval-file=", "eval_file must not be empty"),
        ("evaluate --against=", "against must not be empty"),
        ("train --resume taken", "taken is not a run folder: it has no config.json"),
        ("train --resume taken --lr 1", "--resume takes the settings from the folder: leave out --lr"),
        ("train --preset quick", "--preset needs --task, one of rules, countdown, got None"),
        (
            "train --preset quik --task rules",
            "preset must be one of quick, demo, full, qlora, qwen, got 'quik' (did you",
        ),
        ("train --preset quick --task rules --arm nps", "arm must be one of grpo, hot, psn, got 'nps' (did you"),
        ("evaluate nowhere", "checkpoint must be a folder with a config.json"),
        ("evaluate --task rules --against empty", "empty is not a run folder: it has no config.json"),
        ("evaluate --task chain --out taken", "the run folder taken already exists and is not empty"),
        ("evaluate --temperature 0", "temperature must be > 0, got 0.0"),
        ("compare --preset big", "preset must be one of quick, demo, full, qlora, qwen, got 'big'"),
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
        ("pretrain --model-layers 99999999999", "layers must be a whole number <= 16384, got 99999999999"),
        ("pretrain --task=--", "task must be a text, got []"),
        ("pretrain --resume taken", "taken is not a run folder: it has no config.json"),
        ("pretrain --resume odd", "odd is no run of pre-training"),
        ("train --lora-rank 99999999999", "lora_rank must be a whole number <= 16384, got 99999999999"),
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


def test_other_errors_of_the_system_are_sentences_too(psn, monkeypatch):
    for error, sentence in (
        (PermissionError(errno.EACCES, "Permission denied", "secret"), "psn-tutorial: secret: Permission denied\n"),
        (OSError("odd"), "psn-tutorial: odd\n"),
        (MemoryError(), "psn-tutorial: out of memory; a smaller --micro-batch or --samples needs less\n"),
    ):
        monkeypatch.setattr("psn_tutorial.cli.doctor.run", lambda words, error=error: (_ for _ in ()).throw(error))
        said = psn("doctor")
        assert (said.code, said.err) == (2, sentence)


def test_a_reader_that_leaves_early_is_no_error():
    child = process("doctor", "--offline", "--json")
    child.stdout.close()
    err = child.stderr.read()
    assert (child.wait(600), err) == (141, "")
