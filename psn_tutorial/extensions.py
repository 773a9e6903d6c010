"""What is defined outside the package and named in a setting as module:name, such as my_tasks:Sorting.

To name something is to run its module: settings and records only check how the name is written, and :func:`imported`
is called where a command needs the thing itself.
"""

import functools
import hashlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from psn_tutorial.errors import UserError, check_choice, shown

NAME = r"[^\W\d]\w*"
KINDS = {str: "a text", int: "a whole number"}
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


def tell_faults(cls: type, base: type, returns: Mapping[str, type] | None = None) -> None:
    """Let the methods and properties of ``base`` that ``cls`` defines tell what they raise in a sentence, which names
    class and method; for classes of other packages, from ``__init_subclass__``.

    returns: the type that a method must return, for those where nothing else tells that it is another.
    """
    if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return
    for name, found in list(vars(cls).items()):
        what, kind = f"the method {name} of {cls.__qualname__}", (returns or {}).get(name, object)
        if name.startswith("_") or not hasattr(base, name):
            continue
        if inspect.isfunction(found):
            setattr(cls, name, _telling(found, what, kind))
        elif isinstance(found, property):
            setattr(cls, name, property(_telling(found.fget, what, kind), doc=found.__doc__))


def _telling(method: Callable[..., Any], what: str, kind: type) -> Callable[..., Any]:
    @functools.wraps(method)
    def told(*args: Any, **named: Any) -> Any:
        with in_one_sentence(f"{what} fails"):
            answer = method(*args, **named)
        if not isinstance(answer, kind):
            raise UserError(f"{what} must return {KINDS[kind]}, got {shown(answer)}")
        return answer

    return told


def origins(*named: Any) -> dict[str, dict[str, dict[str, str]]]:
    """{"modules": {module: where it comes from}} of the imported modules of other packages that settings name as
    module:name, or that define the class of a task; {} where there are none. For a record's provenance.

    named: settings, or values of them: texts in mappings and lists of any depth; and objects, for their class.
    """
    modules = {module for value in named for module in _modules_in(value)}
    found = {module: _origin(sys.modules[module]) for module in sorted(modules) if module in sys.modules}
    return {"modules": found} if found else {}


def _modules_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _modules_in(part)
    elif is_named(value):
        yield value.partition(":")[0]
    elif (module := type(value).__module__).partition(".")[0] not in (__name__.partition(".")[0], "builtins"):
        yield module


def _origin(module: ModuleType) -> dict[str, str]:
    """The installed distribution of a module, with its version, and the SHA-256 of its file; what there is of them."""
    from importlib import metadata  # here: importing and searching take a tenth of a second

    origin, file = {}, getattr(module, "__file__", None)
    packages = metadata.packages_distributions().get(module.__name__.partition(".")[0], ())
    if packages:
        origin["distribution"] = ", ".join(f"{name} {metadata.version(name)}" for name in sorted(set(packages)))
    if file and Path(file).is_file():
        origin["sha256"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return origin


def _told(error: BaseException) -> str:
    """An exception in one line: its type, what it says, and where it was raised."""
    words = " ".join(f"{type(error).__name__}: {error}".split())[:200].removesuffix(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    frames = [frame for frame in frames if Path(frame.filename).resolve() != Path(__file__).resolve()]
    return f"{words} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else words
