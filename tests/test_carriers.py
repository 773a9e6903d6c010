"""Noise beside the weights: the same noise, nothing left behind, each row its own draw."""

import re
from dataclasses import astuple, replace
from functools import partial
from itertools import combinations

import pytest
import torch
from torch import nn
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

from psn_tutorial.carriers import carried, carrier_of, change_since, left_out, linear_layers  # noqa: E402
from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.models.decoder import forward  # noqa: E402
from psn_tutorial.models.qlora import QLoRAConfig, adapted, dense_weight, dequantised, load_base, load_qlora  # noqa: E402
from psn_tutorial.noise import NoiseConfig, gaussian, perturbed, stacked  # noqa: E402

IDS = torch.randint(3, 40, (6, 7), generator=torch.Generator().manual_seed(0))
BESIDE = pytest.mark.parametrize("carrier", ["dense", "lowrank"])


@pytest.fixture
def model(checkpoint):
    model, _ = load_qlora(QLoRAConfig(str(checkpoint()), compute="float32", rank=4))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


@torch.no_grad()
def logits(model, ids=IDS):
    return forward(model, ids)


def effective(layer):
    """The matrix a linear layer multiplies with, by feeding it the unit vectors."""
    with torch.no_grad():
        return layer(torch.eye(layer.in_features)).T


@BESIDE
@pytest.mark.parametrize(("compute", "four_bit"), [("float32", True), ("bfloat16", True), ("bfloat16", False)])
def test_no_noise_is_bitwise_the_clean_model(checkpoint, carrier, compute, four_bit):
    model, _ = load_qlora(QLoRAConfig(str(checkpoint()), compute=compute, four_bit=four_bit))
    clean = logits(model)
    for draws in ([0], [0, 1, 2]):
        with carried(model, NoiseConfig(0.0, carrier=carrier), draws) as receipt:
            if len(draws) == 1 or carrier == "lowrank":
                assert torch.equal(logits(model), clean)
            else:  # one batched product instead of several plain ones may round otherwise
                torch.testing.assert_close(logits(model), clean, atol=2e-2, rtol=1e-3)
        assert receipt.realised_sigma == receipt.norm == 0


@BESIDE
def test_a_layer_answers_in_the_type_it_is_asked_in(checkpoint, carrier):
    model, _ = load_qlora(QLoRAConfig(str(checkpoint()), compute="bfloat16"))
    layer = linear_layers(model, "mlp")["model.layers.0.mlp.up_proj.weight"]
    clean = effective(layer)  # in float32
    with carried(model, NoiseConfig(0.0, carrier=carrier), [0]):
        torch.testing.assert_close(effective(layer), clean, atol=0, rtol=0)


