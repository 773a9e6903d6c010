"""The memory that a QLoRA run is said to need is counted against real modules."""

import re
from dataclasses import replace

import pytest
import torch

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

from psn_tutorial.carriers import carried  # noqa: E402
from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.jobs.policies import save_policy  # noqa: E402
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.loading import MODELS  # noqa: E402
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.qlora import QLoRAConfig, four_bit_layers, load_base, load_qlora  # noqa: E402
from psn_tutorial.models.tiny import build_model, build_tokenizer  # noqa: E402
from psn_tutorial.noise import NoiseConfig  # noqa: E402
from psn_tutorial.preflight.budget import (
    ALL,
    CARDS,
    GIB,
    MLP,
    NF4,
    SHAPES,
    Card,
    Load,
    Shape,
    fastest_step,
    largest_rollouts,
    memory,
    shape_of,
    table,
)
from psn_tutorial.rollout import Rollouts, read_completions  # noqa: E402


def size(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2"])
def test_a_shape_counts_every_weight(checkpoint, architecture):
    model, _ = load_base(QLoRAConfig(str(checkpoint(architecture)), four_bit=False, compute="float32"))
    shape = Shape.of(model.config)
    assert shape.linear_weights + shape.other_weights == sum(p.numel() for p in model.parameters())
    assert shape.tied is (architecture == "qwen3")


@pytest.mark.parametrize("double_quant", [False, True])
def test_the_weights_take_what_is_said(checkpoint, double_quant):
    model, _ = load_base(QLoRAConfig(str(checkpoint()), double_quant=double_quant))
    shape, layers = Shape.of(model.config), four_bit_layers(model).values()
    codes = size(layer.weight for layer in layers)
    scales = size(layer.weight.quant_state.absmax for layer in layers)
    if double_quant:
        scales += size(layer.weight.quant_state.state2.absmax for layer in layers)
    others = size(p for p in model.parameters() if p.dtype != torch.uint8)
    said = memory(shape, Load(double_quant=double_quant))["weights"]
    assert codes + scales + others == pytest.approx(said, rel=0.01)  # a last block of scales may be short


def test_the_adapter_and_the_noise_take_what_is_said(checkpoint):
    model, _ = load_qlora(QLoRAConfig(str(checkpoint()), rank=4))
    shape = Shape.of(model.config)
    adapter = [p for p in model.parameters() if p.requires_grad]
    parts = memory(shape, Load(rank=4, noise_rank=2, draws=3))
    assert 4 * size(adapter) == parts["adapter and optimiser"]  # weight, gradient, two moments
    assert sum(p.numel() for p in adapter) == shape.low_rank(4, ALL)
    with carried(model, NoiseConfig(0.1, "mlp", carrier="lowrank", rank=2), [0, 1, 2]):
        held = [
            cell.cell_contents
            for module in model.modules()
            if "forward" in vars(module)
            for cell in module.forward.__closure__
            if isinstance(cell.cell_contents, torch.Tensor)
        ]
        assert size(held) == 2 * parts["noise"] == 3 * shape.low_rank(2, MLP) * 4  # float32 on a CPU


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("recompute", [False, True])
def test_backward_keeps_no_more_than_is_said_and_not_much_less(architecture, recompute, tmp_path, monkeypatch):
    """Every tensor that autograd holds between forward and backward, weights left out."""
    tokenizer = build_tokenizer([str(number) for number in range(61)])
    sizes = TinyConfig(architecture, hidden=256, layers=4, heads=4, kv_heads=2, ff=768, positions=256)
    save_policy(Policy(build_model(sizes, tokenizer), tokenizer), tmp_path / "base")
    model, _ = load_qlora(QLoRAConfig(str(tmp_path / "base")))
    monkeypatch.setattr("psn_tutorial.models.decoder._attention_type", lambda x: x.dtype)  # as on a GPU
    rows, prompt, completion = 2, 4, 96
    words = torch.randint(3, 64, (1, prompt)).repeat(rows, 1), torch.randint(3, 64, (rows, completion))
    seen = (torch.ones_like(ids, dtype=torch.bool) for ids in words)
    rollouts = Rollouts(words[0], next(seen), words[1], next(seen), torch.zeros(rows, completion), None, None)
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage  # alive, so that no other tensor gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        read_completions(model, rollouts, torch.arange(rows), 1.0, recompute=recompute)
    kept = sum(storage.nbytes() for storage in held.values())
    load = Load(prompt=prompt, completion=completion, micro_batch=rows, checkpointing=recompute)
    parts = memory(Shape.of(model.config), load)
    assert kept < parts["updating"]
    if recompute:  # the rest of what is said is the inside of one layer, which only the backward pass makes
        assert kept > 0.2 * parts["activations"]
    else:
        assert kept > 0.75 * parts["activations"]


def test_every_model_by_name_has_a_shape_of_about_its_name():
    assert set(SHAPES) == set(MODELS)
    for name, shape in SHAPES.items():
        number, unit = re.search(r"-([\d.]+)([bm])\b", name).groups()
        billions = float(number) / {"b": 1, "m": 1000}[unit]
        assert (shape.linear_weights + shape.other_weights) / 1e9 == pytest.approx(billions, rel=0.04), name


def test_more_of_anything_takes_no_less():
    shape, load = shape_of("qwen2.5-0.5b-instruct"), Load()
    total = memory(shape, load)["total"]
    for name in ("rollouts", "prompt", "completion", "micro_batch", "draws", "rank", "noise_rank", "head_chunk"):
        assert memory(shape, replace(load, **{name: 16 * getattr(load, name)}))["total"] > total, name
    for change in ({"four_bit": False}, {"checkpointing": False}, {"double_quant": False}):
        assert memory(shape, replace(load, **change))["total"] > total, change


@pytest.mark.parametrize("card", [2, 4, 8, 1000])
def test_the_largest_number_of_rollouts_is_the_last_that_fits(card):
    shape, load = shape_of("qwen3-0.6b"), Load()
    most = largest_rollouts(shape, load, card)
    assert memory(shape, replace(load, rollouts=most + 1))["total"] > card * GIB
    assert most == 0 or memory(shape, replace(load, rollouts=most))["total"] <= card * GIB


def test_the_table_has_a_row_for_each_model():
    rows = table()
    assert [row["model"] for row in rows] == list(SHAPES)
    assert all(row["8 GB"] <= row["16 GB"] <= row["24 GB"] <= row["80 GB"] for row in rows)


def test_an_unknown_name_is_a_sentence():
    with pytest.raises(UserError, match="base must be one of"):
        shape_of("qwen9")


def test_the_floor_of_a_step_by_hand():
    """One layer of width 64, no heads to speak of: every count can be written down."""
    shape = Shape(hidden=64, layers=1, heads=1, kv_heads=1, head_dim=64, ff=128, vocabulary=1000)
    load = Load(rollouts=4, prompt=10, completion=20, draws=0, rank=2, bytes=2)
    linear, head, adapter = 4 * 64 * 64 + 3 * 64 * 128, 1000 * 64, 2 * (4 * 128 + 3 * 192)
    read = linear * NF4[True] + (head + 2 * 64 + 64) * 2 + adapter * 4 + 4 * 20 * 2 * 64 * 2  # 20 = 10 + 20 / 2 cached
    slow_memory = fastest_step(shape, load, Card("", 8, 1e6, 1e30))
    assert slow_memory["sampling"] == pytest.approx(20 * read / 1e6)
    slow_processor = fastest_step(shape, load, Card("", 8, 1e30, 1e6))
    assert slow_processor["sampling"] == pytest.approx(20 * 2 * 4 * (linear + head + adapter) / 1e6)
    assert slow_processor["updating"] == pytest.approx(3 * slow_processor["sampling"])
    plain = fastest_step(shape, replace(load, checkpointing=False), Card("", 8, 1e30, 1e6))
    assert plain["updating"] == pytest.approx(2 * plain["sampling"])
    assert plain["total"] == plain["sampling"] + plain["updating"]


def test_a_faster_card_has_a_lower_floor_and_more_work_a_higher_one():
    shape, load = shape_of("qwen2.5-0.5b-instruct"), Load()
    floors = [fastest_step(shape, load, card)["total"] for card in CARDS]
    assert floors == sorted(floors, reverse=True) and [card.gigabytes for card in CARDS] == [8, 16, 24, 80]
    for name in ("rollouts", "completion", "rank"):
        more = replace(load, **{name: 16 * getattr(load, name)})
        assert fastest_step(shape, more, CARDS[0])["total"] > floors[0], name
