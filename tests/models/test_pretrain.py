import math
from dataclasses import replace

import pytest
import torch

from psn_tutorial.errors import UserError
from psn_tutorial.models.pretrain import (
    BASES,
    PretrainConfig,
    Pretraining,
    _loss,
    _schedule,
    demonstrations,
    pretrain,
)
from psn_tutorial.models.tiny import TinyConfig, build_tokenizer
from psn_tutorial.runs import Run
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task

TINY = TinyConfig(hidden=16, ff=32, heads=2, kv_heads=2)
SMALL = PretrainConfig("chain", model=TINY, problems=1, demonstrations=3000, steps=60, batch=64, lr=1e-2, warmup=5)


def test_the_base_learns_the_prior_of_its_demonstrations():
    """The chain's demonstrations have an entropy of H(.1) nats a token; no model can do better."""
    *_, (record, model, tokenizer) = pretrain(get_task("chain"), SMALL)
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
    tokenizer = build_tokenizer(task.words)
    config = replace(SMALL, task=name, problems=5 if name != "chain" else 1, demonstrations=40)
    ids, mask = demonstrations(task, tokenizer, config, [])
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
    tokenizer = build_tokenizer(task.words)
    hidden = task.generate(0, 6)
    ids, _ = demonstrations(task, tokenizer, replace(SMALL, problems=4, demonstrations=20), hidden)
    shown = {tokenizer.decode(row[1:3]) for row in ids}
    assert shown == {f"{d} :" for d in range(10)} - {task.prompt(problem) for problem in hidden}


def test_the_same_seed_gives_the_same_base():
    final = []
    for seed in (0, 0, 1):
        *_, (_, model, _) = pretrain(get_task("chain"), replace(SMALL, seed=seed, steps=4))
        final.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(final[0], final[1]) and not torch.equal(final[0], final[2])


def test_a_resumed_pretraining_is_bitwise_the_uninterrupted_one(tmp_path):
    config, task = replace(SMALL, steps=7), get_task("chain")
    whole = Pretraining(task, config)
    records = list(whole.train())
    first = Pretraining(task, config, run=Run.create(tmp_path / "run", to_mapping(config)))
    for record in first.train():
        if record["step"] == 3:
            first.save()
        if record["step"] == 5:
            break
    run = Run.open(tmp_path / "run")
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
    assert {name: config.task for name, config in BASES.items()} == {n: n for n in ("countdown", "rules", "chain")}


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("batch", 0), ("demonstrations", -1), ("lr", 0.0)])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field} must be"):
        replace(SMALL, **{field: value})
