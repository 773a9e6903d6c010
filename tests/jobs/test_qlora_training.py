"""The same loop trains a 4-bit model with an adapter: noise beside the base, small checkpoints, bitwise resume."""

import pytest
import torch

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

from psn_tutorial.carriers import change_since, linear_layers  # noqa: E402
from psn_tutorial.config import TrainConfig  # noqa: E402
from psn_tutorial.models.bases import base_folder  # noqa: E402
from psn_tutorial.models.policy import Policy  # noqa: E402
from psn_tutorial.models.qlora import QLoRAConfig, dense_weight, four_bit_layers, load_qlora  # noqa: E402
from psn_tutorial.noise import NoiseConfig  # noqa: E402
from psn_tutorial.rollout import completion_logps  # noqa: E402
from psn_tutorial.runs.folder import RunFolder  # noqa: E402
from psn_tutorial.tasks import load_split  # noqa: E402
from psn_tutorial.tasks.base import Verdict  # noqa: E402
from psn_tutorial.tasks.rules import Rules  # noqa: E402
from psn_tutorial.trainer import Trainer  # noqa: E402

SECONDS = ("seconds", "seconds_sample", "seconds_verify", "seconds_update", "seconds_schedule")


class Parity(Rules):
    """A reward that even a badly rounded base earns half of the time."""

    def verify(self, response, problem):
        return Verdict(sum(map(ord, response)) % 2 == 0, "")


def trainer(run=None, **changes):
    settings = {"task": "rules", "prompts": 4, "group": 8, "lr": 1e-3, "sigma": 0.05, "draws": 2, "steps": 4}
    model, tokenizer = load_qlora(QLoRAConfig(str(base_folder("rules")), compute="float32", rank=4))
    config = TrainConfig(**{**settings, **changes})
    return Trainer(config, Policy(model, tokenizer), Parity(), load_split("rules", "train")[:50], run)


def without_times(record):
    return {name: value for name, value in record.items() if name not in SECONDS}


def learned(made):
    return {name: p.detach().clone() for name, p in made.model.named_parameters() if p.requires_grad}


def base_bits(made):
    return {name: p.detach().clone() for name, p in made.model.named_parameters() if not p.requires_grad}


def test_the_adapter_learns_and_the_base_stays_bit_for_bit():
    made = trainer()
    before, base = learned(made), base_bits(made)
    records = list(made.train())
    assert any(not torch.equal(p, before[name]) for name, p in learned(made).items())
    assert all(torch.equal(p, base[name]) for name, p in base_bits(made).items())
    for record in records:
        assert record["sigma_realised"] == pytest.approx(0.05, rel=0.3) and record["kl_k3"] > 0
        assert record["zero_contrast"] < 1 and record["noise_to_update"] > 0


def test_the_clean_policy_is_read_by_the_sampler_and_by_the_trainer_alike():
    made = trainer(sigma=0.0)
    rollouts = made.roll_out(made.pick_problems())
    with torch.no_grad():
        again, _ = completion_logps(made.model, rollouts, torch.arange(32), 1.0)
    assert (again - rollouts.logps)[rollouts.mask].abs().max() < 1e-4


def test_a_resumed_run_goes_on_bit_for_bit_from_the_adapter_alone(tmp_path):
    whole = trainer()
    expected = [without_times(record) for record in whole.train()]
    first = trainer(RunFolder.create(tmp_path / "run", {}), save_every=2)
    steps = first.train()
    next(steps), next(steps)
    checkpoint = RunFolder.open(tmp_path / "run").resume()
    assert checkpoint.step == 2
    assert set(checkpoint.tensors["model"]) == set(learned(first))  # no base weight is in it
    second = trainer()
    second.restore(checkpoint)
    assert [without_times(record) for record in second.train()] == expected[2:]
    assert all(torch.equal(p, learned(whole)[name]) for name, p in learned(second).items())


def test_a_checkpoint_of_another_rank_is_refused(tmp_path):
    made = trainer(RunFolder.create(tmp_path / "run", {}), steps=1)
    list(made.train())
    checkpoint = RunFolder.open(tmp_path / "run").resume()
    model, tokenizer = load_qlora(QLoRAConfig(str(base_folder("rules")), compute="float32", rank=8))
    other = Trainer(made.config, Policy(model, tokenizer), made.task, made.problems)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.restore(checkpoint)


def test_the_change_of_an_adapter_is_that_of_its_product():
    made = trainer()
    noise = NoiseConfig(0.05, "mlp")
    for _ in range(2):
        made.step()  # B leaves zero
    layers = {name: module for name, module in made.model.named_modules() if hasattr(module, "base_layer")}
    wanted = [module for module in layers.values() if module.base_layer in linear_layers(made.model, "mlp").values()]
    assert len(wanted) == 6

    def products():
        return [
            m.scaling["default"] * m.lora_B["default"].weight.detach() @ m.lora_A["default"].weight.detach()
            for m in wanted
        ]

    before, moved = products(), change_since(made.model, noise)
    assert moved() == pytest.approx(0.0, abs=1e-6)
    for part in ("lora_A", "lora_B"):
        with torch.no_grad():
            for name, p in made.model.named_parameters():
                if part in name:
                    p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
        expected = sum(float((a - b).square().sum()) for a, b in zip(products(), before, strict=True)) ** 0.5
        assert moved() == pytest.approx(expected, rel=1e-3) and expected > 0.01


def test_the_kl_is_taken_to_the_base_that_a_new_adapter_leaves_as_it_is():
    made = trainer(kl_coef=0.1, sigma=0.0, steps=3)
    assert set(made.reference) == set(learned(made))  # no second copy of the base's weights
    records = list(made.train())
    assert records[0]["kl_ref"] == pytest.approx(0.0, abs=1e-9)
    assert records[2]["kl_ref"] > 1e-6
    rollouts = made.roll_out(made.pick_problems())
    rows = torch.arange(32)
    fresh = trainer(sigma=0.0)
    with torch.no_grad():
        expected, _ = completion_logps(fresh.model, rollouts, rows, 1.0)
    torch.testing.assert_close(made.reference_logps(rollouts, rows), expected)


def test_recomputing_and_micro_batches_change_nothing_but_rounding():
    weights = {}
    for name, changes in {"plain": {}, "recompute": {"recompute": True}, "parts": {"micro_batch": 5}}.items():
        made = trainer(steps=2, **changes)
        list(made.train())
        weights[name] = torch.cat([p.flatten() for p in learned(made).values()])
    start = torch.cat([p.flatten() for p in learned(trainer()).values()])
    for name in ("recompute", "parts"):
        assert (weights[name] - weights["plain"]).norm() < 2e-2 * (weights["plain"] - start).norm(), name


def test_the_carriers_are_options_of_the_loop():
    realised = {}
    for carrier in ("lowrank", "dense"):
        made = trainer(carrier=carrier, noise_rank=2)
        realised[carrier] = made.step()["sigma_realised"]
        assert not any("forward" in vars(layer) for layer in four_bit_layers(made.model).values())
    assert realised["dense"] == pytest.approx(0.05, rel=0.02) and realised["lowrank"] != realised["dense"]
    assert dense_weight(next(iter(four_bit_layers(made.model).values()))).dtype == torch.float32
