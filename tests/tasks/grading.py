"""Write docs/grading.md, "How answers are graded", from the graded answers beside this file.

    python -m tests.tasks.grading

graded_answers.jsonl: answers in styles that models write, with the verdict of a careful human grader; made for this
project. more_answers.jsonl: more of the same kinds, and cases of public reports, graded by us.
"""

import json
from pathlib import Path
from typing import Any

from psn_tutorial.tasks import Verdict
from psn_tutorial.tasks.verifier import Verifier

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "grading.md"

KINDS = {
    "units": "Units and what is counted",
    "money": "Money",
    "percent": "Percent",
    "degrees": "Degrees",
    "thousands": "Thousands",
    "fraction": "Fractions and repeating decimals",
    "mixed": "Mixed numbers",
    "scientific": "Powers and small numbers",
    "unicode": "Characters beyond ASCII",
    "latex": "LaTeX",
    "text": "Words and choices",
    "interval": "Intervals and inequalities",
    "set": "Sets and lists",
    "tuple": "Pairs and vectors",
    "equation": "Equations",
    "boxes": "Boxes",
    "punct": "Marks and punctuation",
    "prose": "Prose",
    "report": "Cases of public reports",
}

RULES = r"""# How answers are graded

The reward of a mathematical problem is 1 for a right answer and 0 for any other. Three steps decide
(`psn_tutorial.tasks.answers`, `.notation` and `.verifier_worker`; in Python, `verify_math(response, gold)`):

1. **Where the answer stands.** What follows an invented next turn ("Question:", "user", `<|im_end|>`) is cut
   off, once an answer has been given; thoughts before `</think>` count only where nothing follows them;
   `<answer>` marks the answer. Then, the first that is there:
   - the last `\boxed{}` or `\fbox{}` that is not empty. If it is not complete, there is no answer. With "or"
     between it and the box before, the answer is both. Only where the reference answer is a pair or a list
     are the boxes of one sentence taken together. A percent sign behind the box belongs to it.
   - what follows the last `####` on its line;
   - a single line, or what follows "the answer is", where that is nothing but mathematics;
   - else the prose, in which math-verify searches: in short, the last number or formula.

   No answer is found in a refusal ("I cannot ...") that announces none, in numbers that are only counted up,
   and in "the answer is not ...".
2. **How it is written.** Characters become ASCII (full-width digits, minus signs, powers, roots, fractions);
   fonts, colours, currency, thousands separators (comma, blank, thin blank, apostrophe) and the full stop go;
   `2 1/2` is 5/2, `0.\overline{3}` is 1/3, `3.2e5` is 320000. Words behind a number are its unit, which need
   not be written; two different units of length, mass, time or money, or powers of one, are not the same
   answer.
3. **Whether it is equal.** math-verify compares, the reference answer first: fractions and symbols exactly,
   numbers with a decimal point to 6 decimals. Numbers below 1 are compared to as many more places as they
   have zeros. A percent sign may be left out (25% is 25, and 0.25). An inequality is the interval that it
   describes. A set in braces is no pair. Answers that are alike letter by letter are equal.

A reference answer is read in the same way, once, when it is loaded. One that math-verify cannot read as a
whole would make every answer wrong, or a part of it right: its problem is left out, and a warning says so. A
row's field `error` (OlympiadBench) is how far a number may lie from the reference answer.

## Debatable cases, and what is decided

Where a verdict below differs from the human grader's, who marked all of these as debatable:

- Number words ("forty-two") are not read.
- Without a box or an announcement, the last number of the prose is the answer, although a reader may see from
  the words that it is not ("42 marbles after 7 days"; "a profit of $17, from a revenue of $20").
- Two inequalities joined by "or" are not made into a union of intervals.

## Where math-verify 0.9 itself is wrong

| report | what | here |
|---|---|---|
| [14](https://github.com/huggingface/Math-Verify/issues/14) | 1/2^99 is taken for 1/2^98 | compared relatively |
| [21](https://github.com/huggingface/Math-Verify/issues/21) | 0.0000001 is taken for 0.0000002 | compared relatively |
| [34](https://github.com/huggingface/Math-Verify/issues/34) | a plain 2 1/2 is read as 3/2 | 5/2 |
| [60](https://github.com/huggingface/Math-Verify/issues/60) | of a plain equation only 0 is read | all is read |
| [76](https://github.com/huggingface/Math-Verify/issues/76) | stars of Markdown stay in the answer | they go |

Not reported there, as far as we know: of a box or a reference answer that cannot be parsed it takes any
number inside instead (so that `\boxed{0}` met `(-\infty, 0) \cup\{1\}.`), and of `m g l` the units g and l
are taken away. Both are avoided here. Left as it is: a time of day such as 9:30 is read as a ratio.

## The cases

What the verifier says, from `tests/tasks/graded_answers.jsonl`; a test holds this page and the verifier
together.
"""


def cases(name: str) -> list[dict[str, Any]]:
    """The answers of a file: kind, response, gold, right, and perhaps a note."""
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def verdicts(answers: list[dict[str, Any]]) -> list[Verdict]:
    """What the verifier says of each."""
    verifier = Verifier()
    try:
        return verifier.verify_many([case["response"] for case in answers], [case["gold"] for case in answers])
    finally:
        verifier.close()


def page() -> str:
    """The text of docs/grading.md."""
    answers, parts = cases("graded_answers.jsonl"), [RULES]
    judged = list(zip(answers, verdicts(answers), strict=True))
    for kind, title in KINDS.items():
        parts.append(f"\n### {title}\n\n| response | reference | verdict |\n|---|---|---|\n")
        for case, verdict in judged:
            if case["kind"] == kind:
                word = "right" if verdict.correct else "wrong"
                word += (
                    ""
                    if verdict.correct == case["right"]
                    else " (the human grader: " + ("right" if case["right"] else "wrong") + ")"
                )
                parts.append(f"| {_code(case['response'])} | {_code(case['gold'])} | {word} |\n")
    return "".join(parts)


def _code(text: str) -> str:
    """Text as inline code inside a table."""
    text = text.replace("|", "\\|").replace("\n", "⏎")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
