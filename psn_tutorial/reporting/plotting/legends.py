"""What a figure calls its lines, and in which colours: one name and one colour per arm, in every figure."""

from collections.abc import Iterator, Mapping

from matplotlib.artist import Artist
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from psn_tutorial.reporting.plotting.style import ARMS, BLACK, GREY, arm_of

NEUTRAL = (BLACK, GREY)  # whatever has these is a reference line or a remark
COLOURS_OF_ARMS = {colour: arm for arm, colour in ARMS.items() if colour not in NEUTRAL}


def legend_of(figure: Figure) -> dict[str, str]:
    """Every label of a figure with its colour as "#RRGGBB": entries of legends, and names written in a colour.

    Of an entry whose artist has several colours the first one counts.
    """
    found = {}
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True) if legend else ():
            found[text.get_text()] = _colour(handle)
    for axes in figure.axes:
        for text in axes.texts:
            found.setdefault(text.get_text(), to_hex(text.get_color()).upper())
    return found


def legend_faults(legend: Mapping[str, str]) -> Iterator[str]:
    """What breaks the rule in a legend (label -> colour), a sentence each.

    A label that names an arm has the arm's colour, the first one of each arm at least; what names no arm has none of
    these colours, unless arms stand beside it (it is then a variant that was given the next free colour).
    """
    arms = {label: arm for label in legend if (arm := arm_of(label))}
    for arm in dict.fromkeys(arms.values()):
        own = {label: legend[label].upper() for label in arms if arms[label] == arm}
        if ARMS[arm] not in own.values():
            labels, got = ", ".join(map(repr, own)), ", ".join(own.values())
            yield f"{labels} must have the colour of {arm}, {ARMS[arm]}, got {got}"
    for label, colour in legend.items():
        owner = COLOURS_OF_ARMS.get(colour.upper())
        if owner and not arms:
            yield f"{label!r} is no arm and must not have the colour of {owner}, {colour}"
        elif owner and owner != arms.get(label) and owner in arms.values():
            yield f"{label!r} must not have the colour of {owner}, which is in the figure"


def _colour(handle: Artist) -> str:
    """Of a line, of a patch, of a scatter."""
    for name in ("get_color", "get_facecolor"):
        if hasattr(handle, name):
            colour = getattr(handle, name)()
            many = not isinstance(colour, str | tuple) and getattr(colour, "ndim", 1) == 2
            return to_hex(colour[0] if many else colour).upper()
    return BLACK
