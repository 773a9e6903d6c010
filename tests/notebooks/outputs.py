"""Outputs of notebooks are compared as words and numbers, not letter by letter. A plugin of the nbval run.

    pytest --nbval -p tests.notebooks.outputs notebooks

Another processor adds up the same floats in another order, and the last digits differ. So a number that is written
with a decimal point or an exponent may differ by ``RELATIVE`` of its size and by one unit in its last printed digit.
Everything else must be equal: words, integers, and how many numbers there are. Runs of blanks count as one blank,
because a number that gets longer moves the columns of its table.
"""

import re
from itertools import zip_longest

from nbval.plugin import IPyNbCell

RELATIVE = 1e-3

# Digits within a word are no number: names (qwen2.5-0.5b), versions (1.2.3), hexadecimal.
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w|\.\d)")


def pieces(text: str) -> tuple[list[str], list[str]]:
    """The words between the numbers of a text, blanks folded, and the numbers as they are written."""
    words = [re.sub(r"[^\S\n]+", " ", part) for part in NUMBER.split(re.sub(r"[^\S\n]+$", "", text, flags=re.M))]
    return words, NUMBER.findall(text)


def unit(number: str) -> float:
    """One in the last printed digit: .01 of 0.25, 1e-07 of 1.5e-06, 1 of 12."""
    digits, _, exponent = number.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


def agree(stored: str, got: str) -> bool:
    """Are two numbers, as they are written, the same up to the tolerance?"""
    if not re.search("[.eE]", stored + got):
        return stored == got
    a, b = float(stored), float(got)
    allowed = RELATIVE * max(abs(a), abs(b)) + min(unit(stored), unit(got))
    return abs(a - b) <= allowed * (1 + 1e-9)  # the decimals of a and b are themselves rounded


def differences(stored: str, got: str) -> list[str]:
    """What differs, a line each; empty if the two texts agree."""
    (words, numbers), (new_words, new_numbers) = pieces(stored), pieces(got)
    if words == new_words:
        pairs = enumerate(zip(numbers, new_numbers, strict=True), 1)
        return [f"number {i}: {a} is stored, the cell printed {b}" for i, (a, b) in pairs if not agree(a, b)]
    lines = zip_longest(stored.splitlines(), got.splitlines())
    pairs = [(a, b) for a, b in lines if a is None or b is None or pieces(a)[0] != pieces(b)[0]]
    return [f"{a!r} is stored, the cell printed {b!r}" for a, b in pairs]


class Output(str):
    """A sanitised output that equals another one up to the tolerance of its numbers."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return not differences(self, other)

    def __ne__(self, other):
        return not self == other


sanitize, explain = IPyNbCell.sanitize, IPyNbCell.format_output_compare


def sanitize_output(cell, value):
    """What nbval compares; values that are no text stay as they are."""
    value = sanitize(cell, value)
    return Output(value) if isinstance(value, str) else value


def explain_output(cell, key, stored, got):
    """List what differs, then the two outputs whole."""
    if isinstance(stored, Output) and isinstance(got, Output):
        cell.comparison_traceback += [f"{key}: {line}" for line in differences(stored, got)]
        stored, got = str(stored), str(got)
    explain(cell, key, stored, got)


IPyNbCell.sanitize, IPyNbCell.format_output_compare = sanitize_output, explain_output
