"""The figures of a probe against counts by hand and simulated truth; the record; what a sampler is called."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.probes import (
    Sampler,
    consistency,
    figures,
    pass_difference,
    pass_values,
    read_probes,
    surrogate,
)
from tests.evaluation.probes_by_hand import made


@pytest.mark.parametrize(
    ("word", "sampler"),
    [
        ("clean", Sampler()),
        ("temperature=1.2", Sampler(temperature=1.2)),
        ("top-p=0.9", Sampler(top_p=0.9)),
        ("mlp=0.1", Sampler("mlp", 0.1)),
        ("head=0.004:absolute", Sampler("head", 0.004, relative=False)),
        ("attention=1e-05:dense", Sampler("attention", 1e-5, carrier="dense")),
        ("all=0.02:absolute:weights", Sampler("all", 0.02, relative=False, carrier="weights")),
        ("mlp=0.1:middle", Sampler("mlp", 0.1, layers="middle")),
        ("mlp=0.1:4-7:absolute:dense", Sampler("mlp", 0.1, relative=False, carrier="dense", layers="4-7")),
        ("my.sites:half=0.1:3", Sampler("my.sites:half", 0.1, layers="3")),
        ("mlp=0.1:first:absolute:my.sites:half", Sampler("mlp", 0.1, False, "my.sites:half", layers="first")),
    ],
)
def test_a_sampler_and_its_word_are_inverse(word, sampler):
    assert Sampler.parse(word) == sampler and str(sampler) == word


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hot", "a sampler must be clean, .*, got 'hot'"),
        ("temperature=0", "temperature must be > 0, got 0"),
        ("temperature=warm", "a sampler must be clean"),
        ("top-p=1.5", "top-p must be > 0 and <= 1, got 1.5"),
        ("mpl=0.1", "the site of noise must be one of 'mlp', .*got 'mpl'"),
        ("mlp=0.1:dens", "what follows mlp=0.1 must be one of 'absolute', .*got 'dens'"),
        ("mlp=0.1:dense:lowrank", "mlp=0.1 must name one carrier, got dense and lowrank"),
        ("mlp=0.1:dense:my:own", "mlp=0.1 must name one carrier, got dense and my:own"),
        ("mlp=0.1:first:2", "mlp=0.1 must name one choice of layers, got first and 2"),
        ("mlp=0.1:7-2", "layers must be one of all, .* got '7-2'"),
        ("my-sites:half=0.1", "the site of noise must be one of mlp, .*, or module:name .* got 'my-sites:half'"),
        ("mlp=-0.1", "a sampler must be clean"),
        ("mlp=1.2.3", "a sampler must be clean"),
    ],
)
def test_a_wrong_word_is_told_in_a_sentence(word, said):
    with pytest.raises(UserError, match=said):
        Sampler.parse(word)


def test_pass_at_k_is_of_sets_of_different_draws():
    """Draws 0 and 1 are the first set, 2 and 3 the second; any other grouping gives other numbers."""
    probe = made(["1100", "1010", "0001"])
    assert pass_values(probe, 1).tolist() == [[1.0, 0.0], [0.5, 0.5], [0.0, 0.5]]
    assert pass_values(probe, 2).tolist() == [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    found = figures(probe, (1, 2, 4))
    assert found["pass@1"].value == pytest.approx(5 / 12) and found["pass@2"].value == pytest.approx(4 / 6)
    assert "pass@4" not in found  # a set has two


def test_sums_over_tokens_and_not_means_of_draws():
    probe = made(
        ["10", "01"], tokens=[10, 30], kl_k1=[0.9, 0.9], kl_k3=[0.1, 0.3], ratios=[10.0, 24.0], squares=[16.0, 48.0]
    )
    found = figures(probe)
    assert found["KL"].value == pytest.approx((10 * 0.1 + 30 * 0.3) / 40)
    assert figures(replace(probe, tokens=(10, 30, 99, 99), formed=(1.0, 1.0, 0.0, 0.0)))["KL"] == found["KL"]
    assert found["ESS"].value == pytest.approx(34**2 / (40 * 64))
    assert figures(made(["10", "01"], sampler=Sampler(top_p=0.9), kl_k1=[0.2, 0.2], kl_k3=[9.0, 9.0]))[
        "KL"
    ].value == pytest.approx(0.2)


def test_intervals_cover_the_truth_over_problems_and_draws():
    """Problems of different difficulty and draws of different quality: the interval must widen for both."""
    rng, inside, narrow = np.random.default_rng(0), 0, 0
    for _ in range(60):
        hard, bad = rng.normal(size=(40, 1)), rng.normal(size=(1, 24))
        p = 1 / (1 + np.exp(-(hard + bad)))
        right = ["".join(map(str, row)) for row in (rng.random(p.shape) < p).astype(int)]
        interval = figures(made(right, answers=8), (1,))["pass@1"]
        inside += 0.5 in interval
        flat = np.array([[int(c) for c in row] for row in right]).mean(1)
        narrow += abs(flat.mean() - 0.5) < 1.96 * flat.std() / 40**0.5  # problems alone
    assert inside >= 48 and inside > narrow


def test_differences_are_paired_by_problem():
    """Two samplers that are the same but for draws: problems are hard for both, so the interval is narrower."""
    rng = np.random.default_rng(1)
    hard = rng.choice([0.02, 0.98], size=(60, 1))
    one, two = (made(["".join(map(str, r)) for r in (rng.random((60, 16)) < hard).astype(int)], 8) for _ in range(2))
    difference, alone = pass_difference(one, two, 1), figures(one, (1,))["pass@1"]
    assert 0.0 in difference and difference.high - difference.low < 0.4 * (alone.high - alone.low)
    with pytest.raises(UserError, match="same problems, got 60 and 2"):
        pass_difference(one, made(["10", "01"], 2), 1)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_consistency_is_the_share_of_the_variance_between_draws(share):
    """Simulated with problems that differ much more than anything else, which must not matter."""
    rng, found = np.random.default_rng(2), []
    for _ in range(100):
        problems, draws = 10 * rng.normal(size=(30, 1)), rng.normal(size=(1, 40)) * share**0.5
        found.append(consistency(problems + draws + rng.normal(size=(30, 40)) * (1 - share) ** 0.5))
    assert np.mean([interval.value for interval in found]) == pytest.approx(share, abs=0.02)
    assert np.mean([share in interval for interval in found]) == pytest.approx(0.95, abs=0.06)
    assert all(interval.low <= interval.value <= interval.high for interval in found)


def test_consistency_at_its_ends():
    draws = np.arange(5.0)
    assert consistency(np.tile(draws, (4, 1))).value == 1  # every draw its own way, for all problems
    assert consistency(np.tile(draws[:4, None], (1, 5))).value == 0  # the problems alone
    assert consistency(np.ones((1, 5))).value != consistency(np.ones((1, 5))).value  # nan: one problem tells nothing


def test_the_record_comes_back(tmp_path):
    path = tmp_path / "probe.jsonl"
    assert read_probes(path) == []
    probes = [made(["10", "01"]), made(["11", "01"], sampler=Sampler("head", 0.1, relative=False))]
    path.write_text("".join(json.dumps(probe.to_json()) + "\n" for probe in probes))
    assert read_probes(path) == probes
    path.write_text(json.dumps(probes[0].to_json()) + '\n{"sampler": {"sigma": -1}}\n')
    with pytest.raises(UserError, match="line 2, sampler: sigma must be >= 0, got -1"):
        read_probes(path)
    path.write_text("{\n")
    with pytest.raises(UserError, match="line 1"):
        read_probes(path)


def test_the_surrogate_is_spearmans_correlation_of_similarity_and_different_answers():
    rng = np.random.default_rng(3)
    distinct = rng.integers(1, 9, 200)
    similarity = 0.9 - 0.05 * distinct + rng.normal(0, 0.05, 200)
    right = ["10"] * 200
    found = surrogate(made(right, distinct_answers=distinct.tolist(), similarity=similarity.tolist()))
    assert found.value == pytest.approx(spearmanr(similarity, distinct).statistic, abs=1e-12)
    assert found.low < found.value < found.high < -0.5 and found.high - found.low < 0.2
    exact = surrogate(made(right, distinct_answers=distinct.tolist(), similarity=(-distinct).tolist()))
    assert (exact.value, exact.low, exact.high) == pytest.approx((-1, -1, -1))
    by_right = made(right, distinct_right=distinct.tolist(), similarity=similarity.tolist())
    assert surrogate(by_right, right=True) == found
    assert np.isnan(surrogate(made(right)).value)
    assert np.isnan(surrogate(made(right, similarity=similarity.tolist())).value)  # all have one answer
