"""The figures of a run as TensorBoard curves, to watch a long run.

They repeat what steps.jsonl and eval.json hold, which stay the record; nothing reads the curves back.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.metrics import per_problem
from psn_tutorial.evaluation.results import Evaluation


def summary_writer() -> type:
    """TensorBoard's class of writers. Raises UserError when it is not installed: call it before a run is begun."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # here: TensorBoard is optional
    except ImportError:
        raise UserError("--tensorboard needs the package: pip install 'psn-tutorial[tensorboard]'") from None
    return SummaryWriter


class Board:
    """Curves in ``folder``: train/<name> of every figure of a step record, eval/pass@1 of every evaluation.

    step: the step that a resumed run goes on from; what the curves showed after it is hidden.

    Raises UserError when TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int = 0):
        self.writer = summary_writer()(folder, purge_step=step + 1)
        self.evaluated: set[int] = set()

    def show(self, record: Mapping[str, Any], evaluations: Mapping[int, Evaluation]) -> None:
        """Add one step's record and the evaluations that are new."""
        for name, value in record.items():
            if name != "step" and value is not None:
                self.writer.add_scalar(f"train/{name}", value, record["step"])
        self.show_evaluations(evaluations)

    def show_evaluations(self, evaluations: Mapping[int, Evaluation]) -> None:
        """Add the evaluations, by their step, that are not there yet."""
        for step in evaluations.keys() - self.evaluated:
            accuracy = per_problem(evaluations[step], "pass@1").values()
            self.writer.add_scalar("eval/pass@1", sum(accuracy) / len(accuracy), step)
            self.evaluated.add(step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
