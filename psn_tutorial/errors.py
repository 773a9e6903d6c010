"""The one exception that a user's mistake raises, and the checks that raise it."""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake that the user can correct, told in one sentence: the field, its value, what is allowed.

    The command line prints the sentence and exits with code 2; it never shows a traceback for it.
    """


def suggest(word: str, allowed: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the allowed word closest to ``word``, or ""."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: Any) -> str:
    """Return ``value`` as Python writes it, cut to one short line for an error sentence."""
    # A ten-megabyte string must not become a ten-megabyte sentence.
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise UserError unless ``value`` is one of ``allowed``."""
    allowed = list(allowed)
    # The types must agree too: True == 1 in Python, and a choice of 1 does not mean "true".
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        words = ", ".join(repr(choice) for choice in allowed)
        hint = suggest(value, [word for word in allowed if isinstance(word, str)])
        raise UserError(f"{name} must be one of {words}, got {shown(value)}{hint}")


def check_range(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Raise UserError unless ``value`` is a finite number with low <= value <= high.

    ``above`` and ``below`` are the same bounds, themselves excluded; ``whole`` asks for an integer.
    """
    kind = numbers.Integral if whole else numbers.Real
    good = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    bounds = [(low, ">="), (above, ">"), (high, "<="), (below, "<")]
    if good:
        good = not any(_outside(value, sign, bound) for bound, sign in bounds if bound is not None)
    if not good:
        words = " and ".join(f"{sign} {bound}" for bound, sign in bounds if bound is not None)
        if isinstance(value, numbers.Real) and words and not whole:
            raise UserError(f"{name} must be {words}, got {shown(value)}")
        kind_words = "a whole number" if whole else "a finite number"
        raise UserError(f"{name} must be {kind_words} {words}".rstrip() + f", got {shown(value)}")


def _outside(value: float, sign: str, bound: float) -> bool:
    return {">=": value < bound, ">": value <= bound, "<=": value > bound, "<": value >= bound}[sign]


def check_positive(name: str, value: Any) -> None:
    """Raise UserError unless ``value`` is a finite number > 0."""
    check_range(name, value, above=0)


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Raise UserError unless ``value`` is an integer >= ``low``."""
    check_range(name, value, low=low, whole=True)
