"""Confidence intervals: bootstrap over problems, t over seeds, and the paired difference of two arms.

With one run the problems are the sample: percentile bootstrap. With several training seeds the
seeds are: t interval of their means. The bootstrap's resamples depend on (number of problems,
resamples, seed) only, so every figure over the same problems, and both arms of a difference, are
computed from the same resampled problems.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from psn_tutorial.errors import UserError, check_range, shown

Floats = NDArray[np.float64]
Values = ArrayLike | Mapping[str, float]


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval; prints as ``.137 [.121, .155]``.

    value, low, high: in the units of the metric. low and high are nan where there is no interval:
        a single problem or seed has no spread, and two seeds that tie tell none.
    level: the nominal coverage, .95 for 95 %.
    n: number of units of replication.
    unit: what they are, "problems" (bootstrap) or "seeds" (t).

    ``str`` adds "(3 seeds)" when seeds are the unit; ``format(interval, ".2f")`` sets the digits
    and gives the figures alone.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    n: int = 0
    unit: str = "problems"

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __format__(self, spec: str) -> str:
        return self.brackets(spec) if spec else str(self)

    def __str__(self) -> str:
        seeds = self.unit == "seeds" and not math.isnan(self.low)
        return self.brackets() + (f" ({self.units})" if seeds else "")

    @property
    def units(self) -> str:
        """How many units of replication, and of what kind: "60 problems", "1 seed"."""
        return f"{self.n} {self.unit if self.n != 1 else self.unit.removesuffix('s')}"

    @property
    def method(self) -> str:
        """How it was computed: "bootstrap over 60 problems", "t over 3 seeds"."""
        return f"{'t' if self.unit == 'seeds' else 'bootstrap'} over {self.units}"

    @property
    def verdict(self) -> str:
        """What the interval of a difference shows: "higher", "lower" or "undecided" (0 lies in it).

        Where there is no interval: "no interval, so undecided". Whether a difference is too small to matter it does not
        say; :mod:`psn_tutorial.evaluation.verdicts` does, with a margin.
        """
        if math.isnan(self.low):
            return "no interval, so undecided"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "undecided"

    def brackets(self, spec: str = "") -> str:
        """``.137 [.121, .155]`` without the number of seeds; spec: the format of all three, "" for ``digits``."""
        numbers = (self.value, self.low, self.high)
        value, low, high = (short(x, spec or digits(*numbers)) for x in numbers)
        if math.isnan(self.low):
            return f"{value} [no interval: {self.units}]"
        return f"{value} [{low}, {high}]"

    def to_json(self) -> dict[str, Any]:
        """The fields; a bound that does not exist is None."""
        return {k: None if v != v else v for k, v in asdict(self).items()}


def number(value: float) -> str:
    """A figure as tables and sentences show it: .137, or 1.1e-06 where three decimals would show .000."""
    return short(value, digits(value))


def digits(*values: float) -> str:
    """The format for figures that stand together: ".3f", or ".1e" where the largest would round to .000."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return ".3f" if largest >= 0.0005 or largest == 0 else ".1e"


