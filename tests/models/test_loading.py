"""A checkpoint is loaded whole or refused in one sentence, with all its weights learning and in 4 bits alike."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from psn_tutorial.errors import UserError
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.loading import quiet
from psn_tutorial.models.qlora import QLoRAConfig, load_base
from psn_tutorial.models.tiny import load

UP = "model.layers.1.mlp.up_proj.weight"


def in_four_bits(folder):
    pytest.importorskip("bitsandbytes")
    return load_base(QLoRAConfig(str(folder), compute="float32"))


both = pytest.mark.parametrize("loader", [load, in_four_bits])


@pytest.fixture
def damaged(tmp_path):
    """A function (base, change of its weights, changes of its config.json) -> the folder of a changed copy."""

    def make(base="sums", weights=None, **config):
        folder = shutil.copytree(base_folder(base), tmp_path / "base")
        if weights:
            held = weights(load_file(folder / "model.safetensors"))
            save_file({k: v.contiguous() for k, v in held.items()}, folder / "model.safetensors", {"format": "pt"})
        if config:
            edit(folder / "config.json", **config)
        return folder

    return make


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(loader, folder):
    """The one sentence with which ``folder`` is refused."""
    with pytest.raises(UserError) as error:
        loader(folder)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 700
    return sentence


# --- weights that are not the model's ---------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {k: v for k, v in w.items() if k != UP}, f"lacks 1 weight that the model has: {UP}"),
        (
            lambda w: {f"module.{k}": v for k, v in w.items()},
            "lacks 27 weights that the model has: lm_head.weight, model.embed_tokens.weight, "
            "model.layers.0.input_layernorm.weight, ..., and holds 26 weights that the model does not have: "
            "module.model.embed_tokens.weight, ",
        ),
        (
            lambda w: {k.replace("1.mlp.up", "1.mlp.upper"): v for k, v in w.items()},
            f"lacks 1 weight that the model has: {UP}, and holds 1 weight that the model does not have: "
            "model.layers.1.mlp.upper_proj.weight",
        ),
        (lambda w: w | {"v_head.weight": torch.ones(1, 128)}, "holds 1 weight that the model does not have: v_head"),
        (
            lambda w: w | {"model.layers.0.mlp.up_proj.bias": torch.ones(384)},
            "holds 1 weight that the model does not have: model.layers.0.mlp.up_proj.bias",
        ),
        (lambda w: w | {UP: w[UP].T}, f"another shape than the model's: {UP} [128, 384] for [384, 128]"),
        (lambda w: w | {UP: w[UP].flatten()}, f"another shape than the model's: {UP} [49152] for [384, 128]"),
        (lambda w: w | {UP: w[UP].index_fill(0, torch.tensor(3), torch.nan)}, f"NaN or infinite numbers in {UP}"),
        (lambda w: w | {UP: w[UP].index_fill(1, torch.tensor(3), -torch.inf)}, f"NaN or infinite numbers in {UP}"),
        (lambda w: w | {UP: (100 * w[UP]).to(torch.int8)}, f"holds int8 numbers in {UP}"),
        (lambda w: {"x": torch.ones(1)}, "lacks 27 weights that the model has"),
    ],
)
def test_weights_that_are_not_the_models_are_named(damaged, loader, change, said):
    folder = damaged("sums", change)
    sentence = refusal(loader, folder)
    assert sentence.startswith(f"checkpoint {str(folder)!r} ") and said in sentence


@both
def test_a_config_that_does_not_describe_the_weights_is_refused(damaged, loader):
    assert "lacks 12 weights that the model has: model.layers.2." in refusal(
        loader, damaged("sums", num_hidden_layers=3, layer_types=None)
    )


@both
def test_a_model_with_fewer_layers_than_its_checkpoint_is_refused(damaged, loader):
    assert "holds 12 weights that the model does not have: model.layers.1." in refusal(
        loader, damaged("sums", num_hidden_layers=1, layer_types=None)
    )


@both
def test_a_head_of_its_own_must_be_there(damaged, loader):
    folder = damaged("rules", lambda w: {k: v for k, v in w.items() if k != "lm_head.weight"})
    assert refusal(loader, folder) == f"checkpoint {str(folder)!r} lacks 1 weight that the model has: lm_head.weight"


@both
def test_two_copies_of_a_tied_weight_must_agree(damaged, loader):
    folder = damaged("sums", lambda w: w | {"lm_head.weight": 1.1 * w["model.embed_tokens.weight"]})
    assert "says that embedding and head are one tensor, and holds two that differ" in refusal(loader, folder)
    edit(folder / "config.json", tie_word_embeddings=False)
    model, _ = loader(folder)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


@both
@pytest.mark.parametrize(
    "change",
    [
        lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"].clone()},
        lambda w: {k.replace("model.embed_tokens", "lm_head"): v for k, v in w.items()},
        lambda w: {k.removeprefix("model."): v for k, v in w.items()},  # saved without the head
        lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)},
        lambda w: w | {"model.layers.0.self_attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)},
        lambda w: w | {"model.layers.0.self_attn.masked_bias": torch.tensor(-1e4)},
        lambda w: {k: v.double() for k, v in w.items()},
    ],
)
def test_the_same_weights_in_another_dress_are_the_same_model(damaged, loader, change):
    """Two equal copies of a tied weight, or only the other one; the buffers of old checkpoints; another type."""
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = forward(loader(base_folder("sums")).model, ids)
        model = loader(damaged("sums", change)).model
        assert torch.equal(forward(model, ids), expected)
    assert model.lm_head.weight is model.model.embed_tokens.weight


# --- files that are not as they should be -----------------------------------------------------------


def cut(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def foreign_code(folder):
    edit(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"})
    (folder / "mine.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')")


def a_token_too_many(folder):
    model, tokenizer = load(folder)
    tokenizer.add_tokens(["extra"])
    with quiet():
        tokenizer.save_pretrained(folder)


@both
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "cannot be loaded: Error while deserializing header"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be loaded: Error while deserializing header"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded: Error no file named model.safetensors"),
        (pickled, "holds its weights as a pickle, which can run code: save it as safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda f: (f / "config.json").write_text("[]"), "cannot be loaded: Unrecognized model"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "not a valid JSON file"),
        (lambda f: edit(f / "config.json", model_type="bert"), "model type must be one of qwen2, qwen3, llama"),
        (lambda f: edit(f / "config.json", model_type="t5"), "Unrecognized configuration class"),
        (lambda f: edit(f / "config.json", hidden_size="wide"), "Field 'hidden_size' expected int"),
        (
            lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
            "cannot be loaded",
        ),
        (foreign_code, "contains custom code"),
        (
            lambda f: (f / "tokenizer.json").unlink(),
            "has no tokenizer: tokenizer.json or vocab.json or tokenizer.model",
        ),
        (lambda f: (f / "tokenizer_config.json").unlink(), "has no tokenizer: tokenizer_config.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer of checkpoint"),
        (a_token_too_many, "the tokenizer has ids up to 501, and the embedding 501 rows"),
        (lambda f: (f / "generation_config.json").write_text("{"), "generation_config.json must hold a JSON object"),
        (
            lambda f: edit(f / "generation_config.json", eos_token_id=["<eos>"]),
            "eos_token_id in generation_config.json must be a token id or a list of them, got ['<eos>']",
        ),
    ],
)
def test_a_damaged_folder_is_a_sentence(damaged, loader, damage, said):
    folder = damaged("sums")
    damage(folder)
    assert said in refusal(loader, folder)
    assert not (folder / "was-run").exists()


@both
def test_no_checkpoint_at_all_is_a_sentence(tmp_path, loader):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "nowhere", tmp_path / "file", tmp_path):
        assert " must be " in refusal(loader, place)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_sentence(damaged):
    folder = damaged()
    (folder / "model.safetensors").chmod(0)
    assert "cannot be loaded" in refusal(load, folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda shard, index: shard.unlink(), "No such file"),
        (lambda shard, index: shard.write_bytes(shard.read_bytes()[:50]), "Error while deserializing header"),
        (lambda shard, index: index.write_text("{}"), "'weight_map' is missing"),
        (lambda shard, index: save_file({"x": torch.ones(1)}, shard, {"format": "pt"}), "lacks "),
    ],
)
@both
def test_a_damaged_shard_is_a_sentence(damaged, loader, damage, said):
    folder = damaged()
    model, _ = load(folder)
    (folder / "model.safetensors").unlink()
    with quiet():
        model.save_pretrained(folder, max_shard_size="200KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert torch.equal(load(folder).model.get_parameter(UP), model.get_parameter(UP))
    damage(shards[1], folder / "model.safetensors.index.json")
    assert said in refusal(loader, folder)


def test_an_embedding_with_more_rows_than_tokens_is_read(damaged):
    """Qwen pads its embedding to a round number."""
    pad = lambda w: w | {"model.embed_tokens.weight": torch.cat([w["model.embed_tokens.weight"], torch.ones(11, 128)])}  # noqa: E731
    model, tokenizer = load(damaged("sums", pad, vocab_size=512))
    assert len(tokenizer) < model.get_input_embeddings().num_embeddings == 512


def test_a_quantised_checkpoint_is_read_in_four_bits_alone(damaged):
    pytest.importorskip("bitsandbytes")
    folder = damaged("sums")
    model, tokenizer = in_four_bits(folder)
    with quiet():
        model.save_pretrained(folder)
    assert "is quantised (bitsandbytes): ask for four_bit" in refusal(load, folder)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(forward(in_four_bits(folder).model, ids), forward(model, ids))
