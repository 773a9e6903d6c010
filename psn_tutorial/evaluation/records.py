"""The record of a run's evaluations, eval.json: counts per problem.

    {"task": "countdown", "samples": 256, "temperature": 1.0, "seed": 0,
     "problems": [{"problem": "3 7 12 5 -> 38 :", "total_solutions": 31, "total_families": 9}, ...],
     "evaluations": [{"step": 75, "problems": [{"n": 256, "c": 44, "solutions": [9, 7, ...],
                                                "families": {"3 * 7": 20, ...}}, ...]}, ...]}

One line per problem, in the order of "problems" at the top. "solutions" holds how many samples
found each of the distinct solutions that were found, without their texts: every figure of
:mod:`psn_tutorial.evaluation` is a function of these counts. Read back, the solutions are named "1", "2", ...
So are the families of records made before these were named, where "families" is a list of counts too.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.results import ProblemResult
from psn_tutorial.runs.files import finite_or_null, read_json, replace_file

FIXED = ("problem", "total_solutions", "total_families")


@dataclass
class EvaluationRecord:
    """The evaluations of one run.

    task, samples, temperature, seed: how they were made.
    steps: training step -> one result per problem, the same problems at every step.
    """

    task: str
    samples: int
    temperature: float = 1.0
    seed: int = 0
    steps: dict[int, list[ProblemResult]] = field(default_factory=dict)

    @property
    def last(self) -> list[ProblemResult]:
        """The results of the last step. Raises UserError when there are none."""
        if not self.steps:
            raise UserError("the record holds no evaluation")
        return self.steps[max(self.steps)]

    def write(self, path: str | Path) -> None:
        """Write eval.json, replacing the file as a whole. Raises UserError when it cannot be written."""
        head = {"task": self.task, "samples": self.samples}
        head |= {"temperature": self.temperature, "seed": self.seed}
        problems = [{name: getattr(r, name) for name in FIXED} for r in self.last]
        blocks = [
            f'{{"step": {step}, "problems": [\n{_lines(map(_compact, results))}\n]}}'
            for step, results in sorted(self.steps.items())
        ]
        text = f'{_json(head)[:-1]},\n"problems": [\n{_lines(problems)}\n],\n"evaluations": [\n'
        replace_file(path, (text + ",\n".join(blocks) + "\n]}\n").encode())

    @classmethod
    def read(cls, path: str | Path) -> "EvaluationRecord":
        """The inverse of ``write``. Raises UserError, naming the place, when the file is wrong."""
        content = read_json(path)
        try:
            problems = content["problems"]
            record = cls(*(content[name] for name in ("task", "samples", "temperature", "seed")))
            for evaluation in content["evaluations"]:
                step, results = evaluation["step"], evaluation["problems"]
                where = f"{path}, step {step}"
                if len(results) != len(problems):
                    raise UserError(f"{where}: {len(results)} results for {len(problems)} problems")
                record.steps[step] = [
                    _expanded({**problem, **result}, f"{where}, problem {number}")
                    for number, (problem, result) in enumerate(zip(problems, results, strict=True))
                ]
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path} is not a record of evaluations") from None
        return record


def _compact(result: ProblemResult) -> dict[str, Any]:
    fields: dict[str, Any] = {"n": result.n, "c": result.c} if result.n else {}
    if result.solutions:
        fields["solutions"] = sorted(result.solutions.values(), reverse=True)
    if result.families:
        fields["families"] = result.families
    # Seven digits: the probabilities come from float32 log-probs.
    return fields | ({} if result.exact is None else {"exact": float(f"{result.exact:.7g}")})


def _expanded(fields: Mapping[str, Any], where: str) -> ProblemResult:
    named = {name: _named(fields.get(name, ())) for name in ("solutions", "families")}
    return ProblemResult.from_json({"n": 0, "c": 0, **fields, **named}, where)


def _named(counts: Any) -> Any:
    return counts if isinstance(counts, Mapping) else {str(i): count for i, count in enumerate(counts, start=1)}


def _lines(objects: Iterable[Any]) -> str:
    return ",\n".join(map(_json, objects))


def _json(value: Any) -> str:
    return json.dumps(finite_or_null(value), allow_nan=False, separators=(", ", ": "))
