"""What a preflight says of runs that would fail in silence."""

import json
import re

import pytest
import torch
from transformers import Qwen2ForCausalLM

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

from psn_tutorial.cli import main  # noqa: E402
from psn_tutorial.config import RunConfig  # noqa: E402
from psn_tutorial.jobs.policies import save_policy  # noqa: E402
from psn_tutorial.models.policy import Policy  # noqa: E402
from psn_tutorial.models.tiny import load  # noqa: E402
from psn_tutorial.preflight import run as module  # noqa: E402
from psn_tutorial.preflight.budget import SHAPES, Load  # noqa: E402
from psn_tutorial.preflight.run import preflight  # noqa: E402
from psn_tutorial.tasks.files import write_problems  # noqa: E402
from psn_tutorial.tasks.math import Math  # noqa: E402
from psn_tutorial.tasks.questions import Problem


@pytest.fixture
def settings(language_model, tmp_path):
    path = tmp_path / "problems.jsonl"
    write_problems(path, Math(), [Problem(f"What is {n} + {n}?", str(2 * n)) for n in range(8)])
    return {
        "task": "math",
        "base": str(language_model),
        "difficulty": {"completion": 12},
        "train_file": str(path),
        "eval_file": str(path),
        "allow_overlap": True,
        "prompts": 2,
        "group": 4,
        "sigma": 0.01,
        "lora_rank": 4,
        "four_bit": True,
        "steps": 100,
    }


def found(settings, **changes):
    return {finding.name: finding for finding in preflight(RunConfig(**{**settings, **changes}))}


def test_a_random_language_model_is_not_worth_a_run(settings):
    findings = found(settings)
    assert findings["chat template"].state == "good" and findings["chat template"].value == "applied"
    assert findings["log-probs"].state == "good"
    assert findings["length"].state == "bad" and "cut off at 12 tokens" in findings["length"].value
    assert findings["contrast"].state == "bad" and "all answers are wrong" in findings["contrast"].advice
    assert findings["noise"].state == "good" and "0.01 realised" in findings["noise"].value
    assert re.match(r"about 0\.\d GB", findings["memory"].value)
    assert "for 100 steps" in findings["time"].value


def test_worked_examples_in_the_prompt_are_told(settings):
    assert found(settings)["chat template"].value == "applied"
    shown = found(settings, difficulty={"style": "line", "examples": 2, "completion": 12})["chat template"]
    assert shown.value == "applied, with 2 worked examples"


def test_a_task_that_is_no_conversation_is_told_of_a_chat_model(settings, monkeypatch):
    monkeypatch.delattr(Math, "messages")
    monkeypatch.setattr(Math, "prompt", lambda self, problem: problem.question)
    assert found(settings)["chat template"].state == "bad"


def test_a_trainer_that_reads_something_else_is_told(settings, monkeypatch):
    honest = module.read_completions

    def hotter(model, rollouts, rows, temperature):
        return honest(model, rollouts, rows, 2 * temperature)

    monkeypatch.setattr(module, "read_completions", hotter)
    finding = found(settings)["log-probs"]
    assert finding.state == "bad" and "importance weights would be wrong" in finding.advice


def test_a_model_that_computes_something_else_in_transformers_is_told(settings, monkeypatch):
    """What our own forward pass leaves out is silent otherwise: here a softcap that it knows nothing of."""
    assert "sampler and transformers by" in found(settings)["log-probs"].value
    honest = Qwen2ForCausalLM.forward

    def capped(model, *arguments, **options):
        output = honest(model, *arguments, **options)
        output.logits = 0.1 * torch.tanh(output.logits / 0.1)
        return output

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", capped)
    finding = found(settings)["log-probs"]
    assert finding.state == "bad" and "computes something that the sampler does not know of" in finding.advice


def test_the_tokens_that_end_an_answer_are_named(settings, tmp_path):
    assert found(settings)["length"].value.endswith("12 tokens; they end with '<|im_end|>'")
    model, tokenizer = load(settings["base"])
    model.generation_config.eos_token_id = [0, 2]
    base = {"base": str(tmp_path / "base")}
    save_policy(Policy(model, tokenizer), tmp_path / "base")
    assert found(settings | base)["length"].value.endswith("they end with '<|im_end|>' or '<|endoftext|>'")
    tokenizer.eos_token = model.generation_config.eos_token_id = None
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }} {% endfor %}"
    base = {"base": str(tmp_path / "endless")}
    save_policy(Policy(model, tokenizer), tmp_path / "endless")
    endless = found(settings | base)["length"]
    assert endless.state == "bad" and "100% of the answers are cut off" in endless.value
    assert endless.value.endswith("no token ends them")


def test_answers_longer_than_the_model_was_made_for_are_told(settings):
    finding = found(settings, difficulty={"completion": 600}, prompts=1, group=2)["length"]
    assert finding.state == "bad" and "made for at most 512 tokens" in finding.advice
    assert "tokens with the prompt" in finding.value
    assert "512" not in found(settings)["length"].advice


