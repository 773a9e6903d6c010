"""The metrics of an evaluation, with intervals, and the comparison of two arms.

An evaluation is a list of ``ProblemResult``, one per held-out problem; an arm has one evaluation
per training seed. A figure is a mean over problems; its interval comes from the problems when
there is one evaluation and from the seeds when there are several (see ``intervals``). METRICS
defines every metric by its name.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from psn_tutorial.errors import UserError, shown, suggest
from psn_tutorial.evaluation.estimators import coverage, pass_at_k, zero_contrast
from psn_tutorial.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    check_same_problems,
    paired_difference,
    seed_interval,
    welch_interval,
)
from psn_tutorial.evaluation.results import Evaluation, ProblemResult, check_evaluation, check_evaluations


class Metric(NamedTuple):
    """One metric of an evaluation.

    words: its name in a table; axis: on the axis of a picture.
    at_k: is its name written with "@K"? True: always; False: never; None: with it or without.
    meaning: what it is.
    """

    words: str
    axis: str
    at_k: bool | None
    meaning: str


METRICS = {
    "pass": Metric(
        "pass@K",
        "pass@k (share of problems solved)",
        True,
        "chance that at least one of K samples is correct, unbiased from n >= K samples; exact, 1 - (1 - p)^K, where "
        "the evaluation holds exact probabilities p and no samples",
    ),
    "coverage": Metric(
        "solutions found",
        "distinct solutions found (share)",
        None,
        "distinct solutions found / all solutions, by all n samples; @K: expected of K samples, comparable between "
        "evaluations of different n",
    ),
    "family_coverage": Metric(
        "families found",
        "solution families found (share)",
        None,
        "the same of solution families",
    ),
    "zero_contrast": Metric(
        "groups without contrast",
        "groups without contrast (share)",
        True,
        "@G: chance that a group of G samples is all right or all wrong: no GRPO gradient",
    ),
    "success": Metric(
        "success probability",
        "success probability of the clean policy",
        False,
        "exact success probability of one sample, where the task can compute it",
    ),
}


def in_words(metric: str) -> str:
    """The metric's name in a table; one that is written with "@K" stands as it is: pass@16."""
    return METRICS[metric].words if metric in METRICS else metric


def per_problem(evaluation: Evaluation, metric: str) -> dict[str, float]:
    """The metric of each problem, {problem: figure}; names as in METRICS.

    Problems without any solution are left out of the coverages. Raises UserError for an unknown
    metric, one that this evaluation cannot give, and two results for one problem.
    """
    name, k = parse_metric(metric)
    check_evaluation(evaluation)
    sampled = all(r.n > 0 for r in evaluation)
    if name == "success" or (name == "pass" and not sampled):
        if any(r.exact is None for r in evaluation):
            raise UserError(f"{metric} needs {'samples or ' * (name == 'pass')}exact probabilities")
        p = np.minimum([float(r.exact) for r in evaluation], 1.0)  # type: ignore[arg-type]
        with np.errstate(divide="ignore"):  # p = 1
            values = p if name == "success" else -np.expm1(k * np.log1p(-p))
    elif name in ("coverage", "family_coverage"):
        return _coverages(evaluation, metric, "solutions" if name == "coverage" else "families", k)
    else:
        n, c = np.array([r.n for r in evaluation]), np.array([r.c for r in evaluation])
        values = pass_at_k(n, c, k) if name == "pass" else zero_contrast(n, c, k)
    return dict(zip([r.problem for r in evaluation], values.tolist(), strict=True))


class Summary(dict[str, Interval]):
    """Metric name -> Interval; prints as a table with a line that says how the intervals were computed."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        lines = [f"{name:<{width}}  {interval.brackets()}" for name, interval in self.items()]
        return "\n".join([*lines, f"({self.origin})"] if self else [])

    @property
    def origin(self) -> str:
        """How the intervals were computed: "95 % intervals: bootstrap over 60 problems"."""
        interval = next(iter(self.values()))
        return f"{100 * interval.level:g} % intervals: {interval.method}"

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
        metrics: the metrics beside pass@k; None: the coverages and success, where they are defined.

    Raises UserError for no evaluation, k above the number of samples, and metrics that the
    evaluations cannot give.
    """
    check_evaluations("evaluations", evaluations)
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
            summary[metric] = dataclasses.replace(wide, low=max(wide.low, 0.0), high=min(wide.high, 1.0))
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
      over the others. The spread over seeds of the single one is not in it.
    - Else Welch's t interval over the two sets of seeds.

    Raises UserError when the problems differ, and as ``summarise`` does.
    """
    check_evaluations("evaluations_a", evaluations_a)
    check_evaluations("evaluations_b", evaluations_b)
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
        raise UserError(f"metric must be one of {', '.join(METRICS)}, got {shown(metric)}{suggest(name, METRICS)}")
    at_k = METRICS[name].at_k
    needs = bool(at) if at_k is None else at_k
    if bool(at) != needs or (at and not (digits.isascii() and digits.isdigit() and int(digits))):
        form = f"{name}@K with a whole number K >= 1" if needs else f"{name} alone"
        raise UserError(f"metric must be {form}, got {shown(metric)}")
    return name, int(digits) if at else None


def _coverages(evaluation: Evaluation, metric: str, what: str, k: int | None) -> dict[str, float]:
    values = {}
    for r in evaluation:
        total = getattr(r, f"total_{what}")
        if total is None or r.n == 0:
            raise UserError(
                f"{metric} needs samples and the number of all {what}, missing for problem {shown(r.problem)}"
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