@BESIDE
def test_nothing_is_left_behind(model, carrier):
    clean = logits(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(KeyError), carried(model, NoiseConfig(0.1, "mlp", carrier=carrier), [0, 1]):
        assert (logits(model) - clean).abs().max() > 0.01
        raise KeyError
    assert torch.equal(logits(model), clean)
    assert all(torch.equal(p.view(torch.uint8), before[n].view(torch.uint8)) for n, p in model.named_parameters())
    assert not any("forward" in vars(layer) for layer in linear_layers(model, "all").values())


@BESIDE
def test_a_forward_pass_of_a_modules_own_is_put_back(model, carrier):
    layers = linear_layers(model, "mlp")
    hooked = dict.fromkeys(list(layers.values())[::2])
    for layer in hooked:
        hooked[layer] = layer.forward = partial(type(layer).forward, layer)
    before = logits(model)
    with carried(model, NoiseConfig(0.1, "mlp", carrier=carrier), [0, 1]):
        assert not any(vars(layer)["forward"] is hooked.get(layer) for layer in layers.values())
    assert all(vars(layer).get("forward") is hooked.get(layer) for layer in layers.values())
    assert torch.equal(logits(model), before)


@BESIDE
def test_in_some_layers_the_noise_is_that_of_all_layers(model, carrier):
    """Two layers: what the noise in the first adds is what it adds there with noise in both."""
    layers = linear_layers(model, "attention")
    with carried(model, NoiseConfig(0.1, "attention", carrier=carrier), [3]):
        everywhere = {name: effective(layer) for name, layer in layers.items()}
    clean = {name: effective(layer) for name, layer in layers.items()}
    config = NoiseConfig(0.1, "attention", carrier=carrier, layers="first")
    moved = change_since(model, config)
    with carried(model, config, [3]) as receipt:
        assert set(receipt.names) == {name for name in layers if ".layers.0." in name} != set(layers)
        for name, layer in layers.items():
            assert torch.equal(effective(layer), everywhere[name] if name in receipt.names else clean[name])
    assert left_out(model, replace(config, targets="q_proj|q_norm")) == ["model.layers.0.self_attn.q_norm.weight"]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name and ".layers.1." in name:
                p.add_(1.0)
    assert moved() == 0.0  # the second layer has learned, and has no noise


def test_the_dense_carrier_is_the_noise_of_the_bare_model(checkpoint):
    """Same names, same draw: what perturbed does to the dequantised weights."""
    config = QLoRAConfig(str(checkpoint()), compute="float32")
    four, _ = load_qlora(config)
    bare = dequantised(load_base(config)[0])
    for noise in (
        NoiseConfig(0.05, "mlp", seed=3, carrier="dense"),
        NoiseConfig(0.3, "attention", relative=True, carrier="dense"),
    ):
        with perturbed(bare, noise, draw=5) as expected:
            there = logits(bare)
        with carried(four, noise, [5]) as receipt:
            torch.testing.assert_close(logits(four), there, atol=1e-5, rtol=1e-4)
        assert receipt.names == tuple(n for n in expected.names if "norm" not in n)
        assert receipt.realised_sigma == pytest.approx(expected.realised_sigma, rel=1e-4)
        assert receipt.requested_sigma == pytest.approx(expected.requested_sigma, rel=1e-4)
        assert receipt.norm == pytest.approx(expected.norm, rel=1e-4) and receipt.entries == expected.entries


def test_the_dense_carrier_rounds_its_noise_as_bf16_weights_do(checkpoint):
    config, noise = QLoRAConfig(str(checkpoint())), NoiseConfig(0.005, "mlp", relative=True, carrier="dense")
    with perturbed(dequantised(load_base(config)[0]), noise, draw=5) as expected:
        pass
    with carried(load_qlora(config)[0], noise, [5]) as receipt:
        pass
    assert astuple(receipt)[1:] == pytest.approx(astuple(expected)[1:]) and receipt.names == expected.names
    assert 0.1 < receipt.unchanged_fraction < 0.9


def test_an_exception_halfway_leaves_nothing_behind(model, monkeypatch):
    several = [gaussian] * 3  # each low-rank layer takes two
    monkeypatch.setattr("psn_tutorial.carriers.gaussian", lambda *arguments: several.pop()(*arguments))
    with pytest.raises(IndexError), carried(model, NoiseConfig(0.1), [0]):
        pass
    assert not any("forward" in vars(layer) for layer in linear_layers(model, "all").values())


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_low_rank_noise_has_its_rank_its_size_and_its_receipt(model, rank):
    layers = linear_layers(model, "mlp")
    clean = {name: effective(layer) for name, layer in layers.items()}
    with carried(model, NoiseConfig(0.1, "mlp", carrier="lowrank", rank=rank), [2]) as receipt:
        noise = {name: effective(layer) - clean[name] for name, layer in layers.items()}
    square = sum(float(change.square().sum()) for change in noise.values())
    assert receipt.norm == pytest.approx(square**0.5, rel=1e-3)
    assert receipt.realised_sigma == pytest.approx((square / receipt.entries) ** 0.5, rel=1e-3)
    assert receipt.realised_sigma == pytest.approx(0.1, rel=0.35)
    assert receipt.requested_sigma == pytest.approx(0.1) and receipt.unchanged_fraction == 0
    for change in noise.values():
        values = torch.linalg.svdvals(change)
        assert int((values > 1e-4 * values[0]).sum()) == rank


def test_low_rank_noises_of_two_draws_or_seeds_share_no_row_and_no_column(model):
    layer = linear_layers(model, "mlp")["model.layers.0.mlp.up_proj.weight"]
    clean, changes = effective(layer), []
    for seed, draw in ((0, 6), (0, 7), (1, 6)):
        with carried(model, NoiseConfig(0.1, "mlp", seed=seed, carrier="lowrank", rank=3), [draw]):
            changes.append(effective(layer) - clean)
    for pair in combinations(changes, 2):
        assert [int(torch.linalg.matrix_rank(torch.cat(pair, dim), atol=1e-3)) for dim in (0, 1)] == [6, 6]


def test_the_size_of_low_rank_noise_is_right_on_average(model):
    sizes = []
    for draw in range(60):
        with carried(model, NoiseConfig(0.1, "mlp", carrier="lowrank", rank=4), [draw]) as receipt:
            sizes.append(receipt.realised_sigma**2)
    mean = torch.tensor(sizes).mean().item()
    error = torch.tensor(sizes).std().item() / len(sizes) ** 0.5
    assert abs(mean - 0.01) < 4 * error and error < 5e-4


@BESIDE
def test_each_row_sees_its_own_draw(model, carrier):
    noise, draws = NoiseConfig(0.1, "mlp", carrier=carrier), [4, 0, 9]
    with carried(model, noise, draws) as together:
        all_rows = logits(model)
    norms = []
    for block, draw in enumerate(draws):
        rows = slice(2 * block, 2 * block + 2)
        with carried(model, noise, [draw]) as receipt:
            torch.testing.assert_close(all_rows[rows], logits(model, IDS[rows]), atol=1e-5, rtol=1e-4)
        norms.append(receipt.norm)
    assert together.norm == pytest.approx((sum(n**2 for n in norms) / 3) ** 0.5, rel=1e-4)
    with carried(model, noise, [0, 1, 2, 3]), pytest.raises(UserError, match="multiple of the 4 draws, got 6"):
        logits(model)


@BESIDE
def test_antithetic_draws_are_opposite(model, carrier):
    layer = linear_layers(model, "mlp")["model.layers.0.mlp.up_proj.weight"]
    clean, changes = effective(layer), []
    for draw in (6, 7, 8):
        with carried(model, NoiseConfig(0.1, "mlp", carrier=carrier, antithetic=True), [draw]):
            changes.append(effective(layer) - clean)
    torch.testing.assert_close(changes[0], -changes[1], atol=1e-5, rtol=1e-4)
    assert (changes[0] - changes[2]).abs().max() > 0.05
    with carried(model, NoiseConfig(0.1, "mlp", carrier=carrier), [3]):
        torch.testing.assert_close(effective(layer) - clean, changes[0])


def test_relative_noise_is_a_multiple_of_each_weights_rms(model):
    with carried(model, NoiseConfig(0.5, "attention", relative=True, carrier="lowrank"), [0]) as receipt:
        pass
    layers = linear_layers(model, "attention").values()
    squares = sum(float(dense_weight(layer).square().sum()) for layer in layers)
    assert receipt.requested_sigma == pytest.approx(0.5 * (squares / receipt.entries) ** 0.5, rel=1e-4)


def test_the_rms_is_remembered_only_of_a_weight_that_cannot_change(model, policy, monkeypatch):
    def requested(model):
        with carried(model, NoiseConfig(0.5, "attention", relative=True, carrier="lowrank"), [0]) as receipt:
            return receipt.requested_sigma

    _, _, plain = policy()
    learns, frozen = requested(plain), requested(model)
    with torch.no_grad():
        for layer in linear_layers(plain, "attention").values():
            layer.weight.mul_(2)
    assert requested(plain) == pytest.approx(2 * learns)
    with monkeypatch.context() as patch:
        patch.setattr("psn_tutorial.carriers.dense_weight", None)  # nothing is dequantised a second time
        assert requested(model) == frozen
    for layer in linear_layers(model, "attention").values():
        layer.weight = type(layer.weight)(2 * dense_weight(layer), requires_grad=False, quant_type="nf4").to("cpu")
    assert requested(model) == pytest.approx(2 * frozen, rel=0.02)


def test_auto_takes_the_carrier_that_the_model_allows(model, policy):
    layer = linear_layers(model, "mlp")["model.layers.0.mlp.up_proj.weight"]
    every = torch.eye(layer.in_features)
    clean = layer(every)
    with carried(model, NoiseConfig(0.1, rank=3), [0]):
        assert torch.linalg.matrix_rank(layer(every) - clean, atol=1e-3) == 3  # low-rank, beside the 4-bit weight
    assert carrier_of(model, NoiseConfig(0.1)) == "lowrank"
    _, _, plain = policy()
    assert carrier_of(plain, NoiseConfig(0.1)) == "weights"
    assert carrier_of(plain, NoiseConfig(0.1, carrier="dense")) == "dense"
    before = plain.model.layers[0].mlp.up_proj.weight.detach().clone()
    with carried(plain, NoiseConfig(0.1), [0]):
        assert not torch.equal(plain.model.layers[0].mlp.up_proj.weight, before)


def test_auto_keeps_the_noise_beside_weights_that_do_not_learn(policy):
    """An adapter's base in full precision: its linear layers. Where other weights are named, it is in the weights."""
    _, tokenizer, plain = policy()
    inside = adapted(plain, QLoRAConfig(rank=2))
    for targets in ("mlp", "attention", "head"):
        assert carrier_of(inside, NoiseConfig(0.1, targets)) == "lowrank"
    for targets in ("norms", "embeddings", "all", r"\.mlp\."):
        assert carrier_of(inside, NoiseConfig(0.1, targets)) == "weights"
    before = {name: p.detach().clone() for name, p in inside.named_parameters()}
    clean = logits(inside, IDS % len(tokenizer))
    with carried(inside, NoiseConfig(0.5), [0, 1]):
        assert not torch.equal(logits(inside, IDS % len(tokenizer)), clean)
        assert all(torch.equal(p, before[name]) for name, p in inside.named_parameters())


def test_weights_and_dense_are_perturbed_for_one_draw_and_stacked_for_several(policy):
    _, tokenizer, plain = policy(sizes={"architecture": "qwen2"})
    with torch.no_grad():
        for name, p in plain.named_parameters():
            if "bias" in name:
                p.fill_(0.5)
    noise, ids = NoiseConfig(0.1, r"_proj\.weight", seed=3), IDS % len(tokenizer)
    for draws, context in (([5], perturbed(plain, noise, 5)), ([5, 2], stacked(plain, noise, [5, 2]))):
        with context as expected:
            there = logits(plain, ids)
        with carried(plain, noise, draws) as receipt:
            assert torch.equal(logits(plain, ids), there) and receipt == expected
        with carried(plain, replace(noise, carrier="dense"), draws) as receipt:
            torch.testing.assert_close(logits(plain, ids), there, atol=1e-4, rtol=1e-4)
        assert astuple(receipt)[1:] == pytest.approx(astuple(expected)[1:]) and receipt.names == expected.names


def test_how_far_training_moved_the_targets_is_a_euclidean_length(policy):
    _, _, plain = policy()
    moved = change_since(plain, NoiseConfig(0.1, "mlp"))
    assert moved() == 0
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.5)
    entries = sum(p.numel() for name, p in plain.named_parameters() if "mlp" in name)
    assert moved() == pytest.approx(0.5 * entries**0.5)


