"""What the cells of a notebook need and do not teach: a quiet start, figures with their numbers, claims that hold.

>>> confirm("two is even", 2 % 2 == 0)
✓ two is even
"""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from matplotlib.figure import Figure
from transformers.utils import logging

from psn_tutorial.jobs.malloc import keep_freed_memory
from psn_tutorial.reporting.plotting import STYLE, digest
from psn_tutorial.reporting.plotting.legends import legend_of
from psn_tutorial.teaching.folded import Folded


def start() -> None:
    """Make this notebook repeatable and quiet; the first thing it calls.

    One thread, so that the same sums are made in the same order (tiny models gain little from more); freed memory is
    kept, because a small model would fetch it back at every step; no progress bars of loading; the library's style for
    figures.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.disable_progress_bar()
    plt.rcParams.update(STYLE)


def show(figure: Figure, numbers: Mapping[str, Any], digits: int = 3, columns: int = 10) -> None:
    """Show a figure, and folded away below it the numbers that it draws; then close it.

    Tests compare the numbers, and not the picture; the cell keeps the legend in its metadata, where a test finds the
    colours. digits, columns: as in ``digest``.
    """
    display(figure, metadata={"legend": legend_of(figure)})
    plt.close(figure)
    display(Folded("The numbers in this figure", digest(numbers, digits, columns)))


def confirm(claim: str, condition: Any) -> None:
    """Print a claim that holds. Raises AssertionError, with the claim, when it does not."""
    if not condition:
        raise AssertionError(f"this does not hold here: {claim}")
    print(f"✓ {claim}")
