from dataclasses import replace

import pytest
import torch

from psn_tutorial.advantages import group_advantages
from psn_tutorial.config import TrainConfig
from psn_tutorial.errors import UserError
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.policy import Policy
from psn_tutorial.noise import NoiseConfig, perturbed
from psn_tutorial.rollout import completion_logits, completion_logps, responses
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.runs.steps import METRICS
from psn_tutorial.schedulers import RealtimeSigma
from psn_tutorial.settings import to_mapping
from psn_tutorial.signals import self_certainty
from psn_tutorial.trainer import Batch, Trainer

SMALL = TrainConfig(task="chain", prompts=4, group=8, steps=6, lr=1e-3, save_every=3)
NOISY = replace(SMALL, sigma=0.3, targets="all", relative=True, draws=4)
REALTIME = replace(NOISY, schedule="realtime")


def trainer(policy, config, run=None, **difficulty):
    # Six tokens and two letters: by chance a rollout keeps the rare letter often enough to be rewarded.
    task, tokenizer, model = policy("chain", scale=1.0, **{"steps": 2, **difficulty})
    return Trainer(config, Policy(model, tokenizer), task, task.generate(0, 4), run)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def contrast(trainer, seed=0):
    """Rollouts of the trainer's policy with made-up rewards, so that half of the groups have contrast."""
    rollouts = trainer.roll_out(trainer.pick_problems())
    config = trainer.config
    rewards = torch.randint(0, 2, (config.prompts, config.group), generator=torch.Generator().manual_seed(seed)).float()
    rewards[::2] = 1.0
    return Batch.of(rollouts, group_advantages(rewards).flatten(), trainer.sampler_logps(rollouts))


def test_records_hold_exactly_the_documented_metrics(policy):
    record = trainer(policy, replace(NOISY, kl_coef=0.1)).step()
    missing = set(record) ^ set(METRICS)
    assert missing <= {"ratio_mean", "clip_fraction", "kl_ref", "gated"}  # absent where no group has contrast
    seen = {
        key
        for config in (NOISY, replace(NOISY, kl_coef=0.1), replace(NOISY, gate="unsolved"))
        for record in trainer(policy, config).train()
        for key in record
    }
    assert seen == set(METRICS)


def test_plain_grpo_is_on_policy(policy):
    for record in trainer(policy, SMALL).train():
        assert record["sigma"] == 0 and record["clipped_fraction"] == 0
        assert record["ess"] == pytest.approx(1, abs=1e-5) and record["kl_k3"] == pytest.approx(0, abs=1e-6)


def test_it_learns(policy):
    records = list(trainer(policy, replace(SMALL, steps=60, prompts=8, group=16, lr=1e-2)).train())
    assert sum(r["reward"] for r in records[:5]) / 5 < 0.2
    assert sum(r["reward"] for r in records[-5:]) / 5 > 0.9


