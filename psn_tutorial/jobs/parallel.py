"""Several jobs at once, each in a process of its own with one thread.

A process is forked from a server that has imported torch already, so that it starts at once; a job that fails, or that
the system kills for its memory, takes no other with it. Ctrl-C reaches this process alone, which passes it on: every
job finishes its step and saves. When this process is killed, its jobs notice and do the same.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from psn_tutorial.errors import UserError
from psn_tutorial.jobs.interrupt import Interrupted, Stop
from psn_tutorial.jobs.malloc import keep_freed_memory

LOOK_EVERY = 0.5  # seconds between two looks at the jobs that run


class Job(Protocol):
    """What can be run here: anything that survives pickling."""

    def run(self, stop: Stop) -> str | None:
        """Do what is left of it, alone in a process; returns a note, or None. Raises UserError for a mistake, and
        Interrupted after everything is saved when ``stop`` was asked for."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended. error: one sentence, None if it is done; note: what ``run`` returned; seconds: what it took."""

    job: Job
    seconds: float
    error: str | None = None
    note: str | None = None


class Watch(Protocol):
    """Sees what happens: ``running`` is called a few times a second with all jobs that run, ``ended`` with each end."""

    def running(self, jobs: Sequence[Job]) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    answers: Connection
    begun: float
    asked: bool = False  # to stop: the second signal would end it at once

    def ask(self) -> None:
        if not self.asked:
            self.asked = True
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)


def run_parallel(
    jobs: Iterable[Job], workers: int, watch: Watch, stop: Stop, folder: Path, preload: Sequence[str] = ()
) -> list[Outcome]:
    """Run all ``jobs``, ``workers`` at a time; returns how each that ended did.

    folder: where they write, which must exist; no other process may be at work in it.
    preload: modules that the server of processes imports first.

    Raises:
        UserError: another process is at work in ``folder``.
        Interrupted: ``stop`` was asked for, and every job has saved. KeyboardInterrupt: asked for twice; all are ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    waiting, outcomes, running = iter(jobs), [], []
    with at_work(folder):
        try:
            while True:
                while len(running) < workers and stop.asked is None and (job := next(waiting, None)) is not None:
                    running.append(_begin(context, job, folder))
                if not running:
                    break
                watch.running([one.job for one in running])
                wait([one.process.sentinel for one in running], LOOK_EVERY)
                for one in running if stop.asked is not None else ():
                    one.ask()
                for one in [one for one in running if one.process.exitcode is not None]:
                    running.remove(one)
                    if outcome := _end(one):
                        outcomes.append(outcome)
                        watch.ended(outcome)
        finally:
            for one in running:  # by an exception, such as the second Ctrl-C
                one.process.kill()
                one.process.join()
    stop.check()
    return outcomes


def _begin(context: multiprocessing.context.BaseContext, job: Job, folder: Path) -> _Running:
    answers, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs, folder))
    process.start()
    theirs.close()
    return _Running(job, process, answers, time.perf_counter())


def _end(one: _Running) -> Outcome | None:
    """How it ended; None if it was stopped."""
    seconds = time.perf_counter() - one.begun
    kind, text = "killed", None
    with suppress(EOFError):
        if one.answers.poll():
            kind, text = one.answers.recv()
    one.answers.close()
    if kind == "stopped" or (kind == "killed" and one.asked):  # the signal came before the job could take it
        return None
    if kind == "killed":
        code = one.process.exitcode
        why = f"by signal {-code}, perhaps for want of memory" if code < 0 else f"with exit code {code}"
        return Outcome(one.job, seconds, error=f"the process ended {why}")
    return Outcome(one.job, seconds, text, None) if kind == "failed" else Outcome(one.job, seconds, None, text)


def _work(job: Job, answers: Connection, folder: Path) -> None:
    """What the process does."""
    import torch  # here: whoever only waits for others needs none

    os.setsid()  # Ctrl-C in the terminal reaches the parent alone
    torch.set_num_threads(1)
    keep_freed_memory()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1), os.dup2(silent, 2)
    try:
        with Stop() as stop, at_work(folder, alone=False):
            _stop_without_parent()
            answers.send(("done", job.run(stop)))
    except Interrupted:
        answers.send(("stopped", None))
    except UserError as error:
        answers.send(("failed", " ".join(str(error).split())))
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
        answers.send(("failed", " ".join(what.split())))


def _stop_without_parent() -> None:
    """Stop as by Ctrl-C when the parent is no more."""

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def at_work(folder: Path, alone: bool = True) -> Iterator[None]:
    """Hold ``folder`` as one of those at work in it. alone: raise UserError if any other process is, at the start."""
    import fcntl  # not on Windows

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            if alone:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is at work in {folder}: wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def threads() -> int:
    """How many processes of one thread this machine can run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
