import math
from dataclasses import replace

import pytest
import torch
from transformers import Qwen2Tokenizer

from psn_tutorial.cli import main
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.jobs.policies import save_policy
from psn_tutorial.jobs.pretraining import Pretraining, _loss, _schedule, demonstrations, encoded, tokenizer_for
from psn_tutorial.models.bases import BASES, PretrainConfig, TinyConfig
from psn_tutorial.models.policy import asked, prompt_ids
from psn_tutorial.models.tiny import build_text_tokenizer, build_tokenizer, chatml, load
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import Demonstration, get_task

TINY = TinyConfig(hidden=16, ff=32, heads=2, kv_heads=2)
SMALL = PretrainConfig("chain", model=TINY, problems=1, demonstrations=3000, steps=60, batch=64, lr=1e-2, warmup=5)


def test_the_base_learns_the_prior_of_its_demonstrations():
    """The chain's demonstrations have an entropy of H(.1) nats a token; no model can do better."""
    *_, record = Pretraining(get_task("chain"), SMALL).train()
    best = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    assert record["step"] == 60
    assert record["loss"] == pytest.approx(best, abs=0.06)


def test_loss_falls_on_the_wanted_tokens_only(policy):
    _, _, model = policy()
    ids = torch.randint(3, 16, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(4, 9, dtype=torch.bool)
    mask[1, 5] = mask[3, 8] = True
    logps = model(ids).logits.log_softmax(-1)
    expected = -(logps[1, 4, ids[1, 5]] + logps[3, 7, ids[3, 8]]) / 2
    torch.testing.assert_close(_loss(model, ids, mask), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["countdown", "rules", "chain"])
def test_demonstrations_are_prompts_with_correct_answers(name):
    task = get_task(name)
    config = replace(SMALL, task=name, problems=5 if name != "chain" else 1, demonstrations=40)
    texts = demonstrations(task, config, [])
    tokenizer = tokenizer_for(task, texts)
    ids, mask = encoded(tokenizer, texts)
    assert ids.shape == mask.shape == (40, ids.shape[1])
    for row, wanted in zip(ids, mask, strict=True):
        prompt = row.tolist().index(tokenizer.convert_tokens_to_ids(":")) + 1
        assert not wanted[:prompt].any() and wanted[prompt:].any()
        end = row.tolist().index(tokenizer.eos_token_id)
        assert bool(wanted[end]) == task.ends
        if name == "countdown":
            text = tokenizer.decode(row[:prompt], skip_special_tokens=True)
            numbers, target = text.removesuffix(" :").split(" -> ")
            problem = task.from_json({"numbers": [int(n) for n in numbers.split()], "target": int(target)}, "test")
            assert task.verify(tokenizer.decode(row[prompt:], skip_special_tokens=True), problem).correct


def test_excluded_problems_are_never_demonstrated():
    task = get_task("rules", steps=1)
    hidden = task.generate(0, 6)
    texts = demonstrations(task, replace(SMALL, problems=4, demonstrations=20), hidden)
    prompts = {prompt for prompt, _ in texts}
    assert prompts == {f"{d} :" for d in range(10)} - {task.prompt(problem) for problem in hidden}


def test_demonstrations_in_plain_language_are_chat_turns_that_end():
    task = get_task("math", source="sums")
    config = replace(SMALL, task="math", problems=30, demonstrations=40)
    texts = demonstrations(task, config, task.problems("eval"))
    tokenizer = tokenizer_for(task, texts)
    ids, mask = encoded(tokenizer, texts)
    problems = task.generate(config.seed, 30, exclude=task.problems("eval"))
    for i, (row, wanted) in enumerate(zip(ids, mask, strict=True)):
        problem = problems[i % 30]
        start, stop = wanted.nonzero().min(), wanted.nonzero().max() + 1
        assert wanted[start:stop].all() and (row[stop:] == tokenizer.pad_token_id).all()
        assert tokenizer.decode(row[:start]) == asked(tokenizer, task, [problem])[0] == chatml(task.messages(problem))
        answer = rf"{problem.solution} The answer is \boxed{{{problem.answer}}}."
        assert tokenizer.decode(row[start:stop]) == answer + "<|im_end|>"
        assert [row[:start].tolist()] == prompt_ids(tokenizer, asked(tokenizer, task, [problem]))  # as sampled
        assert row[stop - 1] == tokenizer.eos_token_id


def test_the_command_makes_a_language_model_from_its_seed(tmp_path, monkeypatch, capsys):
    few = lambda policy, task, problems, *rest, **named: evaluate(policy, task, problems[:2], samples=1)  # noqa: E731
    monkeypatch.setattr("psn_tutorial.jobs.pretraining.evaluate", few)
    sizes = "--problems 30 --demonstrations 30 --steps 2 --batch 4 --model-hidden 16 --model-ff 16".split()
    weights = []
    for name in ("one", "two"):
        places = ["--out", str(tmp_path / name), "--record", str(tmp_path / f"{name}-record")]
        assert main(["pretrain", "--task", "math", *sizes, *places]) == 0, capsys.readouterr().err
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
        config = RunFolder.open(tmp_path / f"{name}-record").config
    assert weights[0] == weights[1]
    assert config["difficulty"] == BASES["sums"].difficulty and config["model"]["architecture"] == "qwen2"
    _, tokenizer = load(tmp_path / "one")
    assert tokenizer.eos_token == "<|im_end|>"


def test_every_token_of_a_word_has_the_flag_of_the_word():
    words, loss = ["12", "+", "7", "=", "19.", "Café"], (True, False, True, False, False, True)
    shown = Demonstration(" ".join(words), loss, end_loss=False)
    for tokenizer in (build_tokenizer([*words, ":"]), build_text_tokenizer([])):
        [ids], [mask] = encoded(tokenizer, [(":", shown)])
        prompt = len(tokenizer(":")["input_ids"])
        assert not mask[:prompt].any() and not mask[-1] and ids[-1] == tokenizer.eos_token_id
        flagged = tokenizer.decode(ids[mask]).replace(" ", "")
        assert flagged == "127Café", flagged
        assert tokenizer.decode(ids[prompt:-1]) == shown.text


def test_a_task_in_plain_language_is_learned_and_its_checkpoint_loads_with_qwens_tokenizer(tmp_path):
    task = get_task("math", source="sums")
    config = replace(
        BASES["sums"],
        model=replace(TINY, architecture="qwen2"),
        problems=8,
        demonstrations=8,
        steps=150,
        batch=8,
        lr=1e-2,
        warmup=5,
    )
    training = Pretraining(task, config)
    *_, record = training.train()
    assert record["loss"] < 1  # nats a token, at first log(400) = 6: these few are learned by heart
    save_policy(training.policy, tmp_path / "base")
    tokenizer, loaded = training.policy.tokenizer, load(tmp_path / "base").tokenizer
    assert isinstance(loaded, Qwen2Tokenizer)
    prompt = task.prompt(task.generate(0, 1)[0])
    assert loaded(prompt)["input_ids"] == tokenizer(prompt)["input_ids"]
    assert (loaded.eos_token, loaded.chat_template) == ("<|im_end|>", tokenizer.chat_template)


def test_the_same_seed_gives_the_same_base():
    final = []
    for seed in (0, 0, 1):
        training = Pretraining(get_task("chain"), replace(SMALL, seed=seed, steps=4))
        list(training.train())
        final.append(torch.cat([p.detach().flatten() for p in training.model.parameters()]))
    assert torch.equal(final[0], final[1]) and not torch.equal(final[0], final[2])


def test_a_resumed_pretraining_is_bitwise_the_uninterrupted_one(tmp_path):
    config, task = replace(SMALL, steps=7), get_task("chain")
    whole = Pretraining(task, config)
    records = list(whole.train())
    first = Pretraining(task, config, run=RunFolder.create(tmp_path / "run", to_mapping(config)))
    for record in first.train():
        if record["step"] == 3:
            first.save()
        if record["step"] == 5:
            break
    run = RunFolder.open(tmp_path / "run")
    second = Pretraining(task, config, run=run)
    second.restore(run.resume())
    rest = list(second.train())
    assert [r["step"] for r in rest] == [4, 5, 6, 7] == [r["step"] for r in run.steps()][3:]
    assert [r["loss"] for r in run.steps()] == [r["loss"] for r in records]
    ours, theirs = second.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    assert _schedule(1, SMALL) == 1 / 5 and _schedule(5, SMALL) == 1.0
    assert _schedule(60, SMALL) == pytest.approx(0) and 0.4 < _schedule(33, SMALL) < 0.6


def test_the_shipped_bases_name_their_tasks():
    tasks = {"countdown": "countdown", "rules": "rules", "chain": "chain", "sums": "math"}
    assert {name: config.task for name, config in BASES.items()} == tasks


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("batch", 0), ("demonstrations", -1), ("lr", 0.0)])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field} must be"):
        replace(SMALL, **{field: value})
