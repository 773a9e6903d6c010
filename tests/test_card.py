"""What runs on a card is what runs on a CPU: the same noise, rollouts, log-probs, steps. Skipped where there is none.

Both start from one seed, and every random number is made on the CPU; what is left is the rounding of other kernels.
"""

from dataclasses import replace

import pytest
import torch

from psn_tutorial.carriers import carried
from psn_tutorial.config import RunConfig, TrainConfig
from psn_tutorial.jobs.evaluating import evaluate_policy
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.policies import load_policy
from psn_tutorial.jobs.training import TrainingJob
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.policy import encode
from psn_tutorial.models.qlora import QLoRAConfig, dequantised, load_base, load_qlora
from psn_tutorial.noise import NoiseConfig, perturbed, stream
from psn_tutorial.preflight.run import preflight
from psn_tutorial.rollout import read_completions, sample, spread_draws
from psn_tutorial.tasks import get_task, load_split
from psn_tutorial.trainer import Trainer

CARD = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
RULES = TrainConfig(task="rules", prompts=8, group=8, steps=2, lr=1e-3, sigma=0.3, relative=True, draws=4)
CHANGES = [
    {"targets": "head"},
    {"targets": "all", "draws": 1, "correction": "sequence"},
    {"correction_mode": "mask", "kl_coef": 0.1, "entropy_coef": 0.01, "updates": 2},
    {"mixture": True, "targets": "head"},
    {"schedule": "realtime", "probes": "separate"},
    {"carrier": "lowrank", "antithetic": True},
    {"carrier": "dense"},
]


def shipped(device):
    return load_policy(base_folder("rules"), device)


def weights(model):
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_in_the_weights_is_the_same_bit_for_bit_and_leaves_nothing(dtype):
    config, found = NoiseConfig(0.02, "all"), []
    for device in ("cpu", CARD):
        model = shipped(device).model.to(dtype)
        before = weights(model)
        with perturbed(model, config, 3) as receipt:
            found.append(weights(model))
        assert all(torch.equal(p, before[name]) for name, p in weights(model).items())
    assert all(torch.equal(p, found[1][name]) and not torch.equal(p, before[name]) for name, p in found[0].items())
    assert receipt.realised_sigma == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("carrier", ["weights", "dense", "lowrank"])
