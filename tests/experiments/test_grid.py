"""Entries that stand for several."""

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.experiments.grid import expanded


def test_every_combination_in_the_order_of_the_file():
    entries = {
        "plain": {"label": "P {sigma}"},
        "psn-{sigma}-{lr}": {
            "label": "PSN, sigma {sigma}, {other}",
            "changes": {"relative": True, "sigma": 9},
            "list": ["{lr}", 1],
            "each": {"changes.sigma": [0.2, 0.4], "changes.lr": [1e-3, 1]},
        },
    }
    found = expanded(entries, "here")
    assert list(found) == ["plain", "psn-0.2-0.001", "psn-0.2-1", "psn-0.4-0.001", "psn-0.4-1"]
    assert found["plain"] == {"label": "P {sigma}"}
    assert found["psn-0.4-1"] == {
        "label": "PSN, sigma 0.4, {other}",
        "changes": {"relative": True, "sigma": 0.4, "lr": 1},
        "list": ["1", 1],
    }
    assert entries["psn-{sigma}-{lr}"]["changes"] == {"relative": True, "sigma": 9}, "the entry itself is not changed"


def test_a_place_that_is_not_there_is_made():
    assert expanded({"r{steps}": {"each": {"common.difficulty.steps": [4]}}}, "here") == {
        "r4": {"common": {"difficulty": {"steps": 4}}}
    }


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([1], r"here: expected an object with an entry for each name, got \[1\]"),
        ({1: {}}, "here: a name must be a text, got 1"),
        ({"a": 3}, "here, a: expected an object, got 3"),
        ({"a": {"each": [1]}}, r"here, a: each must hold a list of values for each place, got \[1\]"),
        ({"a": {"each": {"x": 1}}}, "here, a: each must hold a list of values for each place"),
        ({"a-{x}": {"each": {"x": []}}}, "each must hold a list of values"),
        ({"a": {"each": {"x": [1, 2]}}}, "here: there are two entries a: name what differs, such as a-{field}"),
        ({"a-{y}": {"x": 3, "each": {"x.y": [1]}}}, "here, a-{y}: each names y inside 3, which is no object"),
    ],
)
def test_a_wrong_grid_is_told(entries, sentence):
    with pytest.raises(UserError, match=sentence):
        expanded(entries, "here")
