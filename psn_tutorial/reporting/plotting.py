"""One figure per function; each returns (figure, numbers), the numbers being exactly what it drew.

Data come in plain: ``runs`` is {arm: [records of seed 0, records of seed 1, ...]}, a record being
one line of steps.jsonl, and ``summaries`` is {arm: what ``evaluation.summarise`` returned}. Print
``digest(numbers)`` beside a figure: text can be compared, pictures cannot.

Every arm keeps its colour in every figure (Okabe and Ito's palette, told apart by colour-blind
readers too). Nothing here calls ``plt.show``, and any matplotlib backend serves. A notebook shows
the figure at the end of the cell; a script calls ``figure.savefig(...)`` and then ``plt.close``.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter

from psn_tutorial.errors import UserError, check_range
from psn_tutorial.evaluation.intervals import Interval

Records = Sequence[Mapping[str, Any]]
Runs = Mapping[str, Sequence[Records]]
Summaries = Mapping[str, Mapping[str, Interval]]
Drawn = tuple[Figure, dict[str, Any]]

# Okabe and Ito (2008), without their yellow, which fades on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"

# The first pattern found in the arm's name, whatever its capitals, gives its colour.
ARM_COLOURS = (
    (r"no tis|no correction", PURPLE),
    (r"pass@k", GREEN),
    (r"psn|noise", VERMILION),
    (r"base", GREY),
    (r"hot|temperature|\bt ?=", ORANGE),
    (r"grpo", BLUE),
)
SPARE_COLOURS = (GREEN, SKY, PURPLE, BLACK, ORANGE, VERMILION, BLUE, GREY)

STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, VERMILION, GREEN, PURPLE, SKY, BLACK]),
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}
SIZE = (8.0, 5.0)  # inches

# A notebook's backend switches interactive drawing on when it is loaded. Loaded inside rc_context below, as the first
# figure would, that switch is undone on leaving it, and the next figures never show.
plt.switch_backend(matplotlib.get_backend())

WORDS = {
    "reward": "mean reward of the rollouts",
    "solved": "problems with a correct rollout (share)",
    "success": "success probability of the clean policy",
    "zero_contrast": "groups without contrast (share)",
    "sigma": "sigma asked for",
    "sigma_realised": "noise realised (RMS)",
    "noise_to_update": "norm of noise / norm of update",
    "ess": "effective sample size / n, unclamped",
    "clipped_fraction": "weights above the cap (share)",
    "kl_k1": "KL per token (k1, nats)",
    "kl_k3": "KL per token (k3, nats)",
    "entropy": "entropy per token (nats)",
    "self_certainty": "self-certainty per token (nats)",
    "grad_norm": "gradient norm before clipping",
    "tokens": "completion tokens per step",
    "seconds": "seconds per step",
    "coverage": "distinct solutions found (share)",
    "family_coverage": "solution families found (share)",
}
DIAGNOSTICS = ("ess", "clipped_fraction", "kl_k3", "sigma", "noise_to_update", "zero_contrast")


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """One colour per arm: its own by name (ARM_COLOURS), else the next one that is free.

    Of several arms that fit one rule ("psn .1", "psn .2") the first keeps the colour. From the
    ninth arm on colours repeat.
    """
    arms, colours = list(arms), {}
    for arm in arms:
        own = next((c for part, c in ARM_COLOURS if re.search(part, arm, re.IGNORECASE)), None)
        if own and own not in colours.values():
            colours[arm] = own
    spare = [colour for colour in SPARE_COLOURS if colour not in colours.values()]
    others = [arm for arm in arms if arm not in colours]
    for i, arm in enumerate(others):
        colours[arm] = spare[i] if i < len(spare) else SPARE_COLOURS[i % len(SPARE_COLOURS)]
    return {arm: colours[arm] for arm in arms}


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
        axes.set(xlabel="training step", ylabel=WORDS.get(key, key.replace("_", " ")) + smoothed)
        _label_ends(axes, _ends(numbers))
    return figure, numbers


def success_curves(runs: Runs, key: str = "success", floor: float = 1e-6) -> Drawn:
    """Success probability over the steps on a log scale: each seed thin, geometric mean bold.

    Values below ``floor`` are drawn at it, on the line marked "or less"; one dead seed would
    otherwise take the geometric mean to zero. numbers: as ``learning_curves``, the values as
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
            ylabel=f"{WORDS.get(key, key.replace('_', ' '))}, log scale",
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
        _label_ends(axes, _ends(numbers))
    return figure, numbers


