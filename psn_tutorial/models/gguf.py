"""A GGUF file as a base: dequantised, and written once as the ordinary checkpoint folder that everything else reads.

GGUF is the format of llama.cpp: one file with the weights, usually rounded to 4 to 8 bits, the sizes, and the
tokenizer with its chat template. The folder lies in a cache under the SHA-256 of the file. Its weights are float32:
what the rounding to a few bits has lost stays lost, and rounding them to NF4 loses a second time.

Names of tensors and fields: the GGUF specification of ggml-org, docs/gguf.md. That llama's queries and keys stand in
another order: `permute` in llama.cpp's convert_hf_to_gguf.py.
"""

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

from psn_tutorial.errors import UserError
from psn_tutorial.strict_json import parse_json

CONFIGS = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
MAGIC = b"GGUF"
SOURCE = "gguf.json"  # in the folder: where it came from

# ggml's name of a tensor -> transformers'
TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
BLOCK = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
SAME = 0.1  # two copies of one embedding, rounded to different bits, differ by less than this share of their size

SPECIAL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
# How a text is cut before pairs of bytes are joined; by the names that llama.cpp gives.
LLAMA3_REGEX = PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CUTS = {
    "qwen2": lambda: _by_regex(PRETOKENIZE_REGEX),
    "llama-bpe": lambda: _by_regex(LLAMA3_REGEX),
    "smollm": lambda: [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "gpt-2": lambda: [pre_tokenizers.ByteLevel(add_prefix_space=False)],
}


class Source(NamedTuple):
    """What a run keeps of the file that its base came from.

    Attributes:
        sha256: of the file.
        metadata: the fields "general.*": name, licence and the like.
        types: how many tensors are of each ggml type, such as {"Q4_1": 210, "F32": 61}.
    """

    sha256: str
    metadata: dict[str, Any]
    types: dict[str, int]


def is_gguf(name: str | Path) -> bool:
    """Is this a GGUF file, by its first bytes or its name?"""
    path = Path(name)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".gguf" or file.read(4) == MAGIC


def cache_folder() -> Path:
    """Where the folders lie: $PSN_TUTORIAL_CACHE, or psn_tutorial in the user's cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PSN_TUTORIAL_CACHE") or Path(caches) / "psn_tutorial") / "gguf"


def folder_of(file: str | Path) -> Path:
    """The checkpoint folder of a GGUF file; made at the first call, which takes seconds.

    Raises:
        UserError: the file is cut or damaged; its architecture, its tokenizer or a type of its tensors is unknown; it
            lacks the tokenizer; the folder cannot be written; the package gguf is missing.
    """
    file = Path(file)
    folder = cache_folder() / _sha256(file)
    if (folder / SOURCE).is_file():
        return folder
    reader, fields = _read(file)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as above:
            new = Path(above) / "new"
            new.mkdir()
            _write(new, file, reader, fields, folder.name)
            new.rename(folder)  # complete, or not there
    except OSError as error:
        if not (folder / SOURCE).is_file():  # another process was quicker
            raise UserError(f"cannot write {folder}, where {file} is unpacked: {error.strerror or error}") from error
    return folder


def source_of(folder: str | Path) -> dict[str, Any] | None:
    """The :class:`Source` of a folder of :func:`folder_of`, as JSON; None for any other checkpoint."""
    path = Path(folder) / SOURCE
    return parse_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _read(file: Path) -> tuple[Any, dict[str, Any]]:
    """The reader of the package gguf, and all fields of the file by name."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(f"GGUF files need the extra 'gguf': pip install 'psn-tutorial[gguf]' ({error})") from None
    try:
        reader = GGUFReader(file)
        return reader, {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # numpy's and the reader's own, wherever the file is cut
        raise UserError(f"{file} is no whole GGUF file: {str(error).splitlines()[0]}") from error


def _write(folder: Path, file: Path, reader: Any, fields: dict[str, Any], sha256: str) -> None:
    kind = fields.get("general.architecture")
    if kind not in CONFIGS:
        raise UserError(f"{file}: the architecture must be one of {', '.join(CONFIGS)}, got {kind!r}")
    try:
        tokenizer = _tokenizer(file, fields)
        weights, tied = _weights(file, reader, kind, fields)
        config = _config(kind, fields, weights, tied, tokenizer)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} lacks a field, or holds one that cannot be: {error}") from error
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ends = {fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")} - {None}
    general = {name: value for name, value in fields.items() if name.startswith("general.")}
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    for name, value in (
        ("generation_config.json", {"eos_token_id": sorted(ends)}),
        (SOURCE, Source(sha256, general, dict(types))._asdict()),
    ):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _config(kind: str, fields: dict[str, Any], weights: dict[str, torch.Tensor], tied: bool, tokenizer: Any) -> Any:
    size = {name.removeprefix(f"{kind}."): value for name, value in fields.items() if name.startswith(f"{kind}.")}
    if scaling := [name for name in size if name.startswith("rope.scaling.")]:
        raise ValueError(f"{kind}.{scaling[0]}: scaled rotary embeddings are not read here")
    heads, width = size["attention.head_count"], size["embedding_length"]
    head = size.get("attention.key_length", width // heads)
    for name, plain in (("rope.dimension_count", head), ("attention.sliding_window", 0), ("expert_count", 0)):
        if size.get(name, plain) != plain:
            raise ValueError(f"{kind}.{name} is {size[name]}, and only {plain} is read here")
    return CONFIGS[kind](
        vocab_size=len(weights["model.embed_tokens.weight"]),
        hidden_size=width,
        intermediate_size=size["feed_forward_length"],
        num_hidden_layers=size["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=size.get("attention.head_count_kv", heads),
        head_dim=head,
        max_position_embeddings=size["context_length"],
        rms_norm_eps=size["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": size.get("rope.freq_base", 10000.0)},
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        architectures=[f"{CONFIGS[kind].__name__.removesuffix('Config')}ForCausalLM"],
        dtype="float32",
    )


def _weights(file: Path, reader: Any, kind: str, fields: dict[str, Any]) -> tuple[dict[str, torch.Tensor], bool]:
    """All weights in float32 by transformers' names, and whether the head is the embedding."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if tied := "output.weight" not in tensors:
        pass
    elif _is_copy(file, tensors["output.weight"], tensors["token_embd.weight"]):
        finer = max(("output.weight", "token_embd.weight"), key=lambda name: tensors[name].n_bytes)
        tensors["token_embd.weight"], tied = tensors[finer], True
        del tensors["output.weight"]
    weights = {}
    for name, tensor in tensors.items():
        found = BLOCK.fullmatch(name)
        if not found or found[2] not in TENSORS:
            raise UserError(f"{file}: the tensor {name} is none of a plain {kind} model")
        value = _dequantised(file, tensor)
        if kind == "llama" and found[2] in ("attn_q", "attn_k"):
            heads = "head_count" if found[2] == "attn_q" else "head_count_kv"
            value = _pairs_apart(value, fields[f"llama.attention.{heads}"])
        block = f"model.layers.{found[1]}." if found[1] else ""
        weights[f"{block}{TENSORS[found[2]]}.{found[3]}"] = torch.from_numpy(np.ascontiguousarray(value))
    return weights, tied


def _dequantised(file: Path, tensor: Any) -> np.ndarray:
    """float32, [out, in]: GGUF names the sizes from the fastest to the slowest."""
    from gguf.quants import dequantize

    try:
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(tensor.shape[::-1].tolist())
    except NotImplementedError:
        kind = tensor.tensor_type.name
        raise UserError(f"{file}: the tensor {tensor.name} is of the type {kind}, which gguf cannot read") from None


def _is_copy(file: Path, head: Any, embedding: Any) -> bool:
    """Are these two the same numbers, rounded differently? Asked of their first rows."""
    if head.shape.tolist() != embedding.shape.tolist():
        return False
    a, b = (_dequantised(file, tensor)[:1000] for tensor in (head, embedding))
    return bool(np.square(a - b).mean() <= SAME**2 * np.square(b).mean())


def _pairs_apart(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of llama's queries and keys, [heads * D, ...]: the two components that turn together are neighbours in the
    file, and D / 2 apart in transformers."""
    paired = value.reshape(heads, -1, 2, *value.shape[1:])
    return paired.swapaxes(1, 2).reshape(value.shape)


def _by_regex(pattern: str) -> list[Any]:
    return [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _tokenizer(file: Path, fields: dict[str, Any]) -> PreTrainedTokenizerBase:
    field = {name.removeprefix("tokenizer.ggml."): value for name, value in fields.items()}.get
    words, merges, cut = field("tokens"), field("merges"), field("pre")
    if not words:
        raise UserError(f"{file} has no tokenizer")
    if field("model") != "gpt2" or not merges or cut not in CUTS:
        raise UserError(
            f"{file}: the tokenizer must be of the model 'gpt2', cutting as one of {', '.join(CUTS)}, "
            f"got {field('model')!r} and {cut!r}"
        )
    special = {name: field(f"{name}_token_id") for name in ("bos", "eos", "padding")}
    names = {f"{name.removesuffix('ding')}_token": words[i] for name, i in special.items() if i is not None}
    vocabulary = {word: i for i, word in enumerate(words)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if cut == "qwen2":  # transformers builds Qwen's own class for these models, whatever a folder says
        tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=pairs, **names)
    else:
        bare = Tokenizer(models.BPE(vocabulary, pairs))
        bare.pre_tokenizer, bare.decoder = pre_tokenizers.Sequence(CUTS[cut]()), decoders.ByteLevel()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, **names)
    kinds = fields["tokenizer.ggml.token_type"]
    for kind in (SPECIAL, USER_DEFINED):
        added = [word for word, its_kind in zip(words, kinds, strict=True) if its_kind == kind]
        tokenizer.add_tokens([AddedToken(word, normalized=False, special=kind == SPECIAL) for word in added])
    if field("add_bos_token"):
        begin = tokenizer.bos_token, tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    tokenizer.padding_side, tokenizer.chat_template = "left", fields.get("tokenizer.chat_template")
    return tokenizer
