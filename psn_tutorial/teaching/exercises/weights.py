"""Exercises about importance weights: per token, truncated; how many samples they are worth or need; several draws."""

import math
from decimal import Decimal

import torch

from psn_tutorial.teaching.exercises.grading import Exercise


def _token_weights(target_logps, sampler_logps, mask, cap):
    """Log-probabilities [B, T] -> weights [B, T]: min(pi / mu, cap) on each token of the mask, 0 on padding."""
    return [
        [min(math.exp(p) / math.exp(q), cap) if kept else 0.0 for p, q, kept in zip(*row, strict=True)]
        for row in zip(target_logps.tolist(), sampler_logps.tolist(), mask.tolist(), strict=True)
    ]


def _ratio(p, q):
    return (p - q).exp()


_PI = torch.tensor([[0.5, 0.2, 0.9], [0.05, 0.6, 0.3]], dtype=torch.float64).log()
_MU = torch.tensor([[0.25, 0.4, 0.02], [0.2, 0.05, 0.6]], dtype=torch.float64).log()
_MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()

TOKEN_WEIGHTS = Exercise(
    _token_weights,
    [
        (_PI[:1, :1], _MU[:1, :1], _MASK[:1, :1], 10.0),
        (_PI[:1, :2], _MU[:1, :2], _MASK[:1, :2], 10.0),
        (_PI, _MU, _MASK, 10.0),
        (_PI, _MU, _MASK, 1.5),
    ],
    {
        "this is the ratio upside down: the target belongs on top": lambda p, q, m, c: _ratio(q, p).clamp(max=c) * m,
        "this is the difference of the logarithms, not the ratio": lambda p, q, m, c: (p - q).clamp(max=c) * m,
        "this is the weight of the whole sequence, repeated at each token": lambda p, q, m, c: (
            ((p - q) * m).sum(1, keepdim=True).exp().clamp(max=c) * m
        ),
        "this is the running product up to each token, not the token's own ratio": lambda p, q, m, c: (
            ((p - q) * m).cumsum(1).exp().clamp(max=c) * m
        ),
        "the cap is missing": lambda p, q, m, c: _ratio(p, q) * m,
        "this holds the weights above the cap; hold them below": lambda p, q, m, c: _ratio(p, q).clamp(min=c) * m,
        "this holds the weights between 1/cap and cap; only the large ones are cut": lambda p, q, m, c: (
            _ratio(p, q).clamp(1 / c, c) * m
        ),
        "this gives weights above the cap the weight 0 (masking); truncation gives them the cap": lambda p, q, m, c: (
            _ratio(p, q) * (_ratio(p, q) <= c) * m
        ),
        "padding must have the weight 0": lambda p, q, m, c: _ratio(p, q).clamp(max=c),
        "the mask is shifted by one token": lambda p, q, m, c: _ratio(p, q).clamp(max=c) * m.roll(1, 1),
    },
)


def _effective_sample_size(ratios):
    """Ratios [n], not capped -> how many of n equally weighted samples they are worth, as a share: in (0, 1]."""
    w = ratios.tolist()
    # The variance of a weighted mean of independent values is that of one value times sum of share^2.
    shares = [x / sum(w) for x in w]
    return 1 / sum(share**2 for share in shares) / len(w)


EFFECTIVE_SAMPLE_SIZE = Exercise(
    _effective_sample_size,
    [
        (torch.tensor(w, dtype=torch.float64),)
        for w in ([1.0, 1.0], [3.0, 1.0], [0.5, 0.5, 0.5], [100.0, 1.0, 1.0, 1.0], [0.1, 0.2, 40.0, 2.0, 0.01])
    ],
    {
        "this is the number of samples, not their share of n": lambda w: w.sum() ** 2 / (w**2).sum(),
        "the ratios are capped before the sum, which hides a collapse": lambda w: (
            w.clamp(max=10).sum() ** 2 / (w.clamp(max=10) ** 2).sum() / len(w)
        ),
        "this is upside down": lambda w: len(w) * (w**2).sum() / w.sum() ** 2,
        "the squares are inside the sum in both places": lambda w: (w**2).sum() / (len(w) * (w**2).sum()),
        "this takes the sum of the ratios to be n": lambda w: len(w) / (w**2).sum(),
        "this is the mean ratio": lambda w: w.mean(),
    },
)


