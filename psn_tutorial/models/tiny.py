"""A tiny Qwen: the real architecture and checkpoint format, small enough to train on a laptop.

The model is transformers' own Qwen2 or Qwen3 class with a few small sizes, its tokenizer one token per word, and the
checkpoint an ordinary folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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

from psn_tutorial.errors import UserError, check_count
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.policy import Policy

# The frame that Qwen's chat models were taught; see chat_template in their tokenizer_config.json.
CHATML = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"
CLASSES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def build_model(config: TinyConfig, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> nn.Module:
    """A freshly initialised causal language model, the same for the same seed; float32, eval mode."""
    settings, architecture = CLASSES[config.architecture]
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