def test_it_learns_from_noisy_rollouts_too(policy):
    config = replace(NOISY, steps=60, prompts=8, group=16, lr=1e-2)
    made = trainer(policy, config)
    assert sum(r["reward"] for r in list(made.train())[-5:]) / 5 > 0.6
    text = made.tokenizer(":")["input_ids"]
    chances = forward(made.model, torch.tensor([text])).softmax(-1)[0, -1]
    assert chances[made.tokenizer.convert_tokens_to_ids("B")] > 0.9  # the CLEAN policy has learned


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"correction": "sequence"},
        {"correction": "none"},
        {"draws": 1},
        {"mixture": True},
        {"updates": 2},
        {"kl_coef": 0.1, "entropy_coef": 0.01},
        {"aggregation": "dapo"},
        {"aggregation": "dr_grpo"},
        {"sampling_temperature": 1.5},
    ],
)
def test_micro_batches_and_skipped_rows_change_nothing(policy, change):
    """The same step in one piece, in pieces of 5 rows, and with the rows of zero advantage left in."""
    results = []
    for micro_batch, skip in ((64, True), (5, True), (64, False)):
        made = trainer(policy, replace(NOISY, micro_batch=micro_batch, **change))
        batch = contrast(made)
        if not skip:  # an advantage too small to matter, too large to be skipped
            batch = replace(batch, advantages=batch.advantages + 1e-30)
        statistics, importance = made.update(batch), made.importance(batch)
        results.append((weights(made.model), importance.ess, importance.kl_k1, statistics["grad_norm"]))
    for other in results[1:]:
        torch.testing.assert_close(other[0], results[0][0], atol=2e-5, rtol=1e-4)
        assert other[1:] == pytest.approx(results[0][1:], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("mode", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence", "none"])
def test_the_gradient_of_one_update_is_the_formula(policy, level, mode):
    """Written out with transformers' forward: mean over rollouts of mean over tokens of -w A log pi, with w the ratio,
    which above C is C or, masked, 0."""
    made = trainer(policy, replace(NOISY, correction=level, correction_mode=mode, cap=1.1, grad_clip=1e9))
    batch = contrast(made)
    rollouts = batch.rollouts
    ids = torch.cat([rollouts.prompts, rollouts.tokens], 1)
    logps = made.model(ids).logits[:, rollouts.prompts.shape[1] - 1 : -1].log_softmax(-1)
    logps = logps.gather(2, rollouts.tokens[..., None])[..., 0]
    ratio = (logps.detach() - rollouts.logps).exp() * rollouts.mask + ~rollouts.mask
    w = {"token": ratio, "sequence": ratio.prod(1, keepdim=True), "none": torch.ones_like(ratio)}[level]
    if level != "none":
        assert (w > 1.1).any() and (w < 1.1).any()
    w = torch.where(w > 1.1, 1.1 if mode == "truncate" else 0.0, w)
    per_rollout = (w * batch.advantages[:, None] * logps * rollouts.mask).sum(1) / rollouts.mask.sum(1)
    made.model.zero_grad()
    (-per_rollout.mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in made.model.parameters()])
    seen = []
    made.optimizer.step = lambda: seen.append(torch.cat([p.grad.flatten() for p in made.model.parameters()]))
    made.optimizer.zero_grad()
    made.update(batch)
    torch.testing.assert_close(seen[0], expected, atol=1e-6, rtol=1e-3)


def test_the_second_update_is_clipped_against_the_policy_of_the_rollouts(policy):
    made = trainer(policy, replace(SMALL, updates=3, lr=0.05))
    statistics = made.update(contrast(made))
    assert statistics["clip_fraction"] > 0 and statistics["ratio_mean"] != pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("micro_batch", [64, 5])
def test_statistics_of_an_update_are_means_over_the_tokens_that_learn(policy, micro_batch):
    made = trainer(policy, replace(NOISY, micro_batch=micro_batch))
    batch = contrast(made)
    rows = batch.advantages.nonzero()[:, 0]
    with torch.no_grad():
        _, entropy = completion_logps(made.model, batch.rollouts, rows, 1.0, "value")
    statistics = made.update(batch)
    assert statistics["entropy"] == pytest.approx(float(entropy[batch.rollouts.mask[rows]].mean()), rel=1e-5)
    assert statistics["ratio_mean"] == pytest.approx(1, abs=1e-6) and statistics["clip_fraction"] == 0


@pytest.mark.parametrize("targets", ["mlp", "head"])
@torch.no_grad()
def test_mixture_weights_use_every_draw_of_the_group(policy, targets):
    made = trainer(policy, replace(NOISY, targets=targets, mixture=True, micro_batch=8))
    rollouts = made.roll_out(made.pick_problems())
    mixed = made.sampler_logps(rollouts)
    under_each = []
    for draw in range(4):
        with perturbed(made.model, NoiseConfig.of(made.config, 0.3), draw):
            under_each.append(completion_logps(made.model, rollouts, torch.arange(32), 1.0)[0] * rollouts.mask)
    sequence = torch.stack(under_each).sum(2)
    expected = sequence.logsumexp(0) - torch.tensor(4.0).log()
    torch.testing.assert_close((mixed * rollouts.mask).sum(1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(NOISY, schedule="kl_target", kl_target=0.01),
        replace(NOISY, schedule="annealed", sigma_steps=5),
        REALTIME,
        replace(REALTIME, probes="separate", certainty="policy_to_uniform"),
        replace(SMALL, gate="unsolved", prompts=2, entropy_coef=0.01),
    ],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(policy, tmp_path, config):
    whole = trainer(policy, config)
    records = list(whole.train())
    first = trainer(policy, config, RunFolder.create(tmp_path / "run", to_mapping(config)))
    for record in first.train():
        if record["step"] == 4:  # one step after the checkpoint of step 3
            break
    run = RunFolder.open(tmp_path / "run")
    second = trainer(policy, config, run)
    second.restore(run.resume())
    rest = list(second.train())
    assert [r["step"] for r in rest] == [4, 5, 6] == [r["step"] for r in records[3:]]
    assert torch.equal(weights(second.model), weights(whole.model))
    timeless = [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in run.steps()]
    assert timeless == [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in records]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # One right of four, two right of four; the advantages by their definitions, in exact fractions.
        ({"advantage": "none"}, [[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5]]),
        ({"advantage": "std"}, [[1.5, -0.5, -0.5, -0.5], [0.75**0.5] * 2 + [-(0.75**0.5)] * 2]),
        # k = 2: of the 6 pairs 3 succeed, deviation 1/2; a wrong one meets the right one in 1 of its 3 pairs. Of two
        # right ones 5 of 6 pairs succeed, deviation sqrt(5)/6; a wrong one succeeds in 2 of its 3 pairs.
        (
            {"advantage": "pass_at_k", "pass_k": 2},
            [[1.0, -1 / 3, -1 / 3, -1 / 3], [5**-0.5, 5**-0.5, -(5**-0.5), -(5**-0.5)]],
        ),
    ],
)
def test_a_step_learns_from_the_advantages_that_are_asked_for(policy, settings, expected):
    made = trainer(policy, replace(NOISY, prompts=2, group=4, **settings))
    rewards, seen, update = torch.tensor([[1.0, 0, 0, 0], [1.0, 1, 0, 0]]), [], made.update
    made.verify = lambda texts, problems: rewards
    made.update = lambda batch: seen.append(batch.advantages) or update(batch)
    made.step()
    torch.testing.assert_close(seen[0].view(2, 4), torch.tensor(expected), atol=1e-5, rtol=0)


