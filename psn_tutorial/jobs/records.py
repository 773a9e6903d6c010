"""What a run folder holds, read back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psn_tutorial.config import RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.runs.files import stands
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.settings import from_mapping


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder holds it.

    Attributes:
        folder: where it lies.
        config, provenance: config.json and provenance.json.
        steps: the records of steps.jsonl, in order; their names and units: :mod:`psn_tutorial.runs.steps`.
        evaluations: eval.json; None before the first evaluation.
    """

    folder: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    steps: list[dict[str, Any]]
    evaluations: EvaluationRecord | None

    @classmethod
    def read(cls, folder: str | Path) -> "RunRecord":
        """Raises UserError when ``folder`` is no run folder, or a file in it is wrong."""
        run = RunFolder.open(folder)
        path = run.path / "eval.json"
        evaluations = EvaluationRecord.read(path) if stands(path) else None
        return cls(run.path, run.config, run.provenance, run.steps(), evaluations)

    @property
    def settings(self) -> RunConfig:
        """The settings of a training run. Raises UserError when it is another kind of run."""
        return settings_of(self.folder, self.config)

    @property
    def finished(self) -> bool:
        """Has the training run taken all its steps and made all its evaluations?"""
        settings = self.settings
        measured = self.evaluations.steps if self.evaluations else {}
        taken = self.steps[-1]["step"] if self.steps else 0
        return taken >= settings.steps and set(settings.evaluated_steps) <= set(measured)


def settings_of(folder: Path, config: Mapping[str, Any]) -> RunConfig:
    """A training run's settings from what its config.json holds."""
    if "steps" not in config or "group" not in config:
        raise UserError(f"{folder} is no training run")
    fields = {name: value for name, value in config.items() if name != "base_sha256"}
    return from_mapping(RunConfig, fields, str(folder / "config.json"))
