"""A tiny Qwen: the real architecture and checkpoint format, small enough to train on a laptop.

The model is transformers' own Qwen2 or Qwen3 class with a few small sizes, its tokenizer one token per word, and the
checkpoint an ordinary folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

from psn_tutorial.errors import UserError, check_choice, check_count
from psn_tutorial.models.policy import Policy
from psn_tutorial.settings import option

# The frame that Qwen's chat models were taught; see chat_template in their tokenizer_config.json.
CHATML = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"
ARCHITECTURES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of a tiny Qwen. ``tied`` shares the embedding with the unembedding, as the small Qwens do.

    The default is Qwen3: for the type "qwen2" transformers 5 makes AutoTokenizer ignore the tokenizer that a checkpoint
    brings and use Qwen's own byte-level one, which splits numbers into digits.
    """

    architecture: str = option("qwen3", "which Qwen", tuple(ARCHITECTURES))
    hidden: int = option(64, "width of the residual stream")
    layers: int = option(2, "decoder layers")
    heads: int = option(4, "attention heads; hidden / heads must be even")
    kv_heads: int = option(4, "heads of keys and values")
    ff: int = option(256, "width inside the MLPs")
    tied: bool = option(True, "one tensor for embedding and unembedding")
    positions: int = option(64, "longest sequence")

    def __post_init__(self):
        check_choice("architecture", self.architecture, ARCHITECTURES)
        for name in ("hidden", "layers", "heads", "kv_heads", "ff", "positions"):
            check_count(name, getattr(self, name))
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise UserError(
                "hidden must be a multiple of heads and heads of kv_heads, "
                f"got {self.hidden}, {self.heads} and {self.kv_heads}"
            )
        if self.hidden // self.heads % 2:
            raise UserError(f"hidden / heads must be even, got {self.hidden} / {self.heads}")


def build_model(config: TinyConfig, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> nn.Module:
    """A freshly initialised causal language model, the same for the same seed; float32, eval mode."""
    settings, architecture = ARCHITECTURES[config.architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(
            settings(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden,
                intermediate_size=config.ff,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.kv_heads,
                head_dim=config.hidden // config.heads,
                tie_word_embeddings=config.tied,
                max_position_embeddings=config.positions,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return model.eval()


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per blank-separated word; ``<bos>`` goes before every text; padding is on the left."""
    vocabulary = {word: i for i, word in enumerate([PAD, BEGIN, END, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD, padding_side="left"
    )


def build_text_tokenizer(texts: Iterable[str], vocabulary: int = 512) -> Qwen2Tokenizer:
    """Qwen's own kind of tokenizer, small: byte pairs learned from ``texts``, the turns of ChatML, its chat template.

    For language models made here; ``vocabulary`` >= 300 leaves room beside the 256 bytes.
    """
    check_count("vocabulary", vocabulary, low=300)
    turns = ["<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        list(texts), vocabulary, new_special_tokens=turns, show_progress=False
    )
    tokenizer.eos_token, tokenizer.chat_template, tokenizer.padding_side = turns[1], CHATML, "left"
    return tokenizer


def load(folder: str | Path) -> Policy:
    """Load a checkpoint folder: float32 model in eval mode, and its tokenizer.

    Raises:
        UserError: the folder is missing, holds no checkpoint, or one that cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"checkpoint must be a folder with a config.json as transformers saves it, got {str(folder)!r}")
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers, safetensors and json raise a dozen different types here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint {str(folder)!r} cannot be loaded: {reason}") from error
    tokenizer.padding_side = "left"
    return Policy(model.eval(), tokenizer)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and notes of transformers while a tiny checkpoint is read or written: it takes milliseconds."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
