"""Flags from settings: one for each field of a settings class, and back."""

import argparse
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from psn_tutorial.errors import shown
from psn_tutorial.settings import KINDS, Settings, from_mapping, split_optional
from psn_tutorial.strict_json import parse_json


class Flag(NamedTuple):
    """One field of a settings class. ``name`` is dotted inside nested settings: "model.hidden"."""

    name: str
    kind: Any
    optional: bool
    default: Any
    metadata: Mapping[str, Any]


def flags_of(settings: Any, prefix: str = "") -> Iterator[Flag]:
    """All fields of ``settings``, an instance, with its values as the defaults; nested settings field by field."""
    hints = typing.get_type_hints(type(settings))
    for field in fields(settings):
        name, default = prefix + field.name, getattr(settings, field.name)
        if is_dataclass(default):
            yield from flags_of(default, f"{name}.")
        else:
            yield Flag(name, *split_optional(hints[field.name]), default, field.metadata)


def add_flags(
    parser: argparse.ArgumentParser,
    cls: type[Settings],
    headings: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Give ``parser`` one flag per field of ``cls``: ``learning_rate`` becomes ``--learning-rate``.

    A nested settings class becomes ``--model-hidden`` and so on; bool gives ``--x`` and ``--no-x``; "none" stands for
    None. A flag that is not given leaves no trace in the namespace, so that ``from_flags`` can lay the given ones over
    a preset. headings: heading in ``--help`` -> names of the fields under it; the others stand before all headings.
    """
    groups = {title: parser.add_argument_group(title) for title in headings or {}}
    group_of = {name: groups[title] for title, names in (headings or {}).items() for name in names}
    for flag in flags_of(cls()):
        words = "--" + flag.name.replace(".", "-").replace("_", "-")
        group_of.get(flag.name, parser).add_argument(words, **_options(flag))


def from_flags(cls: type[Settings], args: argparse.Namespace, base: Settings | None = None) -> Settings:
    """Return ``base`` (or the defaults of ``cls``) with the flags that were given laid over it.

    Raises UserError as ``from_mapping`` does; the sentences open with "command line".
    """
    given: dict[str, Any] = {}
    for flag in flags_of(cls()):
        if flag.name in args:
            *parents, name = flag.name.split(".")
            target = given
            for parent in parents:
                target = target.setdefault(parent, {})
            target[name] = getattr(args, flag.name)
    return from_mapping(cls, given, "command line", base)


def reader(kind: type, optional: bool = False) -> Callable[[str], Any]:
    """The function that reads a flag's text as int, float or str; argparse prints the sentence that it raises."""

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        try:
            value = kind(text)
            good = kind is not float or math.isfinite(value)
        except ValueError:
            good = False
        if not good:
            wanted = KINDS[kind] + (" or none" if optional else "")
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {shown(text)}")
        return value

    return read


def _options(flag: Flag) -> dict[str, Any]:
    """What ``add_argument`` needs to know of a flag."""
    words = flag.metadata["help"]
    if choices := flag.metadata.get("choices"):
        words += f" (one of {', '.join(choices)})"
    if known := flag.metadata.get("known"):
        words += f" (one of {', '.join(known)}, or module:name)"
    words += f" [default: {'none' if flag.default in (None, {}) else flag.default}]"
    options = {"dest": flag.name, "default": argparse.SUPPRESS, "help": words.replace("%", "%%")}
    if flag.kind is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(flag.kind) is dict:
        return options | {"action": _NamedValues, "nargs": "*", "metavar": "NAME=VALUE"}
    return options | {"type": reader(flag.kind, flag.optional), "metavar": flag.name.split(".")[-1].upper()}


class _NamedValues(argparse.Action):
    """``--difficulty steps=4 rare=C`` -> {"steps": 4, "rare": "C"}: JSON values, or else text."""

    def __call__(self, parser, namespace, words, option=None) -> None:
        values: dict[str, Any] = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not equals or name in values:
                raise argparse.ArgumentError(self, f"must be NAME=VALUE, once each, got {shown(word)}")
            try:
                values[name] = parse_json(text)
            except (ValueError, RecursionError):
                values[name] = text
        setattr(namespace, self.dest, values)
