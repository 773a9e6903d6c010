"""The loop of PSN-GRPO, top to bottom.

problems -> prompts -> [clean policy + noise draws] -> rollouts with the sampler's log-probs -> verifier -> rewards ->
group advantages -> clean log-probs -> truncated importance weights -> clipped loss -> optimiser step on the clean
policy -> signals -> scheduler -> next sigma.

With sigma = 0 the same loop is plain GRPO. Every random choice of step n follows from (seed, n) alone, so that a run
resumed from a checkpoint goes on bit for bit as if it had never stopped.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from psn_tutorial.advantages import group_advantages, only_unsolved, pass_at_k_advantages, zero_contrast
from psn_tutorial.carriers import carried, change_since, check_carrier
from psn_tutorial.config import TrainConfig
from psn_tutorial.errors import UserError
from psn_tutorial.importance import ImportanceWeights, importance_weights, mixture_logps
from psn_tutorial.losses import loss_normaliser, policy_loss
from psn_tutorial.models.encoders import sentence_encoder
from psn_tutorial.models.policy import Policy, asked, encode
from psn_tutorial.models.qlora import holding, learned_weights, restore_weights
from psn_tutorial.noise import NoiseConfig, on_head_alone, stream
from psn_tutorial.prefixes import sample_behind_prefixes
from psn_tutorial.rollout import Reading, Rollouts, completion_logps, read_completions, responses, sample, spread_draws
from psn_tutorial.runs.checkpoints import Checkpoint
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.runs.optimizers import pack_optimizer, unpack_optimizer
from psn_tutorial.schedulers import make_scheduler
from psn_tutorial.signals import mean_certainty, semantic_similarity
from psn_tutorial.tasks.base import Task


@dataclass
class Batch:
    """What one step learns from; B = P * G rollouts, prompt-major.

    Attributes:
        rollouts: tokens and mask, [B, T].
        advantages: [B].
        sampler_logps: [B, T] log mu of the tokens, under the distribution that generated them.
        clean_logps: [B, T] log pi of the tokens, under the policy before this step's updates. A row holds the
            sampler's until it is read; where nothing perturbed the sampler these are the same.
        weights: [B, T] truncated importance weights pi / mu of the rows that learn; 1 where nothing is corrected.
        certainty: [B, T] of the clean policy's next-token distributions; only where a schedule asks for it.
    """

    rollouts: Rollouts
    advantages: Tensor
    sampler_logps: Tensor
    clean_logps: Tensor
    weights: Tensor
    certainty: Tensor

    @classmethod
    def of(cls, rollouts: Rollouts, advantages: Tensor, sampler_logps: Tensor) -> "Batch":
        """A batch of which no row is read yet."""
        ones, zeros = torch.ones_like(sampler_logps), torch.zeros_like(sampler_logps)
        return cls(rollouts, advantages, sampler_logps, sampler_logps.clone(), ones, zeros)


class Trainer:
    """GRPO with parameter-space noise on one task.

    >>> trainer = Trainer(TrainConfig(task="rules", sigma=0.8, targets="head", relative=True, draws=16), ...)
    >>> for record in trainer.train():
    ...     print(record["step"], record["reward"])

    Args:
        config: all settings.
        policy: the clean policy; its model is trained in place.
        task, problems: what to train on; each step picks ``config.prompts`` of the problems.
        run: where records and checkpoints go; None keeps nothing.

    Raises:
        UserError: too few problems, or a noise filter that matches nothing.
    """

    def __init__(
        self, config: TrainConfig, policy: Policy, task: Task, problems: Sequence[Any], run: RunFolder | None = None
    ):
        if not problems:
            raise UserError("problems must hold at least one problem, got none")
        if config.prefix_words and task.words:
            raise UserError(
                f"prefix_words must be 0 for the task {task.name}, whose tokenizer knows its own words alone, "
                f"got {config.prefix_words}"
            )
        self.config, self.policy, self.task, self.problems, self.run = config, policy, task, problems, run
        self.model, self.tokenizer = policy
        self.step_number = 0
        self.solved: set[int] = set()  # the places of the problems that had a correct rollout so far
        self.scheduler = make_scheduler(config)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=config.lr, weight_decay=0.0, fused=True
        )
        self.encoder = sentence_encoder(config.encoder) if config.schedule == "realtime" else None
        learning = self.model.named_parameters() if config.kl_coef else ()
        self.reference = {name: p.detach().clone() for name, p in learning if p.requires_grad}
        self.max_tokens = max(map(task.max_tokens, problems))
        if config.noisy:
            # A filter that matches nothing is told now. Noise that begins at 0 would show nothing.
            check_carrier(self.model, NoiseConfig.of(config, config.sigma or config.sigma_end))

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
        clock = Clock()
        places = self.pick()
        problems = [self.problems[place] for place in places]
        rollouts = self.roll_out(problems)
        clock.lap("sample")
        texts = responses(self.tokenizer, rollouts)
        rewards = self.verify(texts, problems)
        advantages, gated = self.gate(self.advantages(rewards), rewards, places)
        clock.lap("verify")
        batch = Batch.of(rollouts, advantages.flatten().to(rollouts.logps.device), self.sampler_logps(rollouts))
        change = change_since(self.model, self.noise) if rollouts.receipt else None
        learned = self.update(batch)
        importance = self.importance(batch)
        noise = self.noise_statistics(rollouts, change)
        clock.lap("update")
        signals = self.signals(batch, texts, problems)
        clock.lap("schedule")

        self.step_number += 1
        record = {
            "step": self.step_number,
            "reward": float(rewards.mean()),
            "solved": float((rewards.amax(1) > 0).float().mean()),
            "zero_contrast": float(zero_contrast(rewards).float().mean()),
            **gated,
            **noise,
            "ess": importance.ess,
            "clipped_fraction": importance.clipped_fraction,
            "kl_k1": importance.kl_k1,
            "kl_k3": importance.kl_k3,
            "mean_ratio": importance.mean_ratio,
            "max_ratio": importance.max_ratio,
            **learned,
            **signals,
            "tokens": int(rollouts.mask.sum()),
            **clock.seconds,
            "seconds": sum(clock.seconds.values()),
        }
        self.scheduler.update(record)
        return record

    @property
    def noise(self) -> NoiseConfig:
        """The noise of this step, as large as the scheduler says."""
        return NoiseConfig.of(self.config, self.scheduler.sigma)

    # From problems to rollouts

    def pick(self) -> list[int]:
        """The places, among all problems, of the P of this step: distinct while there are enough."""
        count, available = self.config.prompts, len(self.problems)
        generator = stream(self.config.seed, "problems", self.step_number)
        order = torch.randperm(available, generator=generator).tolist()
        return [order[i % available] for i in range(count)]

    def pick_problems(self) -> list[Any]:
        """The P problems of this step."""
        return [self.problems[place] for place in self.pick()]

    def roll_out(self, problems: Sequence[Any], probes: int = 0) -> Rollouts:
        """Sample G completions per problem from the noisy policy; or so many ``probes``, all with the first draw."""
        config = self.config
        group = probes or config.group
        draws = spread_draws(config.prompts, group, 1 if probes else config.draws, config.spread)
        draws = draws + self.step_number * config.draws
        generator = stream(config.seed, "probes" if probes else "sampling", self.step_number)
        temperature = config.sampling_temperature or config.temperature
        if config.prefix_words:
            how = (config.seed, config.prefix_words, draws, self.max_tokens, generator, temperature, self.noise)
            return sample_behind_prefixes(self.policy, self.task, problems, *how)
        prompts = encode(self.tokenizer, asked(self.tokenizer, self.task, problems))
        return sample(self.policy, prompts, group, self.max_tokens, generator, temperature, self.noise, draws)

    # From rollouts to advantages

    def verify(self, texts: Sequence[str], problems: Sequence[Any]) -> Tensor:
        """Rewards [P, G], 1 for a correct answer and 0 for a wrong one. Each different answer is judged once."""
        answers = [(b // self.config.group, text) for b, text in enumerate(texts)]
        distinct = list(dict.fromkeys(answers))
        judged = self.task.verify_many([text for _, text in distinct], [problems[p] for p, _ in distinct])
        correct = {answer: float(verdict.correct) for answer, verdict in zip(distinct, judged, strict=True)}
        return torch.tensor([correct[answer] for answer in answers]).view(len(problems), self.config.group)

    def advantages(self, rewards: Tensor) -> Tensor:
        """Advantages [P, G] of rewards [P, G]."""
        if self.config.advantage == "pass_at_k":
            return pass_at_k_advantages(rewards, self.config.pass_k)
        return group_advantages(rewards, self.config.advantage)

    def gate(self, advantages: Tensor, rewards: Tensor, places: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        """The advantages [P, G] that the gate lets through, and what it tells the record. Takes note of what this step
        has solved, for the steps after it."""
        if self.config.gate == "none":
            return advantages, {}
        solved = torch.tensor([place in self.solved for place in places])
        self.solved |= {place for place, best in zip(places, rewards.amax(1).tolist(), strict=True) if best > 0}
        left_out = (advantages != 0).any(1) & solved
        return only_unsolved(advantages, solved), {"gated": float(left_out.float().mean())}

    # From advantages to the update of the clean policy

    def sampler_logps(self, rollouts: Rollouts) -> Tensor:
        """Log-probs [B, T] of the distribution that generated the tokens: each row's own draw, or the mixture of all
        draws of the step, which is what a pooled group was really sampled from."""
        config = self.config
        if not (config.mixture and rollouts.receipt and config.draws > 1):
            return rollouts.logps
        draws, parts = rollouts.draws.unique().tolist(), []
        how = {"draws": len(draws), "same_states": on_head_alone(self.model, self.noise)}
        with torch.no_grad(), carried(self.model, self.noise, draws):
            for rows in torch.arange(len(rollouts.tokens)).split(max(1, config.micro_batch // len(draws))):
                logps, _ = completion_logps(self.model, rollouts, rows, rollouts.temperature, **how)
                parts.append(logps.view(len(draws), len(rows), -1))
        return mixture_logps(torch.cat(parts, 1), rollouts.mask)

    def update(self, batch: Batch) -> dict[str, float | None]:
        """The optimiser steps on the clean policy; returns the statistics of the last one.

        Rollouts without advantage have no gradient and are left out, unless a KL or an entropy term asks for them.
        The first pass over the others sees the policy before its update: its log-probs are the clean ones, which
        therefore cost no pass of their own. Those left out are read without gradient, for the importance statistics.
        """
        config = self.config
        learns = batch.advantages != 0
        if config.kl_coef or config.entropy_coef:
            learns[:] = True
        if self.off_policy(batch.rollouts):
            for rows in (~learns).nonzero()[:, 0].split(config.micro_batch):
                with torch.no_grad():
                    self.keep_clean(batch, rows, self.read(batch.rollouts, rows))
        statistics: dict[str, float | None] = {"loss": 0.0, "entropy": None, "grad_norm": 0.0}
        rows = learns.nonzero()[:, 0]
        for number in range(config.updates if len(rows) else 0):
            statistics = self.one_update(batch, rows, first=number == 0)
        return statistics

    def one_update(self, batch: Batch, rows: Tensor, first: bool) -> dict[str, float | None]:
        """One optimiser step on some rows, micro-batch by micro-batch."""
        config, mask = self.config, batch.rollouts.mask
        normaliser, sums = loss_normaliser(mask, config.aggregation, self.max_tokens), Counter()
        for part in rows.split(config.micro_batch):
            now = self.read(batch.rollouts, part, "gradient" if config.entropy_coef else "value")
            if first:
                self.keep_clean(batch, part, now)
                self.weigh(batch, part)
            loss, means = policy_loss(
                now.logps,
                batch.clean_logps[part],
                batch.advantages[part],
                mask[part],
                batch.weights[part],
                ref_logps=self.reference_logps(batch.rollouts, part),
                entropy=now.entropy,
                normaliser=normaliser,
                max_tokens=self.max_tokens,
                **config.loss_settings,
            )
            loss.backward()
            count = means.pop("tokens")
            sums.update({name: count * mean for name, mean in means.items()})
            sums.update(loss=loss.item(), tokens=count)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        if not norm.isfinite():  # all weights would become NaN
            raise UserError(f"the gradient of step {self.step_number + 1} is not finite: lr or sigma is too large")
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss, tokens = sums.pop("loss"), sums.pop("tokens")
        return {"loss": loss, **{name: total / tokens for name, total in sums.items()}, "grad_norm": float(norm)}

    def read(self, rollouts: Rollouts, rows: Tensor, entropy: str = "none") -> Reading:
        """What the policy as it is now says of some rows; its certainty too, where the schedule wants it."""
        config = self.config
        certainty = config.certainty if self.reuses_rollouts else None
        return read_completions(
            self.model, rollouts, rows, config.temperature, entropy, certainty, recompute=config.recompute
        )

    def keep_clean(self, batch: Batch, rows: Tensor, reading: Reading) -> None:
        """Keep what the policy said of some rows before its update."""
        batch.clean_logps[rows] = reading.logps.detach()
        if reading.certainty is not None:
            batch.certainty[rows] = reading.certainty

    def weigh(self, batch: Batch, rows: Tensor) -> None:
        """Truncated importance weights of some rows, once their clean log-probs are known."""
        config = self.config
        if self.off_policy(batch.rollouts) and config.correction != "none":
            clean, sampler, mask = batch.clean_logps[rows], batch.sampler_logps[rows], batch.rollouts.mask[rows]
            level, mode = config.correction, config.correction_mode
            batch.weights[rows] = importance_weights(clean, sampler, mask, config.cap, level, mode).weights

    def importance(self, batch: Batch) -> ImportanceWeights:
        """The statistics of all importance ratios of the step, before the cap."""
        level = "token" if self.config.correction == "none" else self.config.correction
        return importance_weights(batch.clean_logps, batch.sampler_logps, batch.rollouts.mask, self.config.cap, level)

    def off_policy(self, rollouts: Rollouts) -> bool:
        """Did another distribution than the policy's generate the rollouts?"""
        hot = rollouts.temperature != self.config.temperature
        return rollouts.receipt is not None or hot or self.config.prefix_words > 0

    def reference_logps(self, rollouts: Rollouts, rows: Tensor) -> Tensor | None:
        """Log-probs [b, T] under the policy that the run started from, when a KL to it is asked for."""
        if not self.config.kl_coef:
            return None
        with torch.no_grad(), holding(self.model, self.reference):
            return completion_logps(self.model, rollouts, rows, self.config.temperature)[0]

    # From rollouts to the next sigma

    def noise_statistics(self, rollouts: Rollouts, change: Callable[[], float] | None) -> dict[str, float | None]:
        """What the noise did to the weights, and how long it is beside the optimiser's change of them."""
        receipt = rollouts.receipt
        moved = change() if receipt else 0.0
        return {
            "sigma": self.scheduler.sigma if receipt else 0.0,
            "sigma_realised": receipt.realised_sigma if receipt else 0.0,
            "unchanged_fraction": receipt.unchanged_fraction if receipt else None,
            "noise_to_update": receipt.norm / moved if moved else None,
        }

    @property
    def reuses_rollouts(self) -> bool:
        """Does a real-time schedule look at the rollouts themselves?"""
        return self.encoder is not None and self.config.probes == "reuse"

    def signals(self, batch: Batch, texts: Sequence[str], problems: Sequence[Any]) -> dict[str, float | None]:
        """What the real-time schedule reads; None for the others.

        It looks at the rollouts, whose certainty the update took along; or at separate probes, two per prompt,
        sampled like the rollouts, but from the policy as it is after the update.
        """
        if self.encoder is None:
            return {"similarity": None, "self_certainty": None}
        config, mask, certainty = self.config, batch.rollouts.mask, batch.certainty
        if not self.reuses_rollouts:
            probes = self.roll_out(problems, probes=2)
            texts, mask = responses(self.tokenizer, probes), probes.mask
            rows = torch.arange(len(probes.tokens))
            with torch.no_grad():
                reading = read_completions(self.model, probes, rows, config.temperature, certainty=config.certainty)
            certainty = reading.certainty
        group = len(texts) // len(problems)
        return {
            "similarity": semantic_similarity(self.encoder.encode(texts), group),
            "self_certainty": mean_certainty(certainty, mask),
        }

    # Checkpoints

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on; of a model with an adapter the adapter."""
        optimizer, state = pack_optimizer(self.optimizer, self.model)
        tensors = {"model": learned_weights(self.model), "optimizer": optimizer}
        states = {"optimizer": state, "scheduler": self.scheduler.state_dict(), "solved": sorted(self.solved)}
        self.run.save_checkpoint(self.step_number, tensors, states)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, bit for bit."""
        restore_weights(self.model, checkpoint.tensors["model"])
        unpack_optimizer(self.optimizer, self.model, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
        self.scheduler.load_state_dict(checkpoint.state["scheduler"])
        self.solved = set(checkpoint.state.get("solved", ()))  # older checkpoints have no gate
        self.step_number = checkpoint.step


class Clock:
    """How long the parts of a step took: ``seconds`` by part, as a record names them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """``part`` ends now."""
        now = time.perf_counter()
        self.seconds[f"seconds_{part}"], self._last = now - self._last, now
