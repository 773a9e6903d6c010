"""The answer follows the records: its figures, and the words for each verdict."""

from types import SimpleNamespace

import pytest

from psn_tutorial.evaluation.intervals import Interval
from psn_tutorial.evaluation.verdicts import VERDICTS, effect, judge
from psn_tutorial.experiments.experiment import Arm, Experiment
from psn_tutorial.experiments.results import Results
from psn_tutorial.reporting.answer import CHOICES, IN_WORDS, OF_CHOICES, answer

SIDES = {  # verdict -> figures of three seeds, of the noise and of the reference
    "gain": ([0.80, 0.81, 0.82], [0.001, 0.001, 0.001]),
    "loss": ([0.30, 0.31, 0.32], [0.72, 0.70, 0.71]),
    "no difference shown": ([0.500, 0.501, 0.502], [0.501, 0.500, 0.502]),
    "undecided": ([0.1, 0.5, 0.9], [0.4, 0.3, 0.5]),
}


def results(verdict, metric, frontier=()):
    """What ``answer`` reads of an experiment in which the noise has this verdict."""
    arms = {name: Arm(name) for name in ("grpo", "psn", "psn-none", "paper")}
    experiment = Experiment("countdown", "?", arms, {"samples": 256}, (0, 1, 2), metrics=("pass@1",), frontier=frontier)
    ours, theirs = SIDES[verdict]
    ends = {"grpo": theirs, "psn": ours, "psn-none": [0.123] * 3, "paper": [2.5e-6] * 3}
    summaries = {arm: {metric: Interval(sum(values) / 3, 0, 1)} for arm, values in ends.items()}
    judged = judge({("psn", metric): effect(ours, theirs)}, {("psn", metric): 0.05})
    assert judged["psn", metric].verdict == verdict
    return SimpleNamespace(experiment=experiment, summaries=summaries, judged=lambda: judged)


def recipe(verdicts):
    """The same of the recipe, whose choices have these verdicts, in their order."""
    arms = {name: Arm(name) for name in ("ours", *CHOICES, "paper-six")}
    experiment = Experiment("rules", "?", arms, {"samples": 0}, (0, 1, 2), "ours", ("success",))
    compared = {(arm, "success"): SIDES[verdict] for arm, verdict in zip(CHOICES, verdicts, strict=True)}
    summaries = {arm: {"success": Interval(sum(sides[0]) / 3, 0, 1)} for (arm, _), sides in compared.items()}
    summaries["paper-six"] = {"success": Interval(3.5e-6, 0, 1)}
    found = {key: judge({key: effect(*sides)}, {key: 0.05})[key] for key, sides in compared.items()}
    return SimpleNamespace(experiment=experiment, summaries=summaries, judged=lambda: found)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_words_and_the_figures_are_those_of_the_records(verdict):
    rare, local, language = (results(verdict, "pass@1"), *[results(verdict, "pass@16", ("pass@1", "pass@16"))] * 2)
    first, second, third = answer(rare, recipe([verdict] * 4), {"here": local, "there": language})
    assert third.startswith("Elsewhere, here ") and ", and there " in third
    ours, theirs = (sum(side) / 3 for side in SIDES[verdict])
    assert IN_WORDS[verdict] in first and third.count(IN_WORDS[verdict]) == 2
    assert f"{ours:.3f}".lstrip("0") in first and f"{theirs:.3f}".lstrip("0") in first and "3 seeds" in first
    assert ".123" in second and "3.5e-06" in second
    assert f"{effect(*SIDES[verdict]).difference.brackets()} (3 seeds)" in third


def test_choices_are_told_by_their_verdicts():
    rare, other = results("gain", "pass@1"), results("gain", "pass@16", ("pass@1", "pass@16"))
    _, second, _ = answer(rare, recipe(["loss", "undecided", "loss", "gain"]), {"here": other})
    mlp, draw, absolute, realtime = CHOICES.values()
    assert (
        f"{mlp} (.310) and {absolute} (.310) end lower; {realtime} (.810) ends higher; {draw} (.500) is not shown"
        in second
    )


def test_there_is_a_word_for_every_verdict_and_results_have_what_is_read():
    assert IN_WORDS.keys() == OF_CHOICES.keys() == VERDICTS.keys() and len(set(IN_WORDS.values())) == 4
    assert all(hasattr(Results, name) for name in ("judged", "summaries"))
