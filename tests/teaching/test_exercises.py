"""The checkers of the exercises: the library passes, every plausible mistake fails and is named, nothing is raised."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from psn_tutorial import carriers
from psn_tutorial.advantages import group_advantages
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.estimators import pass_at_k
from psn_tutorial.evaluation.probes import consistency
from psn_tutorial.evaluation.verdicts import holm, sign_flip_p
from psn_tutorial.importance import importance_weights, mixture_logps
from psn_tutorial.losses import policy_loss
from psn_tutorial.noise import NoiseConfig
from psn_tutorial.preflight.budget import shape_of
from psn_tutorial.preflight.cost import Step, operations
from psn_tutorial.rollout import token_logps
from psn_tutorial.schedulers import KLTargetSigma, RealtimeSigma
from psn_tutorial.signals import token_certainty
from psn_tutorial.teaching.exact import expectation, gaussian_mean, population_coverage
from psn_tutorial.teaching.exercises import EXERCISES, check, solutions

names = pytest.mark.parametrize("name", EXERCISES)
MISTAKES = [(name, mistake) for name, exercise in EXERCISES.items() for mistake in exercise.mistakes]


def clipped_term(ratio, advantage, clip_low, clip_high):
    """The library's loss of a single token, turned round."""
    logps, ones = ratio.log().view(1, 1), torch.ones(1, 1)
    loss, _ = policy_loss(logps, 0 * logps, advantage.view(1), ones, clip_low=clip_low, clip_high=clip_high)
    return -loss


def masked_mean_loss(per_token, mask):
    """The library's loss where the weights carry the per-token losses."""
    zeros = torch.zeros_like(per_token)
    return policy_loss(zeros, zeros, -torch.ones(len(mask)), mask, per_token)[0]


def mixture_weights(target_logps, draws_logps):
    mask = torch.ones(len(target_logps), 1)
    mixture = mixture_logps(draws_logps[..., None], mask)
    return importance_weights(target_logps[:, None], mixture, mask, cap=None).weights[:, 0]


def effective_sample_size(ratios):
    logps = ratios.log()[None]
    return importance_weights(logps, 0 * logps, torch.ones_like(logps)).ess


def rollouts_needed(probabilities, estimates):
    """E[g^2] / E[g]^2 - 1, by the library's sum over trajectories of one token."""
    mean, square = (expectation(probabilities.log()[:, None], estimates**k) for k in (1, 2))
    return square / mean**2 - 1


def consistent_success(log_odds, sigma, steps):
    return gaussian_mean(lambda noise: torch.sigmoid(log_odds + noise) ** steps, sigma)


def realtime_rule(sigma, indicator, target, growth):
    """The library's schedule on an indicator that is the similarity alone, as it comes."""
    schedule = RealtimeSigma(sigma, target, mix=1.0, factor=growth, similarity_scale="none")
    return schedule.update({"similarity": indicator, "self_certainty": 1.0})


def update_operations(weights, tokens, frozen, recompute):
    """The library's count of an update, in passes of the model, times one pass of the exercise's weights."""
    step = Step(1, 1, prompt=tokens, completion=1, learns=0.01 if frozen else 1.0, recompute=recompute)
    counted = operations(shape_of("qwen3-0.6b"), step)  # sampling a single token is the reading of its prompt
    return 2 * weights * tokens * counted["updating"] / counted["sampling"]


def block_round(weights, levels, block):
    """bitsandbytes on the CPU, with a table of levels; its blocks are longer, and filled up with zeros."""
    from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

    table = torch.cat([levels, levels[-1].expand(256 - len(levels))])
    padded = torch.nn.functional.pad(weights.view(-1, block), (0, 64 - block))
    return dequantize_blockwise(*quantize_blockwise(padded, code=table, blocksize=64))[:, :block].flatten()


def low_rank_noise(up, down, sigma):
    """What the carrier adds to a layer of zeros, its normal numbers being those of the exercise."""
    model = nn.ModuleDict({"mlp": nn.Linear(down.shape[1], len(up), bias=False)})
    nn.init.zeros_(model.mlp.weight)
    config = NoiseConfig(sigma, "mlp", carrier="lowrank", rank=len(down))
    given = lambda config, draw, name, shape: (up if name.endswith("/B") else down).clone()  # noqa: E731
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(carriers, "gaussian", given)
        with carriers.carried(model, config, [0]):
            return model.mlp(torch.eye(down.shape[1])).T


