"""Adapters that peft saved: laid on their base as peft does it, or refused in one sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402

from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.models.adapters import is_adapter, load_adapter, read_adapter  # noqa: E402
from psn_tutorial.models.bases import base_folder  # noqa: E402
from psn_tutorial.models.decoder import forward  # noqa: E402
from psn_tutorial.models.loading import quiet  # noqa: E402
from psn_tutorial.models.qlora import (  # noqa: E402
    ADAPTED,
    QLoRAConfig,
    four_bit_layers,
    holding,
    learned_weights,
    load_base,
)

IDS = torch.arange(5, 25)[None]
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def settings(**changes):
    return QLoRAConfig(**{"compute": "float32", "four_bit": False, **changes})


@pytest.fixture
def saved(tmp_path):
    """A function -> the folder of a LoRA on the shipped base "sums", with weights that do something."""

    def make(base=None, **changes):
        base = base or base_folder("sums")
        lora = LoraConfig(
            **{"r": 4, "lora_alpha": 8, "target_modules": list(ADAPTED), "task_type": "CAUSAL_LM", **changes}
        )
        model = get_peft_model(load_base(settings(base=str(base)))[0], lora)
        with torch.no_grad():
            for i, p in enumerate(learned_weights(model).values()):
                p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def edit(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def reweigh(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def logits(model):
    with torch.no_grad():
        return forward(model, IDS)


@pytest.mark.parametrize("four_bit", [False, True])
@pytest.mark.parametrize("targets", [ADAPTED, ("q_proj", "v_proj")])
def test_it_is_the_model_that_peft_makes(saved, four_bit, targets):
    folder = saved(target_modules=list(targets))
    assert is_adapter(folder) and not is_adapter(base_folder("sums"))
    adapter = read_adapter(folder)
    assert (adapter.rank, adapter.alpha, adapter.targets) == (4, 8, targets)
    model, tokenizer = load_adapter(adapter, settings(four_bit=four_bit))
    base = load_base(settings(base=str(base_folder("sums")), four_bit=four_bit))
    bare = logits(base.model)
    expected = logits(PeftModel.from_pretrained(base.model, folder).eval())
    assert torch.equal(logits(model), expected) and not torch.allclose(expected, bare, atol=1e-2)
    assert bool(four_bit_layers(model)) == four_bit and not model.training
    assert {name.split(".")[-4] for name in learned_weights(model)} == set(targets)
    assert len(tokenizer) == len(base.tokenizer)


def test_a_tokenizer_beside_the_adapter_is_the_one_it_was_trained_with(saved):
    folder = saved()
    tokenizer = load_base(settings(base=str(base_folder("sums")))).tokenizer
    tokenizer.chat_template = "{{ messages[0].content }}!"
    with quiet():
        tokenizer.save_pretrained(folder)
    loaded = load_adapter(read_adapter(folder), settings()).tokenizer
    assert loaded.chat_template == tokenizer.chat_template and loaded.padding_side == "left"


def test_half_precision_and_dropout_are_read(saved):
    folder = saved(lora_dropout=0.1)
    reweigh(folder, lambda weights: {name: tensor.bfloat16() for name, tensor in weights.items()})
    model, _ = load_adapter(read_adapter(folder), settings())
    assert all(p.dtype == torch.float32 for p in learned_weights(model).values())
    assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', got 'IA3'"),
        ({"task_type": "SEQ_CLS"}, "task_type must be 'CAUSAL_LM', got 'SEQ_CLS'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules must be a list out of q_proj, k_proj, "),
        ({"target_modules": r".*\.q_proj"}, "target_modules must be a list out of"),
        ({"target_modules": []}, "target_modules must be a list out of"),
        ({"target_modules": [["q_proj"]]}, "target_modules must be a list out of"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path must name the base, got None"),
        ({"r": 0}, "rank must be a whole number >= 1, got 0"),
        ({"lora_alpha": "x"}, "alpha must be a finite number"),
        ({"use_dora": True}, "use_dora is True, and only plain LoRA can be loaded here"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is {'q_proj': 8}"),
        ({"layers_to_transform": [0]}, "layers_to_transform is [0]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be one of"),
        ({"a_method_of_next_year": True}, "a_method_of_next_year is True"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(saved, change, said):
    folder = saved()
    edit(folder, **change)
    with pytest.raises(UserError) as error:
        read_adapter(folder)
    assert said in str(error.value) and str(error.value).startswith(f"adapter {str(folder)!r}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: {k: v for k, v in w.items() if k != A},
            "lacks 1 weight that the model has: base_model.model.model.",
        ),
        (lambda w: w | {"extra.weight": torch.ones(2)}, "holds 1 weight that the model does not have: extra."),
        (lambda w: w | {A: w[A][:2].clone()}, "lora_A.default.weight [2, 128] for [4, 128]"),
        (lambda w: w | {A: w[A] * torch.nan}, f"holds NaN or infinite numbers in {A}"),
        (lambda w: {}, "lacks 28 weights that the model has"),
    ],
)
def test_weights_that_are_not_the_adapters_are_named(saved, change, said):
    folder = saved()
    reweigh(folder, change)
    with pytest.raises(UserError) as error:
        load_adapter(read_adapter(folder), settings())
    assert said in str(error.value) and str(error.value).startswith(f"adapter {str(folder)!r}")


def test_an_adapter_of_another_base_is_refused(saved, checkpoint):
    folder = saved()
    edit(folder, base_model_name_or_path=str(checkpoint()))
    with pytest.raises(
        UserError, match=r"adapter .* for the base .* holds 28 weights of another shape than the model's"
    ):
        load_adapter(read_adapter(folder), settings())
    edit(folder, base_model_name_or_path="nowhere/at-all")
    with pytest.raises(UserError, match=r"the base of adapter .*: base must be one of .*, got 'nowhere/at-all'"):
        load_adapter(read_adapter(folder), settings())


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "adapter_config.json").write_text("{"),
        lambda f: (f / "adapter_config.json").write_text("[1]"),
        lambda f: (f / "adapter_model.safetensors").unlink(),
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"),
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
    ],
)
def test_a_damaged_folder_is_a_sentence(saved, damage):
    folder = saved()
    damage(folder)
    with pytest.raises(UserError, match="cannot be read") as error:
        read_adapter(folder)
    assert "\n" not in str(error.value)


def test_weights_are_held_for_a_while_and_a_backward_pass_under_way_is_not_disturbed(saved):
    model, _ = load_adapter(read_adapter(saved()), settings())
    now = {name: p.clone() for name, p in learned_weights(model).items()}
    zeros = {name: torch.zeros_like(p) for name, p in now.items()}
    wanted = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(forward(model, IDS).square().mean(), wanted)
    loss, clean = forward(model, IDS).square().mean(), logits(model)
    with holding(model, zeros):
        assert torch.equal(logits(model), logits(load_base(settings(base=str(base_folder("sums"))))[0]))
    assert torch.equal(logits(model), clean)
    assert all(torch.equal(p, now[name]) for name, p in learned_weights(model).items())
    assert all(map(torch.equal, torch.autograd.grad(loss, wanted), expected))
    with pytest.raises(ZeroDivisionError), holding(model, zeros):
        raise ZeroDivisionError
    assert torch.equal(logits(model), clean)


def test_moved_with_its_folder_an_adapter_finds_its_base(saved, tmp_path):
    folder = saved()
    shutil.move(folder, tmp_path / "elsewhere")
    assert read_adapter(tmp_path / "elsewhere").base == str(base_folder("sums"))
