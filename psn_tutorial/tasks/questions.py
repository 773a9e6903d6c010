"""A question and its reference answer, read from a row of any of the benchmarks' files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psn_tutorial.errors import UserError

SCIENTIFIC = re.compile(r"^(-?[0-9]+(?:\.[0-9]+)?)[eE]\+?(-?[0-9]+)$")  # in LaTeX the e of 4.5e33 is Euler's number


@dataclass(frozen=True)
class Problem:
    """A question and its reference answer (a number, or LaTeX without dollars); the rest may be empty.

    level: difficulty, 1-5 where the source grades it, else 0.
    """

    question: str
    answer: str
    solution: str = ""
    id: str = ""
    topic: str = ""
    level: int = 0


def read_row(row: Mapping[str, Any], where: str) -> Problem:
    """A problem from a row of any of these sets; the fields it has tell which.

    The question is ``question`` or ``problem``. The answer is ``final_answer`` (OlympiadBench: a list), ``answer``
    (of GSM8K: what follows the last ####), or the last \\boxed{} of ``solution`` (MATH). Raises UserError starting
    with ``where``.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where} must be a JSON object, got {type(row).__name__}")
    question = _text(row, ("question", "problem"), where)
    solution = _lines(row.get("solution"))
    if row.get("final_answer") is not None:
        answer = _final_answer(row["final_answer"], where)
    elif row.get("answer") is not None:
        answer = _plain(row["answer"], f"{where}: answer")
        if "####" in answer:
            solution, answer = answer.rsplit("####", 1)
            answer = answer.replace(",", "")
    elif solution:
        answer = last_boxed(solution)
        if answer is None:
            raise UserError(f"{where}: there is no answer, and solution holds no complete \\boxed{{...}}")
    else:
        raise UserError(f"{where} must have the field answer, final_answer or solution, it has {_names(row)}")
    answer = answer.strip()
    if len(answer) > 1 and answer[0] == answer[-1] == "$":
        answer = answer.strip("$").strip()
    if not answer:
        raise UserError(f"{where}: answer is empty")
    answer = SCIENTIFIC.sub(r"\1 \\times 10^{\2}", answer)
    level = re.search(r"[0-9]+", str(row.get("level", "")))
    return Problem(
        question,
        answer,
        solution.strip(),
        str(_first(row, ("id", "unique_id", "idx"))),
        str(_first(row, ("topic", "subject", "subfield", "type"))),
        int(level[0][:9]) if level else 0,
    )


def last_boxed(text: str) -> str | None:
    """What the last \\boxed{...} of ``text`` holds, with its braces balanced; None if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return text[start:position]
    return None


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), "")


def _text(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    value = _first(row, names)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} must have its text in the field {' or '.join(names)}, it has {_names(row)}")
    return value.strip()


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row))[:80] or "none"


def _lines(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _plain(value: Any, what: str) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{what} must be text or a number, got {repr(value)[:80]}")


def _final_answer(value: Any, where: str) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(_plain(v, f"{where}: final_answer").strip().strip("$") for v in values)
