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
from collections.abc import Iterable, Sequence
from typing import Any

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
from psn_tutorial.evaluation.results import Evaluation, ProblemResult, _check_evaluation, _check_evaluations

METRICS = ("pass", "coverage", "family_coverage", "zero_contrast", "success")


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
        raise UserError(f"metric must be one of {', '.join(METRICS)}, got {shown(metric)}{suggest(name, METRICS)}")
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
