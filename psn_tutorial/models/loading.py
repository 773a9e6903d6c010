"""Read a checkpoint: a model and its tokenizer, whole, or one sentence that says what is wrong with it.

transformers fills a weight that a checkpoint lacks with random numbers and passes over one that it does not know; both
are only reported in its log. Here they are errors. No pickle is read and no code of a checkpoint is run.
"""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file, logging

from psn_tutorial.errors import UserError, shown
from psn_tutorial.models.decoder import decoder_of
from psn_tutorial.models.gguf import folder_of, is_gguf
from psn_tutorial.models.policy import Policy

# The small Qwens this project is written for, by the name a reader would type.
MODELS = {
    "qwen2.5-0.5b-instruct": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-coder-0.5b-instruct": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
    "qwen2.5-1.5b-instruct": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-math-1.5b": "Qwen/Qwen2.5-Math-1.5B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-0.6b-base": "Qwen/Qwen3-0.6B-Base",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-1.7b-base": "Qwen/Qwen3-1.7B-Base",
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
}

VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model")
OLD_BUFFERS = re.compile(r"(^|\.)(self_attn|attn|attention)\.(masked_)?bias$")  # causal masks; those of Llama it knows


def load_checkpoint(name: str, what: str, allowed: str, **settings: Any) -> Policy:
    """The model and tokenizer of a checkpoint folder, a GGUF file, a short name of ``MODELS``, or a name of the hub.

    Args:
        what, allowed: the sentence for a ``name`` that leads nowhere: "<what> must be <allowed>, got <name>".
        settings: as ``from_pretrained`` takes them: dtype, device_map, quantization_config.

    Returns:
        The model in eval mode, its tokenizer padding on the left.

    Raises:
        UserError: there is no such checkpoint; it cannot be read; it lacks weights, or holds others than the model's
            or others than finite numbers; its tokenizer is missing or has more tokens than the embedding has rows; its
            architecture is unknown. Of a GGUF file also see :func:`psn_tutorial.models.gguf.folder_of`.
    """
    place = str(folder_of(name)) if is_gguf(name) else MODELS.get(name, name)
    local = Path(place).exists()
    if local and not (Path(place) / "config.json").is_file():
        raise UserError(f"{what} must be {allowed}, got {name!r}")
    if local and not any(Path(place).glob("*.safetensors")) and any(Path(place).glob("pytorch_model*.bin")):
        raise UserError(
            f"checkpoint {name!r} holds its weights as a pickle, which can run code: save it as safetensors"
        )
    source = {"pretrained_model_name_or_path": place, "local_files_only": local}
    try:
        with quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                **source,
                **settings,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below, by name
            )
            folder = Path(cached_file(place, "config.json", local_files_only=True)).parent
    except Exception as error:  # the hub, transformers, safetensors and json raise a dozen different types here
        known = local or name in MODELS
        failed = f"checkpoint {name!r} cannot be loaded" if known else f"{what} must be {allowed}, got {name!r}"
        raise UserError(f"{failed}: {reason(error)}") from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(f"{name!r} is an adapter: download it, and give its folder")
    decoder_of(model)  # an unknown architecture is refused before hours are spent on it
    check_weights(f"checkpoint {name!r}", report["missing_keys"], _unknown(report), _other_shapes(model, report))
    _check_ties(name, model)
    _check_quantisation(name, model, "quantization_config" in settings)
    _check_numbers(name, folder, model)
    _check_ends(name, folder)
    model.name_or_path = name  # what peft writes beside an adapter, rather than a folder of the cache
    return Policy(model.eval(), load_tokenizer(name, folder, model))


