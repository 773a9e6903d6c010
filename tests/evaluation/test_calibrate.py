"""The KL of a sampler against sums over everything it can write; the search for a setting against known roots."""

from itertools import product

import pytest
import torch

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.calibrate import find_setting, sampler_kl
from psn_tutorial.models.policy import Policy, encode
from psn_tutorial.noise import NoiseConfig, perturbed
from psn_tutorial.teaching.exact import kl
from psn_tutorial.teaching.tabular import random_policy, trajectories

NOISE = NoiseConfig(sigma=0.5, targets="all", relative=True)


def measured(policy, prompts, max_tokens, **options):
    _, tokenizer, model = policy
    asked = encode(tokenizer, prompts)
    return sampler_kl(Policy(model, tokenizer), asked, max_tokens, **options)


@torch.no_grad()
def next_logps(policy, ids, noise=None, draw=0, temperature=1.0):
    """log p of the next token after one row of ids, by transformers' own forward pass: [V]."""
    model = policy[2]
    if noise is None:
        return (model(torch.tensor([ids])).logits[0, -1].double() / temperature).log_softmax(-1)
    with perturbed(model, noise, draw):
        return next_logps(policy, ids, None, 0, temperature)


def exact(policy, prompt, length, end, noise=None, draws=1, temperature=1.0, weigh_by="mu"):
    """KL per token by summing over every answer of up to ``length`` tokens; ``weigh_by`` whose answers."""
    question = policy[1](prompt)["input_ids"]
    words = range(len(policy[1]))
    total = tokens = 0.0
    for draw in range(draws):
        for t in range(length):
            for text in product([w for w in words if w != end], repeat=t):
                mu = [next_logps(policy, [*question, *text[:i]], noise, draw, temperature) for i in range(t + 1)]
                pi = [next_logps(policy, [*question, *text[:i]]) for i in range(t + 1)]
                steps = mu if weigh_by == "mu" else pi
                chance = float(sum(steps[i][text[i]] for i in range(t)).exp()) if t else 1.0
                tokens += chance
                total += chance * float((mu[-1].exp() * (mu[-1] - pi[-1])).sum())
    return total / tokens


@pytest.mark.parametrize("options", [{"noise": NOISE, "draws": 3}, {"temperature": 2.5, "draws": 1}])
def test_for_one_token_it_is_exact(policy, options):
    chain = policy("chain", steps=1)
    assert measured(chain, [":"], 1, **options) == pytest.approx(exact(chain, ":", 1, None, **options), rel=1e-4)


@pytest.mark.parametrize("options", [{"noise": NOISE, "draws": 2}, {"temperature": 2.5, "draws": 2}])
def test_it_is_the_kl_of_the_samplers_own_trajectories(policy, options):
    """Not of the clean policy's: both sums are known, and only one of them is met."""
    chain = policy("chain", scale=20.0, steps=2)
    chain[1].eos_token = "A"  # a token that is often written: many answers stop early
    end = chain[2].generation_config.eos_token_id = chain[1].eos_token_id  # the only one
    own, other = (exact(chain, ":", 2, end, **options, weigh_by=who) for who in ("mu", "pi"))
    found = measured(chain, [":"] * 3000, 2, **options)
    assert abs(found - own) < 0.02 * own < abs(other - own) / 2


def test_the_clean_policy_is_at_no_distance(policy):
    assert measured(policy("rules", steps=2), ["1 2 :"], 4) == pytest.approx(0, abs=1e-7)


def test_padding_on_the_left_changes_nothing(policy):
    rules = policy("rules", steps=3)
    prompts = ["1 2 3 :", "7 :"]
    alone = [measured(rules, [prompt], 1, noise=NOISE, draws=2) for prompt in prompts]
    assert alone[0] != pytest.approx(alone[1], rel=0.01)
    assert measured(rules, prompts, 1, noise=NOISE, draws=2) == pytest.approx(sum(alone) / 2, rel=1e-3)


def test_the_seed_decides(policy):
    rules = policy("rules", steps=3)
    once, again, other = (measured(rules, ["1 2 3 :"], 6, noise=NOISE, seed=seed) for seed in (0, 0, 1))
    assert once == again != other


def test_a_draw_there_must_be(policy):
    with pytest.raises(UserError, match="draws"):
        measured(policy("chain"), [":"], 1, draws=0)


@pytest.mark.parametrize("target", [1e-4, 0.03, 2.0])
def test_a_root_is_found_to_the_tolerance(target):
    calls = []
    found = find_setting(lambda x: calls.append(x) or 5 * x**2, target, 1e-4, 10)
    assert found == pytest.approx((target / 5) ** 0.5, rel=0.01)
    assert len(calls) == len(set(calls)) < 15  # no point is measured twice


def test_a_temperature_is_found_on_the_enumerable_policy():
    policy = random_policy(trajectories(3, 3), seed=0, spread=2.0)
    clean = policy.logps().detach()
    distance = lambda temperature: kl(policy.logps(temperature), clean).item() / 3  # noqa: E731
    assert distance(find_setting(distance, 0.05, 1, 10, tolerance=1e-4)) == pytest.approx(0.05, rel=1e-3)


def test_an_end_may_be_the_answer():
    assert find_setting(lambda x: x, 0.5, 0.5, 2) == pytest.approx(0.5)
    assert find_setting(lambda x: x, 2, 0.5, 2) == pytest.approx(2)


def test_a_target_outside_is_refused_with_what_was_measured():
    with pytest.raises(UserError, match="0.25 and 4, got 9"):
        find_setting(lambda x: x**2, 9, 0.5, 2)
    with pytest.raises(UserError, match="target must be"):
        find_setting(lambda x: x, 0, 0.5, 2)
