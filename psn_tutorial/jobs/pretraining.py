"""Make a tiny base model: supervised pre-training on a task's demonstrations.

The base knows the format and the arithmetic of its task and finds solutions with modest probability; reinforcement
learning starts from it, as RLVR starts from a pretrained language model.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from psn_tutorial.config import EvaluationConfig, RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.extensions import origins
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.policies import is_run, require_new, save_policy
from psn_tutorial.jobs.problems import held_out_problems, training_problems
from psn_tutorial.models.bases import PretrainConfig
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.tiny import build_model, build_text_tokenizer, build_tokenizer, chatml
from psn_tutorial.runs.checkpoints import Checkpoint
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.runs.optimizers import pack_optimizer, unpack_optimizer
from psn_tutorial.settings import from_mapping, to_mapping
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.base import Demonstration, Task


def demonstrations(task: Task, config: PretrainConfig, exclude: list) -> list[tuple[str, Demonstration]]:
    """Texts to imitate: a prompt and an answer to it each."""
    rng = random.Random(config.seed)
    problems = task.generate(config.seed, config.problems, exclude=exclude)
    asked = (problems[i % len(problems)] for i in range(config.demonstrations))
    return [(_prompt(task, problem), task.demonstration(problem, rng)) for problem in asked]


def _prompt(task: Task, problem: Any) -> str:
    """What the model to come will read: its tokenizer, which is still to be learned, will have the template CHATML."""
    messages = task.messages(problem)
    return task.prompt(problem) if messages is None else chatml(messages)


def tokenizer_for(task: Task, texts: Sequence[tuple[str, Demonstration]]) -> PreTrainedTokenizerFast:
    """One token per word of the task; Qwen's kind, learned from ``texts``, for a task in plain language."""
    if task.words:
        return build_tokenizer(task.words)
    return build_text_tokenizer(prompt + shown.text for prompt, shown in texts)


def encoded(tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, Demonstration]]) -> tuple[Tensor, Tensor]:
    """``texts``, each with the end token: ids [N, S], padded on the right, and the mask [N, S] of those with loss."""
    prompts, answers = [prompt for prompt, _ in texts], [shown.text for _, shown in texts]
    prompts = tokenizer(prompts)["input_ids"]
    answers = tokenizer(answers, add_special_tokens=False, return_offsets_mapping=True)
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    rows, masks = [], []
    spans = zip(texts, prompts, answers["input_ids"], answers["offset_mapping"], strict=True)
    for (_, shown), prompt, answer, places in spans:
        words = (shown.text.count(" ", 0, stop) for _, stop in places)  # the word that each token is of
        rows.append([*prompt, *answer, end])
        masks.append([False] * len(prompt) + [shown.loss[word] for word in words] + [shown.end_loss])
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([row + [False] * (longest - len(row)) for row in masks])
    return ids, mask


class Pretraining:
    """Trains a base model from its seed; can be stopped at any step and goes on bit for bit.

    Args:
        task: what to demonstrate, at the difficulty of the config.
        exclude: problems never to demonstrate (what policies are trained and evaluated on).
        run: where records and checkpoints go; None keeps nothing.

    Attributes: ``policy``, whose model is trained in place, and ``step_number``.
    """

    def __init__(self, task: Task, config: PretrainConfig, exclude: list | None = None, run: RunFolder | None = None):
        self.config, self.run, self.step_number = config, run, 0
        texts = demonstrations(task, config, exclude or [])
        tokenizer = tokenizer_for(task, texts)
        self.model = build_model(config.model, tokenizer, config.seed)
        self.policy = Policy(self.model, tokenizer)
        self.ids, self.mask = encoded(tokenizer, texts)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.generator = torch.Generator().manual_seed(config.seed)

    def train(self) -> Iterator[dict[str, Any]]:
        """Take the steps that are left; yields {"step", "loss" (nats a token), "lr", "seconds"}."""
        while self.step_number < self.config.steps:
            record = self.step()
            if self.run:
                self.run.log(record)
            yield record

    def step(self) -> dict[str, Any]:
        """One optimiser step; returns its record."""
        started = time.perf_counter()
        self.step_number += 1
        for settings in self.optimizer.param_groups:
            settings["lr"] = self.config.lr * _schedule(self.step_number, self.config)
        rows = self._rows()
        loss = _loss(self.model, self.ids[rows], self.mask[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            "step": self.step_number,
            "loss": loss.item(),
            "lr": settings["lr"],
            "seconds": time.perf_counter() - started,
        }

    def _rows(self) -> Tensor:
        return torch.randint(len(self.ids), (self.config.batch,), generator=self.generator)

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        optimizer, state = pack_optimizer(self.optimizer, self.model)
        tensors = {"model": self.model.state_dict(), "optimizer": optimizer}
        self.run.save_checkpoint(self.step_number, tensors, {"optimizer": state})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, bit for bit."""
        self.model.load_state_dict(checkpoint.tensors["model"])
        tensors, state = checkpoint.tensors["optimizer"], checkpoint.state["optimizer"]
        unpack_optimizer(self.optimizer, self.model, tensors, state)
        while self.step_number < checkpoint.step:  # the random stream, to where it stood
            self._rows()
            self.step_number += 1


def _schedule(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then a cosine down to zero: the factor on the peak learning rate."""
    if step <= config.warmup:
        return step / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup)))


