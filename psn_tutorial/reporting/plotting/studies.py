"""Figures of a study: every seed of every arm; the arms over a knob of the task, and over many tasks at once."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from psn_tutorial.evaluation.intervals import Interval, seed_interval
from psn_tutorial.evaluation.metrics import in_words
from psn_tutorial.reporting.plotting.labels import axis_label, say_level
from psn_tutorial.reporting.plotting.style import ARMS, GREY, STYLE, TEAL, Drawn, arm_colours, arm_of, check_not_empty

Curves = Mapping[str, Mapping[float, Interval]]
Tasks = Mapping[str, Mapping[str, Interval]]


def seeds_plot(
    arms: Mapping[str, Sequence[float]],
    metric: str = "success",
    verdicts: Mapping[str, str] | None = None,
    base: float | None = None,
) -> Drawn:
    """One row per arm: a dot for each training seed, their mean with its t interval, and what stands for the verdict.

    arms: {label: one figure per seed}, the first on top; verdicts: {label: words to write beside its row};
    base: the figure of the policy that all began with, a dashed line.
    numbers: {label: {"seeds": [...], "mean": [mean, low, high], "verdict": words or None}}.
    Raises UserError when there is no arm, or one without figures.
    """
    check_not_empty("arms", arms)
    means = {label: seed_interval(values) for label, values in arms.items()}
    numbers = {
        label: {
            "seeds": [float(value) for value in values],
            "mean": [float(x) for x in (means[label].value, means[label].low, means[label].high)],
            "verdict": (verdicts or {}).get(label),
        }
        for label, values in arms.items()
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.0, 1.3 + 0.38 * len(arms)), layout="constrained")
        for place, (label, n) in enumerate(numbers.items()):
            _row(axes, place, n["seeds"], n["mean"], ARMS.get(arm_of(label) or "", TEAL))
            if n["verdict"]:
                beside = {"xycoords": axes.get_yaxis_transform(), "va": "center", "fontsize": 9.5, "color": "#333333"}
                axes.annotate(n["verdict"], (1.02, place), annotation_clip=False, **beside)
        if base is not None:
            axes.axvline(base, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.set_yticks(range(len(arms)), list(arms))
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(axis_label(metric))
        first = "Dots: seeds. " + ("Dashed: the base. " if base is not None else "")
        say_level(figure, {label: [mean] for label, mean in means.items()}, first)
    return figure, numbers


def _row(axes: Axes, place: int, seeds: Sequence[float], mean: Sequence[float], colour: str) -> None:
    axes.scatter(seeds, [place] * len(seeds), s=22, color=colour, alpha=0.45, linewidth=0, clip_on=False, zorder=3)
    axes.hlines(place, *mean[1:], color=colour, linewidth=2)
    axes.scatter(mean[0], place, s=48, marker="D", color=colour, edgecolor="white", clip_on=False, zorder=4)


def knob_plot(panels: Mapping[str, Curves], metric: str = "success") -> Drawn:
    """One panel per knob of the task, one curve per arm over the knob's values, intervals as whiskers.

    panels: {name of the knob: {arm: {value of the knob: interval}}}; every knob may have its own arms.
    numbers: {knob: {arm: {"x": [...], "value": [...], "low": [...], "high": [...]}}}.
    Raises UserError when there is no panel, or one without an arm.
    """
    check_not_empty("panels", panels)
    numbers = {}
    for knob, curves in panels.items():
        check_not_empty(f"panels[{knob!r}]", curves)
        numbers[knob] = {arm: _curve(points) for arm, points in curves.items()}
    colours = arm_colours(dict.fromkeys(arm for curves in panels.values() for arm in curves))
    with plt.rc_context(STYLE):
        size = (1.0 + 3.5 * len(panels), 4.0)
        figure, row = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axes, (knob, curves) in zip(row[0], numbers.items(), strict=True):
            for arm, n in curves.items():
                axes.vlines(n["x"], n["low"], n["high"], color=colours[arm], linewidth=1.6, alpha=0.6)
                axes.plot(n["x"], n["value"], color=colours[arm], marker="o", markersize=5, linewidth=1.8, label=arm)
            axes.set_xticks(sorted({x for n in curves.values() for x in n["x"]}))
            axes.set_xlabel(knob)
        row[0][0].set_ylabel(in_words(metric))
        _one_legend(figure, row[0])
        intervals = {arm: list(points.values()) for curves in panels.values() for arm, points in curves.items()}
        say_level(figure, intervals)
    return figure, numbers


def map_plot(groups: Mapping[str, Tasks], metric: str = "success") -> Drawn:
    """One row per task, in groups: in each row a mark for every arm with its interval, the arms below each other.

    groups: {what its tasks differ in: {task: {arm: interval}}}, the first on top.
    numbers: {"group: task": {arm: [value, low, high]}}.
    Raises UserError when there is no group, a group without a task, or a task without an arm.
    """
    check_not_empty("groups", groups)
    for group, tasks in groups.items():
        check_not_empty(f"groups[{group!r}]", tasks)
        for task, arms in tasks.items():
            check_not_empty(f"groups[{group!r}][{task!r}]", arms)
    every = [arms for tasks in groups.values() for arms in tasks.values()]
    colours = arm_colours(dict.fromkeys(arm for arms in every for arm in arms))
    numbers: dict[str, dict[str, list[float]]] = {}
    ticks: dict[float, str] = {}
    with plt.rc_context(STYLE):
        rows = sum(len(tasks) + 1 for tasks in groups.values())
        figure, axes = plt.subplots(figsize=(8.0, 1.5 + 0.36 * rows), layout="constrained")
        place = 0.0
        for group, tasks in groups.items():
            beside = {"xycoords": axes.get_yaxis_transform(), "va": "center", "ha": "left", "fontweight": "bold"}
            axes.annotate(group, (0, place), (6, 0), textcoords="offset points", fontsize=9.5, **beside)
            for task, arms in tasks.items():
                place += 1
                ticks[place] = task
                numbers[f"{group}: {task}"] = {
                    arm: [float(x) for x in (i.value, i.low, i.high)] for arm, i in arms.items()
                }
                _marks(axes, place, numbers[f"{group}: {task}"], colours)
            place += 1.2
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.set_ylim(place - 0.6, -0.7)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(axis_label(metric))
        handles = [plt.Line2D([], [], color=colour, marker="o", linewidth=2) for colour in colours.values()]
        figure.legend(handles, list(colours), loc="outside upper left", ncols=min(4, len(colours)), fontsize=10)
        say_level(figure, {arm: [a[arm] for a in every if arm in a] for arm in colours})
    return figure, numbers


def _marks(axes: Axes, place: float, arms: Mapping[str, Sequence[float]], colours: Mapping[str, str]) -> None:
    """The arms of one row, each a little lower than the one before it."""
    for number, (arm, (value, low, high)) in enumerate(arms.items()):
        height = place + 0.16 * (number - (len(arms) - 1) / 2)
        axes.hlines(height, low, high, color=colours[arm], linewidth=1.6, alpha=0.6)
        axes.scatter(value, height, s=34, color=colours[arm], edgecolor="white", linewidth=0.6, clip_on=False, zorder=3)


def _one_legend(figure: plt.Figure, panels: Sequence[Axes]) -> None:
    """The arms of all panels, each once, above them."""
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=int(figure.get_figwidth() / 2.5))


def _curve(points: Mapping[float, Interval]) -> dict[str, list[float]]:
    xs = sorted(points)
    sides = {side: [float(getattr(points[x], side)) for x in xs] for side in ("value", "low", "high")}
    return {"x": [float(x) for x in xs], **sides}
