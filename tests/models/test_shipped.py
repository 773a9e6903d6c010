"""The shipped bases are what their records say, measured again here."""

import random
import re

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2Tokenizer

from psn_tutorial.config import EvaluationConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.metrics import summarise
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.jobs.problems import held_out_problems
from psn_tutorial.models.bases import BASES, base_folder
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.models.qlora import QLoRAConfig, four_bit_layers, load_base
from psn_tutorial.models.tiny import chatml, load
from psn_tutorial.noise import stream
from psn_tutorial.rollout import responses, sample
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task, load_split
from psn_tutorial.tasks.answers import last_box
from psn_tutorial.tasks.files import DATA


def recorded_results(name):
    return EvaluationRecord.read(DATA / "runs" / f"base-{name}" / "eval.json").last


@pytest.mark.parametrize("name", BASES)
def test_its_record_was_made_with_its_settings(name):
    assert RunFolder.open(DATA / "runs" / f"base-{name}").config == to_mapping(BASES[name])


@pytest.mark.parametrize("name", BASES)
def test_it_meets_its_recorded_figures(name):
    config, recorded = BASES[name], recorded_results(name)
    task = get_task(config.task, **config.difficulty)
    problems = held_out_problems(task, EvaluationConfig(task.name, config.difficulty))
    samples = 8 if name == "sums" else 32  # its answers are longer, and read by math-verify
    again = evaluate(load(base_folder(name)), task, problems, samples=samples, seed=1)
    # The record of the sums holds whole conversations; what the user asks stands in each.
    assert all(new.problem in old.problem for new, old in zip(again, recorded, strict=True))
    if name in ("countdown", "sums"):  # other samples: the difference has a standard error that the counts tell
        shares = np.array([r.c / r.n for r in recorded])
        error = np.sqrt((shares * (1 - shares) * (1 / samples + 1 / 256)).sum()) / len(shares)
        assert abs(np.mean([r.c / r.n for r in again]) - shares.mean()) < 4 * error
    else:
        np.testing.assert_allclose([r.exact for r in again], [r.exact for r in recorded], rtol=1e-2)


def test_countdown_leaves_head_room():
    figures = summarise([recorded_results("countdown")], ks=[1, 256])
    assert 0.05 < figures["pass@1"].value < 0.3 and figures["pass@256"].high < 0.95


def test_the_rule_base_has_the_skill_for_every_rule_and_the_preference_for_one():
    """Along the all-A and the all-B answer: the rule is chosen by its prior, the value is right whatever the rule."""
    task, (model, tokenizer) = get_task("rules"), load(base_folder("rules"))
    problems = load_split("rules", "eval")
    for letter, prior in (("A", 0.9), ("B", 0.1)):
        texts = [f"{task.prompt(p)} {task.completion(letter * 6, p)}" for p in problems]
        ids = torch.tensor(tokenizer(texts)["input_ids"])
        with torch.no_grad():
            logps = forward(model, ids[:, :-1], last=12).log_softmax(-1)
        chances = logps.gather(2, ids[:, -12:, None])[..., 0].exp()
        assert (chances[:, ::2].mean(0) - prior).abs().max() < 0.02
        assert chances[:, 1::2].mean(0).min() > 0.99


# The language model for worded sums

SUMS = get_task("math", **BASES["sums"].difficulty)


def sampled(model, tokenizer, problems, group):
    """The rollouts, their texts, and how many of them are right: read from the box, not by math-verify."""
    prompts = encode(tokenizer, asked(tokenizer, SUMS, problems))
    rollouts = sample(Policy(model, tokenizer), prompts, group, SUMS.completion, stream(0, "test"))
    texts = responses(tokenizer, rollouts)
    right = [last_box(text) == problems[i // group].answer for i, text in enumerate(texts)]
    return rollouts, texts, np.array(right).reshape(len(problems), group)


def test_the_language_model_is_a_qwen_with_its_chat_template():
    pytest.importorskip("jinja2")
    tokenizer = AutoTokenizer.from_pretrained(base_folder("sums"))
    assert type(tokenizer) is Qwen2Tokenizer
    for problem in SUMS.problems("eval")[:5]:
        [prompt] = asked(tokenizer, SUMS, [problem])
        assert prompt == chatml(SUMS.messages(problem))  # as in its pre-training
        assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt
        # numbers digit by digit, as Qwen reads them; no answer needs more than its completion
        assert not any(len(token) > 1 and any(map(str.isdigit, token)) for token in tokenizer.tokenize(prompt))
    for problem in SUMS.problems("train") + SUMS.problems("eval"):
        shown = SUMS.demonstration(problem, random.Random(0)).text
        [prompt] = asked(tokenizer, SUMS, [problem])
        assert len(tokenizer(prompt)["input_ids"]) + SUMS.completion <= BASES["sums"].model.positions
        assert len(tokenizer(shown)["input_ids"]) + 1 <= SUMS.completion


def test_the_language_model_answers_in_a_box_and_ends():
    model, tokenizer = load(base_folder("sums"))
    rollouts, texts, _ = sampled(model, tokenizer, SUMS.problems("eval")[:20], 8)
    ended = (rollouts.tokens == tokenizer.eos_token_id).any(1)
    assert ended.float().mean() > 0.95
    assert np.mean([last_box(text) is not None and last_box(text).isdigit() for text in texts]) > 0.95


def test_transformers_own_generation_reads_it_alike():
    model, tokenizer = load(base_folder("sums"))
    [problem] = SUMS.problems("eval")[:1]
    prompt = tokenizer(asked(tokenizer, SUMS, [problem]), return_tensors="pt")
    [row] = model.generate(**prompt, max_new_tokens=SUMS.completion, do_sample=False)
    answer = row[prompt["input_ids"].shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id
    assert re.search(r"The answer is \\boxed\{[0-9]+\}\.<\|im_end\|>$", tokenizer.decode(answer))


def test_the_language_model_knows_how_to_work_it_out_and_mostly_guesses():
    model, tokenizer = load(base_folder("sums"))
    problems = [problem for problem in SUMS.problems("eval") if problem.level == 2]
    _, texts, right = sampled(model, tokenizer, problems, 32)
    worked = np.array(["=" in text for text in texts]).reshape(right.shape)
    assert abs(worked.mean() - SUMS.worked) < 0.1
    assert right[worked].mean() > 2 * right[~worked].mean()


def test_the_language_model_leaves_something_to_learn():
    record = EvaluationRecord.read(DATA / "runs" / "base-sums" / "eval.json")
    figures = summarise([record.last], ks=[1, 16])
    assert 0.2 < figures["pass@1"].value < 0.45 and 0.7 < figures["pass@16"].value < 1


def test_the_language_model_survives_four_bits():
    pytest.importorskip("bitsandbytes")
    model, tokenizer = load_base(QLoRAConfig(str(base_folder("sums")), compute="float32"))
    assert len(four_bit_layers(model)) == 7 * BASES["sums"].model.layers
    _, _, right = sampled(model, tokenizer, SUMS.problems("eval")[:60], 8)
    assert right.mean() > 0.1
    assert np.mean((right.sum(1) > 0) & (right.sum(1) < 8)) > 0.3  # groups with contrast: GRPO has a gradient


def test_a_base_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr("psn_tutorial.models.bases.DATA", tmp_path)
    for name, config in BASES.items():
        sentence = f"policy of {name} is not beside .*`psn-tutorial pretrain --task {config.task} "
        with pytest.raises(UserError, match=sentence):
            base_folder(name)
    with pytest.raises(UserError, match="math has no shipped base policy: give a language model"):
        base_folder("math")
