"""What an evaluation says: pass@k, coverage of the solutions, and the comparison of two arms.

An evaluation is a list of ``ProblemResult``, one per held-out problem; an arm has one evaluation
per training seed. A figure is a mean over problems; its interval comes from the problems when
there is one evaluation and from the seeds when there are several (see ``intervals``).

The metrics, by name:

    pass@K           chance that at least one of K samples is correct, unbiased from n >= K samples
    coverage         distinct solutions found / all solutions, by all n samples
    coverage@K       the same, expected of K samples: comparable between evaluations of different n
    family_coverage  the same of solution families (also @K)
    zero_contrast@G  chance that a group of G samples is all right or all wrong: no GRPO gradient
    success          exact success probability of one sample, where the task can compute it

Where an evaluation holds exact probabilities and no samples, pass@K is exact too: 1 - (1 - p)^K.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psn_tutorial.errors import UserError, check_range, shown, suggest
from psn_tutorial.intervals import (
    Interval,
    bootstrap_interval,
    check_same_problems,
    paired_difference,
    seed_interval,
    welch_interval,
)
from psn_tutorial.tasks.base import Task, verdicts

METRICS = ("pass", "coverage", "family_coverage", "zero_contrast", "success")


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


@dataclass(frozen=True)
class ProblemResult:
    """What the samples of one problem came to; one line of eval.json.

    problem: the prompt, which identifies the problem when arms are compared.
    n, c: samples, and how many of them are correct.
    solutions: distinct solution -> samples that found it; families: the same per family.
    total_solutions, total_families: how many there are; None where the task cannot list them.
    exact: the success probability of one sample where it can be computed, else None; then n may
        be 0.

    Raises UserError for impossible numbers.
    """

    problem: str
    n: int
    c: int
    solutions: dict[str, int] = field(default_factory=dict)
    total_solutions: int | None = None
    families: dict[str, int] = field(default_factory=dict)
    total_families: int | None = None
    exact: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.problem, str):
            raise UserError(f"problem must be a text, got {shown(self.problem)}")
        check_range("n", self.n, low=0, whole=True)
        check_range("c", self.c, low=0, high=self.n, whole=True)
        for name in ("solutions", "families"):
            counts, total = getattr(self, name), getattr(self, f"total_{name}")
            if not isinstance(counts, Mapping):
                raise UserError(f"{name} must map texts to counts, got {shown(counts)}")
            for text, count in counts.items():
                check_range(f"{name}[{shown(text)}]", count, low=1, high=self.c, whole=True)
            if total is not None:
                check_range(f"total_{name}", total, low=len(counts), whole=True)
        if self.exact is not None:
            # The sum of many float32 probabilities may end a little above 1.
            check_range("exact", self.exact, low=0, high=1 + 1e-4)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Any, where: str) -> "ProblemResult":
        """The inverse of ``to_json``. UserError starting with ``where`` if the fields are wrong."""
        known = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping):
            raise UserError(f"{where}: expected an object, got {shown(fields)}")
        for name in fields:
            if name not in known:
                raise UserError(
                    f"{where}: unknown field {shown(name)}{suggest(name, known)}; "
                    f"allowed are {', '.join(known)}"
                )
        for name in ("problem", "n", "c"):
            if name not in fields:
                raise UserError(f"{where}: the field {name!r} is missing")
        try:
            return cls(**fields)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


Evaluation = Sequence[ProblemResult]


def tally(
    problem: Any, responses: Mapping[str, int], task: Task, exact: float | None = None
) -> ProblemResult:
    """Judge the responses to one problem: {response text: how many samples gave it}.

    Each distinct text is verified once. ``exact`` is the success probability, if it is known.
    """
    solutions: Counter[str] = Counter()
    families: Counter[str] = Counter()
    correct = 0
    judged = verdicts(task, list(responses), [problem] * len(responses))
    for count, verdict in zip(responses.values(), judged, strict=True):
        if verdict.correct:
            correct += count
            solutions.update({verdict.solution: count} if verdict.solution is not None else {})
            families.update({verdict.family: count} if verdict.family is not None else {})
    try:
        totals = len(task.solutions(problem)), len(task.families(problem))
    except UserError:  # too many to list: then coverage is not defined, and pass@k still is
        totals = None, None
    return ProblemResult(
        problem=task.prompt(problem),
        n=sum(responses.values()),
        c=correct,
        solutions=dict(sorted(solutions.items())),
        total_solutions=totals[0],
        families=dict(sorted(families.items())),
        total_families=totals[1],
        exact=exact,
    )


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


def per_problem(results: Evaluation, metric: str) -> dict[str, float]:
    """The metric of each problem, {problem: figure}; names as at the top of this file.

    Problems without any solution are left out of the coverages. Raises UserError for an unknown
    metric, one these results cannot give, and two results for one problem.
    """
    name, k = parse_metric(metric)
    _check_evaluation(results)
    sampled = all(r.n > 0 for r in results)
    if name == "success" or (name == "pass" and not sampled):
        if any(r.exact is None for r in results):
            raise UserError(f"{metric} needs {'samples or ' * (name == 'pass')}exact probabilities")
        p = np.minimum([float(r.exact) for r in results], 1.0)  # type: ignore[arg-type]
        with np.errstate(divide="ignore"):  # p = 1
            values = p if name == "success" else -np.expm1(k * np.log1p(-p))
    elif name in ("coverage", "family_coverage"):
        return _coverages(results, metric, "solutions" if name == "coverage" else "families", k)
    else:
        n, c = np.array([r.n for r in results]), np.array([r.c for r in results])
        values = pass_at_k(n, c, k) if name == "pass" else zero_contrast(n, c, k)
    return dict(zip([r.problem for r in results], values.tolist(), strict=True))


class Summary(dict[str, Interval]):
    """Metric name -> Interval; prints as a table that says where its intervals come from."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        lines = [f"{name:<{width}}  {interval.brackets()}" for name, interval in self.items()]
        for interval in list(self.values())[:1]:
            how = "t over" if interval.unit == "seeds" else "bootstrap over"
            units = interval.unit if interval.n != 1 else interval.unit.removesuffix("s")
            lines.append(f"({100 * interval.level:g} % intervals: {how} {interval.n} {units})")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Metric name -> the fields of its interval."""
        return {name: interval.to_json() for name, interval in self.items()}


def summarise(
    evaluations: Sequence[Evaluation],
    ks: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Every metric of one arm, with intervals.

    Args:
        evaluations: one per training seed. One: bootstrap over its problems. Several: t interval
            over the seeds' means, cut to [0, 1], where every metric lies.
        ks: of pass@k; None: 1, 2, 4, ... up to the samples there are, at most 256.
        metrics: others than pass@k; None: the coverages and success, where they are defined.

    Raises UserError for no evaluation, k above the number of samples, and metrics the results
    cannot give.
    """
    _check_evaluations("evaluations", evaluations)
    results = [result for evaluation in evaluations for result in evaluation]
    if ks is None:
        most = min(r.n for r in results) or 256
        ks = [2**i for i in range(9) if 2**i <= most]
    if metrics is None:
        metrics = _available(results)
    summary = Summary()
    for metric in [*(f"pass@{k}" for k in ks), *metrics]:
        seeds = [list(per_problem(e, metric).values()) for e in evaluations]
        if len(seeds) == 1:
            summary[metric] = bootstrap_interval(seeds[0], level, resamples, seed)
        else:
            wide = seed_interval([np.mean(values) for values in seeds], level)
            summary[metric] = dataclasses.replace(
                wide, low=max(wide.low, 0.0), high=min(wide.high, 1.0)
            )
    return summary


