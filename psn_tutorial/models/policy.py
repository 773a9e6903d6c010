"""A policy is a language model and the tokenizer that reads and writes for it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from psn_tutorial.errors import UserError
from psn_tutorial.tasks.base import Task

ANSWER = "It is so."  # what the assistant says where a chat template is asked how it ends a turn


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


def asked(
    tokenizer: PreTrainedTokenizerBase, task: Task[Any], problems: Sequence[Any], before: Sequence[str] | None = None
) -> list[str]:
    """What the model reads of each problem: its conversation in the words of the tokenizer's own chat template, up to
    where the assistant begins; the prompt as it is where the task has no conversation. Models that can think aloud are
    told not to.

    before: of each problem, what is to stand before its prompt, or before the first message of its conversation, with
        an empty line between; "" for nothing.

    Raises:
        UserError: there is a conversation and no chat template, or the template fails; the task's own methods fail.
    """
    starts = before or [""] * len(problems)
    return [_asked(tokenizer, task, problem, start) for problem, start in zip(problems, starts, strict=True)]


def _asked(tokenizer: PreTrainedTokenizerBase, task: Task[Any], problem: Any, before: str) -> str:
    gap = "\n\n" if before else ""
    messages = task.messages(problem)
    if messages is None:
        return before + gap + task.prompt(problem)
    if before:
        first, *others = messages
        messages = [{**first, "content": before + gap + first["content"]}, *others]
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"the tokenizer must have a chat template, for the task {task.name} is a conversation, got none"
        )
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
    except Exception as error:  # a template is a program of its own and may raise anything
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"the tokenizer's chat template fails on a conversation of the task {task.name}: {why}"
        ) from error


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Prompts:
    """P texts as prompts.

    Raises:
        UserError: as :func:`prompt_ids`.
    """
    rows, padding = prompt_ids(tokenizer, texts), padding_token(tokenizer)
    width = max(map(len, rows))
    ids = torch.tensor([[padding] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return Prompts(ids, mask)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text, as the tokenizer makes them of a text that the model is to go on with.

    So a text that begins with the beginning-of-text token, as many chat templates write it, gets no second one, and
    a tokenizer that closes every text with the end-of-text token does not close these.

    Raises:
        UserError: a text is empty, or holds a word that the tokenizer does not know.
    """
    begin, end, unknown = tokenizer.bos_token_id, tokenizer.eos_token_id, unknown_token(tokenizer)
    rows = tokenizer(list(texts))["input_ids"]
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        if begin is not None and row[:2] == [begin, begin]:
            row = row[1:]
        if end is not None and row[-1:] == [end] and not text.endswith(tokenizer.eos_token):
            row = row[:-1]
        if not row:
            raise UserError(f"prompt {text!r} has no tokens")
        if unknown in row:
            raise UserError(f"prompt {text!r} holds a word that the tokenizer does not know")
        rows[i] = row
    return rows


def completion_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts that go on with a prompt, without those that begin or end a text."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of every word outside the vocabulary; None where each text can be written, byte by byte.

    It is asked of the tokenizer's model: ``tokenizer.unk_token_id`` is set even where it stands for nothing (Qwen,
    SmolLM2: the end of text).
    """
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    word = getattr(model, "unk_token", None)
    return None if word is None else tokenizer.convert_tokens_to_ids(word)


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills a row before the prompt and after the end; a mask hides it, so that any token will do where the
    tokenizer has none for it (Llama)."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def end_tokens(policy: Policy) -> list[int]:
    """The ids of all tokens that end an answer; [] where there is none.

    They are the tokenizer's end of text, those of the model's generation settings, and the token that the chat template
    writes after an assistant's turn: base models of Qwen have <|endoftext|> for the first and <|im_end|> for the last.
    """
    model, tokenizer = policy
    settings = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    settings = settings if isinstance(settings, list | tuple) else [settings]
    found = [tokenizer.eos_token_id, *settings, _end_of_turn(tokenizer)]
    size = model.get_input_embeddings().weight.shape[0]
    return [i for i in dict.fromkeys(found) if i is not None and 0 <= i < size]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes behind what the assistant said; None where there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": ANSWER}]
    for system in ([], [{"role": "system", "content": "You are an assistant."}]):  # some templates demand it
        try:
            text = tokenizer.apply_chat_template([*system, *turns], tokenize=False)
        except Exception:  # a template is a program of its own and may raise anything
            continue
        _, found, after = text.rpartition(ANSWER)
        tokens = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
        fitting = [word for word in tokens if found and word and after.lstrip().startswith(word)]
        if fitting:
            return tokens[max(fitting, key=len)]
    return None
