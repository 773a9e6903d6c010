"""What all figures share: colours, matplotlib's settings, and the check that there is something to draw."""

import re
from collections.abc import Iterable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from psn_tutorial.errors import UserError

Drawn = tuple[Figure, dict[str, Any]]

# Okabe and Ito (2008), whose colours differ for colour-blind readers too, without yellow: it is faint on white.
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

# A notebook's backend switches interactive drawing on when it is loaded. Loaded inside rc_context, as the first figure
# would, that switch is undone at the end of the context, and the next figures are not shown.
plt.switch_backend(matplotlib.get_backend())


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


def check_not_empty(name: str, data: Any) -> None:
    """Raise UserError when there is nothing to draw."""
    if not data:
        raise UserError(f"{name} must not be empty: there is nothing to draw")
