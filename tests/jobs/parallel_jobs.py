"""Jobs for test_parallel.py; in a module of their own, because other processes import them."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from psn_tutorial.errors import UserError
from psn_tutorial.jobs.interrupt import Stop


@dataclass(frozen=True)
class Doing:
    """Does what ``what`` says, in the folder ``folder``."""

    name: str
    what: str
    folder: Path

    def run(self, stop: Stop) -> str | None:
        (self.folder / f"{self.name}.began").write_text(str(os.getpid()))
        if self.what == "wrong":
            raise UserError("sigma must be\n  smaller")
        if self.what == "broken":
            raise KeyError("nobody expects this")
        if self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "leaves":
            os._exit(3)
        if self.what == "noisy":
            print("not to be seen", flush=True)
            os.system("echo nor this >&2")
        if self.what == "threads":
            import torch

            return str(torch.get_num_threads())
        if self.what == "waits":
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline:
                time.sleep(0.02)
                if stop.asked is not None:
                    (self.folder / f"{self.name}.saved").write_text("")
                    stop.check()
        if self.what == "stubborn":  # does not look
            time.sleep(300)
        (self.folder / f"{self.name}.done").write_text("")
        return f"note of {self.name}" if self.what == "notes" else None
