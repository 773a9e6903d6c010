"""A parser of command lines whose errors are sentences."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from psn_tutorial.errors import UserError, suggest

NAME = "psn-tutorial"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors: one sentence, with a suggestion.

    prog: "psn-tutorial train"; words: what --help shows before the flags, such as "FOLDER ".
    """

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
        for name, value in vars(args).items():
            if value == "":  # of a variable that the shell does not know; it must not count as not given
                raise UserError(f"{name} must not be empty; see {self.prog} --help")
        return args


def only(args: argparse.Namespace, flag: str, *also: str) -> None:
    """Raise UserError when ``flag``, which names a folder with all settings, stands beside others than ``also``."""
    given = [name for name, value in vars(args).items() if value is not None]
    others = [name for name in given if name not in (flag, *also)]
    if others:
        raise UserError(f"--{flag} takes the settings from the folder: leave out --{others[0].replace('_', '-')}")
