"""Exercises about GRPO's pieces: advantages, the clipped term, the mean over tokens, log-probabilities."""

import math
from fractions import Fraction

import torch

from psn_tutorial.teaching.exercises.grading import Exercise


def _group_advantages(rewards):
    """Rewards of one group -> (reward - mean) / standard deviation (that with G - 1), each; 0 if all are equal."""
    exact = [Fraction(reward) for reward in rewards]
    mean = sum(exact) / len(exact)
    variance = sum((reward - mean) ** 2 for reward in exact) / (len(exact) - 1)
    return [float(reward - mean) / math.sqrt(variance) if variance else 0.0 for reward in exact]


def _standardised(rewards, correction=1, centre=None, power=0.5):
    """What a wrong turn in the normalisation gives."""
    mean = sum(rewards) / len(rewards) if centre is None else centre
    variance = sum((r - sum(rewards) / len(rewards)) ** 2 for r in rewards) / (len(rewards) - correction)
    return [(r - mean) / (variance**power + 1e-6) for r in rewards]


GROUP_ADVANTAGES = Exercise(
    _group_advantages,
    [([1.0, 0.0],), ([1.0, 0.0, 0.0, 0.0],), ([0.25, 0.25, 0.25],), ([0.5, 2.0, -1.0, 0.0, 1.0],)],
    {
        "this divides by the biased deviation, that with G": lambda r: _standardised(r, correction=0),
        "this divides by the variance, not by its root": lambda r: _standardised(r, power=1),
        "this only subtracts the mean (Dr. GRPO)": lambda r: [x - sum(r) / len(r) for x in r],
        "this compares with a fixed baseline of 0.5, not with the group's own mean": lambda r: _standardised(
            r, centre=0.5
        ),
        "this subtracts no baseline": lambda r: _standardised(r, centre=0.0),
        "the sign is reversed": lambda r: [-x for x in _standardised(r)],
    },
    rtol=2e-3,  # room for the small number that implementations add to the deviation
    atol=1e-6,
)


def _clipped_term(ratio, advantage, clip_low, clip_high):
    """One token's term min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), which is to be made large."""
    r, a = float(ratio), float(advantage)
    # In words: a good token gains nothing above the region, a bad one nothing below it.
    return min(r, 1 + clip_high) * a if a >= 0 else max(r, 1 - clip_low) * a


def _clip(r, low, high):
    return max(min(r, 1 + high), 1 - low)


def _scalar(value):
    return torch.tensor(value, dtype=torch.float64)


CLIPPED_TERM = Exercise(
    _clipped_term,
    [
        (_scalar(r), _scalar(a), low, high)
        for low, high in ((0.2, 0.2), (0.2, 0.5))
        for r, a in ((1.0, 1.0), (1.1, 1.0), (1.6, 1.0), (0.5, 1.0), (1.6, -1.0), (0.5, -2.0), (0.9, -0.5), (3.0, 0.0))
    ],
    {
        "this takes the larger of the two, not the smaller": lambda r, a, lo, hi: max(r * a, _clip(r, lo, hi) * a),
        "this clips whatever the sign of the advantage; take the smaller of both terms": lambda r, a, lo, hi: (
            _clip(r, lo, hi) * a
        ),
        "this takes the smaller ratio, then multiplies; for a negative advantage that is the larger term": (
            lambda r, a, lo, hi: min(r, _clip(r, lo, hi)) * a
        ),
        "this never clips": lambda r, a, lo, hi: r * a,
        "this is the loss, minus the term": lambda r, a, lo, hi: -min(r * a, _clip(r, lo, hi) * a),
        "clip_low and clip_high have changed places": lambda r, a, lo, hi: min(r * a, _clip(r, hi, lo) * a),
        "this uses clip_low on both sides": lambda r, a, lo, hi: min(r * a, _clip(r, lo, lo) * a),
    },
)


def _masked_mean_loss(per_token, mask):
    """Per-token losses [B, T] -> a number: the mean over each rollout's own tokens, then over the rollouts."""
    rows = [
        [loss for loss, kept in zip(*row, strict=True) if kept]
        for row in zip(per_token.tolist(), mask.tolist(), strict=True)
    ]
    return sum(sum(row) / len(row) for row in rows) / len(rows)


