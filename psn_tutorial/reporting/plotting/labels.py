"""Text in a figure: names of axes, arms named beside their lines, what the intervals are."""

import math
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from psn_tutorial.evaluation.intervals import Interval
from psn_tutorial.evaluation.metrics import METRICS
from psn_tutorial.reporting.plotting.style import arm_colours
from psn_tutorial.runs.steps import FIGURES

NAME = {"textcoords": "offset points", "va": "center", "fontweight": "bold", "fontsize": 10}


def axis_label(name: str) -> str:
    """What a figure of a step record or a metric of an evaluation is called on an axis."""
    if name.startswith("pass@"):
        k = name.removeprefix("pass@")
        return f"{name} (share of problems solved by {k} sample{'s' * (k != '1')})"
    if name in FIGURES:
        return FIGURES[name].label
    return METRICS[name].axis if name in METRICS else name.replace("_", " ")


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write each arm's name at the right margin, with a thin line to the end of its curve."""
    colours = arm_colours(ends)
    for arm, (x, y), height in _heights(axes, ends):
        # A curve may end before the axes do: its name stands at the margin all the same.
        margin = axes.transAxes.transform((1, 0))[0] * 72 / axes.figure.dpi
        line = {"arrowstyle": "-", "alpha": 0.5, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 2, "color": colours[arm]}
        offset = (margin - x + 10, height - y)
        axes.annotate(arm, ends[arm], offset, color=colours[arm], annotation_clip=False, arrowprops=line, **NAME)


def label_points(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write each arm's name to the upper right of its last point."""
    colours = arm_colours(ends)
    outline = [withStroke(linewidth=3, foreground="white")]  # whiskers run below
    for arm, (_, y), height in _heights(axes, ends, above=10):
        axes.annotate(arm, ends[arm], (9, height - y), color=colours[arm], path_effects=outline, **NAME)


def _heights(
    axes: Axes, ends: Mapping[str, tuple[float, float]], above: float = 0.0
) -> Iterator[tuple[str, tuple[float, float], float]]:
    """(arm, place of its end, height of its name), in points; names stand at least 14 points apart.

    above: how much higher than its end a name stands where no other is near.
    """
    axes.figure.canvas.draw()  # the layout decides where the ends are
    places = {arm: axes.transData.transform(end) * 72 / axes.figure.dpi for arm, end in ends.items()}
    order = sorted(ends, key=lambda arm: places[arm][1])
    heights = spread_apart([places[arm][1] + above for arm in order], 14.0)
    return ((arm, tuple(places[arm]), height) for arm, height in zip(order, heights, strict=True))


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """The ascending ``places``, moved as little as needed to stand ``gap`` apart.

    Least squares under order (pool adjacent violators): subtract i * gap, make monotone, add again.
    """
    pools: list[tuple[float, int]] = []
    for i, place in enumerate(places):
        pools.append((place - i * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append(((a * n + b * m) / (n + m), n + m))
    level = [value for value, count in pools for _ in range(count)]
    return [value + i * gap for i, value in enumerate(level)]


def say_level(figure: Figure, intervals: Mapping[str, Sequence[Interval]], first: str = "") -> None:
    """Say under the figure what the bands or whiskers are, and of which arms if they differ."""
    kinds: dict[str, list[str]] = {}
    for arm, points in intervals.items():
        for p in points:
            if not math.isnan(p.low):
                arms = kinds.setdefault(f"{100 * p.level:g} % over {p.n} {p.unit}", [])
                arms += [arm] * (arm not in arms)
    parts = list(kinds)
    if len({tuple(sorted(arms)) for arms in kinds.values()}) == 1:  # every arm has every kind, by the task
        parts = [" or ".join(kinds)]
    elif len(kinds) > 1:
        most = max(kinds, key=lambda kind: len(kinds[kind]))
        parts = [f"{k} ({', '.join(a)})" for k, a in kinds.items() if k != most]
        parts.append(f"{most} ({'others' if len(kinds[most]) > 1 else kinds[most][0]})")
    text = first + ("Intervals: " + "; ".join(parts) if parts else "")
    figure.supxlabel(text, x=0.99, ha="right", fontsize=8.5, color="#777777")