def _mixture_weights(target_logps, draws_logps):
    """log pi(o) [B] and log mu_j(o) [N, B] of whole answers -> [B]: pi(o) / mean over j of mu_j(o)."""
    columns = zip(*draws_logps.tolist(), strict=True)
    result = []
    for target, draws in zip(target_logps.tolist(), columns, strict=True):
        mean = sum(Decimal(x).exp() for x in draws) / len(draws)  # decimals do not underflow at e^-2000
        result.append(float(Decimal(target).exp() / mean))
    return result


_LONG = torch.tensor([-2000.0, -1500.0], dtype=torch.float64)
_DRAWS = torch.tensor([[0.5, 0.02, 0.3], [0.1, 0.4, 0.3], [0.3, 0.06, 0.9]], dtype=torch.float64).log()

MIXTURE_WEIGHTS = Exercise(
    _mixture_weights,
    [
        (_PI[0, :1], _DRAWS[:1, :1]),
        (_PI[0, :1], _DRAWS[:2, :1]),
        (_PI[0], _DRAWS),
        (_PI[1], _DRAWS[:2]),
        (_LONG, torch.stack([_LONG + 1, _LONG - 3])),
    ],
    {
        "this weighs against the first draw alone": lambda p, q: (p - q[0]).exp(),
        "this is the mean of the N ratios; the mean belongs into the denominator": lambda p, q: (p - q).exp().mean(0),
        "this divides by the sum over the draws, not by their mean": lambda p, q: (p - q.logsumexp(0)).exp(),
        "this is the geometric mean: the mean of the logarithms": lambda p, q: (p - q.mean(0)).exp(),
        "this weighs against the likeliest draw": lambda p, q: (p - q.amax(0)).exp(),
        "this is the ratio upside down: the target belongs on top": lambda p, q: (
            q.logsumexp(0) - math.log(len(q)) - p
        ).exp(),
        "exp(-2000) is 0 in floating point: keep to logarithms, with logsumexp": lambda p, q: p.exp() / q.exp().mean(0),
        "this is the logarithm of the weight": lambda p, q: p - q.logsumexp(0) + math.log(len(q)),
    },
)


def _rollouts_needed(probabilities, estimates):
    """How likely each rollout is [B], and its estimate of a derivative [B] -> how many rollouts are needed until the
    standard deviation of the mean of their estimates is as large as its expectation: the variance of one estimate
    over its squared expectation."""
    rows = list(zip(probabilities.tolist(), estimates.tolist(), strict=True))
    mean = sum(p * g for p, g in rows)
    return sum(p * (g - mean) ** 2 for p, g in rows) / mean**2


def _mean(p, g):
    return (p * g).sum()


ROLLOUTS_NEEDED = Exercise(
    _rollouts_needed,
    [
        tuple(torch.tensor(x, dtype=torch.float64) for x in case)
        for case in (
            ([0.5, 0.5], [0.0, 2.0]),
            ([0.9, 0.1], [0.0, 1.0]),
            ([0.25, 0.75], [-4.0, -2.0]),
            ([0.5, 0.3, 0.2], [-1.0, 0.5, 4.0]),
            ([0.999, 0.001], [0.0, 0.5]),
        )
    ],
    {
        "this is upside down": lambda p, g: _mean(p, g) ** 2 / (_mean(p, g**2) - _mean(p, g) ** 2),
        "this is the second moment; the squared mean must be taken from it": lambda p, g: (
            _mean(p, g**2) / _mean(p, g) ** 2
        ),
        "this is the standard deviation; take the variance": lambda p, g: (
            (_mean(p, g**2) - _mean(p, g) ** 2).sqrt() / _mean(p, g) ** 2
        ),
        "this divides the deviation by the mean; the mean of n has the deviation over sqrt(n)": lambda p, g: (
            (_mean(p, g**2) - _mean(p, g) ** 2).sqrt() / _mean(p, g).abs()
        ),
        "this is the variance; divide it by the squared mean": lambda p, g: _mean(p, g**2) - _mean(p, g) ** 2,
        "the mean must be squared": lambda p, g: (_mean(p, g**2) - _mean(p, g) ** 2) / _mean(p, g),
        "this takes all rollouts to be equally likely": lambda p, g: g.var(correction=0) / g.mean() ** 2,
    },
)

EXERCISES = {
    "token_weights": TOKEN_WEIGHTS,
    "effective_sample_size": EFFECTIVE_SAMPLE_SIZE,
    "mixture_weights": MIXTURE_WEIGHTS,
    "rollouts_needed": ROLLOUTS_NEEDED,
}
