"""What is running and when it will be done: bars on a terminal, a line for each job that ends in a log file."""

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from psn_tutorial.experiments.cost import Costs
from psn_tutorial.experiments.plan import duration
from psn_tutorial.experiments.study_jobs import StudyJob
from psn_tutorial.jobs.parallel import Outcome


class StudyProgress:
    """A :class:`psn_tutorial.jobs.parallel.Watch` over the jobs of one part of a study.

    Args:
        left: the jobs of this part that are not recorded yet; later: those of later ones.
        done: records that stand already, in all parts.
        bars: draw bars; None: when the error output is a terminal.
    """

    def __init__(
        self,
        left: Sequence[StudyJob],
        later: Sequence[StudyJob],
        done: int,
        costs: Costs,
        workers: int,
        bars: bool | None,
    ):
        self.costs, self.workers, self.done, self.total = costs, workers, done, done + len(left) + len(later)
        self.left, self.later = {job.name: job for job in left}, list(later)
        self.at_work: Sequence[StudyJob] = ()
        self.bars = sys.stderr.isatty() if bars is None else bars
        self.shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f} of {task.total:.0f} {task.fields[words]}"),
            console=Console(stderr=True),
            disable=not self.bars,
        )
        self.rows: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.shown.start()
        self.whole = self.shown.add_task("study", total=self.total, completed=self.done, words=self._when())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shown.stop()

    def running(self, jobs: Sequence[StudyJob]) -> None:
        """These run now."""
        self.at_work = jobs
        if not self.bars:
            return
        for name in self.rows.keys() - {job.name for job in jobs}:
            self.shown.remove_task(self.rows.pop(name))
        for job in jobs:
            if job.name not in self.rows:
                self.rows[job.name] = self.shown.add_task(
                    job.name, total=job.steps or 1, words="steps" * bool(job.steps)
                )
            self.shown.update(self.rows[job.name], completed=job.taken if job.steps else 0)
        self.shown.update(self.whole, completed=self.done, words=self._when())

    def ended(self, outcome: Outcome) -> None:
        """One has ended."""
        job = outcome.job
        del self.left[job.name]
        self.done += 1
        if not outcome.error:
            self.costs.learn(job, outcome.seconds)
        said = f"failed: {outcome.error}" if outcome.error else outcome.note or duration(outcome.seconds)
        line = f"{job.name} [{self.done}/{self.total}]: {said}; {self._when()}"
        if self.bars:
            self.shown.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Until all is done, with all workers busy."""
        rest = sum(self.costs.seconds(job) for job in (*self.left.values(), *self.later))
        taken = sum(self.costs.seconds(job) * job.taken / job.steps for job in self.at_work if job.steps)
        return max(0.0, rest - taken) / self.workers

    def _when(self) -> str:
        seconds = self.seconds
        if not (self.left or self.later):
            return "nothing left"
        at = datetime.now().astimezone() + timedelta(seconds=seconds)
        return f"about {duration(seconds)} left, until {at:%H:%M}" + (f" on {at:%d %B}" if seconds > 43_200 else "")
