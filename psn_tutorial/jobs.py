"""One training run and its folder: start it, go on with it, measure the clean policy on the way.

A job may be killed at any moment. Before every evaluation a checkpoint is written, evaluations are
kept up to the checkpoint that a resumed job starts from, and what lies after it is done again, bit
for bit.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from psn_tutorial.bases import save_policy
from psn_tutorial.board import Board
from psn_tutorial.config import MeasureConfig, RunConfig
from psn_tutorial.errors import UserError, shown
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.results import ProblemResult
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.interrupt import Stop
from psn_tutorial.policies import base_of, check_words, fingerprint, load_policy, starting_policy
from psn_tutorial.problems import held_out_problems, training_problems
from psn_tutorial.records import settings_of
from psn_tutorial.runs.folder import Run
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import Task, get_task
from psn_tutorial.tasks.base import verdicts
from psn_tutorial.trainer import Trainer


class Job:
    """A training run with everything it needs. Make it with ``start`` or ``resume``.

    Attributes: ``config``, ``run``, ``trainer``, ``record`` (the evaluations so far), ``task`` and
    ``held_out`` (the problems to evaluate on).
    """

    def __init__(self, config: RunConfig):
        """Load everything the settings name. Raises UserError before anything is written."""
        self.config = config
        self.task = get_task(config.task, **config.difficulty)
        problems = training_problems(self.task, config)
        self.held_out = held_out_problems(self.task, config.measure())
        self.model, self.tokenizer = starting_policy(config)
        _check(self.tokenizer, self.task, problems)
        self.base_sha256 = fingerprint(self.model)
        self.trainer = Trainer(config, self.model, self.tokenizer, self.task, problems)
        self.record = EvaluationRecord(config.task, config.samples, config.temperature, config.seed)
        self._saved = 0  # the step of the newest checkpoint that did not fall due by itself

    @property
    def run(self) -> Run:
        return self.trainer.run

    @classmethod
    def start(
        cls, folder: str | Path, config: RunConfig, command: Sequence[str] | None = None
    ) -> "Job":
        """Begin a run in a new folder. ``command`` is the argument list that asked for it."""
        job = cls(config)
        job.trainer.run = Run.create(folder, job.settings, command)
        return job

    @classmethod
    def resume(cls, folder: str | Path) -> "Job":
        """Go on with the run in ``folder`` from its newest intact checkpoint.

        Raises UserError when it is no training run, or was started from another base policy.
        """
        run = Run.open(folder)
        config = settings_of(run.path, run.config)
        job = cls(config)
        if job.base_sha256 != run.config.get("base_sha256"):
            raise UserError(
                f"{folder} was started from another base policy than the one in "
                f"{base_of(config)}"
            )
        job.go_on(run)
        return job

    def go_on(self, run: Run) -> None:
        """Take up a run that was begun with these settings. Raises UserError as ``resume``."""
        self.trainer.run = run
        checkpoint = run.resume()
        if checkpoint:
            try:
                self.trainer.restore(checkpoint)
            except (RuntimeError, KeyError) as error:
                raise UserError(
                    f"the checkpoint of step {checkpoint.step} in {run.path} is foreign: "
                    f"{str(error).splitlines()[0]}"
                ) from None
            self._saved = checkpoint.step
        self.record = self._evaluations_until(self._saved)

    @property
    def settings(self) -> dict[str, Any]:
        """What config.json holds."""
        return {**to_mapping(self.config), "base_sha256": self.base_sha256}

    def train(self, stop: Stop, progress: bool = False) -> Iterator[dict[str, Any]]:
        """Take the steps that are left and evaluate on the way; yields the record of each step.

        Raises Interrupted after everything is saved, when ``stop`` was asked for.
        """
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
            self.record.steps[step] = measure(
                self.model, self.tokenizer, self.task, self.held_out, self.config.measure(), progress
            )
        self.record.write(self.run.path / "eval.json")

    def _save(self) -> None:
        """Write a checkpoint unless there is one of this step, the trainer's own or ours."""
        step, config = self.trainer.step_number, self.config
        if step % config.save_every and step not in (config.steps, self._saved):
            self.trainer.save()
            self._saved = step

    def _evaluations_until(self, step: int) -> EvaluationRecord:
        path = self.run.path / "eval.json"
        record = EvaluationRecord.read(path) if path.is_file() else self.record
        kept = {s: results for s, results in record.steps.items() if s <= step}
        return EvaluationRecord(
            record.task, record.samples, record.temperature, record.seed, kept
        )