def _shifted(mask):
    """The mask one place to the right: it lets the prompt's end in and the last token out, or the reverse."""
    return torch.roll(mask, 1, 1)


_LOSSES = torch.tensor([[1.0, 2.0, 9.0], [4.0, -5.0, 7.0]], dtype=torch.float64)
_TOKENS = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()

MASKED_MEAN_LOSS = Exercise(
    _masked_mean_loss,
    [
        (_LOSSES[:1], torch.ones(1, 3).bool()),
        (_LOSSES[:1], _TOKENS[:1]),
        (_LOSSES, _TOKENS),
        (torch.arange(12.0).double().view(3, 4) - 5, torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()),
    ],
    {
        "this is the mean over all tokens of the batch (DAPO): long rollouts weigh more": lambda x, m: (
            (x * m).sum() / m.sum()
        ),
        "this divides by the length of the tensor, padding included (Dr. GRPO)": lambda x, m: (x * m).mean(),
        "this ignores the mask": lambda x, m: x.mean(),
        "the padding is in the sum, though not in the count": lambda x, m: (x.sum(1) / m.sum(1)).mean(),
        "the mask is shifted by one token": lambda x, m: ((x * _shifted(m)).sum(1) / m.sum(1)).mean(),
        "the mask is shifted by one token the other way": lambda x, m: (
            (x * torch.roll(m, -1, 1)).sum(1) / m.sum(1)
        ).mean(),
        "this adds up a rollout's tokens and takes no mean of them": lambda x, m: (x * m).sum(1).mean(),
    },
)


def _token_logps(logits, tokens, temperature):
    """Logits [B, T, V], tokens [B, T] -> log-probability of each token [B, T], in nats, at this temperature."""
    result = []
    for row, chosen in zip(logits.tolist(), tokens.tolist(), strict=True):
        powers = [[math.exp(x / temperature) for x in step] for step in row]
        result.append([math.log(p[token] / sum(p)) for p, token in zip(powers, chosen, strict=True)])
    return result


def _chosen(scores, tokens):
    return scores.gather(-1, tokens[..., None])[..., 0]


_LOGITS = torch.tensor([[[0.0, 1.0, 3.0], [2.0, 0.5, -1.0]], [[-2.0, 0.0, 0.25], [1.0, 1.5, 0.0]]]).double()

TOKEN_LOGPS = Exercise(
    _token_logps,
    [
        (_LOGITS[:1, :1], torch.tensor([[2]]), 1.0),
        (_LOGITS[:1, :1], torch.tensor([[1]]), 2.0),
        (_LOGITS, torch.tensor([[2, 1], [0, 2]]), 1.3),
        (_LOGITS, torch.tensor([[0, 2], [1, 0]]), 0.7),
    ],
    {
        "the temperature is missing": lambda x, o, t: _chosen(x.log_softmax(-1), o),
        "the temperature is applied twice": lambda x, o, t: _chosen((x / t / t).log_softmax(-1), o),
        "this multiplies by the temperature; divide": lambda x, o, t: _chosen((x * t).log_softmax(-1), o),
        "this divides the log-probabilities; divide the logits, before the softmax": lambda x, o, t: (
            _chosen(x.log_softmax(-1), o) / t
        ),
        "this is the logit itself, not normalised by a softmax": lambda x, o, t: _chosen(x / t, o),
        "this is the probability, not its logarithm": lambda x, o, t: _chosen((x / t).softmax(-1), o),
        "this is the likeliest token's, not the given token's": lambda x, o, t: (x / t).log_softmax(-1).amax(-1),
        "the logits are shifted by one step against the tokens": lambda x, o, t: _chosen(
            (x.roll(1, 1) / t).log_softmax(-1), o
        ),
        "the softmax runs over the steps, not over the vocabulary": lambda x, o, t: _chosen((x / t).log_softmax(1), o),
        "this is the sequence's, repeated at each token": lambda x, o, t: (
            _chosen((x / t).log_softmax(-1), o).sum(1, keepdim=True).expand(o.shape)
        ),
    },
)

EXERCISES = {
    "group_advantages": GROUP_ADVANTAGES,
    "clipped_term": CLIPPED_TERM,
    "masked_mean_loss": MASKED_MEAN_LOSS,
    "token_logps": TOKEN_LOGPS,
}
