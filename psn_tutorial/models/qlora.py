"""QLoRA: a frozen base in 4 bits and a small trainable adapter (Dettmers et al. 2023, arXiv 2305.14314).

The base's linear layers are rounded to NF4 (bitsandbytes); LoRA (peft) adds to each of them a product B A of rank r,
the only weights that learn. B starts at zero, so that the model begins as its base.

What is deliberately left out: peft's ``prepare_model_for_kbit_training`` turns norms, embeddings and head to float32,
and a model loaded again without it computes something else. Here they keep the type they were loaded in, so that
sampling, training and a reload agree; the adapter is float32.
"""

import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from psn_tutorial.choices import COMPUTE_TYPES
from psn_tutorial.errors import UserError, check_choice, check_count, check_positive
from psn_tutorial.models.loading import MODELS, load_checkpoint
from psn_tutorial.models.policy import Policy
from psn_tutorial.settings import option

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a package that it does not need
COMPUTE = {name: getattr(torch, name) for name in COMPUTE_TYPES}
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class QLoRAConfig:
    """Which base, and which adapter on it."""

    base: str = option(
        "qwen2.5-0.5b-instruct", "a short name of MODELS, a hub name, a checkpoint folder or a GGUF file"
    )
    four_bit: bool = option(True, "round the base's linear layers to NF4; else they keep the compute type")
    double_quant: bool = option(True, "round the scales of the blocks too")
    compute: str = option("bfloat16", "type of everything that is not 4-bit", tuple(COMPUTE))
    rank: int = option(16, "rank r of the adapter")
    alpha: float = option(32.0, "the adapter adds alpha / r times B A")
    seed: int = option(0, "seed of the adapter's A")

    def __post_init__(self) -> None:
        check_choice("compute", self.compute, COMPUTE)
        check_count("rank", self.rank)
        check_count("seed", self.seed, low=0)
        check_positive("alpha", self.alpha)


def load_qlora(config: QLoRAConfig, device: str = "cpu") -> Policy:
    """The base of ``config`` with a fresh adapter, in eval mode, and its tokenizer (padding on the left).

    Raises:
        UserError: the base cannot be loaded (the sentence says why), is of an unknown architecture, or the packages of
            the extra "qlora" are missing.
    """
    model, tokenizer = load_base(config, device)
    return Policy(adapted(model, config), tokenizer)


def load_base(config: QLoRAConfig, device: str = "cpu") -> Policy:
    """The frozen base alone. Raises UserError as :func:`load_qlora`."""
    settings = {"dtype": COMPUTE[config.compute], "device_map": {"": device}}
    if config.four_bit:
        settings["quantization_config"] = _nf4(config)
    allowed = f"one of {', '.join(MODELS)}, a hub name, a checkpoint folder or a GGUF file that can be loaded"
    model, tokenizer = load_checkpoint(config.base, "base", allowed, **settings)
    keep_gradients_right_on_cpu(model)
    return Policy(model.requires_grad_(False), tokenizer)


def _nf4(config: QLoRAConfig):
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise UserError(f"4-bit models need the extra 'qlora': pip install 'psn-tutorial[qlora]' ({error})") from None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=config.double_quant,
        bnb_4bit_compute_dtype=COMPUTE[config.compute],
    )


def keep_gradients_right_on_cpu(model: nn.Module) -> None:
    """Switch off the packed weight layout of bitsandbytes on CPUs with AVX512-BF16.

    The first forward pass in eval mode would silently repack every 4-bit layer into a layout without autograd: a Qwen3
    then trains with wrong gradients, and only a warning of ``bitsandbytes::gemv_4bit`` tells (bitsandbytes 0.50).
    """
    for layer in four_bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = False


def four_bit_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose weights are in 4 bits, by name."""
    return {name: module for name, module in model.named_modules() if is_four_bit(module)}


def is_four_bit(module: nn.Module) -> bool:
    """Is this a 4-bit linear layer of bitsandbytes itself (not the peft layer around one)?"""
    return "weight" in module._parameters and hasattr(module.weight, "quant_state")


def dense_weight(module: nn.Module) -> Tensor:
    """The weight [out, in] a linear layer computes with: dequantised, in its compute type, if it is in 4 bits."""
    if not is_four_bit(module):
        return module.weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
    return weight.to(module.compute_dtype or weight.dtype)


def adapted(model: nn.Module, config: QLoRAConfig, targets: Sequence[str] = ADAPTED) -> nn.Module:
    """``model`` inside a peft wrapper with a fresh LoRA adapter on its attention and MLP layers of these names."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError(f"adapters need the extra 'qlora': pip install 'psn-tutorial[qlora]' ({error})") from None
    settings = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=list(targets), task_type="CAUSAL_LM", lora_dropout=0.0
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(config.seed)  # peft draws A from torch's global generator
        warnings.simplefilter("ignore", FutureWarning)  # of what peft asks transformers
        return get_peft_model(model, settings).eval()


def learned_weights(model: nn.Module) -> dict[str, Tensor]:
    """What training changes and a checkpoint holds, by name: all weights, or those of the adapter."""
    if not hasattr(model, "disable_adapter"):
        return model.state_dict()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def restore_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put :func:`learned_weights` back. Raises RuntimeError or KeyError for those of another model."""
    missing = set(learned_weights(model)) ^ set(weights)
    if missing:
        raise KeyError(f"weights of another model: {min(missing)}")
    model.load_state_dict(weights, strict=not hasattr(model, "disable_adapter"))


@contextmanager
def holding(model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the parameters named in ``weights`` hold those, and afterwards what they held before, bit for bit.

    Nothing is written into a tensor: what autograd keeps for a backward pass that is still to come stays valid.
    """
    own = {name: p for name, p in model.named_parameters() if name in weights}
    before = {name: p.data for name, p in own.items()}
    try:
        for name, p in own.items():
            p.data = weights[name]
        yield
    finally:
        for name, p in own.items():
            p.data = before[name]


def dequantised(model: nn.Module) -> nn.Module:
    """Turn every 4-bit layer into an ordinary one with the very same weights, in place: the tests' reference."""
    for name, layer in four_bit_layers(model).items():
        parent, _, attribute = name.rpartition(".")
        dense = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        dense.weight = nn.Parameter(dense_weight(layer), requires_grad=False)
        dense.bias = layer.bias
        setattr(model.get_submodule(parent), attribute, dense)
    gc.collect()
    return model