def pass_at_k_curves(summaries: Summaries) -> Drawn:
    """pass@k over k, k on a log scale; the intervals are bands.

    numbers: {arm: {"k": [...], "pass": [...], "low": [...], "high": [...]}}.
    Raises UserError when an arm has no pass@k.
    """
    _require(summaries, "summaries")
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
        axes.set(xlabel="k samples per problem", ylabel="pass@k (share of problems solved)")
        axes.set_ylim(0, 1)
        _label_ends(axes, {arm: (n["k"][-1], n["pass"][-1]) for arm, n in numbers.items()})
        _say_level(figure, {arm: list(s.values()) for arm, s in summaries.items()})
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
    _require(arms, "arms")
    numbers: dict[str, Any] = {}
    for arm, path in arms.items():
        _require(path, f"arms[{arm!r}]")
        steps = sorted(path)
        numbers[arm] = {"step": steps}
        for metric in (x, y):
            for step in steps:
                if metric not in path[step]:
                    raise UserError(f"the summary of {arm!r} at step {step} holds no {metric}")
            points = [path[step][metric] for step in steps]
            numbers[arm][metric] = [float(p.value) for p in points]
            numbers[arm] |= {f"{metric} {side}": v for side, v in _bounds(points).items()}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        ends = {}
        for arm, colour in arm_colours(numbers).items():
            n = numbers[arm]
            last = len(n["step"]) - 1
            # Whiskers of the checkpoints on the way stand back, or nothing else could be seen.
            shades = [to_rgba(colour, 0.7 if i == last else 0.15) for i in range(last + 1)]
            axes.vlines(n[x], n[f"{y} low"], n[f"{y} high"], colors=shades, linewidth=1.2)
            axes.hlines(n[y], n[f"{x} low"], n[f"{x} high"], colors=shades, linewidth=1.2)
            axes.plot(n[x], n[y], color=colour, linewidth=1.8)
            sizes = [80 if i == last else 26 for i in range(last + 1)]
            axes.scatter(n[x], n[y], s=sizes, color=colour, edgecolor="white", zorder=3)
            ends[arm] = (n[x][-1], n[y][-1])
        axes.set(xlabel=_in_words(x), ylabel=_in_words(y))
        axes.margins(0.08)
        _label_points(axes, ends)
        intervals = {arm: [s[metric] for s in path.values() for metric in (x, y)] for arm, path in arms.items()}
        _say_level(figure, intervals, "Large marker: last checkpoint. ")
    return figure, numbers


def coverage_bars(summaries: Summaries, metrics: Sequence[str] = ("coverage", "family_coverage")) -> Drawn:
    """One panel per metric, one bar per arm, the interval as a whisker, the figure written out.

    numbers: {metric: {arm: [value, low, high]}}. Raises UserError when a summary lacks a metric.
    """
    _require(summaries, "summaries")
    _require(metrics, "metrics")
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
    arms, colours = list(summaries), arm_colours(summaries)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1,
            len(metrics),
            figsize=(SIZE[0], 1.2 + 0.5 * len(arms)),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, metric in zip(panels[0], metrics, strict=True):
            for place, arm in enumerate(arms):
                value, low, high = numbers[metric][arm]
                axes.barh(place, value, height=0.62, color=colours[arm], alpha=0.75)
                axes.hlines(place, low, high, color="#222222", linewidth=1.4)
                right = value if math.isnan(high) else max(high, value)
                axes.annotate(
                    f"{value:.3f}",
                    (right, place),
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=10,
                    color="#333333",
                )
            axes.set_yticks(range(len(arms)), arms)
            axes.set_title(_in_words(metric), color="#333333")
            axes.grid(False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.25)
            axes.set_xlim(left=0)
        panels[0][0].invert_yaxis()
        _say_level(figure, {arm: [s[m] for m in metrics] for arm, s in summaries.items()})
    return figure, numbers


