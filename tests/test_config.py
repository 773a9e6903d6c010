"""Settings that contradict each other, or that could not have an effect."""

from dataclasses import replace

import pytest

from psn_tutorial.config import RunConfig, check_effects
from psn_tutorial.errors import UserError
from psn_tutorial.experiments.presets import PRESETS

NOISY = {"sigma": 0.1}
MIXED = NOISY | {"draws": 2}
LOW_RANK = NOISY | {"carrier": "lowrank"}
ANNEALED = NOISY | {"schedule": "annealed"}
TARGET = NOISY | {"schedule": "kl_target"}
REALTIME = NOISY | {"schedule": "realtime"}
HOT = {"sampling_temperature": 1.3}

# setting, a value, settings with which it has no effect, why, and settings with which it has
CASES = [
    ("draws", 2, {}, "1 without noise (sigma 0)", NOISY),
    ("draws", 2, HOT, "1 without noise (sigma 0)", {"schedule": "annealed", "sigma_end": 0.1}),
    ("antithetic", True, {"draws": 2}, "False without noise (sigma 0)", MIXED),
    ("mixture", True, {}, "False without noise (sigma 0)", MIXED),
    ("mixture", True, NOISY, "False with one draw", MIXED),
    ("spread", "per_group", {}, "pooled without noise (sigma 0)", MIXED),
    ("spread", "per_group", NOISY, "pooled with one draw", MIXED),
    ("targets", "all", {}, "mlp without noise (sigma 0)", NOISY),
    ("relative", True, {}, "False without noise (sigma 0)", NOISY),
    ("carrier", "dense", {}, "auto without noise (sigma 0)", NOISY),
    ("noise_rank", 4, {}, "16 without noise (sigma 0)", LOW_RANK),
    ("noise_rank", 4, NOISY, "16 unless the carrier is lowrank", NOISY | {"four_bit": True, "lora_rank": 4}),
    ("noise_rank", 4, NOISY | {"carrier": "dense"}, "16 unless the carrier is lowrank", LOW_RANK),
    ("schedule", "annealed", {}, "constant without noise (sigma 0)", {"sigma_end": 0.1}),
    ("sigma_end", 0.1, NOISY, "0.0 with the schedule constant", ANNEALED),
    ("sigma_end", 0.1, {}, "0.0 with the schedule constant", {"schedule": "annealed"}),
    ("sigma_steps", 7, NOISY, "100 with the schedule constant", ANNEALED),
    ("sigma_shape", "cosine", TARGET, "linear with the schedule kl_target", ANNEALED),
    ("kl_target", 0.1, NOISY, "0.003 with the schedule constant", TARGET),
    ("kl_tolerance", 2.0, ANNEALED, "1.1 with the schedule annealed", TARGET),
    ("kl_factor", 2.0, REALTIME, "1.01 with the schedule realtime", TARGET),
    ("realtime_target", 0.1, NOISY, "0.5 with the schedule constant", REALTIME),
    ("realtime_mix", 0.1, TARGET, "0.5 with the schedule kl_target", REALTIME),
    ("realtime_factor", 2.0, NOISY, "1.05 with the schedule constant", REALTIME),
    ("similarity_scale", "none", NOISY, "running with the schedule constant", REALTIME),
    ("probes", "separate", NOISY, "reuse with the schedule constant", REALTIME),
    ("encoder", "x", NOISY, "bag-of-words with the schedule constant", REALTIME),
    ("certainty", "policy_to_uniform", NOISY, "uniform_to_policy with the schedule constant", REALTIME),
    ("sigma_low", 1e-3, NOISY, "1e-06 with the schedule constant", TARGET),
    ("sigma_high", 0.3, ANNEALED, "0.5 with the schedule annealed", REALTIME),
    ("correction", "none", {}, "token where the policy itself is sampled", HOT),
    ("correction_mode", "mask", {}, "truncate where the policy itself is sampled", NOISY),
    ("correction_mode", "mask", NOISY | {"correction": "none"}, "truncate with the correction none", NOISY),
    ("cap", 2.0, {}, "10.0 where the policy itself is sampled", NOISY),
    ("pass_k", 2, {}, "4 with the advantage std", {"advantage": "pass_at_k"}),
    ("layers", "first", {}, "all without noise (sigma 0)", NOISY),
    ("gate", "unsolved", {"steps": 1}, "none in a run of one step", {"steps": 2}),
    ("lora_alpha", 4.0, {}, "32.0 without lora_rank", {"lora_rank": 4}),
]


@pytest.mark.parametrize(("name", "value", "idle", "why", "working"), CASES)
def test_a_setting_that_is_named_must_be_able_to_change_the_run(name, value, idle, why, working):
    config = RunConfig(**idle, **{name: value})  # which a record, or an arm that shares settings, may hold
    with pytest.raises(UserError) as told:
        check_effects(config, {name})
    assert str(told.value) == f"{name} must stay {why}, got {value}"
    check_effects(config, ())  # it was not named
    check_effects(RunConfig(**idle), {name})  # it is the default
    check_effects(RunConfig(**working, **{name: value}), {name, *working})


@pytest.mark.parametrize("name", PRESETS)
def test_the_arms_of_the_presets_change_what_they_name(name):
    for experiment in PRESETS[name].values():
        for arm, made in experiment.arms.items():
            check_effects(experiment.config(arm, 0), {*made.changes, *experiment.common})


def test_weights_that_learn_are_in_float32():
    with pytest.raises(UserError, match="compute must be 'float32' without lora_rank.*got 'bfloat16'"):
        RunConfig(compute="bfloat16")
    assert replace(RunConfig(), compute="bfloat16", lora_rank=4).compute == "bfloat16"
