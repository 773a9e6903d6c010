"""The task ``judged``: rows of a file or of the hub, judged by a reward function of TRL's signature."""

import json
import sys
import types

import pytest

from psn_tutorial.cli import main
from psn_tutorial.config import RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.files import write_problems

ROWS = [{"question": f"What is {n} + 1 ?", "answer": str(n + 1), "id": n} for n in range(10)]
COLUMNS = {"question": "prompt", "answer": "solution"}
REWARDS = """
def exact(prompts, completions, solution, **columns):
    assert sorted(columns) == ["id"]
    return [float(right == text.strip()) for text, right in zip(completions, solution)]

def partly(prompts, completions, **columns):
    return [min(1.0, len(text) / 4) for text in completions]

def chat(prompts, completions, **columns):
    return [float(row[0]["content"] == turns[-1]["content"]) for turns, row in zip(prompts, completions)]

def tensors(prompts, completions, **columns):
    import torch
    return torch.ones(len(completions))

def broken(prompts, completions, **columns):
    return [1 / len(text) for text in completions]

def too_few(prompts, completions, **columns):
    return [1.0]

def nan(prompts, completions, **columns):
    return [float("nan")] * len(completions)

def nothing(prompts, completions, **columns):
    pass

def none(prompts, completions, **columns):
    return [None] * len(completions)

def one_number(prompts, completions, **columns):
    return 1.0

async def later(prompts, completions, **columns):
    return [1.0] * len(completions)

def text_alone(completions):
    return [1.0] * len(completions)

not_a_function = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with rows.jsonl and own_rewards.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "own_rewards.py").write_text(REWARDS)
    yield tmp_path
    sys.modules.pop("own_rewards", None)


def judged(judge="exact", **fields):
    return get_task("judged", **{"judge": f"own_rewards:{judge}", "path": "rows.jsonl", "columns": COLUMNS, **fields})


def test_rows_of_a_file_one_in_five_for_evaluation(here):
    task = judged(completion=7)
    assert [row["id"] for row in task.problems("eval")] == [4, 9]
    assert [row["id"] for row in task.problems("train")] == [0, 1, 2, 3, 5, 6, 7, 8]
    first = task.problems("train")[0]
    assert first == {"prompt": "What is 0 + 1 ?", "solution": "1", "id": 0} and task.max_tokens(first) == 7
    write_problems(here / "again.jsonl", task, task.rows())
    assert (here / "again.jsonl").read_text() == (here / "rows.jsonl").read_text()
    some = task.generate(3, 4, exclude=task.rows()[:5])
    assert some == task.generate(3, 4, exclude=task.rows()[:5]) and {row["id"] for row in some} < set(range(5, 10))


def test_rows_of_the_hub(here, monkeypatch):
    asked = []
    hub = types.SimpleNamespace(load_dataset=lambda *words, **more: asked.append((words, more)) or ROWS)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    task = judged(path=None, hub="a/b", subset="main", split="test")
    assert task.problems("eval") == judged().problems("eval") and asked == [(("a/b", "main"), {"split": "test"})]
    hub.load_dataset = lambda *words, **more: [*ROWS, {"question": "?"}]
    with pytest.raises(
        UserError, match="^a/b row 11 must have the column 'answer' that columns names, it has question$"
    ):
        task.rows()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="a/b is on the hub: pip install datasets"):
        task.rows()


def test_the_judge_gets_what_trl_gives_it(here):
    task = judged()
    rows = task.rows()[:3]
    verdicts = task.verify_many(["1", " 2 ", "2"], rows)
    assert [(v.correct, v.reason) for v in verdicts] == [(True, ""), (True, ""), (False, "reward 0 < 1")]
    assert task.verify("", rows[0]).correct is False and task.verify_many([], []) == []
    chat = judged("chat", columns={"turns": "prompt"})
    row = chat.from_json({"turns": [{"role": "user", "content": "Hi."}], "id": 1}, "row")
    assert chat.verify("Hi.", row).correct and not chat.verify("Ho.", row).correct and chat.prompt(row) == "Hi."
    assert judged("tensors").verify("", rows[0]).correct


@pytest.mark.parametrize(("threshold", "right"), [(1.0, "..###"), (0.5, ".####"), (0, "#####")])
def test_an_answer_is_right_from_the_threshold_on(here, threshold, right):
    task = judged("partly", threshold=threshold)
    verdicts = task.verify_many(["x", "xx", "xxxx", "x" * 5, "x" * 9], task.rows()[:5])
    assert "".join(".#"[v.correct] for v in verdicts) == right


def test_what_the_model_reads(here):
    row = judged().rows()[0]
    user = {"role": "user", "content": "What is 0 + 1 ?"}
    assert judged().messages(row) is None and judged().prompt(row) == user["content"]
    assert judged(system="").messages(row) == [user]
    assert judged(system="Add.").messages(row) == [{"role": "system", "content": "Add."}, user]
    assert judged(system="Add.").messages({"prompt": [user]}) == judged(system="Add.").messages(row)


NUMBERS = "must give a list of 2 numbers, one for each completion, got"


@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        ("broken", "fails: ZeroDivisionError: .* \\(own_rewards.py, line 17\\)$"),
        ("text_alone", "fails: TypeError: text_alone.. got an unexpected keyword argument 'prompts'"),
        ("too_few", f"{NUMBERS} \\[1.0\\]"),
        ("nan", f"{NUMBERS} \\[nan, nan\\]"),
        ("nothing", f"{NUMBERS} None"),
        ("none", f"{NUMBERS} \\[None, None\\]"),
        ("one_number", f"{NUMBERS} 1.0"),
        ("not_a_function", "must be a function, got 3"),
    ],
)
def test_a_judge_that_does_not_judge_is_named(here, judge, sentence):
    with pytest.raises(UserError, match=f"^judge own_rewards:{judge} {sentence}"):
        judged(judge).verify_many(["", "x"], judged().rows()[:2])


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_judge_that_answers_later_is_refused(here):
    with pytest.raises(UserError, match=f"^judge own_rewards:later {NUMBERS} <coroutine"):
        judged("later").verify_many(["", "x"], judged().rows()[:2])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"judge": "own_rewards"}, "judge must be written as module:function, such as my_module:reward, got 'own_rew"),
        ({"judge": 3}, "judge must be written as module:function"),
        ({"hub": "a/b"}, "path and hub cannot both say where the rows are"),
        ({"path": 3}, "path must be a text, got 3"),
        ({"split": None}, "split must be a text, got None"),
        ({"columns": ["question"]}, r"columns must map names to names, got \['question'\]"),
        ({"columns": {"question": 3}}, "columns must map names to names"),
        ({"threshold": float("nan")}, "threshold must be a finite number, got nan"),
        ({"threshold": "1"}, "threshold must be a finite number, got '1'"),
        ({"completion": 0}, "completion must be a whole number >= 1"),
        ({"colums": {}}, "task judged has no field 'colums' .did you mean 'columns'"),
    ],
)
def test_impossible_settings(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        get_task("judged", **{"judge": "own_rewards:exact", "path": "rows.jsonl", **fields})


def test_settings_and_problems_do_not_import_the_judge(here):
    assert RunConfig(task="judged", difficulty={"judge": "own_rewards:exact"}) and judged().problems("eval")
    assert "own_rewards" not in sys.modules


@pytest.mark.parametrize(
    ("columns", "row", "sentence"),
    [
        (COLUMNS, {"question": "?"}, "must have the column 'answer' that columns names, it has question"),
        ({}, {"question": "?"}, "prompt must be a text or a list of messages {role, content}, got None; columns says"),
        ({}, {"prompt": " "}, "prompt must be a text or a list of messages"),
        ({}, {"prompt": []}, "prompt must be a text or a list of messages"),
        ({}, {"prompt": [{"role": "user"}]}, "prompt must be a text or a list of messages"),
        ({"a": "prompt"}, {"a": "?", "prompt": "!"}, "columns gives two columns one name"),
        ({}, {"prompt": "?", "completions": 1}, "no column may be called 'completions'"),
        ({}, ["?"], "must be a JSON object, got list"),
    ],
)
def test_a_row_that_does_not_fit(columns, row, sentence):
    with pytest.raises(UserError, match=f"^here {sentence}|^here: {sentence}"):
        judged(columns=columns).from_json(row, "here")


def test_no_rows_and_too_few(here):
    with pytest.raises(UserError, match="path or hub must say where the rows are, or --train-file and --eval-file"):
        judged(path=None).problems("train")
    (here / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(UserError, match="rows.jsonl must have at least 5 rows: one in 5 is for evaluation"):
        judged().problems("eval")
    with pytest.raises(UserError, match="task judged needs its field 'judge': --difficulty judge=..."):
        RunConfig(task="judged")


def test_it_is_trained_and_evaluated_from_the_command_line(here, language_model, capsys):
    columns = f"columns={json.dumps(COLUMNS)}"
    words = ["train", "--task", "judged", "--base", str(language_model), "--steps", "1", "--prompts", "2"]
    words += ["--group", "2", "--samples", "2", "--sigma", "0.1", "--relative", "--difficulty", "path=rows.jsonl"]
    more = [columns, "completion=3", "threshold=0.5", "system=Add."]
    assert main([*words, "judge=own_rewards:partly", *more, "--out", "run"]) == 0, capsys.readouterr().err
    assert main(["evaluate", "run", "--samples", "3", "--out", "again"]) == 0
    capsys.readouterr()
    for judge, sentence in (
        ("broken", "judge own_rewards:broken fails: ZeroDivisionError"),
        ("gone", "judge own_rewards:gone: the module own_rewards"),
    ):
        assert main([*words, f"judge=own_rewards:{judge}", *more, "--out", "bad"]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1 and not (here / "bad").exists()