@pytest.mark.parametrize("carrier", ["weights", "lowrank"])
def test_how_far_training_moved_is_asked_of_what_learns(policy, checkpoint, carrier):
    """Beside the weights of a plain model these learn; in those of a model with an adapter the adapter does."""
    _, _, plain = policy()
    noise = NoiseConfig(0.1, "mlp", carrier=carrier)
    moved = change_since(plain, noise)
    with torch.no_grad():
        plain.model.layers[0].mlp.up_proj.weight.add_(0.5)
    assert moved() == pytest.approx(0.5 * plain.model.layers[0].mlp.up_proj.weight.numel() ** 0.5)
    adapted, _ = load_qlora(QLoRAConfig(str(checkpoint()), compute="float32", four_bit=False, rank=4))
    layer, moved = adapted.get_base_model().model.layers[0].mlp.up_proj, change_since(adapted, noise)
    with torch.no_grad():
        layer.lora_B["default"].weight.fill_(0.1)
    expected = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert moved() == pytest.approx(float(expected.detach().norm()), rel=1e-3)


@pytest.mark.parametrize("targets", ["mlp", "all"])
def test_the_weights_of_an_adapter_get_no_noise(checkpoint, targets):
    """The carrier "weights", which a base that is not in 4 bits has: noise on A does nothing while B is zero."""
    model, _ = load_qlora(QLoRAConfig(str(checkpoint()), compute="float32", four_bit=False, rank=4))
    bare, _ = load_base(QLoRAConfig(str(checkpoint()), compute="float32", four_bit=False))
    with carried(model, NoiseConfig(0.1, targets), [0]) as receipt, perturbed(bare, NoiseConfig(0.1, targets)) as other:
        assert not any("lora_" in name for name in receipt.names)
        assert (len(receipt.names), receipt.entries) == (len(other.names), other.entries)
    with carried(model, NoiseConfig(0.1, "lora_B"), [0]) as receipt:  # unless it is what was asked for
        assert all("lora_B" in name for name in receipt.names)