def compare(
    evaluations_a: Sequence[Evaluation],
    evaluations_b: Sequence[Evaluation],
    metric: str,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of metric(a) - metric(b) on the same problems, cut to [-1, 1], where it must lie.

    - One evaluation each: paired bootstrap over problems.
    - As many seeds in a as in b: t interval of the differences, seeds paired by position.
    - One against several: the single one is taken as fixed (the base that all start from), and t
      over the others. It says nothing of how another seed of the single one would have done.
    - Else Welch's t interval over the two sets of seeds.

    Raises UserError when the problems differ, and as ``summarise`` does.
    """
    _check_evaluations("evaluations_a", evaluations_a)
    _check_evaluations("evaluations_b", evaluations_b)
    a = [per_problem(evaluation, metric) for evaluation in evaluations_a]
    b = [per_problem(evaluation, metric) for evaluation in evaluations_b]
    for other in [*a, *b]:
        check_same_problems(a[0], other)
    if len(a) == len(b) == 1:
        return paired_difference(a[0], b[0], level, resamples, seed)
    means_a, means_b = (np.array([np.mean(list(s.values())) for s in side]) for side in (a, b))
    if len(a) == len(b) or 1 in (len(a), len(b)):
        wide = seed_interval(means_a - means_b, level)
    else:
        wide = welch_interval(means_a, means_b, level)
    return dataclasses.replace(wide, low=max(wide.low, -1.0), high=min(wide.high, 1.0))


def parse_metric(metric: str) -> tuple[str, int | None]:
    """Split: "pass@16" -> ("pass", 16); "coverage" -> ("coverage", None). UserError for others."""
    name, at, digits = str(metric).partition("@")
    if name not in METRICS:
        raise UserError(
            f"metric must be one of {', '.join(METRICS)}, got {shown(metric)}"
            f"{suggest(name, METRICS)}"
        )
    needs = {"pass": True, "zero_contrast": True, "success": False}.get(name, bool(at))
    if bool(at) != needs or (at and not (digits.isascii() and digits.isdigit() and int(digits))):
        form = f"{name}@K with a whole number K >= 1" if needs else f"{name} alone"
        raise UserError(f"metric must be {form}, got {shown(metric)}")
    return name, int(digits) if at else None


def _coverages(results: Evaluation, metric: str, what: str, k: int | None) -> dict[str, float]:
    values = {}
    for r in results:
        total = getattr(r, f"total_{what}")
        if total is None or r.n == 0:
            raise UserError(
                f"{metric} needs samples and the number of all {what}, "
                f"missing for problem {shown(r.problem)}"
            )
        if total:
            values[r.problem] = coverage(getattr(r, what).values(), total, r.n, k)
    if not values:
        raise UserError(f"{metric} is not defined: no problem has any solution")
    return values


def _available(results: Iterable[ProblemResult]) -> list[str]:
    """The metrics beside pass@k that these results can give."""
    results, names = list(results), []
    for name, total in (("coverage", "total_solutions"), ("family_coverage", "total_families")):
        totals = [getattr(r, total) for r in results]
        if all(r.n for r in results) and None not in totals and any(totals):
            names.append(name)
    return names + ["success"] * all(r.exact is not None for r in results)


def _check_evaluations(name: str, evaluations: Sequence[Evaluation]) -> None:
    if not isinstance(evaluations, Sequence) or not evaluations:
        raise UserError(f"{name} must be a list of evaluations, one per seed, got none")
    for evaluation in evaluations:
        _check_evaluation(evaluation)


def _check_evaluation(results: Evaluation) -> None:
    if (
        not isinstance(results, Sequence)
        or not results
        or not all(isinstance(r, ProblemResult) for r in results)
    ):
        raise UserError(
            f"an evaluation must be a list of at least one ProblemResult, got {shown(results)}"
        )
    twice = [problem for problem, n in Counter(r.problem for r in results).items() if n > 1]
    if twice:
        raise UserError(f"an evaluation holds the problem {shown(twice[0])} more than once")


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
