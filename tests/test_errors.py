"""The checks: what each accepts, and its one sentence for the rest."""

import math

import numpy as np
import pytest

from psn_tutorial.errors import (
    UserError,
    check_choice,
    check_count,
    check_fields,
    check_integer,
    check_integers,
    check_positive,
    check_range,
    check_seed,
)


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (lambda: check_range("sigma", -1.0, low=0), "sigma must be >= 0, got -1.0"),
        (lambda: check_range("sigma", math.nan, low=0), "sigma must be >= 0, got nan"),
        (lambda: check_range("sigma", math.inf, low=0), "sigma must be >= 0, got inf"),
        (lambda: check_range("sigma", "1", low=0), "sigma must be a finite number >= 0, got '1'"),
        (lambda: check_range("sigma", True, low=0), "sigma must be >= 0, got True"),
        (lambda: check_range("p", 1.5, 0, 1), "p must be >= 0 and <= 1, got 1.5"),
        (lambda: check_range("p", 0, above=0, below=1), "p must be > 0 and < 1, got 0"),
        (lambda: check_range("p", 1, above=0, below=1), "p must be > 0 and < 1, got 1"),
        (lambda: check_range("p", None), "p must be a finite number, got None"),
        (lambda: check_positive("rate", 0.0), "rate must be > 0, got 0.0"),
        (lambda: check_count("group", 1.5, 2), "group must be a whole number >= 2, got 1.5"),
        (lambda: check_count("group", 1, 2), "group must be a whole number >= 2, got 1"),
        (lambda: check_count("group", True), "group must be a whole number >= 1, got True"),
        (lambda: check_count("group", 0.5 + 0.5j), "group must be a whole number >= 1, got (0.5+0.5j)"),
        (
            lambda: check_count("group", -(10**5000)),
            "group must be a whole number >= 1, got a number of thousands of digits",
        ),
        (lambda: check_positive("rate", 10**400), f"rate must be > 0, got {str(10**400)[:77]}..."),
        (lambda: check_choice("k", 1, [True]), "k must be one of True, got 1"),
        (lambda: check_choice("k", [], ["a"]), "k must be one of 'a', got []"),
    ],
)
def test_checks_refuse(check, sentence):
    with pytest.raises(UserError) as error:
        check()
    assert str(error.value) == sentence


def test_checks_accept_the_bounds_and_numpy_numbers():
    check_range("p", 0, 0, 1)
    check_range("p", 1, 0, 1)
    check_range("p", np.float32(0.5), above=0, below=1)
    check_positive("rate", 5e-324)
    check_count("group", np.int64(2), 2)
    check_choice("k", None, [None, "a"])
    check_count("group", 10**5000)  # no float is made of it


NO_INTEGERS_IN_0_TO_3 = [True, 1.0, "1", None, 4, -1, 10**5000, -(10**5000), [1], math.nan]


@pytest.mark.parametrize("value", NO_INTEGERS_IN_0_TO_3, ids=range(len(NO_INTEGERS_IN_0_TO_3)))
def test_an_integer_in_range_is_nothing_else(value):
    with pytest.raises(UserError, match="^n must be a whole number >= 0 and <= 3, got ") as caught:
        check_integer("n", value, 0, 3)
    assert len(str(caught.value)) < 120


def test_an_integer_of_numpy_is_none_of_python():
    with pytest.raises(UserError, match=r"^n must be an integer of Python, got np\.int64\(2\)$"):
        check_integer("n", np.int64(2), 0, 3)


def test_both_ends_of_the_range_are_allowed():
    check_integer("n", 0, 0, 3)
    check_integer("n", 3, 0, 3)
    check_integers("n", [0, 3], 0, 3)
    check_integers("n", (), 0, 3)
    check_seed(0)
    check_seed(2**63 - 1)
    check_fields("here", {"a": 1, "b": None}, ("b", "a"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("12", "n must be a list of whole numbers, got '12'"),
        ({1: 2}, "n must be a list of whole numbers, got {1: 2}"),
        ([1, 2.0], "n[1] must be a whole number >= 0 and <= 3, got 2.0"),
        ((4, 1), "n[0] must be a whole number >= 0 and <= 3, got 4"),
        ([10**5000], "n[0] must be a whole number >= 0 and <= 3, got a number of thousands of digits"),
    ],
    ids=range(5),
)
def test_a_list_of_integers_is_nothing_else(values, sentence):
    with pytest.raises(UserError) as caught:
        check_integers("n", values, 0, 3)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("seed", [-1, None, 0.5, "7", True, 2**63])
def test_seeds_that_python_would_take_for_another_are_refused(seed):
    with pytest.raises(UserError, match="^seed must be a whole number >= 0 and <= 9223372036854775807, got "):
        check_seed(seed)


@pytest.mark.parametrize(
    ("fields", "got"), [({}, "none"), ({"a": 1}, "a"), ({"a": 1, "b": 2, "c": 3}, "a, b, c"), ([1], "list")]
)
def test_fields_are_these_and_no_others(fields, got):
    with pytest.raises(UserError) as caught:
        check_fields("here", fields, ("a", "b"))
    assert str(caught.value) == f"here must hold exactly the fields a, b, got {got}"
