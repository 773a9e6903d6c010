"""The clipped policy-gradient loss of GRPO, with the importance weights of noisy rollouts.

Per token, with r_t = pi_theta(o_t | o_<t) / pi_old(o_t | o_<t), the rollout's advantage A and the
importance weight w_t = min(pi_old / mu, C) of :mod:`psn_tutorial.importance`:

    loss_t = - w_t min(r_t A, clip(r_t, 1 - clip_low, 1 + clip_high) A)
             + kl_coef k3(pi_theta, pi_ref) - entropy_coef H_t

and the loss is the sum over tokens of share_t loss_t. The share is all that tells the aggregations
apart: "grpo" gives every rollout the same say, "dapo" every token of the batch, "dr_grpo" every
token that the rollouts could have had.
Source: DeepSeekMath (arXiv 2402.03300), equation 3; DAPO (2503.14476); Dr. GRPO (2503.20783); the
weight as in arXiv 2602.02555. Simplified: no dual clip (verl floors r_t A at 3 A for A < 0).
"""

import torch
from torch import Tensor

from psn_tutorial.choices import AGGREGATIONS
from psn_tutorial.errors import UserError, check_choice, check_count, check_range
from psn_tutorial.masks import token_mask

# Above exp(20) a ratio is held constant: such a token gives no gradient instead of an overflow.
# verl clamps its log-ratios at 20 too.
LOG_RATIO_LIMIT = 20.0


def policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: str = "grpo",
    max_tokens: int | None = None,
    ref_logps: Tensor | None = None,
    kl_coef: float = 0.0,
    entropy: Tensor | None = None,
    entropy_coef: float = 0.0,
    normaliser: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch, or of a micro-batch of it.

    A batch cut into micro-batches gives the same loss, as the sum of its parts, when each part is
    called with ``normaliser=loss_normaliser(mask of the whole batch, aggregation, max_tokens)``.

    Args:
        logps: [B, T] log pi_theta(o_t | o_<t) of the clean policy now, in nats, with its gradient.
        old_logps: [B, T] the same at rollout time; no gradient flows into it.
        advantages: [B] one per rollout.
        mask: [B, T] 1 on completion tokens, the end-of-text token included.
        weights: [B, T] importance weights; None for 1. No gradient flows into them.
        clip_low, clip_high: the trust region of r_t is [1 - clip_low, 1 + clip_high].
        aggregation: "grpo", "dapo" or "dr_grpo".
        max_tokens: the longest completion allowed; needed by "dr_grpo" alone.
        ref_logps: [B, T] log-probabilities of a reference policy.
        kl_coef: weight of the KL to the reference, >= 0.
        entropy: [B, T] entropy H_t of pi_theta(. | o_<t) in nats, with its gradient.
        entropy_coef: weight of the entropy bonus, >= 0: the loss falls as the entropy rises.
        normaliser: what the sum over rollouts ("grpo") or tokens is divided by; None for this
            batch's own.

    Returns:
        The loss, a scalar with gradient, and statistics over this call's tokens:
        ``tokens`` (their number), ``ratio_mean`` (of r_t), ``clip_fraction`` (share of tokens whose
        gradient the clip removes) and, where given, ``kl_ref`` (k3, nats per token), ``entropy``.

    Raises:
        UserError: shapes that differ, an unknown aggregation, a number out of range, a coefficient
            without its tensor, "dr_grpo" without max_tokens, a mask without a token.
    """
    optional = {"weights": weights, "ref_logps": ref_logps, "entropy": entropy}
    tokens = token_mask(mask, logps=logps, old_logps=old_logps, **optional)
    if list(advantages.shape) != [len(logps)]:
        raise UserError(f"advantages must have the shape [B] = [{len(logps)}], got {list(advantages.shape)}")
    check_choice("aggregation", aggregation, AGGREGATIONS)
    check_range("clip_low", clip_low, low=0, high=1)
    check_range("clip_high", clip_high, low=0)
    _check_term("kl_coef", kl_coef, "ref_logps", ref_logps)
    _check_term("entropy_coef", entropy_coef, "entropy", entropy)

    def clean(values: Tensor) -> Tensor:
        """Padding replaced by 0, half precision widened."""
        return torch.where(tokens, values, 0.0).to(torch.promote_types(values.dtype, torch.float32))

    logps = clean(logps)
    ratio = (logps - clean(old_logps.detach())).clamp(max=LOG_RATIO_LIMIT).exp()  # [B, T]
    advantages = advantages.detach().to(ratio)[:, None]  # [B, 1]
    plain = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    surrogate = torch.minimum(plain, clipped)
    if weights is not None:
        surrogate = surrogate * clean(weights.detach())
    per_token = -surrogate

    statistics = {"ratio_mean": ratio, "clip_fraction": (clipped < plain).to(ratio)}
    if ref_logps is not None:
        statistics["kl_ref"] = kl_k3(logps, clean(ref_logps.detach()))
        if kl_coef:
            per_token = per_token + kl_coef * statistics["kl_ref"]
    if entropy is not None:
        statistics["entropy"] = clean(entropy)
        if entropy_coef:
            per_token = per_token - entropy_coef * statistics["entropy"]

    if normaliser is None:
        normaliser = loss_normaliser(tokens, aggregation, max_tokens)
    check_range("normaliser", normaliser, above=0)
    share = tokens.to(ratio) / normaliser
    if aggregation == "grpo":
        share = share / tokens.sum(1, keepdim=True).clamp(min=1)
    loss = (share * per_token).sum()

    with torch.no_grad():
        count = tokens.sum()
        sums = [torch.where(tokens, values, 0.0).sum() for values in statistics.values()]
        n, *sums = torch.stack([count.to(ratio), *sums]).tolist()
    means = {name: total / max(n, 1.0) for name, total in zip(statistics, sums, strict=True)}
    return loss, {"tokens": n, **means}


def loss_normaliser(mask: Tensor, aggregation: str = "grpo", max_tokens: int | None = None) -> float:
    """What the loss of a whole batch is divided by.

    Args:
        mask: [B, T] of the whole batch, 1 on completion tokens.
        aggregation: "grpo": B rollouts; "dapo": the tokens in the mask; "dr_grpo": B * max_tokens.
        max_tokens: the longest completion allowed; needed by "dr_grpo" alone.

    Raises:
        UserError: an unknown aggregation, "dr_grpo" without max_tokens, a mask without a token.
    """
    check_choice("aggregation", aggregation, AGGREGATIONS)
    tokens = int(token_mask(mask).sum())
    if not tokens:
        raise UserError("mask selects no token; it must be 1 on the completion tokens")
    if aggregation == "dapo":
        return float(tokens)
    if aggregation == "grpo":
        return float(len(mask))
    check_count("max_tokens (needed by aggregation 'dr_grpo')", max_tokens)
    return float(len(mask) * max_tokens)


def kl_k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Per-token estimate of KL(pi || ref), from tokens of pi: rho - 1 - log rho, rho = ref / pi.

    Never negative, and unbiased when pi generated the tokens; after noisy rollouts it did not, and
    like the released code we leave that uncorrected. Source: J. Schulman, "Approximating KL
    Divergence" (2020), estimator k3; DeepSeekMath, equation 4.

    Args:
        logps: any shape, log pi of the tokens in nats; carries the gradient.
        ref_logps: the same shape, log ref.

    Returns:
        The same shape, nats per token.
    """
    log_rho = (ref_logps - logps).clamp(max=LOG_RATIO_LIMIT)
    return log_rho.expm1() - log_rho


def _check_term(coefficient: str, value: float, field: str, tensor: Tensor | None) -> None:
    check_range(coefficient, value, low=0)
    if value and tensor is None:
        raise UserError(f"{coefficient} {value} needs {field} [B, T], got None")
