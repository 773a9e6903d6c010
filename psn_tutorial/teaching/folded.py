"""A text that is folded away in a notebook until it is wanted."""

from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Folded:
    """A text under a title: a click unfolds it in a notebook, in a terminal it is the text alone.

    wrap: running text, whose lines are broken where the window ends; else its lines and blanks are kept.
    """

    title: str
    text: str
    wrap: bool = False

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        body = (
            f"<p>{escape(self.text)}</p>" if self.wrap else f'<pre style="overflow-x: auto">{escape(self.text)}</pre>'
        )
        return f"<details><summary>{escape(self.title)}</summary>{body}</details>"
