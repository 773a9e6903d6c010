"""In TRL: weights against the mixture of a group's draws, and probes of the real-time schedule's own.

The oracles: one noisy model at a time, one row at a time, and a run that has neither.
"""

import math
from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("trl")

from transformers import BitsAndBytesConfig  # noqa: E402

from psn_tutorial.carriers import carried  # noqa: E402
from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.importance import importance_weights  # noqa: E402
from psn_tutorial.integrations.trl import trainer as module  # noqa: E402
from psn_tutorial.losses import policy_loss  # noqa: E402
from psn_tutorial.models.qlora import ADAPTED  # noqa: E402
from psn_tutorial.schedulers import RealtimeSigma  # noqa: E402
from psn_tutorial.signals import semantic_similarity, token_certainty  # noqa: E402
from tests.integrations.trainers import (  # noqa: E402
    PROMPTS,
    TEMPERATURE,
    Letters,
    Watched,
    gradient,
    logged,
    plain_logps,
    rollout_batch,
    same,
    scored,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other
SEPARATE = {"schedule": "realtime", "probes": "separate", "sigma": 0.2, "draws": 2}


# The mixture of draws


def under_each_draw(trainer, prompt, completion, draws):
    """Log-probs [N, T] of one completion under each of some draws: one noisy model at a time."""
    rows = []
    for draw in draws:
        with carried(trainer.model, trainer.noise, [draw]):
            rows.append(plain_logps(trainer.model, prompt, completion))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"draws": 2},
        {"draws": 4, "per_device_train_batch_size": 4, "steps_per_generation": 2},  # read two pieces, of one row each
        {"draws": 2, "targets": "all", "relative": True, "antithetic": True, "sigma": 0.3},  # the head has noise too
        {"draws": 4, "carrier": "lowrank"},
    ],
    ids=str,
)
def test_the_samplers_logps_are_those_of_the_mixture_of_all_draws(make, settings):
    """Token by token mean_j mu_j(o_<=t) / mean_j mu_j(o_<t), whose product is the mean of the draws' probabilities."""
    trainer = make(**({"sigma": 0.1, "mixture": True, "max_completion_length": 9} | settings))
    trainer.eos_token_ids = list(range(0, 400, 5))  # so that answers end at different lengths
    trainer.generation_config.eos_token_id = trainer.eos_token_ids
    trainer.model.train()
    trainer.state.global_step = 3
    found = trainer.roll_out([PROMPTS[0]] * 4 + [PROMPTS[1]] * 4, trainer)
    count, number = trainer.args.draws, trainer.generation[0] * trainer.args.draws
    assert len(set(map(len, found["completion_ids"]))) > 1
    for row in range(8):
        prompt, completion, logps = (found[k][row] for k in ("prompt_ids", "completion_ids", "logprobs"))
        until = under_each_draw(trainer, prompt, completion, range(number, number + count)).double().cumsum(1).exp()
        mean = torch.cat([torch.ones(1), until.mean(0)])
        torch.testing.assert_close(torch.tensor(logps).double(), (mean[1:] / mean[:-1]).log(), atol=2e-5, rtol=0)
        own = until[trainer.args.row_draws(0)[row]].log()
        assert abs(float(own[-1]) - sum(logps)) > 1e-3  # not those of the draw that sampled it


