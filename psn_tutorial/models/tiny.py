"""A tiny Qwen: the real architecture and checkpoint format, small enough to train on a laptop.

The model is transformers' own Qwen2 or Qwen3 class with a few small sizes, its tokenizer one token per word, and the
checkpoint an ordinary folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jinja2
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from psn_tutorial.errors import UserError, check_count
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.loading import MODELS, load_checkpoint
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


def chatml(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as the template CHATML writes it, up to where the assistant begins."""
    return jinja2.Template(CHATML).render(messages=messages, add_generation_prompt=True)


def load(name: str | Path) -> Policy:
    """A checkpoint folder, a GGUF file, or a hub model by its short name: a float32 model in eval mode, and its
    tokenizer.

    Raises:
        UserError: there is no such checkpoint, or one that cannot be read whole
            (:func:`psn_tutorial.models.loading.load_checkpoint` lists what is refused).
    """
    allowed = f"a folder with a config.json as transformers saves it, a GGUF file, or one of {', '.join(MODELS)}"
    if str(name) not in MODELS and not Path(name).exists():
        raise UserError(f"checkpoint must be {allowed}, got {str(name)!r}")
    return load_checkpoint(str(name), "checkpoint", allowed, dtype=torch.float32)
