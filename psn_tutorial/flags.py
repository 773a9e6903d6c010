"""Command lines: a parser whose errors are sentences, and flags sorted under headings."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from psn_tutorial.errors import UserError, suggest
from psn_tutorial.settings import add_flags

NAME = "psn-tutorial"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors: one sentence, with a suggestion."""

    def __init__(self, prog: str, description: str, epilog: str = "", words: str = ""):
        super().__init__(
            prog=prog, usage=f"{prog} {words}[--flag VALUE ...]".replace("%", "%%"),
            description=description, epilog=epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_args(self, words: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        args, unknown = self.parse_known_args(words)
        if unknown:
            flag = unknown[0].split("=")[0]
            known = [name for action in self._actions for name in action.option_strings]
            what = "flag" if flag.startswith("-") else "word"
            raise UserError(
                f"unknown {what} {flag!r}{suggest(flag, known)}; see {self.prog} --help"
            )
        return args


# --- shared ---------------------------------------------------------------------------------------


def add_grouped_flags(
    parser: argparse.ArgumentParser, cls: type, groups: Mapping[str, Sequence[str]]
) -> None:
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
        raise UserError(
            f"--{flag} takes the settings from the folder: leave out --{others[0].replace('_', '-')}"
        )


def whole_number(text: str) -> int:
    """Read a flag's number; argparse prints the sentence."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
