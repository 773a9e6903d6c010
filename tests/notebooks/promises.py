"""What each notebook takes, beside what its opening card promises. A plugin of the nbval run.

    pytest --nbval -p tests.notebooks.promises notebooks

After a notebook's last cell its kernel is asked for its processor time and its largest memory; a table at the end
shows them all. Processor time, because a busy machine stretches the clock without end. It, too, grows on a slower
processor or one that is shared, so a notebook fails only beyond ``GROSS`` times its promise: it is then another one.
"""

import re
import time
from pathlib import Path

import psutil
import pytest

GROSS = 5
UNITS = {"second": 1, "minute": 60, "MB": 1, "GB": 1024}
TIME = re.compile(r"(?<=\*\*Time\*\* \| )(\d+) (second|minute)s?")
MEMORY = re.compile(r"(?<=\*\*Memory\*\* \| )(\d+(?:\.\d+)?) (MB|GB)")
STARTED = pytest.StashKey[float]()


def promised(card: str) -> tuple[float, float]:
    """Seconds and MB that an opening card states: "| **Time** | 2 minutes ...", "| **Memory** | 1 GB |"."""
    duration, memory = TIME.search(card), MEMORY.search(card)
    return int(duration[1]) * UNITS[duration[2]], float(memory[1]) * UNITS[memory[2]]


def used(pid: int) -> tuple[float, float]:
    """Seconds of processor time and MB of resident memory of a process: the most so far on Linux, else the present."""
    process, status = psutil.Process(pid), Path(f"/proc/{pid}/status")
    times = process.cpu_times()
    peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return times.user + times.system, int(peak[1]) / 1024 if peak else process.memory_info().rss / 2**20


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    result = yield
    item.parent.stash.setdefault(STARTED, time.monotonic())
    item.output_timeout = 300  # seconds for the rest of an output to come in; nbval's 5 fail on a loaded machine
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    notebook = item.parent
    if item is not last_cell(item.session, notebook):
        return result
    processor, peak = used(notebook.kernel.km.provisioner.pid)
    seconds, megabytes = promised("\n".join(cell.source for cell in notebook.nb.cells[:2]))
    clock = time.monotonic() - notebook.stash[STARTED]
    line = (
        f"{notebook.path.stem}: {processor:.0f} s of processor time ({clock:.0f} s by the clock), {peak:.0f} MB; "
        f"its card promises {seconds:.0f} s and {megabytes:.0f} MB"
    )
    item.user_properties.append(("took", line))  # travels with the report, also from a worker of pytest-xdist
    assert processor <= GROSS * seconds and peak <= GROSS * megabytes, f"more than {GROSS} times: {line}"
    return result


def last_cell(session, notebook):
    return [item for item in session.items if item.parent is notebook][-1]


def pytest_terminal_summary(terminalreporter):
    reports = [report for group in terminalreporter.stats.values() for report in group]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    lines = {value for name, value in properties if name == "took"}
    if lines:
        terminalreporter.section("what the notebooks took")
        for line in sorted(lines):
            terminalreporter.write_line(line)