def test_what_an_earlier_step_has_solved_no_longer_learns(policy):
    """Told again from the records alone: which problem stood where, what it earned, and what came into the update."""
    made = trainer(policy, replace(SMALL, gate="unsolved", prompts=6, steps=40, lr=1e-2))
    verify, update, earned, learned = made.verify, made.update, [], []
    made.verify = lambda *what: earned.append(verify(*what)) or earned[-1]
    made.update = lambda batch: learned.append(batch.advantages.view(6, 8)) or update(batch)
    places, before, records = [], [], []
    for _ in range(40):
        places.append(made.pick())
        before.append(weights(made.model))
        records.append(made.step())
    solved, gated = set(), 0
    for now, rewards, advantages, record, start, end in zip(
        places, earned, learned, records, before, [*before[1:], weights(made.model)], strict=True
    ):
        assert len(now) == 6 and set(now) == {0, 1, 2, 3}  # two problems stand there twice, and neither hides the other
        expected = group_advantages(rewards)
        closed = torch.tensor([place in solved for place in now])
        assert record["gated"] == float((closed & (rewards.amax(1) > rewards.amin(1))).float().mean())
        expected[closed] = 0.0
        assert torch.equal(advantages, expected)
        gated += int(closed.sum())
        solved |= {place for place, row in zip(now, rewards, strict=True) if row.any()}
        if not expected.any():
            assert torch.equal(start, end)  # nothing is learned, not even by Adam's momentum
    assert solved == {0, 1, 2, 3} and gated > 6 and not learned[-1].any()


def test_without_the_gate_what_is_solved_goes_on_learning(policy):
    made, gated = (trainer(policy, replace(SMALL, steps=30, lr=1e-2, gate=gate)) for gate in ("none", "unsolved"))
    records = list(made.train())
    assert not made.solved and all("gated" not in record for record in records)
    assert sum(record["gated"] for record in gated.train()) > 0
    assert records[-1]["reward"] > 0.9 and not torch.equal(weights(gated.model), weights(made.model))


def test_a_draw_per_group_serves_the_whole_group_and_no_other(policy):
    made = trainer(policy, replace(NOISY, spread="per_group"))
    rollouts = made.roll_out(made.pick_problems())
    assert rollouts.draws.view(4, 8).tolist() == [[draw] * 8 for draw in range(4)]
    assert made.step()["kl_k3"] > 0


