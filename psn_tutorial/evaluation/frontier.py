"""Does an arm find more at EQUAL pass@1? A point against another arm's path of checkpoints.

Training can raise pass@1 and lower pass@256. An arm that only learns more slowly is then earlier on
the same path, with a lower pass@1 and a higher pass@256, and wins in pass@256 at equal steps. So ask
instead: when the other arm, earlier in its training, had this pass@1, what was its pass@256?

The path joins the checkpoints in the order of training by straight lines. Where it has a pass@1
more than once, its best value counts: one could have stopped there. This choice is made after the
fact and favours the other arm a little. Nothing is extrapolated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.intervals import (
    Floats,
    Interval,
    check_same_problems,
    number,
    percentile_interval,
    resampled_means,
    seed_interval,
)
from psn_tutorial.evaluation.metrics import per_problem
from psn_tutorial.evaluation.results import Evaluation


@dataclass(frozen=True)
class FrontierGap:
    """How far a point stands above (+) or below (-) another arm's path.

    difference: point's y minus the path's y at the point's x; None where they do not overlap.
    x, y: the point (mean over seeds). path_low, path_high: the x range of the path (of the seeds'
        paths together).
    inside: share of the resamples (one seed) or of the seeds (several) whose x lies in the range;
        ``difference`` is over these only.
    x_metric, y_metric: what x and y are.
    """

    difference: Interval | None
    x: float
    y: float
    path_low: float
    path_high: float
    inside: float
    x_metric: str
    y_metric: str

    @property
    def verdict(self) -> str:
        """One of "above", "below", "undecided" (0 lies in the interval) and "no overlap"."""
        if self.difference is None:
            return "no overlap"
        return {"higher": "above", "lower": "below"}.get(self.difference.verdict, "undecided")

    @property
    def partly(self) -> str:
        """The end of a sentence, ", from the 67% of seeds that overlap"; "" where all overlap."""
        if self.difference is None or self.inside == 1:
            return ""
        what = "seeds" if self.difference.unit == "seeds" else "resamples"
        return f", from the {self.inside:.0%} of {what} that overlap"

    def to_json(self) -> dict[str, Any]:
        """The fields, and the verdict."""
        return {**vars(self), "difference": self.difference and self.difference.to_json(), "verdict": self.verdict}

    def __str__(self) -> str:
        x, low, high = map(number, (self.x, self.path_low, self.path_high))
        if self.difference is None:
            return (
                f"no overlap: {self.x_metric} {x} lies outside the other arm's {low} to {high}, "
                f"and nothing is extrapolated"
            )
        equal = f"{self.y_metric} at equal {self.x_metric} ({x})"
        return f"{self.verdict}: {equal} differs by {self.difference}{self.partly}"


def frontier(
    points: Sequence[Evaluation],
    paths: Sequence[Sequence[Evaluation]],
    x: str = "pass@1",
    y: str = "pass@256",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> FrontierGap:
    """Compare one arm's checkpoint with another arm's path of checkpoints, at equal ``x``.

    Args:
        points: the checkpoint's evaluation, one per training seed.
        paths: per training seed, the other arm's evaluations in the order of training, at least
            two, the shared base among them or not. One path serves all points.
        x, y: metric names of ``evaluation``.

    One point: paired bootstrap, the same resampled problems for the point and all of the path.
    Several: t interval over the seeds, paired by position.

    Raises UserError for a path of fewer than two checkpoints, numbers of seeds that do not match,
    and evaluations of different problems.
    """
    per_seed = _per_seed(points, paths, x, y)
    means = [figures.mean(-1) for figures in per_seed]  # [2, 1 + checkpoints], the point first
    gaps = _gaps(per_seed)
    if len(points) > 1:
        overlap = np.isfinite(gaps)
        difference = seed_interval(gaps[overlap], level) if overlap.any() else None
        inside = float(overlap.mean())
    else:
        difference, inside = _over_problems(float(gaps[0]), per_seed[0], level, resamples, seed)
    return FrontierGap(
        difference,
        x=float(np.mean([mean[0, 0] for mean in means])),
        y=float(np.mean([mean[1, 0] for mean in means])),
        path_low=float(min(mean[0, 1:].min() for mean in means)),
        path_high=float(max(mean[0, 1:].max() for mean in means)),
        inside=inside,
        x_metric=x,
        y_metric=y,
    )


def frontier_gaps(
    points: Sequence[Evaluation], paths: Sequence[Sequence[Evaluation]], x: str = "pass@1", y: str = "pass@256"
) -> Floats:
    """The gap of each seed, [seeds], whose mean is that of ``frontier``; nan where the seed's path does not overlap."""
    return _gaps(_per_seed(points, paths, x, y))


def _per_seed(points: Sequence[Evaluation], paths: Sequence[Sequence[Evaluation]], x: str, y: str) -> list[Floats]:
    if not points or len(paths) not in (1, len(points)):
        raise UserError(f"frontier needs one path, or one per point, got {len(paths)} for {len(points)} points")
    paths = list(paths) * (len(points) if len(paths) == 1 else 1)
    return [_figures(point, path, x, y) for point, path in zip(points, paths, strict=True)]


def _gaps(per_seed: Sequence[Floats]) -> Floats:
    return np.array([float(_gap(figures.mean(-1)[..., None])[0]) for figures in per_seed])


def _over_problems(
    gap: float, figures: Floats, level: float, resamples: int, seed: int
) -> tuple[Interval | None, float]:
    """The bootstrap interval of one seed's gap, and the share of resamples in which there is a gap."""
    if math.isnan(gap):
        return None, 0.0
    problems = figures.shape[-1]
    if problems == 1:
        return Interval(gap, math.nan, math.nan, level, 1), 1.0
    resampled = _gap(resampled_means(figures, resamples, seed))
    kept = resampled[np.isfinite(resampled)]
    interval = percentile_interval(gap, kept, level, problems) if len(kept) else None
    return interval, len(kept) / len(resampled)


def _figures(point: Evaluation, path: Sequence[Evaluation], x: str, y: str) -> Floats:
    """[2, 1 + checkpoints, problems]: x and y of the point, then of the path's checkpoints."""
    if len(path) < 2:
        raise UserError(f"a path needs at least 2 checkpoints, got {len(path)}")
    rows = []
    for metric in (x, y):
        figures = [per_problem(evaluation, metric) for evaluation in (point, *path)]
        for other in figures[1:]:
            check_same_problems(figures[0], other)
        rows.append([[values[problem] for problem in figures[0]] for values in figures])
    return np.array(rows)


def _gap(means: Floats) -> Floats:
    """Point's y minus the path's best y at the point's x, nan outside: [2, 1 + C, R] -> [R]."""
    (x, path_x), (y, path_y) = ((row[0], row[1:]) for row in means)
    start_x, end_x, start_y, end_y = path_x[:-1], path_x[1:], path_y[:-1], path_y[1:]
    # A point that is itself the path's first or last checkpoint must not lie outside by rounding.
    rounding = 1e-12
    between = (np.minimum(start_x, end_x) - rounding <= x) & (x <= np.maximum(start_x, end_x) + rounding)
    step = end_x - start_x
    share = np.divide(x - start_x, step, out=np.zeros_like(step), where=step != 0)
    # Where two checkpoints have the same x, the better of the two counts.
    level = np.where(step == 0, np.maximum(start_y, end_y), start_y + share * (end_y - start_y))
    best = np.where(between, level, -np.inf).max(0)
    return np.where(np.isneginf(best), np.nan, y - best)
