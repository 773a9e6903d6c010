"""PSN-GRPO inside TRL, on tiny random models and on SmolLM2. The oracles: TRL's own trainer, plain forward passes."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import BitsAndBytesConfig  # noqa: E402
from trl import GRPOConfig, GRPOTrainer, TrlParser  # noqa: E402

from psn_tutorial.carriers import carried  # noqa: E402
from psn_tutorial.config import TrainConfig  # noqa: E402
from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.integrations.trl import PSNConfig, PSNGRPOTrainer  # noqa: E402
from psn_tutorial.models.gguf import folder_of  # noqa: E402
from psn_tutorial.models.qlora import ADAPTED, four_bit_layers  # noqa: E402
from psn_tutorial.noise import NoiseConfig, perturbed  # noqa: E402
from tests.integrations.trainers import (  # noqa: E402
    PROMPTS,
    ROOT,
    SETTINGS,
    TEMPERATURE,
    Watched,
    logged,
    plain_logps,
    reward,
    same,
    weights,
)
from tests.models.smollm2 import FILE, FOLDER  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other


# Without noise


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2, "loss_type": "grpo", "beta": 0.1}])
def test_at_sigma_0_it_is_trls_trainer_bit_for_bit(make, settings):
    theirs = make(GRPOTrainer, **settings)
    before = weights(theirs)
    theirs.train()
    ours = make(sigma=0.0, **settings)  # seeds torch anew
    ours.train()
    assert same(weights(theirs), weights(ours)) and not same(before, weights(ours))
    timed = ("step_time", "runtime", "per_second")
    quiet = [
        [{k: v for k, v in e.items() if not any(t in k for t in timed)} for e in t.state.log_history]
        for t in (theirs, ours)
    ]
    assert quiet[0] == quiet[1]


def test_the_package_itself_does_not_import_trl():
    code = "import psn_tutorial, psn_tutorial.trainer, psn_tutorial.integrations, sys; print('trl' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.split() == ["False"]


def test_defaults_and_meaning_of_the_settings_are_those_of_train_config():
    ours, theirs = PSNConfig.__dataclass_fields__, TrainConfig.__dataclass_fields__
    shared = (ours.keys() - GRPOConfig.__dataclass_fields__.keys()) & theirs.keys()
    assert ours.keys() - GRPOConfig.__dataclass_fields__.keys() - shared == {"draws_per_process"}
    changed = {name for name in shared if ours[name].default != theirs[name].default}
    assert changed == {"sigma", "schedule"} and (ours["sigma"].default, ours["schedule"].default) == (
        0.001,
        "kl_target",
    )
    assert all(ours[name].metadata["help"] == theirs[name].metadata["help"] for name in shared)


def test_settings_are_flags_of_trls_parser(tmp_path):
    words = f"--output_dir {tmp_path} --use_cpu --sigma 0.02 --draws 4 --relative --schedule annealed --bf16 false"
    (config,) = TrlParser(PSNConfig).parse_args_and_config(words.split())
    assert (config.sigma, config.draws, config.relative, config.schedule) == (0.02, 4, True, "annealed")


# Rollouts


@pytest.mark.parametrize(
    "settings",
    [
        {"draws": 1},
        {"draws": 4},
        {"draws": 2, "spread": "per_group"},
        {"draws": 4, "antithetic": True, "targets": "all", "relative": True, "sigma": 0.3},
        {"draws": 2, "carrier": "lowrank"},
    ],
    ids=str,
)
def test_sampler_logps_are_those_of_the_noisy_policy_each_row_under_its_draw(make, settings):
    trainer = make(**({"sigma": 0.1} | settings))
    trainer.model.train()
    prompts = [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4  # of different lengths
    for step in (0, 5):
        trainer.state.global_step = step
        found = trainer.roll_out(prompts, trainer)
        draws = trainer.args.row_draws(0) + step * trainer.args.draws
        assert found["prompt_ids"] == trainer.processing_class(prompts)["input_ids"]
        for row, draw in enumerate(draws.tolist()):
            prompt, completion, logps = (found[k][row] for k in ("prompt_ids", "completion_ids", "logprobs"))
            with carried(trainer.model, trainer.noise, [draw]):
                expected = plain_logps(trainer.model, prompt, completion)
            torch.testing.assert_close(torch.tensor(logps), expected, atol=2e-5, rtol=0)
            assert not torch.allclose(torch.tensor(logps), plain_logps(trainer.model, prompt, completion), atol=1e-3)


OWN = """
from contextlib import contextmanager

