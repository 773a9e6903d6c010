"""The loop of PSN-GRPO, top to bottom.

problems -> prompts -> [clean policy + noise draws] -> rollouts with the sampler's log-probs -> verifier -> rewards ->
group advantages -> clean log-probs -> truncated importance weights -> clipped loss -> optimiser step on the clean
policy -> signals -> scheduler -> next sigma.

With sigma = 0 the same loop is plain GRPO. Every random choice of step n follows from (seed, n) alone, so that a run
resumed from a checkpoint goes on bit for bit as if it had never stopped.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from psn_tutorial.advantages import group_advantages, pass_at_k_advantages, zero_contrast
from psn_tutorial.carriers import carried, change_since
from psn_tutorial.config import TrainConfig
from psn_tutorial.errors import UserError
from psn_tutorial.importance import ImportanceWeights, importance_weights, mixture_logps
from psn_tutorial.losses import loss_normaliser, policy_loss
from psn_tutorial.models.encoders import sentence_encoder
from psn_tutorial.models.qlora import learned_weights, restore_weights
from psn_tutorial.models.tiny import encode
from psn_tutorial.rollout import (
    Reading,
    Rollouts,
    completion_logps,
    read_completions,
    responses,
    sample,
    spread_draws,
    stream,
)
from psn_tutorial.runs.checkpoints import Checkpoint, pack_optimizer, unpack_optimizer
from psn_tutorial.runs.folder import Run
from psn_tutorial.schedulers import make_scheduler
from psn_tutorial.signals import mean_certainty, semantic_similarity
from psn_tutorial.tasks.base import Task, verdicts


@dataclass(frozen=True)
class Batch:
    """What one step learns from: rollouts, their rewards [P, G], advantages [B] and B texts."""

    rollouts: Rollouts
    rewards: Tensor
    advantages: Tensor
    texts: Sequence[str]


class Trainer:
    """GRPO with parameter-space noise on one task.

    >>> trainer = Trainer(TrainConfig(task="rules", sigma=0.8, targets="head", relative=True, draws=16), ...)
    >>> for record in trainer.train():
    ...     print(record["step"], record["reward"])

    Args:
        config: all settings.
        model, tokenizer: the clean policy, trained in place.
        task, problems: what to train on; each step picks ``config.prompts`` of the problems.
        run: where records and checkpoints go; None keeps nothing.

    Raises:
        UserError: too few problems, or a noise filter that matches nothing.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        task: Task,
        problems: Sequence[Any],
        run: Run | None = None,
    ):
        if not problems:
            raise UserError("problems must hold at least one problem, got none")
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.task, self.problems, self.run = task, problems, run
        self.step_number = 0
        self.scheduler = make_scheduler(config)
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=config.lr, weight_decay=0.0, fused=True
        )
        self.encoder = sentence_encoder(config.encoder) if config.schedule == "realtime" else None
        self.adapter = hasattr(model, "disable_adapter")  # then the base is the model without it
        self.reference = deepcopy(model).requires_grad_(False) if config.kl_coef and not self.adapter else None
        self.noise = config.noise(config.sigma)
        self.max_tokens = max(map(task.max_tokens, problems))
        if self.noise:
            with carried(model, self.noise, [0]):  # a filter that matches nothing is told now
                pass

    def train(self) -> Iterator[dict[str, Any]]:
        """Take the steps that are left; yields one record per step (:mod:`psn_tutorial.runs.steps`)."""
        while self.step_number < self.config.steps:
            record = self.step()
            if self.run:
                self.run.log(record)
                if self.step_number % self.config.save_every == 0 or self.step_number == self.config.steps:
                    self.save()
            yield record

    def step(self) -> dict[str, Any]:
        """One iteration of the method; returns its record."""
        clock = [time.perf_counter()]
        tick = lambda: clock.append(time.perf_counter())  # noqa: E731
        problems = self.pick_problems()
        rollouts = self.roll_out(problems)
        tick()
        batch = self.judge(rollouts, problems)
        tick()
        change = change_since(self.model, self.noise) if self.noise else lambda: 0.0
        importance, learned = self.update(batch)
        moved = change()
        tick()
        signals = self.signals(batch, problems)
        tick()

        receipt = rollouts.receipt
        self.step_number += 1
        record = {
            "step": self.step_number,
            "reward": float(batch.rewards.mean()),
            "solved": float((batch.rewards.amax(1) > 0).float().mean()),
            "zero_contrast": float(zero_contrast(batch.rewards).float().mean()),
            "sigma": self.scheduler.sigma if receipt else 0.0,
            "sigma_realised": receipt.realised_sigma if receipt else 0.0,
            "unchanged_fraction": receipt.unchanged_fraction if receipt else None,
            "noise_to_update": receipt.norm / moved if receipt and moved else None,
            "ess": importance.ess,
            "clipped_fraction": importance.clipped_fraction,
            "kl_k1": importance.kl_k1,
            "kl_k3": importance.kl_k3,
            "mean_ratio": importance.mean_ratio,
            "max_ratio": importance.max_ratio,
            **learned,
            **signals,
            "tokens": int(rollouts.mask.sum()),
            "seconds_sample": clock[1] - clock[0],
            "seconds_verify": clock[2] - clock[1],
            "seconds_update": clock[3] - clock[2],
            "seconds_schedule": clock[4] - clock[3],
            "seconds": clock[4] - clock[0],
        }
        self.scheduler.update(record)
        return record

    def pick_problems(self) -> list[Any]:
        """The problems of this step: distinct while there are enough."""
        count, available = self.config.prompts, len(self.problems)
        generator = stream(self.config.seed, "problems", self.step_number)
        order = torch.randperm(available, generator=generator)
        return [self.problems[order[i % available]] for i in range(count)]

    def roll_out(self, problems: Sequence[Any], probes: int = 0) -> Rollouts:
        """Sample G completions per problem from the noisy policy; or so many ``probes``, all with the first draw."""
        config = self.config
        prompts, mask = encode(self.tokenizer, [self.task.prompt(problem) for problem in problems])
        if probes:
            draws = spread_draws(config.prompts, probes, 1, "pooled")
        else:
            draws = spread_draws(config.prompts, config.group, config.draws, config.spread)
        return sample(
            self.model,
            prompts,
            mask,
            probes or config.group,
            self.max_tokens,
            self.tokenizer.eos_token_id,
            self.tokenizer.pad_token_id,
            stream(config.seed, "probes" if probes else "sampling", self.step_number),
            config.sampling_temperature or config.temperature,
            config.noise(self.scheduler.sigma),
            draws + self.step_number * config.draws,
        )

    def judge(self, rollouts: Rollouts, problems: Sequence[Any]) -> Batch:
        """Verify every completion and compare it with its group."""
        config, texts = self.config, responses(self.tokenizer, rollouts)
        answers = [(b // config.group, text) for b, text in enumerate(texts)]
        distinct = list(dict.fromkeys(answers))
        judged = verdicts(self.task, [text for _, text in distinct], [problems[p] for p, _ in distinct])
        correct = {answer: float(verdict.correct) for answer, verdict in zip(distinct, judged, strict=True)}
        rewards = torch.tensor([correct[answer] for answer in answers]).view(len(problems), config.group)
        if config.advantage == "pass_at_k":
            advantages = pass_at_k_advantages(rewards, config.pass_k)
        else:
            advantages = group_advantages(rewards, config.advantage)
        return Batch(rollouts, rewards, advantages.flatten().to(rollouts.logps.device), texts)

    def update(self, batch: Batch) -> tuple[ImportanceWeights, dict[str, float | None]]:
        """The optimiser steps on the clean policy; returns the importance statistics and those of the loss.

        Rollouts without advantage have no gradient and are left out of the backward pass, unless a KL or an entropy
        term asks for them; for the statistics of the weights they are read without gradient.
        """
        config, rollouts = self.config, batch.rollouts
        sampler = self.sampler_logps(rollouts)
        learning = batch.advantages != 0
        if config.kl_coef or config.entropy_coef:
            learning[:] = True
        # Where the sampler is the clean policy, its log-probs are the old ones.
        old = Reading(sampler.clone(), certainty=torch.zeros_like(sampler))
        if config.off_policy:
            for rows in (~learning).nonzero()[:, 0].split(config.micro_batch):
                with torch.no_grad():
                    self.read(rollouts, rows, old)
        statistics: dict[str, float | None] = {"loss": 0.0, "entropy": None, "grad_norm": 0.0}
        rows = learning.nonzero()[:, 0]
        for number in range(config.updates if len(rows) else 0):
            last = self.one_update(batch, rows, sampler, old, first=number == 0)
            statistics = last if number == 0 else statistics | last
        correction = {} if config.correction == "none" else {"level": config.correction}
        if self.reuses_rollouts:
            statistics["self_certainty"] = mean_certainty(old.certainty, rollouts.mask)
        return importance_weights(old.logps, sampler, rollouts.mask, config.cap, **correction), statistics

    def read(self, rollouts: Rollouts, rows: Tensor, old: Reading | None, entropy: str = "none") -> Reading:
        """What the policy as it is now says of some rows. ``old`` notes it, the certainty too where the schedule wants
        to know: the logits are there anyway."""
        certainty = self.config.certainty if old and self.reuses_rollouts else None
        reading = read_completions(
            self.model, rollouts, rows, self.config.temperature, entropy, certainty, recompute=self.config.recompute
        )
        if old:
            old.logps[rows] = reading.logps.detach()
            if certainty:
                old.certainty[rows] = reading.certainty
        return reading

    def one_update(
        self, batch: Batch, rows: Tensor, sampler: Tensor, old: Reading, first: bool
    ) -> dict[str, float | None]:
        """One optimiser step on the given rows, micro-batch by micro-batch. The first one also fills in ``old``."""
        config, rollouts = self.config, batch.rollouts
        normaliser = loss_normaliser(rollouts.mask, config.aggregation, self.max_tokens)
        sums: dict[str, float] = {}
        for part in rows.split(config.micro_batch):
            now = self.read(rollouts, part, old if first else None, "gradient" if config.entropy_coef else "value")
            mask = rollouts.mask[part]
            weights = None
            if config.off_policy and config.correction != "none":
                weights = importance_weights(
                    old.logps[part], sampler[part], mask, config.cap, config.correction, config.correction_mode
                ).weights
            loss, parts = policy_loss(
                now.logps,
                old.logps[part],
                batch.advantages[part],
                mask,
                weights,
                config.clip_low,
                config.clip_high,
                config.aggregation,
                self.max_tokens,
                self.reference_logps(rollouts, part),
                config.kl_coef,
                now.entropy,
                config.entropy_coef,
                normaliser,
            )
            loss.backward()
            count = parts.pop("tokens")
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + count * value
            sums["loss"] = sums.get("loss", 0.0) + loss.item()
            sums["tokens"] = sums.get("tokens", 0.0) + count
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss, tokens = sums.pop("loss"), sums.pop("tokens")
        return {"loss": loss, **{name: total / tokens for name, total in sums.items()}, "grad_norm": float(norm)}

    def sampler_logps(self, rollouts: Rollouts) -> Tensor:
        """Log-probs [B, T] of the distribution that generated the tokens: each row's own draw, or the mixture of all
        draws of the step, which is what a pooled group was really sampled from."""
        config = self.config
        if not (config.mixture and rollouts.receipt and config.draws > 1):
            return rollouts.logps
        draws = rollouts.draws.unique().tolist()
        temperature = config.sampling_temperature or config.temperature
        parts = []
        with torch.no_grad(), carried(self.model, config.noise(self.scheduler.sigma), draws):
            for rows in torch.arange(len(rollouts.tokens)).split(max(1, config.micro_batch // len(draws))):
                logps, _ = completion_logps(self.model, rollouts, rows, temperature, draws=len(draws))
                parts.append(logps.view(len(draws), len(rows), -1))
        return mixture_logps(torch.cat(parts, 1), rollouts.mask)

    @property
    def reuses_rollouts(self) -> bool:
        """Does a real-time schedule look at the rollouts themselves?"""
        return self.encoder is not None and self.config.probes == "reuse"

    def signals(self, batch: Batch, problems: Sequence[Any]) -> dict[str, float | None]:
        """What the real-time schedule reads besides the certainty that the update took along; None for the others.

        Separate probes, two per prompt, are sampled like the rollouts, but from the policy as it is after the update.
        """
        if self.encoder is None:
            return {"similarity": None, "self_certainty": None}
        if self.reuses_rollouts:
            return {"similarity": semantic_similarity(self.encoder.encode(batch.texts), self.config.group)}
        probes, config = self.roll_out(problems, probes=2), self.config
        embeddings = self.encoder.encode(responses(self.tokenizer, probes))
        rows = torch.arange(len(probes.tokens))
        with torch.no_grad():
            reading = read_completions(self.model, probes, rows, config.temperature, certainty=config.certainty)
        return {
            "similarity": semantic_similarity(embeddings, 2),
            "self_certainty": mean_certainty(reading.certainty, probes.mask),
        }

    def reference_logps(self, rollouts: Rollouts, rows: Tensor) -> Tensor | None:
        """Log-probs [b, T] under the base policy, when a KL to it is asked for."""
        if not self.config.kl_coef:
            return None
        base, without = self.reference, nullcontext()
        if self.adapter:
            base, without = self.model, self.model.disable_adapter()
        with torch.no_grad(), without:
            return completion_logps(base, rollouts, rows, self.config.temperature)[0]

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on; of a model with an adapter the adapter."""
        optimizer, state = pack_optimizer(self.optimizer, self.model)
        tensors = {"model": learned_weights(self.model), "optimizer": optimizer}
        self.run.save_checkpoint(
            self.step_number, tensors, {"optimizer": state, "scheduler": self.scheduler.state_dict()}
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, bit for bit."""
        restore_weights(self.model, checkpoint.tensors["model"])
        unpack_optimizer(self.optimizer, self.model, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
        self.scheduler.load_state_dict(checkpoint.state["scheduler"])
        self.step_number = checkpoint.step
