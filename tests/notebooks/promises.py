"""Does each notebook keep the time and the memory that its opening card promises? A plugin of the nbval run.

    pytest --nbval -p tests.notebooks.promises notebooks

After a notebook's last cell its kernel is asked for its processor time and its largest memory. A notebook beyond its
promise fails there; a table at the end shows all of them. Processor time, because a busy machine stretches the clock
without end, and on a quiet one the two agree: the notebooks use one thread.
"""

import re
import time
from pathlib import Path

import psutil
import pytest

UNITS = {"second": 1, "minute": 60, "MB": 1, "GB": 1024}
STARTED = pytest.StashKey[float]()
MEASURED = pytest.StashKey[list[str]]()


def promised(card: str) -> tuple[float, float]:
    """Seconds and MB that an opening card states: "| **Time** | 2 minutes ...", "| **Memory** | 1 GB |"."""
    duration = re.search(r"\*\*Time\*\*[^\d\n]*(\d+) (second|minute)", card)
    memory = re.search(r"\*\*Memory\*\*[^\d\n]*(\d+(?:\.\d+)?) (MB|GB)", card)
    return int(duration[1]) * UNITS[duration[2]], float(memory[1]) * UNITS[memory[2]]


def peak_memory(process: psutil.Process) -> float | None:
    """The largest resident memory of a process so far, in MB; Linux alone keeps it."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return None
    return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) / 1024


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    result = yield
    item.parent.stash.setdefault(STARTED, time.monotonic())
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    notebook = item.parent
    if item is not last_cell(item.session, notebook):
        return result
    kernel = psutil.Process(notebook.kernel.km.provisioner.pid)
    used, peak = sum(kernel.cpu_times()[:2]), peak_memory(kernel)
    seconds, megabytes = promised("\n".join(cell.source for cell in notebook.nb.cells[:2]))
    clock = time.monotonic() - notebook.stash[STARTED]
    shown = "unknown" if peak is None else f"{peak:.0f} MB"
    line = (
        f"{notebook.path.stem}: {used:.0f} s of processor time ({clock:.0f} s by the clock), {shown}; "
        f"its card promises {seconds:.0f} s and {megabytes:.0f} MB"
    )
    item.config.stash.setdefault(MEASURED, []).append(line)
    assert used <= seconds and (peak is None or peak <= megabytes), line
    return result


def last_cell(session, notebook):
    return [item for item in session.items if item.parent is notebook][-1]


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(MEASURED, [])
    if lines:
        terminalreporter.section("what the notebooks took")
        for line in lines:
            terminalreporter.write_line(line)
