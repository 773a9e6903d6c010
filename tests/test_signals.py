"""Signals: exact values by hand and by scipy, bounds, what padding and broken numbers do."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.signals import (
    DIRECTIONS,
    group_similarities,
    mean_certainty,
    self_certainty,
    semantic_similarity,
    token_certainty,
)

LOGITS = st.lists(st.floats(-20, 20), min_size=2, max_size=12).map(lambda x: torch.tensor(x, dtype=torch.float64))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- self-certainty -------------------------------------------------------------------------------


def test_both_directions_by_hand():
    logits = torch.tensor([0.9, 0.1]).log()
    assert token_certainty(logits).item() == pytest.approx(-math.log(2) - (math.log(0.9) + math.log(0.1)) / 2)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert token_certainty(logits, "policy_to_uniform").item() == pytest.approx(math.log(2) - entropy)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.floats(-50, 50))
def test_they_are_scipys_kl_divergences(logits, shift):
    p = logits.softmax(0).numpy()
    uniform = [1 / len(p)] * len(p)
    expected = {"uniform_to_policy": (uniform, p), "policy_to_uniform": (p, uniform)}
    for direction in DIRECTIONS:
        got = token_certainty(logits + shift, direction).item()
        assert got == pytest.approx(scipy.stats.entropy(*expected[direction]), rel=1e-8, abs=1e-9)
        assert got > -1e-9
    assert token_certainty(logits, "policy_to_uniform").item() < math.log(len(p)) + 1e-9


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_uniform_policy_has_none(direction):
    assert token_certainty(torch.full((3, 7), 5.0), direction).abs().max() < 1e-6


def test_only_the_first_direction_hears_the_tail():
    """Ten of a hundred words that nobody samples become ten times rarer still: 0.1 x log 10 nats, and nothing."""
    logits = torch.zeros(100, dtype=torch.float64)
    logits[50:] = -30.0
    fainter = logits.clone()
    fainter[90:] -= math.log(10)
    rise = {d: (token_certainty(fainter, d) - token_certainty(logits, d)).item() for d in DIRECTIONS}
    assert rise["uniform_to_policy"] == pytest.approx(0.1 * math.log(10), rel=1e-9)
    assert abs(rise["policy_to_uniform"]) < 1e-9


def test_a_word_without_probability_is_infinite_in_one_direction_only():
    logits = torch.tensor([[[0.0, 0.0, -math.inf]]])
    mask = torch.ones(1, 1)
    assert self_certainty(logits, mask, "policy_to_uniform") == pytest.approx(math.log(3 / 2))
    with pytest.raises(UserError, match="certainty must be finite where mask is 1, got inf in row 0, token 0"):
        self_certainty(logits, mask)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_is_the_mean_over_completion_tokens_whatever_stands_in_the_padding(direction):
    logits = random(2, 3, 5)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    expected = sum(token_certainty(logits[b, t], direction).item() for b, t in [(0, 0), (0, 1), (1, 0)]) / 3
    logits[~mask.bool()] = math.nan
    assert self_certainty(logits, mask, direction) == pytest.approx(expected, rel=1e-12)
    assert self_certainty(logits, mask.bool(), direction) == mean_certainty(
        token_certainty(logits, direction), mask.bool()
    )


def test_half_precision_is_widened_and_nothing_carries_a_gradient():
    logits = random(4, 50).mul(5).to(torch.bfloat16).requires_grad_()
    for direction in DIRECTIONS:
        got = token_certainty(logits, direction)
        assert got.dtype == torch.float32 and not got.requires_grad
        torch.testing.assert_close(got.double(), token_certainty(logits.double(), direction), rtol=1e-5, atol=1e-5)
        mean = mean_certainty(got[None], torch.ones(1, 4).bool())
        assert type(mean) is float and mean == pytest.approx(math.fsum(got.tolist()) / 4, rel=1e-14)


@pytest.mark.parametrize(
    ("logits", "mask", "direction", "sentence"),
    [
        ((2, 5), (2, 5), "uniform_to_policy", r"logits must have the shape \[B, T, V\], got \[2, 5\]"),
        ((2, 3, 5), (2, 4), "uniform_to_policy", r"mask has the shape \[2, 4\], which does not match"),
        ((2, 3, 5), (2, 3), "both", "direction must be one of 'uniform_to_policy', 'policy_to_uniform', got 'both'"),
    ],
)
def test_refusals_of_certainty(logits, mask, direction, sentence):
    with pytest.raises(UserError, match=sentence):
        self_certainty(torch.zeros(logits), torch.ones(mask), direction)


def test_an_empty_mask_is_refused():
    with pytest.raises(UserError, match="mask must have a 1 somewhere"):
        self_certainty(torch.zeros(2, 3, 5), torch.zeros(2, 3))


# --- similarity -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 5), st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_it_is_the_mean_over_pairs_within_a_group(prompts, group, size, seed, scale):
    embeddings = random(prompts * group, size, seed=seed)
    cosine = torch.nn.functional.cosine_similarity
    expected = [
        sum(cosine(a, b, dim=0) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j) / group / (group - 1)
        for rows in embeddings.view(prompts, group, size)
    ]
    got = group_similarities(embeddings * scale, group)
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-9, atol=1e-9)
    assert semantic_similarity(embeddings, group) == pytest.approx(torch.stack(expected).mean().item(), abs=1e-9)
    assert -1 / (group - 1) - 1e-9 <= got.min() and got.max() <= 1 + 1e-9


def test_similarity_of_equal_orthogonal_and_opposite_answers():
    same, orthogonal, opposite = torch.ones(2, 3), torch.eye(3)[:2], torch.tensor([[1.0, 2, 3], [-1, -2, -3]])
    together = torch.cat([same, orthogonal, opposite])
    assert group_similarities(together, 2).tolist() == pytest.approx([1, 0, -1])
    mean = semantic_similarity(together, 2)
    assert type(mean) is float and mean == pytest.approx(0)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_length_of_an_embedding_does_not_matter(size):
    words = random(6, 4).float()
    torch.testing.assert_close(group_similarities(size * words, 3), group_similarities(words, 3))


def test_a_collapsed_group_is_more_alike_and_more_certain():
    words = random(16, 8)
    collapsed = words[:1].repeat(16, 1) + 0.1 * words
    assert semantic_similarity(collapsed, 16) > semantic_similarity(words, 16) + 0.5
    logits, mask = random(4, 3, 9), torch.ones(4, 3)
    for direction in DIRECTIONS:
        assert self_certainty(3 * logits, mask, direction) > self_certainty(logits, mask, direction)


@pytest.mark.parametrize(
    ("embeddings", "group", "sentence"),
    [
        (torch.ones(4, 2), 1, "group must be a whole number >= 2, got 1"),
        (torch.ones(4, 2), 3, r"embeddings must be \[B, D\] with B a multiple of group 3, got \[4, 2\]"),
        (torch.ones(0, 2), 2, "embeddings must be"),
        (torch.ones(4), 2, "embeddings must be"),
        (torch.tensor([[1.0, 0], [0, 0]]), 2, "embeddings must be finite and not zero, got the length 0.0 in row 1"),
        (
            torch.tensor([[math.nan, 0], [1, 0]]),
            2,
            "embeddings must be finite and not zero, got the length nan in row 0",
        ),
        (
            torch.tensor([[1, 0], [math.inf, 0]]),
            2,
            "embeddings must be finite and not zero, got the length inf in row 1",
        ),
    ],
)
def test_refusals_of_similarity(embeddings, group, sentence):
    with pytest.raises(UserError, match=sentence):
        semantic_similarity(embeddings, group)
