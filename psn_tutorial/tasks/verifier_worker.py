"""The process in which math-verify reads answers: a program of its own, so that the kernel can end it.

    python -m psn_tutorial.tasks.verifier_worker SECONDS MEGABYTES

A line of its input is a JSON list, [response, gold, tolerance] or [gold]; a line of its output is the verdict,
[correct, reason]: is the response right, or can the reference answer be read?
The process imports math-verify once and forks a *judge* that does the work. Before each answer the judge asks the
kernel to end it when its processor time is used up: no code of Python has to run for that, so a power tower
inside one call of C ends like any other. The next judge is forked in milliseconds, with everything imported.

Nothing that a model wrote is executed: ``guarded`` keeps everything but arithmetic from the one call of sympy in
math-verify that compiles text. :mod:`psn_tutorial.tasks.verifier` starts it.
"""

import contextlib
import gc
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

from psn_tutorial.tasks.answers import find_answer
from psn_tutorial.tasks.notation import bare, other_brackets, other_unit, plain, squeezed

ARITHMETIC = re.compile(r"[0-9\s.+*/()-]*")
WAITING = 10  # seconds of the clock allowed for each of the processor, on a busy machine
CONDITION = re.compile(r"(?<![a-zA-Z\\])(where|if|when|for|with|such that|otherwise|arbitrary)(?![a-zA-Z])")
LOST = re.compile(r"[a-zA-Z)}\]]\s*\\text\{([^{}]*[a-zA-Z]{2}[^{}]*)\}\Z")  # words after no number are no unit
WORD = re.compile(r"(?:\\text\{)?[a-zA-Z][a-zA-Z0-9 .,:'-]*\}?")  # an answer that is a word is compared as one
WARM_UP = (  # gold answers of different kinds, and one that sympy has to simplify
    ("Half: $\\boxed{\\frac{1}{2}}$.", "0.5"),
    ("The answer is 10 * 100", "(1, 2)"),
    ("$\\boxed{(x+1)^2}$", "x^2+2x+1"),
)


def guarded(parse_expr: Callable[..., Any]) -> Callable[..., Any]:
    """sympy's ``parse_expr`` for digits and the signs of arithmetic only: it compiles what it is given."""

    def parse_arithmetic(text: str, **options: Any) -> Any:
        if not ARITHMETIC.fullmatch(text):
            raise ValueError("not arithmetic")
        return parse_expr(text, **options)

    return parse_arithmetic


def read_gold(gold: str) -> list[Any]:
    """What math-verify makes of a reference answer: as it stands in a data set, a number or LaTeX."""
    return read_latex(bare(plain(gold)))


@lru_cache(maxsize=256)  # the G responses to one problem share its reference answer, and often their own
def read_latex(latex: str) -> list[Any]:
    """[expression, text] of an answer that math-verify reads as a whole, [text] of any other, [] of none."""
    from math_verify import LatexExtractionConfig, parse

    if not latex:
        return []
    normal = LatexExtractionConfig().normalization_config
    if not re.search(r"\d", latex):
        normal = replace(normal, units=False)  # "m g l" has no units, though math-verify would read m alone
    config = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal)]
    # The first match alone: math-verify would go on to look for a number anywhere in what it cannot read.
    return parse(f"\\boxed{{{latex}}}", config, extraction_mode="first_match", parsing_timeout=None)


def check_gold(gold: str) -> tuple[bool, str]:
    """(True, "") where an answer can be compared with the whole of this reference answer; else (False, why not)."""
    text = bare(plain(gold))
    expected = read_latex(text)
    if not expected:
        return False, "nothing in it can be read"
    if lost := CONDITION.search(text) or LOST.search(text):
        return False, f"the words {lost[1].strip()!r} cannot be compared"
    if isinstance(expected[0], str) and not WORD.fullmatch(text):
        return False, "math-verify cannot read it"
    return True, ""


def judge(response: str, gold: str, tolerance: float = 0.0) -> tuple[bool, str]:
    """(correct, reason): math-verify's verdict on the answer of ``response``, and "" or a sentence.

    tolerance: how far a number may lie from the reference answer; 0: math-verify's own rules.
    """
    from math_verify import parse

    expected = read_gold(gold)
    if not expected:
        return False, f"the reference answer {gold[:60]!r} cannot be read"
    answer = find_answer(response)
    if answer.reason:
        return False, answer.reason
    found = read_latex(answer.latex[0]) if answer.latex else parse(answer.prose, parsing_timeout=None)
    if not found:
        return False, "no answer found"
    if any(same(bare(plain(gold)), latex, tolerance) for latex in answer.latex[: 2 if _is_list(expected) else 1]):
        return True, ""
    if not answer.latex and equal(expected, found, tolerance):
        return True, ""
    shown = found[-1] if isinstance(found[-1], str) else "another"  # printing an expression may take for ever
    return False, f"the answer is {shown[:60]}, not {gold[:60]}"


