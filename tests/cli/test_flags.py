"""Flags from a settings class: the same values and the same sentences as from JSON."""

import argparse
import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from psn_tutorial.cli.flags import add_flags, from_flags
from psn_tutorial.cli.parser import Parser
from psn_tutorial.errors import UserError, check_range
from psn_tutorial.settings import from_mapping, option, to_mapping


@dataclass(frozen=True)
class Noise:
    sigma: float = option(0.1, "how much")
    targets: str = option("mlp", "where")
    relative: bool = option(False, "in multiples of the RMS")

    def __post_init__(self):
        check_range("sigma", self.sigma, low=0)


@dataclass(frozen=True)
class Training:
    steps: int = option(9, "how many")
    rate: float = option(1e-3, "learning rate, 100 % of it")
    loss: str = option("grpo", "which loss", ("grpo", "dapo", "dr_grpo"))
    cap: float | None = option(10.0, "largest weight")
    base: str | None = option(None, "start from here")
    shuffle: bool = option(True, "in another order")
    noise: Noise = Noise(sigma=0.7)
    difficulty: dict[str, Any] = field(default_factory=dict, metadata={"help": "fields of the task"})


def parse(*words: str, base: Training | None = None) -> Training:
    parser = Parser("psn-tutorial train", "Train.")
    add_flags(parser, Training)
    return from_flags(Training, parser.parse_args(words), base)


def test_no_flag_gives_the_defaults_or_the_base():
    assert parse() == Training()
    base = Training(steps=3, rate=5.0, noise=Noise(sigma=0.3, relative=True), difficulty={"a": 1})
    assert parse(base=base) == base


def test_only_given_flags_are_laid_over_the_base():
    base = Training(steps=3, rate=5.0, noise=Noise(sigma=0.3, relative=True))
    made = parse("--noise-targets", "all", "--no-shuffle", "--cap", "none", base=base)
    noise = Noise(sigma=0.3, targets="all", relative=True)
    assert made == dataclasses.replace(base, noise=noise, shuffle=False, cap=None)


def test_flags_of_every_kind():
    made = parse(*"--steps 4 --rate 2e-3 --loss dapo --cap 3 --base NONE --noise-relative".split())
    assert made == Training(4, 2e-3, "dapo", 3.0, None, True, Noise(sigma=0.7, relative=True))
    assert type(made.cap) is float and parse("--base", "here").base == "here"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--loss", "x"], "command line: loss must be one of 'grpo', 'dapo', 'dr_grpo', got 'x'"),
        (["--noise-sigma", "-1"], "command line, noise: sigma must be >= 0, got -1.0"),
        (["--steps", "1.5"], "argument --steps: must be a whole number, got '1.5'; see psn-tutorial train --help"),
        (["--rate", "nan"], "argument --rate: must be a finite number, got 'nan'; see psn-tutorial train --help"),
        (["--rate", "none"], "argument --rate: must be a finite number, got 'none'; see psn-tutorial train --help"),
        (["--cap", "many"], "argument --cap: must be a finite number or none, got 'many'; see psn-tutorial train "),
        (["--cap", "inf"], "argument --cap: must be a finite number or none, got 'inf'; see psn-tutorial train "),
        (["--stepps", "1"], "unknown flag '--stepps' (did you mean '--steps'?); see psn-tutorial train --help"),
        (["--sigma", "1"], "unknown flag '--sigma' (did you mean '--noise-sigma'?); see psn-tutorial"),
        (["word"], "unknown word 'word'; see psn-tutorial train --help"),
    ],
)
def test_refusals(words, sentence):
    with pytest.raises(UserError) as error:
        parse(*words)
    assert str(error.value).startswith(sentence)


def test_help_shows_the_default_the_choices_and_a_percent_sign():
    parser = argparse.ArgumentParser()
    add_flags(parser, Training)
    text = " ".join(parser.format_help().split())
    for words in (
        "--rate RATE learning rate, 100 % of it [default: 0.001]",
        "--loss LOSS which loss (one of grpo, dapo, dr_grpo) [default: grpo]",
        "--base BASE start from here [default: none]",
        "--shuffle, --no-shuffle in another order [default: True]",
        "--noise-sigma SIGMA how much [default: 0.7]",
        "--difficulty [NAME=VALUE ...] fields of the task [default: none]",
    ):
        assert words in text


def test_headings_hold_their_flags_and_the_others_come_before():
    parser = argparse.ArgumentParser()
    add_flags(parser, Training, {"noise": ("noise.sigma", "noise.targets"), "batch": ("steps",)})
    before, noise, batch = re.split("\n(?:noise|batch):\n", parser.format_help())
    names = [re.findall(r"^  --([a-z-]+)", part, re.M) for part in (before, noise, batch)]
    assert names == [
        ["rate", "loss", "cap", "base", "shuffle", "noise-relative", "difficulty"],
        ["noise-sigma", "noise-targets"],
        ["steps"],
    ]


def test_named_values_are_json_or_text():
    words = ["steps=4", "rare=C", "target=[10, 99]", "values=false", "odd=NaN", "empty="]
    made = parse("--difficulty", *words)
    assert made.difficulty == {"steps": 4, "rare": "C", "target": [10, 99], "values": False, "odd": "NaN", "empty": ""}
    assert from_mapping(Training, to_mapping(made), "x") == made
    assert parse(base=made) == made
    for wrong in (["steps"], ["a=1", "a=2"]):
        with pytest.raises(UserError, match="^argument --difficulty: must be NAME=VALUE, once each, got '"):
            parse("--difficulty", *wrong)