def noise_diagnostics(runs: Runs, keys: Sequence[str] = DIAGNOSTICS, window: int = 20) -> Drawn:
    """Small multiples over the steps: is the correction alive, and how large is the noise?

    A panel per key that some arm holds in all of its seeds; the other arms have no line in it.
    Beside ``kl_k3`` (>= 0) the signed ``kl_k1`` is dashed. window: as in ``learning_curves``.
    numbers: {key: {arm: as ``learning_curves``}}. Raises UserError when no arm holds any key.
    """
    check_range("window", window, low=1, whole=True)
    _require(runs, "runs")
    held = [key for key in keys if _holders(runs, key)]
    if not held:
        raise UserError(f"no arm holds any of {', '.join(keys)} in all of its seeds")
    colours = arm_colours(runs)
    numbers: dict[str, Any] = {}
    columns = min(3, len(held))
    rows = math.ceil(len(held) / columns)
    with plt.rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9.5}):
        figure, panels = plt.subplots(
            rows,
            columns,
            figsize=(SIZE[0], 0.6 + 2.2 * rows),
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
        for axes in panels.flat[len(held) :]:
            axes.set_visible(False)
        for axes, key in zip(panels.flat, held, strict=False):
            drawn = {key: "-"}
            if key == "kl_k3" and _holders(runs, "kl_k1"):
                drawn["kl_k1"] = (0, (4, 2))
            for name, dashes in drawn.items():
                holders = {arm: runs[arm] for arm in _holders(runs, name)}
                series = _series(holders, name, window)
                numbers[name] = _draw_runs(axes, series, np.mean, colours, dashes, width=1.5)
            both = "KL per token: k3 solid, k1 dashed"
            axes.set_title(both if len(drawn) > 1 else _in_words(key), color="#333333")
            axes.yaxis.set_major_formatter("{x:g}")
        for axes in panels.flat[max(0, len(held) - columns) : len(held)]:
            axes.set_xlabel("training step")
            axes.tick_params(labelbottom=True)
        handles = [plt.Line2D([], [], color=colours[arm], linewidth=2.5) for arm in runs]
        figure.legend(handles, list(runs), loc="outside upper left", ncols=min(4, len(runs)), fontsize=10)
    return figure, numbers


def digest(numbers: Mapping[str, Any], digits: int = 3, columns: int = 10) -> str:
    """The numbers of a figure as a text table, rounded to ``digits`` significant digits and at least one decimal.

    So a float that is not 0 always shows a point or an exponent, and is not taken for a count. Of a list longer than ``columns`` as many entries are shown, evenly spread, the first and the
    last among them. Lists of equal length share their columns. Same numbers, same text.
    """
    check_range("digits", digits, low=1, whole=True)
    check_range("columns", columns, low=2, whole=True)
    _require(numbers, "numbers")
    rows = list(_rows("", numbers, digits, columns))
    width = max(len(name) for name, _ in rows)
    cell = max((len(text) for _, texts in rows for text in texts), default=0)
    lines = [f"{name:<{width}}  " + " ".join(f"{t:>{cell}}" for t in texts) for name, texts in rows]
    return "\n".join(line.rstrip() for line in lines)


def _rows(name: str, value: Any, digits: int, columns: int) -> Iterable[tuple[str, list[str]]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _rows(f"{name}, {key}" if name else str(key), item, digits, columns)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        for i, item in enumerate(value):
            yield from _rows(f"{name} {i}", item, digits, columns)
    else:
        items = list(value) if isinstance(value, list | tuple) else [value]
        if len(items) > columns:
            items = [items[i] for i in np.linspace(0, len(items) - 1, columns).round().astype(int)]
        yield name, [_rounded(item, digits) for item in items]


def _rounded(value: Any, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    text = f"{value:#.{digits}g}" if value else "0"
    large = 1 < abs(value) < 1e6 and (text.endswith(".") or "e" in text)
    return f"{value:.1f}" if large else text


def _require(data: Any, name: str) -> None:
    if not data:
        raise UserError(f"{name} must not be empty: there is nothing to draw")


def _in_words(metric: str) -> str:
    if metric.startswith("pass@"):
        k = metric.removeprefix("pass@")
        return f"{metric} (share of problems solved by {k} sample{'s' * (k != '1')})"
    return WORDS.get(metric, metric.replace("_", " "))


def _bounds(points: Iterable[Interval]) -> dict[str, list[float]]:
    points = list(points)
    return {"low": [float(p.low) for p in points], "high": [float(p.high) for p in points]}


def _holders(runs: Runs, key: str) -> list[str]:
    """The arms whose seeds hold a figure of ``key`` at one step at least that they all have."""
    holders = []
    for arm, seeds in runs.items():
        held = [{r["step"] for r in records if r.get(key) is not None} for records in seeds]
        if held and set.intersection(*held):
            holders.append(arm)
    return holders


def _series(runs: Runs, key: str, window: int) -> dict[str, tuple[list[int], np.ndarray]]:
    """Arm -> (steps, figures [seeds, steps]) at the steps that all of its seeds have."""
    _require(runs, "runs")
    series = {}
    for arm, seeds in runs.items():
        _require(seeds, f"runs[{arm!r}]")
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


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], gap: float = 14.0) -> None:
    """Write each arm's name to the right of its line's end, at least ``gap`` points apart."""
    axes.figure.canvas.draw()
    colours = arm_colours(ends)
    scale = 72 / axes.figure.dpi  # pixels -> points
    right = axes.transAxes.transform((1, 0))[0]
    pixels = {arm: axes.transData.transform(end) for arm, end in ends.items()}
    order = sorted(ends, key=lambda arm: pixels[arm][1])
    places = _spread([pixels[arm][1] * scale for arm in order], gap)
    for arm, place in zip(order, places, strict=True):
        x, y = pixels[arm]
        # The line may end before the axes do: a label always stands at the right margin.
        offset = ((right - x) * scale + 10, place - y * scale)
        leader = {"arrowstyle": "-", "color": colours[arm], "alpha": 0.5, "linewidth": 0.8}
        axes.annotate(
            arm,
            ends[arm],
            offset,
            textcoords="offset points",
            color=colours[arm],
            va="center",
            fontweight="bold",
            fontsize=10,
            annotation_clip=False,
            arrowprops=leader | {"shrinkA": 1, "shrinkB": 2},
        )


def _spread(places: Sequence[float], gap: float) -> list[float]:
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


def _label_points(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write each arm's name to the upper right of its last point, names kept apart."""
    axes.figure.canvas.draw()
    colours, scale = arm_colours(ends), 72 / axes.figure.dpi
    pixels = {arm: axes.transData.transform(end) * scale for arm, end in ends.items()}
    order = sorted(ends, key=lambda arm: pixels[arm][1])
    places = _spread([pixels[arm][1] + 10 for arm in order], 14.0)
    for arm, place in zip(order, places, strict=True):
        axes.annotate(
            arm,
            ends[arm],
            (9, place - pixels[arm][1]),
            textcoords="offset points",
            color=colours[arm],
            va="center",
            fontweight="bold",
            fontsize=10,
            path_effects=[withStroke(linewidth=3, foreground="white")],  # whiskers run below
        )


def _say_level(figure: Figure, intervals: Mapping[str, Sequence[Interval]], first: str = "") -> None:
    """Say under the figure what the bands or whiskers are, and of which arms if they differ."""
    kinds: dict[str, list[str]] = {}
    for arm, points in intervals.items():
        for p in points:
            if not math.isnan(p.low):
                arms = kinds.setdefault(f"{100 * p.level:g} % over {p.n} {p.unit}", [])
                arms += [arm] * (arm not in arms)
    parts = list(kinds)
    if len(kinds) > 1:
        most = max(kinds, key=lambda kind: len(kinds[kind]))
        parts = [f"{k} ({', '.join(a)})" for k, a in kinds.items() if k != most]
        parts.append(f"{most} ({'others' if len(kinds[most]) > 1 else kinds[most][0]})")
    text = first + ("Intervals: " + "; ".join(parts) if parts else "")
    figure.supxlabel(text, x=0.99, ha="right", fontsize=8.5, color="#777777")
