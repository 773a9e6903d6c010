"""Ctrl-C once finishes the step and saves; twice stops at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C in a terminal; the stop of a job scheduler or a container
NOTICE = b"\nstopping: this step is finished and saved first; Ctrl-C again stops at once\n"


class Interrupted(KeyboardInterrupt):
    """A job was stopped after it had saved everything. ``number``: the signal that asked for it."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__("stopped and saved")
        self.number = number


class Stop:
    """``with Stop() as stop:`` makes the first signal a request that a loop reads between steps; the second raises.

    Outside the main thread, where Python delivers no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self.asked: int | None = None  # the signal's number
        self._immediate = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for. Call it where everything is saved."""
        if self.asked is not None:
            raise Interrupted(self.asked)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, the first signal already raises Interrupted: for work that is saved, or quick to repeat."""
        self.check()
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._immediate:
            raise Interrupted(number)
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
        os.write(2, NOTICE)  # print would not be safe inside a signal handler
