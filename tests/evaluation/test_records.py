import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psn_tutorial.config import RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.metrics import per_problem
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.results import ProblemResult
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.runs.files import write_json
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.settings import to_mapping


@st.composite
def result(draw, number=0):
    """What the samples of one problem can have come to; its name from its number."""
    n = draw(st.integers(4, 40))
    c = draw(st.integers(0, n))
    counts = []
    while c - sum(counts) > 0 and draw(st.booleans()):
        counts.append(draw(st.integers(1, c - sum(counts))))
    solutions = {f"solution {number}.{i}": count for i, count in enumerate(counts)}
    families = {"all of them": sum(counts)} if counts else {}
    exact = draw(st.none() | st.floats(0, 1).map(lambda x: float(f"{x:.7g}")))
    total = len(counts) + draw(st.integers(1, 3))
    return ProblemResult(f"{number} ->", n, c, solutions, total, families, 1 + len(families), exact)


@st.composite
def record(draw):
    count = draw(st.integers(1, 4))
    first = [draw(result(number)) for number in range(count)]
    record = EvaluationRecord("rules", 40, draw(st.floats(0.1, 3)), draw(st.integers(0, 9)))
    for step in draw(st.sets(st.integers(0, 500), min_size=1, max_size=3)):
        again = [draw(result(number)) for number in range(count)]
        # The problem's own facts are the same at every step.
        record.steps[step] = [
            replace(b, total_solutions=10**6, total_families=10**6) if b.n else a
            for a, b in zip(first, again, strict=True)
        ]
    return record


@settings(max_examples=60, deadline=None)
@given(record())
def test_every_figure_survives_the_file(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("record") / "eval.json"
    made.write(path)
    back = EvaluationRecord.read(path)
    assert (back.task, back.samples, back.temperature, back.seed) == (
        made.task,
        made.samples,
        made.temperature,
        made.seed,
    )
    assert list(back.steps) == sorted(made.steps)
    for step, results in made.steps.items():
        again = back.steps[step]
        assert [(r.problem, r.n, r.c, r.exact) for r in again] == [(r.problem, r.n, r.c, r.exact) for r in results]
        for metric in ("pass@1", "pass@4", "coverage", "coverage@2", "family_coverage@3"):
            assert per_problem(again, metric) == pytest.approx(per_problem(results, metric))
    assert back.last == back.steps[max(made.steps)]
    text = path.read_text()
    assert "solution" not in text.replace('"solutions"', "").replace('"total_solutions"', "")


def test_a_record_without_samples_keeps_the_probabilities_alone(tmp_path):
    made = EvaluationRecord("rules", 0)
    made.steps[3] = [ProblemResult("1 :", 0, 0, exact=1.23456789e-6, total_solutions=1)]
    made.write(tmp_path / "eval.json")
    lines = (tmp_path / "eval.json").read_text().splitlines()
    assert '{"exact": 1.234568e-06}' in lines
    assert EvaluationRecord.read(tmp_path / "eval.json").last[0].exact == 1.234568e-6


def test_an_empty_record_has_no_last():
    with pytest.raises(UserError, match="^the record holds no evaluation$"):
        _ = EvaluationRecord("rules", 4).last


GOOD = {
    "task": "rules",
    "samples": 4,
    "temperature": 1.0,
    "seed": 0,
    "problems": [{"problem": "1 :", "total_solutions": 2, "total_families": 1}],
    "evaluations": [{"step": 5, "problems": [{"n": 4, "c": 2, "solutions": [2], "families": [2]}]}],
}


def with_result(fields):
    return GOOD | {"evaluations": [{"step": 5, "problems": [fields]}]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "is not a record of evaluations"),
        ({}, "is not a record of evaluations"),
        ({k: v for k, v in GOOD.items() if k != "samples"}, "is not a record of evaluations"),
        (GOOD | {"problems": 3}, "is not a record of evaluations"),
        (with_result(3), "is not a record of evaluations"),
        (with_result({"n": 4, "c": 2, "solutions": 3}), "is not a record of evaluations"),
        (GOOD | {"problems": []}, "step 5: 1 results for 0 problems"),
        (with_result({"n": 4, "c": 5}), "step 5, problem 0: c must be a whole number"),
        (with_result({"n": 4, "c": 2, "x": 1}), "step 5, problem 0: unknown field 'x'"),
        (with_result({"n": 4, "c": 2, "solutions": [1, 1, 1]}), "total_solutions must be"),
    ],
)
def test_a_wrong_record_is_refused_in_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        EvaluationRecord.read(path)
    assert str(path) in str(error.value) and sentence in str(error.value)


def a_run(tmp_path, **changes):
    config = RunConfig(task="rules", steps=4, eval_every=2, samples=0, **changes)
    return RunFolder.create(tmp_path / "run", to_mapping(config) | {"base_sha256": "abc"}), config


def test_a_run_is_finished_when_its_steps_and_its_evaluations_are_there(tmp_path):
    run, config = a_run(tmp_path)
    made = EvaluationRecord("rules", 0)
    states = []
    for step in range(1, 5):
        run.log({"step": step})
        if step % 2 == 0:
            states.append(RunRecord.read(run.path).finished)
            made.steps[step] = [ProblemResult("1 :", 0, 0, exact=0.5)]
            made.write(run.path / "eval.json")
        states.append(RunRecord.read(run.path).finished)
    assert states == [False] * 5 + [True]
    record = RunRecord.read(run.path)
    assert record.settings == config and record.config["base_sha256"] == "abc"
    write_json(run.path / "eval.json", GOOD)  # step 5 alone: step 2 and 4 are missing
    assert not RunRecord.read(run.path).finished


def test_without_evaluations_the_steps_are_enough(tmp_path):
    run, _ = a_run(tmp_path, evaluate=False)
    for step in range(1, 5):
        assert not RunRecord.read(run.path).finished
        run.log({"step": step})
    assert RunRecord.read(run.path).finished


def test_another_kind_of_run_is_no_training_run(tmp_path):
    for name, config, sentence in (
        ("eval", {"task": "rules", "policy_sha256": "abc"}, "eval is no training run$"),
        ("new", {"steps": 3, "group": 4, "stepps": 3}, "config.json: unknown field 'stepps'"),
    ):
        run = RunFolder.create(tmp_path / name, config)
        with pytest.raises(UserError, match=sentence):
            _ = RunRecord.read(run.path).settings
