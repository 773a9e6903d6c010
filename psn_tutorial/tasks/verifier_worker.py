"""The process in which math-verify reads answers: a program of its own, so that the kernel can end it.

    python -P verifier_worker.py SECONDS MEGABYTES

A line of its input is a JSON list [response, gold]; a line of its output is the verdict on it, [correct, reason].
The process imports math-verify once and forks a *judge* that does the work. Before each answer the judge asks the
kernel to end it when its processor time is used up: no code of Python has to run for that, so a power tower
inside one call of C ends like any other. The next judge is forked in milliseconds, with everything imported.

Nothing that a model wrote is executed: ``guarded`` keeps everything but arithmetic from the one call of sympy in
math-verify that compiles text. It imports nothing of psn_tutorial; :mod:`psn_tutorial.tasks.verifier` starts it.
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
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

ARITHMETIC = re.compile(r"[0-9\s.+*/()-]*")
WAITING = 10  # seconds of the clock allowed for each of the processor, on a busy machine
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


@lru_cache(maxsize=256)  # the G responses to one problem share its answer
def read_gold(gold: str) -> list[Any]:
    """What math-verify makes of a reference answer: as it stands in a data set, LaTeX without dollars, or a number."""
    from math_verify import parse

    return parse(f"\\boxed{{{gold}}}", parsing_timeout=None)


def judge(response: str, gold: str) -> tuple[bool, str]:
    """(correct, reason): math-verify's own verdict, and "" or a sentence. The gold answer comes first: it matters."""
    from math_verify import parse, verify

    expected = read_gold(gold)
    if not expected:
        return False, f"the reference answer {gold[:60]!r} cannot be read"
    found = parse(response, parsing_timeout=None)
    if not found:
        return False, "no answer found"
    if verify(expected, found, timeout_seconds=None):
        return True, ""
    shown = found[-1] if isinstance(found[-1], str) else "another"  # printing an expression may take for ever
    return False, f"the answer is {shown[:60]}, not {gold[:60]}"


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
            response, gold = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)
        try:
            verdict = judge(response, gold)
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
