"""PSN-GRPO inside TRL, on tiny random models. The oracles: TRL's own trainer, our losses, plain forward passes."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

trl = pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig  # noqa: E402
from trl import GRPOConfig, GRPOTrainer, TrlParser  # noqa: E402
from trl.generation.vllm_generation import VLLMGeneration  # noqa: E402

from psn_tutorial.carriers import carried  # noqa: E402
from psn_tutorial.config import TrainConfig  # noqa: E402
from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.importance import importance_weights  # noqa: E402
from psn_tutorial.integrations.trl import PSNConfig, PSNGRPOTrainer  # noqa: E402
from psn_tutorial.integrations.trl.config import LOSS_TYPES  # noqa: E402
from psn_tutorial.integrations.trl.ratios import RatioSums  # noqa: E402
from psn_tutorial.losses import policy_loss  # noqa: E402
from psn_tutorial.models.encoders import bag_of_words  # noqa: E402
from psn_tutorial.models.gguf import folder_of  # noqa: E402
from psn_tutorial.models.qlora import ADAPTED, four_bit_layers  # noqa: E402
from psn_tutorial.noise import NoiseConfig, perturbed  # noqa: E402
from psn_tutorial.rollout import Rollouts, completion_logps  # noqa: E402
from psn_tutorial.schedulers import make_scheduler  # noqa: E402
from psn_tutorial.signals import semantic_similarity, token_certainty  # noqa: E402
from tests.models.smollm2 import FILE, FOLDER  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    "Anna has 12",
    "Anna has 12 apples and buys",
    "How many",
    "The answer is",
    "apples",
    "3 more",
    "buys 3",
    "now?",
]
TEMPERATURE = 0.7
SETTINGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "temperature": TEMPERATURE,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other


def reward(completion_ids, **_):
    return [sum(row) % 7 / 7 for row in completion_ids]


@pytest.fixture
def make(language_model, tmp_path):
    """A function (trainer class, settings) -> a trainer on a fresh copy of the model."""

    def trainer(cls=PSNGRPOTrainer, model=None, dataset=PROMPTS, named=None, **settings):
        config = PSNConfig if issubclass(cls, PSNGRPOTrainer) else GRPOConfig
        settings = SETTINGS | {"output_dir": str(tmp_path / "out")} | settings
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
        return cls(
            model,
            reward,
            config(**settings),
            Dataset.from_dict({"prompt": dataset}),
            processing_class=AutoTokenizer.from_pretrained(language_model, padding_side="left"),
            **(named or {}),
        )

    return trainer


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logged(trainer, name):
    return [entry[f"psn/{name}"] for entry in trainer.state.log_history if f"psn/{name}" in entry]


def plain_logps(model, prompt, completion, temperature=TEMPERATURE):
    """Log-probs of one completion: no padding, no cache, no batch."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


class Watched(PSNGRPOTrainer):
    """Keeps what compute_loss is given."""

    def compute_loss(self, model, inputs, *others, **named):
        self.seen = [*getattr(self, "seen", []), dict(inputs)]
        return super().compute_loss(model, inputs, *others, **named)


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


# Correction


def scored(trainer, batch):
    """Log-probs [B, T] with gradient, by our own trainer's pass over completions."""
    mask = batch["completion_mask"].bool()
    size = mask.shape
    rollouts = Rollouts(
        batch["prompt_ids"],
        batch["prompt_mask"].bool(),
        batch["completion_ids"],
        mask,
        torch.zeros(size),
        torch.zeros(size[0]),
        None,
    )
    return completion_logps(trainer.model, rollouts, torch.arange(size[0]), TEMPERATURE)[0]


def gradient(loss, model):
    grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in grads])