from psn_tutorial.noise import perturbed, NoiseConfig
from psn_tutorial.schedulers import Scheduler

class Halving(Scheduler):
    state = ("sigma",)
    def __init__(self, sigma):
        self.sigma = sigma
    def update(self, signals):
        self.sigma /= 2 if signals["ess"] < 1 else 1
        return self.sigma

def second_matrices(name):
    return name.endswith("down_proj.weight")

@contextmanager
def last_norm(model, config, draws):
    with perturbed(model, NoiseConfig(config.sigma, "model.norm"), draws[0]) as receipt:
        yield receipt
"""


def test_a_schedule_a_target_and_a_carrier_of_ones_own_by_name(make, tmp_path, monkeypatch):
    (tmp_path / "own_in_trl.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    trainer = make(sigma=0.4, schedule="own_in_trl:Halving", targets="own_in_trl:second_matrices")
    trainer.train()
    assert logged(trainer, "sigma") == [0.4, 0.2] and trainer.scheduler.sigma == 0.1
    with carried(trainer.model, trainer.noise, [0]) as receipt:
        assert all(name.endswith("down_proj.weight") for name in receipt.names) and len(receipt.names) == 2
    trainer = make(sigma=0.4, carrier="own_in_trl:last_norm")
    before = weights(trainer)
    trainer.model.train()
    found = trainer.roll_out(PROMPTS, trainer)
    with perturbed(trainer.model, NoiseConfig(0.4, "model.norm"), 0):
        expected = plain_logps(trainer.model, found["prompt_ids"][0], found["completion_ids"][0])
    torch.testing.assert_close(torch.tensor(found["logprobs"][0]), expected, atol=2e-5, rtol=0)
    assert same(before, weights(trainer))
    with pytest.raises(UserError, match="there is no module no_such_module"):
        make(sigma=0.4, carrier="no_such_module:last_norm")


def test_an_answer_ends_with_its_end_token_and_so_do_its_logps(make):
    trainer = make(sigma=0.05, max_completion_length=12)
    trainer.eos_token_ids = list(range(0, 400, 3))  # a third of the vocabulary ends an answer
    trainer.generation_config.eos_token_id = trainer.eos_token_ids
    trainer.model.train()
    found = trainer.roll_out([PROMPTS[0]] * 8, trainer)
    lengths = list(map(len, found["completion_ids"]))
    assert min(lengths) < max(lengths) and lengths == list(map(len, found["logprobs"]))
    for row in found["completion_ids"]:
        ends = [token in trainer.eos_token_ids for token in row]
        assert not any(ends[:-1]) and (ends[-1] or len(row) == 12)


def test_nothing_but_the_temperature_shapes_what_is_sampled(make, monkeypatch):
    """Also where the model comes with sampling settings of its own, as Qwen's do."""
    model = make(sigma=0.0).model
    own = {"top_k": 2, "top_p": 0.5, "repetition_penalty": 1.5, "temperature": 0.1, "do_sample": True}
    model.generation_config.update(**own)
    used, get = [], type(model)._get_logits_processor
    monkeypatch.setattr(
        type(model), "_get_logits_processor", lambda *given, **named: used.append(get(*given, **named)) or used[-1]
    )
    trainer = make(model=model, sigma=0.1)
    trainer.model.train()
    trainer.roll_out(PROMPTS, trainer)
    assert [type(processor).__name__ for processor in used[0]] == ["SamplerLogps", "TemperatureLogitsWarper"]
    assert used[0][1].temperature == used[0][0].temperature == TEMPERATURE


