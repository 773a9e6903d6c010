"""Each exercise can be shown: a typed stub that is not yet right, hints, and a solution that passes its own check."""

import inspect

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.teaching.exercises import EXERCISES, check, exercise, solutions

names = pytest.mark.parametrize("name", EXERCISES)


def defined(source, name):
    """The function that a cell with this source defines."""
    cell = {"Tensor": solutions.Tensor, "Sequence": solutions.Sequence, "torch": solutions.torch}
    exec(source, cell)  # the text of a cell is what is tested
    return cell[f"my_{name}"]


@names
def test_the_solution_that_is_shown_passes(name):
    grade = check(name, defined(exercise(name).solution, name))
    assert grade, str(grade)


@names
def test_the_stub_is_typed_and_not_yet_right(name):
    card = exercise(name)
    stub = defined(card.stub, name)
    signature = inspect.signature(stub)
    assert list(signature.parameters) == list(inspect.signature(card.exercise.oracle).parameters)
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert signature.return_annotation is not signature.empty
    assert str(check(name, stub)).startswith("not yet: ")
    assert "collections.abc" not in card.stub and "torch." not in card.stub


@names
def test_there_are_two_hints_at_least_and_none_is_the_solution(name):
    hints = [hint.text for hint in exercise(name).hints]
    lines = [line.strip().removeprefix("return ") for line in exercise(name).solution.splitlines()[1:]]
    assert len(hints) >= 2 and all(len(hint) > 30 for hint in hints)
    assert not any(line in hint for line in lines for hint in hints)


@names
def test_everything_but_the_task_is_folded_away(name):
    card = exercise(name)
    html = card._repr_html_()
    opened = html[: html.index("<details>")]
    assert f"my_{name}" in opened and "Solution" not in opened and "Hint" not in opened
    assert html.count("<details>") == html.count("</details>") == len(card.hints) + 1 and "<details open" not in html
    assert str(card) == f"Write my_{name}.\n{card.exercise.task}"


def test_there_is_a_solution_and_hints_for_every_exercise_and_no_other():
    functions = {name for name, value in vars(solutions).items() if inspect.isfunction(value)}
    assert functions == set(solutions.HINTS) == set(EXERCISES)


def test_an_unknown_exercise_is_refused():
    with pytest.raises(UserError, match="name must be one of"):
        exercise("token_weight")
