"""The presets: they survive their file, and their arms differ in exploration only."""

import json
from dataclasses import replace

import pytest

from psn_tutorial.experiments.experiment import experiments_from_json, experiments_to_json
from psn_tutorial.experiments.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_file(name):
    text = json.dumps(experiments_to_json(PRESETS[name]))
    assert experiments_from_json(json.loads(text), "file") == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_the_arms_of_a_preset_differ_in_their_exploration_only(name):
    """An honest comparison: same problems, same budget, same optimiser, same evaluation."""
    for experiment in preset(name).values():
        assert experiment.task in experiment.question.lower() or len(experiment.question) > 40
        assert list(experiment.arms)[:3] == ["grpo", "hot", "psn"] and experiment.reference == "grpo"
        plain, hot, noisy = (experiment.config(arm, 0) for arm in ("grpo", "hot", "psn"))
        assert plain.sigma == hot.sigma == 0 < noisy.sigma
        assert hot.sampling_temperature > 1 and plain.sampling_temperature is noisy.sampling_temperature is None
        assert noisy.correction == hot.correction == "token"
        exploration = {"sigma": 0.0, "sampling_temperature": None, "relative": False, "targets": "mlp", "draws": 1}
        assert replace(noisy, **exploration) == replace(hot, **exploration) == plain


def test_a_pretrained_models_record_keeps_its_answers():
    (experiment,) = preset("qwen").values()
    assert experiment.common["transcripts"] == 8 and len(experiment.seeds) >= 2
    assert experiment.config("psn", 0).evaluated_steps[0] == experiment.common["steps"] // 2  # in the middle too


def test_the_larger_presets_ask_the_same_of_more_seeds():
    assert list(PRESETS) == ["quick", "demo", "full", "qlora", "qwen"]
    for name, experiment in PRESETS["demo"].items():
        full = PRESETS["full"][name]
        assert replace(full, seeds=experiment.seeds) == experiment and len(full.seeds) > len(experiment.seeds)
