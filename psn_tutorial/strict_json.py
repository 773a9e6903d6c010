"""JSON as its standard has it: Python's reader takes more, and what it takes is not what was meant."""

import json
import math
from typing import Any


def parse_json(text: str) -> Any:
    """json.loads without NaN and infinities, numbers too large for a float, and a name twice in one object.

    Raises ValueError (json.JSONDecodeError with the place, where there is one) or, nested too deeply, RecursionError.
    """
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_duplicates)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not valid JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands twice in one object")
    return result
