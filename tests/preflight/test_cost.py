"""What a step costs is counted on the model itself; the seconds follow from it."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from psn_tutorial.errors import UserError
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.tiny import build_model, build_tokenizer
from psn_tutorial.preflight.budget import CARDS, Shape, shape_of
from psn_tutorial.preflight.cost import Step, operations, read, seconds, weights

A100 = CARDS[-1]
BIG = shape_of("qwen2.5-1.5b")


def flops(program):
    with FlopCounterMode(display=False) as counter:
        program()
    return counter.get_total_flops()


@pytest.fixture(params=["qwen3", "qwen2"])
def model(request):
    tokenizer = build_tokenizer([f"w{n}" for n in range(50)])
    sizes = TinyConfig(request.param, hidden=32, layers=3, heads=4, kv_heads=2, ff=80, positions=64)
    model = build_model(sizes, tokenizer)
    model.set_attn_implementation("eager")  # plain products, which the counter knows
    return model


@pytest.mark.parametrize("sizes", [(2, 3, 5, 7), (1, 4, 9, 1)])
def test_operations_are_those_of_transformers_own_passes(model, sizes):
    step = Step(*sizes)
    prompts, tokens = torch.randint(3, 50, (step.prompts, step.prompt)), torch.randint(3, 50, (step.rollouts, sizes[3]))

    @torch.no_grad()
    def sampling():
        cache = model(prompts, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(step.group)
        for t in range(step.completion - 1):
            model(tokens[:, t : t + 1], past_key_values=cache, use_cache=True)

    def forward():
        ids = torch.cat([prompts.repeat_interleave(step.group, 0), tokens[:, :-1]], 1)
        return model(ids, logits_to_keep=step.completion).logits

    counted = operations(Shape.of(model.config), step)
    assert flops(sampling) == counted["sampling"]
    assert flops(lambda: forward().sum().backward()) == counted["updating"]
    assert operations(Shape.of(model.config), replace(step, learns=0.01))["updating"] == 2 * flops(forward)
    assert operations(Shape.of(model.config), replace(step, recompute=True))["updating"] == 4 * flops(forward)


def test_weights_are_those_of_the_models_matrices(model):
    matrices = [p.numel() for name, p in model.named_parameters() if p.dim() == 2]  # the head is the tied embedding
    assert weights(Shape.of(model.config)) == sum(matrices)


def test_tokens_and_bytes_by_hand():
    step = Step(prompts=2, group=3, prompt=5, completion=4, bytes=4)
    assert step.rollouts == 6 and step.tokens == {"sampling": 2 * 5 + 6 * 3, "updating": 6 * 8}
    shape = Shape(hidden=8, layers=2, heads=2, kv_heads=1, head_dim=4, ff=16, vocabulary=10)
    cached = 6 * (5 + 2) * 2 * 2 * 1 * 4  # rollouts, mean length, layers, keys and values
    assert read(shape, step) == 4 * 4 * (weights(shape) + cached)


def test_seconds_on_one_card_follow_from_operations_and_bytes():
    step = Step()
    work, parts = operations(BIG, step), seconds(BIG, step, A100)
    assert parts["updating"] == work["updating"] / A100.operations
    assert parts["sampling"] == max(read(BIG, step) / A100.bandwidth, work["sampling"] / A100.operations)
    assert parts["gradients"] == 0 and parts["efficiency"] == 1
    assert parts["total"] == sum(parts[name] for name in ("sampling", "updating", "gradients", "noise"))
    slow = seconds(BIG, step, A100._replace(bandwidth=1e9))
    assert slow["sampling"] == read(BIG, step) / 1e9 and slow["updating"] == parts["updating"]


def test_more_cards_share_the_update_and_not_the_reading_of_weights():
    step = Step(prompts=64, group=16)
    one, many = seconds(BIG, step, A100), seconds(BIG, step, A100, gpus=64)
    assert many["updating"] == pytest.approx(one["updating"] / 64)
    assert many["sampling"] > step.completion * 2 * weights(BIG) / A100.bandwidth > one["sampling"] / 64
    assert many["noise"] == one["noise"]  # the same on every card
    ring = 2 * 63 / 64 * 2 * weights(BIG) / 25e9
    assert many["gradients"] == pytest.approx(ring)
    shares = [seconds(BIG, step, A100, gpus=n)["efficiency"] for n in (1, 2, 4, 8, 16, 32, 64)]
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.5


def test_fewer_prompts_than_cards_spread_a_group():
    spread = seconds(BIG, Step(prompts=4, group=16), A100, gpus=16)
    assert spread["updating"] == pytest.approx(seconds(BIG, Step(prompts=1, group=4), A100)["updating"])


@pytest.mark.parametrize(("prompts", "gpus", "most"), [(5, 2, (3, 16)), (64, 48, (2, 16)), (3, 4, (1, 12))])
def test_a_step_takes_what_the_card_with_the_largest_share_takes(prompts, gpus, most):
    parts = seconds(BIG, Step(prompts=prompts, group=16), A100, gpus=gpus)
    assert parts["updating"] == seconds(BIG, Step(*most), A100)["updating"]
    assert parts["efficiency"] < 1


def test_each_draw_is_sent_to_an_engine():
    parts = [seconds(BIG, Step(draws=draws, engine=True), A100, link=1e9)["noise"] for draws in (1, 8)]
    assert parts[0] == pytest.approx(2 * weights(BIG) / 1e9) and parts[1] == 8 * parts[0]


@pytest.mark.parametrize("gpus", [0, 1.5])
def test_impossible_numbers_of_cards_are_refused(gpus):
    with pytest.raises(UserError, match="gpus must be"):
        seconds(BIG, Step(), A100, gpus=gpus)
