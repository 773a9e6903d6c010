"""Prompts of a data set, and answers that a reward function judges, as TRL's GRPOTrainer takes them.

    psn-tutorial train --task judged --base my-model --difficulty path=mine.jsonl judge=my_module:reward \\
        'columns={"question": "prompt", "answer": "solution"}' completion=200

with, in my_module.py,

    def reward(prompts, completions, solution, **columns):
        return [float(right in text) for text, right in zip(completions, solution)]
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from psn_tutorial.errors import UserError, check_integer, check_range, check_seed, shown
from psn_tutorial.extensions import imported, in_one_sentence, is_named
from psn_tutorial.tasks.base import Task, Verdict
from psn_tutorial.tasks.files import hub_rows, read_problems

Row = dict[str, Any]  # the columns of one row; "prompt" is what the model reads
EVERY = 5  # one row in five is for evaluation
RESERVED = ("prompts", "completions")  # arguments of the judge


@dataclass(frozen=True)
class Judged(Task[Row]):
    """A data set and a judge as a ``Task``.

    The judge has the signature of a reward function of TRL: judge(prompts, completions, **columns) gives one number per
    completion. ``columns`` are the data set's others, a list each. Of what TRL passes beside them (completion_ids,
    trainer_state) it gets nothing. Equal answers to a problem are judged once: a reward must depend
    on its own row alone.

    A verdict is right or wrong. An answer is right where its reward is at least ``threshold``: rewards between are not
    passed on to the training, and a judge that gives parts of a point needs a threshold of your choice.

    judge: module:function, imported when the first answer is judged.
    path: a file of rows, one JSON object on each line; or
    hub, subset, split: a data set on the hub, its configuration if it has several, and the split.
    columns: data set's column -> the judge's name for it; the others keep their names. One must be called "prompt": a
        text, or a list of messages {"role", "content"}; then completions are lists of one message, as in TRL.
    threshold: the least reward of a right answer.
    system: what the system says first. With it, a prompt that is a text becomes a conversation; without it, the model
        reads the text as it is.
    completion: tokens that an answer may have.

    Every fifth row is for evaluation, the others are for training; --train-file and --eval-file read other files.

    Raises UserError for a value that is not as said.
    """

    name: ClassVar[str] = "judged"

    judge: str
    path: str | None = None
    hub: str | None = None
    subset: str | None = None
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    threshold: float = 1.0
    system: str | None = None
    completion: int = 256

    def __post_init__(self) -> None:
        if not is_named(self.judge):
            raise UserError(
                f"judge must be written as module:function, such as my_module:reward, got {shown(self.judge)}"
            )
        for name in ("path", "hub", "subset", "split", "system"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "split"):
                raise UserError(f"{name} must be a text, got {shown(value)}")
        if self.path and self.hub:
            raise UserError(f"path and hub cannot both say where the rows are, got {self.path!r} and {self.hub!r}")
        if not isinstance(self.columns, Mapping) or not all(isinstance(name, str) for name in self.columns.values()):
            raise UserError(f"columns must map names to names, got {shown(self.columns)}")
        check_range("threshold", self.threshold)
        check_integer("completion", self.completion, 1, 10**6)

    # Problems

    def rows(self) -> list[Row]:
        """All rows. Raises UserError when there are none to be had."""
        if self.path:
            return read_problems(self.path, self)
        if not self.hub:
            raise UserError("path or hub must say where the rows are, or --train-file and --eval-file, got none")
        found = enumerate(hub_rows(self.hub, self.hub, self.subset, self.split), start=1)
        return self.from_rows([(f"{self.hub} row {number}", row) for number, row in found])

    def problems(self, use: str) -> list[Row]:
        rows = [row for number, row in enumerate(self.rows(), start=1) if (number % EVERY == 0) is (use == "eval")]
        if not rows:
            raise UserError(
                f"{self.path or self.hub} must have at least {EVERY} rows: one in {EVERY} is for evaluation"
            )
        return rows

    def generate(self, seed: int, count: int, exclude: Iterable[Row] = ()) -> list[Row]:
        """``count`` rows, in an order that the seed gives."""
        taken = {self.asks(row) for row in exclude}
        pool = [row for row in self.rows() if self.asks(row) not in taken]
        check_integer("count", count, 0, len(pool))
        check_seed(seed)
        return random.Random(seed).sample(pool, count)

    def prompt(self, problem: Row) -> str:
        """The text; of a conversation what is said, a line each."""
        prompt = problem["prompt"]
        return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)

    def messages(self, problem: Row) -> list[dict[str, str]] | None:
        prompt = problem["prompt"]
        if isinstance(prompt, str) and self.system is None:
            return None
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return [*([{"role": "system", "content": self.system}] if self.system else []), *turns]

    def to_json(self, problem: Row) -> dict[str, Any]:
        names = {new: old for old, new in self.columns.items()}
        return {names.get(name, name): value for name, value in problem.items()}

    def from_json(self, fields: Mapping[str, Any], where: str) -> Row:
        if not isinstance(fields, Mapping):
            raise UserError(f"{where} must be a JSON object, got {type(fields).__name__}")
        has = ", ".join(map(str, fields))[:80] or "none"
        for name in self.columns:
            if name not in fields:
                raise UserError(f"{where} must have the column {name!r} that columns names, it has {has}")
        row = {self.columns.get(name, name): value for name, value in fields.items()}
        if len(row) < len(fields):
            raise UserError(f"{where}: columns gives two columns one name, of {', '.join(row)[:80]}")
        for name in RESERVED:
            if name in row:
                raise UserError(f"{where}: no column may be called {name!r}; give it another name in columns")
        if not _is_prompt(row.get("prompt")):
            raise UserError(
                f"{where}: prompt must be a text or a list of messages {{role, content}}, got "
                f"{shown(row.get('prompt'))}; columns says which column is the prompt"
            )
        return row

    # Answers

    def max_tokens(self, problem: Row) -> int:
        return self.completion

    def verify(self, response: str, problem: Row) -> Verdict:
        return self.verify_many([response], [problem])[0]

    def verify_many(self, responses: Sequence[str], problems: Sequence[Row]) -> list[Verdict]:
        """The judge's verdict on each response; all are given to it together.

        Raises UserError, naming the judge, when it cannot be imported, fails, or does not give a number for each.
        """
        rewards = self._rewards(responses, problems) if responses else []
        return [
            Verdict(True, "") if reward >= self.threshold else Verdict(False, f"reward {reward:g} < {self.threshold:g}")
            for reward in rewards
        ]

    def _rewards(self, responses: Sequence[str], problems: Sequence[Row]) -> list[float]:
        judge = imported("judge", self.judge)
        if not callable(judge):
            raise UserError(f"judge {self.judge} must be a function, got {shown(judge)}")
        names = dict.fromkeys(name for problem in problems for name in problem if name not in ("prompt", "completion"))
        columns = {name: [problem.get(name) for problem in problems] for name in names}
        completions = [
            text if isinstance(problem["prompt"], str) else [{"role": "assistant", "content": text}]
            for text, problem in zip(responses, problems, strict=True)
        ]
        with in_one_sentence(f"judge {self.judge} fails"):
            given = judge(prompts=[problem["prompt"] for problem in problems], completions=completions, **columns)
        try:
            rewards = [float(reward) for reward in given]
        except (TypeError, ValueError):
            rewards = None
        if rewards is None or len(rewards) != len(responses) or any(map(math.isnan, rewards)):
            raise UserError(
                f"judge {self.judge} must give a list of {len(responses)} numbers, one for each completion, "
                f"got {shown(given)}"
            )
        return rewards


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    turns = value if isinstance(value, list) and value else [None]
    return all(
        isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    )
