"""Command lines: a parser whose errors are sentences, and flags sorted under headings."""

import argparse
import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

from psn_tutorial.errors import UserError, shown, suggest
from psn_tutorial.settings import _KINDS, Settings, _default, _split_optional, from_mapping

NAME = "psn-tutorial"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors: one sentence, with a suggestion."""

    def __init__(self, prog: str, description: str, epilog: str = "", words: str = ""):
        super().__init__(
            prog=prog,
            usage=f"{prog} {words}[--flag VALUE ...]".replace("%", "%%"),
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_args(self, words: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        args, unknown = self.parse_known_args(words)
        if unknown:
            flag = unknown[0].split("=")[0]
            known = [name for action in self._actions for name in action.option_strings]
            what = "flag" if flag.startswith("-") else "word"
            raise UserError(f"unknown {what} {flag!r}{suggest(flag, known)}; see {self.prog} --help")
        return args


def add_grouped_flags(parser: argparse.ArgumentParser, cls: type, groups: Mapping[str, Sequence[str]]) -> None:
    """``add_flags`` with the flags sorted under headings; what no heading names comes last."""
    made = {title: parser.add_argument_group(title) for title in groups}
    heading = {name: made[title] for title, names in groups.items() for name in names}

    class Sorter:
        def add_argument(self, flag: str, **options: Any) -> None:
            heading.get(options["dest"], parser).add_argument(flag, **options)

    add_flags(Sorter(), cls)  # type: ignore[arg-type]


def only(args: argparse.Namespace, flag: str, *also: str) -> None:
    """Raise UserError when another flag stands beside one that says everything."""
    given = [name for name, value in vars(args).items() if value is not None]
    others = [name for name in given if name not in (flag, *also)]
    if others:
        raise UserError(f"--{flag} takes the settings from the folder: leave out --{others[0].replace('_', '-')}")


def whole_number(text: str) -> int:
    """Read a flag's number; argparse prints the sentence."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


TRAIN_GROUPS = {
    "the task": ("task", "difficulty", "base", "train_file", "seed"),
    "the model": ("lora_rank", "lora_alpha", "four_bit", "compute", "device"),
    "the batch": ("steps", "prompts", "group", "temperature", "updates", "micro_batch", "recompute"),
    "exploration: parameter-space or action-space noise": (
        "sigma",
        "targets",
        "relative",
        "draws",
        "spread",
        "antithetic",
        "carrier",
        "noise_rank",
        "sampling_temperature",
    ),
    "how sigma moves": (
        "schedule",
        "sigma_end",
        "sigma_steps",
        "sigma_shape",
        "kl_target",
        "kl_tolerance",
        "kl_factor",
        "realtime_target",
        "realtime_mix",
        "realtime_factor",
        "similarity_scale",
        "probes",
        "encoder",
        "certainty",
        "sigma_low",
        "sigma_high",
    ),
    "importance correction": ("correction", "correction_mode", "cap", "mixture"),
    "GRPO": (
        "advantage",
        "pass_k",
        "aggregation",
        "clip_low",
        "clip_high",
        "kl_coef",
        "entropy_coef",
        "lr",
        "grad_clip",
    ),
    "evaluation and checkpoints": (
        "evaluate",
        "eval_every",
        "eval_file",
        "eval_problems",
        "samples",
        "batch",
        "save_every",
    ),
}


def add_flags(parser: argparse.ArgumentParser, cls: type, prefix: str = "", defaults: Any = None) -> None:
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


def from_flags(cls: type[Settings], namespace: argparse.Namespace, base: Settings | None = None) -> Settings:
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
