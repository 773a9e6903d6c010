"""Importance weights: rollouts of the noisy policy mu, used to train the clean policy pi.

The rollouts come from perturbed weights, the update goes to the clean ones. The ratio

    w_t = pi(o_t | o_<t) / mu(o_t | o_<t)          (token level; the paper's choice)
    w   = pi(o) / mu(o) = product over t of w_t    (sequence level; exact, and far more variable)

re-weights the samples of mu as if pi had drawn them: E_mu[w f] = E_pi[f]. Truncating at a cap C,
min(w, C), trades variance for the bias -E_mu[(w - C)_+ f]; the paper takes C = 10 per token.
Source: arXiv 2602.02555, truncated importance sampling; verl's ``rollout_is=token`` in its code.

Both log-probabilities must belong to the distribution that really generated the tokens: the same
temperature on both sides, the whole vocabulary, no top-p or top-k.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from psn_tutorial.choices import LEVELS, MODES
from psn_tutorial.errors import UserError, check_choice, shown
from psn_tutorial.masks import first_unusable, token_mask

# exp(80) still fits into a float32, with room for sums. A ratio beyond it is reported as exp(80).
LOG_RATIO_LIMIT = 80.0


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """The weights, and what they looked like BEFORE the cap (a capped ESS cannot show a collapse).

    n counts tokens at the token level and sequences at the sequence level.

    Attributes:
        weights: [B, T], no gradient, capped; a sequence's weight stands on each of its tokens; 0
            where mask is 0.
        ess: effective sample size / n, (sum w)^2 / (n sum w^2), in (0, 1]; estimates
            1 / (1 + chi^2(pi, mu)).
        clipped_fraction: share of the n ratios above the cap.
        kl_k1: mean over tokens of log mu - log pi, in nats per token: unbiased for KL(mu || pi) and
            signed, so that a batch's value can be negative. What the released scheduler reads.
        kl_k3: mean over tokens of w - 1 - log w, in nats per token: unbiased too, never negative.
        mean_ratio: mean of the n ratios; its expectation is 1.
        max_ratio: the largest of the n ratios.
    """

    weights: Tensor
    ess: float
    clipped_fraction: float
    kl_k1: float
    kl_k3: float
    mean_ratio: float
    max_ratio: float


@torch.no_grad()
def importance_weights(
    target_logps: Tensor,
    sampler_logps: Tensor,
    mask: Tensor,
    cap: float | None = 10.0,
    level: str = "token",
    mode: str = "truncate",
) -> ImportanceWeights:
    """Weights that make samples of mu stand for samples of pi.

    Args:
        target_logps: [B, T] log pi(o_t | o_<t) of the clean policy, in nats.
        sampler_logps: [B, T] log mu(o_t | o_<t) of the policy that generated the tokens; with
            several draws per group possibly :func:`mixture_logps`.
        mask: [B, T] 1 on completion tokens, the end-of-text token included.
        cap: C, the largest weight; None for no cap.
        level: "token" (w_t on token t) or "sequence" (w on every token of the row).
        mode: what becomes of a ratio above the cap: "truncate" gives it the weight C, so that a
            sequence-level estimate is exact for min(pi, C mu); "mask" gives it 0: pi * 1[w <= C].

    Returns:
        :class:`ImportanceWeights`.

    Raises:
        UserError: shapes that differ, an unknown level or mode, a cap that is not > 0, a mask
            without a token, a log-probability that is NaN or infinite at a completion token.
    """
    check_choice("level", level, LEVELS)
    check_choice("mode", mode, MODES)
    if cap is not None and not (isinstance(cap, int | float) and cap > 0):
        raise UserError(f"cap must be > 0 or None (no cap), got {shown(cap)}")
    tokens = token_mask(mask, target_logps=target_logps, sampler_logps=sampler_logps)

    wide = _wide(target_logps)
    log_ratio = torch.where(tokens, target_logps.to(wide) - sampler_logps.to(wide), 0.0)  # [B, T]
    k1 = -log_ratio
    k3 = log_ratio.clamp(max=LOG_RATIO_LIMIT).expm1() - log_ratio

    if level == "token":
        drawn, log_w = tokens, log_ratio  # [B, T]
    else:
        drawn, log_w = tokens.any(1, keepdim=True), log_ratio.sum(1, keepdim=True)  # [B, 1]
    log_w = log_w.masked_fill(~drawn, -torch.inf)  # padding and empty rows: ratio 0
    ratio = log_w.clamp(max=LOG_RATIO_LIMIT).exp()
    relative = (log_w - log_w.max()).exp()  # a common factor does not change the ESS; cannot overflow

    limit = math.inf if cap is None else cap
    above = ratio > limit
    capped = ratio.masked_fill(above, limit if mode == "truncate" else 0.0)
    weights = torch.where(tokens, capped, 0.0)  # [B, T]
    weights = weights.to(torch.promote_types(target_logps.dtype, torch.float32))

    n, n_tokens = drawn.sum().to(wide), tokens.sum().to(wide)
    statistics = [
        relative.sum().square() / (n * relative.square().sum()),
        above.sum() / n,
        k1.sum() / n_tokens,
        k3.sum() / n_tokens,
        ratio.sum() / n,
        ratio.max(),
    ]
    ess, clipped_fraction, kl_k1, kl_k3, mean_ratio, max_ratio = torch.stack(statistics).tolist()
    if not math.isfinite(kl_k1):  # one number tells; the tensors are searched only on failure
        where = first_unusable(tokens, target_logps=target_logps, sampler_logps=sampler_logps)
        raise UserError(where or "mask selects no token; it must be 1 on the completion tokens")
    return ImportanceWeights(weights, ess, clipped_fraction, kl_k1, kl_k3, mean_ratio, max_ratio)


@torch.no_grad()
def mixture_logps(logps: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities of the mixture of N draws, as if each row had picked its draw at random.

    With N draws of noise in one group, weighing each row by the mixture (the balance heuristic of
    multiple importance sampling) has far less variance than weighing it by its own draw alone:

        mu_mix(o_t | o_<t) = sum_j mu_j(o_<=t) / sum_j mu_j(o_<t)

    so that the product over t is mean_j mu_j(o).

    Args:
        logps: [N, B, T] log mu_j(o_t | o_<t) of every row under every draw, in nats.
        mask: [B, T] 1 on completion tokens.

    Returns:
        [B, T] log mu_mix(o_t | o_<t), 0 where mask is 0: the ``sampler_logps`` of
        :func:`importance_weights`.

    Raises:
        UserError: ``logps`` is not [N, B, T] or does not match ``mask``.
    """
    if logps.dim() != 3 or len(logps) == 0:
        raise UserError(f"logps must have the shape [N, B, T] with N >= 1, got {list(logps.shape)}")
    tokens = token_mask(mask, **{"logps[0]": logps[0]})
    step = torch.where(tokens, logps.to(_wide(logps)), 0.0)  # [N, B, T], padding changes no product
    until = step.cumsum(-1).logsumexp(0) - math.log(len(logps))  # [B, T] log mean_j mu_j(o_<=t)
    before = F.pad(until[:, :-1], (1, 0))  # log mean_j mu_j(o_<t), 0 before the first token
    return (until - before).to(torch.promote_types(logps.dtype, torch.float32))


def _wide(like: Tensor) -> torch.dtype:
    """The widest float of the device: long sums of log-probs want float64, which MPS lacks."""
    return torch.float32 if like.device.type == "mps" else torch.float64
