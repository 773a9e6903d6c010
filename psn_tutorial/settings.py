"""Settings: one dataclass, three ways in (Python, JSON, command line), the same sentences out.

A settings class is a plain dataclass whose fields are bool, int, float, str, ``Literal[...]``,
another settings class, ``tuple[X, ...]`` of the simple ones, or any of them ``| None``; and
``dict[str, Any]`` of named values that somebody else checks (a task's difficulty). Its
``__post_init__`` states what is allowed with the ``check_*`` functions below.
``field(metadata={"help": ..., "choices": ...})`` feeds ``--help``; the choices are enforced here,
on the way in from JSON and from the command line.
"""

import argparse
import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from psn_tutorial.errors import UserError, check_choice, shown, suggest

Settings = TypeVar("Settings")

_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}


def option(default: Any, text: str, choices: tuple[Any, ...] | None = None) -> Any:
    """A settings field with its line of ``--help``, and its choices if it has any."""
    return dataclasses.field(
        default=default, metadata={"help": text} | ({"choices": choices} if choices else {})
    )


def from_mapping(
    cls: type[Settings], mapping: Any, where: str, base: Settings | None = None
) -> Settings:
    """Build the settings ``cls`` from a JSON object; absent fields come from ``base``, if given,
    and else from the defaults of ``cls``. The same holds inside nested settings.

    ``where`` names the source ("config.json") and opens every sentence. Raises UserError for an
    unknown, missing or wrongly typed field and for whatever ``cls`` itself refuses.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(
            f"{where}: expected an object with the fields of {cls.__name__}, got {shown(mapping)}"
        )
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
    return {
        field.name: _plain(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.init
    }


def add_flags(
    parser: argparse.ArgumentParser, cls: type, prefix: str = "", defaults: Any = None
) -> None:
    """Give ``parser`` one flag per field: ``learning_rate`` becomes ``--learning-rate``.

    A nested settings class becomes ``--noise-sigma`` and so on; bool gives ``--x`` and ``--no-x``;
    "none" stands for None. A flag that is not given leaves no trace in the namespace, so that
    ``from_flags`` can lay the given ones over a preset. ``defaults``, an instance, is what
    ``--help`` shows.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind, optional = _split_optional(hints[field.name])
        default = _default(field) if defaults is None else getattr(defaults, field.name)
        if dataclasses.is_dataclass(kind):
            nested = default if isinstance(default, kind) else None
            add_flags(parser, kind, f"{prefix}{field.name}.", nested)
        elif field.init:
            _add_flag(parser, prefix + field.name, kind, optional, field.metadata, default)


def from_flags(
    cls: type[Settings], namespace: argparse.Namespace, base: Settings | None = None
) -> Settings:
    """Return ``base`` (or the defaults of ``cls``) with the flags that were given laid over it.

    Raises UserError as ``from_mapping`` does; the sentences open with "command line".
    """
    known = _flag_names(cls)
    given: dict[str, Any] = {}
    for dotted, value in vars(namespace).items():
        if dotted in known:
            *parents, name = dotted.split(".")
            target = given
            for parent in parents:
                target = target.setdefault(parent, {})
            target[name] = value
    return from_mapping(cls, given, "command line", base)


def _prefixed(where: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _split_optional(hint: Any) -> tuple[Any, bool]:
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
    kind, optional = _split_optional(hint)
    if value is None and optional:
        return None
    if dataclasses.is_dataclass(kind):
        base = start if isinstance(start, kind) else None
        return from_mapping(kind, value, f"{where}, {name}", base)
    if typing.get_origin(kind) is Literal:
        _prefixed(where, check_choice, name, value, typing.get_args(kind))
        return value
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
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        wanted = _KINDS[kind] + (" or null" if optional else "")
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


def _add_flag(
    parser: argparse.ArgumentParser,
    dotted: str,
    kind: Any,
    optional: bool,
    metadata: Mapping[str, Any],
    default: Any,
) -> None:
    words = metadata.get("help", "")
    choices = metadata.get("choices", ())
    if typing.get_origin(kind) is Literal:
        choices, kind = typing.get_args(kind), type(typing.get_args(kind)[0])
    if choices:
        words += f" (one of {', '.join(map(str, choices))})"
    if default is dataclasses.MISSING:
        words += " [required]"
    else:
        text = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text = "none" if default is None or default == {} else text
        words += f" [default: {text}]"
    words = words.strip().replace("%", "%%")
    options: dict[str, Any] = {"dest": dotted, "default": argparse.SUPPRESS, "help": words}
    if kind is bool and not optional:
        options["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is dict:
        options |= {"action": _NamedValues, "nargs": "*", "metavar": "NAME=VALUE"}
    else:
        many = typing.get_origin(kind) is tuple
        if many:
            kind, options["nargs"] = typing.get_args(kind)[0], "*"
        options["type"] = _parser_of(kind, optional and not many)
        options["metavar"] = dotted.split(".")[-1].upper()
    parser.add_argument("--" + dotted.replace(".", "-").replace("_", "-"), **options)


class _NamedValues(argparse.Action):
    """``--difficulty steps=4 rare=C`` -> {"steps": 4, "rare": "C"}: JSON values, or else text."""

    def __call__(self, parser, namespace, words, option=None) -> None:
        values: dict[str, Any] = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not equals or name in values:
                text = f"must be NAME=VALUE, once each, got {shown(word)}"
                raise argparse.ArgumentError(self, text)
            try:
                values[name] = json.loads(text, parse_constant=int)  # NaN is none
            except (ValueError, RecursionError):
                values[name] = text
        setattr(namespace, self.dest, values)


def _parser_of(kind: type, optional: bool) -> Any:
    """Return the function that reads one flag's text; argparse prints the sentence it raises."""

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            value = kind(text) if kind is not bool else None
        except ValueError:
            value = None
        if value is None or (kind is float and not math.isfinite(value)):
            wanted = _KINDS[kind] + (" or none" if optional else "")
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {shown(text)}")
        return value

    return read


def _flag_names(cls: type, prefix: str = "") -> set[str]:
    """Return the dotted names of all flags that ``add_flags`` makes for ``cls``."""
    hints = typing.get_type_hints(cls)
    names: set[str] = set()
    for field in dataclasses.fields(cls):
        kind, _ = _split_optional(hints[field.name])
        if dataclasses.is_dataclass(kind):
            names |= _flag_names(kind, f"{prefix}{field.name}.")
        elif field.init:
            names.add(prefix + field.name)
    return names
