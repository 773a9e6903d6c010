"""One training run and its folder: start it, go on with it, measure the clean policy on the way.

A job may be killed at any moment. Before every evaluation a checkpoint is written, evaluations are
kept up to the checkpoint that a resumed job starts from, and what lies after it is done again, bit
for bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psn_tutorial.config import RunConfig
from psn_tutorial.errors import UserError, check_range
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.extensions import origins
from psn_tutorial.jobs.evaluating import check_policy
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.policies import base_of, fingerprint, save_policy, source_of_base, starting_policy
from psn_tutorial.jobs.problems import check_apart, held_out_problems, training_problems
from psn_tutorial.jobs.records import RunRecord, settings_of
from psn_tutorial.jobs.transcribing import transcribe
from psn_tutorial.prefixes import prefix
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.runs.transcripts import Transcript, read_transcripts, write_transcripts
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task
from psn_tutorial.trainer import Trainer


class TrainingJob:
    """A training run with everything it needs. Make it with ``start`` or ``resume``.

    Attributes: ``config``, ``run``, ``trainer``, ``record`` (the evaluations so far), ``transcripts`` (the answers kept
    so far), ``task`` and ``held_out`` (the problems to evaluate on).
    """

    def __init__(self, config: RunConfig):
        """Load everything the settings name. Raises UserError before anything is written."""
        self.config = config
        self.task = get_task(config.task, **config.difficulty)
        problems = training_problems(self.task, config)
        self.held_out = held_out_problems(self.task, config.evaluation())
        if config.evaluate:
            check_range("transcripts", config.transcripts, high=len(self.held_out), whole=True)
        check_apart(self.task, problems, self.held_out, config)
        self.policy = starting_policy(config)
        before = "" if self.task.words else prefix(config.seed, 0, config.prefix_words)  # else refused by the trainer
        check_policy(self.policy, self.task, problems, before)
        self.base_sha256 = fingerprint(self.policy.model)
        self.trainer = Trainer(config, self.policy, self.task, problems)
        self.record = EvaluationRecord(config.task, config.samples, config.temperature, config.seed)
        self.transcripts: list[Transcript] = []
        self._saved = 0  # the step of the newest checkpoint that did not fall due by itself

    @property
    def run(self) -> RunFolder:
        return self.trainer.run

    @classmethod
    def start(cls, folder: str | Path, config: RunConfig, command: Sequence[str] | None = None) -> "TrainingJob":
        """Begin a run in a new folder. ``command`` is the argument list that asked for it."""
        job = cls(config)
        job.trainer.run = RunFolder.create(folder, job.settings, command, job.sources)
        return job

    @classmethod
    def resume(cls, folder: str | Path) -> "TrainingJob":
        """Go on with the run in ``folder`` from its newest intact checkpoint.

        Raises UserError when it is no training run, was started from another base policy, or is finished and has no
        checkpoint left: such a record would be overwritten from its first step on.
        """
        run = RunFolder.open(folder)
        config = settings_of(run.path, run.config)
        job = cls(config)
        if job.base_sha256 != run.config.get("base_sha256"):
            raise UserError(f"{folder} was started from another base policy than the one in {base_of(config)}")
        if RunRecord.read(run.path).finished and run.latest_checkpoint() is None:
            raise UserError(f"{folder} is finished and has no checkpoint left: there is nothing to go on with")
        job.go_on(run)
        return job

    def go_on(self, run: RunFolder) -> None:
        """Take up a run that was begun with these settings. Raises UserError as ``resume``, before anything changes."""
        self.trainer.run = run
        path = run.path / "eval.json"
        evaluations = EvaluationRecord.read(path) if path.is_file() else self.record
        checkpoint = run.resume()
        if checkpoint:
            try:
                self.trainer.restore(checkpoint)
            except (RuntimeError, KeyError) as error:
                raise UserError(
                    f"the checkpoint of step {checkpoint.step} in {run.path} is foreign: {str(error).splitlines()[0]}"
                ) from None
            self._saved = checkpoint.step
        kept = {step: results for step, results in evaluations.steps.items() if step <= self._saved}
        self.record = replace(evaluations, steps=kept)
        self.transcripts = [t for t in read_transcripts(run.path) if t.step <= self._saved]

    @property
    def settings(self) -> dict[str, Any]:
        """What config.json holds."""
        return {**to_mapping(self.config), "base_sha256": self.base_sha256}

    @property
    def sources(self) -> dict[str, Any]:
        """What provenance.json tells besides: of the base, and of the modules of other packages that take part."""
        return source_of_base(base_of(self.config)) | origins(self.settings, self.task)

    def train(self, stop: Stop, progress: bool = False) -> Iterator[dict[str, Any]]:
        """Take the steps that are left and evaluate on the way; yields the record of each step.

        Raises Interrupted after everything is saved, when ``stop`` was asked for. An error before anything is recorded
        removes the run folder that ``start`` made.
        """
        try:
            yield from self._train(stop, progress)
        except Exception:
            self.run.discard_if_empty()
            raise

    def _train(self, stop: Stop, progress: bool) -> Iterator[dict[str, Any]]:
        if self.trainer.step_number == 0 and self.config.evaluate:
            self._transcribe()
        self._evaluate_if_due(stop, progress)  # what an interruption cut off
        for record in self.trainer.train():
            yield record
            if stop.asked is not None:
                self._save()
                stop.check()
            self._evaluate_if_due(stop, progress)
        self.run.record_time()

    def _evaluate_if_due(self, stop: Stop, progress: bool) -> None:
        step = self.trainer.step_number
        if step not in self.config.evaluated_steps or step in self.record.steps:
            return
        self._save()
        with stop.at_once():
            sampling = self.config.evaluation().sampling
            results = evaluate(self.policy, self.task, self.held_out, **sampling, progress=progress)
            self._transcribe()
        self.record.steps[step] = results
        self.record.write(self.run.path / "eval.json")

    def _transcribe(self) -> None:
        """Keep answers to the first few held-out problems, unless those of this step are there."""
        step, some = self.trainer.step_number, self.held_out[: self.config.transcripts]
        if some and all(t.step != step for t in self.transcripts):
            self.transcripts += transcribe(self.trainer, some)
            write_transcripts(self.run.path, self.transcripts)

    def _save(self) -> None:
        """Write a checkpoint unless there is one of this step, the trainer's own or ours."""
        step, config = self.trainer.step_number, self.config
        if step % config.save_every and step not in (config.steps, self._saved):
            self.trainer.save()
            self._saved = step


def export(job: TrainingJob) -> Path:
    """Write the clean policy as an ordinary checkpoint folder, <run>/policy, unless it is there."""
    folder = job.run.path / "policy"
    if not folder.exists():
        save_policy(job.policy, folder)
    return folder
