"""get_task and the problem files: what is accepted, and the sentence when it is not."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.tasks import TASK_NAMES, Verdict, get_task
from psn_tutorial.tasks.files import read_problems, write_problems


@pytest.mark.parametrize("name", TASK_NAMES)
def test_every_task_is_found_by_its_name_and_agrees_with_its_own_protocol(name):
    task = get_task(name)
    assert task.name == name
    for problem in task.generate(seed=5, count=3):
        words = task.prompt(problem).split(" ")
        assert set(words) <= set(task.words) and words[-1] == ":"
        for solution in task.solutions(problem):
            assert isinstance(solution, str)
        assert task.from_json(task.to_json(problem), "here") == problem
    assert len(set(task.words)) == len(task.words)


@pytest.mark.parametrize("name", TASK_NAMES)
@given(seed=st.integers(0, 2**32), choice=st.randoms(use_true_random=False))
def test_a_demonstration_is_made_of_words_and_flags_each(name, seed, choice):
    task = get_task(name)
    [problem] = task.generate(seed, 1)
    demonstration = task.demonstration(problem, choice)
    words = demonstration.text.split(" ")
    assert set(words) <= set(task.words)
    assert len(demonstration.loss) == len(words) == task.max_tokens(problem) - task.ends
    assert demonstration.end_loss is task.ends


def test_difficulty_reaches_the_task():
    assert get_task("countdown", numbers=3).numbers == 3
    assert get_task("countdown", target=[20, 30]).target == (20, 30)
    assert get_task("chain", steps=4).steps == 4


@pytest.mark.parametrize(
    ("name", "difficulty", "sentence"),
    [
        ("contdown", {}, r"one of countdown, rules, chain, math, judged, habit, got 'contdown'.*countdown"),
        ("countdown", {"number": 3}, "no field 'number'.*'numbers'.*it has numbers, largest"),
        ("rules", {"prior": 3}, "task rules has no field 'prior'"),
    ],
)
def test_unknown_names_are_refused(name, difficulty, sentence):
    with pytest.raises(UserError, match=sentence):
        get_task(name, **difficulty)


def test_a_verdict_of_wrong_carries_no_solution():
    assert Verdict(False, "empty") == Verdict(False, "empty", None, None)


@pytest.mark.parametrize("seed", [-1, None, 0.5, "7"])
def test_seeds_that_python_would_take_for_another_are_refused(seed):
    for name in TASK_NAMES[:2]:
        with pytest.raises(UserError, match="seed must be a whole number"):
            get_task(name).generate(seed, 1)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_files_round_trip(name, tmp_path):
    task = get_task(name)
    problems = task.generate(3, 5)
    write_problems(tmp_path / "a.jsonl", task, problems)
    assert read_problems(tmp_path / "a.jsonl", task) == problems
    data = (tmp_path / "a.jsonl").read_bytes()
    assert data.count(b"\n") == 5 and data.endswith(b"\n") and b"\r" not in data
    (tmp_path / "b.jsonl").write_bytes(data.removesuffix(b"\n"))  # a lost last newline is no loss
    assert read_problems(tmp_path / "b.jsonl", task) == problems


GOOD = b'{"numbers": [1, 2], "target": 3}\n'


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON: the line is blank"),
        (b"\xff", "is not JSON: it is not text in UTF-8"),
        (
            b'{"numbers": [1 2]}',
            "is not JSON: Expecting ',' delimiter at character 16 .wanted is one object on each line",
        ),
        (b'{"numbers": [1, 2], "target": 3, "target": 4}', "the field 'target' stands twice in one object"),
        (b"[" * 100_000, "is not JSON"),
        (b"1" * 5000, "is not JSON"),
        (b"[1, 2]", "must hold exactly the fields numbers, target, got list"),
        (b"{}", "must hold exactly the fields numbers, target, got"),
        (b'{"numbers": [1, 2]}', "must hold exactly the fields"),
        (b'{"numbers": [1, 2], "target": 3, "x": 1}', "exactly the fields.*numbers, target, x"),
        (b'{"numbers": "12", "target": 3}', "numbers must be a list of whole numbers, got '12'"),
        (b'{"numbers": {"1": 2}, "target": 3}', "numbers must be a list of whole numbers"),
        (b'{"numbers": [1, 2.0], "target": 3}', r"numbers\[1\] must be a whole number >= 0 and <= 99"),
        (b'{"numbers": [1, true], "target": 3}', r"numbers\[1\] must be a whole number >= 0 and <= 99"),
        (b'{"numbers": [1, 100], "target": 3}', r"numbers\[1\] must be a whole number.* got 100"),
        (b'{"numbers": [-1, 1], "target": 3}', r"numbers\[0\] must be a whole number"),
        (b'{"numbers": [1], "target": 3}', "numbers must be 2..6, got 1"),
        (b'{"numbers": [1, 1, 1, 1, 1, 1, 1], "target": 3}', "numbers must be 2..6, got 7"),
        (b'{"numbers": [1, 2], "target": 100}', "target must be a whole number >= 0 and <= 99, got 100"),
        (b'{"numbers": [1, 2], "target": NaN}', "is not JSON: NaN is not valid JSON"),
    ],
    ids=lambda text: repr(text[:40]),
)
def test_a_broken_line_is_named_by_its_number(line, sentence, tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_bytes(GOOD + GOOD + line + b"\n" + GOOD)
    with pytest.raises(UserError, match=f"^problems.jsonl line 3.*{sentence}"):
        read_problems(path, get_task("countdown"))


LINES = GOOD + b'{"numbers": [3, 4], "target": 7}\n'


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + LINES,
        LINES + b"\n",
        LINES + b"  \r\n\n",
        LINES.replace(b"\n", b"\r\n"),
        b"[" + LINES.strip().replace(b"\n", b",\n ") + b"]\n",
        b"\xef\xbb\xbf\n[\n" + LINES.strip().replace(b"\n", b",") + b"\n]",
    ],
)
def test_a_file_as_other_programs_write_it_is_read(data, tmp_path):
    path = tmp_path / "problems.json"
    path.write_bytes(data)
    task = get_task("countdown")
    assert [task.prompt(problem) for problem in read_problems(path, task)] == ["1 2 -> 3 :", "3 4 -> 7 :"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"PAR1\x15\x04", "problems.json is a Parquet file: problems stand in a text file in UTF-8, one JSON object"),
        (gzip.compress(LINES, mtime=0), "problems.json is compressed with gzip: problems stand in a text file"),
        (b"PK\x03\x04\x14\0", "problems.json is a zip file"),
        (LINES.decode().encode("utf-16"), "problems.json is text in UTF-16"),
        (
            b"question,answer\nTwo?,2\n",
            "problems.json line 1 is not JSON: Expecting value at character 1 .wanted is one",
        ),
        (b'{\n "data": []\n}\n', "problems.json line 1 is not JSON: Expecting property name"),
        (b'{"data": [1]}', "problems.json line 1 must hold exactly the fields numbers, target, got data"),
        (b"[\n" + GOOD + b",\n{]", "problems.json line 4 is not JSON: Expecting property name"),
        (b"[" + GOOD + b", 7]", "problems.json item 2 must hold exactly the fields numbers, target, got int"),
        (b"[]", "problems.json holds no problems"),
        (b" \n\n", "problems.json holds no problems"),
    ],
)
def test_a_file_of_another_kind_is_told(data, sentence, tmp_path):
    path = tmp_path / "problems.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        read_problems(path, get_task("countdown"))


@given(data=st.binary(max_size=60) | st.text(alphabet='{}[]",:0129 numberstage\n').map(str.encode))
def test_no_bytes_whatever_give_anything_but_a_sentence(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "problems.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError):
        read_problems(path, get_task("countdown"))


def test_missing_and_empty_files_are_told(tmp_path):
    with pytest.raises(UserError, match="gone.jsonl cannot be read: No such file"):
        read_problems(tmp_path / "gone.jsonl", get_task("rules"))
    with pytest.raises(UserError, match="cannot be read"):
        read_problems(tmp_path, get_task("rules"))
    with pytest.raises(UserError, match="'a.x00b' cannot be read: embedded null byte"):
        read_problems("a\0b", get_task("rules"))
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="empty.jsonl holds no problems"):
        read_problems(tmp_path / "empty.jsonl", get_task("rules"))
