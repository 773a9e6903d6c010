"""The jobs of a study. Each leaves one record, and does nothing where that stands already.

    <out>/bases/<name>/                        the record of a base, and its policy in weights/, as long as it is needed
          <experiment>/base/, .../<arm>/seed-<n>/    as `compare` writes them, trimmed
          tuning/<experiment>/<arm>.<number>/seed-<n>/    the candidates
          coherence/<name>/                    coherence.jsonl

A job works in <out>/.running/ and moves its folder to its place when it is finished and trimmed. So what lies outside
of .running is always complete, and can be committed at any time, without the weights; from such a checkout, or after a
kill, the same command goes on with what is missing.
"""

import json
import os
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psn_tutorial.config import RunConfig
from psn_tutorial.errors import UserError, shown
from psn_tutorial.evaluation.coherence import CoherenceConfig, read_coherence
from psn_tutorial.experiments.experiment import Experiment
from psn_tutorial.experiments.study import FAILED, TUNING, WEIGHTS
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.models.bases import PretrainConfig, base_folder
from psn_tutorial.runs.files import read_json, replace_file, stands, write_json
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.runs.trimming import trim
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task

RUNNING = ".running"
KEPT, KEPT_IN_TUNING = 30, 6  # of how many steps, about, a record keeps the figures


