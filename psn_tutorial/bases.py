"""Base policies on the disk: where the shipped ones are, and how one is made and recorded."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from psn_tutorial.config import MeasureConfig, RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.interrupt import Stop
from psn_tutorial.models.pretrain import PretrainConfig, Pretraining
from psn_tutorial.models.tiny import quiet
from psn_tutorial.problems import held_out_problems, training_problems
from psn_tutorial.runs.files import in_words, new_folder
from psn_tutorial.runs.folder import Run
from psn_tutorial.settings import from_mapping, to_mapping
from psn_tutorial.tasks import get_task

SAVE_EVERY = 250  # steps between checkpoints


class BaseJob:
    """The making of a base policy: its run record, and its pre-training."""

    def __init__(self, config: PretrainConfig):
        """Make the demonstrations. Raises UserError before anything is written."""
        self.task = get_task(config.task, **config.difficulty)
        self.measure = MeasureConfig(config.task, config.difficulty)
        self.held_out = held_out_problems(self.task, self.measure)
        # Nor what reinforcement learning will train on: a base that knows its answers by heart has
        # nothing to learn there.
        later = training_problems(self.task, RunConfig(task=config.task, difficulty=config.difficulty))
        self.training = Pretraining(self.task, config, [*later, *self.held_out])

    @classmethod
    def start(
        cls, folder: str | Path, config: PretrainConfig, command: Sequence[str] | None = None
    ) -> "BaseJob":
        """Begin with a new run record in ``folder``."""
        require_new(Path(folder))  # before the demonstrations, which take a while
        job = cls(config)
        job.training.run = Run.create(folder, to_mapping(config), command)
        return job

    @classmethod
    def resume(cls, folder: str | Path) -> "BaseJob":
        """Go on with the run record in ``folder``. Raises UserError when it is finished."""
        run = Run.open(folder)
        config = from_mapping(PretrainConfig, run.config, str(run.path / "config.json"))
        if (run.path / "eval.json").is_file():
            raise UserError(f"the base policy of {folder} is finished")
        job = cls(config)
        job.training.run = run
        if checkpoint := run.resume():
            job.training.restore(checkpoint)
        return job

    def make(self, out: Path, stop: Stop, bar: bool) -> EvaluationRecord:
        """Train to the end, write the policy to ``out``, evaluate it and record that.

        Raises Interrupted, with everything saved, when ``stop`` was asked for; UserError when
        ``out`` is not new.
        """
        require_new(out)
        training, measure = self.training, self.measure
        total, done = training.config.steps, training.step_number
        with tqdm(
            total=total, initial=done, desc=str(out), disable=not bar, dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:8}| {remaining} left{postfix}",
        ) as shown:  # fmt: skip
            for record in training.train():
                figures = f"loss {record['loss']:.4f}, learning rate {record['lr']:.1e}"
                shown.set_postfix_str(figures, refresh=False)
                shown.update()
                due = record["step"] % SAVE_EVERY == 0 or record["step"] == total
                if due or stop.asked is not None:
                    training.save()
                stop.check()
        made = EvaluationRecord(self.task.name, measure.samples, measure.temperature, measure.seed)
        with stop.at_once():
            made.steps[total] = evaluate(
                training.model, training.tokenizer, self.task, self.held_out, measure.samples,
                measure.temperature, measure.seed, progress=bar,
            )  # fmt: skip
        save_policy(training.model, training.tokenizer, out)
        made.write(training.run.path / "eval.json")
        training.run.record_time()
        return made


def save_policy(model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary checkpoint folder, complete or not at all; what stands there is kept.

    Raises UserError when ``folder`` holds anything already, or cannot be written.
    """
    require_new(folder)
    with in_words(folder, "the checkpoints of the run are kept"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with quiet(), new_folder(folder.with_name(f".{folder.name}.new")) as new:
            try:
                model.save_pretrained(new)
                tokenizer.save_pretrained(new)
            except OSError:
                raise
            except Exception as error:  # safetensors and tokenizers raise types of their own
                full = f"os error {errno.ENOSPC}" in str(error)
                raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error
            for file in new.iterdir():
                file.chmod(0o644)  # safetensors leaves its files to their owner alone
            os.rename(new, folder)


def require_new(folder: Path) -> None:
    """Raise UserError unless ``folder`` is missing or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already exists and is not empty; choose another folder")