def load_tokenizer(name: str, folder: Path, model: nn.Module) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, padding on the left, for ``model``. Raises UserError as :func:`load_checkpoint`."""
    for files in (("tokenizer_config.json",), VOCABULARIES):  # without, transformers makes one that knows no word
        if not any((folder / file).is_file() for file in files):
            raise UserError(f"checkpoint {name!r} has no tokenizer: {' or '.join(files)} is missing")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            # Without the token for unknown words: some classes add one of their own, which no text becomes.
            largest = max(i for token, i in tokenizer.get_vocab().items() if token != tokenizer.unk_token)
            _try(tokenizer)
    except Exception as error:  # as above
        raise UserError(f"the tokenizer of checkpoint {name!r} cannot be loaded: {reason(error)}") from error
    rows = model.get_input_embeddings().num_embeddings
    if largest >= rows:
        raise UserError(f"checkpoint {name!r}: the tokenizer has ids up to {largest}, and the embedding {rows} rows")
    tokenizer.padding_side = "left"
    return tokenizer


def _try(tokenizer: PreTrainedTokenizerBase) -> None:
    """Read a text: some faults show only then. Raises whatever goes wrong.

    The tokenizers library panics where a token that it adds is missing, and writes pages to the error output itself.
    """
    error_output, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        tokenizer(["a", "b"])
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # which is no Exception
            raise
        raise ValueError(str(error)) from None
    finally:
        os.dup2(error_output, 2)
        os.close(error_output)
        os.close(nowhere)


def check_weights(
    what: str,
    missing: Collection[str],
    unknown: Collection[str],
    shapes: Mapping[str, tuple[Collection[int], Collection[int]]],
) -> None:
    """Raise UserError, with up to three names of each kind, unless ``what`` holds the model's weights, all and only.

    shapes: name -> (shape there, shape in the model) of the weights whose shapes differ.
    """
    told = {name: f"{name} {list(there)} for {list(wanted)}" for name, (there, wanted) in shapes.items()}
    faults = [
        f"{verb} {len(names)} weight{'s' * (len(names) > 1)} {rest}: {_first(names)}"
        for names, verb, rest in (
            (missing, "lacks", "that the model has"),
            (unknown, "holds", "that the model does not have"),
            (told.values(), "holds", "of another shape than the model's"),
        )
        if names
    ]
    if faults:
        raise UserError(f"{what} {', and '.join(faults)}")


def check_finite(what: str, name: str, tensor: Tensor) -> None:
    """Raise UserError when a weight holds NaN or an infinity."""
    if tensor.itemsize == 1:
        tensor = tensor.float()  # torch does not order numbers of 8 bits
    if tensor.numel() and not bool(torch.stack(tensor.aminmax()).isfinite().all()):  # without a copy as isfinite makes
        raise UserError(f"{what} holds NaN or infinite numbers in {name}")


def reason(error: Exception) -> str:
    """The first line of an error's text, with the next where it ends in a colon."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    lines = [*str(error).strip().splitlines(), ""]
    first = lines[0] or type(error).__name__
    return f"{first} {lines[1].strip()}" if first.endswith(":") else first


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and notes of transformers while a checkpoint is read or written."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:3]) + ", ..." * (len(names) > 3)


def _unknown(report: Mapping[str, Any]) -> list[str]:
    return [name for name in report["unexpected_keys"] if not OLD_BUFFERS.search(name)]


def _other_shapes(model: nn.Module, report: Mapping[str, Any]) -> dict[str, tuple[Collection[int], Collection[int]]]:
    """Weights of other shapes; of those in 4 bits transformers compares none."""
    shapes = {name: (there, wanted) for name, there, wanted in report["mismatched_keys"]}
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and tuple(state.shape) != (module.out_features, module.in_features):
            shapes[f"{name}.weight"] = (state.shape, (module.out_features, module.in_features))
    return shapes


def _check_ties(name: str, model: nn.Module) -> None:
    """Two different copies of a tied weight: transformers would take both, other programs one of them."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if model.config.tie_word_embeddings and embedding is not head:
        raise UserError(
            f"checkpoint {name!r} says that embedding and head are one tensor, and holds two that differ: correct "
            "tie_word_embeddings in its config.json, or take lm_head.weight out"
        )


def _check_quantisation(name: str, model: nn.Module, asked: bool) -> None:
    if getattr(model, "is_quantized", False) and not asked:
        method = model.hf_quantizer.quantization_config.quant_method
        raise UserError(
            f"checkpoint {name!r} is quantised ({getattr(method, 'value', method)}): ask for four_bit, "
            "or name the model that it was made from"
        )


def _check_numbers(name: str, folder: Path, model: nn.Module) -> None:
    """Look at the files, for rounding to 4 bits hides a NaN."""
    index, files = folder / "model.safetensors.index.json", {"model.safetensors"}
    if not (folder / "model.safetensors").is_file():
        files = set(json.loads(index.read_text())["weight_map"].values())
    whole = not getattr(getattr(model, "hf_quantizer", None), "pre_quantized", False)
    for file in sorted(files):
        with safe_open(folder / file, "pt") as tensors:
            for key in tensors.keys():
                tensor = tensors.get_tensor(key)
                if tensor.is_floating_point():
                    check_finite(f"checkpoint {name!r}", key, tensor)
                elif whole and tensor.dtype != torch.bool and not OLD_BUFFERS.search(key):
                    kind = str(tensor.dtype).removeprefix("torch.")
                    raise UserError(
                        f"checkpoint {name!r} holds {kind} numbers in {key}: weights must be floating-point"
                    )


def _check_ends(name: str, folder: Path) -> None:
    """transformers passes over a generation_config.json that it cannot read, and over the tokens that end answers."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return
    try:
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, RecursionError, AttributeError):
        raise UserError(f"checkpoint {name!r}: generation_config.json must hold a JSON object") from None
    if not all(type(end) is int for end in (ends if isinstance(ends, list) else [ends]) if end is not None):
        raise UserError(
            f"checkpoint {name!r}: eos_token_id in generation_config.json must be a token id or a list of them, "
            f"got {shown(ends)}"
        )
