"""Settings of equal KL: against the definition, against sums over every answer, and by sampling anew."""

import numpy as np
import pytest
import torch

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation import matching
from psn_tutorial.evaluation.calibrate import OutOfReachError
from psn_tutorial.evaluation.matching import kls_of_settings, mean_kls, sampler_of_kl
from psn_tutorial.evaluation.probes import Sampler, figures
from psn_tutorial.evaluation.probing import probe
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.tiny import load
from psn_tutorial.rollout import choose
from psn_tutorial.tasks import get_task
from tests.evaluation.test_calibrate import exact

TASK = get_task("rules", consistency=1)


@pytest.fixture(scope="module")
def rules():
    return load(base_folder("rules"))


@pytest.mark.parametrize("setting", ["temperature", "top_p"])
def test_the_kl_of_a_setting_is_that_of_what_is_sampled_at_it(setting):
    """E_mu[log mu - log pi], with mu as :func:`choose` has it: for one number after another, every token's share."""
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 3
    values = [1.0, 1.3, 2.5] if setting == "temperature" else [0.999, 0.7, 0.2]
    found = kls_of_settings(logits, setting, values)
    assert found.shape == (3, 5)
    uniform = ((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)[:, None]
    for value, kls in zip(values, found, strict=True):
        for row, kl in zip(logits, kls.tolist(), strict=True):
            temperature, top_p = (value, 1.0) if setting == "temperature" else (1.0, value)
            ids, mu = choose(row.expand(20000, -1), temperature, uniform, top_p)
            assert kl == pytest.approx(float((mu - row.log_softmax(-1)[ids]).mean()), abs=2e-3)
    assert (found[-1] >= found[1]).all() and (found[1] >= found[0]).all() and found[-1].sum() > found[0].sum()


def test_logits_of_any_size_give_a_kl():
    """Shifted by much, in bfloat16, or with tokens that are ruled out."""
    logits = torch.tensor([[3.0, 1.0, 0.0, -2.0]])
    for setting, values in (("temperature", [1.5]), ("top_p", [0.9])):
        expected = kls_of_settings(logits, setting, values)
        assert torch.allclose(kls_of_settings(logits + 500, setting, values), expected)
        assert torch.allclose(kls_of_settings(logits.bfloat16(), setting, values), expected)
        for out in (-1e9, -torch.inf):
            ruled_out = torch.cat([logits, torch.full((1, 3), out)], 1)
            assert torch.allclose(kls_of_settings(ruled_out, setting, values), expected)


def test_it_is_averaged_over_the_samplers_own_answers(policy):
    """Over those of the setting, not the policy's: both are known by summing over every answer."""
    chain = policy("chain", scale=20.0, steps=2)
    task, own = get_task("chain", steps=2), Policy(chain[2], chain[1])
    problem = task.generate(0, 1)
    hot = exact(chain, task.prompt(problem[0]), 2, None, temperature=2.5)
    cold = exact(chain, task.prompt(problem[0]), 2, None, temperature=2.5, weigh_by="pi")
    assert hot != pytest.approx(cold, rel=0.04)
    how = {"setting": "temperature", "values": [2.5], "answers": 40_000, "batch": 40_000}
    assert mean_kls(own, task, problem, Sampler(temperature=2.5), **how) == pytest.approx([hot], rel=0.01)
    assert mean_kls(own, task, problem, Sampler(), **how) == pytest.approx([cold], rel=0.01)


@pytest.mark.parametrize(("setting", "target"), [("temperature", 0.02), ("temperature", 0.2), ("top_p", 0.1)])
def test_a_setting_of_equal_kl_is_found(setting, target):
    """On Countdown: on the rule task the KL of top-p is a stair, because each token has one of few probabilities."""
    policy, task = load(base_folder("countdown")), get_task("countdown")
    problems = task.generate(4, 100)
    sampler = sampler_of_kl(policy, task, problems, target, setting, answers=4)
    assert sampler != sampler_of_kl(policy, task, problems, target, setting)  # from fewer answers
    other = {"temperature": "top_p", "top_p": "temperature"}[setting]
    assert getattr(sampler, other) == 1 and sampler.sigma == 0
    again = figures(probe(policy, task, problems, sampler, answers=16, sets=1, seed=1))
    assert again["KL"].value == pytest.approx(target, rel=0.1)


@pytest.mark.parametrize("setting", ["temperature", "top_p"])
def test_what_no_setting_has_is_told(rules, setting):
    problems = TASK.generate(4, 20)
    with pytest.raises(OutOfReachError, match=r"target must be at most .*, the KL at .*, got 50$"):
        sampler_of_kl(rules, TASK, problems, 50.0, setting)
    if setting == "temperature":
        with pytest.raises(OutOfReachError, match=r"at least .*, the KL at temperature=1.0001, got 1e-12$"):
            sampler_of_kl(rules, TASK, problems, 1e-12, setting)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 0.0}, "target must be > 0"),
        ({"answers": 0}, "answers must be a whole number >= 1"),
        ({"batch": 0}, "batch must be a whole number >= 1"),
        ({"setting": "heat"}, "setting must be one of 'temperature', 'top_p', got 'heat'"),
    ],
)
def test_wrong_arguments_are_told(rules, change, message):
    with pytest.raises(UserError, match=message):
        sampler_of_kl(rules, TASK, TASK.generate(4, 2), **{"target": 0.1, "setting": "temperature"} | change)


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0, 6.0])
def test_answers_that_mislead_do_not_keep_it_from_its_end(monkeypatch, power):
    """The KL at a distance x, over the answers at a distance y, be x^2 (1 + y)^power. With 6, taking the setting that
    the last answers name goes to and fro for longer than there are rounds; the setting wanted is where x = y."""
    asked = []

    def known(policy, task, problems, sampler, setting, values, *rest):
        asked.append(sampler.temperature - 1)
        return (np.array(values) - 1) ** 2 * (1 + asked[-1]) ** power

    monkeypatch.setattr(matching, "mean_kls", known)
    found = sampler_of_kl(None, None, [], 0.5, "temperature").temperature - 1
    assert found**2 * (1 + found) ** power == pytest.approx(0.5, rel=0.03)
    assert asked[0] == 0 and len(asked) <= matching.ROUNDS
