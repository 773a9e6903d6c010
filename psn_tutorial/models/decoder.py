"""One forward pass over a transformers decoder, written out, with a preallocated key-value cache.

transformers keeps the weights and the modules; this file only walks them, in the order of the
architecture, so that sampling and training share one forward pass and pay no framework overhead.
Every linear layer, norm and embedding is called as the module it is: whatever is attached to a module (LoRA,
4-bit weights, the stacked noise of :mod:`psn_tutorial.noise`) takes part.

Reference: transformers' modeling_qwen2.py, modeling_qwen3.py and modeling_llama.py, whose logits a
test demands to 1e-5.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from psn_tutorial.errors import UserError

FAMILIES = ("qwen2", "qwen3", "llama")
CHANGING = ("dynamic", "longrope")  # rotary embeddings whose frequencies depend on the length of the text


@dataclass
class Cache:
    """Keys and values of the tokens read so far.

    Time comes first, so that what is filled stands in one piece of memory.

    Attributes:
        keys, values: one tensor [S, B, Hk, D] per layer, S the longest length it can hold.
        cos, sin: rotary tables [1 or B, S, 1, D]; B when rows are padded by different amounts.
        visible: [B, S] bool, False on padding, which lies before or inside the prompt; None when no row is padded.
        length: tokens held so far.
    """

    keys: list[Tensor]
    values: list[Tensor]
    cos: Tensor
    sin: Tensor
    visible: Tensor | None
    length: int = field(default=0)

    def select(self, rows: Tensor) -> "Cache":
        """A copy that holds ``rows`` [b] of this one, in that order and as often as they are named.

        So that many completions share one reading of their prompt; their gradients meet in it.
        """
        pick = lambda x: x if x is None or len(x) == 1 else x[rows]  # noqa: E731
        copy = [[_select_filled(x, rows, self.length) for x in kv] for kv in (self.keys, self.values)]
        return Cache(*copy, pick(self.cos), pick(self.sin), pick(self.visible), self.length)

    def begin(self, prefix: "Cache", rows: Tensor) -> None:
        """Let every row begin with what row ``rows`` [B] of ``prefix`` holds: this cache must still be empty."""
        self.length = prefix.length
        for own, held in ((self.keys, prefix.keys), (self.values, prefix.values)):
            for layer, tokens in enumerate(held):
                tokens = tokens[: self.length].index_select(1, rows)
                if torch.is_grad_enabled():
                    own[layer] = tokens
                else:
                    own[layer][: self.length] = tokens

    def past(self, layer: int) -> tuple[Tensor, Tensor]:
        """The buffers of ``layer``; what is filled are their first ``length`` rows."""
        return self.keys[layer], self.values[layer]

    def keep(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Take what :func:`_extended` made of ``past`` (without gradients it is the same memory)."""
        if torch.is_grad_enabled():
            self.keys[layer], self.values[layer] = keys, values


def _extended(held: Tensor, length: int, new: Tensor) -> Tensor:
    """[S, B, Hk, D] of which ``length`` rows are filled, and [B, T, Hk, D] behind them: [length + T, B, Hk, D].

    In place without gradients; with them autograd needs the old tensor as it was.
    """
    new, end = new.transpose(0, 1), length + new.shape[1]
    if torch.is_grad_enabled():
        return torch.cat([held[:length], new]) if length else new
    held[length:end] = new
    return held[:end]


def _select_filled(x: Tensor, rows: Tensor, length: int) -> Tensor:
    """Pick rows of a [S, B, Hk, D] buffer, copying only its first ``length`` tokens."""
    if torch.is_grad_enabled():
        return x[:length].index_select(1, rows)
    out = x.new_empty(len(x), len(rows), *x.shape[2:])
    torch.index_select(x[:length], 1, rows, out=out[:length])
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


def has_windows(model: nn.Module) -> bool:
    """Does a layer see only so many positions back? They are counted with the padding between them."""
    return any(getattr(layer.self_attn, "sliding_window", None) for layer in decoder_of(model).model.layers)


