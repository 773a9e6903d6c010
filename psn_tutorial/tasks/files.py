"""Files of problems, one JSON object on each line, and rows of data sets on the hub."""

import codecs
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError
from psn_tutorial.strict_json import parse_json

OTHER_KINDS = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip file",
    b"\x1f\x8b": "compressed with gzip",
    codecs.BOM_UTF16_LE: "text in UTF-16",
    codecs.BOM_UTF16_BE: "text in UTF-16",
}


def write_problems(path: str | Path, task: Any, problems: Iterable[Any]) -> None:
    """Write one problem per line, as JSON; the same problems give the same bytes anywhere."""
    lines = [json.dumps(task.to_json(problem)) + "\n" for problem in problems]
    Path(path).write_bytes("".join(lines).encode())


def read_problems(path: str | Path, task: Any) -> list[Any]:
    """The problems of a file: one JSON object on each line, as ``write_problems`` makes it, or one list of them all.

    Blank lines at the end, the line ends of Windows and a byte order mark are passed over.
    Raises UserError naming the file and the number of the first line that is wrong.
    """
    return task.from_rows(_rows(Path(path)))


def _rows(path: Path) -> list[tuple[str, Any]]:
    """What stands in the file, each with where it stands, such as "mine.jsonl line 3"."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name with a null character
        raise UserError(f"{str(path)!r} cannot be read: {error}") from None
    for start, kind in OTHER_KINDS.items():
        if data.startswith(start):
            raise UserError(f"{path} is {kind}: problems stand in a text file in UTF-8, one JSON object on each line")
    data = data.removeprefix(codecs.BOM_UTF8).rstrip()
    if data.lstrip().startswith(b"["):
        rows = [(f"{path.name} item {number}", row) for number, row in enumerate(_parsed(data, path.name), start=1)]
    else:
        lines = enumerate(data.split(b"\n") if data else [], start=1)
        rows = [(f"{path.name} line {number}", _parsed(line, path.name, number)) for number, line in lines]
    if not rows:
        raise UserError(f"{path} holds no problems")
    return rows


def _parsed(data: bytes, name: str, line: int = 1) -> Any:
    """The JSON value that begins at this line of the file."""
    try:
        return parse_json(data.decode("utf-8"))
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        why = f"{error.msg} at character {error.colno}" if data.strip() else "the line is blank"
    except UnicodeDecodeError:
        why = "it is not text in UTF-8"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = str(error)[:80]
    raise UserError(f"{name} line {line} is not JSON: {why} (wanted is one object on each line, or one list of them)")


def hub_rows(name: str, hub: str, subset: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    """The rows of a data set on the hub, which is called ``name`` here. Raises UserError when it cannot be loaded."""
    instead = "or give path=, a file of it with a JSON object on each line"
    try:
        from datasets import load_dataset  # here: it takes seconds to import
    except ImportError:
        raise UserError(f"{name} is on the hub: pip install datasets, {instead}") from None
    try:
        return load_dataset(hub, subset, split=split)
    except Exception as error:  # whatever the network, the hub, the cache and the library have to say
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"cannot load {name} ({hub}, split {split}) from the hub: {why}; {instead}") from error


_PACKAGE = Path(__file__).resolve().parents[1]
# data/ and notebooks/ stand beside the package in a clone, and inside it where a wheel was installed (setup.py)
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent
DATA = SHIPPED / "data"
MANIFEST = "MANIFEST.json"


def shipped_problems(task: Any, split: str, data: Path = DATA) -> list[Any]:
    """The problems in data/<task>/<split>.jsonl. Raises UserError when they are not beside the package."""
    path = data / task.name / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(
            f"the shipped problems {task.name}/{split}.jsonl are not in {data}: install from a "
            f"clone of the repository with `pip install -e .`, or generate problems from a seed"
        )
    return read_problems(path, task)
