"""The command psn-tutorial: from the words of a command line to an exit code.

0: done; 1: doctor or preflight found something to correct; 2: a mistake of the user, told in one sentence on the error
output; 130 (or 128 + the signal's number): stopped, after a sentence that says how to go on; 141: the reader of the
output has gone.
"""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from psn_tutorial import __version__
from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.errors import UserError, suggest
from psn_tutorial.jobs.malloc import keep_freed_memory

# command -> what it does; psn_tutorial.cli.<command> holds its run(words), imported when it is asked for
COMMANDS = {
    "pretrain": "make a base policy from its seed",
    "preflight": "look closely at two steps before many",
    "train": "train a policy with GRPO or PSN-GRPO",
    "evaluate": "pass@k, coverage and exact success of a policy",
    "probe": "what noise does to a policy, without training",
    "compare": "train all arms of an experiment, compare, report",
    "study": "many experiments in parallel, tuned and judged together",
    "report": "write the page of a comparison or a study again",
    "notebooks": "lay the notebooks into a folder, to run them there",
    "doctor": "what this machine can run, and what to do next",
}
HELP = f"""Parameter-space noise for reinforcement learning with verifiable rewards (PSN-GRPO).

commands:
{"".join(f"  {name:<10}{text}{chr(10)}" for name, text in COMMANDS.items())}
where to begin:
  {NAME} doctor                                       can this machine run it?
  {NAME} compare --preset demo --out runs/demo        GRPO against PSN-GRPO, in minutes
  {NAME} train --help                                 all settings of a training run"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code and never raises for a user's mistake."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        if any("\0" in word for word in words):  # from Python alone; no name of a file may hold one
            raise UserError("no word of a command line may hold a null character")
        with warnings.catch_warnings():
            _say_warnings_in_one_line()
            code = _dispatch(words)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _complain(str(error))
    except SystemExit as leave:  # --help, --version, and a job that was stopped
        return int(leave.code or 0)
    except BrokenPipeError:
        # The reader (head, less) has gone; without this, Python reports the broken pipe once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        return _complain("out of memory; a smaller --micro-batch or --samples needs less")
    except KeyboardInterrupt:
        print(f"{NAME}: stopped", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    parser = Parser(NAME, HELP, words="COMMAND ")
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    if words and words[0] in COMMANDS:
        keep_freed_memory()
        return import_module(f"psn_tutorial.cli.{words[0]}").run(words[1:])
    if words and not words[0].startswith("-"):
        allowed = ", ".join(COMMANDS)
        raise UserError(f"the command must be one of {allowed}, got {words[0]!r}{suggest(words[0], COMMANDS)}")
    parser.parse_args(words or ["--help"])
    return 0


def _complain(sentence: str) -> int:
    print(f"{NAME}: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def _say_warnings_in_one_line() -> None:
    """Print our own warnings as sentences, and none of the libraries', which are meant for programmers."""
    warnings.simplefilter("always")

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        if type(message).__module__.startswith("psn_tutorial"):
            print(f"{NAME}: {message}", file=sys.stderr)

    warnings.showwarning = show