def rotary(model: nn.Module, length: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rotary cosines and sines [1 or B, length, 1, D] for rows whose padding ``mask`` [B, <= length] marks with 0; a
    row's first real token has position 0, and padding takes no position. See :func:`_rotate`.

    Raises UserError for more tokens than a rotary embedding of CHANGING has fixed frequencies for.
    """
    rope = model.config.rope_parameters or {}
    most = rope.get("original_max_position_embeddings") or model.config.max_position_embeddings
    if rope.get("rope_type") in CHANGING and length > most:
        raise UserError(
            f"prompt and answer must have <= {most} tokens together for this model, whose rotary embedding "
            f"{rope['rope_type']!r} changes with the length beyond, got {length}"
        )
    weight = model.get_input_embeddings().weight
    positions = torch.arange(length, device=weight.device)[None]
    if mask is not None:
        padding = (~mask.bool()).cumsum(1)  # up to each position; behind the mask, that of the whole row
        padding = torch.cat([padding, padding[:, -1:].expand(-1, length - mask.shape[1])], 1)
        positions = (positions - padding).clamp_min(0)
    like = torch.empty(0, dtype=torch.float32, device=weight.device)
    cos, sin = model.model.rotary_emb(like, positions)
    a, b = sin.chunk(2, -1)
    return cos[:, :, None], torch.cat([-a, b], -1)[:, :, None]


def empty_cache(model: nn.Module, rows: int, length: int, mask: Tensor | None = None) -> Cache:
    """Room for ``length`` tokens in each of ``rows`` rows; ``mask`` [B, Tp] marks padding with 0."""
    core = decoder_of(model)
    config, weight = core.config, core.model.norm.weight
    shape = (length, rows, config.num_key_value_heads, core.model.layers[0].self_attn.head_dim)
    visible = None
    if mask is not None and not bool(mask.all()):
        ones = torch.ones(rows, length - mask.shape[1], dtype=torch.bool, device=mask.device)
        visible = torch.cat([mask.bool(), ones], 1)
    dtype = _attention_type(weight)
    buffers = [[torch.empty(shape, dtype=dtype, device=weight.device) for _ in core.model.layers] for _ in range(2)]
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
        cache: from :func:`empty_cache`; None reads ``ids`` alone. Gradients, if they are on, flow through it.
        last: return only the logits of the last ``last`` positions; None returns all.

    Returns:
        Logits [B, T or last, V].

    Raises:
        UserError: the architecture is not one of ``FAMILIES``, or see :func:`rotary`.
    """
    return decoder_of(model).lm_head(hidden_states(model, ids, mask, cache, last))


def hidden_states(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor | None = None,
    cache: Cache | None = None,
    last: int | None = None,
    recompute: bool = False,
) -> Tensor:
    """What the head turns into logits, [B, T or last, H]; arguments as in :func:`forward`.

    recompute: keep only the input of every layer for the backward pass and compute its inside again (gradient
        checkpointing): a third more arithmetic, the same gradients.
    """
    core, new = decoder_of(model), ids.shape[1]
    if cache is None:
        cache = empty_cache(model, *ids.shape, mask)
    start, end = cache.length, cache.length + new
    cos, sin = cache.cos[:, start:end], cache.sin[:, start:end]
    count = len(core.model.layers)

    x = core.model.embed_tokens(ids)
    for i, layer in enumerate(core.model.layers):
        width = last if i + 1 == count else None  # the other positions of the last layer are not used
        inputs = (layer, x, *cache.past(i), start, cos, sin, cache.visible, width)
        if recompute and torch.is_grad_enabled():
            x, keys, values = checkpoint(_layer, *inputs, use_reentrant=False)
        else:
            x, keys, values = _layer(*inputs)
        cache.keep(i, keys, values)
    cache.length = end
    return core.model.norm(x)


def _layer(
    layer: nn.Module,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    length: int,
    cos: Tensor,
    sin: Tensor,
    visible: Tensor | None,
    last: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One decoder layer after ``length`` tokens: its output [B, T or last, H], and all keys and values."""
    h = layer.input_layernorm(x)
    new = _keys_and_values(layer.self_attn, h, cos, sin)
    keys, values = (_extended(held, length, kv) for held, kv in zip((keys, values), new, strict=True))
    if last is not None:
        x, h, cos, sin = x[:, -last:], h[:, -last:], cos[:, -last:], sin[:, -last:]
    window = getattr(layer.self_attn, "sliding_window", None)
    mixed = _attend(_queries(layer.self_attn, h, cos, sin), keys, values, visible, window)
    x = x + layer.self_attn.o_proj(mixed.to(x.dtype))
    return x + layer.mlp(layer.post_attention_layernorm(x)), keys, values


def _queries(attention: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, T, H, D]; Qwen3 normalises queries and keys per head."""
    q = attention.q_proj(x).unflatten(2, (-1, attention.head_dim))
    return _rotate(attention.q_norm(q) if hasattr(attention, "q_norm") else q, cos, sin).to(_attention_type(x))


def _keys_and_values(attention: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Both [B, T, Hk, D]."""
    k, v = (project(x).unflatten(2, (-1, attention.head_dim)) for project in (attention.k_proj, attention.v_proj))
    k = _rotate(attention.k_norm(k) if hasattr(attention, "k_norm") else k, cos, sin)
    return k.to(_attention_type(x)), v.to(_attention_type(x))


def _attention_type(x: Tensor) -> torch.dtype:
    """What attention to states like ``x`` is computed in: a CPU's kernels for half types are many times slower."""
    return torch.float32 if x.device.type == "cpu" else x.dtype


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of [B, T, H, D]: component j turns with j + D/2, as transformers pairs them.

    ``sin`` carries the minus of the first half, so that the pair needs no splitting.
    """
    return (x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, window: int | None) -> Tensor:
    """Causal attention of the last T positions, q [B, T, H, D], to all, k and v [S, B, Hk, D]: [B, T, H * D].

    ``window``: a position attends to that many, itself included; None to all before it.
    """
    new, heads = q.shape[1], q.shape[2]
    start = max(0, len(k) - new - window + 1) if window else 0  # what no query of these looks at is left out
    k, v = k[start:], v[start:]
    end = len(k)
    if visible is not None:
        visible = visible[:, start : start + end]
    window = window if window and window < end else None
    if new == 1 and q.device.type == "cpu":
        return _attend_once(q, k, v, visible)
    mixed = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.permute(1, 2, 0, 3),
        v.permute(1, 2, 0, 3),
        _attention_mask(visible, new, end, window, q.device),
        is_causal=visible is None and window is None and new == end > 1,
        enable_gqa=heads != k.shape[2],
    )
    return mixed.transpose(1, 2).flatten(2)


def _attend_once(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """:func:`_attend` for one position, as two batched products: on a CPU the fused kernel starts anew for every row
    and head, and takes a key several times where queries share it."""
    rows, _, heads, size = q.shape
    length, _, shared, _ = k.shape
    q = (q * size**-0.5).view(rows * shared, heads // shared, size)  # the queries that share a key stand together
    k, v = (x.reshape(length, rows * shared, size).transpose(0, 1) for x in (k, v))
    scores = (q @ k.mT).view(rows, heads, length)
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None], -torch.inf)
    return (scores.softmax(-1).view(rows * shared, heads // shared, length) @ v).view(rows, 1, heads * size)


def _attention_mask(
    visible: Tensor | None, new: int, end: int, window: int | None, device: torch.device
) -> Tensor | None:
    """None where plain causal attention will do, else [1 or B, 1, new, end] bool: True may be attended.

    Padded positions see themselves, so that no row of the softmax is empty; their outputs are not used.
    """
    if visible is None and window is None and new in (1, end):
        return None
    order = torch.ones(new, end, dtype=torch.bool, device=device).tril(end - new)
    if window is not None:
        order = order.triu(end - new - window + 1)
    if visible is None:
        return order[None, None]
    own = torch.eye(end, dtype=torch.bool, device=device)[end - new :]
    return (order & visible[:, None, None]) | own
