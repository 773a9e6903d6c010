"""Grids in a study's file: one entry that stands for many.

    psn-{sigma}:
      label: "PSN, sigma {sigma}"
      changes: {relative: true, targets: head}
      each: {changes.sigma: [0.2, 0.4, 0.8]}

``each`` names places in the entry and the values laid in there; every combination makes an entry. In its name and in
its texts {sigma} stands for the value of the place whose last part is sigma.
"""

import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from psn_tutorial.errors import UserError, shown

EACH = "each"


def expanded(entries: Any, where: str) -> dict[str, Any]:
    """All entries, those with ``each`` multiplied. Raises UserError, starting with ``where``, for a wrong one."""
    if not isinstance(entries, Mapping):
        raise UserError(f"{where}: expected an object with an entry for each name, got {shown(entries)}")
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        if not isinstance(name, str):  # YAML reads 1 and yes as something else
            raise UserError(f"{where}: a name must be a text, got {shown(name)}")
        if not isinstance(entry, Mapping):
            raise UserError(f"{where}, {name}: expected an object, got {shown(entry)}")
        for one, fields in _multiplied(name, entry, f"{where}, {name}"):
            if one in found:
                raise UserError(f"{where}: there are two entries {one}: name what differs, such as {name}-{{field}}")
            found[one] = fields
    return found


def _multiplied(name: str, entry: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    each, rest = entry.get(EACH, {}), {key: value for key, value in entry.items() if key != EACH}
    if not isinstance(each, Mapping) or any(not isinstance(v, list) or not v for v in each.values()):
        raise UserError(f"{where}: each must hold a list of values for each place, got {shown(each)}")
    made = []
    for values in product(*each.values()):
        places = dict(zip(each, values, strict=True))
        texts = {str(place).rpartition(".")[2]: value for place, value in places.items()}
        fields = rest
        for place, value in places.items():
            fields = _laid(fields, str(place).split("."), value, where)
        made.append((_filled(name, texts), _filled(fields, texts)))
    return made


def _laid(fields: Any, path: list[str], value: Any, where: str) -> dict[str, Any]:
    """``fields`` with ``value`` at ``path``."""
    if not isinstance(fields, Mapping):
        raise UserError(f"{where}: each names {path[0]} inside {shown(fields)}, which is no object")
    inner = value if len(path) == 1 else _laid(fields.get(path[0], {}), path[1:], value, where)
    return {**fields, path[0]: inner}


def _filled(value: Any, texts: Mapping[str, Any]) -> Any:
    """``value`` with {name} replaced in every text by what it stands for; other braces are left alone."""
    if isinstance(value, str):
        return re.sub(r"{(\w+)}", lambda found: str(texts.get(found[1], found[0])), value)
    if isinstance(value, Mapping):
        return {key: _filled(item, texts) for key, item in value.items()}
    return [_filled(item, texts) for item in value] if isinstance(value, list) else value
