"""A task of one's own: one class, one call, and everything that takes a task takes it."""

import doctest
from dataclasses import dataclass
from typing import ClassVar

import pytest

from psn_tutorial.cli import main
from psn_tutorial.config import RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.policies import save_policy
from psn_tutorial.jobs.training import TrainingJob
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.tiny import build_model, build_tokenizer
from psn_tutorial.tasks import Task, Verdict, get_task, register_task, registry


@dataclass(frozen=True)
class Parity(Task[int]):
    """Say whether a digit is odd or even. Only what is abstract is written, and the words."""

    name: ClassVar[str] = "parity"
    splits = {"eval": {"seed": 0, "count": 4}, "train": {"seed": 1, "count": 6}}
    limit: int = 10

    @property
    def words(self):
        return [*map(str, range(self.limit)), "odd", "even"]

    def generate(self, seed, count, exclude=()):
        left = [number for number in range(self.limit) if number not in set(exclude)]
        return [left[(seed + i) % len(left)] for i in range(count)]

    def prompt(self, problem):
        return str(problem)

    def max_tokens(self, problem):
        return 2

    def verify(self, response, problem):
        right = response.split()[:1] == [("even", "odd")[problem % 2]]
        return Verdict(right, "" if right else "the other one")

    def to_json(self, problem):
        return {"number": problem}

    def from_json(self, fields, where):
        return int(fields["number"])


@pytest.fixture
def parity(tmp_path):
    """The registered task, and a folder with a small random policy that knows its words."""
    register_task(Parity)
    tokenizer = build_tokenizer(Parity().words)
    model = build_model(TinyConfig(hidden=16, ff=32, heads=2, kv_heads=2), tokenizer)
    save_policy(Policy(model, tokenizer), tmp_path / "base")
    yield tmp_path
    registry._CLASSES.pop("parity")


def test_the_examples_in_the_docstrings_run():
    failed, tried = doctest.testmod(registry)
    assert (failed, tried > 0) == (0, True)


def test_a_task_from_outside_is_trained_and_evaluated(parity, capsys):
    assert get_task("parity", limit=8).problems("train") == [5, 6, 7, 4, 5, 6]  # those that eval leaves
    config = RunConfig(
        task="parity", base=str(parity / "base"), prompts=2, group=8, steps=2, sigma=0.5, relative=True, samples=16
    )
    job = TrainingJob.start(parity / "run", config)
    with Stop() as stop:
        assert [record["step"] for record in job.train(stop)] == [1, 2]
    results = EvaluationRecord.read(parity / "run" / "eval.json").last
    assert [r.problem for r in results] == ["0", "1", "2", "3"] and all(r.n == 16 for r in results)
    assert any(r.c for r in results) and results[0].total_solutions is None  # no solutions are listed: no coverage
    assert main(["evaluate", str(parity / "run"), "--samples", "4", "--out", str(parity / "again")]) == 0
    assert main(["train", "--help"]) == 0 and "parity" in capsys.readouterr().out


def test_what_it_does_not_offer_is_refused_in_a_sentence(parity):
    task = get_task("parity")
    with pytest.raises(UserError, match="samples must be >= 1: parity has no exact probabilities"):
        RunConfig(task="parity", samples=0)
    for ask, sentence in (
        (lambda: task.solutions(1), "the solutions of a problem of parity cannot be listed"),
        (lambda: task.exact_success(None, 1), "parity has no exact probabilities"),
        (lambda: task.demonstration(1, None), "parity has no demonstrations"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask()
    assert task.messages(1) is None and task.ends and task.base == "parity"


def test_one_name_is_one_task(parity):
    register_task(Parity)  # once more is no harm: a notebook runs its cells again
    with pytest.raises(UserError, match="there is a task called 'rules' already: choose another name for Other"):
        register_task(type("Other", (Parity,), {"name": "rules"}))


def test_a_class_that_is_written_anew_replaces_the_earlier_one(parity):
    anew = type("Parity", (Parity,), {"__module__": Parity.__module__})
    assert register_task(anew) is not Parity and type(get_task("parity")) is anew


def test_what_is_no_task_is_refused():
    with pytest.raises(UserError, match="a task must be a class derived from psn_tutorial.tasks.Task, got 3"):
        register_task(3)
    with pytest.raises(UserError, match="the task Half lacks from_json, generate, max_tokens, prompt, to_json, verify"):
        register_task(type("Half", (Task,), {"name": "half"}))
    with pytest.raises(UserError, match="the task Nameless needs a name, such as name = 'sorting', got ''"):
        register_task(type("Nameless", (Parity,), {"name": ""}))


def test_an_unknown_task_is_told_with_the_registered_ones(parity):
    with pytest.raises(
        UserError, match=r"of countdown, rules, chain, math, judged, habit, parity, got 'parrity' \(did you mean"
    ):
        get_task("parrity")
    with pytest.raises(UserError, match=r"task must be one of 'countdown', .*'parity', got 'chess'"):
        RunConfig(task="chess")
