"""One figure per function; each returns (figure, numbers), the numbers being exactly what it drew.

``steps`` draws the records of runs over their training steps: ``runs`` is {arm: [records of seed 0,
records of seed 1, ...]}, a record being one line of steps.jsonl. ``metrics`` draws evaluations:
``summaries`` is {arm: what ``evaluation.summarise`` returned}. Print ``digest(numbers)`` beside a
figure: a test can compare text, and not pictures.

Every arm has the same colour in every figure. Nothing here calls ``plt.show``, and any matplotlib
backend will do. A notebook shows the figure at the end of the cell; a script calls
``figure.savefig(...)`` and then ``plt.close``.
"""

from psn_tutorial.reporting.plotting.digests import digest
from psn_tutorial.reporting.plotting.metrics import coverage_bars, frontier_plot, pass_at_k_curves
from psn_tutorial.reporting.plotting.probes import probe_plot
from psn_tutorial.reporting.plotting.steps import DIAGNOSTICS, learning_curves, noise_diagnostics, success_curves
from psn_tutorial.reporting.plotting.studies import knob_plot, map_plot, seeds_plot
from psn_tutorial.reporting.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    Drawn,
    arm_colours,
)

__all__ = [
    "BLACK",
    "BLUE",
    "DIAGNOSTICS",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "STYLE",
    "VERMILION",
    "Drawn",
    "arm_colours",
    "coverage_bars",
    "digest",
    "frontier_plot",
    "knob_plot",
    "map_plot",
    "learning_curves",
    "noise_diagnostics",
    "pass_at_k_curves",
    "probe_plot",
    "seeds_plot",
    "success_curves",
]
