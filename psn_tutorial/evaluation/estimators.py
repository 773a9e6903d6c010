"""pass@k, coverage and zero contrast from counts, without bias."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psn_tutorial.errors import UserError, check_range, shown
from psn_tutorial.evaluation.intervals import Interval, bootstrap_interval


def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: ArrayLike) -> Any:
    """Unbiased estimate of pass@k: 1 - C(n - c, k) / C(n, k), from c correct of n samples.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1. It is the chance that k of the n
    samples, taken WITHOUT replacement, hold a correct one; its expectation over c ~ Binomial(n, p)
    is 1 - (1 - p)^k. Good to 1e-12: a product of at most min(c, k) factors, no binomials.

    Args:
        num_samples, num_correct, k: whole numbers or arrays of them, broadcast together.

    Returns a float, or an array of the broadcast shape. Raises UserError for k < 1, k > n, c > n,
    negative or fractional numbers and NaN.

    >>> pass_at_k(8, 1, 8)
    1.0
    """
    n, c, k = np.broadcast_arrays(
        _whole("num_samples", num_samples, 0),
        _whole("num_correct", num_correct, 0),
        _whole("k", k, 1),
    )
    _refuse_above("num_correct", c, "num_samples", n)
    _refuse_above("k", k, "num_samples", n)
    # C(n-c, k) / C(n, k) is symmetric in c and k: multiply over the smaller of the two. A factor
    # is 0, and the product stays 0, when more samples are asked for than there are wrong ones.
    terms, rest = np.minimum(c, k), n - np.maximum(c, k)
    miss = np.ones(n.shape)
    for i in range(int(terms.max(initial=0))):
        miss *= np.where(i < terms, (rest - i) / np.maximum(n - i, 1), 1.0)
    return 1.0 - miss if miss.ndim else float(1.0 - miss)


def pass_at_k_interval(
    num_samples: ArrayLike,
    num_correct: ArrayLike,
    k: int,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean pass@k over problems with its bootstrap interval.

    num_samples, num_correct: [problems]; num_samples may be one number for all. The same seed
    resamples the same problems for every k. Raises UserError as ``pass_at_k`` does.
    """
    values = pass_at_k(num_samples, num_correct, k)
    return bootstrap_interval(values, level, resamples, seed)


def coverage(counts: Iterable[int], total: int, n: int, k: int | None = None) -> float:
    """Share of ``total`` solutions that k samples are expected to find; in [0, 1].

    counts: for each solution found, how many of the n samples found it. k defaults to n: the share
    found. Each solution is found by k samples with its own pass@k, so the sum is unbiased.
    Raises UserError for total < 1 and as ``pass_at_k`` does.
    """
    check_range("total", total, low=1, whole=True)
    counts = list(counts)
    found = np.sum(pass_at_k(n, counts, n if k is None else k)) if counts else 0.0
    return float(found) / total


def zero_contrast(num_samples: ArrayLike, num_correct: ArrayLike, group: int) -> Any:
    """Chance that a group of samples has all rewards equal, hence no GRPO gradient.

    All wrong or all right; unbiased and exact as ``pass_at_k``, shapes and errors are its own.
    """
    wrong = np.asarray(num_samples) - np.asarray(num_correct)
    hit, miss = pass_at_k(num_samples, num_correct, group), pass_at_k(num_samples, wrong, group)
    return 2.0 - hit - miss


def _whole(name: str, values: ArrayLike, low: int) -> NDArray[np.float64]:
    """Return ``values`` as floats (exact to 2**53); UserError unless whole and >= low."""
    array = np.asarray(values)
    if array.size == 0:
        return array.astype(np.float64)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} must be whole numbers >= {low}, got {shown(values)}")
    bad = ~(np.isfinite(array) & (array >= low) & (array == np.floor(array)))
    if bad.any():
        raise UserError(f"{name} must be whole numbers >= {low}, got {array[bad].flat[0]}")
    return array.astype(np.float64)


def _refuse_above(name: str, values: NDArray, limit_name: str, limits: NDArray) -> None:
    above = values > limits
    if above.any():
        value, limit = values[above].flat[0], limits[above].flat[0]
        raise UserError(f"{name} must be at most {limit_name} = {limit:.0f}, got {value:.0f}")
