"""New families by hand, and what cannot be told."""

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.novelty import new_families
from psn_tutorial.evaluation.records import EvaluationRecord
from psn_tutorial.evaluation.results import ProblemResult


def found(problem, *names, n=8):
    return ProblemResult(problem, n, len(names), families=dict.fromkeys(names, 1), total_families=5)


def test_by_hand():
    base = [found("a", "1 + 2", "3 * 4"), found("b"), found("c", "5 - 1")]
    trained = [found("c", "5 - 1"), found("a", "3 * 4", "2 * 2", "9 / 3"), found("b", "1 + 2")]
    assert new_families(trained, base) == {"a": 2, "b": 1, "c": 0}
    assert new_families(base, base) == {"a": 0, "b": 0, "c": 0}


def test_through_a_record_the_names_stay(tmp_path):
    record = EvaluationRecord("countdown", 8, steps={3: [found("a", "1 + 2", "3 * 4")]})
    record.write(tmp_path / "eval.json")
    (result,) = EvaluationRecord.read(tmp_path / "eval.json").last
    assert result.families == {"1 + 2": 1, "3 * 4": 1}
    assert new_families([result], [found("a", "3 * 4")]) == {"a": 1}


def test_a_record_without_names_is_refused_and_so_are_other_problems():
    with pytest.raises(UserError, match="the record does not name the families that were found for problem 'a'"):
        new_families([found("a", "1", "2")], [found("a")])
    with pytest.raises(UserError, match="does not name"):
        new_families([found("a", n=0)], [found("a")])
    with pytest.raises(UserError, match="both sides must hold the same problems"):
        new_families([found("a")], [found("b")])