LIBRARY = {
    "pass_at_k": pass_at_k,
    "expected_coverage": population_coverage,
    "consistent_success": consistent_success,
    "coherent_share": lambda shifts: consistency(shifts.T.numpy()).value,
    "group_advantages": lambda rewards: group_advantages([rewards])[0],
    "clipped_term": clipped_term,
    "masked_mean_loss": masked_mean_loss,
    "token_weights": lambda p, q, mask, cap: importance_weights(p, q, mask, cap).weights,
    "effective_sample_size": effective_sample_size,
    "mixture_weights": mixture_weights,
    "rollouts_needed": rollouts_needed,
    "realtime_rule": realtime_rule,
    "self_certainty": token_certainty,
    "kl_target_rule": lambda sigma, k1, target: KLTargetSigma(sigma, target).update({"kl_k1": k1}),
    "block_round": block_round,
    "low_rank_noise": low_rank_noise,
    "token_logps": lambda logits, tokens, temperature: token_logps(logits / temperature, tokens)[0],
    "update_operations": update_operations,
    "holm": holm,
    "sign_flip_p": sign_flip_p,
}


@pytest.mark.parametrize("name, function", LIBRARY.items())
def test_the_right_function_passes(name, function):
    grade = check(name, function)
    assert grade and grade.passed, str(grade)
    assert str(grade) == f"passed: {name} is right in all {len(EXERCISES[name].cases)} cases"


def test_every_exercise_has_a_right_function_above():
    assert LIBRARY.keys() == EXERCISES.keys()


@pytest.mark.parametrize("name, mistake", MISTAKES)
def test_a_plausible_mistake_fails_and_is_told(name, mistake):
    """That its own name is told also proves that no two mistakes of an exercise are one."""
    grade = check(name, EXERCISES[name].mistakes[mistake])
    assert not grade and not grade.passed
    assert re.fullmatch(rf".*{name}\(.*\) must be .*, got .*: {re.escape(mistake)}", str(grade)), str(grade)


@pytest.mark.parametrize(
    "name, words",
    [
        ("pass_at_k", "with replacement"),
        ("pass_at_k", "first k samples in one fixed order"),
        ("group_advantages", "biased deviation"),
        ("group_advantages", "not with the group's own mean"),
        ("clipped_term", "larger of the two"),
        ("clipped_term", "whatever the sign"),
        ("masked_mean_loss", "shifted by one"),
        ("masked_mean_loss", "ignores the mask"),
        ("token_logps", "temperature is missing"),
        ("token_logps", "temperature is applied twice"),
        ("token_logps", "the sequence's"),
        ("consistent_success", "incoherent"),
        ("coherent_share", "chance"),
        ("token_weights", "upside down"),
        ("token_weights", "whole sequence"),
        ("token_weights", "above the cap; hold them below"),
        ("token_weights", "shifted by one"),
        ("effective_sample_size", "capped before the sum"),
        ("mixture_weights", "first draw alone"),
        ("kl_target_rule", "dead band is missing"),
        ("kl_target_rule", "turned round"),
        ("self_certainty", "other direction"),
        ("realtime_rule", "turned round"),
        ("block_round", "largest absolute value"),
        ("low_rank_noise", "grows like the root of r"),
    ],
)
def test_the_mistakes_of_this_field_are_in_the_table(name, words):
    assert any(words in mistake for mistake in EXERCISES[name].mistakes)


@names
def test_every_exercise_knows_several_mistakes_and_says_what_to_do(name):
    assert len(EXERCISES[name].mistakes) >= 6
    assert len(EXERCISES[name].task) > 60


def test_rounding_in_blocks_is_that_of_nf4_layers():
    from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

    weights = torch.randn(20 * 64, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, quant_type="nf4", blocksize=64)
    ours = solutions.block_round(weights, get_4bit_type("nf4", device="cpu"), 64)
    assert torch.allclose(dequantize_4bit(packed, state).flatten(), ours, rtol=1e-6)


# Mistakes that are not in the tables: the grade says where, without a hint


@pytest.mark.parametrize(
    "name, function",
    [
        ("pass_at_k", lambda n, c, k: 1 - math.comb(n - c, k) / math.comb(n, k) if k > 1 else c / n + 1e-4),
        ("pass_at_k", lambda n, c, k: 1 - math.prod(1 - c / (n - i) for i in range(k - 1))),
        ("group_advantages", lambda r: [(x - np.median(r)) / (np.std(r, ddof=1) + 1e-6) for x in r]),
        ("token_weights", lambda p, q, mask, cap: torch.exp((p - q).clamp(max=cap)) * mask),
        ("token_weights", lambda p, q, mask, cap: (p - q).exp().clamp(max=cap) * mask / mask.sum(1, keepdim=True)),
        ("masked_mean_loss", lambda x, mask: -(x * mask).sum(1).div(mask.sum(1)).mean()),
        ("mixture_weights", lambda p, q: (p - q.logsumexp(0) + math.log(2)).exp()),
        ("kl_target_rule", lambda s, k1, t: min(max(s * 1.01 ** (1 if k1 < t else -1), 1e-6), 0.5)),
        ("realtime_rule", lambda s, i, t, g: s * g if i > t else s / g**2),
    ],
)
def test_an_unknown_mistake_fails_too(name, function):
    grade = check(name, function)
    assert not grade and "must be" in str(grade) and "got" in str(grade)


