"""The settings of PSN-GRPO in TRL."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from trl import GRPOConfig

from psn_tutorial.choices import CARRIERS, CORRECTIONS, DIRECTIONS, LARGEST_SIGMA, MODES, PROBES, SPREADS
from psn_tutorial.config import TrainConfig
from psn_tutorial.errors import UserError, check_choice, check_positive, check_range
from psn_tutorial.extensions import check_named
from psn_tutorial.rollout import spread_draws
from psn_tutorial.schedulers import make_scheduler
from psn_tutorial.sites import check_layers

# Losses of TRL that are linear in the advantage, so that w A in its place is w times the loss of the token. "vespo"
# makes weights of its own from the whole answer's ratio.
LOSS_TYPES = ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo")


def _setting(name: str, **changed: Any) -> Any:
    """The field of TrainConfig, with its default unless ``default`` is given, its help and its choices."""
    known = TrainConfig.__dataclass_fields__[name]
    told = {key: known.metadata[key] for key in ("help", "choices") if key in known.metadata}
    return field(**{"default": known.default, "metadata": told} | changed)


@dataclass
class PSNConfig(GRPOConfig):
    """Settings of :class:`PSNGRPOTrainer`: TRL's, and those of :class:`psn_tutorial.config.TrainConfig` on the noise.

    ``seed`` is also that of the noise, ``temperature`` that of both sides of every ratio. The defaults are those of the
    authors' launcher: sigma .001 on the MLP weights, held at a KL of .003 nats per token, weights capped at 10 per
    token. sigma 0 (with any schedule but "annealed" to more) is GRPO as TRL has it.

    A step of the scheduler is a batch of rollouts, as TRL generates it: ``steps_per_generation`` micro-batches.

    Raises:
        UserError: a setting that is not one of those allowed, or one of TRL's that the correction does not allow.
    """

    sigma: float = _setting("sigma", default=0.001)
    targets: str = _setting("targets")
    layers: str = _setting("layers")
    relative: bool = _setting("relative")
    draws: int = _setting("draws")
    spread: str = _setting("spread")
    draws_per_process: bool = field(
        default=False, metadata={"help": "each process has draws of its own; else all have the same"}
    )
    antithetic: bool = _setting("antithetic")
    carrier: str = _setting("carrier")
    noise_rank: int = _setting("noise_rank")
    schedule: str = _setting("schedule", default="kl_target")
    sigma_end: float = _setting("sigma_end")
    sigma_steps: int = _setting("sigma_steps")
    sigma_shape: str = _setting("sigma_shape")
    kl_target: float = _setting("kl_target")
    kl_tolerance: float = _setting("kl_tolerance")
    kl_factor: float = _setting("kl_factor")
    realtime_target: float = _setting("realtime_target")
    realtime_mix: float = _setting("realtime_mix")
    realtime_factor: float = _setting("realtime_factor")
    similarity_scale: str = _setting("similarity_scale")
    sigma_low: float = _setting("sigma_low")
    sigma_high: float = _setting("sigma_high")
    probes: str = _setting("probes")
    encoder: str = _setting("encoder")
    certainty: str = _setting("certainty")
    correction: str = _setting("correction")
    correction_mode: str = _setting("correction_mode")
    cap: float = _setting("cap")
    mixture: bool = _setting("mixture")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sigma", self.sigma, low=0, high=LARGEST_SIGMA)
        if not self.noisy:
            return
        make_scheduler(self)  # checks its own settings
        for name, allowed in (
            ("spread", SPREADS),
            ("probes", PROBES),
            ("certainty", DIRECTIONS),
            ("correction", CORRECTIONS),
            ("correction_mode", MODES),
            ("loss_type", LOSS_TYPES),
        ):
            check_choice(name, getattr(self, name), allowed)
        for name in ("draws", "noise_rank"):
            check_range(name, getattr(self, name), low=1, whole=True)
        check_positive("cap", self.cap)
        check_layers(self.layers)
        check_named("carrier", self.carrier, CARRIERS)
        if self.antithetic and self.draws % 2:
            raise UserError(f"draws must be even when antithetic, got {self.draws}")
        self._check_sampling()
        for process in range(self.world_size):
            self.row_draws(process)
        self._check_groups()
        if self.importance_sampling_level == "sequence" and self.correction == "token":
            raise UserError(
                "correction must be 'sequence' or 'none' with importance_sampling_level 'sequence', whose ratio is one "
                "number per answer, got 'token'"
            )
        if self.use_vllm:
            if self.carrier not in ("auto", "weights"):
                raise UserError(f"carrier must be 'weights' with vLLM, which loads weights alone, got {self.carrier!r}")
            self.vllm_importance_sampling_correction = self.correction != "none"
            if self.correction != "none":
                self.vllm_importance_sampling_mode = f"{self.correction}_{self.correction_mode}"
                self.vllm_importance_sampling_clip_max = self.cap

    def _check_groups(self) -> None:
        """What a mixture of draws, and probes of their own, ask of the groups."""
        if self.mixture and (self.spread != "pooled" or self.num_generations % self.draws):
            raise UserError(
                f"mixture weights need spread 'pooled' and draws that divide num_generations {self.num_generations}, "
                f"got {self.spread!r} and {self.draws}"
            )
        if self.mixture and self.use_vllm:
            raise UserError("mixture must be False with vLLM, which knows the log-probs under one draw alone")
        separate = self.schedule == "realtime" and self.probes == "separate"
        rows = self.generation_batch_size // self.world_size
        if rows % self.num_generations and (separate or (self.mixture and self.draws_per_process)):
            what = "probes 'separate'" if separate else "mixture weights with draws_per_process"
            raise UserError(
                f"{what} need whole groups of {self.num_generations} on each process, got {rows} rows on each"
            )

    def _check_sampling(self) -> None:
        """Tokens must be sampled from the whole distribution, so that every ratio is known."""
        for name, plain in (
            ("top_p", (1.0,)),
            ("top_k", (0, None)),
            ("min_p", (None, 0.0)),
            ("repetition_penalty", (1.0,)),
            ("generation_kwargs", (None, {})),
            ("use_transformers_continuous_batching", (False,)),
        ):
            if getattr(self, name) not in plain:
                raise UserError(
                    f"{name} must be {plain[0]} with noise, for ratios of the distribution that is sampled, got "
                    f"{getattr(self, name)!r}"
                )

    @property
    def noisy(self) -> bool:
        """Is there a step with noise?"""
        return self.sigma > 0 or (self.schedule == "annealed" and self.sigma_end > 0)

    def row_draws(self, process: int) -> Tensor:
        """Which draw (0 .. draws - 1) each row that ``process`` generates at once uses, [R]; see
        :func:`psn_tutorial.rollout.spread_draws`, which is asked for the rows of all processes together.

        Raises:
            UserError: the rows of the process cannot be shared evenly among its draws.
        """
        group = self.num_generations
        draws = spread_draws(self.generation_batch_size // group, group, self.draws, self.spread)
        rows = draws.flatten().view(self.world_size, -1)[process]
        numbers, counts = rows.unique(return_counts=True)
        if counts.min() != counts.max() or ((self.use_vllm or self.mixture) and len(numbers) != self.draws):
            raise UserError(
                f"draws must share the {len(rows)} rows of each process evenly, got {self.draws} with spread "
                f"{self.spread!r}"
            )
        return rows
