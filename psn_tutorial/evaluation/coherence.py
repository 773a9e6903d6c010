"""How coherent noise is: does one draw shift a policy's preference by the same amount at every step?

On the rule task, and for pretrained models on the lists of ``habit``, the preference is the log-odds of the rewarded
rule against the other, at each place where a rule is chosen. A draw of noise shifts it; the shift has a part that all
places share, which is kept through a whole answer, and a rest that differs from place to place. The shared part
explores; what it costs is how far the noise takes the policy from itself (KL). Sites are to be compared at equal KL,
never at equal sigma. Measuring is apart (:mod:`psn_tutorial.evaluation.shifts`): the record and its figures need no
torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from psn_tutorial.choices import TARGETS
from psn_tutorial.errors import UserError, check_choice, check_positive, check_range, check_seed
from psn_tutorial.evaluation.intervals import Interval, percentile_interval
from psn_tutorial.runs.files import read_lines
from psn_tutorial.settings import option

RESAMPLES, LEVEL = 2000, 0.95
TINY = 1e-300  # in place of 0, which has no logarithm


@dataclass(frozen=True)
class CoherenceConfig:
    """Where the coherence of a policy is measured, and how closely."""

    policy: str | None = option(None, "a checkpoint folder or a GGUF file; none: the shipped base of the task")
    task: str = option("rules", "rules or chain; habit for a language model", ("rules", "chain", "habit"))
    difficulty: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "fields of the task that differ from its default"}
    )
    problems: int = option(50, "held-out problems; one answer of the clean policy to each")
    sites: tuple[str, ...] = option(TARGETS, "which weights are perturbed, one site after the other")
    kl: float = option(0.02, "KL(clean || noisy), nats per token, to which each site's sigma is set")
    draws: int = option(64, "noise draws of each site")
    seed: int = option(0, "seed of the noise and of the answers")

    def __post_init__(self) -> None:
        for name in ("problems", "draws"):
            check_range(name, getattr(self, name), low=2, whole=True)
        check_positive("kl", self.kl)
        check_seed(self.seed)
        for site in self.sites:
            check_choice("a site", site, TARGETS)
        if self.task == "habit" and self.policy is None:
            raise UserError("policy must name a language model where the task is habit, got none")
        if not self.sites or len(set(self.sites)) < len(self.sites):
            raise UserError(f"sites must be different ones, at least one, got {self.sites}")


@dataclass(frozen=True)
class Coherence:
    """What D draws of noise on one site did to N places where a rule is chosen.

    Attributes:
        site, sigma: the noise; sigma is a multiple of each tensor's RMS.
        parameters: of the whole model; perturbed: entries of the site.
        places: N.
        shift: of each draw, mean over the places of its shift, in nats of log-odds.
        spread: of each draw, variance of its shifts over the places, what each place has in common taken out.
        kl: of each draw, KL(clean || noisy) in nats per token, on answers of the clean policy.
        right_values: of each draw, probability that all that is written beside the clean policy's rules is right: the
            values of rules, the numbers of habit.
        success: of each draw, exact success probability of the noisy policy.
        clean_success: of the clean one.
        temperature: above 1, that changes the clean policy as much as the draws do on average: the same KL(clean ||
            sampler); None where none does.
        tempered_success: exact success probability at that temperature.
    """

    site: str
    sigma: float
    parameters: int
    perturbed: int
    places: int
    shift: tuple[float, ...]
    spread: tuple[float, ...]
    kl: tuple[float, ...]
    right_values: tuple[float, ...]
    success: tuple[float, ...]
    clean_success: float
    temperature: float | None = None
    tempered_success: float | None = None


def read_coherence(path: str | Path) -> list[Coherence]:
    """The sites of a file coherence.jsonl, in its order; [] where there is none. Raises UserError, naming the line."""
    return read_lines(path, Coherence)


def parts(shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a record keeps of ``shifts`` [D, N], D >= 2 draws at N >= 2 places: (shift [D], spread [D])."""
    draws, places = shifts.shape
    rest = shifts - shifts.mean(0)
    own = rest.mean(1)
    # times D / (D - 1), for the D means over the draws that were taken out
    spread = ((rest - own[:, None]) ** 2).sum(1) / (places - 1) * draws / (draws - 1)
    return shifts.mean(1), spread


