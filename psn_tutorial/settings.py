"""Settings: one dataclass, made in Python, from JSON or from flags; the same error sentences in all three.

A settings class is a plain dataclass whose fields are bool, int, float, str, another settings class,
``tuple[X, ...]`` of the simple types, or one of them ``| None``; or ``dict[str, Any]``: named values that are checked
elsewhere (a task's difficulty). Its ``__post_init__`` checks with the ``check_*`` functions of
:mod:`psn_tutorial.errors`. ``option`` gives a field its line of ``--help`` and its choices, which ``from_mapping``
checks. :mod:`psn_tutorial.cli.flags` makes the flags.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from psn_tutorial.errors import UserError, check_choice, shown, suggest

Settings = TypeVar("Settings")

KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}


def option(default: Any, text: str, choices: Collection[Any] | None = None, known: Iterable[str] | None = None) -> Any:
    """A settings field with its line of ``--help``, and its choices if it has any.

    known: names that ``--help`` lists beside module:name (:mod:`psn_tutorial.extensions`); ``__post_init__`` checks.
    """
    metadata = {"help": text, "choices": choices, "known": known}
    return dataclasses.field(default=default, metadata={k: v for k, v in metadata.items() if v is not None})


def from_mapping(cls: type[Settings], mapping: Any, where: str, base: Settings | None = None) -> Settings:
    """Build the settings ``cls`` from a JSON object; absent fields come from ``base``, if given,
    and else from the defaults of ``cls``. The same holds inside nested settings.

    ``where`` names the source ("config.json") and opens every sentence. Raises UserError for an
    unknown, missing or wrongly typed field and for whatever ``cls`` itself refuses.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: expected an object with the fields of {cls.__name__}, got {shown(mapping)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in mapping:
        if name not in fields:
            hint = suggest(name, fields)
            allowed = f"; allowed are {', '.join(fields)}"
            raise UserError(f"{where}: unknown field {shown(name)}{hint}{allowed}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        start = _default(field) if base is None else getattr(base, name)
        if name in mapping:
            values[name] = _typed(name, mapping[name], hints[name], where, start)
            if "choices" in field.metadata and values[name] is not None:
                _prefixed(where, check_choice, name, values[name], field.metadata["choices"])
        elif start is not dataclasses.MISSING:
            values[name] = start
        else:
            raise UserError(f"{where}: the field {name!r} is missing")
    return _prefixed(where, cls, **values)


def to_mapping(settings: Any) -> dict[str, Any]:
    """Return the JSON object that ``from_mapping`` turns back into equal settings."""
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings) if field.init}


def _prefixed(where: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def split_optional(hint: Any) -> tuple[Any, bool]:
    """``int | None`` -> (int, True); ``int`` -> (int, False)."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        if len(kinds) == 1:
            return kinds[0], True
        raise TypeError(f"settings fields allow one type and None, got {hint}")
    return hint, False


def _typed(name: str, value: Any, hint: Any, where: str, start: Any = None) -> Any:
    """Return ``value`` as the type ``hint`` asks for, or raise UserError.

    ``start`` is the value it replaces: nested settings keep what the new value leaves out.
    """
    kind, optional = split_optional(hint)
    if value is None and optional:
        return None
    if dataclasses.is_dataclass(kind):
        base = start if isinstance(start, kind) else None
        return from_mapping(kind, value, f"{where}, {name}", base)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {name} must be a list, got {shown(value)}")
        item = typing.get_args(kind)[0]
        return tuple(_typed(f"{name}[{i}]", part, item, where) for i, part in enumerate(value))
    if typing.get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {name} must be an object, got {shown(value)}")
        return dict(value)
    if kind is float and type(value) is int:
        value = _prefixed(where, _as_float, name, value)
    # type() and not isinstance(): True is an int to Python, and never a step count to a reader.
    # An empty name of a file would count as none.
    if type(value) is not kind or (kind is float and not math.isfinite(value)) or (optional and value == ""):
        wanted = KINDS[kind] + (" or null" if optional else "")
        raise UserError(f"{where}: {name} must be {wanted}, got {shown(value)}")
    return value


def _as_float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{name} must be a finite number, got an integer too large") from None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