def test_conversations_are_written_by_the_chat_template(make):
    trainer = make(sigma=0.05)
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS]
    texts = [
        trainer.processing_class.apply_chat_template(p, add_generation_prompt=True, tokenize=False) for p in prompts
    ]
    assert trainer.prompt_ids(prompts) == trainer.processing_class(texts)["input_ids"]


def test_draws_follow_from_the_step_and_never_repeat(make):
    """Three generations in two optimiser steps, four draws each."""
    trainer = make(draws=4, gradient_accumulation_steps=3, steps_per_generation=2, sigma=0.01)
    numbers = []
    for step in (0, 0, 1, 2, 2):
        trainer.state.global_step = step
        numbers.append(set(trainer.next_draws().tolist()))
    assert all(len(n) == 4 for n in numbers) and len(set().union(*numbers)) == 20
    again = make(draws=4, gradient_accumulation_steps=3, steps_per_generation=2, sigma=0.01)
    again.state.global_step = 2  # resumed
    assert set(again.next_draws().tolist()) == numbers[3]
    one = make(draws=2, gradient_accumulation_steps=2, sigma=0.01)  # one generation a step: as in our own trainer
    one.state.global_step = 7
    assert set(one.next_draws().tolist()) == {14, 15}


# Adapters and 4-bit weights


@pytest.mark.parametrize("four_bit", [False, True], ids=["adapter", "qlora"])
def test_an_adapter_learns_beside_a_base_that_stays(make, language_model, four_bit):
    from peft import LoraConfig

    named = {"peft_config": LoraConfig(r=4, target_modules=list(ADAPTED), task_type="CAUSAL_LM")}
    if four_bit:
        pytest.importorskip("bitsandbytes")
        named["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    trainer = make(Watched, model=str(language_model), named=named, sigma=0.1, draws=2, learning_rate=0.01)
    assert len(four_bit_layers(trainer.model)) == (14 if four_bit else 0)
    assert not any(layer.support_avx512bf16_for_cpu for layer in four_bit_layers(trainer.model).values())
    trainer.model.train()
    found = trainer.roll_out(PROMPTS, trainer)
    for row, draw in enumerate(trainer.args.row_draws(0).tolist()):
        with carried(trainer.model, trainer.noise, [draw]):
            expected = plain_logps(trainer.model, found["prompt_ids"][row], found["completion_ids"][row])
        torch.testing.assert_close(torch.tensor(found["logprobs"][row]), expected, atol=1e-4, rtol=0)
    before = weights(trainer)
    trainer.train()
    moved = {name for name, p in weights(trainer).items() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert logged(trainer, "kl_k3")[0] > 1e-4 and logged(trainer, "sigma_realised")[0] == pytest.approx(0.1, rel=0.1)


# Real weights


@pytest.mark.skipif(not FILE.is_file(), reason="SmolLM2 is not here: python -m tests.models.smollm2")
def test_smollm2_trains_for_some_steps(tmp_path, monkeypatch):
    from peft import LoraConfig

    monkeypatch.setenv("PSN_TUTORIAL_CACHE", str(FOLDER))  # unpacked once
    folder = str(folder_of(str(FILE)))
    ask = [[{"role": "user", "content": f"What is {n} + {n}? Say the number."}] for n in range(1, 5)]
    trainer = PSNGRPOTrainer(
        folder,
        reward,
        PSNConfig(
            **SETTINGS | {"per_device_train_batch_size": 4, "output_dir": str(tmp_path), "sigma": 0.004, "draws": 2}
        ),
        Dataset.from_dict({"prompt": ask}),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    )
    before = weights(trainer)
    trainer.train()
    moved = {name for name, p in weights(trainer).items() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert all(0.001 < kl < 0.1 for kl in logged(trainer, "kl_k3")) and len(logged(trainer, "kl_k3")) == 2
    trainer.model.train()
    found = trainer.roll_out(ask, trainer)  # of step 2, which has the draws 4 and 5
    with carried(trainer.model, trainer.noise, [4]):
        expected = plain_logps(trainer.model, found["prompt_ids"][0], found["completion_ids"][0])
    torch.testing.assert_close(torch.tensor(found["logprobs"][0]), expected, atol=1e-3, rtol=0)