def test_mixture_weights_change_the_ratios_and_nothing_that_is_sampled(make):
    plain, mixed = (rollout_batch(make, draws=4, mixture=mixture) for mixture in (False, True))
    assert torch.equal(plain[1]["completion_ids"], mixed[1]["completion_ids"])
    assert torch.equal(plain[1]["advantages"], mixed[1]["advantages"])
    one, all_of_them = (logged(trainer, "ess")[0] for trainer, _ in (plain, mixed))
    assert one < all_of_them < 1  # the balance heuristic is the less variable
    single = [rollout_batch(make, draws=1, mixture=mixture)[1] for mixture in (False, True)]
    assert torch.equal(*(batch["sampling_per_token_logps"] for batch in single))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_loss_and_gradient_with_mixture_weights_are_those_of_our_own_trainer(make, level):
    trainer, batch = rollout_batch(make, loss_type="grpo", cap=1.2, draws=2, mixture=True, correction=level)
    mask, logps = batch["completion_mask"].bool(), scored(trainer, batch)
    sampler = batch["sampling_per_token_logps"]
    w = importance_weights(logps.detach(), sampler, mask, 1.2, level).weights
    expected = policy_loss(logps, logps.detach(), batch["advantages"], mask, w)[0]
    loss = trainer.compute_loss(trainer.model, dict(batch))
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    theirs, ours = (gradient(value, trainer.model) for value in (loss, expected))
    torch.testing.assert_close(theirs, ours, atol=1e-7, rtol=1e-3)


def test_a_mixture_beside_a_base_in_4_bits(make, language_model):
    pytest.importorskip("bitsandbytes")
    from peft import LoraConfig

    named = {
        "peft_config": LoraConfig(r=4, target_modules=list(ADAPTED), task_type="CAUSAL_LM"),
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
    }
    trainer = make(model=str(language_model), named=named, sigma=0.1, draws=2, mixture=True)
    trainer.model.train()
    found = trainer.roll_out(PROMPTS, trainer)
    for row in (0, 1, 7):
        prompt, completion, logps = (found[k][row] for k in ("prompt_ids", "completion_ids", "logprobs"))
        sequence = under_each_draw(trainer, prompt, completion, (0, 1)).sum(1)
        assert sum(logps) == pytest.approx(float(sequence.logsumexp(0)) - math.log(2), abs=1e-3)


# Probes of their own


@pytest.fixture
def kept_probes(monkeypatch):
    """All rollouts of fewer rows than a batch has, with the noise that they were sampled under."""
    kept, active = [], []

    @contextmanager
    def watched(model, noise, draws):
        active.append((noise, draws))
        with carried(model, noise, draws) as receipt:
            yield receipt

    generate = module.PSNGRPOTrainer.generate

    def watching(self, prompts, noise, draws, group):
        found = generate(self, prompts, noise, draws, group)
        if self.model.training and len(prompts) < 8:
            kept.append((prompts, found[0], *active[-1], weights(self)))
        return found

    monkeypatch.setattr(module, "carried", watched)
    monkeypatch.setattr(module.PSNGRPOTrainer, "generate", watching)
    return kept


def test_separate_probes_are_rollouts_that_nothing_is_learned_from(make):
    trainer = make(**SEPARATE, realtime_factor=1 + 1e-12)
    constant = make(**SEPARATE | {"schedule": "constant"})
    for one in (trainer, constant):
        one.encoder = one.encoder and Letters
        torch.manual_seed(0)
        one.train()
    assert same(weights(trainer), weights(constant))
    assert logged(trainer, "kl_k3") == logged(constant, "kl_k3") and len(logged(trainer, "kl_k3")) == 2
    assert not logged(constant, "similarity")
    assert len(set(logged(trainer, "similarity"))) == 2 and len(set(logged(trainer, "self_certainty"))) == 2