def same(gold: str, latex: str, tolerance: float) -> bool:
    """Is the answer ``latex`` the reference answer ``gold``, in letters or in value? A percent sign may be left out."""
    if other_unit(latex, gold) or other_brackets(latex, gold):
        return False
    if squeezed(gold) == squeezed(latex):
        return True
    without = [re.sub(r"\s*\\?%\Z", "", text) for text in (gold, latex)]
    pairs = [(gold, latex)] if (without[0] == gold) is (without[1] == latex) else [(gold, latex), tuple(without)]
    return any(equal(read_latex(expected), read_latex(found), tolerance) for expected, found in pairs)


def equal(expected: list[Any], found: list[Any], tolerance: float) -> bool:
    """math-verify's comparison, the reference answer first: it matters.

    math-verify rounds to 6 decimals, and takes what is below 10^-15 for 0; both are moved to where the smallest number
    of the two answers begins, so that small numbers are compared as closely as large ones.
    """
    from math_verify import verify

    if tolerance and _within(expected[0], found[0], tolerance):
        return True
    more = max(_zeros(expected[0]), _zeros(found[0]))
    return verify(expected, found, 6 + more, 15 + more, allow_set_relation_comp=True, timeout_seconds=None)


def _numbers(expression: Any) -> list[Any]:
    """The numbers that an answer consists of: itself, or the parts of a list, pair, set, interval or matrix."""
    from sympy import Basic, MatrixBase

    if isinstance(expression, MatrixBase):
        return [number for part in expression for number in _numbers(part)]
    if not isinstance(expression, Basic):
        return []
    if getattr(expression, "is_number", False):
        return [expression]
    return [number for part in expression.args for number in _numbers(part)]


def _zeros(expression: Any) -> int:
    """Zeros between the decimal point and the first digit of the smallest number but 0 in an answer; 20,000 at most."""
    from sympy import log

    sizes = [abs(number.evalf(5, chop=False)) for number in _numbers(expression)]
    small = [size for size in sizes if size.is_positive and size < 1]
    return min(20_000, max((int(-log(size, 10).evalf(5)) for size in small), default=0))


def _within(expected: Any, found: Any, tolerance: float) -> bool:
    pair = [_numbers(expected), _numbers(found)]
    if not pair[0] or len(pair[0]) != len(pair[1]):
        return False
    return all(abs((a - b).evalf()) <= tolerance * (1 + 1e-9) for a, b in zip(*pair, strict=True))


def _is_list(expected: list[Any]) -> bool:
    from sympy import FiniteSet, Interval, Tuple

    return isinstance(expected[0], FiniteSet | Tuple | Interval)


def serve(pipe: Connection, seconds: float, megabytes: int, others: tuple[Any, ...] = ()) -> None:
    """Judge what comes through the pipe, until it is closed or the kernel ends this process.

    others: ends of pipes that the fork left open here; their readers wait until the last one is closed.
    """
    for other in others:
        other.close()
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # whatever the parent made of it: the default ends the process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF, signal.SIGALRM})
    with contextlib.suppress(ValueError, OSError):  # where there is no such limit
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    while True:
        try:
            question = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)
        try:
            verdict = judge(*question) if len(question) > 1 else check_gold(*question)
        except Exception as error:
            verdict = False, f"math-verify failed: {type(error).__name__}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send_bytes(json.dumps(verdict).encode())


class Judge:
    """A forked process that serves; it lives until an answer ends it."""

    def __init__(self, seconds: float, megabytes: int, answers: BinaryIO) -> None:
        fork = multiprocessing.get_context("fork")
        self.seconds = seconds
        self.pipe, its_end = fork.Pipe()
        arguments = (its_end, seconds, megabytes, (self.pipe, answers))
        self.process = fork.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        its_end.close()

    def ask(self, question: bytes) -> bytes:
        try:
            self.pipe.send_bytes(question)
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            self.process.join()
            return json.dumps((False, self._why())).encode()

    def _why(self) -> str:
        if -self.process.exitcode in (signal.SIGPROF, signal.SIGALRM):
            return f"no verdict within {self.seconds:g} s of processor time"
        return "reading it ended the verifier's process"


def load() -> None:
    """Import math-verify, guard it, and read a few answers, so that every judge starts warm."""
    import math_verify.parser

    logging.disable(logging.CRITICAL)
    math_verify.parser.parse_expr = guarded(math_verify.parser.parse_expr)
    for response, gold in WARM_UP:
        judge(response, gold)
    gc.freeze()  # what is loaded stays shared between the forks


def main(seconds: float, megabytes: int) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)  # what a parser prints is no verdict
    try:
        load()
        problem = ""
    except ImportError as error:
        problem = str(error)
    answers.write(json.dumps(problem).encode() + b"\n")
    answers.flush()
    current = None
    for question in sys.stdin.buffer:
        if current is None or not current.process.is_alive():
            current = Judge(seconds, megabytes, answers)
        answers.write(current.ask(question) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
