"""A 4-bit base with an adapter: the gradients are right, the start is the base, a reload is the same model."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

from peft import PeftModel  # noqa: E402

from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.models.decoder import forward  # noqa: E402
from psn_tutorial.models.loading import MODELS  # noqa: E402
from psn_tutorial.models.qlora import (  # noqa: E402
    ADAPTED,
    QLoRAConfig,
    adapted,
    dense_weight,
    dequantised,
    four_bit_layers,
    load_base,
    load_qlora,
)

IDS = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(0))


def settings(folder, compute="float32", **changes):
    return QLoRAConfig(base=str(folder), compute=compute, **{"rank": 4, "alpha": 8.0, **changes})


def lora(model):
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def off_zero(model, seed=1):
    """Move B away from zero, so that A has a gradient too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in lora(model).items():
            if "lora_B" in name:
                p.copy_(0.05 * torch.randn(p.shape, generator=generator))


def gradients(model):
    logits = forward(model, IDS[:, :-1]).float()
    loss = F.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())
    wanted = lora(model)
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_gradients_are_those_of_the_dequantised_model(checkpoint, architecture, compute):
    """bitsandbytes would repack the weights at the first forward pass in eval mode, and lose autograd for them."""
    config = settings(checkpoint(architecture), compute)
    model, _ = load_qlora(config)
    assert all(layer.support_avx512bf16_for_cpu is False for layer in four_bit_layers(model).values())
    off_zero(model)
    with torch.no_grad():
        forward(model, IDS)  # sampling comes first in every step
    own = gradients(model)
    reference = adapted(dequantised(load_base(config)[0]), config)
    off_zero(reference)
    for name, expected in gradients(reference).items():
        cosine = F.cosine_similarity(own[name].flatten(), expected.flatten(), dim=0)
        assert cosine > 0.999, (name, cosine)
        assert own[name].norm().item() == pytest.approx(expected.norm().item(), rel=0.02)


def test_only_the_adapter_learns_and_it_sits_on_every_layer(checkpoint):
    model, _ = load_qlora(settings(checkpoint()))
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == set(lora(model))
    assert {name.split(".")[-4] for name in learning} == set(ADAPTED)
    assert all(p.dtype == torch.float32 for p in lora(model).values())
    assert len(four_bit_layers(model)) == 2 * len(ADAPTED)  # two decoder layers; the head stays as it is


def test_a_fresh_adapter_changes_nothing_and_depends_on_its_seed_alone(checkpoint):
    folder = checkpoint()
    base, _ = load_base(settings(folder))
    model, _ = load_qlora(settings(folder, seed=3))
    torch.manual_seed(99)
    again, _ = load_qlora(settings(folder, seed=3))
    other, _ = load_qlora(settings(folder, seed=4))
    with torch.no_grad():
        assert torch.equal(forward(model, IDS), forward(base, IDS))
    assert all(torch.equal(p, lora(again)[name]) for name, p in lora(model).items())
    assert any(not torch.equal(p, lora(other)[name]) for name, p in lora(model).items())


def test_it_computes_what_transformers_computes(checkpoint):
    model, _ = load_qlora(settings(checkpoint()))
    off_zero(model)
    with torch.no_grad():
        torch.testing.assert_close(forward(model, IDS), model(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_reload_is_the_same_model_bit_for_bit(checkpoint, tmp_path, compute):
    config = settings(checkpoint(), compute)
    model, _ = load_qlora(config)
    off_zero(model)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load_base(config)[0], tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(forward(model, IDS), forward(again, IDS))


def test_four_bits_are_four_bits_and_the_dense_weight_is_what_a_layer_computes_with(checkpoint):
    four, _ = load_base(settings(checkpoint()))
    plain, _ = load_base(settings(checkpoint(), four_bit=False))
    assert not four_bit_layers(plain)
    for name, layer in four_bit_layers(four).items():
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
        assert torch.equal(layer(x), F.linear(x, dense_weight(layer), layer.bias))
        original = plain.get_submodule(name).weight
        error = (dense_weight(layer) - original).square().mean().sqrt() / original.square().mean().sqrt()
        assert 0.03 < error < 0.2  # rounded, and to the original
        assert dense_weight(layer).unique().numel() <= 16 * original.numel() / 64  # 16 levels a block of 64


@pytest.mark.parametrize("base", ["no/such/folder-or-model", "."])
def test_a_base_that_cannot_be_loaded_is_a_sentence(base, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="base must be one of qwen2.5-0.5b-instruct, .* got"):
        load_base(QLoRAConfig(base=base))


@pytest.mark.parametrize("change", [{"rank": 0}, {"alpha": 0.0}, {"compute": "float16"}, {"seed": -1}])
def test_settings_are_checked(change):
    with pytest.raises(UserError, match=next(iter(change))):
        QLoRAConfig(**change)


def test_a_short_name_leads_to_the_hubs_own_cache(language_model, tmp_path):
    """Where a model was downloaded once, no network is needed: transformers finds it under its name on the hub."""
    commit = "0" * 40
    kept = tmp_path / f"models--{MODELS['qwen2.5-0.5b-instruct'].replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    shutil.copytree(language_model, kept / "snapshots" / commit)
    code = (
        "from psn_tutorial.models.qlora import *\n"
        "model, tokenizer = load_qlora(QLoRAConfig('qwen2.5-0.5b-instruct', compute='float32'))\n"
        "print(len(four_bit_layers(model)), tokenizer.eos_token, len(tokenizer.apply_chat_template("
        "[{'role': 'user', 'content': 'Hello'}], tokenize=False)))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr[-2000:]
    assert said.stdout.split() == ["14", "<|im_end|>", str(len("<|im_start|>user\nHello<|im_end|>\n"))]
