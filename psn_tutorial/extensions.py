"""What is defined outside the package and named in a setting as module:name, such as my_tasks:Sorting.

To name something is to run its module: settings and records only check how the name is written, and :func:`imported`
is called where a command needs the thing itself.
"""

import importlib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError, check_choice, shown

NAME = r"[^\W\d]\w*"
NAMED = re.compile(rf"{NAME}(\.{NAME})*:{NAME}")


def is_named(value: Any) -> bool:
    """Is this written as module:name? Imports nothing."""
    return isinstance(value, str) and NAMED.fullmatch(value) is not None


def check_named(field: str, value: Any, known: Iterable[str]) -> None:
    """Raise UserError unless ``value`` is one of the ``known`` names or written as module:name. Imports nothing."""
    if is_named(value):
        return
    if isinstance(value, str) and ":" in value:
        raise UserError(
            f"{field} must be one of {', '.join(known)}, or module:name with the module as Python imports it, "
            f"such as my_module:MyClass, got {shown(value)}"
        )
    check_choice(field, value, known)


def imported(field: str, text: str) -> Any:
    """What ``text``, written as module:name, stands for: in an installed module, or in one of the current folder.

    The current folder is searched last, so that no file in it takes the place of an installed module.

    Raises:
        UserError: there is no such module or no such name in it, or the module fails or exits when it is imported.
    """
    module_name, _, name = text.partition(":")
    if "" not in sys.path:
        sys.path.append("")
    if module_name not in sys.modules:
        importlib.invalidate_caches()  # the file may be new
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module is a program of its own and may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"{field} {text}: there is no module {error.name}, neither installed nor in the current folder"
            ) from None
        raise UserError(f"{field} {text}: the module {module_name} cannot be imported: {_told(error)}") from error
    if not hasattr(module, name):
        where = getattr(module, "__file__", None) or "built into Python"
        raise UserError(f"{field} {text}: the module {module_name} ({where}) has no {name}")
    return getattr(module, name)


@contextmanager
def in_one_sentence(what: str, file: str | None = None) -> Iterator[None]:
    """Tell what somebody else's code inside raises as a UserError that begins with ``what``.

    file: only what is raised in this source file, or in what it calls.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if file is not None and all(Path(frame.filename) != Path(file) for frame in frames):
            raise
        raise UserError(f"{what}: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """An exception in one line: its type, what it says, and where it was raised."""
    words = " ".join(f"{type(error).__name__}: {error}".split())[:200].removesuffix(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    frames = [frame for frame in frames if Path(frame.filename).resolve() != Path(__file__).resolve()]
    return f"{words} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else words
