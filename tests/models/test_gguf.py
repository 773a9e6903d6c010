"""GGUF files as bases: made here from small models whose logits are known, whole, rounded and damaged."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from psn_tutorial.cli import main
from psn_tutorial.errors import UserError
from psn_tutorial.experiments.experiment import Arm, Experiment
from psn_tutorial.experiments.run import run_comparison
from psn_tutorial.jobs.policies import load_policy, source_of_base
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.gguf import SOURCE, TENSORS, folder_of, is_gguf, source_of
from psn_tutorial.models.tiny import build_text_tokenizer

gguf = pytest.importorskip("gguf")

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
MODELS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
TEXTS = ["What is 3 + 4? It is 7.", "Anna has 12 apples, and gives 5 away."] * 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PSN_TUTORIAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer():
    return build_text_tokenizer(TEXTS, 300)


def model_of(kind, tokenizer, tied=True):
    config, architecture = MODELS[kind]
    torch.manual_seed(0)
    model = architecture(config(vocab_size=len(tokenizer), tie_word_embeddings=tied, **SIZES)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1)
    return model


def written(path, kind, model, tokenizer, rounded=None, drop=(), copy=None, **fields):
    """A GGUF file of ``model``, as llama.cpp's converter lays it out.

    rounded: ggml type of the matrices; drop: fields and tensors left out; copy: type of a second, tied embedding.
    """
    writer = gguf.GGUFWriter(path, fields.pop("architecture", kind))
    config = model.config
    if "block_count" not in drop:
        writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_name("Small")
    writer.add_license("apache-2.0")
    if "tokens" not in drop:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
        special = set(tokenizer.added_tokens_encoder)
        writer.add_tokenizer_model(fields.pop("tokenizer_model", "gpt2"))
        writer.add_tokenizer_pre(fields.pop("pre", "qwen2"))
        writer.add_token_list(words)
        if "token_type" not in drop:
            writer.add_token_types([3 if word in special else 1 for word in words])
        if fields.pop("begins", False):
            writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
            writer.add_add_bos_token(True)
        writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
        writer.add_eos_token_id(tokenizer.eos_token_id)
        writer.add_pad_token_id(tokenizer.pad_token_id)
        writer.add_chat_template(tokenizer.chat_template)
    names = {ours: theirs for theirs, ours in TENSORS.items()}
    tensors = {name: p.detach().numpy() for name, p in model.named_parameters()}
    if copy:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    for name, value in tensors.items():
        block = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
        stem, _, what = re.sub(r"model\.layers\.\d+\.", "", name).rpartition(".")
        if kind == "llama" and stem.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if "q_proj" in stem else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        target = f"{block}{names[stem]}.{what}"
        if target in drop:
            continue
        to = copy if name == "lm_head.weight" and copy else rounded
        if to is not None and value.ndim > 1:
            writer.add_tensor(target, gguf.quants.quantize(np.ascontiguousarray(value), to), raw_dtype=to)
        else:
            writer.add_tensor(target, np.ascontiguousarray(value))
    for name, value in fields.items():
        writer.add_uint32(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


# What is read


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_the_model_in_the_file_is_the_model(kind, tied, tokenizer, tmp_path):
    model = model_of(kind, tokenizer, tied)
    loaded, read = load_policy(written(tmp_path / "m.gguf", kind, model, tokenizer))
    ids = torch.tensor([tokenizer(TEXTS[1])["input_ids"]])
    assert read(TEXTS[1])["input_ids"] == ids[0].tolist()
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    assert loaded.config.tie_word_embeddings is tied


def test_the_tokenizer_is_the_files_with_its_template_and_ends(tokenizer, tmp_path):
    _, read = load_policy(written(tmp_path / "m.gguf", "qwen2", model_of("qwen2", tokenizer), tokenizer))
    turns = [{"role": "user", "content": "What is 3 + 4?"}]
    assert read.apply_chat_template(turns, tokenize=False) == tokenizer.apply_chat_template(turns, tokenize=False)
    assert (read.eos_token, read.padding_side) == ("<|im_end|>", "left")
    text = "<|im_start|>user\nWhat is 3 + 4?<|im_end|>"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"] and read.decode(read(text)["input_ids"]) == text
    assert read.decode(read(text)["input_ids"], skip_special_tokens=True) == "user\nWhat is 3 + 4?"


def test_digits_are_cut_as_the_file_says(tokenizer, tmp_path):
    model = model_of("llama", tokenizer)
    _, read = load_policy(written(tmp_path / "m.gguf", "llama", model, tokenizer, pre="smollm"))
    assert read.convert_ids_to_tokens(read("a 12")["input_ids"])[-2:] == ["1", "2"]
    assert read.decode(read("Anna has 12 apples.")["input_ids"]) == "Anna has 12 apples."


def test_a_text_begins_with_the_token_that_the_file_asks_for(tokenizer, tmp_path):
    model = model_of("llama", tokenizer)
    _, read = load_policy(written(tmp_path / "m.gguf", "llama", model, tokenizer, pre="gpt-2", begins=True))
    assert read.convert_ids_to_tokens(read("a 1")["input_ids"])[0] == "<|im_start|>" == read.bos_token


def test_rounded_weights_come_back_as_they_were_rounded(tokenizer, tmp_path):
    model, kind = model_of("llama", tokenizer), gguf.GGMLQuantizationType.Q8_0
    loaded, _ = load_policy(written(tmp_path / "m.gguf", "llama", model, tokenizer, rounded=kind))
    weight = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    assert np.array_equal(loaded.model.layers[1].mlp.down_proj.weight.detach().numpy(), expected)
    assert not np.array_equal(expected, weight)


def test_of_two_copies_of_the_embedding_the_finer_is_taken(tokenizer, tmp_path):
    model, fine = model_of("qwen2", tokenizer), gguf.GGMLQuantizationType.Q8_0
    file = written(tmp_path / "m.gguf", "qwen2", model, tokenizer, rounded=gguf.GGMLQuantizationType.Q5_0, copy=fine)
    loaded, _ = load_policy(file)
    embedding = model.model.embed_tokens.weight.detach().numpy()
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight and loaded.config.tie_word_embeddings
    expected = gguf.quants.dequantize(gguf.quants.quantize(embedding, fine), fine)
    assert np.array_equal(loaded.lm_head.weight.detach().numpy(), expected)


def test_a_file_is_unpacked_once_and_says_what_it_is(tokenizer, tmp_path, monkeypatch):
    file = written(tmp_path / "m.gguf", "qwen2", model_of("qwen2", tokenizer), tokenizer)
    folder = folder_of(file)
    source = source_of(folder)
    assert source["sha256"] == folder.name and len(folder.name) == 64
    assert source["metadata"]["general.name"] == "Small" and source["metadata"]["general.license"] == "apache-2.0"
    assert source["types"] == {"F32": 2 * 12 + 2}
    monkeypatch.setattr("psn_tutorial.models.gguf._read", None)
    assert folder_of(file.rename(tmp_path / "renamed.gguf")) == folder
    assert source_of(tmp_path) is None and not is_gguf(tmp_path) and not is_gguf("nowhere.gguf")


# As a base


def test_it_is_a_base_like_any_other(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path / "m.gguf", "qwen2", model_of("qwen2", tokenizer), tokenizer)
    words = ["--task", "math", "--difficulty", "source=sums", "completion=4", "--eval-problems", "2", "--samples", "2"]
    train = [*words, "--steps", "1", "--prompts", "2", "--group", "2", "--base", str(file)]
    assert main(["train", *train, "--lora-rank", "2", "--four-bit", "--out", "run"]) == 0
    held = json.loads((tmp_path / "run" / "provenance.json").read_text())["base"]
    assert held["sha256"] == folder_of(file).name and held["metadata"]["general.name"] == "Small"
    adapter = json.loads((tmp_path / "run" / "policy" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(file)
    assert main(["train", *train, "--out", "full"]) == 0
    assert main(["evaluate", str(file), *words, "--out", "evaluated"]) == 0
    assert (
        main(["evaluate", "run", "--out", "of-run"]) == 0
        and main(["evaluate", "run/policy", *words, "--out", "of"]) == 0
    )
    more = [*train[: train.index("--base")], "--base", "run", "--lora-rank", "2", "--four-bit"]
    assert main(["train", *more, "--seed", "1", "--out", "more"]) == 0
    assert main(["probe", str(file), *words[:5], "--eval-problems", "2", "--sampler", "mlp=0.1", "--answers", "1",
                 "--sets", "1", "--out", "probed"]) == 0  # fmt: skip
    experiment = Experiment("math", "?", {"grpo": Arm("GRPO")}, {
        "base": str(file), "difficulty": {"source": "sums", "completion": 4}, "steps": 1, "prompts": 2, "group": 2,
        "eval_problems": 2, "samples": 2, "batch": 4,
    })  # fmt: skip
    run_comparison({"sums": experiment}, "compared", progress=False)
    for record in ("evaluated", "of-run", "of", "more", "probed", "compared/sums/base", "compared/sums/grpo/seed-0"):
        assert json.loads((tmp_path / record / "provenance.json").read_text())["base"] == held, record


def test_other_bases_have_no_such_source(tmp_path):
    assert source_of_base(base_folder("rules")) == source_of_base("qwen2.5-0.5b-instruct") == {}


# What cannot be read


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "gemma2"}, "the architecture must be one of qwen2, qwen3, llama, got 'gemma2'"),
        ({"drop": ("tokens",)}, "m.gguf has no tokenizer"),
        ({"tokenizer_model": "llama"}, "the tokenizer must be of the model 'gpt2', cutting as one of qwen2, "),
        ({"pre": "tekken"}, "got 'gpt2' and 'tekken'"),
        ({"drop": ("block_count",)}, "lacks a field, or holds one that cannot be: 'block_count'"),
        ({"drop": ("blk.1.ffn_up.weight",)}, "lacks 1 weight that the model has: model.layers.1.mlp.up_proj.weight"),
        ({"qwen2.rope.dimension_count": 8}, "qwen2.rope.dimension_count is 8, and only 16 is read here"),
        ({"qwen2.attention.sliding_window": 64}, "qwen2.attention.sliding_window is 64, and only 0 is read here"),
        ({"qwen2.expert_count": 8}, "qwen2.expert_count is 8, and only 0 is read here"),
        ({"drop": ("token_type",)}, "lacks a field, or holds one that cannot be: 'tokenizer.ggml.token_type'"),
        ({"qwen2.rope.scaling.factor": 4}, "qwen2.rope.scaling.factor: scaled rotary embeddings are not read here"),
    ],
)
def test_a_file_of_another_kind_is_told(change, sentence, tokenizer, tmp_path):
    file = written(tmp_path / "m.gguf", "qwen2", model_of("qwen2", tokenizer), tokenizer, **change)
    with pytest.raises(UserError, match=sentence.replace("'", ".")):
        load_policy(file)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_is_told_and_leaves_nothing(share, tokenizer, tmp_path, capsys):
    file = written(tmp_path / "m.gguf", "qwen2", model_of("qwen2", tokenizer), tokenizer)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="no whole GGUF file"):
        load_policy(file)
    run = tmp_path / "run"
    code = main(["train", "--task", "math", "--base", str(file), "--lora-rank", "2", "--out", str(run)])
    assert code == 2 and "no whole GGUF file" in capsys.readouterr().err and not run.exists()
    assert not list((tmp_path / "cache").rglob(SOURCE))


def test_a_tensor_of_a_type_that_gguf_cannot_read(tokenizer, tmp_path, monkeypatch):
    def none(*rest):
        raise NotImplementedError

    monkeypatch.setattr("gguf.quants.dequantize", none)
    file = written(tmp_path / "m.gguf", "qwen2", model_of("qwen2", tokenizer), tokenizer)
    with pytest.raises(UserError, match="is of the type F32, which gguf cannot read"):
        load_policy(file)


def test_without_the_package_a_sentence_says_what_to_install(tokenizer, tmp_path, monkeypatch):
    file = written(tmp_path / "m.gguf", "qwen2", model_of("qwen2", tokenizer), tokenizer)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"need the extra 'gguf': pip install 'psn-tutorial\[gguf\]'"):
        load_policy(file)
