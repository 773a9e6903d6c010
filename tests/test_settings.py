"""Settings from JSON and back; the checks and their sentences."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.errors import UserError, check_range
from psn_tutorial.settings import from_mapping, to_mapping


@dataclass(frozen=True)
class Noise:
    sigma: float = 0.1
    targets: str = "mlp"
    relative: bool = False

    def __post_init__(self):
        check_range("sigma", self.sigma, low=0)


@dataclass(frozen=True)
class Training:
    steps: int
    rate: float = field(default=1e-3, metadata={"help": "learning rate, 100 % of it"})
    loss: str = field(default="grpo", metadata={"choices": ("grpo", "dapo", "dr_grpo")})
    cap: float | None = 10.0
    names: tuple[str, ...] = ("a", "b")
    shuffle: bool = True
    noise: Noise = field(default_factory=lambda: Noise(sigma=0.7))
    more: dict[str, Any] = field(default_factory=dict)


def refusal(mapping) -> str:
    with pytest.raises(UserError) as error:
        from_mapping(Training, mapping, "config.json")
    return str(error.value)


def test_defaults_and_nested_values():
    made = from_mapping(Training, {"steps": 3, "noise": {"targets": "all"}}, "config.json")
    # What the inner object leaves out comes from the field's default, not from the inner class.
    assert made == Training(steps=3, noise=Noise(sigma=0.7, targets="all"))


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ([], "config.json: expected an object with the fields of Training, got []"),
        ({}, "config.json: the field 'steps' is missing"),
        (
            {"steps": 1, "shufle": True},
            "config.json: unknown field 'shufle' (did you mean 'shuffle'?); allowed are steps, "
            "rate, loss, cap, names, shuffle, noise, more",
        ),
        ({"steps": True}, "config.json: steps must be a whole number, got True"),
        ({"steps": 1.0}, "config.json: steps must be a whole number, got 1.0"),
        ({"steps": None}, "config.json: steps must be a whole number, got None"),
        ({"steps": 1, "shuffle": 1}, "config.json: shuffle must be true or false, got 1"),
        ({"steps": 1, "rate": "1"}, "config.json: rate must be a finite number, got '1'"),
        ({"steps": 1, "rate": math.nan}, "config.json: rate must be a finite number, got nan"),
        ({"steps": 1, "rate": math.inf}, "config.json: rate must be a finite number, got inf"),
        (
            {"steps": 1, "rate": 10**400},
            "config.json: rate must be a finite number, got an integer too large",
        ),
        ({"steps": 1, "cap": False}, "config.json: cap must be a finite number or null, got False"),
        ({"steps": 1, "names": "ab"}, "config.json: names must be a list, got 'ab'"),
        ({"steps": 1, "names": ["a", 2]}, "config.json: names[1] must be a text, got 2"),
        (
            {"steps": 1, "loss": "gpro"},
            "config.json: loss must be one of 'grpo', 'dapo', 'dr_grpo', got 'gpro' (did you mean 'grpo'?)",
        ),
        (
            {"steps": 1, "noise": {"sigm": 1}},
            "config.json, noise: unknown field 'sigm' (did you mean 'sigma'?); allowed are sigma, targets, relative",
        ),
        ({"steps": 1, "noise": {"sigma": -1}}, "config.json, noise: sigma must be >= 0, got -1.0"),
        (
            {"steps": 1, "noise": None},
            "config.json, noise: expected an object with the fields of Noise, got None",
        ),
        ({"steps": 1, "more": 3}, "config.json: more must be an object, got 3"),
    ],
)
def test_refusals(mapping, sentence):
    assert refusal(mapping) == sentence


def test_a_hostile_value_makes_a_short_sentence():
    assert len(refusal({"steps": "9" * 10_000_000})) < 200
    assert len(refusal({"steps": 1, "x" * 10_000_000: 1})) < 300


def test_an_integer_is_a_float_where_a_float_is_asked():
    made = from_mapping(Training, {"steps": 1, "rate": 2}, "config.json")
    assert type(made.rate) is float and made.rate == 2.0


@given(
    st.builds(
        Training,
        steps=st.integers(),
        rate=st.floats(allow_nan=False, allow_infinity=False),
        loss=st.sampled_from(["grpo", "dapo", "dr_grpo"]),
        cap=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        names=st.lists(st.text()).map(tuple),
        shuffle=st.booleans(),
        noise=st.builds(Noise, sigma=st.floats(0, 9), targets=st.text(), relative=st.booleans()),
        more=st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()),
    )
)
def test_json_round_trip_is_exact(settings):
    text = json.dumps(to_mapping(settings), allow_nan=False)
    assert from_mapping(Training, json.loads(text), "config.json") == settings


def test_a_field_type_nobody_can_enter_is_the_programmers_error():
    @dataclass
    class Wrong:
        value: int | str = 1

    with pytest.raises(TypeError, match="one type and None"):
        from_mapping(Wrong, {"value": 2}, "config.json")
