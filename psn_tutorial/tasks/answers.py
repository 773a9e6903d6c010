"""What a response gives as its answer: where the answer stands, and how it is written plainly.

Models write the same number in many ways, and math-verify reads some of them. So the text is made plain first, by
tables of characters and words; math-verify then decides. Nothing here knows whether an answer is right.

Every function takes time linear in the length of the text: what a model wrote may be hostile.
"""

import re
from typing import NamedTuple


class Box(NamedTuple):
    """One \\boxed{...} or \\fbox{...}: ``text[start:end]``. content: None where its brace is never closed."""

    content: str | None
    start: int
    end: int


TOKEN = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*|\\.|[{}]", re.DOTALL)
UNBRACED = re.compile(
    r"[-+]?[\d.,/]*\d|[a-zA-Z](?![a-zA-Z])|\\[a-zA-Z]+(?:\s*\{[^{}]*\})*"
)  # as TeX takes it, and "12"


def boxes(text: str) -> list[Box]:
    """All boxes of ``text`` by where they begin. Braces are balanced; \\{ and \\} are no braces."""
    found: dict[int, Box] = {}
    braces: list[
        tuple[int, int]
    ] = []  # of those that are open: where the box begins (-1: none), where its content does
    awaited = -1  # a box has just been named and its brace is to come
    for token in TOKEN.finditer(text):
        here, box = token.start(), token[0].startswith(("\\boxed", "\\fbox"))
        if token[0] == "{":
            braces.append((awaited, token.end()))
        elif token[0] == "}" and braces:
            start, inside = braces.pop()
            if start >= 0:
                found[start] = Box(text[inside:here], start, token.end())
        awaited = -1
        if box and text[token.end() : token.end() + 1] == "{":
            found[here], awaited = Box(None, here, len(text)), here
        elif box and (word := UNBRACED.match(text, token.end())):
            found[here] = Box(word[0], here, word.end())
        elif box and token.end() == len(text):
            found[here] = Box(None, here, token.end())
    return [found[start] for start in sorted(found)]


def last_box(text: str) -> str | None:
    """What the last box of ``text`` that is not empty holds; None if there is none, or it is not complete."""
    for box in reversed(boxes(text)):
        if box.content is None or box.content.strip():
            return box.content
    return None
