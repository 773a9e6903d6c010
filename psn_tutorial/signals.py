"""How collapsed are the rollouts? Two numbers that need no verifier, for the real-time scheduler.

Both rise when the policy collapses onto few answers: the answers of a group grow alike (similarity), and every
next-token distribution grows peaked (certainty). Source: arXiv 2602.02555; self-certainty is Kang et al., 2502.18581.
"""

import math

import torch
from torch import Tensor

from psn_tutorial.choices import DIRECTIONS
from psn_tutorial.errors import UserError, check_choice, check_count
from psn_tutorial.masks import first_unusable, token_mask


def token_certainty(logits: Tensor, direction: str = "uniform_to_policy") -> Tensor:
    """How far each next-token distribution p is from the uniform one U over the V words, in nats; >= 0, 0 at p = U.

    "uniform_to_policy": KL(U || p) = - log V - mean over the vocabulary of log p, the paper's equation 8. Every word
    counts the same, however rare: a word that loses nine tenths of its probability adds 2.3 / V, even if it is
    never sampled. It has no upper bound, and is infinite where a probability is 0.
    "policy_to_uniform": KL(p || U) = log V - H(p), between 0 and log V: what is sampled counts, the tail does not.

    Args:
        logits: [..., V], at the temperature of the policy; rows need not be normalised.

    Returns:
        [...] without gradient, float32 or wider.

    Raises:
        UserError: an unknown direction.
    """
    check_choice("direction", direction, DIRECTIONS)
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    size = math.log(logits.shape[-1])
    if direction == "uniform_to_policy":
        return logits.logsumexp(-1) - logits.mean(-1) - size
    logps = logits.log_softmax(-1)
    return size + torch.xlogy(logps.exp(), logps.exp()).sum(-1)


def self_certainty(logits: Tensor, mask: Tensor, direction: str = "uniform_to_policy") -> float:
    """Mean over the completion tokens of :func:`token_certainty`, nats per token.

    Args:
        logits: [B, T, V] of the policy, one next-token distribution for every token.
        mask: [B, T], 1 on completion tokens, the end-of-text token included.

    Raises:
        UserError: an unknown direction, shapes that do not match, a mask without a token, or a certainty that is not
            finite: KL(U || p) of a distribution that gives some word no probability at all.
    """
    if logits.dim() != 3:
        raise UserError(f"logits must have the shape [B, T, V], got {list(logits.shape)}")
    certainty = token_certainty(logits, direction)
    tokens = token_mask(mask, certainty=certainty)
    return mean_certainty(certainty, tokens)


def mean_certainty(certainty: Tensor, mask: Tensor) -> float:
    """Mean over the completion tokens of what :func:`token_certainty` gave, [B, T] both; raises as above."""
    if not bool(mask.any()):
        raise UserError("mask must have a 1 somewhere, got none")
    if problem := first_unusable(mask, certainty=certainty):
        raise UserError(problem)
    return float(certainty[mask].double().mean())


def group_similarities(embeddings: Tensor, group: int) -> Tensor:
    """Mean cosine similarity of the pairs of different rollouts in each group, [P]; 1: all point the same way.

    With unit vectors e and their sum s, the G (G - 1) ordered pairs add up to s.s - G: no [G, G] table is needed.

    Args:
        embeddings: [B, D], B = P * G, prompt-major: the G rollouts of a prompt stand together.
        group: G >= 2.

    Raises:
        UserError: another shape, a G that does not divide B, or an embedding that is zero or not finite.
    """
    check_count("group", group, low=2)
    if embeddings.dim() != 2 or not len(embeddings) or len(embeddings) % group:
        raise UserError(f"embeddings must be [B, D] with B a multiple of group {group}, got {list(embeddings.shape)}")
    lengths = embeddings.double().norm(dim=1)
    for row in (~(lengths > 0) | ~lengths.isfinite()).nonzero()[:1, 0].tolist():
        raise UserError(f"embeddings must be finite and not zero, got the length {lengths[row].item()} in row {row}")
    sums = (embeddings.double() / lengths[:, None]).view(-1, group, embeddings.shape[1]).sum(1)
    return (sums.square().sum(1) - group) / (group * (group - 1))


def semantic_similarity(embeddings: Tensor, group: int) -> float:
    """The batch mean of :func:`group_similarities`: how alike the answers to one prompt are, in [-1 / (G - 1), 1].

    The paper's d_sem (arXiv 2602.02555, Variant II). embeddings: [B, D]; what is raised: as there.
    """
    return float(group_similarities(embeddings, group).mean())