def short(value: float, spec: str) -> str:
    """``format`` without the zero before the point, and without a negative zero: -.021, .000."""
    text = "0" if value == 0 and spec.endswith("e") else format(value, spec)
    if text.strip("-0.%") == "":
        text = text.lstrip("-")
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def bootstrap_interval(values: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of ``values`` [problems], the problems being the sample.

    A value may itself be an estimate (pass@k from n samples): resampling problems covers the chance
    of the samples too. Where all values are equal the interval has no width: every resample is the
    same. Raises UserError for no values, NaN, a level outside (0, 1) or fewer than 100 resamples.
    """
    values = finite("values", values)
    if len(values) == 1:
        return Interval(float(values[0]), math.nan, math.nan, level, 1)
    means = resampled_means(values, resamples, seed)
    return percentile_interval(float(values.mean()), means, level, len(values))


def percentile_interval(value: float, resampled: Floats, level: float, problems: int) -> Interval:
    """``value`` between the (1-level)/2 and (1+level)/2 quantiles of ``resampled`` [resamples]."""
    check_level(level)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, problems)


def seed_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval of the mean of ``values`` [seeds], one figure per training seed.

    It is for new seeds on the same problems. With 2 or 3 seeds it is wide: t has 1 or 2 degrees of
    freedom. Two seeds whose figures tie have no interval: that is chance, and tells no spread.
    Raises UserError for no values, NaN or a level outside (0, 1).
    """
    values, n = finite("values", values), np.size(values)
    check_level(level)
    if n == 1 or (n == 2 and np.ptp(values) == 0):
        return Interval(float(values[0]), math.nan, math.nan, level, n, "seeds")
    half = stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / math.sqrt(n)
    mean = float(values.mean())
    return Interval(mean, mean - float(half), mean + float(half), level, n, "seeds")


def welch_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Welch's t interval of mean(a) - mean(b), for unequal numbers of seeds, at least 2 each."""
    a, b = finite("a", a), finite("b", b)
    check_level(level)
    value = low = high = float(a.mean() - b.mean())
    if np.ptp(a) or np.ptp(b):
        from scipy import stats  # here: importing it takes 0.7 s, also of every --help

        low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    return Interval(value, float(low), float(high), level, min(len(a), len(b)), "seeds")


def paired_difference(a: Values, b: Values, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Interval of mean(a) - mean(b) over the same problems, paired: bootstrap of the differences.

    a, b: one figure per problem, as arrays [problems] in the same order or as mappings
        {problem: figure}, which are matched by problem. Raises UserError when the problems differ,
        and as ``bootstrap_interval`` does.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        check_same_problems(a, b)
        a, b = list(a.values()), [b[problem] for problem in a]
    a, b = finite("a", a), finite("b", b)
    if len(a) != len(b):
        raise UserError(f"a and b must hold the same problems, got {len(a)} and {len(b)} of them")
    return bootstrap_interval(a - b, level, resamples, seed)


def check_same_problems(a: Mapping[str, float], b: Mapping[str, float]) -> None:
    """Raise UserError naming a problem that only one side has."""
    for one, other, side in ((a, b, "second"), (b, a, "first")):
        missing = [problem for problem in one if problem not in other]
        if missing:
            raise UserError(
                f"both sides must hold the same problems: the {side} lacks {len(missing)} of them, "
                f"such as {shown(missing[0])}"
            )


def resampled_means(values: Floats, resamples: int = 2000, seed: int = 0) -> Floats:
    """Means of ``values`` [..., problems] over resampled problems: [..., resamples]."""
    check_range("resamples", resamples, low=100, whole=True)
    check_range("seed", seed, low=0, whole=True)
    return values @ _resampled_counts(values.shape[-1], resamples, seed).T / values.shape[-1]


@lru_cache(maxsize=2)
def _resampled_counts(problems: int, resamples: int, seed: int) -> Floats:
    """How often each problem is drawn: [resamples, problems], each row adding up to problems."""
    drawn = np.random.default_rng(seed).integers(problems, size=(resamples, problems))
    drawn += problems * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
    counts.flags.writeable = False  # every call gets the same array from the cache
    return counts


def check_level(level: float) -> None:
    """Raise UserError unless 0 < level < 1."""
    check_range("level", level, above=0, below=1)


def finite(name: str, values: Any) -> Floats:
    """Return ``values`` as a float array [n]; UserError if empty, of more axes, or not finite."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be numbers, got {shown(values)}") from None
    if array.ndim != 1 or array.size == 0:
        raise UserError(f"{name} must be a list of at least one number, got {shown(values)}")
    if not np.isfinite(array).all():
        place = int(np.argmin(np.isfinite(array)))
        raise UserError(f"{name} must be finite numbers, got {array[place]} at place {place}")
    return array
