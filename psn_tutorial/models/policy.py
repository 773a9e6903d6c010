"""A policy is a language model and the tokenizer that reads and writes for it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from psn_tutorial.errors import UserError


class Policy(NamedTuple):
    """A causal language model and its tokenizer; ``model, tokenizer = policy`` takes them apart."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase


class Prompts(NamedTuple):
    """P prompts as the model reads them.

    Attributes:
        ids: [P, Tp] token ids, padded on the left.
        mask: [P, Tp] bool, False on padding.
    """

    ids: Tensor
    mask: Tensor


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Prompts:
    """P texts as prompts.

    Raises:
        UserError: a text holds a word that a one-token-per-word vocabulary lacks.
    """
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    if bool((ids[mask] == tokenizer.pad_token_id).any()):
        row = int(((ids == tokenizer.pad_token_id) & mask).any(1).nonzero()[0])
        raise UserError(f"prompt {texts[row]!r} holds a word that the tokenizer does not know")
    return Prompts(ids, mask)
