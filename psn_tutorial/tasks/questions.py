"""A question and its reference answer, read from a row of any of the benchmarks' files."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from psn_tutorial.errors import UserError, shown
from psn_tutorial.tasks.answers import last_box
from psn_tutorial.tasks.notation import NUMBER, bare, plain, without_unit

QUESTION = ("question", "problem")
BEFORE = ("context", "passage", "background", "table", "body")  # text that a question refers to; SVAMP has a Body
# Also a part of the question, but none that can be put into words here.
BESIDE = re.compile(r"choices|options|input|(?:decoded_)?(?:image|picture|figure|diagram)s?(?:_?\w+)?")
MISSING = ("nan", "null")  # a value that is not there, as libraries write it
FULL_STOP = re.compile(r"(?<=[0-9)\]}$])\.$")


@dataclass(frozen=True)
class Problem:
    """A question and its reference answer (a number, or LaTeX without dollars); the rest may be empty.

    level: difficulty, 1-5 where the source grades it, else 0.
    tolerance: how far a number may lie from the reference answer.
    """

    question: str
    answer: str
    solution: str = ""
    id: str = ""
    topic: str = ""
    level: int = 0
    tolerance: float = 0.0


def read_row(row: Mapping[str, Any], where: str) -> Problem:
    """A problem from a row of any of these sets; the fields it has tell which, in capital letters or not.

    The question is ``question`` or ``problem``, after the text of ``context``, ``body`` and the like. The answer is
    ``final_answer`` (OlympiadBench: a list), ``answer`` (of GSM8K: what follows the last ####), or the last \\boxed{}
    of ``solution`` (MATH); its tolerance is ``error``. Raises UserError starting with ``where``, also for what belongs
    to the question and would be left out: choices, pictures.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where} must be a JSON object, got {type(row).__name__}")
    fields = _by_name(row, where)
    question, (solution, answer) = _question(fields, where), _answer(fields, where)
    level = re.search(r"[0-9]+", str(fields.get("level", "")))
    return Problem(
        question,
        answer,
        solution.strip(),
        str(_first(fields, ("id", "unique_id", "idx"))),
        str(_first(fields, ("topic", "subject", "subfield", "type"))),
        int(level[0][:9]) if level else 0,
        _tolerance(fields.get("error", ""), where),
    )


def _by_name(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields that have a value, by their names in small letters."""
    fields = {}
    for name, value in row.items():
        if str(name).lower() in fields:
            raise UserError(f"{where} has the field {str(name).lower()} twice, in capital and in small letters")
        if value is not None:
            fields[str(name).lower()] = value
    return fields


def _question(fields: Mapping[str, Any], where: str) -> str:
    asked = [fields[name] for name in QUESTION if fields.get(name, "") != ""]
    if not asked or not all(isinstance(text, str) and text.strip() for text in asked):
        raise UserError(f"{where} must have its text in the field question or problem, it has {_names(fields)}")
    question = asked[0].strip()
    if asked[-1].strip() != question:
        raise UserError(f"{where} has both a question and a problem: write all that is asked into one of them")
    for name, value in fields.items():
        if BESIDE.fullmatch(name) and value and not (isinstance(value, str) and value.strip() in question):
            raise UserError(
                f"{where}: {name} is a part of the question that the model would not see: "
                f"write it into the question, or leave the row out"
            )
    before = (_text(fields, name, where) for name in BEFORE)
    return "\n".join([*(text for text in before if text and text not in question), question])


def _answer(fields: Mapping[str, Any], where: str) -> tuple[str, str]:
    """(solution, answer)."""
    solution = _solution(fields, where)
    if "final_answer" in fields:
        values = fields["final_answer"]
        parts = [_plain(part, f"{where}: final_answer") for part in (values if isinstance(values, list) else [values])]
        answer = ", ".join(_number(part) for part in parts)
    elif "answer" in fields:
        answer = _written(fields["answer"], f"{where}: answer")
        if "####" in answer:
            solution, answer = answer.rsplit("####", 1)
            answer = answer.strip().partition("\n")[0]  # MetaMath goes on: "The answer is: 18"
        elif re.search(r"\\(boxed|fbox)(?![a-zA-Z])", answer):  # the worked solution stands there
            solution, answer = solution or answer, last_box(answer) or ""
        answer = _number(_plain(answer, f"{where}: answer"))
    elif solution:
        box = last_box(solution)
        if not box:
            raise UserError(f"{where}: there is no answer, and solution holds no complete \\boxed{{...}}")
        answer = _number(_plain(box, f"{where}: answer"))
    else:
        raise UserError(f"{where} must have the field answer, final_answer or solution, it has {_names(fields)}")
    if not answer:
        raise UserError(f"{where}: answer is empty")
    return solution, answer


def _plain(value: Any, what: str) -> str:
    """A reference answer without dollars around it and without the full stop of its sentence. UserError for none."""
    answer = FULL_STOP.sub("", _written(value, what).strip())
    if len(answer) > 1 and answer[0] == "$" and re.search(r"(?<!\\)\$$", answer):
        answer = FULL_STOP.sub("", re.sub(r"(?<!\\)\$", "", answer).strip())
    if not answer:
        raise UserError(f"{what} is empty")
    if answer.lower() in MISSING:
        raise UserError(f"{what} is {answer!r}, as libraries write a value that is missing")
    return answer


def _number(answer: str) -> str:
    """One number in plain words without currency, unit and the commas between its thousands; any other answer as it is.

    >>> [_number(text) for text in ("1,234", "$25.50", "25 dollars", "3, 4", "(3,456)", "5 million")]
    ['1234', '25.50', '25', '3, 4', '(3,456)', '5 million']
    """
    number = answer if "\\" in answer.replace("\\$", "") else without_unit(bare(plain(answer)))
    return number if re.fullmatch(NUMBER, number) else answer


def _tolerance(value: Any, where: str) -> float:
    """OlympiadBench's ``error``: a number, as text; of several, one for each part of the answer, the smallest."""
    try:
        parts = [float(part) for part in str(value).split(",") if part.strip()]
    except ValueError:
        parts = [-1.0]
    if isinstance(value, bool) or not all(0 <= part < math.inf for part in parts):
        raise UserError(f"{where}: error must be a number >= 0, how far an answer may lie from it, got {shown(value)}")
    return min(parts, default=0.0)


def _written(value: Any, what: str) -> str:
    """Text or a number as text; 1e23 as the integer that it is."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(Decimal(repr(value)))) if value.is_integer() else str(value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{what} must be text or a number, got {shown(value)}")


def _solution(fields: Mapping[str, Any], where: str) -> str:
    value = fields.get("solution", "")
    lines = value if isinstance(value, list) else [value]
    if not all(isinstance(line, str) for line in lines):
        raise UserError(f"{where}: solution must be text or a list of texts, got {shown(value)}")
    return "\n".join(lines)


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be text, got {shown(value)}")
    return value.strip()


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), "")


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(fields)[:80] or "none"