def rollout_batch(make, **settings):
    """A trainer after one step at learning rate 0, and the batch of that step."""
    trainer = make(Watched, **({"sigma": 0.3, "max_steps": 1, "learning_rate": 0.0, "beta": 0.0} | settings))
    trainer.train()
    (batch,) = trainer.seen
    assert {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"} <= batch.keys()
    assert "old_per_token_logps" not in batch and batch["advantages"].dim() == 1
    return trainer, batch


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
    torch.testing.assert_close(
        trainer.clean_logps(trainer.model, batch), scored(trainer, batch).detach(), atol=2e-5, rtol=0
    )


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
    assert logged(trainer, "similarity")[0] == pytest.approx(semantic_similarity(bag_of_words(texts), 4))


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


# Several processes


def test_two_processes_have_the_same_noise_statistics_and_weights(language_model, tmp_path):
    cases = (
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 4, "draws_per_process": True},
        {"per_device_train_batch_size": 2, "draws": 2, "schedule": "realtime"},  # a group lies on both processes
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
        assert len(zero["noisy"]) == 2 and zero["noisy"][0][1] != zero["noisy"][1][1] or case == 2
        if case == 1:
            draws = [draw for rank in (zero, one) for draws, _ in rank["noisy"] for draw in draws]
            assert sorted(draws) == [0, 1, 2, 3] and zero["noisy"][0][1] != one["noisy"][0][1]
        else:
            assert zero["noisy"] == one["noisy"]
        shared = [[{k: v for k, v in e.items() if "realised" not in k} for e in rank["logs"]] for rank in (zero, one)]
        assert shared[0] == shared[1] and "psn/kl_k1" in shared[0][0]
    assert 0 <= ranks[0][2]["logs"][0]["psn/similarity"] <= 1


# Refusals


@pytest.mark.parametrize(
    "settings,sentence",
    [
        ({"loss_type": "vespo"}, "loss_type must be one of 'grpo', 'dapo'.*got 'vespo'"),
        ({"importance_sampling_level": "sequence"}, "correction must be 'sequence' or 'none' with"),
        ({"top_p": 0.9}, "top_p must be 1.0 with noise"),
        ({"top_k": 50}, "top_k must be 0 with noise"),
        ({"min_p": 0.1}, "min_p must be None with noise"),
        ({"repetition_penalty": 1.1}, "repetition_penalty must be 1.0 with noise"),
        ({"generation_kwargs": {"top_p": 0.5}}, "generation_kwargs must be None with noise"),
        ({"use_transformers_continuous_batching": True}, "use_transformers_continuous_batching must be False"),
        ({"draws": 3}, "draws must divide the 8 rollouts"),
        ({"draws": 4, "spread": "per_group"}, "draws must divide the 2 prompts"),
        ({"draws": 1, "antithetic": True}, "draws must be even when antithetic, got 1"),
        ({"sigma": -1.0}, "sigma must be"),
        ({"cap": 0.0}, "cap must be"),
        ({"schedule": "cosine"}, "schedule must be one of"),
        ({"correction": "tokens"}, "correction must be one of"),
        ({"targets": "experts"}, "targets 'experts' matches no parameter"),
        (
            {"cast_lm_head_to_fp32": True, "targets": "all"},
            "cast_lm_head_to_fp32 must be False where the head has noise",
        ),
        ({"use_vllm": True, "carrier": "lowrank"}, "carrier must be 'weights' with vLLM"),
    ],
    ids=lambda x: "" if isinstance(x, str) else str(x),
)
def test_what_cannot_be_is_refused_in_one_sentence(make, settings, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        make(**({"sigma": 0.1} | settings))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_arguments_that_cannot_be_are_refused(make, monkeypatch):
    from peft import LoraConfig, get_peft_model

    for name, value in (("rollout_func", print), ("tools", [print]), ("environment_factory", print)):
        with pytest.raises(UserError, match=f"{name} must be None with noise"):
            make(named={name: value})
    lora = LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM")
    with pytest.raises(UserError, match="use_vllm must be False with an adapter"):
        make(named={"peft_config": lora}, use_vllm=True)
    with pytest.raises(UserError, match="use_vllm must be False with an adapter"):
        make(model=get_peft_model(make(sigma=0.0).model, lora), use_vllm=True)
    with pytest.raises(ValueError, match="lm_head"):
        make(named={"peft_config": LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")})
    with pytest.raises(UserError, match="args must be a PSNConfig, got GRPOConfig"):
        PSNGRPOTrainer("model", reward, GRPOConfig(use_cpu=True, bf16=False))
    model = make(sigma=0.0).model
    model.generation_config.min_p = 0.1
    with pytest.raises(UserError, match="the model's generation_config must not set min_p with noise.*got 0.1"):
        make(model=model, sigma=0.1)
    monkeypatch.setitem(sys.modules, "unsloth", object())
    with pytest.raises(UserError, match="unsloth must not be imported"):
        make()
    make(sigma=0.0)  # what TRL can do, it still does


# vLLM: a stand-in


class Engine:
    """In the place of VLLMGeneration: its own copy of the weights, and plain sampling from it."""

    def __init__(self, model, mode, temperature, max_completion_length, **settings):
        self.source, self.copy = model, type(model)(model.config)  # TRL's forward pass of the model would come along
        self.temperature, self.length = temperature, max_completion_length
        self.vllm_client = type(
            "", (), {"get_server_info": lambda _: {"model_config": {"logprobs_mode": "processed_logprobs"}}}
        )()
        self.loaded, self.asked = [], []

    def sync_weights(self):
        self.copy.load_state_dict(self.source.state_dict())
        self.loaded.append({name: p.detach().clone() for name, p in self.copy.named_parameters()})

    def generate(self, prompts, images, num_generations, profiler=None):
        self.asked.append((len(prompts), num_generations, len(self.loaded) - 1))
        assert all(prompts[i] == prompts[i - i % num_generations] for i in range(len(prompts)))
        completions = [torch.randint(5, 60, (self.length,)).tolist() for _ in prompts]
        rows = zip(prompts, completions, strict=True)
        logps = [[[lp] for lp in plain_logps(self.copy, p, c, self.temperature).tolist()] for p, c in rows]
        return prompts, completions, logps, None


@pytest.mark.parametrize("mode", ["colocate", "server"])
@pytest.mark.parametrize("draws", [1, 2])
def test_vllm_samples_from_noisy_weights_and_evaluates_clean_ones(make, monkeypatch, mode, draws):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", Engine)
    settings = {"use_vllm": True, "vllm_mode": mode, "sigma": 0.3, "draws": draws, "cap": 1.2, "max_steps": 1}
    named = {"eval_dataset": Dataset.from_dict({"prompt": PROMPTS[:2]})}
    trainer = make(Watched, named=named, learning_rate=0.0, **settings)
    clean, engine = weights(trainer), trainer.vllm_generation
    trainer.train()
    used = [engine.loaded[place] for *_, place in engine.asked]
    assert len(used) == draws and [n for _, n, _ in engine.asked] == ([4] if draws == 1 else [1, 1])
    for draw, loaded in enumerate(used):
        with perturbed(trainer.model, NoiseConfig(0.3, seed=trainer.args.seed), draw):
            assert same(loaded, weights(trainer))
    assert same(clean, weights(trainer))

    (batch,) = trainer.seen
    ratio = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).exp()
    torch.testing.assert_close(batch["importance_sampling_ratio"], ratio.clamp(max=1.2))
    mask, logps = batch["completion_mask"].bool(), scored(trainer, batch)
    expected = (ratio.clamp(max=1.2) * -batch["advantages"][:, None] * logps)[mask].mean()  # dapo
    theirs = gradient(trainer.compute_loss(trainer.model, dict(batch)), trainer.model)
    torch.testing.assert_close(theirs, gradient(expected, trainer.model), atol=1e-6, rtol=1e-3)
    assert 0 < logged(trainer, "clipped_fraction")[0] < 1 and logged(trainer, "max_ratio")[0] > 1.2

    trainer.evaluate()
    assert all(same(engine.loaded[place], clean) for *_, place in engine.asked[draws:]) and len(engine.asked) > draws


# Names of TRL that the integration stands on


def test_trl_still_has_what_is_built_on():
    """After an upgrade of trl this says which name has moved."""
    initial = inspect.getsource(GRPOTrainer)
    missing = [
        f"the argument {name} of {function.__qualname__}"
        for function, names in (
            (GRPOTrainer.__init__, ("model", "reward_funcs", "args", "rollout_func", "tools", "environment_factory")),
            (GRPOTrainer.compute_loss, ("model", "inputs")),
            (GRPOTrainer.log, ("logs", "start_time")),
            (VLLMGeneration.generate, ("prompts", "images", "num_generations")),
            (VLLMGeneration.sync_weights, ("self",)),
        )
        for name in names
        if name not in inspect.signature(function).parameters
    ]
    missing += [
        f"the attribute {name} of GRPOTrainer"
        for name in (
            *("temperature", "eos_token_ids", "generation_config", "generation_kwargs", "pad_to_multiple_of"),
            *("chat_template", "chat_template_kwargs", "num_generations", "num_generations_eval", "use_vllm"),
            "vllm_generation",
        )
        if f"self.{name} =" not in initial
    ]
    missing += [
        f"the setting {name} of GRPOConfig"
        for name in (
            *(
                "steps_per_generation",
                "generation_batch_size",
                "num_iterations",
                "loss_type",
                "top_p",
                "top_k",
                "min_p",
            ),
            *(
                "vllm_importance_sampling_correction",
                "vllm_importance_sampling_mode",
                "vllm_importance_sampling_clip_max",
            ),
            *("importance_sampling_level", "cast_lm_head_to_fp32", "ds3_gather_for_generation", "generation_kwargs"),
        )
        if name not in GRPOConfig.__dataclass_fields__
    ]
    missing += [
        f"the loss input {name}"
        for name in ("old_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio", "advantages")
        if f'"{name}"' not in initial
    ]
    taken = PSNConfig.__dataclass_fields__.keys() & GRPOConfig.__dataclass_fields__.keys()
    own = set(PSNConfig.__annotations__)
    assert not missing, f"trl {trl.__version__} no longer has {', '.join(missing)}"
    assert not taken & own, f"trl {trl.__version__} has settings of its own called {', '.join(sorted(taken & own))}"


# The example


def test_the_example_runs_dry(tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("math_verify")
    spec = importlib.util.spec_from_file_location("trl_gsm8k_qlora", ROOT / "examples" / "trl_gsm8k_qlora.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    words = ["--output_dir", str(tmp_path), "--dry_run", "--use_cpu", "--report_to", "none", "--sigma", "0.01"]
    trainer = example.main(words)
    assert len(four_bit_layers(trainer.model)) == 7 * trainer.model.config.num_hidden_layers
    assert logged(trainer, "sigma")[0] == 0.01 and logged(trainer, "kl_k3")[0] > 0
    assert (tmp_path / "adapter_model.safetensors").is_file()
    answers = [[{"role": "assistant", "content": text}] for text in ("It is \\boxed{12}.", "\\boxed{13}")]
    assert example.correct(completions=answers, answer=["12", "12"]) == [1.0, 0.0]


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
