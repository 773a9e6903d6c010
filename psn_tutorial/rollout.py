"""Sampling: prompts in, completions and the sampler's own log-probabilities out.

The sampler is the noisy policy mu = pi_{theta + eps}. What is kept of it are the log-probs of the tokens it chose, at
the temperature it used and over the full vocabulary, because the importance ratio needs exactly those. Training uses
no top-p and no top-k: where they sample nothing, no ratio can make up for it.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from psn_tutorial.carriers import carried
from psn_tutorial.errors import UserError, check_positive, check_range
from psn_tutorial.models.decoder import Cache, decoder_of, empty_cache, forward, has_windows, hidden_states
from psn_tutorial.models.policy import Policy, Prompts, end_tokens, padding_token
from psn_tutorial.noise import NoiseConfig, NoiseReceipt
from psn_tutorial.signals import token_certainty

WORTH_SHARING = 16  # tokens: of a shorter beginning each prompt is read whole
LOGITS = 2**26  # numbers; 256 MB of float32, and some four times that while they are worked with


@dataclass(frozen=True)
class Rollouts:
    """One batch of B = P * G rollouts, prompt-major: row b answers prompt b // G.

    Attributes:
        prompts: [B, Tp] token ids, padded on the left.
        prompt_mask: [B, Tp] bool, False on padding.
        tokens: [B, T] completion ids; the padding id after the end token.
        mask: [B, T] bool, True up to and including the end token.
        logps: [B, T] the sampler's log-probs of ``tokens``, 0 where the mask is False.
        draws: [B] the number of the noise draw each row was sampled with; -1 for the clean policy.
        receipt: what the noise did; None for the clean policy.
        temperature: that the sampler used.
        ended: [B] bool, True where the last token under the mask is an end token; None: no row has one.
    """

    prompts: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    mask: Tensor
    logps: Tensor
    draws: Tensor
    receipt: NoiseReceipt | None
    temperature: float = 1.0
    ended: Tensor | None = None


def spread_draws(prompts: int, group: int, draws: int, spread: str) -> Tensor:
    """Which draw (0 .. draws - 1) each rollout uses, [P, G].

    "pooled": the draws alternate inside every group, so that a group sees several perturbations.
    "per_group": one draw serves whole groups, the next group gets the next draw.
    One draw is the released code: all rollouts of a step share one eps.

    Raises:
        UserError: the rollouts (or the groups) cannot be shared evenly among the draws.
    """
    if spread == "pooled":
        if (prompts * group) % draws:
            raise UserError(f"draws must divide the {prompts * group} rollouts of a step, got {draws}")
        return (torch.arange(prompts * group) % draws).view(prompts, group)
    if spread == "per_group":
        if prompts % draws:
            raise UserError(
                f"draws must divide the {prompts} prompts of a step when spread is 'per_group', got {draws}"
            )
        return (torch.arange(prompts) % draws)[:, None].expand(prompts, group)
    raise UserError(f"spread must be one of pooled, per_group, got {spread!r}")


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Prompts,
    group: int,
    max_tokens: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    noise: NoiseConfig | None = None,
    draws: Tensor | None = None,
    ends: bool = True,
    top_p: float = 1.0,
) -> Rollouts:
    """Sample ``group`` completions of every prompt.

    This function decides whether there is noise: sigma = 0 is the clean policy, and the receipt is then None.

    Args:
        prompts: P of them. Everything that comes back lies on the model's device.
        group: G, completions per prompt.
        max_tokens: completions end here when none of the policy's end tokens came before
            (:func:`psn_tutorial.models.policy.end_tokens`).
        generator: the only source of randomness here; the noise has its own seeds.
        noise, draws: None for the clean policy; ``draws`` [P, G] names the draw of each rollout, each equally often.
        ends: False: an end token is a token like others, and every completion has ``max_tokens``.
        top_p: see :func:`choose`.

    Raises:
        UserError: the temperature is not above 0, top_p is not in (0, 1], or the draws do not share the rows evenly.
    """
    check_positive("temperature", temperature)
    check_range("top_p", top_p, above=0, high=1)
    model, tokenizer = policy
    count = len(prompts.ids)
    if noise is None or noise.sigma == 0:
        noise, draws = None, torch.full((count, group), -1)
    elif draws is None:
        draws = torch.zeros(count, group, dtype=torch.long)
    device = model.get_input_embeddings().weight.device
    end_ids = torch.tensor(end_tokens(policy) if ends else [], dtype=torch.long, device=device)
    ids, prompt_mask = prompts.ids.to(device), prompts.mask.to(device)
    order, starts, repeats, numbers = (x.to(device) if isinstance(x, Tensor) else x for x in _blocks(draws))
    with carried(model, noise, numbers) if noise else nullcontext() as receipt:
        blocks = len(numbers)
        last, cache = _read_prompts(model, ids[starts], prompt_mask[starts], max_tokens, blocks)
        rows = torch.arange(len(starts), device=device).repeat_interleave(repeats)
        logits, cache = decoder_of(model).lm_head(last)[rows, 0], cache.select(rows)
        tokens, logps = _decode(model, logits, cache, blocks, max_tokens, end_ids, generator, temperature, top_p)
    back = order.argsort()
    tokens, logps = tokens[back], logps[back]
    end = torch.isin(tokens, end_ids)
    mask = end.cumsum(1) - end.long() == 0
    rows = torch.arange(count, device=device).repeat_interleave(group)
    return Rollouts(
        ids[rows],
        prompt_mask[rows],
        tokens.masked_fill(~mask, padding_token(tokenizer)),
        mask,
        logps.masked_fill(~mask, 0.0),
        draws.flatten().to(device),
        receipt,
        temperature,
        (end & mask).any(1),
    )


def _blocks(draws: Tensor) -> tuple[Tensor, Tensor, int, list[int]]:
    """Plan one batched pass over rollouts whose draws are given, [P, G].

    Rows are sorted by draw, so that each draw owns one block of rows; inside a block the rollouts of a prompt stand
    together and share one reading of the prompt.

    Returns:
        order [B] of the rollouts in the batch; starts [B / repeats], the prompt each reading reads; repeats, rollouts
        per reading; the numbers of the draws in the order of their blocks.
    """
    count, group = draws.shape
    flat = draws.flatten()
    order = flat.argsort(stable=True)
    numbers, sizes = flat.unique(return_counts=True)
    if sizes.min() != sizes.max():
        raise UserError(f"every draw must serve equally many rollouts, got {sizes.tolist()}")
    pairs = torch.stack([flat[order], order // group], 1)
    _, shared = pairs.unique_consecutive(dim=0, return_counts=True)
    repeats = int(shared[0]) if shared.min() == shared.max() else 1
    return order, order[::repeats] // group, repeats, numbers.tolist()


def _read_prompts(
    model: nn.Module, ids: Tensor, mask: Tensor, room: int, draws: int, recompute: bool = False
) -> tuple[Tensor, Cache]:
    """Read prompts [R, Tp]: the last hidden states [R, 1, H], and a cache with room for ``room`` tokens more.

    A beginning that all of them share (what the system says, worked examples) is read once, under each of the
    ``draws`` N of a carrier of noise, whose rows stand in N blocks.
    """
    length, shared = ids.shape[1], _shared_beginning(ids, mask) if len(ids) > draws else 0
    if shared < WORTH_SHARING or has_windows(model):
        cache = empty_cache(model, len(ids), length + room, mask)
        return hidden_states(model, ids, cache=cache, last=1, recompute=recompute), cache
    first = ids[0, length - int(mask[0].sum()) :][:shared].expand(draws, -1)
    prefix = empty_cache(model, draws, shared)
    hidden_states(model, first, cache=prefix, last=1, recompute=recompute)
    lengths = mask.sum(1, keepdim=True) - shared  # of the rest; its padding stands between it and the beginning
    width = int(lengths.max())
    rest = torch.arange(width, device=ids.device) >= width - lengths
    cache = empty_cache(
        model, len(ids), shared + width + room, torch.cat([torch.ones_like(rest[:, :1]).expand(-1, shared), rest], 1)
    )
    cache.begin(prefix, torch.arange(draws, device=ids.device).repeat_interleave(len(ids) // draws))
    return hidden_states(model, ids[:, length - width :], cache=cache, last=1, recompute=recompute), cache


def _shared_beginning(ids: Tensor, mask: Tensor) -> int:
    """How many tokens all prompts [R, Tp], padded on the left, begin with alike; each has at least one more."""
    lengths, shortest = mask.sum(1, keepdim=True), int(mask.sum(1).min())
    places = ids.shape[1] - lengths + torch.arange(shortest, device=ids.device)
    begins = ids.gather(1, places)
    alike = (begins == begins[:1]).all(0)[: shortest - 1]
    return int(alike.long().cumprod(0).sum())


def _decode(
    model: nn.Module,
    logits: Tensor,
    cache: Cache,
    blocks: int,
    max_tokens: int,
    end_ids: Tensor,
    generator: torch.Generator,
    temperature: float,
    top_p: float,
) -> tuple[Tensor, Tensor]:
    """Draw tokens one by one until every row has ended: tokens and log-probs, both [B, T]. Rows that have ended leave
    the batch; a row's random numbers do not depend on which others are still in it."""
    rows, device = logits.shape[0], logits.device
    place = torch.arange(rows, device=device)  # [b] of the rows that are in the batch
    tokens = torch.zeros(rows, max_tokens, dtype=torch.long, device=device)
    logps = torch.zeros(rows, max_tokens, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    for t in range(max_tokens):
        uniform = torch.rand(rows, 1, generator=generator, dtype=torch.float64).to(device)
        tokens[place, t], logps[place, t] = choose(logits, temperature, uniform[place], top_p)
        ended |= torch.isin(tokens[:, t], end_ids)
        if t + 1 == max_tokens or bool(ended.all()):
            break
        going = _going_on(ended[place], blocks)
        if going is not None:
            place, cache = place[going], cache.select(going)
        logits = forward(model, tokens[place, t : t + 1], cache=cache)[:, 0]
    return tokens, logps


def _going_on(ended: Tensor, blocks: int) -> Tensor | None:
    """Which rows to go on with, once a quarter of ``ended`` [b] has: equally many of each block, as the draws of the
    noise need it, so that some that have ended stay. None: with all."""
    ended = ended.view(blocks, -1)
    size = ended.shape[1]
    most = int((~ended).sum(1).max())
    if 4 * most > 3 * size:
        return None
    kept = ended.int().argsort(dim=1, stable=True)[:, :most].sort(1).values
    return (kept + torch.arange(blocks, device=ended.device)[:, None] * size).flatten()


def choose(logits: Tensor, temperature: float, uniform: Tensor, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """Sample one token per row of [B, V] logits: ids [B] and their log-probs [B] at that temperature.

    uniform: [B, 1] random numbers in [0, 1), double precision.
    top_p: below 1, only the likeliest tokens are sampled, the fewest that have this probability together (nucleus
        sampling, Holtzman et al. 2020, arXiv 1904.09751); the log-probs are those among them.

    By inverting the cumulative distribution, with one uniform number a row: several times cheaper on a CPU than
    torch.multinomial, which draws one number per vocabulary entry. In double precision, so that rounding can never
    choose a token of probability zero.

    Raises:
        UserError: logits are not finite.
    """
    logps = (logits.float() / temperature).log_softmax(-1)
    if top_p < 1:
        ordered, places = logps.sort(descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()  # the probability of the likelier tokens
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        logps = torch.empty_like(logps).scatter_(1, places, ordered).log_softmax(-1)
    cumulative = logps.exp().cumsum(-1, dtype=torch.float64)
    ids = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    if bool((ids == logits.shape[1]).any()):  # where NaN is, no token is found
        raise UserError(
            "the policy's logits are not finite: its weights, or the noise on them, are too large (lr, sigma)"
        )
    return ids[:, 0], logps.gather(1, ids)[:, 0]


@dataclass(frozen=True)
class Reading:
    """What a policy says of tokens it is shown, all [B, T] and 0 outside the mask.

    Attributes:
        logps: log-probs of the tokens, with gradient if gradients are on.
        entropy: of each next-token distribution, in nats; None when not asked for.
        certainty: of each, :func:`psn_tutorial.signals.token_certainty`; None when not asked for.
    """

    logps: Tensor
    entropy: Tensor | None = None
    certainty: Tensor | None = None


def read_completions(
    model: nn.Module,
    rollouts: Rollouts,
    rows: Tensor,
    temperature: float,
    entropy: str = "none",
    certainty: str | None = None,
    draws: int = 1,
    same_states: bool = False,
    recompute: bool = False,
) -> Reading:
    """Show ``model``, as it is now, the completions of some rows of a batch.

    Neighbouring rows with the same prompt share one reading of it, as they did when they were sampled. The head reads
    what is under the mask, and no more. Of a large vocabulary its logits never exist at once: they are made, used and,
    for the backward pass, made again in pieces of at most LOGITS numbers.

    Args:
        rows: [b] which rollouts.
        temperature: of the policy; the same on both sides of a ratio.
        entropy: "none", "value" (no gradient) or "gradient".
        certainty: the direction of its KL; None leaves it out.
        draws: inside a carrier of noise the number N of its draws: all rows are read under each; then B = N * b.
        same_states: the noise is on the head alone (:func:`psn_tutorial.noise.on_head_alone`), so that the layers read
            the rows once: their states are the same under every draw.
        recompute: see :func:`psn_tutorial.models.decoder.hidden_states`.
    """
    tokens, mask = (x[rows].repeat(draws, 1) for x in (rollouts.tokens, rollouts.mask))
    head, length = decoder_of(model).lm_head, max(1, int(mask.any(0).sum()))  # of the longest of these
    states = _completion_states(model, rollouts, rows, length, 1 if same_states else draws, recompute)
    states = (states.repeat(draws, 1, 1) if same_states else states)[mask[:, :length]]

    def read(states: Tensor, ids: Tensor) -> tuple[Tensor | None, ...]:
        logits = head(states).float() / temperature
        logps, entropies = token_logps(logits, ids, entropy)
        return logps, entropies, token_certainty(logits, certainty) if certainty else None

    size = max(1, LOGITS // head.out_features)
    pieces = list(zip(states.split(size), tokens[mask].split(size), strict=True))
    read_again = partial(checkpoint, read, use_reentrant=False) if len(pieces) > 1 else read
    parts = zip(*(read_again(*piece) for piece in pieces), strict=True)
    zeros = torch.zeros(mask.shape, device=mask.device)
    return Reading(*(None if part[0] is None else zeros.masked_scatter(mask, torch.cat(part)) for part in parts))


def completion_logps(
    model: nn.Module,
    rollouts: Rollouts,
    rows: Tensor,
    temperature: float,
    entropy: str = "none",
    draws: int = 1,
    same_states: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [N * b, T] of the completions of some rows, in nats, with gradient, and their entropies or None.

    0 where the mask is 0. Arguments and what is raised: as in :func:`read_completions`.
    """
    reading = read_completions(model, rollouts, rows, temperature, entropy, draws=draws, same_states=same_states)
    return reading.logps, reading.entropy


def completion_logits(model: nn.Module, rollouts: Rollouts, rows: Tensor, temperature: float, draws: int = 1) -> Tensor:
    """Logits / temperature [N * b, T, V] of the distributions that the tokens of some rows come from, all at once."""
    states = _completion_states(model, rollouts, rows, rollouts.tokens.shape[1], draws)
    return decoder_of(model).lm_head(states).float() / temperature


def _completion_states(
    model: nn.Module, rollouts: Rollouts, rows: Tensor, length: int, draws: int, recompute: bool = False
) -> Tensor:
    """The hidden states [N * b, length, H] from which the logits of the first ``length`` tokens follow."""
    rows = rows.to(rollouts.tokens.device)
    tokens = rollouts.tokens[rows, :length].repeat(draws, 1)
    _, prompt, counts = rollouts.prompts[rows].unique_consecutive(dim=0, return_inverse=True, return_counts=True)
    reading = rows[counts.cumsum(0) - counts].repeat(draws)  # one row of each run of equal prompts
    prompt = torch.cat([prompt + draw * len(counts) for draw in range(draws)])  # [N * b] its place among the readings

    ids, mask = rollouts.prompts[reading], rollouts.prompt_mask[reading]
    last, cache = _read_prompts(model, ids, mask, length, draws, recompute)
    first = last.index_select(0, prompt)
    if length == 1:
        return first
    return torch.cat([first, hidden_states(model, tokens[:, :-1], cache=cache.select(prompt), recompute=recompute)], 1)


def token_logps(logits: Tensor, tokens: Tensor, entropy: str = "none") -> tuple[Tensor, Tensor | None]:
    """Log-probs [...] of ``tokens`` [...] in ``logits`` [..., V], and the entropy of each distribution, in nats.

    Args:
        entropy: "none" (None comes back), "value" (no gradient) or "gradient".
    """
    size = logits.shape[-1]
    logps = -F.cross_entropy(logits.view(-1, size), tokens.flatten(), reduction="none").view(tokens.shape)
    if entropy == "none":
        return logps, None
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy == "gradient"):
        full = logits.log_softmax(-1)
        return logps, -(full.exp() * full).sum(-1)


def responses(tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts) -> list[str]:
    """The B completions as text: what stands before the end token, without special tokens."""
    lengths = rollouts.mask.sum(1) - (0 if rollouts.ended is None else rollouts.ended.long())
    rows = zip(rollouts.tokens.tolist(), lengths.tolist(), strict=True)
    return tokenizer.batch_decode([row[:length] for row, length in rows], skip_special_tokens=True)
