"""An experiment read from a file: what is refused, and what may be narrowed."""

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.experiments.experiment import Arm, Experiment, experiments_from_json, narrowed
from psn_tutorial.experiments.presets import PRESETS, RULES


def a_file(**changes):
    fields = {
        "task": "rules",
        "question": "?",
        "arms": {"grpo": {"label": "GRPO"}},
        "common": {"steps": 3},
    }
    return {"mine": fields | changes}


def test_a_file_of_ones_own():
    ((name, experiment),) = experiments_from_json(a_file(), "mine.json").items()
    assert name == "mine" and experiment.config("grpo", 5).seed == 5 and experiment.seeds == (0,)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "mine.json: expected an object of experiments by name, got []"),
        ({}, "mine.json: expected an object of experiments by name, got {}"),
        ({"../x": {}}, "experiment must be named with letters, digits, '.', '-' and '_', and not 'base', got '../x'"),
        ({"mine": 3}, "mine.json, mine: expected an object with the fields of Experiment, got 3"),
        ({"mine": {}}, "mine.json, mine: the field 'task' is missing"),
        (a_file(task="rule"), "one of 'countdown', 'rules', 'chain', 'math', 'judged', 'habit', got 'rule'"),
        (a_file(arms=[]), "mine.json, mine: arms must be an object, got []"),
        (a_file(arms={"grpo": {}}), "mine.json, mine, arm grpo: the field 'label' is missing"),
        (a_file(arms={"base": {"label": "x"}}), "mine.json, mine: arm must be named with letters"),
        (a_file(arms={".": {"label": "x"}}), "mine.json, mine: arm must be named with letters"),
        (a_file(arms={"psn": {"label": "x"}}), "mine.json, mine: reference must be one of 'psn', got 'grpo'"),
        (a_file(arms={"grpo": {"label": "x", "changes": {"sgima": 1}}}), "arm grpo: unknown field 'sgima'"),
        (a_file(common={"steps": 0}), "arm grpo: steps must be a whole number >= 1, got 0"),
        (a_file(common={"steps": 2.5}), "arm grpo: steps must be a whole number, got 2.5"),
        (a_file(seeds=[]), "seeds must be different numbers, at least one, got ()"),
        (a_file(seeds=[1, 1]), "seeds must be different numbers, at least one, got (1, 1)"),
        (a_file(seeds=[-1]), "arm grpo: seed must be a whole number >= 0 and <= 9223372036854775807, got -1"),
        (a_file(frontier=["pass@1"]), "frontier must name two metrics or none, got ('pass@1',)"),
        (a_file(metrics=["sucess"]), "metric must be one of pass, coverage, family_coverage, zero_contrast, success"),
        (a_file(frontier=["pass@1", "pas@2"]), "metric must be one of"),
        (a_file(frontier=["pass@1", "pass@512"]), "metrics: pass@512 needs samples >= 512, got 256"),
        (a_file(metrics=["coverage"], common={"samples": 0}), "metrics: coverage needs samples >= 1, got 0"),
        (a_file(task="countdown", metrics=["success"]), "metrics: countdown has no exact success"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(content, sentence):
    with pytest.raises(UserError) as error:
        experiments_from_json(content, "mine.json")
    assert sentence in str(error.value)


def test_exact_probabilities_give_every_pass_at_k():
    experiments_from_json(a_file(metrics=["pass@512", "success"], common={"samples": 0}), "mine.json")


def test_narrowing_keeps_the_reference():
    demo = PRESETS["demo"]
    assert narrowed(demo) == demo
    chosen = narrowed(demo, names=["rules"], arms=["psn"], seeds=[7], base="here")
    assert list(chosen) == ["rules"] and list(chosen["rules"].arms) == ["grpo", "psn"]
    assert chosen["rules"].seeds == (7,) and chosen["rules"].config("psn", 7).base == "here"
    assert demo["rules"] == RULES  # untouched


def test_an_experiment_is_checked_when_it_is_made():
    with pytest.raises(UserError, match="arm psn: draws must divide"):
        Experiment("rules", "?", {"grpo": Arm("a"), "psn": Arm("b", {"sigma": 1.0, "draws": 7})}, {"prompts": 2})
