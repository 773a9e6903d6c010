"""Docstrings of the house as reStructuredText, before Sphinx reads them.

They are plain text with three conventions: code in a line stands in double backticks, code on lines of its own is
indented between blank lines, and lines "name: what it is", continued with an indent, tell fields or arguments.
"""

import re
from itertools import groupby
from typing import Any

from sphinx.application import Sphinx

KEPT = re.compile(r"(``.+?``|:[\w:]+:`[^`]+`|`[^`]+`)", re.S)  # code and references
ITEM = re.compile(r'["\w*][^:.;]{0,80}: \S')


def escape(text: str) -> str:
    """``text`` without accidental markup: asterisks, bars, at signs and closing underscores stay themselves."""
    parts = KEPT.split(text)
    parts[::2] = [re.sub(r"[*|@\\]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def indented(block: str) -> bool:
    return all(line.startswith("    ") for line in block.split("\n"))


def prose(block: str) -> str:
    """A paragraph; its lines "name: what it is" become the entries of a list."""
    lines = escape(block).split("\n")
    if len(lines) > 1 and ITEM.match(lines[0]) and all(ITEM.match(line) or line.startswith(" ") for line in lines):
        lines = [f"* {line}" if ITEM.match(line) else f"  {line.strip()}" for line in lines]
    return "\n".join(lines)


def restructure(text: str) -> str:
    """A docstring as reStructuredText."""
    parts = []
    for code, group in groupby(re.split(r"\n\s*\n", text.strip("\n")), indented):
        blocks = list(group)
        parts += ["::", *blocks] if code else map(prose, blocks)
    return "\n\n".join(parts)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to autodoc, before the extension that reads the sections of docstrings (Attributes, Args)."""

    def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        lines[:] = [*restructure("\n".join(lines)).split("\n"), ""]

    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
