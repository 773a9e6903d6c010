"""Jobs in processes: each ends as it does; a stop reaches all of them; nobody works twice in a folder."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.jobs.interrupt import Interrupted, Stop
from psn_tutorial.jobs.parallel import at_work, run_parallel, threads
from tests.jobs.parallel_jobs import Doing

ROOT = Path(__file__).resolve().parents[2]


class Seen:
    """What a watch sees. when: called once with this object when every job of ``enough`` has begun."""

    def __init__(self, folder, enough=(), when=None):
        self.folder, self.enough, self.when = folder, enough, when
        self.most, self.ends = 0, []

    def running(self, jobs):
        self.most = max(self.most, len(jobs))
        if self.when and all((self.folder / f"{name}.began").exists() for name in self.enough):
            when, self.when = self.when, None
            when()

    def ended(self, outcome):
        self.ends.append(outcome.job.name)


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z" if Path("/proc").is_dir() else False


def test_every_job_ends_as_it_does_and_stops_no_other(tmp_path, capfd):
    kinds = ["notes", "wrong", "broken", "killed", "leaves", "noisy", "threads", "plain"]
    jobs, watch = [Doing(f"job-{kind}", kind, tmp_path) for kind in kinds], Seen(tmp_path)
    with Stop() as stop:
        outcomes = run_parallel(jobs, 3, watch, stop, tmp_path)
    found = {outcome.job.what: outcome for outcome in outcomes}
    assert found.keys() == set(kinds) and sorted(watch.ends) == sorted(f"job-{kind}" for kind in kinds)
    assert watch.most == 3
    assert found["notes"].note == "note of job-notes" and found["threads"].note == "1"
    assert found["wrong"].error == "sigma must be smaller"
    assert found["broken"].error == "KeyError: 'nobody expects this' (parallel_jobs.py, line 26)"
    assert found["killed"].error == "the process ended by signal 9, perhaps for want of memory"
    assert found["leaves"].error == "the process ended with exit code 3"
    done = {path.stem.removeprefix("job-") for path in tmp_path.glob("*.done")}
    assert done == {"notes", "noisy", "plain"} == {w for w, o in found.items() if not o.error} - {"threads"}
    assert all(outcome.seconds > 0 for outcome in outcomes)
    said = capfd.readouterr()
    assert "to be seen" not in said.out and "nor this" not in said.err


def test_a_stop_reaches_every_job_once_and_none_is_begun_after_it(tmp_path):
    jobs = [Doing(f"job-{i}", "waits", tmp_path) for i in range(5)]
    with Stop() as stop:
        watch = Seen(tmp_path, ("job-0", "job-1"), lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted) as raised:
            run_parallel(jobs, 2, watch, stop, tmp_path)
    assert raised.value.number == signal.SIGINT and watch.ends == []
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["job-0.saved", "job-1.saved"]
    assert sorted(path.name for path in tmp_path.glob("*.began")) == ["job-0.began", "job-1.began"]


def test_a_second_stop_ends_what_does_not_listen(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    with Stop() as stop, pytest.raises(KeyboardInterrupt):
        run_parallel([Doing("job", "stubborn", tmp_path)], 1, Seen(tmp_path, ("job",), twice), stop, tmp_path)
    assert gone(int((tmp_path / "job.began").read_text()))
    with at_work(tmp_path):
        pass  # the folder is free again


PARENT = """
import sys
from pathlib import Path
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.parallel import run_parallel
from tests.jobs.parallel_jobs import Doing
from tests.jobs.test_parallel import Seen
folder = Path(sys.argv[1])
if __name__ == "__main__":
    with Stop() as stop:
        run_parallel([Doing("job", "waits", folder)], 1, Seen(folder), stop, folder)
"""


def test_a_job_notices_that_its_parent_was_killed_saves_and_ends(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "out").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path / "out"], env=environment)
    began = tmp_path / "out" / "job.began"
    wait_until(lambda: began.exists() and began.read_text())
    with pytest.raises(UserError, match="another process is at work in .*out: wait for it, or stop it"):
        with Stop() as stop:
            run_parallel([], 1, Seen(tmp_path), stop, tmp_path / "out")
    parent.kill()
    parent.wait()
    wait_until(lambda: (tmp_path / "out" / "job.saved").exists())
    pid = int(began.read_text())
    wait_until(lambda: gone(pid))
    with at_work(tmp_path / "out"):
        pass


def test_two_share_a_folder_only_as_parent_and_job(tmp_path):
    with at_work(tmp_path):
        with at_work(tmp_path, alone=False), pytest.raises(UserError, match="another process is at work"):
            with at_work(tmp_path):
                pass
    with at_work(tmp_path):
        pass


def test_there_is_at_least_one_thread():
    assert 1 <= threads() <= os.cpu_count()
