"""PSN-GRPO inside TRL with vLLM, against a stand-in: a real vLLM was not run."""

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402

from psn_tutorial.noise import NoiseConfig, perturbed  # noqa: E402
from tests.integrations.trainers import (  # noqa: E402
    PROMPTS,
    Watched,
    gradient,
    logged,
    plain_logps,
    same,
    scored,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other


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


def test_separate_probes_come_from_vllm_with_one_draw_and_the_policy_after_the_update(make, monkeypatch):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", Engine)
    settings = {"use_vllm": True, "vllm_mode": "server", "sigma": 0.3, "draws": 2, "max_steps": 1}
    trainer = make(schedule="realtime", probes="separate", **settings)
    engine = trainer.vllm_generation
    trainer.train()
    assert [(rows, group) for rows, group, _ in engine.asked] == [(4, 1), (4, 1), (4, 2)]
    with perturbed(trainer.model, NoiseConfig(0.3, seed=trainer.args.seed), 0):
        assert same(engine.loaded[engine.asked[-1][2]], weights(trainer))
    assert logged(trainer, "self_certainty")[0] > 0
