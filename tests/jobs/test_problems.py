"""What a run trains on and what it is evaluated on: nothing stands in both unless that is asked for."""

import json
from dataclasses import replace

import pytest

from psn_tutorial.cli import main
from psn_tutorial.config import RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.experiments.presets import PRESETS
from psn_tutorial.jobs.problems import check_apart, held_out_problems, training_problems
from psn_tutorial.jobs.training import TrainingJob
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.files import write_problems
from psn_tutorial.tasks.math import SOURCES, Math
from psn_tutorial.tasks.questions import Problem
from psn_tutorial.tasks.rules import Rules


def check(config):
    task = get_task(config.task, **config.difficulty)
    check_apart(task, training_problems(task, config), held_out_problems(task, config.evaluation()), config)


def refused(config, overlap):
    with pytest.raises(UserError, match=f"^{overlap} problems to evaluate on are also trained on, such as .*--allow-"):
        check(config)
    check(replace(config, allow_overlap=True))
    check(replace(config, evaluate=False))


@pytest.fixture
def file(tmp_path):
    """A function (name, questions) -> the path of a file that asks them, each with an answer of its own."""

    def write(name, *questions):
        rows = [{"question": question, "answer": number, "id": name} for number, question in enumerate(questions)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    ("difficulty", "overlap"),
    [
        ({"source": "word_problems", "split": "eval"}, "48 of the 48"),
        ({"source": "word_problems", "split": "train"}, "192 of the 192"),
        ({"source": "sums", "split": "eval"}, "120 of the 120"),
    ],
)
def test_one_split_for_both_is_refused(difficulty, overlap):
    refused(RunConfig(task="math", difficulty=difficulty), overlap)


def test_one_file_for_both_is_refused(file):
    path = file("a.jsonl", "One?", "Two?", "Three?")
    refused(RunConfig(task="math", difficulty={"path": path}), "3 of the 3")
    refused(RunConfig(task="math", train_file=path, eval_file=path), "3 of the 3")
    refused(RunConfig(task="math", train_file=path, eval_file=path, eval_problems=2), "2 of the 2")


def test_questions_are_compared_and_not_files_or_rows(file):
    config = RunConfig(
        task="math",
        train_file=file("a.jsonl", "How many\n ½ apples?", "Two?"),
        eval_file=file("b.jsonl", "Three?", "Two? ", "how  MANY 1⁄2 apples?"),
    )
    refused(config, "2 of the 3")
    check(replace(config, eval_problems=1))
    check(replace(config, eval_file=file("c.jsonl", "Three?", "Twos?")))


def test_a_file_beside_the_tasks_own_problems(tmp_path):
    """Those of a file that a task itself evaluates on, in another order where that is no other problem."""
    for name in ("countdown", "rules"):
        task = get_task(name)
        write_problems(tmp_path / "eval.jsonl", task, task.problems("eval")[:7])
        refused(RunConfig(task=name, train_file=str(tmp_path / "eval.jsonl")), "7 of the [12]00")
        write_problems(tmp_path / "train.jsonl", task, task.problems("train")[5:9])
        refused(RunConfig(task=name, eval_file=str(tmp_path / "train.jsonl")), "4 of the 4")
        check(RunConfig(task=name, eval_file=str(tmp_path / "eval.jsonl")))
    task = get_task("countdown")
    turned = [replace(problem, numbers=problem.numbers[::-1]) for problem in task.problems("eval")]
    write_problems(tmp_path / "turned.jsonl", task, turned)
    refused(RunConfig(task="countdown", train_file=str(tmp_path / "turned.jsonl")), "200 of the 200")


def test_problems_of_another_difficulty_are_apart_by_themselves():
    for task, difficulty in (("countdown", {"numbers": 3}), ("rules", {"steps": 4}), ("math", {"source": "sums"})):
        check(RunConfig(task=task, difficulty=difficulty))


def test_a_task_with_one_problem_has_no_other_to_be_evaluated_on(tmp_path):
    check(RunConfig(task="chain"))
    check(RunConfig(task="rules", difficulty={"values": False, "steps": 3}))
    assert get_task("chain").single and not Rules().single
    task = Math()  # a file with one problem is another matter
    write_problems(tmp_path / "one.jsonl", task, [Problem("One?", "1")])
    path = str(tmp_path / "one.jsonl")
    refused(RunConfig(task="math", train_file=path, eval_file=path), "1 of the 1")


def test_a_benchmark_with_one_part_is_not_both(monkeypatch):
    monkeypatch.setattr("psn_tutorial.tasks.math._from_hub", lambda name, split: [{"question": split, "answer": 1}])
    check(RunConfig(task="math", difficulty={"source": "gsm8k"}))
    refused(RunConfig(task="math", difficulty={"source": "aime2024"}), "1 of the 1")
    for name in SOURCES:  # or it is refused for having no other part
        if len(SOURCES[name].splits) == 1:
            with pytest.raises(UserError, match="problems to train on|also trained on"):
                check(RunConfig(task="math", difficulty={"source": name}))


def test_every_preset_keeps_them_apart():
    for experiments in PRESETS.values():
        for experiment in experiments.values():
            check(experiment.config(experiment.reference, experiment.seeds[0]))


def test_a_job_asks_before_anything_is_written(file, tmp_path):
    path = file("a.jsonl", "One?", "Two?")
    config = RunConfig(task="math", difficulty={"source": "sums"}, train_file=path, eval_file=path, steps=1)
    with pytest.raises(UserError, match="2 of the 2 problems to evaluate on are also trained on, such as 'one.'"):
        TrainingJob.start(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="2 of the 2"):
        TrainingJob(config)  # as preflight and compare make it


def test_a_run_is_not_evaluated_on_what_it_was_trained_on_either(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = get_task("rules")
    problems = task.generate(7, 6)
    write_problems("mine.jsonl", task, problems[:4])
    write_problems("others.jsonl", task, problems[4:])
    sizes = "--task rules --steps 1 --prompts 2 --group 2 --no-evaluate --train-file mine.jsonl --out run".split()
    assert main(["train", *sizes]) == 0
    for policy in ("run", "run/policy"):
        words = ["evaluate", policy, "--task", "rules", "--samples", "2", "--out", f"{policy}-evaluated"]
        assert main([*words, "--eval-file", "mine.jsonl"]) == 2
        assert "4 of the 4 problems to evaluate on are also trained on" in capsys.readouterr().err
        assert main([*words, "--eval-file", "others.jsonl"]) == 0
    assert main([*words[:-1], "wanted", "--eval-file", "mine.jsonl", "--allow-overlap"]) == 0
