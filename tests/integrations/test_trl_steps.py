"""PSN-GRPO inside TRL from step to step: scheduler, checkpoints, clean weights, several processes."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from psn_tutorial.carriers import carried  # noqa: E402
from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.integrations.trl import PSNGRPOTrainer  # noqa: E402
from psn_tutorial.integrations.trl import trainer as module  # noqa: E402
from psn_tutorial.schedulers import make_scheduler  # noqa: E402
from psn_tutorial.signals import semantic_similarity, token_certainty  # noqa: E402
from tests.integrations.trainers import (  # noqa: E402
    PROMPTS,
    ROOT,
    SETTINGS,
    TEMPERATURE,
    Letters,
    Watched,
    logged,
    reward,
    same,
    scored,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other


# From step to step


def test_what_is_logged_is_raw_and_moves_the_scheduler(make):
    trainer = make(
        Watched, sigma=0.3, cap=0.5, gradient_accumulation_steps=2, per_device_train_batch_size=4, max_steps=3
    )
    trainer.train()
    scheduler = make_scheduler(trainer.args)
    for step in range(3):
        batches = trainer.seen[2 * step : 2 * step + 2]
        assert logged(trainer, "sigma")[step] == scheduler.sigma
        assert logged(trainer, "clipped_fraction")[step] > 0.5 and logged(trainer, "mean_ratio")[step] > 0.7
        k1 = logged(trainer, "kl_k1")[step]
        scheduler.update({"kl_k1": k1})
        if step == 0:  # the policy is still the first
            tokens = [b["completion_mask"].bool() for b in batches]
            model = make(sigma=0.0).model
            trainer_like = type("", (), {"model": model})
            diffs = [
                (b["sampling_per_token_logps"] - scored(trainer_like, b).detach())[t]
                for b, t in zip(batches, tokens, strict=True)
            ]
            assert k1 == pytest.approx(float(torch.cat(diffs).mean()), abs=1e-5)
    assert trainer.scheduler.sigma == scheduler.sigma != 0.3


class SeveralRewards(PSNGRPOTrainer):
    """One function that knows no reward for some answers, one that is awaited, one object; and their weights."""

    class Length:
        def __call__(self, completion_ids, **_):
            return [len(row) / 6 for row in completion_ids]

    def __init__(self, model, reward_func, *others, **named):
        async def awaited(completion_ids, **_):
            return [float(row[0] % 2) for row in completion_ids]

        def sometimes(completion_ids, **_):
            return [None if sum(row) % 3 == 0 else 1.0 for row in completion_ids]

        super().__init__(model, [sometimes, awaited, self.Length()], *others, **named)
        self.heard, update = [], self.scheduler.update
        self.scheduler.update = lambda signals: self.heard.append(signals["reward"]) or update(signals)


def test_a_schedule_hears_the_mean_reward_that_trl_logs(make):
    """Over two micro-batches a step, with an evaluation on the way that must not count."""
    trainer = make(
        SeveralRewards,
        sigma=0.3,
        reward_weights=[0.5, 2.0, -1.0],
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        named={"eval_dataset": Dataset.from_dict({"prompt": PROMPTS})},
    )
    assert trainer.reward_func_names == ["sometimes", "awaited", "Length"]
    trainer.train()
    wanted = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert trainer.heard == pytest.approx(wanted) and len(set(wanted)) == 3


def test_an_annealed_schedule_may_begin_and_end_without_noise(make):
    trainer = make(Watched, sigma=0.0, schedule="annealed", sigma_end=0.2, sigma_steps=2, max_steps=3)
    trainer.train()
    assert logged(trainer, "sigma") == pytest.approx([0, 0.1, 0.2])
    assert ["sampling_per_token_logps" in batch for batch in trainer.seen] == [False, True, True]
    assert len(logged(trainer, "kl_k1")) == 2


def test_the_realtime_schedule_sees_answers_and_certainty(make):
    trainer = make(
        Watched, sigma=0.2, schedule="realtime", max_steps=1, learning_rate=0.0, certainty="policy_to_uniform"
    )
    trainer.encoder = Letters
    kept, roll_out = [], trainer.rollout_func
    trainer.rollout_func = lambda *given: kept.append(roll_out(*given)) or kept[-1]
    trainer.train()
    (batch,) = trainer.seen
    mask, ids = batch["completion_mask"].bool(), torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        logits = trainer.model(ids, attention_mask=attention, position_ids=positions).logits
    wanted = token_certainty(logits[:, -mask.shape[1] - 1 : -1] / TEMPERATURE, "policy_to_uniform")[mask].mean()
    assert logged(trainer, "self_certainty")[0] == pytest.approx(float(wanted), rel=1e-4)
    texts = trainer.processing_class.batch_decode(kept[0]["completion_ids"], skip_special_tokens=True)
    assert logged(trainer, "similarity")[0] == pytest.approx(semantic_similarity(Letters.encode(texts), 4))


@pytest.mark.parametrize("settings", [{}, {"schedule": "annealed", "sigma_end": 0.1, "sigma_steps": 4, "draws": 2}])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(make, settings):
    settings = {"sigma": 0.2, "max_steps": 4, "save_strategy": "steps", "save_steps": 2} | settings
    whole = make(**settings)
    whole.train()
    resumed = make(**settings)
    folder = Path(resumed.args.output_dir) / "checkpoint-2"
    resumed.train(resume_from_checkpoint=str(folder))
    assert same(weights(whole), weights(resumed))
    assert logged(whole, "sigma") == logged(resumed, "sigma") and len(set(logged(whole, "sigma"))) == 4
    assert whole.scheduler == resumed.scheduler and whole.generation == resumed.generation
    other = make(**settings | {"schedule": "constant"})
    with pytest.raises(UserError, match="the state of ConstantSigma must have the fields"):
        other.train(resume_from_checkpoint=str(folder))


def test_a_checkpoint_of_trls_own_trainer_can_be_gone_on_from(make):
    make(GRPOTrainer, max_steps=1, save_strategy="steps", save_steps=1).train()
    trainer = make(sigma=0.2, max_steps=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2 and logged(trainer, "sigma") == [0.2]


# Clean weights


def test_evaluations_are_those_of_the_clean_policy(make, language_model):
    results = []
    for cls, settings in ((GRPOTrainer, {}), (PSNGRPOTrainer, {"sigma": 0.5, "draws": 2})):
        trainer = make(cls, named={"eval_dataset": Dataset.from_dict({"prompt": PROMPTS})}, **settings)
        torch.manual_seed(3)
        answers = []
        trainer.reward_funcs[0] = lambda completion_ids, answers=answers, **_: (
            answers.extend(completion_ids) or reward(completion_ids)
        )
        found = trainer.evaluate()
        results.append((answers, found["eval_reward"], found["eval_loss"], found["eval_entropy"]))
        assert not any("psn" in name for name in found)
    assert results[0] == results[1] and len(results[0][0]) == 32


def test_evaluations_on_the_way_are_clean_and_the_training_goes_on_with_noise(make, monkeypatch):
    active, rolled = [], []

    @contextmanager
    def watched(*given):
        active.append(given)
        with carried(*given) as receipt:
            yield receipt
        active.pop()

    monkeypatch.setattr(module, "carried", watched)
    named = {"eval_dataset": Dataset.from_dict({"prompt": PROMPTS[:2]})}
    trainer = make(named=named, sigma=0.5, eval_strategy="steps", eval_steps=1)
    generate = trainer.model.generate
    monkeypatch.setattr(
        trainer.model, "generate", lambda **s: rolled.append((trainer.model.training, len(active))) or generate(**s)
    )
    trainer.train()
    assert rolled == [(True, 1), (False, 0), (True, 1), (False, 0)]
    assert [entry["eval_reward"] for entry in trainer.state.log_history if "eval_reward" in entry]


def test_saved_weights_have_no_noise(make, language_model):
    trainer = make(sigma=0.5, targets="all", learning_rate=0.0, save_strategy="steps", save_steps=1, draws=2)
    before = weights(trainer)
    trainer.train()
    saved = AutoModelForCausalLM.from_pretrained(Path(trainer.args.output_dir) / "checkpoint-2", dtype=torch.float32)
    assert same(before, weights(trainer)) and same(before, dict(saved.named_parameters()))


def test_weights_are_clean_after_a_failure_while_generating(make, monkeypatch):
    trainer = make(sigma=0.5)
    before, trainer_generate = weights(trainer), trainer.model.generate

    def failing(**settings):
        assert not same(before, weights(trainer))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(trainer.model, "generate", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert same(before, weights(trainer)) and trainer_generate


# Several processes


def test_two_processes_have_the_same_noise_statistics_and_weights(language_model, tmp_path):
    cases = (
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 4, "draws_per_process": True},
        {"per_device_train_batch_size": 2, "draws": 2, "schedule": "realtime"},  # a group lies on both processes
        {"per_device_train_batch_size": 4, "draws": 2, "schedule": "realtime", "probes": "separate", "mixture": True}
        | {"save_strategy": "steps", "save_steps": 1},
    )
    (tmp_path / "settings.json").write_text(json.dumps([SETTINGS | {"sigma": 0.2} | case for case in cases]))
    script = Path(__file__).with_name("one_of_several.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    done = subprocess.run(
        [*command, str(language_model), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert [rank.pop() for rank in ranks] == [{"sharded": True, "noisy": True}] * 2
    for case, (zero, one) in enumerate(zip(*ranks, strict=True)):
        assert zero["world"] == one["world"] == 2
        assert zero["learned"] == one["learned"]
        if case < 2:
            assert len(zero["noisy"]) == 2 and zero["noisy"][0][1] != zero["noisy"][1][1]
        if case == 1:
            draws = [draw for rank in (zero, one) for draws, _ in rank["noisy"] for draw in draws]
            assert sorted(draws) == [0, 1, 2, 3] and zero["noisy"][0][1] != one["noisy"][0][1]
        else:
            assert zero["noisy"] == one["noisy"]
        shared = [[{k: v for k, v in e.items() if "realised" not in k} for e in rank["logs"]] for rank in (zero, one)]
        assert shared[0] == shared[1] and "psn/kl_k1" in shared[0][0]
    assert 0 <= ranks[0][2]["logs"][0]["psn/similarity"] <= 1
    for rank in ranks:
        whole, resumed = rank[3], rank[3]["resumed"]
        assert [draws for draws, _ in whole["noisy"]] == [[0, 1], [0], [2, 3], [2]]  # rollouts, probes, ...
        assert [draws for draws, _ in resumed["noisy"]] == [[2, 3], [2]]
        assert resumed["learned"] == whole["learned"] and resumed["logs"][-2] == whole["logs"][-2] != {}
