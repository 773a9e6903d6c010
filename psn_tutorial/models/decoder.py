"""One forward pass over a transformers decoder, written out, with a preallocated key-value cache.

transformers keeps the weights and the modules; this file only walks them, in the order of the
architecture, so that sampling and training share one forward pass and pay no framework overhead.
Every linear layer, norm and embedding is called as the module it is: whatever rides on a module (LoRA,
4-bit weights, the stacked noise of :mod:`psn_tutorial.noise`) takes part.

Reference: transformers' modeling_qwen2.py, modeling_qwen3.py and modeling_llama.py, whose logits a
test demands to 1e-5.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psn_tutorial.errors import UserError

FAMILIES = ("qwen2", "qwen3", "llama")


@dataclass
class Cache:
    """Keys and values of the tokens read so far.

    Attributes:
        keys, values: one tensor [B, Hk, S, D] per layer, S the longest length it can hold.
        cos, sin: rotary tables [1 or B, 1, S, D]; B when rows are padded by different amounts.
        visible: [B, S] bool, False on left padding; None when no row is padded.
        length: tokens held so far.
    """

    keys: list[Tensor]
    values: list[Tensor]
    cos: Tensor
    sin: Tensor
    visible: Tensor | None
    length: int = field(default=0)

    def repeat(self, times: int) -> "Cache":
        """Give every row ``times`` copies, next to each other: [B, ...] -> [B * times, ...]."""
        if times == 1:
            return self
        rows = lambda x: x if x is None or x.shape[0] == 1 else x.repeat_interleave(times, 0)  # noqa: E731
        copy = [[_repeat_filled(x, times, self.length) for x in kv] for kv in (self.keys, self.values)]
        return Cache(*copy, rows(self.cos), rows(self.sin), rows(self.visible), self.length)


def _repeat_filled(x: Tensor, times: int, length: int) -> Tensor:
    """Repeat the rows of a [B, Hk, S, D] buffer, copying only its first ``length`` tokens."""
    out = x.new_empty(x.shape[0] * times, *x.shape[1:])
    out[:, :, :length] = x[:, :, :length].repeat_interleave(times, 0)
    return out


def decoder_of(model: nn.Module) -> nn.Module:
    """Return the ``...ForCausalLM`` inside ``model`` (itself, or inside a peft wrapper).

    Raises:
        UserError: the architecture is none of those this walk knows.
    """
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = getattr(getattr(core, "config", None), "model_type", type(core).__name__)
    if kind not in FAMILIES:
        raise UserError(f"model type must be one of {', '.join(FAMILIES)}, got {kind!r}")
    return core


def rotary(model: nn.Module, length: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rotary cosines and sines [1 or B, 1, length, D] for rows whose padding ``mask`` [B, <= length]
    marks with 0 on the left; a row's first real token has position 0."""
    weight = model.get_input_embeddings().weight
    positions = torch.arange(length, device=weight.device)[None]
    if mask is not None:
        padding = (~mask.bool()).sum(1, keepdim=True)
        positions = (positions - padding).clamp_min(0)
    like = torch.empty(0, dtype=torch.float32, device=weight.device)
    cos, sin = model.model.rotary_emb(like, positions)
    return cos[:, None], sin[:, None]


def empty_cache(model: nn.Module, rows: int, length: int, mask: Tensor | None = None) -> Cache:
    """Room for ``length`` tokens in each of ``rows`` rows; ``mask`` [B, Tp] marks left padding with 0."""
    core = decoder_of(model)
    config, weight = core.config, core.model.norm.weight
    shape = (rows, config.num_key_value_heads, length, core.model.layers[0].self_attn.head_dim)
    visible = None
    if mask is not None and not bool(mask.all()):
        ones = torch.ones(rows, length - mask.shape[1], dtype=torch.bool, device=mask.device)
        visible = torch.cat([mask.bool(), ones], 1)
    buffers = [[torch.empty(shape, dtype=weight.dtype, device=weight.device) for _ in core.model.layers]
               for _ in range(2)]  # fmt: skip
    cos, sin = rotary(core, length, None if visible is None else mask)
    return Cache(*buffers, cos, sin, visible)


def forward(
    model: nn.Module, ids: Tensor, mask: Tensor | None = None, cache: Cache | None = None, last: int | None = None
) -> Tensor:
    """Logits of ``ids``, read after what ``cache`` holds (and written into it).

    Args:
        model: a Qwen2, Qwen3 or Llama causal language model of transformers, peft-wrapped or not.
        ids: [B, T] token ids.
        mask: [B, T], 0 on left padding; not with a cache, which knows its own padding.
        cache: from :func:`empty_cache`; None reads ``ids`` alone, with gradients if they are on.
        last: return only the logits of the last ``last`` positions; None returns all.

    Returns:
        Logits [B, T or last, V].

    Raises:
        UserError: the architecture is not one of ``FAMILIES``.
    """
    core = decoder_of(model)
    heads, end = core.config.num_attention_heads, ids.shape[1]
    if cache is not None:
        start, end = cache.length, cache.length + end
        cos, sin, visible = cache.cos[:, :, start:end], cache.sin[:, :, start:end], cache.visible
    else:
        visible = None if mask is None or bool(mask.all()) else mask.bool()
        cos, sin = rotary(core, end, None if visible is None else mask)
    attention = _attention_mask(visible, ids.shape[1], end)

    x = core.model.embed_tokens(ids)
    for i, layer in enumerate(core.model.layers):
        q, k, v = _project(layer.self_attn, layer.input_layernorm(x), cos, sin)
        if cache is not None:
            cache.keys[i][:, :, start:end], cache.values[i][:, :, start:end] = k, v
            k, v = cache.keys[i][:, :, :end], cache.values[i][:, :, :end]
        causal = attention is None and ids.shape[1] > 1
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=attention, is_causal=causal, enable_gqa=heads != k.shape[1]
        )
        x = x + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    if cache is not None:
        cache.length = end
    if last is not None:
        x = x[:, -last:]
    return core.lm_head(core.model.norm(x))


def _project(attention: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, H, T, D], keys and values [B, Hk, T, D]; Qwen3 normalises queries and keys per head."""
    split = lambda y: y.unflatten(2, (-1, attention.head_dim))  # noqa: E731
    q, k, v = split(attention.q_proj(x)), split(attention.k_proj(x)), split(attention.v_proj(x))
    if hasattr(attention, "q_norm"):
        q, k = attention.q_norm(q), attention.k_norm(k)
    return _rotate(q.transpose(1, 2), cos, sin), _rotate(k.transpose(1, 2), cos, sin), v.transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of [B, H, T, D], halves paired as transformers pairs them."""
    a, b = x.chunk(2, -1)
    return (x * cos + torch.cat([-b, a], -1) * sin).to(x.dtype)


def _attention_mask(visible: Tensor | None, new: int, end: int) -> Tensor | None:
    """None where plain causal attention will do, else [B, 1, new, end] bool: True may be attended.

    Padded positions see themselves, so that no row of the softmax is empty; nobody reads them.
    """
    if visible is None:
        if new in (1, end):
            return None
        return torch.ones(new, end, dtype=torch.bool).tril(end - new)[None, None]
    keys = visible[:, None, None, :end]
    if new == 1:
        return keys
    order = torch.ones(new, end, dtype=torch.bool, device=visible.device).tril(end - new)
    own = torch.eye(end, dtype=torch.bool, device=visible.device)[end - new :]
    return (order & keys) | own
