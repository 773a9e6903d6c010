"""The importance weights in TRL's loss. The oracles: our own losses, and formulas."""

import pytest
import torch

pytest.importorskip("trl")

from trl import GRPOTrainer  # noqa: E402

from psn_tutorial.importance import importance_weights  # noqa: E402
from psn_tutorial.integrations.trl.config import LOSS_TYPES  # noqa: E402
from psn_tutorial.integrations.trl.ratios import RatioSums  # noqa: E402
from psn_tutorial.integrations.trl.reading import Sequences  # noqa: E402
from psn_tutorial.losses import policy_loss  # noqa: E402
from tests.integrations.trainers import Watched, gradient, logged, rollout_batch, scored  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other


def test_loss_and_gradient_are_those_of_our_own_trainer(make):
    trainer, batch = rollout_batch(make, loss_type="grpo", cap=1.2)
    mask, sampler = batch["completion_mask"].bool(), batch["sampling_per_token_logps"]
    loss = trainer.compute_loss(trainer.model, dict(batch))
    theirs = gradient(loss, trainer.model)
    logps = scored(trainer, batch)

    def ours(weights, mask=mask, logps=logps):
        value = policy_loss(logps, logps.detach(), batch["advantages"], mask, weights)[0]
        return value, gradient(value, trainer.model)

    found = importance_weights(logps.detach(), sampler, mask, cap=1.2)
    assert 0.05 < found.clipped_fraction < 0.95  # the cap is at work
    value, expected = ours(found.weights)
    torch.testing.assert_close(loss, value, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(theirs, expected, atol=1e-7, rtol=1e-3)
    shifted = mask.roll(-1, 1)
    shifted[:, -1] = False
    wrong = {
        "upside down": ours(importance_weights(sampler, logps.detach(), mask, cap=1.2).weights),
        "no weights": ours(None),
        "no cap": ours(importance_weights(logps.detach(), sampler, mask, cap=None).weights),
        "shifted mask": ours(torch.where(shifted, found.weights, 0.0), shifted),
    }
    for why, (_, other) in wrong.items():
        assert (other - expected).norm() > 1000 * (theirs - expected).norm(), why


def test_both_sides_of_the_ratio_have_the_temperature(make):
    """At a sigma too small to matter every ratio is 1; a temperature on one side alone would show."""
    trainer, batch = rollout_batch(make, sigma=1e-6)
    assert logged(trainer, "mean_ratio")[0] == pytest.approx(1, abs=1e-4)
    assert logged(trainer, "max_ratio")[0] == pytest.approx(1, abs=1e-3)
    found = trainer.reader.log_probs(trainer.model, Sequences.of(batch))
    torch.testing.assert_close(found, scored(trainer, batch).detach(), atol=2e-5, rtol=0)


def test_clean_logps_cost_no_pass_of_their_own_and_are_found_where_the_loss_does_not_give_them(make, monkeypatch):
    trainer, batch = rollout_batch(make, cap=1.2)
    calls, forward = [], trainer.model.forward
    monkeypatch.setattr(trainer.model, "forward", lambda *given, **named: calls.append(1) or forward(*given, **named))
    loss = trainer.compute_loss(trainer.model, dict(batch))
    assert len(calls) == 1
    weigh = trainer.weigh
    monkeypatch.setattr(trainer, "weigh", lambda model, inputs, now: weigh(model, inputs, None))
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), loss)
    assert len(calls) == 3
    monkeypatch.setattr(GRPOTrainer, "compute_loss", lambda self, model, inputs: inputs.get("advantages").sum())
    with pytest.raises(RuntimeError, match="does not read inputs"):
        trainer.compute_loss(trainer.model, dict(batch))
    assert not trainer.model._forward_hooks


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_loss_that_is_allowed_gives_each_token_its_weight(make, loss_type):
    """On the policy all of them have the gradient - share_t w_t A grad log pi_t; only the shares differ."""
    trainer, batch = rollout_batch(
        make, loss_type=loss_type, cap=1.2, epsilon_high=5.0 if loss_type == "cispo" else None
    )
    mask, logps = batch["completion_mask"].float(), scored(trainer, batch)
    lengths, rows = mask.sum(1, keepdim=True), len(mask)
    share = {
        "grpo": mask / lengths / rows,
        "sapo": mask / lengths / rows,
        "dapo": mask / mask.sum(),
        "bnpo": mask / mask.sum(),
        "cispo": mask / mask.sum(),
        "dr_grpo": mask / (rows * trainer.args.max_completion_length),
        "luspo": mask / rows,
    }[loss_type]
    w = importance_weights(logps.detach(), batch["sampling_per_token_logps"], mask, cap=1.2).weights
    expected = gradient(-(share * w * batch["advantages"][:, None] * logps).sum(), trainer.model)
    theirs = gradient(trainer.compute_loss(trainer.model, dict(batch)), trainer.model)
    torch.testing.assert_close(theirs, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    "level,mode", [("token", "mask"), ("sequence", "truncate"), ("sequence", "mask"), ("none", "mask")]
)
def test_levels_and_modes_of_the_correction(make, level, mode):
    trainer, batch = rollout_batch(make, loss_type="grpo", cap=1.1, correction=level, correction_mode=mode)
    mask, logps = batch["completion_mask"].bool(), scored(trainer, batch)
    weights = None
    if level != "none":
        weights = importance_weights(logps.detach(), batch["sampling_per_token_logps"], mask, 1.1, level, mode).weights
    expected = gradient(policy_loss(logps, logps.detach(), batch["advantages"], mask, weights)[0], trainer.model)
    theirs = gradient(trainer.compute_loss(trainer.model, dict(batch)), trainer.model)
    torch.testing.assert_close(theirs, expected, atol=1e-7, rtol=1e-3)


def test_the_policy_at_generation_is_the_target_where_updates_come_between(make):
    """Two optimiser steps on one generation: TRL's own old log-probs are the clean ones, also at the second step."""
    trainer = make(
        Watched, sigma=0.3, per_device_train_batch_size=4, steps_per_generation=2, num_iterations=2, max_steps=4
    )
    trainer.train()
    first, second, *again = trainer.seen
    for batch in (first, second):
        mask = batch["completion_mask"].bool()
        expected = importance_weights(batch["old_per_token_logps"], batch["sampling_per_token_logps"], mask).weights
        kept = next(b for b in again if torch.equal(b["completion_ids"], batch["completion_ids"]))
        assert torch.equal(kept["psn_weights"], expected)
    assert logged(trainer, "sigma") == [0.3]  # one generation is one step of the scheduler


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_sums_over_parts_are_the_statistics_of_the_whole(level):
    torch.manual_seed(0)
    clean, sampler = torch.randn(2, 12, 7) * 0.5
    mask = torch.rand(12, 7) < 0.7
    mask[:, 0] = True
    sums = RatioSums()
    for part in torch.arange(12).split(5):
        found = importance_weights(clean[part], sampler[part], mask[part], 1.5, level)
        sums.add(found, mask[part], level, float(mask[part].sum()) * 3)

    class Alone:
        device = torch.device("cpu")
        reduce = staticmethod(lambda x, reduction: x)
        gather = staticmethod(lambda x: x)

    whole, found = importance_weights(clean, sampler, mask, 1.5, level), sums.means(Alone)
    assert found.pop("self_certainty") == pytest.approx(3)
    assert found == pytest.approx({name: getattr(whole, name) for name in found}, rel=1e-6)
    assert RatioSums().means(Alone) == {}
