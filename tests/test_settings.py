"""One settings class, three ways in: the same values and the same sentences."""

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.cli.flags import add_flags, from_flags
from psn_tutorial.errors import UserError, check_choice, check_count, check_positive, check_range
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
    level: Literal["token", "sequence"] = "token"
    cap: float | None = 10.0
    names: tuple[str, ...] = ("a", "b")
    shuffle: bool = True
    noise: Noise = field(default_factory=lambda: Noise(sigma=0.7))
    second: Noise | None = None


def parse(*words: str, base: Training | None = None) -> Training:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, Training)
    return from_flags(Training, parser.parse_args(words), base)


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
            "rate, loss, level, cap, names, shuffle, noise, second",
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
            {"steps": 1, "level": "tokens"},
            "config.json: level must be one of 'token', 'sequence', got 'tokens' (did you mean 'token'?)",
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
        level=st.sampled_from(["token", "sequence"]),
        cap=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        names=st.lists(st.text()).map(tuple),
        shuffle=st.booleans(),
        noise=st.builds(Noise, sigma=st.floats(0, 9), targets=st.text(), relative=st.booleans()),
        second=st.none() | st.builds(Noise, sigma=st.floats(0, 9)),
    )
)
def test_json_round_trip_is_exact(settings):
    text = json.dumps(to_mapping(settings), allow_nan=False)
    assert from_mapping(Training, json.loads(text), "config.json") == settings


def test_only_given_flags_overlay_the_base():
    base = Training(steps=9, rate=5.0, shuffle=True, noise=Noise(sigma=0.3, relative=True))
    assert parse(base=base) == base
    made = parse("--noise-targets", "all", "--no-shuffle", "--cap", "none", base=base)
    assert made == dataclasses.replace(
        base, noise=Noise(sigma=0.3, targets="all", relative=True), shuffle=False, cap=None
    )


def test_flags_of_every_kind():
    made = parse(
        *"--steps 4 --rate 2e-3 --loss dapo --level sequence --cap 3 --names x y".split(),
        *"--second-sigma 0.5 --noise-relative".split(),
    )
    assert made == Training(
        steps=4,
        rate=2e-3,
        loss="dapo",
        level="sequence",
        cap=3.0,
        names=("x", "y"),
        noise=Noise(sigma=0.7, relative=True),
        second=Noise(sigma=0.5),
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "1", "--loss", "x"], "command line: loss must be one of 'grpo', 'dapo', 'dr_"),
        (["--steps", "1", "--noise-sigma", "-1"], "command line, noise: sigma must be >= 0, got -"),
        ([], "command line: the field 'steps' is missing"),
    ],
)
def test_flag_refusals_are_the_same_sentences(words, sentence):
    with pytest.raises(UserError) as error:
        parse(*words)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "1.5"], "argument --steps: must be a whole number, got '1.5'"),
        (["--rate", "nan"], "argument --rate: must be a finite number, got 'nan'"),
        (["--cap", "many"], "argument --cap: must be a finite number or none, got 'many'"),
        (["--sigma", "1"], "unrecognized arguments: --sigma 1"),
    ],
)
def test_unreadable_flags_exit_with_2(words, sentence, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(*words)
    assert leaving.value.code == 2
    assert sentence in capsys.readouterr().err


def test_help_shows_the_default_the_choices_and_a_percent_sign():
    parser = argparse.ArgumentParser()
    add_flags(parser, Training, defaults=Training(steps=7, noise=Noise(sigma=0.25)))
    text = " ".join(parser.format_help().split())
    for words in (
        "--rate RATE learning rate, 100 % of it [default: 0.001]",
        "(one of grpo, dapo, dr_grpo) [default: grpo]",
        "(one of token, sequence) [default: token]",
        "--noise-sigma SIGMA [default: 0.25]",
        "[default: 7]",
        "--shuffle, --no-shuffle",
    ):
        assert words in text
    bare = argparse.ArgumentParser()
    add_flags(bare, Training)
    assert "--steps STEPS [required]" in " ".join(bare.format_help().split())


def test_a_field_type_nobody_can_enter_is_the_programmers_error():
    @dataclass
    class Wrong:
        value: int | str = 1

    with pytest.raises(TypeError, match="one type and None"):
        from_mapping(Wrong, {"value": 2}, "config.json")


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


@dataclass(frozen=True)
class Exercise:
    difficulty: dict[str, Any] = field(default_factory=dict)


def test_named_values_come_from_json_and_from_flags():
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_flags(parser, Exercise)
    words = ["steps=4", "rare=C", "target=[10, 99]", "values=false", "odd=NaN", "empty="]
    made = from_flags(Exercise, parser.parse_args(["--difficulty", *words]))
    assert made.difficulty == {"steps": 4, "rare": "C", "target": [10, 99], "values": False, "odd": "NaN", "empty": ""}
    assert from_mapping(Exercise, json.loads(json.dumps(to_mapping(made))), "x") == made
    assert from_flags(Exercise, parser.parse_args([]), made) == made
    assert "[default: none]" in parser.format_help()
    with pytest.raises(UserError, match="^x: difficulty must be an object, got 3$"):
        from_mapping(Exercise, {"difficulty": 3}, "x")
    for wrong in (["steps"], ["a=1", "a=2"]):
        with pytest.raises(argparse.ArgumentError, match="must be NAME=VALUE, once each, got"):
            parser.parse_args(["--difficulty", *wrong])
