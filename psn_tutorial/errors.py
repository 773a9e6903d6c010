"""The one exception that a user's mistake raises, and the checks that raise it."""

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
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
    try:
        text = repr(value[:80] if isinstance(value, str) else value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a number of thousands of digits"
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
    good = isinstance(value, kind) and not isinstance(value, bool) and (whole or _finite(value))
    bounds = [(low, ">="), (above, ">"), (high, "<="), (below, "<")]
    if good:
        good = not any(_outside(value, sign, bound) for bound, sign in bounds if bound is not None)
    if not good:
        words = " and ".join(f"{sign} {bound}" for bound, sign in bounds if bound is not None)
        if isinstance(value, numbers.Real) and words and not whole:
            raise UserError(f"{name} must be {words}, got {shown(value)}")
        kind_words = "a whole number" if whole else "a finite number"
        raise UserError(f"{name} must be {kind_words} {words}".rstrip() + f", got {shown(value)}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def _outside(value: float, sign: str, bound: float) -> bool:
    return {">=": value < bound, ">": value <= bound, "<=": value > bound, "<": value >= bound}[sign]


def check_positive(name: str, value: Any) -> None:
    """Raise UserError unless ``value`` is a finite number > 0."""
    check_range(name, value, above=0)


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Raise UserError unless ``value`` is an integer >= ``low``."""
    check_range(name, value, low=low, whole=True)


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """Raise UserError unless ``value`` is an integer of Python with low <= value <= high.

    NumPy's, which ``check_range`` takes, are refused: they overflow, and JSON and ``random.Random`` do not take them.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, int):
        raise UserError(f"{name} must be an integer of Python, got {shown(value)}")
    check_range(name, value, low, high, whole=True)


def check_integers(name: str, values: Any, low: int, high: int) -> None:
    """Raise UserError unless ``values`` is a list or tuple of such integers."""
    if not isinstance(values, list | tuple):
        raise UserError(f"{name} must be a list of whole numbers, got {shown(values)}")
    for i, value in enumerate(values):
        check_integer(f"{name}[{i}]", value, low, high)


def check_seed(value: Any) -> None:
    """Raise UserError unless ``value`` is an integer >= 0: ``random.Random`` takes -1 for 1, and None for the clock."""
    check_integer("seed", value, 0, 2**63 - 1)


def check_fields(where: str, fields: Any, names: Sequence[str]) -> None:
    """Raise UserError unless ``fields`` is a mapping with exactly these names."""
    if not isinstance(fields, Mapping) or set(fields) != set(names):
        got = ", ".join(map(str, fields)) if isinstance(fields, Mapping) else type(fields).__name__
        raise UserError(f"{where} must hold exactly the fields {', '.join(names)}, got {got[:80] or 'none'}")
