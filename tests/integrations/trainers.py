"""Trainers of TRL on a tiny model, and oracles beside them: what the tests of the integration share."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import GRPOConfig  # noqa: E402

from psn_tutorial.integrations.trl import PSNConfig, PSNGRPOTrainer  # noqa: E402
from psn_tutorial.rollout import Rollouts, completion_logps  # noqa: E402

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


def reward(completion_ids, **_):
    return [sum(row) % 7 / 7 for row in completion_ids]


class Letters:
    """A sentence encoder that counts letters: what tiny random models write has hardly a word twice."""

    @staticmethod
    def encode(texts):
        return torch.tensor([[1.0 + text.count(letter) for letter in "aehmnopsuvw123"] for text in texts])


def maker(language_model, folder):
    """A function (trainer class, settings) -> a trainer on a fresh copy of the model, which writes to ``folder``."""

    def trainer(cls=PSNGRPOTrainer, model=None, dataset=PROMPTS, named=None, **settings):
        config = PSNConfig if issubclass(cls, PSNGRPOTrainer) else GRPOConfig
        settings = SETTINGS | {"output_dir": str(folder / "out")} | settings
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
