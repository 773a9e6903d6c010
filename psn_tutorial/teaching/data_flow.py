"""The way of the data through one step of the method, as a picture in which the part at hand is marked."""

import re
from dataclasses import dataclass
from importlib.resources import files

from psn_tutorial.errors import check_choice

PICTURE = files("psn_tutorial.teaching") / "data_flow.svg"
PART = re.compile(r'<g id="(\w+)" class="part">.*?<text class="name"[^>]*>([^<]+)<')
PARTS = dict(PART.findall(PICTURE.read_text(encoding="utf-8")))  # id -> the name in the picture


@dataclass(frozen=True)
class DataFlow:
    """What :func:`data_flow` returns; it shows itself in a notebook."""

    part: str | None

    def __str__(self) -> str:
        return "One step of PSN-GRPO" + (f": here the {PARTS[self.part]}" if self.part else "")

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        svg = PICTURE.read_text(encoding="utf-8").replace("One step of PSN-GRPO<", f"{self}<")
        return svg.replace(f'id="{self.part}" class="part"', f'id="{self.part}" class="part here"')


def data_flow(part: str | None = None) -> DataFlow:
    """One step of PSN-GRPO, with a thick frame around a part; for the last line of a cell.

    part: one of PARTS ("problems", "prompts", "rollouts", "noise", "verifier", "advantages", "logps", "weights",
        "loss", "optimiser", "signals", "scheduler"); None marks none.

    Raises UserError: there is no such part.
    """
    if part is not None:
        check_choice("part", part, PARTS)
    return DataFlow(part)