@dataclass(frozen=True)
class StudyJob(ABC):
    """One record of a study. out: the study's folder; name: the record's folder in it; command: for its provenance."""

    out: Path
    name: str
    command: tuple[str, ...]

    settled = True

    @property
    def place(self) -> Path:
        return self.out / self.name

    @property
    def scratch(self) -> Path:
        """Where it works until it is finished."""
        return self.out / RUNNING / self.name

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What its config.json holds, beside fingerprints of weights."""

    @property
    def steps(self) -> int:
        """Training steps; 0 for what has none."""
        return 0

    @property
    def recorded(self) -> bool:
        """Does its record stand? Raises UserError, naming the first difference, for one made with other settings."""
        if self.place.is_dir() and self.settled:
            self.check_settings(self.place)
        return self.place.is_dir()

    def check_settings(self, folder: Path) -> None:
        """Raise UserError, naming the first difference, where ``folder`` was made with other settings."""
        defaults, found = to_mapping(RunConfig()), read_json(folder / "config.json")
        for name, value in self.settings.items():
            if found.get(name, defaults.get(name)) != json.loads(json.dumps(value)):
                raise UserError(
                    f"{folder} was made with {name} {shown(found.get(name))}, and not {shown(value)}: "
                    "choose another folder for the study, or remove that one"
                )

    @property
    def taken(self) -> int:
        """Steps that the job has taken so far, by the lines of its step record."""
        path = self.scratch / "steps.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    @abstractmethod
    def work(self, stop: Stop) -> str | None:
        """Do what is left in ``scratch``; returns a note."""

    def run(self, stop: Stop) -> str | None:
        """As :class:`psn_tutorial.jobs.parallel.Job`."""
        note = self.work(stop)
        kept = KEPT_IN_TUNING if self.name.startswith(f"{TUNING}/") else KEPT
        trim(self.scratch, max(1, self.steps // kept))
        self.put_in_place()
        return note

    def put_in_place(self) -> None:
        """Move what is complete from ``scratch`` to where it stands."""
        self.place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.scratch, self.place)


class ConfiguredJob(StudyJob):
    """A job that is all in a configuration of its own, ``config``."""

    config: RunConfig | PretrainConfig | CoherenceConfig

    @property
    def settings(self) -> dict[str, Any]:
        return to_mapping(self.config)

    @property
    def steps(self) -> int:
        return getattr(self.config, "steps", 0)


# What loads torch is imported inside the methods that run in a process of their own: a plan is made without it.


@dataclass(frozen=True)
class TrainJob(ConfiguredJob):
    """A training run.

    settled: are its settings known? Those of an arm that is still to be tuned are not, and what stands in its place is
    not compared with them. twin: the name of an earlier run with the same settings and seed. It would come out the
    same, so its record is copied.
    """

    config: RunConfig
    settled: bool = True
    twin: str | None = None

    def run(self, stop: Stop) -> str | None:
        if self.twin is None or not (self.out / self.twin).is_dir():  # none, or not finished
            return super().run(stop)
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.out / self.twin, self.scratch)
        self.put_in_place()
        return f"the same run as {self.twin}"

    def work(self, stop: Stop) -> str | None:
        """An error of training itself, such as a gradient that is not finite, is a result, and recorded as one."""
        from psn_tutorial.experiments.run import train_run

        if (self.scratch / FAILED).is_file():  # stopped between that and the trimming
            return None
        try:
            train_run(self.scratch, self.config, self.command, stop)
        except UserError as error:
            taken = self.taken
            if not taken or isinstance(error.__cause__, OSError):  # a wrong setting, or a full disk
                raise
            write_json(self.scratch / FAILED, {"step": taken, "error": str(error)})
            return f"failed at step {taken}, which is recorded: {error}"
        return None


@dataclass(frozen=True)
class MeasureJob(StudyJob):
    """The evaluation of the policy that all arms of an experiment start from."""

    experiment: Experiment

    @property
    def settings(self) -> dict[str, Any]:
        return to_mapping(self.experiment.measured_base)

    def work(self, stop: Stop) -> None:
        from psn_tutorial.experiments.run import measure_base

        with stop.at_once():
            measure_base(self.scratch, self.experiment, self.command, show=False)


@dataclass(frozen=True)
class BaseJob(ConfiguredJob):
    """The making of a base policy. needed: does a job that is left begin with it? Its record may stand without its
    weights, which are large and are not committed; then they are made again where they are needed."""

    config: PretrainConfig
    needed: bool = True

    @property
    def weights(self) -> Path:
        return self.place / WEIGHTS

    @property
    def recorded(self) -> bool:
        return super().recorded and (self.weights.is_dir() or not self.needed)

    def run(self, stop: Stop) -> str | None:
        if not self.place.is_dir():
            return super().run(stop)
        self.work(stop)
        os.rename(self.scratch / WEIGHTS, self.weights)
        shutil.rmtree(self.scratch)
        return "made again"

    def work(self, stop: Stop) -> None:
        from psn_tutorial.jobs.pretraining import PretrainingJob

        if stands(self.scratch / "eval.json"):
            return
        if (self.scratch / "config.json").is_file():
            shutil.rmtree(self.scratch / WEIGHTS, ignore_errors=True)  # not yet evaluated: it is written again
            job = PretrainingJob.resume(self.scratch)
        else:
            job = PretrainingJob.start(self.scratch, self.config, self.command)
        job.make(self.scratch / WEIGHTS, stop, bar=False)


@dataclass(frozen=True)
class CoherenceJob(ConfiguredJob):
    """The coherence of noise on one policy, site by site. made_as: how the policy was made; None: it is pretrained."""

    config: CoherenceConfig
    made_as: PretrainConfig | None

    def work(self, stop: Stop) -> None:
        from psn_tutorial.evaluation.shifts import measure_sites
        from psn_tutorial.jobs.policies import load_policy, source_of_base

        config = self.config
        task = get_task(config.task, **config.difficulty)
        folder = config.policy or base_folder(task.base)
        policy, file = load_policy(folder), self.scratch / "coherence.jsonl"
        if not (self.scratch / "config.json").is_file():
            RunFolder.create(self.scratch, self.settings, self.command, source_of_base(folder))
        self.check_settings(self.scratch)  # it may be what a stopped command left, of another file
        run, found = RunFolder.open(self.scratch), read_coherence(file)
        left = [site for site in config.sites if site not in {one.site for one in found}]
        if left:
            with stop.at_once():
                for one in measure_sites(policy, task, replace(config, sites=tuple(left))):
                    found.append(one)
                    replace_file(file, "".join(json.dumps(to_mapping(one)) + "\n" for one in found).encode())
        run.record_time()
