"""Files of problems: one JSON object on each line."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError


def write_problems(path: str | Path, task: Any, problems: Iterable[Any]) -> None:
    """Write one problem per line, as JSON; the same problems give the same bytes anywhere."""
    lines = [json.dumps(task.to_json(problem)) + "\n" for problem in problems]
    Path(path).write_bytes("".join(lines).encode())


def read_problems(path: str | Path, task: Any) -> list[Any]:
    """Read a file of ``write_problems``.

    Raises UserError naming the file and the number of the first line that is wrong.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if lines[-1] == b"":
        lines.pop()
    problems = []
    for number, line in enumerate(lines, start=1):
        where = f"{path.name} line {number}"
        try:
            fields = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON: {str(error)[:80]}") from error
        problems.append(task.from_json(fields, where))
    if not problems:
        raise UserError(f"{path} holds no problems")
    return problems


DATA = Path(__file__).resolve().parents[2] / "data"


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
