"""Figures of runs over their training steps: learning curves, success on a log scale, diagnostics of the noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from psn_tutorial.errors import UserError, check_range
from psn_tutorial.reporting.plotting.labels import axis_label, label_ends
from psn_tutorial.reporting.plotting.style import SIZE, STYLE, Drawn, arm_colours, check_not_empty

Records = Sequence[Mapping[str, Any]]
Runs = Mapping[str, Sequence[Records]]

DIAGNOSTICS = ("ess", "clipped_fraction", "kl_k3", "sigma", "noise_to_update", "zero_contrast")


def learning_curves(runs: Runs, key: str = "reward", window: int = 1) -> Drawn:
    """``key`` over the steps: each seed thin, their mean bold.

    window: each point is the mean over the last ``window`` records; the line starts where there
        are as many, or at the last record of a shorter run.
    numbers: {arm: {"step": [...], "mean": [...], "seeds": [[...], ...]}}; the steps are those that
        all seeds of the arm have. Raises UserError when a run holds no ``key``.
    """
    check_range("window", window, low=1, whole=True)
    series = _series(runs, key, window)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        numbers = _draw_runs(axes, series, np.mean)
        smoothed = f", mean of {window} steps" if window > 1 else ""
        axes.set(xlabel="training step", ylabel=axis_label(key) + smoothed)
        label_ends(axes, _ends(numbers))
    return figure, numbers


def success_curves(runs: Runs, key: str = "success", floor: float = 1e-6) -> Drawn:
    """Success probability over the steps on a log scale: each seed thin, geometric mean bold.

    Values below ``floor`` are drawn at it, on the line marked "or less": one seed at 0 would make
    the geometric mean 0. numbers: as ``learning_curves``, the values as
    drawn. Raises UserError when a run holds no ``key``, for a floor outside (0, 1) and for values
    outside [0, 1 + 1e-4].
    """
    check_range("floor", floor, above=0, below=1)
    series = _series(runs, key, 1)
    for _, values in series.values():
        if (values < 0).any() or (values > 1 + 1e-4).any():
            raise UserError(f"{key} must be a probability, got {values.min()} to {values.max()}")
    series = {arm: (steps, np.maximum(v, floor)) for arm, (steps, v) in series.items()}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        numbers = _draw_runs(axes, series, lambda values, axis: np.exp(np.log(values).mean(axis)))
        axes.set(
            xlabel="training step",
            ylabel=f"{axis_label(key)}, log scale",
            yscale="log",
            ylim=(floor / 1.6, 1.5),
        )
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.axhline(floor, color="#888888", linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
        axes.annotate(
            f"{floor:g} or less",
            (1, floor),
            (-4, 4),
            color="#777777",
            fontsize=9,
            ha="right",
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
        )
        label_ends(axes, _ends(numbers))
    return figure, numbers


def noise_diagnostics(runs: Runs, keys: Sequence[str] = DIAGNOSTICS, window: int = 20) -> Drawn:
    """Small multiples over the steps: how well the importance weights work, and how large the noise is.

    A panel per key that some arm holds in all of its seeds; the other arms have no line in it.
    Beside ``kl_k3`` (>= 0) the signed ``kl_k1`` is dashed. window: as in ``learning_curves``.
    numbers: {key: {arm: as ``learning_curves``}}. Raises UserError when no arm holds any key.
    """
    check_range("window", window, low=1, whole=True)
    check_not_empty("runs", runs)
    held = [key for key in keys if _holders(runs, key)]
    if not held:
        raise UserError(f"no arm holds any of {', '.join(keys)} in all of its seeds")
    colours = arm_colours(runs)
    numbers: dict[str, Any] = {}
    with plt.rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9.5}):
        figure, panels = _panels(len(held))
        for axes, key in zip(panels, held, strict=True):
            drawn = {key: "-"}
            if key == "kl_k3" and _holders(runs, "kl_k1"):
                drawn["kl_k1"] = (0, (4, 2))
            for name, dashes in drawn.items():
                holders = {arm: runs[arm] for arm in _holders(runs, name)}
                series = _series(holders, name, window)
                numbers[name] = _draw_runs(axes, series, np.mean, colours, dashes, width=1.5)
            both = "KL per token: k3 solid, k1 dashed"
            axes.set_title(both if len(drawn) > 1 else axis_label(key), color="#333333")
            axes.yaxis.set_major_formatter("{x:g}")
        handles = [plt.Line2D([], [], color=colours[arm], linewidth=2.5) for arm in runs]
        figure.legend(handles, list(runs), loc="outside upper left", ncols=min(4, len(runs)), fontsize=10)
    return figure, numbers


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels over the steps, at most three in a row."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    size = (SIZE[0], 0.6 + 2.2 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, count - columns) : count]:  # the lowest of each column
        axes.set_xlabel("training step")
        axes.tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def _holders(runs: Runs, key: str) -> list[str]:
    """The arms whose seeds all hold a figure of ``key`` at the same step, one at least."""
    holders = []
    for arm, seeds in runs.items():
        held = [{r["step"] for r in records if r.get(key) is not None} for records in seeds]
        if held and set.intersection(*held):
            holders.append(arm)
    return holders


def _series(runs: Runs, key: str, window: int) -> dict[str, tuple[list[int], np.ndarray]]:
    """Arm -> (steps, figures [seeds, steps]) at the steps that all of its seeds have."""
    check_not_empty("runs", runs)
    series = {}
    for arm, seeds in runs.items():
        check_not_empty(f"runs[{arm!r}]", seeds)
        curves = []
        for number, records in enumerate(seeds):
            curve = {r["step"]: float(r[key]) for r in records if r.get(key) is not None}
            if not curve:
                raise UserError(f"seed {number} of {arm!r} holds no {key}")
            curves.append(curve)
        steps = sorted(set.intersection(*map(set, curves)))
        if not steps:
            raise UserError(f"the seeds of {arm!r} have no step with {key} in common")
        values = np.array([[curve[step] for step in steps] for curve in curves])
        width = min(window, len(steps))
        series[arm] = steps[width - 1 :], _trailing_mean(values, width)
    return series


def _trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """[seeds, steps] -> means over ``window`` steps each: [seeds, steps - window + 1]."""
    return np.lib.stride_tricks.sliding_window_view(values, window, axis=1).mean(-1)


def _draw_runs(
    axes: Axes,
    series: Mapping[str, tuple[list[int], np.ndarray]],
    mean: Any,
    colours: Mapping[str, str] | None = None,
    dashes: Any = "-",
    width: float = 2.2,
) -> dict[str, Any]:
    """Draw each arm's mean bold over its seeds, thin; returns what was drawn."""
    numbers = {}
    for arm, colour in (colours or arm_colours(series)).items():
        if arm not in series:
            continue
        steps, values = series[arm]
        marker = "o" if len(steps) == 1 else None
        if len(values) > 1:
            for seed in values:
                axes.plot(
                    steps,
                    seed,
                    color=colour,
                    linewidth=0.8,
                    alpha=0.4,
                    linestyle=dashes,
                    marker=marker,
                    markersize=3,
                )
        middle = mean(values, axis=0)
        axes.plot(steps, middle, color=colour, linewidth=width, linestyle=dashes, marker=marker)
        numbers[arm] = {"step": steps, "mean": middle.tolist(), "seeds": values.tolist()}
    return numbers


def _ends(numbers: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {arm: (n["step"][-1], n["mean"][-1]) for arm, n in numbers.items()}