MOES = {
    "qwen2": (Qwen2MoeConfig, Qwen2MoeForCausalLM, {"shared_expert_intermediate_size": 8}),
    "qwen3": (Qwen3MoeConfig, Qwen3MoeForCausalLM, {}),
}


@BESIDE
@pytest.mark.parametrize("moe", MOES)
@pytest.mark.parametrize("targets", ["mlp", "all", "experts", "self_attn|gate_up_proj"])
def test_experts_are_not_passed_over(carrier, moe, targets):
    """They stand in one tensor of three dimensions; with a shared expert some linear layers match, and they do not."""
    settings, architecture, more = MOES[moe]
    model = architecture(
        settings(
            vocab_size=11,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=8,
            moe_intermediate_size=8,
            num_experts=4,
            num_experts_per_tok=2,
            **more,
        )
    )
    sentence = "names model.layers.0.mlp.* in no linear layer: the carrier|matches no linear layer"
    with pytest.raises(UserError, match=sentence), carried(model, NoiseConfig(0.1, targets, carrier=carrier), [0]):
        pass
    assert not any("forward" in vars(module) for module in model.modules())
    with carried(model, NoiseConfig(0.1, "attention", carrier=carrier), [0]) as receipt:
        assert receipt.names and all("self_attn" in name for name in receipt.names)
    with carried(model, NoiseConfig(0.1, "experts", carrier="weights"), [0]) as receipt:
        assert any("experts" in name for name in receipt.names)


