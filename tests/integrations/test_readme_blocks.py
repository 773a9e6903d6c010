"""The Python blocks of the README run: a module of one's own at the command line, and PSN in a script of TRL."""

import json
import re
import shlex
import sys

import pytest

trl = pytest.importorskip("trl")

import datasets  # noqa: E402

from psn_tutorial.cli import main  # noqa: E402
from psn_tutorial.integrations.trl import PSNGRPOTrainer  # noqa: E402
from psn_tutorial.models.bases import base_folder  # noqa: E402
from psn_tutorial.schedulers import ConstantSigma  # noqa: E402
from tests.integrations.trainers import PROMPTS, ROOT, SETTINGS, logged  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M)


def test_there_are_two_blocks():
    assert ["def reward(" in BLOCKS[0], "GRPOTrainer(" in BLOCKS[1]] == [True, True] and len(BLOCKS) == 2


def test_the_module_is_used_by_the_command_below_it(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(BLOCKS[0])
    rows = [{"prompt": f"Ada has {n} coins. How many coins are there?", "answer": str(n)} for n in range(1, 11)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    (command,) = re.findall(r"`psn-tutorial (train --task judged[^`]*)`", README)
    words = shlex.split(command.replace("my-base", str(base_folder("sums"))))
    small = "--prompts 2 --group 4 --steps 3 --samples 2 --out runs/mine".split()
    assert main([*words, *small]) == 0
    steps = [json.loads(line) for line in (tmp_path / "runs/mine/steps.jsonl").read_text().splitlines()]
    growth = [1.05 if step["reward"] < 0.5 else 0.95 for step in steps]
    assert [step["sigma"] for step in steps] == pytest.approx([0.01, 0.01 * growth[0], 0.01 * growth[0] * growth[1]])


def test_a_script_of_trl_has_the_noise_by_its_imports(tmp_path, monkeypatch, language_model):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict({"prompt": PROMPTS}))
    small = SETTINGS | {"max_steps": 1, "output_dir": str(tmp_path)}
    del small["num_generations"]
    script = BLOCKS[1].replace('"Qwen/Qwen2.5-0.5B-Instruct"', repr(str(language_model)))
    script = script.replace('output_dir="runs/short"', f"**{small!r}")
    assert script.count(str(language_model)) == 1 and script.count("**{") == 1
    made: dict = {}
    exec(compile(script, "README.md", "exec"), made)
    trainer = made["trainer"]
    assert isinstance(trainer, PSNGRPOTrainer) and logged(trainer, "sigma") == [0.001]
    assert not isinstance(trainer.scheduler, ConstantSigma) and trainer.args.draws == 4

    with_trl = re.sub(r"from psn_tutorial.*?# was: (from trl import \w+)", r"\1", script).replace(", draws=4", "")
    assert "psn_tutorial" not in with_trl
    exec(compile(with_trl, "README.md", "exec"), made)  # the script that it was
    assert type(made["trainer"]) is trl.GRPOTrainer