@torch.no_grad()
def test_antithetic_draws_sample_from_the_weights_mirrored_at_the_clean_ones(policy):
    made = trainer(policy, replace(NOISY, antithetic=True))
    rollouts = made.roll_out(made.pick_problems())
    assert rollouts.draws.unique().tolist() == [0, 1, 2, 3]
    clean = [p.clone() for p in made.model.parameters()]
    for draw in (0, 2):
        with perturbed(made.model, NoiseConfig.of(made.config, 0.3), draw):
            noisy = [p.clone() for p in made.model.parameters()]
        for p, before, beyond in zip(made.model.parameters(), clean, noisy, strict=True):
            p.copy_(2 * before - beyond)
        rows = (rollouts.draws == draw + 1).nonzero()[:, 0]
        mirrored, _ = completion_logps(made.model, rollouts, rows, 1.0)
        torch.testing.assert_close(mirrored, rollouts.logps[rows], atol=1e-4, rtol=1e-4)
        for p, before in zip(made.model.parameters(), clean, strict=True):
            p.copy_(before)
        assert not torch.allclose(completion_logps(made.model, rollouts, rows, 1.0)[0], rollouts.logps[rows], atol=0.01)


def test_noise_may_begin_at_zero(policy):
    """The first step is plain GRPO, bit for bit; the second has the noise that the schedule says by then."""
    grows = replace(NOISY, schedule="annealed", sigma=0.0, sigma_end=0.3, sigma_steps=1)
    made, plain = trainer(policy, grows), trainer(policy, SMALL)
    first, expected = made.step(), plain.step()
    timeless = lambda record: {k: v for k, v in record.items() if not k.startswith("seconds")}  # noqa: E731
    assert timeless(first) == timeless(expected) and first["sigma"] == 0 and first["ess"] == pytest.approx(1, abs=1e-6)
    assert torch.equal(weights(made.model), weights(plain.model))
    rollouts = made.roll_out(made.pick_problems())
    assert rollouts.receipt is not None and made.off_policy(rollouts)
    second = made.step()
    assert second["sigma"] == 0.3 and second["sigma_realised"] > 0 and second["kl_k3"] > 1e-4 and second["ess"] < 0.999
    with pytest.raises(UserError, match="matches no parameter"):
        trainer(policy, replace(grows, targets="expert"))


def test_noise_that_has_faded_to_zero_is_none(policy):
    fades = replace(NOISY, schedule="annealed", sigma_end=0.0, sigma_steps=1, cap=1e-9)
    records = list(trainer(policy, fades).train())
    assert records[0]["clipped_fraction"] == 1 and records[1]["sigma"] == 0  # a cap that would silence all
    made = trainer(policy, replace(fades, steps=1))
    made.step()
    assert not made.off_policy(made.roll_out(made.pick_problems()))


def test_steps_use_other_draws_and_problems_each_time(policy):
    made = trainer(policy, NOISY)
    first = made.roll_out(made.pick_problems())
    made.step_number = 1
    second = made.roll_out(made.pick_problems())
    assert first.draws.unique().tolist() == [0, 1, 2, 3] and second.draws.unique().tolist() == [4, 5, 6, 7]


def test_hot_sampling_is_corrected_towards_the_policy(policy):
    """Action-space noise: the sampler's log-probs are at its own temperature, the policy's at 1."""
    made = trainer(policy, replace(SMALL, sampling_temperature=2.0))
    record = made.step()
    assert record["kl_k3"] > 1e-4 and record["ess"] < 0.9999
    rollouts = made.roll_out(made.pick_problems())
    assert rollouts.temperature == 2.0 and made.off_policy(rollouts)


@pytest.mark.parametrize("direction", ["uniform_to_policy", "policy_to_uniform"])
@pytest.mark.parametrize("micro_batch", [64, 5])
def test_reused_rollouts_give_the_signals_of_all_rows_and_change_nothing_else(policy, direction, micro_batch):
    """Certainty is the clean policy's before its update, rows without advantage included; pairs are told singly."""
    made = trainer(policy, replace(REALTIME, certainty=direction, micro_batch=micro_batch))
    rollouts = made.roll_out(made.pick_problems())
    with torch.no_grad():
        logits = completion_logits(made.model, rollouts, torch.arange(32), 1.0)
    record = made.step()
    assert 0 < record["zero_contrast"] < 1  # both kinds of rows are there
    assert record["self_certainty"] == pytest.approx(self_certainty(logits, rollouts.mask, direction), rel=1e-5)
    texts = responses(made.tokenizer, rollouts)
    alike = []
    for first in range(0, 32, 8):
        words = [text.split() or [""] for text in texts[first : first + 8]]
        counts = [[text.count(word) for word in {word for text in words for word in text}] for text in words]
        unit = [torch.tensor(c, dtype=torch.float64) / sum(x * x for x in c) ** 0.5 for c in counts]
        alike += [float(unit[i] @ unit[j]) for i in range(8) for j in range(i)]
    assert record["similarity"] == pytest.approx(sum(alike) / len(alike), rel=1e-6)

    constant = trainer(policy, replace(made.config, schedule="constant"))
    expected = constant.step()
    assert expected["similarity"] is None and expected["self_certainty"] is None
    assert torch.equal(weights(made.model), weights(constant.model))
    signals = {"similarity", "self_certainty"}
    assert {k: v for k, v in record.items() if k not in signals and not k.startswith("seconds")} == {
        k: v for k, v in expected.items() if k not in signals and not k.startswith("seconds")
    }


