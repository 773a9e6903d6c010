"""The numbers of a figure as text, for printing beside it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from psn_tutorial.errors import check_range
from psn_tutorial.reporting.plotting.style import check_not_empty


def digest(numbers: Mapping[str, Any], digits: int = 3, columns: int = 10) -> str:
    """The numbers of a figure as a text table, rounded to ``digits`` significant digits and at least one decimal.

    So a float that is not 0 always shows a point or an exponent, and is not taken for a count. Of a list longer than
    ``columns`` as many entries are shown, evenly spread, the first and the last among them. Lists of equal length share
    their columns. Same numbers, same text.
    """
    check_range("digits", digits, low=1, whole=True)
    check_range("columns", columns, low=2, whole=True)
    check_not_empty("numbers", numbers)
    rows = list(_rows("", numbers, digits, columns))
    width = max(len(name) for name, _ in rows)
    cell = max((len(text) for _, texts in rows for text in texts), default=0)
    lines = [f"{name:<{width}}  " + " ".join(f"{t:>{cell}}" for t in texts) for name, texts in rows]
    return "\n".join(line.rstrip() for line in lines)


def _rows(name: str, value: Any, digits: int, columns: int) -> Iterable[tuple[str, list[str]]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _rows(f"{name}, {key}" if name else str(key), item, digits, columns)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        for i, item in enumerate(value):
            yield from _rows(f"{name} {i}", item, digits, columns)
    else:
        items = list(value) if isinstance(value, list | tuple) else [value]
        if len(items) > columns:
            items = [items[i] for i in np.linspace(0, len(items) - 1, columns).round().astype(int)]
        yield name, [_rounded(item, digits) for item in items]


def _rounded(value: Any, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    text = f"{value:#.{digits}g}".replace(".e", "e") if value else "0"
    large = 1 < abs(value) < 1e6 and (text.endswith(".") or "e" in text)
    return f"{value:.1f}" if large else text
