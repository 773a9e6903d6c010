"""Figures of probes: what samplers bring, over their distance from the policy."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.intervals import Interval
from psn_tutorial.evaluation.probes import Probe, Sampler, figures
from psn_tutorial.reporting.plotting.labels import axis_label, say_level
from psn_tutorial.reporting.plotting.style import GREY, ORANGE, SKY, STYLE, VERMILION, Drawn, check_not_empty

LOOKS = {"weight noise": (VERMILION, "o"), "temperature": (ORANGE, "s"), "top-p": (SKY, "^"), "policy": (GREY, "D")}
SMALLEST_KL = 0.01  # below it the axis is linear, down to 0


def probe_plot(policies: Mapping[str, Sequence[Probe]], k: int = 8) -> Drawn:
    """pass@k over the KL to the policy: a panel for each policy, a point for each sampler, the interval as a whisker.

    Whatever an exploring sampler brings is to be compared with what another one brings at EQUAL KL.
    numbers: {policy: {sampler: [KL, pass@k, low, high]}}.
    Raises UserError when a policy has no probe, or fewer than k answers to a problem.
    """
    check_not_empty("policies", policies)
    points = {policy: _points(policy, probes, k) for policy, probes in policies.items()}
    with plt.rc_context(STYLE):
        size = (4.2 * max(2, len(points)), 4.2)
        figure, panels = plt.subplots(1, len(points), figsize=size, sharey=True, squeeze=False, layout="constrained")
        handles: dict[str, Any] = {}
        for axes, (policy, found) in zip(panels[0], points.items(), strict=True):
            for sampler, kl, value in found:
                handles[_kind(sampler)] = _draw(axes, _kind(sampler), max(kl.value, 0.0), value)
            axes.set_xscale("symlog", linthresh=SMALLEST_KL)
            axes.set_xlim(left=0)
            axes.set(title=policy, xlabel="KL to the policy, nats per token")
        panels[0][0].set_ylim(top=max(0.1, panels[0][0].get_ylim()[1]))  # where nothing is solved, the scale shows it
        panels[0][0].set_ylabel(axis_label(f"pass@{k}"))
        panels[0][0].legend([handles[kind] for kind in LOOKS if kind in handles], [k for k in LOOKS if k in handles])
        say_level(figure, {policy: [value for *_, value in found] for policy, found in points.items()})
    numbers = {
        policy: {str(s): [float(x) for x in (kl.value, v.value, v.low, v.high)] for s, kl, v in found}
        for policy, found in points.items()
    }
    return figure, numbers


def _points(policy: str, probes: Sequence[Probe], k: int) -> list[tuple[Sampler, Interval, Interval]]:
    """(sampler, KL, pass@k) of each probe."""
    check_not_empty(f"policies[{policy!r}]", probes)
    if (fewest := min(probe.answers for probe in probes)) < k:
        raise UserError(f"k must be <= {fewest}, the answers of {policy!r} to a problem, got {k}")
    found = [(probe.sampler, figures(probe, (k,))) for probe in probes]
    return [(sampler, figure["KL"], figure[f"pass@{k}"]) for sampler, figure in found]


def _kind(sampler: Sampler) -> str:
    if sampler.sigma:
        return "weight noise"
    if sampler.top_p < 1:
        return "top-p"
    return "policy" if sampler.temperature == 1 else "temperature"


def _draw(axes: Axes, kind: str, kl: float, value: Interval) -> Any:
    """One point with its whisker; returns the marker."""
    colour, marker = LOOKS[kind]
    axes.vlines(kl, value.low, value.high, color=colour, alpha=0.5, linewidth=1.4)
    if kind == "policy":
        axes.axhline(value.value, color=colour, linewidth=1, linestyle="--")
    return axes.scatter([kl], [value.value], s=42, color=colour, marker=marker, edgecolor="white", zorder=3)
