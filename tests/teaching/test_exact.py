"""The oracle, checked from outside: by counting, by differences, by scipy's integrals and by samples."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from psn_tutorial.advantages import group_advantages
from psn_tutorial.evaluation.estimators import pass_at_k
from psn_tutorial.importance import importance_weights
from psn_tutorial.teaching import exact
from psn_tutorial.teaching.tabular import TabularPolicy, random_policy, trajectories

EVERY = trajectories(3, 3, end=2)
PI, MU = random_policy(EVERY, 0, parts=("shared", "last")), random_policy(EVERY, 1, parts=("shared", "last"))


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def some_values(seed=5):
    return torch.rand(len(EVERY), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_expectations_are_those_of_the_listed_probabilities():
    p = np.array([math.exp(sum(row)) for row in PI.logps().tolist()])
    assert exact.probabilities(PI.logps()).detach().numpy() == pytest.approx(p, rel=1e-12)
    f = some_values()
    assert exact.expectation(PI.logps(), f).item() == pytest.approx(float(p @ f.numpy()), rel=1e-12)


def test_the_value_gradient_is_the_slope_of_the_value():
    f, step = some_values(), 1e-5
    gradient = exact.value_gradient(PI, f)
    for place in product(*map(range, PI.weight.shape)):
        value = []
        for sign in (1, -1):
            weight = PI.weight.detach().clone()
            weight[place] += sign * step
            value.append(exact.expectation(TabularPolicy(EVERY, PI.features, weight).logps(), f).item())
        assert (value[0] - value[1]) / (2 * step) == pytest.approx(gradient[place].item(), abs=1e-9)


def test_the_score_function_gives_the_value_gradient_on_policy_and_by_sequence_weights():
    f, true = some_values(), exact.value_gradient(PI, some_values())
    torch.testing.assert_close(exact.surrogate_gradient(PI, PI.logps(), 1.0, f), true)
    torch.testing.assert_close(exact.surrogate_gradient(PI, PI.logps(), 1.0, f - 0.4), true)  # any baseline
    weights = importance_weights(PI.logps(), MU.logps(), EVERY.mask, cap=None, level="sequence").weights
    torch.testing.assert_close(exact.surrogate_gradient(PI, MU.logps(), weights, f), true)
    uncorrected = exact.surrogate_gradient(PI, MU.logps(), 1.0, f)
    assert (uncorrected - true).norm() > 0.1 * true.norm()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_moments_are_those_of_one_rollouts_estimate(level):
    f = some_values()
    weights = importance_weights(PI.logps(), MU.logps(), EVERY.mask, level=level).weights
    mean, variance = exact.gradient_moments(PI, MU.logps(), weights, f)
    torch.testing.assert_close(mean, exact.surrogate_gradient(PI, MU.logps(), weights, f))
    q = exact.probabilities(MU.logps()).detach()
    expected = 0.0
    for row in range(len(EVERY)):  # each trajectory's own estimate, by autograd
        score = (weights[row] * PI.logps()[row]).sum()
        own = f[row] * torch.autograd.grad(score, PI.weight)[0]
        expected += float(q[row] * (own - mean).square().sum())
    assert variance == pytest.approx(expected, rel=1e-10)


def test_a_constant_estimate_has_no_variance():
    sure = TabularPolicy(EVERY, PI.features, torch.zeros_like(PI.weight))
    assert exact.gradient_moments(sure, sure.logps(), 1.0, torch.zeros(len(EVERY)))[1] == 0


def test_distances_by_their_definitions():
    p, q = (exact.probabilities(policy.logps()).detach().numpy() for policy in (PI, MU))
    assert exact.kl(PI.logps(), MU.logps()).item() == pytest.approx(stats.entropy(p, q), rel=1e-12)
    assert exact.kl(MU.logps(), PI.logps()).item() == pytest.approx(stats.entropy(q, p), rel=1e-12)
    assert abs(stats.entropy(p, q) - stats.entropy(q, p)) > 0.01  # so that the direction is tested
    chi_square = ((p - q) ** 2 / q).sum()
    assert exact.chi_square(PI.logps(), MU.logps()).item() == pytest.approx(chi_square, rel=1e-10)
    assert exact.population_ess(PI.logps(), MU.logps()).item() == pytest.approx(1 / (1 + chi_square), rel=1e-10)
    assert exact.population_ess(PI.logps(), PI.logps()).item() == pytest.approx(1, rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.just(0.0) | st.floats(1e-9, 1), st.integers(1, 20), st.integers(1, 20))  # scipy's pmf overflows at 1e-308
def test_population_pass_at_k_is_what_the_estimator_estimates(success, k, more):
    n = k + more
    counts = np.arange(n + 1)
    mean = float(stats.binom.pmf(counts, n, success) @ pass_at_k(n, counts, k))
    assert float(exact.population_pass_at_k(success, k)) == pytest.approx(mean, rel=1e-9, abs=1e-12)


def test_population_pass_at_k_at_its_ends():
    assert exact.population_pass_at_k([0.0, 0.5, 1.0], 2).tolist() == [0, 0.75, 1]
    assert float(exact.population_pass_at_k(1e-15, 4)) == pytest.approx(4e-15, rel=1e-9)
    assert exact.population_coverage([0.5, 0.0, 1.0], 2) == pytest.approx(1.75 / 3)


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("success, group", [(0.3, 4), (0.05, 6), (0.5, 2)])
def test_group_advantage_is_the_mean_over_all_groups(success, group, scale):
    totals, masses = [0.0, 0.0], [0.0, 0.0]
    for rewards in product((0, 1), repeat=group):
        chance = math.prod(success if r else 1 - success for r in rewards)
        own = group_advantages(f64([rewards]), scale)[0, 0].item()
        totals[rewards[0]] += chance * own
        masses[rewards[0]] += chance
    expected = tuple(total / mass for total, mass in zip(totals, masses, strict=True))
    assert exact.group_advantage(success, group, scale) == pytest.approx(expected, rel=1e-9)


def test_a_group_that_is_always_right_or_wrong_has_no_advantage_for_what_happens():
    assert exact.group_advantage(0.0, 8)[0] == 0 and exact.group_advantage(0.0, 8)[1] > 0
    assert exact.group_advantage(1.0, 8)[1] == 0 and exact.group_advantage(1.0, 8)[0] < 0


@pytest.mark.parametrize("log_odds, sigma, steps", [(-2.2, 1.0, 8), (-2.2, 3.0, 12), (0.5, 0.01, 2), (-2.2, 6.0, 1)])
def test_gaussian_mean_is_the_integral(log_odds, sigma, steps):
    def integrand(z):
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (1 + math.exp(-log_odds - sigma * z)) ** steps

    integral = integrate.quad(integrand, -12, 12, epsabs=0, epsrel=1e-12, limit=500)[0]
    mean = exact.gaussian_mean(lambda shift: torch.sigmoid(log_odds + shift) ** steps, sigma)
    assert mean.item() == pytest.approx(integral, rel=1e-10)


def test_gaussian_mean_of_several_values_and_of_moments():
    mean = exact.gaussian_mean(lambda x: torch.stack([x, x**2, x**4], -1), 2.0)
    torch.testing.assert_close(mean, f64([0.0, 4.0, 48.0]), rtol=1e-12, atol=1e-12)
