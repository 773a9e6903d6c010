"""Figures of evaluations: pass@k, the path of checkpoints in the plane of two metrics, coverage."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.intervals import Interval
from psn_tutorial.evaluation.metrics import METRICS
from psn_tutorial.reporting.plotting.labels import axis_label, label_ends, label_points, say_level
from psn_tutorial.reporting.plotting.style import SIZE, STYLE, Drawn, arm_colours, check_not_empty

Summaries = Mapping[str, Mapping[str, Interval]]


def pass_at_k_curves(summaries: Summaries) -> Drawn:
    """pass@k over k, k on a log scale; the intervals are bands.

    numbers: {arm: {"k": [...], "pass": [...], "low": [...], "high": [...]}}.
    Raises UserError when an arm has no pass@k.
    """
    check_not_empty("summaries", summaries)
    numbers: dict[str, Any] = {}
    for arm, summary in summaries.items():
        ks = sorted(int(m.removeprefix("pass@")) for m in summary if m.startswith("pass@"))
        if not ks:
            raise UserError(f"the summary of {arm!r} holds no pass@k, only {', '.join(summary)}")
        points = [summary[f"pass@{k}"] for k in ks]
        numbers[arm] = {"k": ks, "pass": [float(p.value) for p in points], **_bounds(points)}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        for arm, colour in arm_colours(numbers).items():
            n = numbers[arm]
            axes.plot(n["k"], n["pass"], color=colour, linewidth=2, marker="o", markersize=4)
            axes.fill_between(n["k"], n["low"], n["high"], color=colour, alpha=0.13, linewidth=0)
        every = sorted({k for n in numbers.values() for k in n["k"]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(every, [str(k) for k in every])
        axes.set(xlabel="k samples per problem", ylabel=METRICS["pass"].axis)
        axes.set_ylim(0, 1)
        label_ends(axes, {arm: (n["k"][-1], n["pass"][-1]) for arm, n in numbers.items()})
        say_level(figure, {arm: list(s.values()) for arm, s in summaries.items()})
    return figure, numbers


def frontier_plot(
    arms: Mapping[str, Mapping[int, Mapping[str, Interval]]],
    x: str = "pass@1",
    y: str = "pass@256",
) -> Drawn:
    """Each arm's path of checkpoints in the plane of two metrics, intervals as whiskers.

    arms: {arm: {training step: summary}}; an arm of one checkpoint is a single point. A path runs
    from its small marker (first step) to its large one (last step). Up and to the right is better;
    an arm is better than another only where its path lies above at EQUAL x.
    numbers: {arm: {"step": [...], x: [...], x + " low": [...], x + " high": [...], the same of y}}.
    Raises UserError when a checkpoint lacks one of the metrics.
    """
    check_not_empty("arms", arms)
    numbers = {arm: _path(arm, path, (x, y)) for arm, path in arms.items()}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        ends = {}
        for arm, colour in arm_colours(numbers).items():
            n = numbers[arm]
            last = [step == n["step"][-1] for step in n["step"]]
            shades = [to_rgba(colour, 0.7 if i else 0.15) for i in last]  # pale before the last: they overlap
            axes.vlines(n[x], n[f"{y} low"], n[f"{y} high"], colors=shades, linewidth=1.2)
            axes.hlines(n[y], n[f"{x} low"], n[f"{x} high"], colors=shades, linewidth=1.2)
            axes.plot(n[x], n[y], color=colour, linewidth=1.8)
            axes.scatter(n[x], n[y], s=[80 if i else 26 for i in last], color=colour, edgecolor="white", zorder=3)
            ends[arm] = (n[x][-1], n[y][-1])
        axes.set(xlabel=axis_label(x), ylabel=axis_label(y))
        axes.margins(0.08)
        label_points(axes, ends)
        intervals = {arm: [s[metric] for s in path.values() for metric in (x, y)] for arm, path in arms.items()}
        say_level(figure, intervals, "Large marker: last checkpoint. ")
    return figure, numbers


def _path(arm: str, path: Mapping[int, Mapping[str, Interval]], metrics: Sequence[str]) -> dict[str, Any]:
    """The numbers of one arm of ``frontier_plot``."""
    check_not_empty(f"arms[{arm!r}]", path)
    steps = sorted(path)
    numbers: dict[str, Any] = {"step": steps}
    for metric in metrics:
        for step in steps:
            if metric not in path[step]:
                raise UserError(f"the summary of {arm!r} at step {step} holds no {metric}")
        points = [path[step][metric] for step in steps]
        numbers[metric] = [float(p.value) for p in points]
        numbers |= {f"{metric} {side}": v for side, v in _bounds(points).items()}
    return numbers


def coverage_bars(summaries: Summaries, metrics: Sequence[str] = ("coverage", "family_coverage")) -> Drawn:
    """One panel per metric, one bar per arm, the interval as a whisker, the figure written out.

    numbers: {metric: {arm: [value, low, high]}}. Raises UserError when a summary lacks a metric.
    """
    check_not_empty("summaries", summaries)
    check_not_empty("metrics", metrics)
    for arm, summary in summaries.items():
        for metric in metrics:
            if metric not in summary:
                raise UserError(f"the summary of {arm!r} holds no {metric}")
    numbers = {
        metric: {
            arm: [float(v) for v in (s[metric].value, s[metric].low, s[metric].high)] for arm, s in summaries.items()
        }
        for metric in metrics
    }
    with plt.rc_context(STYLE):
        size = (SIZE[0], 1.2 + 0.5 * len(summaries))
        figure, panels = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axes, metric in zip(panels[0], metrics, strict=True):
            _bars(axes, numbers[metric])
            axes.set_title(axis_label(metric), color="#333333")
        panels[0][0].invert_yaxis()
        say_level(figure, {arm: [s[m] for m in metrics] for arm, s in summaries.items()})
    return figure, numbers


def _bars(axes: Axes, values: Mapping[str, Sequence[float]]) -> None:
    """Bars of {arm: [value, low, high]}, one below the other."""
    colours = arm_colours(values)
    text = {"textcoords": "offset points", "va": "center", "fontsize": 10, "color": "#333333"}
    for place, (arm, (value, low, high)) in enumerate(values.items()):
        axes.barh(place, value, height=0.62, color=colours[arm], alpha=0.75)
        axes.hlines(place, low, high, color="#222222", linewidth=1.4)
        right = value if math.isnan(high) else max(high, value)
        axes.annotate(f"{value:.3f}", (right, place), (6, 0), **text)
    axes.set_yticks(range(len(values)), list(values))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.25)
    axes.set_xlim(left=0)


def _bounds(points: Iterable[Interval]) -> dict[str, list[float]]:
    points = list(points)
    return {"low": [float(p.low) for p in points], "high": [float(p.high) for p in points]}