def test_separate_probes_are_rollouts_that_nothing_is_learned_from(policy):
    made, constant = trainer(policy, replace(REALTIME, probes="separate")), trainer(policy, NOISY)
    record, expected = made.step(), constant.step()
    assert torch.equal(weights(made.model), weights(constant.model))
    assert {k for k in record if record[k] != expected[k] and not k.startswith("seconds")} == {
        "similarity",
        "self_certainty",
    }
    made.step_number = 0
    probes = made.roll_out(made.pick_problems(), probes=2)  # sampled after the update, from the noisy policy
    assert len(probes.tokens) == 8 and probes.draws.tolist() == [0] * 8 and probes.receipt is not None
    assert not torch.equal(probes.tokens, made.roll_out(made.pick_problems()).tokens[:8])


def test_the_record_holds_what_the_realtime_schedule_decided_by(policy):
    records = list(trainer(policy, replace(REALTIME, realtime_factor=1.5, realtime_mix=0.25, sigma_high=0.7)).train())
    replayed = RealtimeSigma(0.3, mix=0.25, factor=1.5, high=0.7)
    for record, following in zip(records, records[1:], strict=False):
        assert following["sigma"] == replayed.update(record)
    assert len({record["sigma"] for record in records}) > 1


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("probes", "new", "probes must be one of 'reuse', 'separate', got 'new'"),
        ("certainty", "kl", "certainty must be one of"),
        ("encoder", "auto", "encoder must name one encoder"),
        ("prompts", 0, "prompts must be"),
        ("group", 1, "group must be"),
        ("lr", 0.0, "lr must be"),
        ("temperature", -1.0, "temperature must be"),
        ("sampling_temperature", 0.0, "sampling_temperature must be"),
        ("draws", 5, "draws must divide the 32 rollouts"),
        ("cap", 0.0, "cap must be"),
        ("sigma", -0.1, "sigma must be"),
        ("correction", "both", "correction must be one of"),
        ("task", "chess", "task must be one of"),
        ("clip_low", 1.5, "clip_low must be"),
        ("pass_k", 0, "pass_k must be"),
        ("aggregation", "mean", "aggregation must be one of"),
    ],
)
def test_impossible_settings_are_refused(field, value, sentence):
    with pytest.raises(UserError, match=sentence):
        replace(SMALL, **{field: value})


def test_impossible_combinations_are_refused():
    with pytest.raises(UserError, match="pass_k must be a whole number >= 1 and <= 3, got 4"):
        replace(SMALL, group=3, advantage="pass_at_k", pass_k=4)
    assert replace(SMALL, group=3, pass_k=4).advantage != "pass_at_k"  # the default k is in nobody's way
    with pytest.raises(UserError, match="draws must be even when antithetic, got 1"):
        replace(SMALL, antithetic=True)
    with pytest.raises(UserError, match="mixture weights need spread 'pooled'"):
        replace(SMALL, mixture=True, draws=4, spread="per_group")


def test_what_cannot_work_is_told_before_the_first_step(policy):
    with pytest.raises(UserError, match="matches no parameter"):
        trainer(policy, replace(NOISY, targets="expert"))
    with pytest.raises(UserError, match="encoder '/no/such/folder' is no folder"):
        trainer(policy, replace(REALTIME, encoder="/no/such/folder"))
    with pytest.raises(UserError, match="problems must hold at least one"):
        task, tokenizer, model = policy("chain")
        Trainer(SMALL, Policy(model, tokenizer), task, [])