def test_the_sentence_names_the_input_the_expected_and_the_received_value():
    mistake = "this draws with replacement, 1 - (1 - c/n)^k"
    assert str(check("pass_at_k", EXERCISES["pass_at_k"].mistakes[mistake])) == (
        f"pass_at_k(n=2, c=1, k=2) must be 1, got 0.75: {mistake}"
    )
    assert str(check("masked_mean_loss", lambda x, mask: x.sum())) == (
        "masked_mean_loss(per_token=[[1, 2, 9]], mask=[[1, 1, 1]]) must be 4, got 12"
    )


def test_an_unfinished_function_is_not_wrong_but_not_yet():
    def later(*arguments):
        raise NotImplementedError

    for stub, shown in ((lambda *a: ..., "..."), (lambda *a: None, "None"), (later, "NotImplementedError")):
        grade = check("pass_at_k", stub)
        assert not grade
        assert str(grade) == f"not yet: pass_at_k(n=1, c=1, k=1) must be 1, got {shown}"


def test_a_crash_is_told_with_the_input_that_caused_it():
    grade = check("group_advantages", lambda r: [x / (max(r) - min(r)) for x in r])
    assert str(grade).endswith("must be 0.707107, got 1")  # it is wrong before it crashes

    def deviation(rewards):
        mean = sum(rewards) / len(rewards)
        return [(x - mean) / math.sqrt(sum((y - mean) ** 2 for y in rewards) / (len(rewards) - 1)) for x in rewards]

    assert str(check("group_advantages", deviation)) == (
        "group_advantages(rewards=[0.25, 0.25, 0.25]) must be [0, 0, 0], but it raised "
        "ZeroDivisionError: float division by zero"
    )


def test_a_wrong_form_is_told():
    expected = "effective_sample_size(ratios=[1, 1]) must be 1"
    assert str(check("effective_sample_size", lambda w: w)) == f"{expected} (one number), got the shape [2]"
    assert str(check("effective_sample_size", lambda w: "1")) == f"{expected}, got a str that is not made of numbers"
    assert "must be [0.707107, -0.707107] (the shape [2]), got one number" in str(check("group_advantages", sum))


@pytest.mark.parametrize(
    "form",
    [float, np.float32, Fraction, torch.tensor, np.array, lambda x: torch.tensor(x, requires_grad=True)],
)
def test_numbers_arrays_and_tensors_are_all_welcome(form):
    assert check("pass_at_k", lambda n, c, k: form(pass_at_k(n, c, k)))


def test_lists_of_tensors_and_changed_arguments_are_welcome():
    def in_place(logits, tokens, temperature):
        logits /= temperature
        logits -= logits.logsumexp(-1, keepdim=True)
        return [[logits[b, t, token] for t, token in enumerate(row)] for b, row in enumerate(tokens)]

    for _ in range(2):  # the second time the cases are what they were
        assert check("token_logps", in_place)


def test_an_unknown_exercise_is_the_notebooks_mistake():
    with pytest.raises(UserError, match="name must be one of .*pass_at_k.*pass_at_K"):
        check("pass_at_K", pass_at_k)


class Hostile:
    def __float__(self):
        raise RuntimeError("no")

    def __eq__(self, other):
        raise RuntimeError("no")

    __repr__ = __str__ = __len__ = __iter__ = __float__


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no")


def raising(error):
    def function(*arguments):
        raise error

    return function


def endless(*arguments):
    return endless(*arguments)


def itself(*arguments):
    result = []
    result.append(result)
    return result


RESULTS = [
    Hostile(),
    [Hostile()],
    1j,
    np.complex64(1),
    np.array([None, 1]),
    np.array(["a"]),
    torch.zeros(0, 3),
    10**400,
    torch.ones(2, dtype=torch.cfloat),
    torch.empty(1, device="meta"),
    torch.ones(2).to_sparse(),
    {},
    set(),
    range(3),
    float,
    [[1.0], [1.0, 2.0]],
    [],
    b"1",
    float("nan"),
    float("inf"),
    True,
    (x for x in "ab"),
    (1, (2, (3,))),
    check,
]
HOSTILE = [raising(SystemExit(1)), raising(Unspeakable()), raising(Exception("two\nlines")), endless, itself, 3, None]


@pytest.mark.parametrize("function", [*HOSTILE, *(lambda *a, r=r: r for r in RESULTS)])
@names
def test_nothing_that_a_function_does_is_raised(name, function):
    grade = check(name, function)
    assert not grade and "\n" not in str(grade) and str(grade)


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(EXERCISES)),
    st.recursive(numbers, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner), max_leaves=6),
)
def test_no_constant_is_a_solution_and_none_is_raised(name, result):
    assert not check(name, lambda *arguments: result).passed