def evaluate_policy(
    folder: str | Path, policy: str | Path | RunConfig, config: MeasureConfig,
    command: Sequence[str] | None = None, progress: bool = False,
) -> EvaluationRecord:  # fmt: skip
    """Evaluate a policy and keep the result as a run record in ``folder``.

    policy: as for ``load_policy``; or the settings of a run: what it begins with, in its own precision.
    An evaluation of the same policy in the same way that ``folder`` already holds is returned.
    Raises UserError when ``folder`` holds anything else.
    """
    task = get_task(config.task, **config.difficulty)
    problems = held_out_problems(task, config)
    begins = isinstance(policy, RunConfig)
    model, tokenizer, step = (*starting_policy(policy), 0) if begins else load_policy(policy, config.device)
    _check(tokenizer, task, problems)
    settings = {**to_mapping(config), "policy_sha256": fingerprint(model)}
    run = open_or_create(folder, settings, command)
    path = run.path / "eval.json"
    if not path.is_file():
        record = EvaluationRecord(config.task, config.samples, config.temperature, config.seed)
        record.steps[step] = measure(model, tokenizer, task, problems, config, progress)
        record.write(path)
        run.record_time()
    return EvaluationRecord.read(path)


def _check(tokenizer: PreTrainedTokenizerFast, task: Task, problems: Sequence[Any]) -> None:
    """Raise UserError, before anything is written, when a policy cannot read the task or nothing can judge it."""
    check_words(tokenizer, task)
    verdicts(task, [""], problems[:1])


def measure(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, task: Task, problems: Sequence[Any],
    config: MeasureConfig, progress: bool,
) -> list[ProblemResult]:  # fmt: skip
    """``evaluate`` with the settings of a MeasureConfig."""
    return evaluate(
        model, tokenizer, task, problems, config.samples, config.temperature, config.seed,
        config.batch, progress,
    )  # fmt: skip


def open_or_create(
    folder: str | Path, settings: dict[str, Any], command: Sequence[str] | None = None
) -> Run:
    """The run in ``folder``, made now or earlier with the very same settings.

    Raises UserError naming the first setting in which an existing run differs.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return Run.create(folder, settings, command)
    run = Run.open(folder)
    defaults = to_mapping(RunConfig())  # what a setting was before it existed
    for name in dict.fromkeys((*settings, *run.config)):
        old, new = run.config.get(name, defaults.get(name)), settings.get(name)
        if old != new:
            raise UserError(
                f"{folder} was made with {name} {shown(old)}, and not {shown(new)}: "
                f"choose another folder, or remove that one"
            )
    return run


def follow(job: Job, stop: Stop, label: str, bar: bool, lines: bool = False, board: Board | None = None) -> None:
    """Train to the end with a progress bar; or, for a log file, with ten ``lines`` in all. ``board`` shows it too."""
    total, done = job.config.steps, job.trainer.step_number
    every = math.ceil(total / 10)
    with closing(board) if board else nullcontext(), tqdm(
        total=total, initial=done, desc=label, disable=not bar, dynamic_ncols=True, leave=lines,
        bar_format="{desc} {n_fmt}/{total_fmt} |{bar:8}| {remaining} left{postfix}",
    ) as shown:  # fmt: skip
        for record in job.train(stop, progress=bar):
            shown.set_postfix_str(figures(record), refresh=False)
            shown.update()
            if board:
                board.show(record, job.record.steps)
            if lines and not bar and record["step"] % every == 0:
                text = f"{label}: step {record['step']} of {total}, {figures(record)}"
                print(text, file=sys.stderr, flush=True)
        if board:
            board.show_evaluations(job.record.steps)


def export(job: Job) -> Path:
    """Write the clean policy as an ordinary checkpoint folder, <run>/policy, unless it is there."""
    folder = job.run.path / "policy"
    if not folder.exists():
        save_policy(job.model, job.tokenizer, folder)
    return folder


def figures(record: dict[str, Any]) -> str:
    """The figures of a step that matter while one watches, the most telling first."""
    words = [f"reward {record['reward']:.3f}", f"zero-contrast {record['zero_contrast']:.2f}"]
    if record["sigma"]:
        words.append(f"sigma {record['sigma']:.3g}")
    words.append(f"ESS {record['ess']:.2f}")
    words.append(f"{record['tokens'] / record['seconds'] / 1000:.1f}k tokens/s")
    return ", ".join(words)
