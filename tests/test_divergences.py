"""What the authors' released code does otherwise than their paper, and what this library does.

The released code is github.com/baibizhe/psn_rlvr at commit 6a27058, read, not run. That a filter really filters, that
several draws ride inside a group and that the rounding of bf16 is measured is tested beside the functions, in
test_noise.py and test_rollout.py; here stand the others.
"""

import hashlib
import zlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from psn_tutorial import rollout
from psn_tutorial.config import RunConfig, TrainConfig
from psn_tutorial.jobs import training
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.policies import fingerprint, load_policy
from psn_tutorial.jobs.training import TrainingJob
from psn_tutorial.models.policy import Policy
from psn_tutorial.noise import NoiseConfig, gaussian, perturbed
from psn_tutorial.trainer import Trainer

NOISY = TrainConfig(
    task="chain", prompts=4, group=8, steps=2, lr=1e-3, sigma=0.3, targets="all", relative=True, draws=4
)


def trainer(policy, **change):
    task, tokenizer, model = policy("chain", scale=1.0, steps=2)
    return Trainer(replace(NOISY, **change), Policy(model, tokenizer), task, task.generate(0, 4))


def test_evaluations_during_training_see_the_clean_weights(tmp_path, monkeypatch):
    """Released: with asynchronous rollouts, which are always on, validation runs on the noisy weights."""
    seen = []

    def watched(policy, *arguments, **options):
        seen.append(fingerprint(policy.model))
        return evaluate(policy, *arguments, **options)

    evaluate = training.evaluate
    monkeypatch.setattr(training, "evaluate", watched)
    config = RunConfig(
        task="chain",
        prompts=2,
        group=4,
        steps=2,
        lr=0.1,
        sigma=0.5,
        relative=True,
        draws=4,
        entropy_coef=1.0,
        samples=4,
        eval_every=1,
    )
    job = TrainingJob.start(tmp_path / "run", config)
    for step, _ in enumerate(job.train(Stop())):
        assert len(seen) == step
        clean = fingerprint(job.policy.model)
        with perturbed(job.policy.model, NoiseConfig.of(config, 0.5)):
            noisy = fingerprint(job.policy.model)
        assert clean != noisy
        expected = [*seen, clean]
    assert seen == expected and len(set(seen)) == 2
    assert fingerprint(load_policy(tmp_path / "run")[0]) == seen[-1]


def names_of_a_7b_model():
    """The 339 tensors of Qwen2.5-Math-7B."""
    parts = [f"self_attn.{p}_proj.{kind}" for p in "qkv" for kind in ("weight", "bias")]
    parts += ["self_attn.o_proj.weight", *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down"))]
    parts += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    names = [f"model.layers.{layer}.{part}" for layer in range(28) for part in parts]
    return [*names, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


def test_seeds_of_draws_practically_never_recur():
    """Released: ``step ^ adler32(name)`` uses 2.9 % of its seeds a second time."""
    ours, released, names = [], [], names_of_a_7b_model()
    assert len(names) == 339
    for step in range(600):
        for name in names:
            released.append(step ^ zlib.adler32(name.encode()))
            ours.append(hashlib.sha256(f"0/{step}/{name}".encode()).digest()[:4])
    repeated = [1 - len(set(seeds)) / len(seeds) for seeds in (released, ours)]
    assert repeated[0] == pytest.approx(0.029, abs=0.0005) and repeated[1] < 1e-4
    # And these are the seeds that ``gaussian`` really uses.
    generator = torch.Generator().manual_seed(int.from_bytes(ours[340], "little"))
    assert torch.equal(gaussian(NoiseConfig(1.0), 1, names[1], (3, 4)), torch.randn(3, 4, generator=generator))


def test_every_rank_draws_the_same_noise():
    """Released: without a seed (the default) each rollout replica draws its own, unknown noise."""

    def replica(rank):
        torch.manual_seed(rank)  # what a process did before must not matter, nor the order of its tensors
        torch.rand(rank)
        parts = [("up_proj", nn.Linear(3, 5, bias=False)), ("down_proj", nn.Linear(5, 3, bias=False))]
        model = nn.Module()
        model.mlp = nn.Module()
        for name, module in parts[:: -1 if rank else 1]:
            nn.init.ones_(module.weight)
            setattr(model.mlp, name, module)
        state = torch.get_rng_state()
        with perturbed(model, NoiseConfig(0.1), draw=7):
            noisy = {name: p.detach().clone() for name, p in model.named_parameters()}
        assert torch.equal(torch.get_rng_state(), state)
        return noisy

    first, second = replica(0), replica(1)
    assert list(first) != list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("updates", [None, 1, 3])
def test_the_number_of_updates_is_a_setting_and_one_by_default(policy, updates):
    """Released: a mini-batch size written into the code makes about 21 optimiser steps of each rollout batch."""
    made = trainer(policy, entropy_coef=0.1, **({} if updates is None else {"updates": updates}))
    steps = []
    take = made.optimizer.step
    made.optimizer.step = lambda: (steps.append(made.step_number), take())
    list(made.train())
    assert [steps.count(n) for n in (0, 1)] == [updates or 1] * 2


def test_the_kl_target_costs_no_forward_pass(policy, monkeypatch):
    """Both log-probabilities that Variant I compares exist already; k1 is a mean over them. (So it is as released.)"""
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        return forward(*arguments, **options)

    forward = rollout.forward
    monkeypatch.setattr(rollout, "forward", counted)
    costs = {}
    for schedule in ("constant", "kl_target"):
        made = trainer(policy, schedule=schedule, entropy_coef=0.1, kl_target=0.01)
        calls.clear()
        records = list(made.train())
        costs[schedule] = len(calls)
    assert costs["kl_target"] == costs["constant"] > 0
    low, high = 0.01 / 1.1, 0.01 * 1.1
    k1, sigma = records[0]["kl_k1"], records[0]["sigma"]
    assert records[1]["sigma"] == pytest.approx(sigma * 1.01 if k1 < low else sigma / 1.01 if k1 > high else sigma)
    assert records[1]["sigma"] != sigma
