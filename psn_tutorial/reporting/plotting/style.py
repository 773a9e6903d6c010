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

# The arms of this method: one name and one colour each, in every figure. A label may say more than the name
# ("GRPO, sampled at T = 2"); the first pattern found in it, whatever its capitals, says which arm it is.
ARMS = {
    "base": GREY,
    "GRPO": BLUE,
    "GRPO, sampled hotter": ORANGE,
    "GRPO on pass@k": BLACK,
    "PSN-GRPO": VERMILION,  # with token-level TIS, the paper's recipe
    "PSN-GRPO without TIS": PURPLE,
    "PSN-GRPO, sequence TIS": GREEN,
    "PSN-GRPO, sigma in real time": SKY,
}
ARM_PATTERNS = {
    r"(no|none|without)[ -]tis|no correction": "PSN-GRPO without TIS",
    r"sequence[ -]tis": "PSN-GRPO, sequence TIS",
    r"real[ -]?time": "PSN-GRPO, sigma in real time",
    r"on pass@k|pass@k training": "GRPO on pass@k",
    r"psn|noise|token[ -]tis$|^ours$|^constant$": "PSN-GRPO",
    r"\bbase\b": "base",
    r"hot|temperature|\bt ?=": "GRPO, sampled hotter",
    r"grpo": "GRPO",
}
SPARE_COLOURS = (GREEN, SKY, PURPLE, BLACK, ORANGE, VERMILION, BLUE, GREY)

# What is no arm (signs, ranks, encoders, parts of a sum) has colours of its own: ColorBrewer's BrBG and PuOr.
TEAL, BROWN, INDIGO, SAND, AQUA, LILAC = "#01665E", "#8C510A", "#542788", "#DFA64B", "#5AB4AC", "#998EC3"
SERIES = (TEAL, BROWN, INDIGO, SAND, AQUA, LILAC)

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
    "axes.prop_cycle": matplotlib.cycler(color=SERIES),
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


def arm_of(label: str) -> str | None:
    """The arm that a label names, one of ARMS; None where it names none.

    >>> arm_of("GRPO, sampled at T = 2"), arm_of("PSN, none TIS"), arm_of("rank 16")
    ('GRPO, sampled hotter', 'PSN-GRPO without TIS', None)
    """
    return next((arm for part, arm in ARM_PATTERNS.items() if re.search(part, label, re.IGNORECASE)), None)


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """One colour per arm: its own (ARMS), else the next one that is free.

    Of several labels of one arm ("psn .1", "psn .2") the first keeps the colour. From the
    ninth label on colours repeat.
    """
    arms, colours = list(arms), {}
    for label in arms:
        own = ARMS.get(arm_of(label) or "")
        if own and own not in colours.values():
            colours[label] = own
    spare = [colour for colour in SPARE_COLOURS if colour not in colours.values()]
    others = [arm for arm in arms if arm not in colours]
    for i, arm in enumerate(others):
        colours[arm] = spare[i] if i < len(spare) else SPARE_COLOURS[i % len(SPARE_COLOURS)]
    return {arm: colours[arm] for arm in arms}


def check_not_empty(name: str, data: Any) -> None:
    """Raise UserError when there is nothing to draw."""
    if not data:
        raise UserError(f"{name} must not be empty: there is nothing to draw")
