from dataclasses import astuple

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from psn_tutorial import TrainConfig
from psn_tutorial.choices import TARGETS
from psn_tutorial.errors import UserError
from psn_tutorial.models.decoder import forward
from psn_tutorial.noise import NoiseConfig, gaussian, perturbed, select, stacked
from psn_tutorial.sites import role


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def bitwise_equal(model, before):
    return all(torch.equal(p.view(torch.uint8), before[name].view(torch.uint8)) for name, p in model.named_parameters())


@pytest.mark.parametrize("targets", [*TARGETS, r"layers\.1\..*down_proj"])
def test_noise_changes_its_targets_and_nothing_else_and_goes_away_bitwise(policy, targets):
    _, _, model = policy(sizes={"tied": False})
    before, pointers = copies(model), {n: p.data_ptr() for n, p in model.named_parameters()}
    with perturbed(model, NoiseConfig(0.1, targets), draw=3) as receipt:
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert changed == set(receipt.names)
        assert receipt.entries == sum(before[name].numel() for name in changed)
    assert bitwise_equal(model, before)
    assert pointers == {n: p.data_ptr() for n, p in model.named_parameters()}


def test_roles_are_those_of_the_modules():
    assert role("model.layers.0.mlp.up_proj.weight") == "mlp"
    assert role("model.layers.0.self_attn.q_proj.bias") == "attention"
    assert role("model.layers.0.self_attn.q_norm.weight") == "norms"
    assert role("model.layers.0.post_attention_layernorm.weight") == "norms"
    assert role("model.embed_tokens.weight") == "embeddings"
    assert role("lm_head.weight") == "head"
    assert role("visual.patch.weight") == "other"


