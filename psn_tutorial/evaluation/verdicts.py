"""What the difference between two arms shows: effect sizes, p-values, and one of four words of fixed meaning.

Arms are paired by training seed: seed s of one against seed s of the other. Where many arms are compared with one
reference, their p-values are corrected together (Holm), and the words are given after that.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, stdtr

from psn_tutorial.errors import UserError, check_positive, check_range
from psn_tutorial.evaluation.intervals import Interval, finite, seed_interval

Key = TypeVar("Key", bound=Hashable)

LEVEL, ALPHA = 0.95, 0.05
MOST_SEEDS = 20  # of which all 2^n changes of sign are enumerated

# word -> when it is said; the first that holds. The margin is the smallest difference that matters, set beforehand.
VERDICTS = {
    "no difference shown": "the whole interval lies within the margin on either side of 0: a difference, if there is "
    "one, is smaller than what matters",
    "gain": "the difference is above 0 and its corrected p is below .05",
    "loss": "the difference is below 0 and its corrected p is below .05",
    "undecided": "none of these: more seeds are needed to tell",
}


@dataclass(frozen=True)
class Effect:
    """The difference of one arm from another, one figure per seed in each.

    difference: mean of a - b, with its t interval over the seeds.
    p: two-sided, of the paired t test, which belongs to the interval; 1 where there is but one seed.
    sign_flip: two-sided, exact, of the test that changes the signs of the differences; it assumes no distribution, and
        cannot be below 2 / 2^seeds.
    g: Hedges' g of paired samples, mean / standard deviation of the differences, corrected for few seeds; None with
        fewer than 3 seeds or without spread.
    improvement: chance that a seed of a does better than a seed of b, over all pairs of seeds, ties counted half.
    """

    difference: Interval
    p: float
    sign_flip: float
    g: float | None
    improvement: float


@dataclass(frozen=True)
class Judged:
    """An effect among others: ``corrected`` is its p after Holm's correction, ``verdict`` one of VERDICTS."""

    effect: Effect
    corrected: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """The fields of the effect, the corrected p, and the verdict."""
        fields = asdict(self.effect) | {"difference": self.effect.difference.to_json()}
        return fields | {"corrected": self.corrected, "verdict": self.verdict}


def effect(a: ArrayLike, b: ArrayLike) -> Effect:
    """The effect of ``a`` against ``b``, figures [seeds], paired by position.

    Raises UserError for numbers of seeds that differ, for none, and for more than MOST_SEEDS.
    """
    a, b = finite("a", a), finite("b", b)
    if len(a) != len(b):
        raise UserError(f"a and b must hold the same seeds, got {len(a)} and {len(b)} of them")
    better = np.sign(a[:, None] - b[None, :])
    differences = a - b
    return Effect(
        seed_interval(differences, LEVEL),
        paired_p(differences),
        sign_flip_p(differences),
        hedges_g(differences),
        float((better + 1).mean() / 2),
    )


def paired_p(differences: ArrayLike) -> float:
    """Two-sided p of Student's t test that the mean of ``differences`` [seeds] is 0.

    Without spread t is not defined, and few seeds that tie by chance would have p = 0: the exact ``sign_flip_p`` then,
    which is 1 of one seed alone, and where all are 0.
    """
    x = finite("differences", differences)
    if np.ptp(x) == 0:
        return sign_flip_p(x)
    error = x.std(ddof=1) / math.sqrt(len(x))
    return float(2 * stdtr(len(x) - 1, -abs(x.mean()) / error))


def sign_flip_p(differences: ArrayLike) -> float:
    """Two-sided exact p that ``differences`` [seeds] are symmetric about 0: the share of all 2^n ways to give them
    signs whose mean is at least as far from 0. Raises UserError for more than MOST_SEEDS."""
    x = finite("differences", differences)
    check_range("the number of seeds", len(x), high=MOST_SEEDS, whole=True)
    sums = np.zeros(1)
    for difference in x:
        sums = np.concatenate([sums + difference, sums - difference])
    rounding = 1e-12 * float(np.abs(x).sum())
    return float((np.abs(sums) >= abs(x.sum()) - rounding).mean())


def hedges_g(differences: ArrayLike) -> float | None:
    """Mean over standard deviation of ``differences`` [seeds], times the exact factor that makes it unbiased for normal
    ones (Hedges 1981, with n - 1 degrees of freedom); None with fewer than 3 seeds or without spread."""
    x = finite("differences", differences)
    free = len(x) - 1
    if free < 2 or x.std() == 0:
        return None
    factor = math.exp(gammaln(free / 2) - gammaln((free - 1) / 2)) / math.sqrt(free / 2)
    return float(factor * x.mean() / x.std(ddof=1))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction, in their order: the chance of any false alarm among all of them stays
    below the level at which they are read, whatever their dependence (Holm 1979). Raises UserError outside [0, 1]."""
    for i, p in enumerate(ps):
        check_range(f"ps[{i}]", p, low=0, high=1)
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def verdict(difference: Interval, corrected: float, margin: float) -> str:
    """One of VERDICTS. margin: > 0, in the metric's units. Raises UserError for a margin that is not above 0."""
    check_positive("margin", margin)
    if -margin < difference.low and difference.high < margin:  # false where there is no interval
        return "no difference shown"
    if corrected < ALPHA and difference.value:
        return "gain" if difference.value > 0 else "loss"
    return "undecided"


def judge(effects: Mapping[Key, Effect], margins: Mapping[Key, float]) -> dict[Key, Judged]:
    """All effects of one family of comparisons, corrected together; ``margins``: of each, see ``verdict``."""
    corrected = holm([found.p for found in effects.values()])
    return {
        key: Judged(found, p, verdict(found.difference, p, margins[key]))
        for (key, found), p in zip(effects.items(), corrected, strict=True)
    }