def test_noise_that_the_weights_are_too_coarse_for_is_told(settings):
    coarse = {"four_bit": False, "compute": "bfloat16", "carrier": "weights"}
    finding = found(settings, sigma=1e-5, **coarse)["noise"]
    assert finding.state == "bad" and "too coarse" in finding.advice
    share = int(re.search(r"(\d+)% of the weights stay as they are", finding.value)[1])
    assert share > 80
    assert found(settings, sigma=1e-2, **coarse)["noise"].state == "good"
    assert found(settings, sigma=1e-5, four_bit=False, compute="float32")["noise"].state == "good"


def test_noise_that_grows_is_looked_at_where_it_is_largest(settings):
    growing = {"schedule": "annealed", "sigma_end": 0.02}
    value = found(settings, sigma=0.0, **growing)["noise"].value
    assert value.startswith("sigma 0.02, 0.0") and not value.startswith("sigma 0.02, 0 realised")
    assert found(settings, sigma=0.03, **growing)["noise"].value.startswith("sigma 0.03, ")


def test_what_gets_no_noise_although_it_was_asked_for_is_told(settings):
    assert "gives none" not in found(settings)["noise"].value
    assert found(settings, targets="all")["noise"].value.endswith("gives none to biases, embeddings, norms")


def test_too_much_noise_is_told(settings):
    assert found(settings, sigma=0.0, temperature=0.01, sampling_temperature=1.0)["noise"].state == "bad"
    assert "noise" not in found(settings, sigma=0.0)


def test_times_are_those_of_the_second_step(settings, monkeypatch):
    """The first one pays for what a process does once. 8 answers in 2 s: 8 x 40 answers take 80 s, each time."""
    honest, steps = module.Trainer.step, []

    def timed(trainer):
        steps.append(trainer)
        slower = 100 if len(steps) % 2 else 1
        return honest(trainer) | {"seconds": 3.0 * slower, "seconds_sample": 2.0 * slower}

    monkeypatch.setattr(module.Trainer, "step", timed)
    once = found(settings, samples=40, batch=64)
    assert once["time"].value.startswith("3 s a step (sample 67%") and "so 05:00 for 100 steps" in once["time"].value
    assert once["evaluation"].value.endswith("; 01:20 at this speed")
    twice = found(settings, samples=40, batch=64, eval_every=50)["evaluation"]
    assert twice.value.endswith(", 2 times; 02:40 at this speed")


def test_an_evaluation_that_costs_more_than_the_training_is_told(settings, monkeypatch):
    assert found(settings, samples=4, batch=8)["evaluation"].value.startswith("8 problems x 4 answers, 8 at once: ")
    many = found(settings, samples=40_000, batch=2**20, eval_every=50)["evaluation"]
    assert re.match(r"8 problems x 40000 answers, 320000 at once: about \d+\.\d GB, 2 times; \d+:", many.value)
    assert "evaluation" not in found(settings, evaluate=False)
    properties = type("Properties", (), {"total_memory": 8 * 2**30})()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**30)
    findings = found(settings, samples=40_000, batch=2**20, device="cpu")
    assert findings["memory"].state == "good" and findings["memory"].value.endswith("; 1.0 GB were used")
    assert findings["evaluation"].state == "bad"
    assert findings["evaluation"].advice == "This card has 8 GB: smaller --batch, --samples or --eval-problems."


def test_the_floor_of_each_card_that_is_large_enough_is_told(settings):
    assert "cards" not in found(settings)  # a tiny model takes no time at all there
    shape, load = SHAPES["qwen2.5-1.5b"], Load(rollouts=64, micro_batch=8, checkpointing=False)
    (finding,) = module._cards(shape, load)
    assert "8 GB" not in finding.value.replace("80 GB", "") and "80 GB (A100)" in finding.value
    assert "a real one takes a multiple of it" in finding.value


def test_nothing_is_in_the_way_of_the_tiny_rule_task(capsys):
    code = main(["preflight", "--task", "rules", "--difficulty", "consistency=1", "--prompts", "8", "--group", "8"])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert "every answer has 12 tokens" in shown and "Nothing is in the way of: psn-tutorial train --task" in shown


def test_the_command_answers_in_json_and_with_its_exit_code(settings, capsys):
    words = [
        "--task",
        "math",
        "--base",
        settings["base"],
        "--train-file",
        settings["train_file"],
        "--eval-file",
        settings["eval_file"],
        "--allow-overlap",
        "--difficulty",
        "completion=4",
        "--prompts",
        "2",
        "--group",
        "4",
        "--lora-rank",
        "2",
        "--four-bit",
    ]
    assert main(["preflight", *words, "--json"]) == 1
    names = [finding["name"] for finding in json.loads(capsys.readouterr().out)]
    assert names == ["chat template", "log-probs", "length", "contrast", "memory", "time", "evaluation"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--four-bit"], "lora_rank must be >= 1 with four_bit"),
        (["--task", "math", "--lora-rank", "4"], "word_problems has no shipped base policy"),
        (["--device", "cuda"], "device must be cpu or auto here"),
        (["--compute", "bfloat16"], "compute must be 'float32' without lora_rank"),
        (["--draws", "2"], "draws must stay 1 without noise (sigma 0), got 2"),
    ],
)
def test_what_cannot_start_is_a_sentence(words, sentence, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["preflight", *words]) == 2
    assert sentence in capsys.readouterr().err
