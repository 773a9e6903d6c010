"""A slider over pictures or tables: moved in a live notebook, and a few of its settings side by side everywhere.

A stored notebook, a page of documentation or a notebook without ipywidgets (the extra ``notebooks``) shows the settings
side by side and no slider; a kernel shows both.
"""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import HTML, display, publish_display_data
from matplotlib.axes import Axes

from psn_tutorial.reporting.plotting import STYLE
from psn_tutorial.teaching.cells import show

WIDGET = "application/vnd.jupyter.widget-view+json"
Draw = Callable[[Axes, float], Mapping[str, Any]]  # draws one setting, returns the numbers that it drew


class Slider(NamedTuple):
    """The widgets of a slider: the handle, what it moves, and the box around both."""

    handle: Any
    view: Any
    box: Any


def slide_figure(name: str, values: Sequence[float], draw: Draw, still: Sequence[float], size: float = 3.2) -> None:
    """Show what ``draw`` makes of the settings ``still``, side by side, and below it a slider over all ``values``.

    name: of the setting, as the slider is called. size: height of a picture in inches.
    """
    with plt.rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9.5}):
        figure, panels = plt.subplots(
            1, len(still), figsize=(3.3 * len(still), size), sharey=True, squeeze=False, layout="constrained"
        )
        numbers = {f"{name} {value:g}": draw(axes, value) for axes, value in zip(panels[0], still, strict=True)}
        for axes in panels[0][1:]:
            axes.set_ylabel("")
    show(figure, numbers, columns=8)

    def png(value: float) -> bytes:
        with plt.rc_context(STYLE):
            figure, axes = plt.subplots(figsize=(6.5, size + 0.4), layout="constrained")
            draw(axes, value)
            buffer = BytesIO()
            figure.savefig(buffer, format="png", dpi=100)
            plt.close(figure)
        return buffer.getvalue()

    _publish(name, values, still[len(still) // 2], png)


def slide_html(name: str, values: Sequence[float], table: Callable[[float], Any], still: Sequence[float]) -> None:
    """The same for tables: ``table(value)`` shows itself in HTML and as text."""
    for value in still:
        made = table(value)
        display({"text/html": made._repr_html_(), "text/plain": str(made)}, raw=True)
    _publish(name, values, still[len(still) // 2], lambda value: table(value)._repr_html_())


def slider(name: str, values: Sequence[float], start: float, view: Callable[[float], bytes | str]) -> Slider | None:
    """The widgets, at ``start``; None where ipywidgets is not installed. Bytes are a PNG, text is HTML.

    Each setting is drawn when it is first wanted, and kept.
    """
    try:
        import ipywidgets  # of the extra "notebooks": a picture without it is still a picture
    except ImportError:
        return None
    kept: dict[float, bytes | str] = {start: view(start)}
    shown = ipywidgets.Image(format="png") if isinstance(kept[start], bytes) else ipywidgets.HTML()
    shown.value = kept[start]
    options = [(f"{value:g}", value) for value in values]
    layout = {"width": "min(40em, 95%)"}
    handle = ipywidgets.SelectionSlider(
        options=options, value=start, description=name, style={"description_width": "initial"}, layout=layout
    )

    def move(change: Mapping[str, Any]) -> None:
        if change["new"] not in kept:
            kept[change["new"]] = view(change["new"])
        shown.value = kept[change["new"]]

    handle.observe(move, names="value")
    return Slider(handle, shown, ipywidgets.VBox([handle, shown]))


def _publish(name: str, values: Sequence[float], start: float, view: Callable[[float], bytes | str]) -> None:
    """Show the slider where there is a kernel; nothing but the widget, so that a stored notebook can leave it out."""
    if not hasattr(get_ipython(), "kernel"):
        return
    if made := slider(name, values, start, view):
        publish_display_data({WIDGET: {"version_major": 2, "version_minor": 0, "model_id": made.box.model_id}})
    else:
        display(HTML("<p>With <code>pip install ipywidgets</code> a slider appears here.</p>"))