def _loss(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy, nats per token that carries loss; ids and mask [B, S]."""
    logits = forward(model, ids[:, :-1])
    wanted = mask[:, 1:]
    return F.cross_entropy(logits[wanted], ids[:, 1:][wanted])


SAVE_EVERY = 250  # steps between checkpoints


class PretrainingJob:
    """The making of a base policy: its run record, and its pre-training."""

    def __init__(self, config: PretrainConfig):
        """Make the demonstrations. Raises UserError before anything is written."""
        self.task = get_task(config.task, **config.difficulty)
        self.evaluation = EvaluationConfig(config.task, config.difficulty)
        self.held_out = held_out_problems(self.task, self.evaluation)
        # The training problems of reinforcement learning are left out too: a base that has memorised their answers
        # has nothing to learn from them.
        later = training_problems(self.task, RunConfig(task=config.task, difficulty=config.difficulty))
        self.training = Pretraining(self.task, config, [*later, *self.held_out])

    @classmethod
    def start(
        cls, folder: str | Path, config: PretrainConfig, command: Sequence[str] | None = None
    ) -> "PretrainingJob":
        """Begin with a new run record in ``folder``."""
        if is_run(folder):  # before the demonstrations, which take a while
            raise UserError(
                f"{folder} already exists and is not empty; choose another folder, or go on with --resume {folder}"
            )
        require_new(Path(folder))
        job = cls(config)
        settings = to_mapping(config)
        job.training.run = RunFolder.create(folder, settings, command, origins(settings, job.task))
        return job

    @classmethod
    def resume(cls, folder: str | Path) -> "PretrainingJob":
        """Go on with the run record in ``folder``. Raises UserError when it is finished."""
        run = RunFolder.open(folder)
        if "demonstrations" not in run.config:
            raise UserError(f"{folder} is no run of pre-training")
        config = from_mapping(PretrainConfig, run.config, str(run.path / "config.json"))
        if (run.path / "eval.json").is_file():
            raise UserError(f"the base policy of {folder} is finished")
        job = cls(config)
        job.training.run = run
        if checkpoint := run.resume():
            job.training.restore(checkpoint)
        return job

    def make(self, out: Path, stop: Stop, bar: bool) -> EvaluationRecord:
        """Train to the end, write the policy to ``out``, evaluate it and record that.

        Raises Interrupted, with everything saved, when ``stop`` was asked for; UserError when
        ``out`` is not new. An error before anything is recorded removes the record that ``start`` made.
        """
        try:
            return self._make(out, stop, bar)
        except Exception:
            self.training.run.discard_if_empty()
            raise

    def _make(self, out: Path, stop: Stop, bar: bool) -> EvaluationRecord:
        require_new(out)
        training, config = self.training, self.evaluation
        total, done = training.config.steps, training.step_number
        with tqdm(
            total=total,
            initial=done,
            desc=str(out),
            disable=not bar,
            dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:8}| {remaining} left{postfix}",
        ) as shown:
            for record in training.train():
                figures = f"loss {record['loss']:.4f}, learning rate {record['lr']:.1e}"
                shown.set_postfix_str(figures, refresh=False)
                shown.update()
                due = record["step"] % SAVE_EVERY == 0 or record["step"] == total
                if due or stop.asked is not None:
                    training.save()
                stop.check()
        made = EvaluationRecord(self.task.name, config.samples, config.temperature, config.seed)
        with stop.at_once():
            made.steps[total] = evaluate(training.policy, self.task, self.held_out, **config.sampling, progress=bar)
        save_policy(training.policy, out)
        made.write(training.run.path / "eval.json")
        training.run.record_time()
        return made
