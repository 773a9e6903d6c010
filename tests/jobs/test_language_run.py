"""A 4-bit language model on word problems from the command line: train, kill, resume, evaluate, export, compare."""

import json
import shutil

import pytest
import torch
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

from psn_tutorial.cli import main  # noqa: E402
from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.jobs import evaluating, training  # noqa: E402
from psn_tutorial.jobs.policies import (  # noqa: E402
    device_of,
    fingerprint,
    load_policy,
    policy_and_step,
    save_policy,
    starting_policy,
)
from psn_tutorial.jobs.records import RunRecord  # noqa: E402
from psn_tutorial.models.decoder import forward  # noqa: E402
from psn_tutorial.models.policy import Policy  # noqa: E402
from psn_tutorial.models.qlora import QLoRAConfig, four_bit_layers, learned_weights, load_base  # noqa: E402
from psn_tutorial.models.tiny import load  # noqa: E402
from psn_tutorial.runs.folder import RunFolder  # noqa: E402
from psn_tutorial.tasks.base import Verdict  # noqa: E402
from psn_tutorial.tasks.files import write_problems
from psn_tutorial.tasks.math import Math  # noqa: E402
from psn_tutorial.tasks.questions import Problem


@pytest.fixture
def psn(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder; a wrong model is right half of the time, so that it learns something."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        Math, "verify_many", lambda self, texts, problems: [Verdict(sum(map(ord, t)) % 2 == 0, "") for t in texts]
    )
    write_problems(tmp_path / "p.jsonl", Math(), [Problem(f"What is {n} + {n}?", str(2 * n)) for n in range(6)])

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def words(language_model):
    return [
        "train",
        "--task",
        "math",
        "--base",
        language_model,
        "--difficulty",
        "completion=8",
        "--train-file",
        "p.jsonl",
        "--eval-file",
        "p.jsonl",
        "--allow-overlap",
        "--lora-rank",
        4,
        "--four-bit",
        "--sigma",
        0.01,
        "--draws",
        2,
        "--prompts",
        3,
        "--group",
        4,
        "--steps",
        4,
        "--samples",
        6,
        "--batch",
        18,
        "--save-every",
        2,
        "--lr",
        0.001,
    ]


def timeless(folder):
    return [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in RunFolder.open(folder).steps()]


def counts(folder):
    return [(r.problem, r.n, r.c) for r in RunRecord.read(folder).evaluations.last]


def test_train_leaves_an_adapter_that_peft_puts_onto_the_base(psn, words, language_model):
    from peft import PeftModel

    code, out, err = psn(*words, "--out", "run")
    assert code == 0 and out.endswith("run: run    policy: run/policy\n") and "pass@1" in out
    assert "run: step 4 of 4, reward 0." in err and "tokens/s" in err
    record = RunRecord.read("run")
    assert record.finished and all(0 < r["reward"] < 1 and r["kl_k3"] > 0 for r in record.steps)
    (policy, tokenizer), step = policy_and_step("run")
    assert step == 4 and len(four_bit_layers(policy)) == 14
    assert any(p.abs().max() > 0 for name, p in learned_weights(policy).items() if "lora_B" in name)
    base, _ = load_base(QLoRAConfig(str(language_model), compute="float32"))
    exported = PeftModel.from_pretrained(base, "run/policy")
    ids = torch.tensor([tokenizer("What is 7 + 7?")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(forward(exported, ids), forward(policy, ids))


@pytest.mark.parametrize("family", ["smollm2", "llama"])
def test_models_without_a_padding_token_of_their_own_run(psn, words, language_model, tmp_path, family):
    """SmolLM2 pads with the token that ends its turns; Llama has no padding token, and a beginning-of-text token that
    its tokenizer writes and its template too. Both are Llamas. 4 steps with an adapter, and an evaluation."""
    _, qwen = load(language_model)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=qwen.backend_tokenizer, eos_token="<|im_end|>")
    tokenizer.chat_template, marks = qwen.chat_template, {"pad_token": "<|im_end|>"}
    if family == "llama":
        marks = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer.add_special_tokens(marks)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=2, **sizes))
    save_policy(Policy(model, tokenizer), tmp_path / "base")
    assert load(tmp_path / "base").tokenizer.pad_token == (None if family == "llama" else "<|im_end|>")
    code, out, err = psn(*[tmp_path / "base" if word == language_model else word for word in words], "--out", "run")
    assert code == 0 and "pass@1" in out, err
    (policy, tokenizer), step = policy_and_step("run")
    assert step == 4 and tokenizer.pad_token == (None if family == "llama" else "<|im_end|>")


