"""The settings of a training run: flat, so that every field is a flag of the command line."""

from collections.abc import Container
from dataclasses import dataclass, field, fields
from typing import Any

from psn_tutorial.choices import (
    ADVANTAGES,
    AGGREGATIONS,
    CARRIERS,
    COMPUTE_TYPES,
    CORRECTIONS,
    DEVICES,
    DIRECTIONS,
    GATES,
    LARGEST_SIGMA,
    LINEAR_TARGETS,
    MODES,
    PROBES,
    SPREADS,
    TARGETS,
)
from psn_tutorial.errors import UserError, check_choice, check_positive, check_range, check_seed
from psn_tutorial.extensions import check_named, is_named
from psn_tutorial.schedulers import ScheduleConfig
from psn_tutorial.settings import option
from psn_tutorial.sites import check_layers
from psn_tutorial.tasks.base import Task
from psn_tutorial.tasks.registry import TASKS, check_task, get_task, is_registered

LARGEST_RANK = 2**14  # above the width of any model here


@dataclass(frozen=True)
class TrainConfig(ScheduleConfig):
    """One training run. sigma = 0 is plain GRPO; everything of :class:`ScheduleConfig` is here too."""

    # The problem and the batch
    task: str = option("countdown", "what to train on", known=TASKS)
    base: str | None = option(
        None,
        "what to start from: a checkpoint folder, a GGUF file, a run, an adapter's folder of peft, or a short name "
        "such as qwen2.5-0.5b-instruct; none: the shipped base of the task",
    )
    seed: int = option(0, "seed of problems, sampling and noise")
    steps: int = option(300, "rollout batches, each followed by its updates")
    prompts: int = option(32, "prompts per step (P)")
    group: int = option(16, "rollouts per prompt (G)")
    temperature: float = option(1.0, "temperature of the policy, on both sides of every ratio")
    # Exploration
    sampling_temperature: float | None = option(
        None, "action-space noise: sample at this temperature, correct by importance; none: as the policy"
    )
    sigma: float = option(0.0, "noise of the first step; 0: plain GRPO")
    targets: str = option("mlp", "which weights get noise: a role, or a regular expression over names", known=TARGETS)
    layers: str = option("all", "in which layers: all, a third (first, middle, last), or numbers from 0 such as 4-7")
    relative: bool = option(False, "sigma is a multiple of each tensor's RMS")
    draws: int = option(1, "draws of the noise, or of the words before the prompt, per step; 1 is the released code")
    spread: str = option("pooled", "how draws are spread over groups", SPREADS)
    antithetic: bool = option(False, "draws come in pairs, eps and -eps")
    carrier: str = option(
        "auto", "how the noise is applied; auto: beside weights that do not learn, else in them", known=CARRIERS
    )
    noise_rank: int = option(16, "rank of the noise of the carrier lowrank")
    prefix_words: int = option(0, "noise in the prompt: sample behind so many random words (LoPE), for language tasks")
    # What the real-time schedule looks at
    probes: str = option("reuse", "realtime: the step's rollouts, or two more per prompt", PROBES)
    encoder: str = option("bag-of-words", "realtime: sentence encoder, a name, a folder or a model of the hub")
    certainty: str = option("uniform_to_policy", "realtime: direction of the KL in self-certainty", DIRECTIONS)
    # Correction
    correction: str = option("token", "level of the importance weights", CORRECTIONS)
    correction_mode: str = option("truncate", "what becomes of a ratio above the cap", MODES)
    cap: float = option(10.0, "largest importance weight (C)")
    mixture: bool = option(False, "weights against the mixture of a group's draws (balance heuristic)")
    # GRPO
    advantage: str = option("std", "scale of the group advantages, or Pass@k training", ADVANTAGES)
    pass_k: int = option(4, "k of Pass@k training")
    gate: str = option("none", "unsolved: problems that an earlier step has solved no longer learn", GATES)
    aggregation: str = option("grpo", "how tokens are averaged", AGGREGATIONS)
    clip_low: float = option(0.2, "ratios are clipped below 1 - clip_low")
    clip_high: float = option(0.2, "and above 1 + clip_high")
    kl_coef: float = option(0.0, "weight of the KL (k3) to the base, the policy that the run starts from")
    entropy_coef: float = option(0.0, "weight of the entropy bonus")
    updates: int = option(1, "optimiser steps per rollout batch")
    # Optimisation
    lr: float = option(1e-4, "learning rate of AdamW")
    grad_clip: float = option(1.0, "largest gradient norm")
    micro_batch: int = option(1024, "rollouts per forward and backward pass; bounds the memory")
    recompute: bool = option(False, "compute the layers again in the backward pass: less memory, more time")
    save_every: int = option(50, "steps between checkpoints")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_task(self.task)
        for name, allowed in (
            ("spread", SPREADS),
            ("correction", CORRECTIONS),
            ("correction_mode", MODES),
            ("advantage", ADVANTAGES),
            ("gate", GATES),
            ("aggregation", AGGREGATIONS),
            ("probes", PROBES),
            ("certainty", DIRECTIONS),
        ):
            check_choice(name, getattr(self, name), allowed)
        for name in ("steps", "prompts", "draws", "noise_rank", "updates", "micro_batch", "save_every"):
            check_range(name, getattr(self, name), low=1, whole=True)
        check_range("noise_rank", self.noise_rank, high=LARGEST_RANK, whole=True)
        check_named("carrier", self.carrier, CARRIERS)
        check_range("prefix_words", self.prefix_words, low=0, whole=True)
        check_seed(self.seed)
        check_layers(self.layers)
        check_range("group", self.group, low=2, whole=True)
        most = self.group if self.advantage == "pass_at_k" else None  # without it, k is of no account
        check_range("pass_k", self.pass_k, low=1, high=most, whole=True)
        for name in ("temperature", "lr", "grad_clip", "cap"):
            check_positive(name, getattr(self, name))
        if self.sampling_temperature is not None:
            check_positive("sampling_temperature", self.sampling_temperature)
        for name in ("kl_coef", "entropy_coef", "clip_high"):
            check_range(name, getattr(self, name), low=0)
        for name in ("sigma", "sigma_end", "sigma_high"):
            check_range(name, getattr(self, name), high=LARGEST_SIGMA)
        check_range("clip_low", self.clip_low, low=0, high=1)
        if self.encoder == "auto":
            raise UserError("encoder must name one encoder, so that a resumed run goes on with the same, got 'auto'")
        self._check_draws()

    def _check_draws(self) -> None:
        rows = self.prompts if self.spread == "per_group" else self.prompts * self.group
        if rows % self.draws:
            what = "prompts" if self.spread == "per_group" else "rollouts"
            raise UserError(f"draws must divide the {rows} {what} of a step, got {self.draws}")
        if self.antithetic and self.draws % 2:
            raise UserError(f"draws must be even when antithetic, got {self.draws}")
        if self.prefix_words and self.spread == "pooled" and self.group % self.draws:
            raise UserError(
                f"draws must divide group {self.group} with prefix_words and spread 'pooled', got {self.draws}"
            )
        if self.prefix_words and self.mixture:
            raise UserError(
                "mixture must be False with prefix_words: the log-probs behind the prefixes of other draws are not read"
            )
        if self.mixture and (self.spread != "pooled" or self.group % self.draws):
            raise UserError(
                f"mixture weights need spread 'pooled' and draws that divide group {self.group}, "
                f"got {self.spread!r} and {self.draws}"
            )

    @property
    def noisy(self) -> bool:
        """Is there a step with noise?"""
        return self.sigma > 0 or (self.schedule == "annealed" and self.sigma_end > 0)

    @property
    def hot(self) -> bool:
        """Are rollouts sampled at another temperature than the policy's?"""
        return self.sampling_temperature not in (None, self.temperature)

    @property
    def explores(self) -> bool:
        """Are rollouts sampled from another distribution than the policy's, by noise of any kind?"""
        return self.noisy or self.hot or self.prefix_words > 0

    @property
    def loss_settings(self) -> dict[str, Any]:
        """The settings of :func:`psn_tutorial.losses.policy_loss`."""
        names = ("clip_low", "clip_high", "aggregation", "kl_coef", "entropy_coef")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class EvaluationConfig:
    """How a policy is evaluated."""

    task: str = option("countdown", "what the policy is to do", known=TASKS)
    difficulty: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "fields of the task that differ from its default"}
    )
    eval_file: str | None = option(None, "problems to evaluate on, a line of JSON each; none: the shipped ones")
    eval_problems: int | None = option(None, "evaluate on the first so many of them; none: all")
    samples: int = option(256, "answers per problem; 0: exact probabilities only")
    temperature: float = option(1.0, "temperature of the policy")
    seed: int = option(0, "seed of the samples")
    batch: int = option(2048, "answers sampled at once: bounds the memory; another number draws other samples")
    device: str = option("auto", "where to compute; auto: CUDA if there is any", DEVICES)

    def __post_init__(self) -> None:
        check_task(self.task)
        check_choice("device", self.device, DEVICES)
        check_range("samples", self.samples, low=0, whole=True)
        check_seed(self.seed)
        check_range("batch", self.batch, low=1, whole=True)
        check_positive("temperature", self.temperature)
        if self.eval_problems is not None:
            check_range("eval_problems", self.eval_problems, low=1, whole=True)
        if is_registered(self.task):
            self.check_samples(get_task(self.task, **self.difficulty))

    def check_samples(self, task: Task) -> None:
        """Raise UserError without samples of a task that has no exact probabilities. Settings that name a class of
        another package do not import it: ``held_out_problems`` checks those."""
        if self.samples == 0 and not task.exact:
            raise UserError(f"samples must be >= 1: {self.task} has no exact probabilities, got 0")

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of :func:`psn_tutorial.evaluation.sampling.evaluate`."""
        return {name: getattr(self, name) for name in ("samples", "temperature", "seed", "batch")}


@dataclass(frozen=True)
class ProbeConfig:
    """How a policy that is not trained is probed (:mod:`psn_tutorial.evaluation.probing`)."""

    task: str = option("math", "what the policy is asked to do", known=TASKS)
    difficulty: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "fields of the task that differ from its default"}
    )
    eval_file: str | None = option(None, "problems to ask, a line of JSON each; none: the shipped ones")
    eval_problems: int | None = option(None, "ask the first so many of them; none: all")
    answers: int = option(8, "answers to a problem in one set: pass@k is known up to here")
    sets: int = option(4, "sets of answers, each with draws of its own: for the intervals")
    seed: int = option(0, "seed of the noise and of the sampling")
    batch: int = option(256, "answers sampled at once: bounds the memory")
    encoder: str | None = option(None, "tell how similar answers are: a sentence encoder, as for train; none: do not")
    four_bit: bool = option(False, "hold the policy in 4 bits (NF4)")
    compute: str = option("float32", "type that the policy computes in", COMPUTE_TYPES)
    device: str = option("auto", "where to compute; auto: CUDA if there is any", DEVICES)

    def __post_init__(self) -> None:
        check_task(self.task)
        check_choice("compute", self.compute, COMPUTE_TYPES)
        check_choice("device", self.device, DEVICES)
        for name in ("answers", "sets", "batch"):
            check_range(name, getattr(self, name), low=1, whole=True)
        check_seed(self.seed)
        if self.eval_problems is not None:
            check_range("eval_problems", self.eval_problems, low=1, whole=True)


@dataclass(frozen=True)
class RunConfig(TrainConfig):
    """A training run as it stands in a run folder: also its problems, and when it is evaluated."""

    difficulty: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "fields of the task that differ from its default"}
    )
    train_file: str | None = option(None, "problems to train on, a line of JSON each; none: the shipped ones")
    eval_file: str | None = option(None, "problems to evaluate on, a line of JSON each; none: the shipped ones")
    eval_problems: int | None = option(None, "evaluate on the first so many of them; none: all")
    allow_overlap: bool = option(False, "evaluate also on problems that are trained on")
    samples: int = option(256, "answers per problem in an evaluation; 0: exact probabilities only")
    evaluate: bool = option(True, "evaluate the clean policy at the end")
    eval_every: int = option(0, "steps between evaluations on the way; 0: at the end only")
    batch: int = option(2048, "answers sampled at once in an evaluation: bounds the memory")
    transcripts: int = option(0, "held-out problems whose answers are kept as text, at the start and when it evaluates")
    # The model
    lora_rank: int = option(0, "rank of an adapter that learns in place of the weights; 0: the weights learn")
    lora_alpha: float = option(32.0, "the adapter adds alpha / rank times B A")
    four_bit: bool = option(False, "hold the base in 4 bits (NF4); needs an adapter")
    compute: str = option("float32", "type that a model with an adapter computes in", COMPUTE_TYPES)
    device: str = option("auto", "where to compute; auto: CUDA if there is any", DEVICES)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eval_every", "transcripts", "lora_rank"):
            check_range(name, getattr(self, name), low=0, whole=True)
        check_range("lora_rank", self.lora_rank, high=LARGEST_RANK, whole=True)
        check_positive("lora_alpha", self.lora_alpha)
        check_choice("compute", self.compute, COMPUTE_TYPES)
        check_choice("device", self.device, DEVICES)
        if self.four_bit and not self.lora_rank:
            raise UserError("lora_rank must be >= 1 with four_bit: weights in 4 bits cannot learn, got 0")
        if self.compute != "float32" and not self.lora_rank:
            raise UserError(
                f"compute must be 'float32' without lora_rank: there the weights learn, got {self.compute!r}"
            )
        if self.evaluate:
            self.evaluation()

    def evaluation(self) -> EvaluationConfig:
        """How its evaluations are made. Each seed draws samples of its own, the same in all arms."""
        return EvaluationConfig(
            self.task,
            self.difficulty,
            self.eval_file,
            self.eval_problems,
            self.samples,
            self.temperature,
            self.seed,
            self.batch,
            self.device,
        )

    @property
    def evaluated_steps(self) -> list[int]:
        """The steps after which the clean policy is evaluated."""
        if not self.evaluate:
            return []
        every = self.eval_every or self.steps
        return sorted({*range(every, self.steps + 1, every), self.steps})


def check_effects(config: RunConfig, named: Container[str], where: str = "") -> None:
    """Raise UserError where a setting that a user has ``named``, and not left at its default, cannot change the run.

    For the command line, and for what one arm of an experiment changes. A record, and what all arms share, may hold
    such settings.
    """
    defaults = {setting.name: setting.default for setting in fields(config)}
    for works, why, names in _effects(config):
        for name in names:
            value = getattr(config, name)
            if name in named and value != defaults[name] and not works:
                raise UserError(f"{where}{name} must stay {defaults[name]} {why}, got {value}")


def _effects(config: RunConfig) -> list[tuple[bool, str, tuple[str, ...]]]:
    """(a condition, what is so where it does not hold, the settings that have an effect only where it holds)."""
    schedule, own = config.schedule, is_named(config.schedule)  # one's own may read every setting of a schedule
    beside = config.four_bit or (config.lora_rank > 0 and config.targets in LINEAR_TARGETS)
    low_rank = config.carrier == "lowrank" or is_named(config.carrier) or (config.carrier == "auto" and beside)
    noise = ("schedule", "targets", "layers", "relative", "antithetic", "carrier", "noise_rank", "mixture")
    realtime = tuple(f"realtime_{name}" for name in ("target", "mix", "factor"))
    other = f"with the schedule {schedule}"
    return [
        (config.noisy or config.prefix_words > 0, "without noise (sigma 0)", ("draws", "spread")),
        (config.noisy, "without noise (sigma 0)", noise),
        (config.draws > 1, "with one draw", ("spread", "mixture")),
        (low_rank, "unless the carrier is lowrank", ("noise_rank",)),
        (own or schedule == "annealed", other, ("sigma_end", "sigma_steps", "sigma_shape")),
        (own or schedule == "kl_target", other, ("kl_target", "kl_tolerance", "kl_factor")),
        (own or schedule == "realtime", other, (*realtime, "similarity_scale")),
        (schedule == "realtime", other, ("probes", "encoder", "certainty")),
        (own or schedule in ("kl_target", "realtime"), other, ("sigma_low", "sigma_high")),
        (config.explores, "where the policy itself is sampled", ("correction", "correction_mode", "cap")),
        (config.correction != "none", "with the correction none", ("correction_mode",)),
        (config.steps > 1, "in a run of one step", ("gate",)),
        (config.advantage == "pass_at_k", f"with the advantage {config.advantage}", ("pass_k",)),
        (config.lora_rank > 0, "without lora_rank", ("lora_alpha",)),
        (config.evaluate, "without evaluations", ("transcripts",)),
    ]
