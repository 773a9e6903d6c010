"""The shipped problems: made as the manifest says, disjoint, of the stated difficulty."""

import hashlib
import json

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.tasks import get_task, load_split
from psn_tutorial.tasks.countdown import solve
from psn_tutorial.tasks.files import DATA, MANIFEST
from psn_tutorial.tasks.splits import SPLITS, make_splits

FILES = [f"{task}/{split}.jsonl" for task, splits in SPLITS.items() for split in splits]


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    make_splits(data)
    return data


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_made_again_byte_for_byte(file, remade):
    assert (remade / file).read_bytes() == (DATA / file).read_bytes()


def test_the_manifest_tells_the_truth_about_every_file(remade):
    shipped = json.loads((DATA / MANIFEST).read_text())
    assert {f: shipped[f] for f in FILES} == json.loads((remade / MANIFEST).read_text())
    for file in FILES:
        data = (DATA / file).read_bytes()
        assert shipped[file]["sha256"] == hashlib.sha256(data).hexdigest()
        assert shipped[file]["rows"] == data.count(b"\n")


@pytest.mark.parametrize("file", FILES)
def test_the_manifest_alone_is_enough_to_make_a_file(file):
    entry = json.loads((DATA / MANIFEST).read_text())[file]
    task_name, split = file.removesuffix(".jsonl").split("/")
    arguments = dict(entry["arguments"])
    excluded = [name.removesuffix(".jsonl").split("/") for name in arguments.pop("exclude")]
    exclude = [problem for name in excluded for problem in load_split(*name)]
    task = get_task(task_name, **entry["difficulty"])
    assert task.generate(**arguments, exclude=exclude) == load_split(task_name, split)


def test_no_shipped_file_of_problems_is_missing_from_the_manifest():
    on_disk = {f"{path.parent.name}/{path.name}" for path in DATA.glob("*/*.jsonl")}
    assert {name for name in on_disk if name.split("/")[0] in SPLITS} == set(FILES)


def test_the_manifest_keeps_what_others_entered(tmp_path):
    (tmp_path / MANIFEST).write_text('{"bases/x": {"sha256": "0"}}')
    make_splits(tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text())["bases/x"] == {"sha256": "0"}


def test_countdown_splits_are_solvable_and_share_no_problem():
    train, held_out = load_split("countdown", "train"), load_split("countdown", "eval")
    keys = [(tuple(sorted(p.numbers)), p.target) for p in train + held_out]
    assert len(set(keys)) == len(keys) == 4200
    for problem in train + held_out:
        assert len(problem.numbers) == 4 and 10 <= problem.target <= 99
        assert 1 <= min(problem.numbers) and max(problem.numbers) <= 15
        assert solve(problem)


def test_rules_splits_share_no_problem():
    digits = [p.digits for s in ("train", "eval") for p in load_split("rules", s)]
    assert len(set(digits)) == len(digits) == 2100
    assert {len(d) for d in digits} == {6}


@pytest.mark.parametrize("split", ["train", "eval"])
def test_the_chain_has_its_one_problem_in_every_split(split):
    [problem] = load_split("chain", split)
    assert get_task("chain").prompt(problem) == ":"


@pytest.mark.parametrize("task", ["countdown", "rules", "chain"])
def test_an_unknown_split_is_refused(task):
    with pytest.raises(UserError, match="split must be one of 'eval', 'train', got 'evil'.*'eval'"):
        load_split(task, "evil")
    with pytest.raises(UserError, match="task must be one of"):
        load_split("sudoku", "eval")


def test_data_that_is_not_beside_the_package_is_told(tmp_path):
    with pytest.raises(UserError, match="countdown/eval.jsonl are not in .*pip install -e"):
        load_split("countdown", "eval", data=tmp_path)


def test_a_run_is_told_so_too_and_nothing_is_made_in_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr("psn_tutorial.tasks.files.shipped_problems.__defaults__", (tmp_path,))
    with pytest.raises(UserError, match="rules/train.jsonl are not in"):
        get_task("rules").problems("train")
    assert len(get_task("rules", steps=5).problems("train")) == 2000  # of another difficulty none are shipped


def test_a_task_in_plain_language_has_its_own_parts():
    assert load_split("math", "eval") == get_task("math").problems("eval") != load_split("math", "train")