def test_a_killed_run_goes_on_to_the_same_end(psn, words, tmp_path):
    assert psn(*words, "--out", "whole")[0] == 0
    shutil.copytree("whole", "killed")
    for gone in ("checkpoints/step-000004", "policy"):
        shutil.rmtree(tmp_path / "killed" / gone)
    (tmp_path / "killed" / "eval.json").unlink()
    assert psn("train", "--resume", "killed")[0] == 0
    assert timeless("killed") == timeless("whole") and counts("killed") == counts("whole")
    assert fingerprint(load_policy("killed")[0]) == fingerprint(load_policy("whole")[0])


def test_a_run_and_the_adapter_it_has_written_are_evaluated_in_four_bits(psn, words):
    psn(*words, "--out", "run")
    assert psn("evaluate", "run")[0] == 0
    assert counts("runs/eval-run-math") == counts("run")
    same = ["--task", "math", "--difficulty", "completion=8", "--eval-file", "p.jsonl", "--samples", 6, "--batch", 18]
    assert psn("evaluate", "run/policy", *same, "--out", "adapter")[0] == 0
    assert counts("adapter") == counts("run")
    sums = [RunRecord.read(folder).config["policy_sha256"] for folder in ("adapter", "runs/eval-run-math")]
    assert sums[0] == sums[1]


def test_arms_of_language_models_are_compared_with_the_base_in_its_four_bits(psn, words, language_model, monkeypatch):
    seen = []
    honest = evaluating.evaluate

    def watched(policy, *rest, **settings):
        seen.append(policy.model)
        return honest(policy, *rest, **settings)

    monkeypatch.setattr(evaluating, "evaluate", watched)
    monkeypatch.setattr(training, "evaluate", watched)
    common = dict(
        base=str(language_model),
        difficulty={"completion": 8},
        train_file="p.jsonl",
        eval_file="p.jsonl",
        allow_overlap=True,
        lora_rank=4,
        four_bit=True,
        prompts=3,
        group=4,
        steps=2,
        samples=6,
        batch=18,
    )
    arms = {"grpo": {"label": "GRPO"}, "psn": {"label": "PSN-GRPO", "changes": {"sigma": 0.01}}}
    experiment = {"task": "math", "question": "Does it run?", "arms": arms, "common": common, "seeds": [3]}
    with open("mine.json", "w") as file:
        json.dump({"sums": experiment}, file)
    code, out, _ = psn("compare", "--file", "mine.json", "--out", "runs/mine")
    assert code == 0 and "PSN-GRPO" in out
    assert [len(four_bit_layers(model)) for model in seen] == [14] * 3
    base = starting_policy(RunRecord.read("runs/mine/sums/grpo/seed-3").settings)[0]
    assert RunRecord.read("runs/mine/sums/base").config["policy_sha256"] == fingerprint(base)


def test_tensorboard_shows_the_records_and_a_resumed_run_takes_back_what_is_done_again(psn, words, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert psn(*words, "--eval-every", 2, "--tensorboard", "--out", "run")[0] == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000004")
    assert psn("train", "--resume", "run", "--tensorboard")[0] == 0
    seen = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    record = RunRecord.read("run")
    for name in ("reward", "ess", "tokens"):
        points = seen.Scalars(f"train/{name}")
        assert [point.step for point in points] == [1, 2, 3, 4]
        assert [point.value for point in points] == pytest.approx([r[name] for r in record.steps])
    points = {point.step: point.value for point in seen.Scalars("eval/pass@1")}
    expected = {step: sum(r.c / r.n for r in results) / 6 for step, results in record.evaluations.steps.items()}
    assert list(points) == [2, 4] and points == pytest.approx(expected)


def test_a_verifier_that_cannot_start_is_told_before_anything_is_written(psn, words, monkeypatch, tmp_path):
    def missing(self, texts, problems):
        raise UserError("math answers are verified by math-verify")

    assert psn(*words, "--steps", 1, "--out", "run")[0] == 0
    monkeypatch.setattr(Math, "verify_many", missing)
    for command in ([*words, "--out", "other"], ["evaluate", "run", "--out", "evaluated"]):
        code, _, err = psn(*command)
        assert code == 2 and "math answers are verified by math-verify" in err
    assert not (tmp_path / "other").exists() and not (tmp_path / "evaluated").exists()


def test_without_tensorboard_a_sentence_says_what_to_install_and_no_run_is_begun(psn, words, monkeypatch, tmp_path):
    import builtins

    honest = builtins.__import__

    def missing(name, *rest):
        if name == "torch.utils.tensorboard":
            raise ImportError(name)
        return honest(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    code, _, err = psn(*words, "--tensorboard", "--out", "run")
    assert code == 2 and err.endswith("--tensorboard needs the package: pip install 'psn-tutorial[tensorboard]'\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_a_sentence(psn):
    assert device_of("auto") == "cpu"
    code, _, err = psn("evaluate", "--task", "chain", "--device", "cuda")
    assert code == 2 and "device must be cpu or auto here: there is no CUDA device, got 'cuda'" in err
