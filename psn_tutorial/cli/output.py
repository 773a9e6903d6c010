"""What several commands print."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psn_tutorial.cli.parser import NAME
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.metrics import summarise
from psn_tutorial.evaluation.results import Evaluation
from psn_tutorial.jobs.interrupt import Interrupted
from psn_tutorial.reporting.tables import summary_table
from psn_tutorial.reporting.terminal import print_table


@contextmanager
def resumable(command: str, run: Path | None = None) -> Iterator[None]:
    """Print how to go on with ``command`` when the work inside is stopped, and exit with 128 + the signal's number.

    The error of a full disk says it too, and so does every mistake that leaves the folder ``run``.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        how = "stopped and saved" if isinstance(stop, Interrupted) else "stopped at once"
        print(f"{NAME}: {how}; go on with: {command}", file=sys.stderr)
        raise SystemExit(128 + getattr(stop, "number", 2)) from None
    except UserError as error:
        if run.exists() if run else isinstance(error.__cause__, OSError):
            raise UserError(f"{error}; when that is fixed, go on with: {command}") from None
        raise


def command_line(*words: str | Path) -> str:
    """``psn-tutorial`` with these words, quoted as a shell needs it."""
    return shlex.join([NAME, *map(str, words)])


def folder_part(task: str) -> str:
    """A task in the name of a folder: my_module:MyTask as my_module-MyTask, for no folder of Windows has a colon."""
    return task.replace(":", "-")


def print_summary(results: Evaluation, title: str) -> None:
    """Print the metrics of one evaluation."""
    print_table(summary_table(title, summarise([results])))