@pytest.mark.parametrize("draws", [1, 4])
def test_rollouts_and_both_sides_of_the_ratio_are_those_of_the_cpu(carrier, draws):
    noise, sides = NoiseConfig(0.3, "mlp", relative=True, carrier=carrier), []
    task, problems = get_task("rules"), load_split("rules", "eval")[:16]
    for device in ("cpu", CARD):
        policy = shipped(device)
        prompts = encode(policy.tokenizer, [task.prompt(problem) for problem in problems])
        those = spread_draws(16, 8, draws, "pooled")
        rollouts = sample(policy, prompts, 8, task.max_tokens(problems[0]), stream(0, "card"), 1.0, noise, those)
        with torch.no_grad():
            clean = read_completions(policy.model, rollouts, torch.arange(128), 1.0, "value", "uniform_to_policy")
        sides.append([x.cpu() for x in (rollouts.tokens, rollouts.logps, clean.logps, clean.entropy, clean.certainty)])
    alike = (sides[0][0] == sides[1][0]).all(1)  # a token on the edge between two others may fall on either side
    assert alike.float().mean() > 0.97
    for here, there in zip(sides[0][1:], sides[1][1:], strict=True):
        torch.testing.assert_close(here[alike], there[alike], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_step_finds_what_it_finds_on_a_cpu(changes):
    config = replace(RULES, **changes)
    task, problems, records, moved = get_task("rules"), load_split("rules", "train")[:50], [], []
    for device in ("cpu", CARD):
        policy = shipped(device)
        before = weights(policy.model)
        records.append(Trainer(config, policy, task, problems).step())
        moved.append(torch.cat([(p - before[name]).flatten() for name, p in weights(policy.model).items()]))
    assert records[1]["reward"] == pytest.approx(records[0]["reward"], abs=0.05)
    for name in ("sigma_realised", "ess", "kl_k3", "noise_to_update", "entropy", "self_certainty"):
        if records[0].get(name) is not None:
            assert records[1][name] == pytest.approx(records[0][name], rel=0.1, abs=1e-3), name
    if moved[0].any() and records[0]["tokens"] == records[1]["tokens"]:
        assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.9


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_four_bits_and_an_adapter(compute):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    settings = QLoRAConfig(str(base_folder("rules")), compute=compute, rank=4)
    ids = torch.randint(3, 16, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        packed, plain = load_base(settings, CARD).model, dequantised(load_base(settings, CARD).model)
        here, there = forward(packed, ids.to(CARD)).float(), forward(plain, ids.to(CARD)).float()
        on_cpu = forward(load_base(settings).model, ids).float()
    near = 1e-3 if compute == "float32" else 0.3
    torch.testing.assert_close(here, there, atol=near, rtol=0)
    torch.testing.assert_close(here.cpu(), on_cpu, atol=max(near, 2e-2), rtol=0)
    policy = load_qlora(settings, CARD)
    before = weights(policy.model)
    trainer = Trainer(replace(RULES, sigma=0.05), policy, get_task("rules"), load_split("rules", "train")[:50])
    for record in trainer.train():
        assert record["kl_k3"] > 0 and record["sigma_realised"] > 0
    changed = {name for name, p in weights(policy.model).items() if not torch.equal(p, before[name])}
    assert all("lora_" in name for name in changed)


def test_a_run_on_a_card_goes_on_and_its_policy_is_read_on_a_cpu(tmp_path):
    config = RunConfig(**{**vars(replace(RULES, steps=4)), "device": CARD, "save_every": 2, "eval_every": 4}, samples=0)
    with Stop() as stop:
        job = TrainingJob.start(tmp_path / "run", replace(config, steps=4))
        steps = job.train(stop)
        next(steps), next(steps)
        steps.close()
        again = TrainingJob.resume(tmp_path / "run")
        assert again.trainer.step_number == 2
        assert [record["step"] for record in again.train(stop)] == [3, 4]
    on_cpu = load_policy(tmp_path / "run", "cpu").model
    assert all(torch.equal(p, weights(again.policy.model)[name]) for name, p in weights(on_cpu).items())
    measured = [
        evaluate_policy(tmp_path / device, tmp_path / "run", replace(config.evaluation(), device=device, samples=0))
        for device in ("cpu", CARD)
    ]
    here, there = (record.steps[4] for record in measured)
    assert [r.exact for r in here] == pytest.approx([r.exact for r in there], rel=1e-3, abs=1e-6)


def test_preflight_on_a_card():
    states = {finding.name: finding.state for finding in preflight(RunConfig(**vars(RULES), device=CARD))}
    assert states["log-probs"] == "good"


def test_noise_beside_the_weights_reaches_a_model_in_half_precision():
    model = shipped(CARD).model.to(torch.bfloat16)
    ids = torch.randint(3, 16, (4, 9), generator=torch.Generator().manual_seed(0)).to(CARD)
    with torch.no_grad():
        clean = forward(model, ids)
        with carried(model, NoiseConfig(0.3, "mlp", relative=True, carrier="lowrank"), [0, 1]):
            noisy = forward(model, ids)
        assert torch.equal(clean, forward(model, ids)) and not torch.equal(clean, noisy)


def test_psn_grpo_inside_trl_on_a_card(language_model, tmp_path):
    pytest.importorskip("trl")
    from tests.integrations.trainers import maker

    trainer = maker(language_model, tmp_path)(sigma=0.05, relative=True, draws=2, use_cpu=False)
    assert trainer.accelerator.device.type == CARD
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged and all(entry["psn/kl_k3"] > 0 for entry in logged)
