"""The enumerable policy: every trajectory is there once, and what positions share is what noise shares."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.noise import NoiseConfig, perturbed
from psn_tutorial.teaching.tabular import TabularPolicy, features, random_policy, rare_chain, trajectories

SHAPES = st.tuples(st.integers(2, 4), st.integers(1, 4))


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.booleans(), st.data())
def test_every_trajectory_is_there_once(shape, ends, data):
    vocabulary, horizon = shape
    end = data.draw(st.integers(0, vocabulary - 1)) if ends else None
    every = trajectories(vocabulary, horizon, end)
    texts = [tuple(t[m].tolist()) for t, m in zip(every.tokens, every.mask, strict=True)]
    assert len(set(texts)) == len(texts) == len(every)
    for text in texts:
        assert end not in text[:-1] and (len(text) == horizon or text[-1] == end)
    if end is None:
        assert set(texts) == set(product(range(vocabulary), repeat=horizon))
    for row, text in enumerate(texts):
        for t in range(len(text)):
            assert every.texts[every.prefixes[row, t]] == text[:t]


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.integers(0, 100), st.lists(st.sampled_from(["prefix", "position", "last", "shared"]), min_size=1))
def test_probabilities_sum_to_one_whatever_is_shared(shape, seed, parts):
    every = trajectories(*shape, end=0)
    policy = random_policy(every, seed, spread=2.0, parts=tuple(parts))
    for temperature in (1.0, 0.3):
        assert policy.logps(temperature).sum(1).exp().sum().item() == pytest.approx(1, rel=1e-12)


def test_a_trajectory_by_hand():
    every = trajectories(2, 2)
    weight = torch.tensor([[0.0, 1.0, 2.0], [0.5, -1.0, 0.0]])  # [V, prefixes], the prefixes being (), (0), (1)
    policy = TabularPolicy(every, features(every, "prefix"), weight)
    first, after_one = weight[:, 0].double().softmax(0), (weight[:, 2].double() / 2).softmax(0)
    assert every.texts == ((), (0,), (1,)) and every.tokens[2].tolist() == [1, 0]
    assert policy.logps()[2, 0].exp().item() == pytest.approx(first[1].item(), rel=1e-12)
    assert policy.logps(temperature=2.0)[2, 1].exp().item() == pytest.approx(after_one[0].item(), rel=1e-12)


def test_what_each_part_shares():
    every = trajectories(2, 3)
    same = {
        "prefix": lambda text: text,
        "position": len,
        "last": lambda text: text[-1:],
        "shared": lambda text: (),
    }
    for part, key in same.items():
        logits = random_policy(every, 1, parts=(part,)).logits()
        for i, a in enumerate(every.texts):
            for j, b in enumerate(every.texts):
                assert torch.equal(logits[i], logits[j]) == (key(a) == key(b)), (part, a, b)
    both = features(every, "shared", "position")
    assert both.shape == (7, 1 + 3) and (both.sum(1) == 2).all()


@pytest.mark.parametrize("parts", [("shared",), ("prefix",), ("prefix", "shared"), ("position", "last")])
def test_the_chain_takes_the_rare_token_with_its_probability(parts):
    chain = rare_chain(4, rare=0.1, parts=parts)
    torch.testing.assert_close(chain.logits().softmax(1)[:, 1], torch.full((15,), 0.1, dtype=torch.float64))
    assert chain.every.tokens[-1].tolist() == [1, 1, 1, 1]
    assert chain.logps()[-1].sum().exp().item() == pytest.approx(1e-4, rel=1e-12)


def test_noise_on_shared_weights_moves_all_positions_alike_and_leaves_bitwise():
    for parts, coherent in ((("shared",), True), (("prefix",), False)):
        chain = rare_chain(3, parts=parts)
        clean = chain.weight.detach().clone()
        before = chain.logits().detach()
        with perturbed(chain, NoiseConfig(1.0, "weight"), draw=3):
            shift = (chain.logits() - before).detach()
        assert torch.allclose(shift, shift[:1].expand_as(shift)) == coherent
        assert shift.abs().min() > 0 and torch.equal(chain.weight, clean)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: trajectories(1, 3), "vocabulary must be a whole number >= 2, got 1"),
        (lambda: trajectories(3, 0), "horizon must be a whole number >= 1, got 0"),
        (lambda: trajectories(3, 3, end=3), "end must be"),
        (lambda: trajectories(10, 9), r"vocabulary \*\* horizon must be at most 131072, got 10 \*\* 9"),
        (lambda: features(trajectories(2, 2)), "features needs at least one part of prefix, position"),
        (lambda: features(trajectories(2, 2), "token"), "features must be one of"),
        (lambda: rare_chain(3, rare=1.0), "rare must be"),
        (lambda: TabularPolicy(trajectories(2, 2), torch.ones(2, 1), torch.ones(2, 1)), r"\[3, D\], got \[2, 1\]"),
        (lambda: TabularPolicy(trajectories(2, 2), torch.ones(3, 1), torch.ones(1, 2)), r"\[2, 1\], got \[1, 2\]"),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
