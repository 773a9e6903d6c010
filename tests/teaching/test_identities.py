"""The ten statements about importance sampling that notebook 05 derives, each by its number, on an enumerable policy.

pi is the target, mu the sampler, w = pi / mu. Each statement is checked here and nowhere else, together with what must
NOT hold; tests/test_importance.py checks the functions: by hand, their statistics, overflow, padding, refusals.
"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binom

from psn_tutorial.importance import importance_weights, mixture_logps
from psn_tutorial.losses import kl_k3
from psn_tutorial.noise import NoiseConfig, perturbed
from psn_tutorial.teaching import exact
from psn_tutorial.teaching.tabular import TabularPolicy, Trajectories, random_policy, trajectories

FULL, ENDED = trajectories(3, 3), trajectories(3, 3, end=2)
WORLDS = pytest.mark.parametrize("every", [FULL, ENDED], ids=["full", "ended"])
CAPS = pytest.mark.parametrize("cap", [0.5, 1.0, 2.0, 10.0])


def noisy(policy, sigma=1.0, draw=0):
    """[B, T] log mu: the policy's log-probs under a draw of noise."""
    with perturbed(policy, NoiseConfig(sigma, "weight"), draw):
        return policy.logps().detach()


def world(every, sigma=1.0, seed=0):
    """A policy, its log-probs and those of a noisy sampler, the probabilities of both, and rewards [B]."""
    policy = random_policy(every, seed)
    target, sampler = policy.logps().detach(), noisy(policy, sigma)
    rewards = torch.rand(len(every), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return policy, target, sampler, exact.probabilities(target), exact.probabilities(sampler), rewards


def sequence(target, sampler, every, **options):
    """[B] the weight of each trajectory."""
    options = {"cap": None, "level": "sequence"} | options
    return importance_weights(target, sampler, every.mask, **options).weights[:, 0]


def same(left, right):
    assert float((torch.as_tensor(left, dtype=torch.float64) - right).abs().max()) < 1e-12


@WORLDS
def test_statement_1_sequence_weights_give_the_true_gradient(every):
    policy, target, sampler, p, q, rewards = world(every)
    weights = importance_weights(target, sampler, every.mask, cap=None, level="sequence").weights
    same(weights[:, 0], p / q)
    same(q @ weights[:, 0], 1.0)
    same(q @ (weights[:, 0] * rewards), p @ rewards)
    same(exact.surrogate_gradient(policy, sampler, weights, rewards), exact.value_gradient(policy, rewards))


@WORLDS
def test_statement_1_token_weights_give_the_gradient_of_one_step_deviations(every):
    policy, target, sampler, _, _, rewards = world(every)
    weights = importance_weights(target, sampler, every.mask, cap=None, level="token").weights
    gradient = exact.surrogate_gradient(policy, sampler, weights, rewards)
    deviations = []
    for t in range(3):  # mu draws every token but the t-th
        mixed = torch.where(torch.arange(3) == t, policy.logps(), sampler)
        deviations.append(exact.expectation(mixed, rewards))
    same(gradient, torch.autograd.grad(sum(deviations), policy.weight)[0])
    true = exact.value_gradient(policy, rewards)
    assert (gradient - true).norm() > 0.1 * true.norm(), "biased beyond one token"


def test_statement_1_one_token_is_exact_at_either_level():
    every = trajectories(4, 1)
    policy, target, sampler, _, _, rewards = world(every)
    weights = importance_weights(target, sampler, every.mask, cap=None, level="token").weights
    same(exact.surrogate_gradient(policy, sampler, weights, rewards), exact.value_gradient(policy, rewards))


@WORLDS
@CAPS
def test_statement_2_bias_and_second_moment_of_truncation(every, cap):
    _, target, sampler, p, q, rewards = world(every, sigma=1.5)
    w, capped, f = p / q, sequence(target, sampler, every, cap=cap), rewards - 0.3
    bias = q @ (capped * f) - p @ f
    same(bias, -(q @ ((w - cap).clamp(min=0) * f)))
    assert bias.abs() <= f.abs().max() * p[w > cap].sum() + 1e-12
    assert q @ (capped * f).square() <= cap * (p @ f.square()) + 1e-12
    if cap == 1.0:
        assert bias.abs() > 0.01


@WORLDS
@CAPS
def test_statement_3_truncating_and_masking_are_exact_for_other_targets(every, cap):
    _, target, sampler, p, q, _ = world(every, sigma=1.5)
    same(q * sequence(target, sampler, every, cap=cap), torch.minimum(p, cap * q))
    same(q * sequence(target, sampler, every, cap=cap, mode="mask"), p * (p <= cap * q))


@WORLDS
def test_statement_4_ess_is_one_over_one_plus_chi_square_and_a_capped_one_has_a_floor(every):
    cap = 2.0
    for sigma in (0.5, 1.0, 2.0, 4.0):
        _, target, sampler, p, q, _ = world(every, sigma)
        same(exact.population_ess(target, sampler), 1 / (1 + (p - q).square() @ (1 / q)))
        w = sequence(target, sampler, every, cap=cap)
        assert (q @ w) ** 2 / (q @ w.square()) >= q @ w / cap - 1e-12
    raw, capped = float(exact.population_ess(target, sampler)), float((q @ w) ** 2 / (q @ w.square()))
    assert raw < capped / 10, "the capped one hides the collapse"


@pytest.mark.parametrize("cap", [1.5, 2.0, 10.0])
def test_statement_5_the_kl_bounds_how_many_ratios_a_cap_can_touch(cap):
    for sigma in (0.3, 1.0, 3.0):
        _, target, sampler, p, q, _ = world(FULL, sigma)
        assert q[p / q > cap].sum() <= exact.kl(sampler, target) / (cap - 1 - math.log(cap)) + 1e-12
    assert 0.003 / (10 - 1 - math.log(10)) == pytest.approx(0.00045, rel=0.01)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_statement_6_a_baseline_is_free_without_a_cap_only(level, mode):
    policy, target, sampler, *_ = world(FULL)
    ones = torch.ones(len(FULL), dtype=torch.float64)

    def push(cap):
        weights = importance_weights(target, sampler, FULL.mask, cap, level, mode).weights
        return exact.surrogate_gradient(policy, sampler, weights, ones)

    same(push(None), torch.zeros(1))
    assert push(1.0).norm() > 0.01


def test_statement_7_the_median_ratio_falls_as_exp_of_minus_the_kl():
    a = 0.1

    def coin_kl(b):
        return b * math.log(b / a) + (1 - b) * math.log((1 - b) / (1 - a))

    b, tokens = brentq(lambda b: coin_kl(b) - 0.003, a, 0.5), 1000
    heads = np.arange(tokens + 1)
    log_ratio = heads * math.log(a / b) + (tokens - heads) * math.log((1 - a) / (1 - b))
    assert binom.pmf(heads, tokens, b) @ log_ratio == pytest.approx(-3, abs=1e-9)
    median = log_ratio[int(binom.median(tokens, b))]
    assert median == pytest.approx(-3, abs=0.2)
    # The library agrees, on a rollout with the median number of heads.
    tails = torch.arange(tokens)[None] >= binom.median(tokens, b)
    target = torch.where(tails, math.log(1 - a), math.log(a)).double()
    sampler = torch.where(tails, math.log(1 - b), math.log(b)).double()
    weights = importance_weights(target, sampler, torch.ones(1, tokens), level="sequence").weights
    assert weights[0, 0].item() == pytest.approx(math.exp(median), rel=1e-4)
    assert importance_weights(target, sampler, torch.ones(1, tokens)).clipped_fraction == 0


def test_statement_8_the_three_estimators_as_numbers_and_as_losses():
    policy, target, reference, p, q, _ = world(FULL)
    estimators = {"k1": lambda x: x, "k2": lambda x: x**2 / 2, "k3": lambda x: kl_k3(x, torch.zeros_like(x))}
    ell, distance = (target - reference).sum(-1), exact.kl(target, reference)  # samples of pi, KL(pi || ref)
    same(p @ estimators["k1"](ell), distance)
    same(p @ estimators["k3"](ell), distance)
    assert abs(p @ estimators["k2"](ell) - distance) > 0.01
    assert estimators["k1"](ell).min() < -0.1 and estimators["k3"](ell).min() >= 0

    def slope(estimator):
        return torch.autograd.grad(p @ estimator((policy.logps() - reference).sum(-1)), policy.weight)[0]

    ahead, back = (
        torch.autograd.grad(d, policy.weight)[0]
        for d in (exact.kl(policy.logps(), reference), exact.kl(reference, policy.logps()))
    )
    same(slope(estimators["k1"]), torch.zeros(1))
    same(slope(estimators["k2"]), ahead)
    same(slope(estimators["k3"]), back)
    assert (ahead - back).norm() > 0.1 * ahead.norm()


@WORLDS
def test_statement_9_mixture_weights_are_unbiased_and_vary_less(every):
    policy, target, _, p, _, rewards = world(every)
    each = torch.stack([noisy(policy, draw=draw) for draw in range(8)])
    mixed, own = mixture_logps(each, every.mask), each.sum(-1).exp()
    pool = exact.probabilities(mixed)
    same(pool, own.mean(0))
    w = sequence(target, mixed, every)
    same(pool @ (w * rewards), p @ rewards)
    single = torch.stack([sequence(target, one, every) for one in each])
    assert (w <= len(each) * single * (1 + 1e-12)).all()
    assert pool @ (w - 1).square() < 0.5 * (own * (single - 1).square()).sum() / len(each)


def test_statement_10_the_denominator_is_what_generated_the_tokens():
    policy, target, _, p, _, rewards = world(FULL)
    hot = policy.logps(temperature=2.0).detach()
    same(exact.expectation(hot, sequence(target, hot, FULL) * rewards), p @ rewards)
    forgotten = importance_weights(target, target, FULL.mask)  # the temperature missing on both sides
    assert (forgotten.ess, forgotten.kl_k1, forgotten.kl_k3) == (1.0, 0.0, 0.0)  # and nothing shows it
    assert abs(exact.expectation(hot, rewards) - p @ rewards) > 0.01

    # Top-p as a policy: the least likely token of each prefix is never drawn.
    logits = policy.logits().detach()
    least = torch.zeros_like(logits).scatter(-1, logits.argmin(-1, keepdim=True), 1.0)
    unit = torch.eye(len(FULL.texts), dtype=torch.float64)
    nucleus = TabularPolicy(FULL, unit, (logits - 1e3 * least).T).logps().detach()
    n = exact.probabilities(nucleus)
    seen = n > 0
    w = (target - nucleus).sum(-1).exp()[seen]
    same(n[seen] @ (w * rewards[seen]), p[seen] @ rewards[seen])  # what is never sampled is missing
    assert n[seen] @ w < 0.99 and p[seen] @ rewards[seen] < p @ rewards - 0.01


def chain_moments(level, mixture, zero):
    """Gain and rollouts needed on a chain of 4 under coherent noise, as the advanced notebook defines them."""
    steps, rare, shifts = 4, 0.2, torch.tensor([-2.0, -0.5, 1.0, 3.0], dtype=torch.float64)
    one = trajectories(2, steps)
    count, odds = len(shifts), math.log(rare / (1 - rare))
    pairs = Trajectories(*(x.repeat(count, 1) for x in (one.tokens, one.mask, one.prefixes)), one.texts, 2)
    weight = torch.tensor([[0.0], [odds]], dtype=torch.float64)
    policy = TabularPolicy(pairs, torch.ones(len(one.texts), 1), weight)
    own = torch.nn.functional.logsigmoid((2 * pairs.tokens - 1) * (odds + shifts.repeat_interleave(len(one))[:, None]))
    sampler = mixture_logps(own.view(count, len(one), steps), one.mask).repeat(count, 1) if mixture else own
    weights = 1.0
    if level:
        weights = importance_weights(policy.logps(), sampler, pairs.mask, cap=None, level=level).weights
    win = (pairs.tokens == 1).all(1).double()
    success = torch.sigmoid(odds + shifts) ** steps
    if zero == "pooled":
        wrong, right = exact.group_advantage(float(success.mean()), 8)
        win = wrong + win * (right - wrong)
    joint = own.clone()
    joint[:, 0] -= math.log(count)
    mean, variance = exact.gradient_moments(policy, joint, weights, win)
    gain = float(mean[1, 0]) / (steps * rare**steps * (1 - rare))
    return gain, variance / float(mean.square().sum()), success, torch.sigmoid(odds + shifts) / rare


def test_under_exact_correction_exploration_changes_the_variance_alone():
    gain, needed, success, _ = chain_moments("sequence", True, "none")
    assert gain == pytest.approx(1, rel=1e-9)
    assert needed == pytest.approx(1 / float(success.mean()) - 1, rel=1e-9)
    assert needed < (1 / 0.2**4 - 1) / 20, "on-policy needs one over the clean success"
    gain, worse, *_ = chain_moments("sequence", False, "none")
    assert gain == pytest.approx(1, rel=1e-9) and worse > 10 * needed
    gain, drowned, *_ = chain_moments("sequence", True, "pooled")
    wrong, right = exact.group_advantage(float(success.mean()), 8)
    assert gain == pytest.approx(right - wrong, rel=1e-9) and gain <= 7 / 8**0.5
    assert drowned > 10 * needed, "the sampler's mean reward is the wrong zero point"


def test_the_gain_of_token_weights_and_of_none_is_the_success_of_the_other_steps():
    gain, _, _, odds = chain_moments("token", False, "none")
    assert gain == pytest.approx(float((odds**3).mean()), rel=1e-9)
    gain, _, _, odds = chain_moments(None, False, "none")
    assert gain == pytest.approx(float((odds**4).mean()), rel=1e-9)
