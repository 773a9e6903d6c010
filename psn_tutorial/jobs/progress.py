"""Progress of a training run: a bar on a terminal, a few lines in a log file."""

import math
import sys
from contextlib import closing, nullcontext
from typing import Any

from tqdm.auto import tqdm

from psn_tutorial.jobs.board import Board
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.training import TrainingJob


def follow(
    job: TrainingJob, stop: Stop, label: str, bar: bool, lines: bool = False, board: Board | None = None
) -> None:
    """Train to the end with a progress ``bar``, or without one but with ten ``lines`` in all, for a log file.

    ``label`` names the run; ``board`` draws curves too. Raises Interrupted when ``stop`` was asked for.
    """
    total, done = job.config.steps, job.trainer.step_number
    every = math.ceil(total / 10)
    with (
        closing(board) if board else nullcontext(),
        tqdm(
            total=total,
            initial=done,
            desc=label,
            disable=not bar,
            dynamic_ncols=True,
            leave=lines,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:8}| {remaining} left{postfix}",
        ) as shown,
    ):
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


def figures(record: dict[str, Any]) -> str:
    """The figures of a step to watch while it trains, the most important first."""
    words = [f"reward {record['reward']:.3f}", f"zero-contrast {record['zero_contrast']:.2f}"]
    if record["sigma"]:
        words.append(f"sigma {record['sigma']:.3g}")
    words.append(f"ESS {record['ess']:.2f}")
    words.append(f"{record['tokens'] / record['seconds'] / 1000:.1f}k tokens/s")
    return ", ".join(words)
