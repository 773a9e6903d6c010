"""Schedulers: how large the noise is at the next step.

A scheduler holds one number, ``sigma``. After each training step :meth:`Scheduler.update` gets the
signals of that step and returns the sigma of the next one. ``state_dict`` is JSON, for resuming.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from psn_tutorial.errors import UserError, check_choice, check_count, check_range, shown
from psn_tutorial.extensions import check_named, imported, in_one_sentence, tell_faults
from psn_tutorial.settings import option

SHAPES = ("linear", "cosine", "exponential")
SCALES = ("running", "none")


class Scheduler:
    """What all schedulers share. ``state`` names the attributes that change while training.

    One of your own is a class derived from this one, in a module that ``--schedule my_module:MyScheduler`` names:

        class Halving(Scheduler):
            state = ("sigma",)

            def __init__(self, sigma):
                self.sigma = sigma

            def update(self, signals):
                if signals["reward"] > 0.5:
                    self.sigma /= 2
                return self.sigma
    """

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        tell_faults(cls, Scheduler)

    sigma: float
    state: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, config: "ScheduleConfig") -> "Scheduler":
        """The scheduler that the settings of a run describe; here made from ``config.sigma`` alone."""
        return cls(config.sigma)  # type: ignore[call-arg]

    def __post_init__(self) -> None:
        """Check the values, also those of a saved state. Raises UserError for an impossible one."""

    def update(self, signals: Mapping[str, float]) -> float:
        """Take in one step's signals and return the sigma of the next step.

        signals: the step's record, whose figures :mod:`psn_tutorial.runs.steps` explains.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on from here; JSON-able."""
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; the settings stay those of this object.

        Raises:
            UserError: a state of another kind of scheduler, or with an impossible value.
        """
        if set(state) != set(self.state):
            raise UserError(
                f"the state of {type(self).__name__} must have the fields {sorted(self.state)}, got {sorted(state)}"
            )
        before = self.state_dict()
        vars(self).update(state)
        try:
            self.__post_init__()
        except UserError:
            vars(self).update(before)
            raise


@dataclass
class ConstantSigma(Scheduler):
    """The same noise at every step: the paper's "fixed noise".

    Args:
        sigma: >= 0; 0 is plain GRPO.

    Raises:
        UserError: sigma below 0 or not finite.
    """

    sigma: float

    def __post_init__(self) -> None:
        check_range("sigma", self.sigma, low=0)

    def update(self, signals: Mapping[str, float]) -> float:
        return self.sigma


@dataclass
class AnnealedSigma(Scheduler):
    """From ``start`` to ``end`` in ``steps`` updates, then ``end``. Reads no signal.

    With f = updates so far / steps: "linear" start + f (end - start); "cosine" the same with
    (1 - cos(pi f)) / 2 for f, flat at both ends; "exponential" start (end / start)^f, the same
    factor at every step. (QeRL lowers its noise by such a factor, in stages; not in our paper.)

    Args:
        start: sigma of the first step, >= 0 (exponential: > 0).
        end: sigma after ``steps`` updates, >= 0 (exponential: > 0); may exceed ``start``.
        steps: whole number >= 1.
        shape: "linear", "cosine" or "exponential".

    Raises:
        UserError: one of these is not as said.
    """

    start: float
    end: float
    steps: int
    shape: str = "linear"
    step: int = field(default=0, init=False)
    state: ClassVar[tuple[str, ...]] = ("step",)

    @classmethod
    def of(cls, config: "ScheduleConfig") -> "AnnealedSigma":
        return cls(config.sigma, config.sigma_end, config.sigma_steps, config.sigma_shape)

    def __post_init__(self) -> None:
        check_choice("shape", self.shape, SHAPES)
        bound = {"above": 0} if self.shape == "exponential" else {"low": 0}
        check_range("start", self.start, **bound)
        check_range("end", self.end, **bound)
        check_count("steps", self.steps)
        check_count("step", self.step, low=0)

    @property
    def sigma(self) -> float:
        if self.step >= self.steps:
            return self.end  # exactly, whatever the rounding on the way
        done = self.step / self.steps
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** done
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + done * (self.end - self.start)

    def update(self, signals: Mapping[str, float]) -> float:
        self.step += 1
        return self.sigma


@dataclass
class KLTargetSigma(Scheduler):
    """Variant I of the paper: hold the KL between the noisy and the clean policy near a target.

    Source: the rule of the authors' released code (arXiv 2602.02555; baibizhe/psn_rlvr,
    trainer/ppo/ray_trainer.py), unchanged. With k1 = mean over tokens of
    log pi_noisy - log pi_clean, in nats per token (``ImportanceWeights.kl_k1``):

        k1 > tolerance * target:  sigma / factor
        k1 < target / tolerance:  sigma * factor
        then low <= sigma <= high

    k1 can be negative; it then counts as "too small".

    Args:
        sigma: of the first step, within [low, high].
        target: nats per token, > 0; 0.003 in the released launcher (0.005 in its config).
        tolerance: >= 1; between the two bounds sigma stays.
        factor: > 1; at 1.01 it takes 70 steps to double sigma.
        low, high: 0 < low <= high.

    Raises:
        UserError: one of these is not as said.
    """

    sigma: float
    target: float = 0.003
    tolerance: float = 1.1
    factor: float = 1.01
    low: float = 1e-6
    high: float = 0.5
    state: ClassVar[tuple[str, ...]] = ("sigma",)

    @classmethod
    def of(cls, config: "ScheduleConfig") -> "KLTargetSigma":
        return cls(
            config.sigma,
            config.kl_target,
            config.kl_tolerance,
            config.kl_factor,
            config.sigma_low,
            config.sigma_high,
        )

    def __post_init__(self) -> None:
        check_range("target", self.target, above=0)
        check_range("tolerance", self.tolerance, low=1)
        check_range("factor", self.factor, above=1)
        check_range("low", self.low, above=0)
        check_range("high", self.high, low=self.low)
        check_range("sigma", self.sigma, low=self.low, high=self.high)

    def update(self, signals: Mapping[str, float]) -> float:
        """Raises UserError when ``signals`` has no finite "kl_k1"."""
        kl = _signal(signals, "kl_k1")
        if kl > self.target * self.tolerance:
            self.sigma /= self.factor
        elif kl < self.target / self.tolerance:
            self.sigma *= self.factor
        self.sigma = min(max(self.sigma, self.low), self.high)
        return self.sigma


@dataclass
class RealtimeSigma(Scheduler):
    """Variant II of the paper: more noise when the rollouts collapse, less when they are diverse.

    Two signals rise on collapse: the answers of a group grow alike, and the policy grows certain.
    Each is placed in the range it has had so far, 0 at its least and 1 at its greatest value:

        indicator = mix * place(similarity) + (1 - mix) * place(self-certainty)
        indicator > target, collapsed:  sigma * factor
        indicator < target, diverse:    sigma / factor
        then low <= sigma <= high

    Source: arXiv 2602.02555 as reviews quote it: sigma becomes beta sigma where indicator <= target
    and sigma / beta elsewhere, which has this orientation only for beta < 1. We write factor =
    1 / beta > 1, so that it cannot be set the wrong way round. The authors have released neither
    the code nor the values of mix (lambda), beta and target: these defaults are ours.

    What else is ours: the similarity is placed in its range too. Chains of thought that answer one
    question resemble each other so much that it moves within a few hundredths below 1, and an
    absolute target would miss that band; ``similarity_scale`` "none" takes it as it comes, like the
    paper. Before a signal has had two different values it counts as 0.5, and at exactly the target
    sigma stays.

    A running range is no set point: it only knows what it has seen, so a sigma that works in the
    wrong place makes a range there and stays. A raw similarity (mix 1, "none") with a target that
    was measured beforehand is one.

    Args:
        sigma: of the first step, within [low, high].
        target: of the indicator, in [0, 1].
        mix: the similarity's share in the indicator, in [0, 1]; the paper's lambda.
        factor: > 1; at 1.05 it takes 15 steps to double sigma.
        similarity_scale: "running" or "none".
        low, high: 0 < low <= high.

    Raises:
        UserError: one of these is not as said.
    """

    sigma: float
    target: float = 0.5
    mix: float = 0.5
    factor: float = 1.05
    similarity_scale: str = "running"
    low: float = 1e-6
    high: float = 0.5
    similarity_range: list[float] | None = field(default=None, init=False)
    certainty_range: list[float] | None = field(default=None, init=False)
    state: ClassVar[tuple[str, ...]] = ("sigma", "similarity_range", "certainty_range")

    @classmethod
    def of(cls, config: "ScheduleConfig") -> "RealtimeSigma":
        return cls(
            config.sigma,
            config.realtime_target,
            config.realtime_mix,
            config.realtime_factor,
            config.similarity_scale,
            config.sigma_low,
            config.sigma_high,
        )

    def __post_init__(self) -> None:
        check_range("target", self.target, low=0, high=1)
        check_range("mix", self.mix, low=0, high=1)
        check_range("factor", self.factor, above=1)
        check_choice("similarity_scale", self.similarity_scale, SCALES)
        check_range("low", self.low, above=0)
        check_range("high", self.high, low=self.low)
        check_range("sigma", self.sigma, low=self.low, high=self.high)
        for name in ("similarity_range", "certainty_range"):
            _check_seen(name, getattr(self, name))

    def update(self, signals: Mapping[str, float]) -> float:
        """Raises UserError unless ``signals`` has finite "similarity" and "self_certainty"."""
        similarity = _signal(signals, "similarity")
        certainty = _signal(signals, "self_certainty")
        self.certainty_range = _widened(self.certainty_range, certainty)
        if self.similarity_scale == "running":
            self.similarity_range = _widened(self.similarity_range, similarity)
            similarity = _place(self.similarity_range, similarity)
        indicator = self.mix * similarity + (1 - self.mix) * _place(self.certainty_range, certainty)
        if indicator > self.target:
            self.sigma *= self.factor
        elif indicator < self.target:
            self.sigma /= self.factor
        self.sigma = min(max(self.sigma, self.low), self.high)
        return self.sigma


def _signal(signals: Mapping[str, float], name: str) -> float:
    """One finite signal, or UserError."""
    if name not in signals:
        raise UserError(f"signals must have the field {name!r}, got {sorted(signals)}")
    check_range(name, signals[name])
    return signals[name]


def _widened(seen: list[float] | None, value: float) -> list[float]:
    """The range [least, greatest] of a signal, with one more value."""
    low, high = seen or (value, value)
    return [min(low, value), max(high, value)]


def _place(seen: list[float], value: float) -> float:
    """Where in its range a value stands, in [0, 1]; 0.5 in a range that is a point."""
    low, high = seen
    return (value - low) / (high - low) if high > low else 0.5


def _check_seen(name: str, seen: Any) -> None:
    if seen is None:
        return
    if not isinstance(seen, list) or len(seen) != 2:
        raise UserError(f"{name} must be none or [least, greatest], got {shown(seen)}")
    check_range(f"{name}[0]", seen[0])
    check_range(f"{name}[1]", seen[1], low=seen[0])


SCHEDULES: dict[str, type[Scheduler]] = {
    "constant": ConstantSigma,
    "annealed": AnnealedSigma,
    "kl_target": KLTargetSigma,
    "realtime": RealtimeSigma,
}


@dataclass(frozen=True)
class ScheduleConfig:
    """A schedule as settings: flat, so that every field is a flag. Made real by make_scheduler."""

    schedule: str = option("constant", "how sigma moves", known=SCHEDULES)
    sigma: float = field(default=0.001, metadata={"help": "noise of the first step"})
    sigma_end: float = field(default=0.0, metadata={"help": "annealed: noise of the last step"})
    sigma_steps: int = field(default=100, metadata={"help": "annealed: steps to get there"})
    sigma_shape: str = field(default="linear", metadata={"help": "annealed: along which curve", "choices": SHAPES})
    kl_target: float = field(default=0.003, metadata={"help": "kl_target: nats per token"})
    kl_tolerance: float = field(default=1.1, metadata={"help": "kl_target: dead band, a ratio"})
    kl_factor: float = field(default=1.01, metadata={"help": "kl_target: change per step"})
    realtime_target: float = option(0.5, "realtime: indicator above which sigma rises")
    realtime_mix: float = option(0.5, "realtime: share of the similarity, the rest is certainty")
    realtime_factor: float = option(1.05, "realtime: change per step")
    similarity_scale: str = option(
        "running", "realtime: place the similarity in its range so far, or take it as it is", SCALES
    )
    sigma_low: float = option(1e-6, "kl_target, realtime: floor of sigma")
    sigma_high: float = option(0.5, "kl_target, realtime: ceiling of sigma")

    def __post_init__(self) -> None:
        check_named("schedule", self.schedule, SCHEDULES)
        if self.schedule in SCHEDULES:  # a class of another package is imported when a run needs it
            make_scheduler(self)


def make_scheduler(config: ScheduleConfig) -> Scheduler:
    """The scheduler that ``config`` describes (any object with the fields of ScheduleConfig).

    Raises:
        UserError: an unknown schedule, one whose class cannot be imported, or a value its scheduler refuses.
    """
    check_named("schedule", config.schedule, SCHEDULES)
    if config.schedule in SCHEDULES:
        return SCHEDULES[config.schedule].of(config)
    scheduler = imported("schedule", config.schedule)
    if not (inspect.isclass(scheduler) and issubclass(scheduler, Scheduler)):
        raise UserError(
            f"schedule must be a class derived from psn_tutorial.schedulers.Scheduler, got {config.schedule}, "
            f"which is {shown(scheduler)}"
        )
    with in_one_sentence(f"schedule {config.schedule} cannot be made"):
        return scheduler.of(config)