def test_an_exception_inside_leaves_the_clean_policy(policy):
    _, _, model = policy()
    before = copies(model)
    with pytest.raises(KeyError), perturbed(model, NoiseConfig(0.1, "all")):
        raise KeyError
    assert bitwise_equal(model, before)
    with pytest.raises(KeyError), stacked(model, NoiseConfig(0.1, "all"), [0, 1]):
        raise KeyError
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_forward_pass_of_a_modules_own_is_put_back(policy):
    """As accelerate hooks a module: its forward stands in the instance."""
    _, _, model = policy()
    layer, calls = model.model.layers[0].mlp.up_proj, []

    class Counting(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return args, kwargs

    add_hook_to_module(layer, Counting())
    hooked = vars(layer)["forward"]
    with pytest.raises(KeyError), stacked(model, NoiseConfig(0.1, "mlp"), [0, 1]):
        assert vars(layer)["forward"] is not hooked and "forward" in vars(model.model.layers[1].mlp.up_proj)
        raise KeyError
    assert vars(layer)["forward"] is hooked and "forward" not in vars(model.model.layers[1].mlp.up_proj)
    assert not calls
    forward(model, torch.ones(2, 3, dtype=torch.long))
    assert calls == [layer]


def test_the_receipt_measures_what_was_done(policy):
    _, _, model = policy()
    before = copies(model)
    with perturbed(model, NoiseConfig(0.05, "mlp", seed=5)) as receipt:
        change = torch.cat(
            [(p.detach() - before[n]).flatten() for n, p in model.named_parameters() if n in receipt.names]
        )
    assert receipt.requested_sigma == pytest.approx(0.05)
    assert receipt.realised_sigma == pytest.approx(float(change.square().mean().sqrt()), rel=1e-5)
    assert receipt.realised_sigma == pytest.approx(0.05, rel=4 / (2 * receipt.entries) ** 0.5)
    assert receipt.norm == pytest.approx(float(change.norm()), rel=1e-5)
    assert receipt.unchanged_fraction < 0.01
    assert {type(number) for number in astuple(receipt)[2:]} == {float}  # what a record can hold


def test_relative_sigma_follows_each_tensor(policy):
    _, _, model = policy(sizes={"tied": False})
    scales = {t.names[0]: float(t.parameter.detach().square().mean().sqrt()) for t in select(model, "all")}
    before = copies(model)
    with perturbed(model, NoiseConfig(0.5, "all", relative=True)):
        for name, p in model.named_parameters():
            noise = gaussian(NoiseConfig(0.5), 0, name, p.shape)
            torch.testing.assert_close(p.detach() - before[name], 0.5 * scales[name] * noise, atol=1e-5, rtol=1e-3)


@given(st.integers(0, 2**70), st.integers(0, 2**40))
def test_draws_are_functions_of_seed_draw_and_name(seed, draw):
    config = NoiseConfig(1.0, seed=seed)
    first = gaussian(config, draw, "a.weight", (3, 5))
    assert torch.equal(first, gaussian(config, draw, "a.weight", (3, 5)))
    # The high bits count too: a generator that keeps 32 bits of its seed would repeat itself here.
    others = [
        (seed + 2**32, draw, "a.weight"),
        (seed, draw + 2**32, "a.weight"),
        (seed, draw + 1, "a.weight"),
        (seed, draw, "b.weight"),
    ]
    for other_seed, other_draw, name in others:
        assert not torch.equal(first, gaussian(NoiseConfig(1.0, seed=other_seed), other_draw, name, (3, 5)))


def test_draws_are_standard_normal_and_uncorrelated():
    rows = torch.stack([gaussian(NoiseConfig(1.0), draw, "w", (20_000,)) for draw in range(8)])
    assert rows.mean(1).abs().max() < 5 / 20_000**0.5
    assert (rows.var(1) - 1).abs().max() < 5 * (2 / 20_000) ** 0.5
    assert (torch.corrcoef(rows) - torch.eye(8)).abs().max() < 5 / 20_000**0.5


def test_antithetic_pairs_cancel(policy):
    _, _, model = policy()
    config = NoiseConfig(0.1, "mlp", antithetic=True)
    pair = [gaussian(config, draw, "w", (50,)) for draw in (6, 7, 8)]
    assert torch.equal(pair[0], -pair[1]) and not torch.equal(pair[0], pair[2])
    assert torch.equal(pair[0], gaussian(NoiseConfig(0.1, "mlp"), 3, "w", (50,)))  # the plain draw 3, then minus it


class Reader:
    """Reads the weights a module really uses: the identity through a linear layer gives its matrix."""

    @staticmethod
    def weight(module, rows):
        with torch.no_grad():
            return module(torch.eye(module.in_features).repeat(rows, 1, 1))


def test_stacked_draws_are_bitwise_the_draws_in_place(policy):
    _, _, model = policy()
    config, module = NoiseConfig(0.3, "mlp", relative=True, seed=2), model.model.layers[1].mlp.down_proj
    with stacked(model, config, [4, 9, 2]):
        together = Reader.weight(module, 3)
    for row, draw in enumerate([4, 9, 2]):
        with perturbed(model, config, draw):
            assert torch.equal(together[row], Reader.weight(module, 1)[0])


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", TARGETS)
@torch.no_grad()
def test_each_row_of_a_stacked_batch_is_its_own_model(policy, targets, tied, architecture):
    _, tokenizer, model = policy(sizes={"tied": tied, "architecture": architecture})
    ids = torch.randint(3, len(tokenizer), (6, 7), generator=torch.Generator().manual_seed(0))
    config = NoiseConfig(0.2, targets, relative=True)
    before = copies(model)
    with stacked(model, config, [5, 1, 3]) as receipt:
        ours, theirs = forward(model, ids), model(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for block, draw in enumerate([5, 1, 3]):
        with perturbed(model, config, draw) as single:
            expected = forward(model, ids[2 * block : 2 * block + 2])
        torch.testing.assert_close(ours[2 * block : 2 * block + 2], expected, atol=1e-4, rtol=1e-4)
        assert single.names == receipt.names
    assert bitwise_equal(model, before)
    assert not torch.allclose(ours, forward(model, ids), atol=1e-3)


@pytest.mark.parametrize(
    ("module", "targets"),
    [
        (nn.Linear(8, 5), "weight"),
        (nn.Linear(8, 5), "bias"),
        (nn.Linear(8, 5), "all"),
        (Qwen2RMSNorm(8, eps=0.1).bfloat16(), "weight"),
    ],
)
@torch.no_grad()
def test_a_stacked_layer_by_itself(module, targets):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.normal_(generator=generator)
    x = torch.randn(6, 8, generator=generator).to(parameter.dtype)
    config = NoiseConfig(0.5, targets)
    with stacked(module, config, [4, 9]):
        together = module(x)
    for rows, draw in ((slice(0, 3), 4), (slice(3, 6), 9)):
        with perturbed(module, config, draw):
            torch.testing.assert_close(together[rows], module(x[rows]))


def test_a_layer_that_cannot_be_stacked_is_refused_and_nothing_is_left_behind():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with pytest.raises(UserError, match="RMS norms, got LayerNorm"), stacked(model, NoiseConfig(0.1, "all"), [0, 1]):
        pass
    assert not any("forward" in vars(module) for module in model)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class PlusOne(Qwen2RMSNorm):
    """The same from outside; multiplies by 1 + weight, as Gemma does."""

    def forward(self, x):
        return super().forward(x) + super().forward(x) / self.weight


GEMMAS = {"gemma2": (Gemma2Config, Gemma2ForCausalLM), "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM)}


@pytest.mark.parametrize("gemma", GEMMAS)
@pytest.mark.parametrize("targets", ["embeddings", "norms", "all"])
def test_layers_that_compute_something_of_their_own_are_not_stacked(gemma, targets):
    """Gemma multiplies its embeddings by sqrt(hidden size), and norms by 1 + weight; one draw at a time is right."""
    settings, architecture = GEMMAS[gemma]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8, "vocab_size": 11}
    model = architecture(settings(**sizes, num_attention_heads=2, num_key_value_heads=2))
    with pytest.raises(UserError, match="several draws in one batch need plain.*got Gemma"):
        with stacked(model, NoiseConfig(0.1, targets), [0, 1]):
            pass
    assert not any("forward" in vars(module) for module in model.modules())
    with stacked(model, NoiseConfig(0.1, "mlp"), [0, 1]), torch.no_grad():
        assert model(torch.ones(2, 3, dtype=torch.long)).logits.isfinite().all()


@pytest.mark.parametrize(
    "module",
    [
        Scaled(4, 4),
        PlusOne(4),
        nn.RMSNorm(4),
        nn.LayerNorm(4, bias=False),
        nn.Embedding(5, 4, max_norm=0.1),
        nn.Conv1d(4, 4, 1),
    ],
)
def test_subclasses_and_variants_are_not_stacked(module):
    with pytest.raises(UserError, match=f"got {type(module).__name__}; one draw"):
        with stacked(module, NoiseConfig(0.1, "weight"), [0]):
            pass
    assert "forward" not in vars(module)


@pytest.mark.parametrize("norm", [Qwen2RMSNorm, Qwen3RMSNorm, LlamaRMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norms_of_the_families_are_stacked_in_every_type(norm, dtype):
    module = norm(64).to(dtype)
    with torch.no_grad():
        module.weight.copy_(torch.randn(64, generator=torch.Generator().manual_seed(0)))
    with stacked(module, NoiseConfig(0.1, "weight"), [0, 1]) as receipt:
        assert receipt.entries == 64


def test_tied_embeddings_are_one_tensor_perturbed_once(policy):
    _, _, model = policy(sizes={"tied": True})
    for targets in ("head", "embeddings"):
        with perturbed(model, NoiseConfig(0.1, targets)) as receipt:
            assert receipt.names == ("model.embed_tokens.weight = lm_head.weight",)
            assert receipt.entries == model.model.embed_tokens.weight.numel()
            assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_module_with_two_names_is_perturbed_once():
    model = nn.Module()
    model.a = model.b = nn.Linear(2, 3, bias=False)
    with perturbed(model, NoiseConfig(0.1, "^b")) as receipt:
        assert receipt.names == ("a.weight = b.weight",) and receipt.entries == 6


@pytest.fixture
def bf16_layer():
    layer = nn.Linear(400, 400, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.copy_(0.02 * torch.randn(400, 400, generator=torch.Generator().manual_seed(0)))
    return layer


@pytest.mark.parametrize("relative", [False, True])
def test_the_receipt_of_stacked_draws_is_the_mean_of_theirs(bf16_layer, relative):
    config, draws = NoiseConfig(1e-2 if relative else 1e-4, "all", relative), [4, 9, 2]
    singles = []
    for draw in draws:
        with perturbed(bf16_layer, config, draw) as receipt:
            singles.append(receipt)
    with stacked(bf16_layer, config, draws) as together:
        pass
    rms = float(bf16_layer.weight.detach().double().square().mean().sqrt())
    assert together.requested_sigma == pytest.approx(config.sigma * (rms if relative else 1.0), rel=1e-6)
    assert (together.names, together.entries) == (("weight",), 160_000) == (receipt.names, receipt.entries)
    assert together.norm**2 == pytest.approx(sum(r.norm**2 for r in singles) / 3)
    assert together.realised_sigma**2 == pytest.approx(sum(r.realised_sigma**2 for r in singles) / 3)
    assert together.unchanged_fraction == pytest.approx(sum(r.unchanged_fraction for r in singles) / 3)


@pytest.mark.parametrize(("sigma", "unchanged"), [(1e-6, 0.989), (1e-4, 0.32), (1e-3, 0.036)])
def test_bf16_swallows_small_noise(bf16_layer, sigma, unchanged):
    """Shares measured independently on weights ~ N(0, 0.02^2); 1e-6 is the floor of the released scheduler."""
    with perturbed(bf16_layer, NoiseConfig(sigma, "all")) as receipt:
        assert receipt.unchanged_fraction == pytest.approx(unchanged, abs=0.01)
        if sigma == 1e-3:
            assert receipt.realised_sigma == pytest.approx(sigma, rel=0.02)


def test_zero_sigma_is_the_clean_model(policy):
    _, _, model = policy()
    before = copies(model)
    with perturbed(model, NoiseConfig(0.0, "all")) as receipt:
        assert bitwise_equal(model, before)
        assert receipt.realised_sigma == 0 and receipt.unchanged_fraction == 1


def test_noise_is_what_the_settings_say_and_its_defaults_are_theirs():
    assert NoiseConfig.of(TrainConfig(), 0.1) == NoiseConfig(0.1)
    every = {"targets": "all", "relative": True, "seed": 3, "antithetic": True, "carrier": "dense", "layers": "1-2"}
    assert NoiseConfig.of(TrainConfig(**every, noise_rank=5, draws=2), 0.1) == NoiseConfig(0.1, **every, rank=5)


def test_mistakes_are_told_in_a_sentence(policy):
    _, tokenizer, model = policy()
    with pytest.raises(UserError, match="'expert' matches no parameter of the model, whose names look like model"):
        select(model, "expert")
    with pytest.raises(UserError, match=r"regular expression, or module:name, got '\('"):
        select(model, "(")
    with pytest.raises(UserError, match="sigma must be .*>= 0 and <= 1000000.0, got -1"):
        NoiseConfig(-1)
    with pytest.raises(UserError, match="sigma must be .*>= 0 and <= 1000000.0, got nan"):
        NoiseConfig(float("nan"))
    with pytest.raises(UserError, match="sigma must be .*>= 0 and <= 1000000.0, got inf"):
        NoiseConfig(float("inf"))
    with pytest.raises(UserError, match="draws must name at least one draw"), stacked(model, NoiseConfig(0.1), []):
        pass
    with (
        stacked(model, NoiseConfig(0.1), [0, 1]),
        pytest.raises(UserError, match="multiple of the 2 draws, got 3 rows"),
    ):
        forward(model, torch.ones(3, 4, dtype=torch.long))
    quantised = nn.Module()
    quantised.mlp = nn.Module()
    quantised.mlp.weight = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UserError, match="mlp.weight, which is quantised"):
        select(quantised, "mlp")