def variances(shift: np.ndarray, spread: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased variance components of shifts, from ``parts`` [..., D]: between draws (coherent; by chance it may be
    below 0) and within a draw. Analysis of variance of places crossed with draws: McGraw and Wong 1996, as
    :func:`psn_tutorial.evaluation.probes.consistency`."""
    within = spread.mean(-1)
    return shift.var(-1, ddof=1) - within / places, within


def figures(found: Coherence) -> dict[str, Interval]:
    """The figures of a site, with bootstrap intervals over the draws.

    coherent sd, within sd: of the shift, nats of log-odds; ICC: share of its variance that lies between draws;
    efficiency: coherent variance per nat of KL; KL, right values and success: means over the draws.
    """
    return _intervals(_resampled(found), len(found.kl))


def figures_at_kl(found: Sequence[Coherence], kl: float) -> dict[str, Interval]:
    """The figures of a site at the wanted mean ``kl``, nats per token, with bootstrap intervals over the draws.

    found: records of the same D draws at S >= 2 sigmas, the smallest first. Between them each figure is a straight line
        in its logarithm and that of the mean KL. A resample has a mean KL of its own: the intervals hold the chance of
        the KL too.

    Raises UserError: ``kl`` is not between the smallest and the largest mean KL.
    """
    return _intervals(_interpolated(found, kl), len(found[0].kl))


def ratios_at_kl(found: Sequence[Coherence], reference: Sequence[Coherence], kl: float) -> dict[str, Interval]:
    """``figures_at_kl`` of ``found`` over those of ``reference``, which has draws of its own. UserError alike."""
    ours, others = _interpolated(found, kl), _interpolated(reference, kl, seed=1)
    return _intervals({name: x / np.maximum(others[name], TINY) for name, x in ours.items()}, len(found[0].kl))


def _interpolated(found: Sequence[Coherence], kl: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Every figure at ``kl``, as ``_resampled``."""
    by_sigma = [_resampled(record, seed) for record in found]
    curves = {name: np.array([curve[name] for curve in by_sigma]) for name in by_sigma[0]}  # [S, 1 + RESAMPLES]
    means = curves["KL"][:, 0]
    if not means[0] <= kl <= means[-1]:
        raise UserError(f"kl must be {means[0]:.3g} to {means[-1]:.3g}, the mean KLs there are, got {kl:g}")
    x, target = np.log(curves["KL"]), np.log(kl)
    right = np.clip((x < target).sum(0), 1, len(x) - 1)[None]  # the first sigma with a larger KL
    at = lambda y, i: np.take_along_axis(y, i, 0)[0]  # noqa: E731
    share = (target - at(x, right - 1)) / (at(x, right) - at(x, right - 1))
    logs = {name: np.log(np.maximum(curve, TINY)) for name, curve in curves.items()}
    return {name: np.exp((1 - share) * at(y, right - 1) + share * at(y, right)) for name, y in logs.items()}


@lru_cache(maxsize=64)
def _resampled(found: Coherence, seed: int = 0) -> dict[str, np.ndarray]:
    """Every figure, [1 + RESAMPLES]: of all draws, then of resampled ones."""
    columns = {name: np.array(getattr(found, name)) for name in ("shift", "spread", "kl", "right_values", "success")}
    count = len(columns["kl"])
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    value = _computed(columns, found.places)
    # A resample repeats draws, which lowers the variance between them by (D - 1) / D on average.
    resampled = _computed({name: x[drawn] for name, x in columns.items()}, found.places, count / (count - 1))
    return {name: np.append(value[name], x) for name, x in resampled.items()}


def _intervals(resampled: dict[str, np.ndarray], count: int) -> dict[str, Interval]:
    made = {}
    for name, x in resampled.items():
        interval = percentile_interval(float(x[0]), x[1:], LEVEL, count)
        made[name] = Interval(interval.value, interval.low, interval.high, LEVEL, count, "draws")
    return made


def _computed(columns: dict[str, np.ndarray], places: int, correction: float = 1.0) -> dict[str, np.ndarray]:
    coherent, within = variances(columns["shift"], columns["spread"], places)
    coherent = np.maximum(correction * (coherent + within / places) - within / places, 0)
    kl, total = columns["kl"].mean(-1), coherent + within
    return {
        "coherent sd": np.sqrt(coherent),
        "within sd": np.sqrt(within),
        "ICC": np.divide(coherent, total, out=np.zeros_like(total), where=total > 0),
        "efficiency": np.divide(coherent, kl, out=np.zeros_like(kl), where=kl > 0),
        "KL": kl,
        "right values": columns["right_values"].mean(-1),
        "success": columns["success"].mean(-1),
    }
