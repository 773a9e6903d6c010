"""What several commands print."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psn_tutorial.cli.flags import NAME
from psn_tutorial.errors import UserError


@contextmanager
def resumable(command: str) -> Iterator[None]:
    """Say how to go on, whether the work was stopped in order, at once, or by a full disk."""
    from psn_tutorial.jobs.interrupt import Interrupted

    try:
        yield
    except KeyboardInterrupt as stop:
        how = "stopped and saved" if isinstance(stop, Interrupted) else "stopped at once"
        print(f"{NAME}: {how}; go on with: {command}", file=sys.stderr)
        raise SystemExit(128 + getattr(stop, "number", 2)) from None
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise UserError(f"{error}; when that is mended, go on with: {command}") from None
        raise


def command_line(*words: str | Path) -> str:
    return shlex.join([NAME, *map(str, words)])


def print_summary(results: Any, title: str) -> None:
    from psn_tutorial.evaluation.metrics import summarise
    from psn_tutorial.reporting.tables import summary_table
    from psn_tutorial.reporting.terminal import print_table

    print_table(summary_table(title, summarise([results])))