@pytest.mark.parametrize("direction", ["uniform_to_policy", "policy_to_uniform"])
def test_probes_come_from_the_policy_after_the_update_and_its_first_draw(make, kept_probes, direction):
    """Two answers to each prompt; their similarity, and the certainty of the clean policy about them."""
    trainer = make(Watched, **SEPARATE, certainty=direction, learning_rate=0.01, max_completion_length=7)
    trainer.eos_token_ids = list(range(0, 400, 5))
    trainer.generation_config.eos_token_id = trainer.eos_token_ids
    trainer.encoder = Letters
    before = weights(trainer)
    trainer.train()
    assert len(kept_probes) == 2
    for step, (prompts, completions, noise, draws, policy) in enumerate(kept_probes):
        assert draws == [step * trainer.args.draws] and noise.sigma == logged(trainer, "sigma")[step]
        batch = trainer.seen[step]
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]
        assert len(prompts) == 4 and prompts[0] == prompts[1] != prompts[2] == prompts[3]
        assert {tuple(row) for row in prompts} == {tuple(row) for row in rows}
        assert not same(policy, before)
        before = policy
        assert len(set(map(len, completions))) > 1
        texts = trainer.processing_class.batch_decode(completions, skip_special_tokens=True)
        expected = semantic_similarity(Letters.encode(texts), 2)
        assert 0.1 < expected < 0.999 and logged(trainer, "similarity")[step] == pytest.approx(expected)
    model, certainties = trainer.model, []  # the last probes saw the policy as it is now
    for prompt, completion in zip(prompts, completions, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
        certainties.append(token_certainty(logits, direction))
    assert logged(trainer, "self_certainty")[1] == pytest.approx(float(torch.cat(certainties).mean()), rel=1e-4)


def test_probes_sample_anew_at_each_step_and_the_same_in_each_run(make, kept_probes):
    for _ in range(2):
        make(**SEPARATE, learning_rate=0.0, dataset=PROMPTS[:2], realtime_factor=1 + 1e-12).train()
    first, second, *again = [completions for _, completions, *_ in kept_probes]
    assert first != second and again == [first, second]


def test_what_separate_probes_found_moves_the_scheduler(make):
    trainer = make(**SEPARATE, max_steps=4, realtime_factor=1.5)
    trainer.encoder = Letters
    trainer.train()
    replayed, sigmas = RealtimeSigma(0.2, factor=1.5), logged(trainer, "sigma")
    for step in range(3):
        signals = {name: logged(trainer, name)[step] for name in ("similarity", "self_certainty")}
        assert sigmas[step + 1] == replayed.update(signals)
    assert len(set(sigmas)) > 1


@pytest.mark.parametrize("settings", [SEPARATE, SEPARATE | {"probes": "reuse", "mixture": True}], ids=str)
def test_a_resumed_run_goes_on_with_the_same_probes_and_mixtures(make, settings):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "realtime_factor": 1.5} | settings
    whole, resumed = make(**settings), make(**settings)
    whole.encoder = resumed.encoder = Letters
    whole.train()
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
    assert same(weights(whole), weights(resumed)) and whole.scheduler == resumed.scheduler
    for name in ("sigma", "similarity", "self_certainty", "ess"):
        assert logged(whole, name) == logged(resumed, name)


# Refusals


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mixture": True, "draws": 8}, "draws that divide num_generations 4, got 'pooled' and 8"),
        ({"mixture": True, "draws": 2, "spread": "per_group"}, "mixture weights need spread 'pooled'.*got 'per_group'"),
        ({"mixture": True, "draws": 2, "use_vllm": True}, "mixture must be False with vLLM"),
        ({"schedule": "realtime", "probes": "new"}, "probes must be one of 'reuse', 'separate', got 'new'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(make, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        make(sigma=0.1, **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (SEPARATE, "probes 'separate' need whole groups of 4 on each process, got 2 rows"),
        (
            {"mixture": True, "draws": 2, "draws_per_process": True},
            "mixture weights with draws_per_process need whole groups of 4 on each process, got 2 rows",
        ),
        ({"mixture": True, "draws": 4}, "draws must share the 2 rows of each process evenly, got 4"),
    ],
    ids=str,
)
def test_a_group_on_several_processes_is_refused_where_it_must_be_whole(make, monkeypatch, settings, sentence):
    monkeypatch.setattr(module.PSNConfig, "world_size", 4)
    with pytest.raises(UserError, match=sentence):
        make(**{"sigma": 0.1, "per_device_train_batch_size": 2} | settings)
