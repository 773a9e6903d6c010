"""math-verify in a few processes of its own, for callers that must not hang.

math-verify does not work outside the main thread, and an answer such as ``\\boxed{9^{9^{9^{9}}}}`` stops whoever
reads it. So it runs elsewhere, in :mod:`psn_tutorial.tasks.verifier_worker`: a plain program that talks through two
pipes. That needs no ``if __name__ == "__main__"``, no pickle and no fork of the caller, so it works alike from a
script, a notebook, and a thread. An answer that uses up its processor time is wrong, and says why.
"""

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError, check_positive, check_range
from psn_tutorial.tasks.base import Verdict

PROGRAM = "psn_tutorial.tasks.verifier_worker"
ROOT = Path(__file__).resolve().parents[2]
LONGEST = 200_000  # characters; 32,768 tokens of a completion have about 130,000


class Worker:
    """One process of ``verifier_worker``; a question at a time."""

    def __init__(self, seconds: float, megabytes: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM, str(seconds), str(megabytes)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the caller
        )
        try:
            problem = self._line()
        except BaseException:
            self.close()
            raise
        if problem:
            self.close()
            raise UserError(f"math answers are verified by math-verify: pip install 'psn-tutorial[math]' ({problem})")

    def ask(self, *question: Any) -> Verdict:
        """The verdict on [response, gold, tolerance] or [gold]. Raises OSError or EOFError when the process is gone."""
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        self.process.stdin.flush()
        return Verdict(*self._line())

    def _line(self):
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the verifier's process ended")
        return json.loads(line)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # it and the judge that it forked
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what a killed process did not read
                pipe.close()


class Verifier:
    """A pool of at most ``workers`` processes; they start when first needed and stay until ``close``.

    workers: answers judged at the same time; None: one per core, at most 4.
    deadline: seconds of processor time for one answer. Processor time, so that a busy machine changes no verdict.
    megabytes: address space of one process.

    Any thread may call it. After ``close``, and in a process forked from this one, it starts anew.
    Raises UserError for settings that are not positive, and at the first answer when math-verify is not installed.
    """

    def __init__(self, workers: int | None = None, deadline: float = 2.0, megabytes: int = 2048) -> None:
        workers = min(os.cpu_count() or 1, 4) if workers is None else workers
        check_range("workers", workers, low=1, whole=True)
        check_range("megabytes", megabytes, low=256, whole=True)
        check_positive("deadline", deadline)
        self.workers, self.deadline, self.megabytes = workers, deadline, megabytes
        self._begin()
        atexit.register(self.close)

    def _begin(self) -> None:
        self._process = os.getpid()
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # None: one that has not started
        for _ in range(self.workers):
            self._idle.put(None)

    def verify(self, response: str, gold: str, tolerance: float = 0.0) -> Verdict:
        """Is the answer that ``response`` gives (:mod:`psn_tutorial.tasks.answers`) equal to ``gold``, as math-verify
        sees it?

        gold: the reference answer alone, a number or LaTeX. Never raises for any text.
        tolerance: how far a number may lie from that of the reference answer.
        """
        for name, text in (("response", response), ("gold", gold)):
            if not isinstance(text, str):
                raise UserError(f"{name} must be text, got {type(text).__name__}")
            if len(text) > LONGEST:
                return Verdict(False, f"{name} has {len(text)} characters, more than {LONGEST}")
        check_range("tolerance", tolerance, low=0)
        return self._answered(response, gold, tolerance)

    def verify_many(
        self, responses: Sequence[str], golds: Sequence[str], tolerances: Sequence[float] | None = None
    ) -> list[Verdict]:
        """The verdict on each response, ``workers`` at a time, in the order given."""
        if len(responses) != len(golds):
            raise UserError(f"golds must be as many as responses ({len(responses)}), got {len(golds)}")
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(self.verify, responses, golds, tolerances or [0.0] * len(golds)))

    def check_golds(self, golds: Sequence[str]) -> list[str]:
        """Why answers cannot be compared with each of these reference answers, or with a part of it only; "" if they
        can."""
        with ThreadPoolExecutor(self.workers) as threads:
            return [verdict.reason for verdict in threads.map(self._answered, golds)]

    def _answered(self, *question: Any) -> Verdict:
        if self._process != os.getpid():  # forked: the pipes are the parent's
            self._inherited = self._idle
            self._begin()
        for _ in range(2):
            with contextlib.suppress(OSError, EOFError):  # somebody ended the process
                return self._ask(question)
        return Verdict(False, "reading it ended the verifier's process")

    def _ask(self, question: Sequence[Any]) -> Verdict:
        worker = self._idle.get()
        try:
            worker = worker or Worker(self.deadline, self.megabytes)
            return worker.ask(*question)
        except BaseException:  # also Ctrl-C: the answer that is still to come belongs to no later question
            if worker:
                worker.close()
            worker = None
            raise
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes that are idle. Those at work end with the caller's process."""
        if self._process != os.getpid():
            return
        ended = 0
        with contextlib.suppress(queue.Empty):
            while True:
                worker = self._idle.get_nowait()
                ended += 1
                if worker:
                    worker.close()
        for _ in range(ended):
            self._idle.put(None)