def test_what_a_carrier_leaves_out_is_known(model, policy):
    _, _, plain = policy(sizes={"architecture": "qwen2"})
    for beside, weights in (("mlp", None), ("attention", "bias"), ("all", "embed_tokens|norm|bias")):
        noise = NoiseConfig(0.1, beside, carrier="lowrank")
        expected = {name for name, _ in plain.named_parameters() if weights and re.search(weights, name)}
        if beside == "attention":
            expected = {name for name in expected if "self_attn" in name}
        assert set(left_out(plain, noise)) == expected
        assert left_out(plain, replace(noise, carrier="weights")) == []
        with carried(plain, noise, [0]) as receipt:
            assert not expected & set(receipt.names)
    assert left_out(model, NoiseConfig(0.1, "mlp")) == []
    assert not any("base_layer" in name or "lora_" in name for name in left_out(model, NoiseConfig(0.1, "all")))


@pytest.mark.parametrize("targets", ["embed|mlp", "layers.0|embed_tokens"])
def test_an_embedding_that_is_named_must_get_its_noise(policy, targets):
    _, _, plain = policy()
    noise = NoiseConfig(0.1, targets, carrier="lowrank")
    with pytest.raises(UserError, match="model.embed_tokens.weight"), carried(plain, noise, [0]):
        pass


class Doubled(nn.Linear):
    """Computes something of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


@BESIDE
def test_a_linear_layer_that_computes_something_else_is_refused(policy, carrier):
    _, _, plain = policy()
    plain.model.layers[1].mlp.up_proj.__class__ = Doubled
    sentence = "needs plain or 4-bit linear layers, got Doubled for model.layers.1.mlp.up_proj.weight"
    with pytest.raises(UserError, match=sentence), carried(plain, NoiseConfig(0.1, carrier=carrier), [0]):
        pass


@pytest.mark.parametrize(
    "noise, draws, sentence",
    [
        (NoiseConfig(0.1, "norms"), [0], "targets 'norms' matches no linear layer"),
        (NoiseConfig(0.1, "lora_A"), [0], "targets 'lora_A' matches no linear layer"),
        (NoiseConfig(0.1), [], "draws must name at least one draw"),
        (NoiseConfig(0.1, carrier="weights"), [0], "quantised"),
    ],
)
def test_refusals(model, noise, draws, sentence):
    with pytest.raises(UserError, match=sentence), carried(model, noise, draws):
        pass


@pytest.mark.parametrize("change", [{"carrier": "merged"}, {"rank": 0}])
def test_settings_are_checked(change):
    with pytest.raises(UserError, match=next(iter(change))):
        NoiseConfig(0.1, **change)
