"""One way to write each exercise, and hints on the way there; a notebook folds both away.

A function here has the name of its exercise and the signature of its stub. It is written as a reader would write it, of
plain Python and PyTorch; that it is right is for the checkers to say.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def pass_at_k(n: int, c: int, k: int) -> float:
    miss = 1.0  # the chance that all k samples, taken without replacement, are wrong
    for i in range(k):
        miss *= max(n - c - i, 0) / (n - i)
    return 1 - miss


def expected_coverage(probabilities: Sequence[float], k: int) -> float:
    return sum(1 - (1 - p) ** k for p in probabilities) / len(probabilities)


def group_advantages(rewards: Sequence[float]) -> Tensor:
    r = torch.tensor(rewards, dtype=torch.float64)
    return (r - r.mean()) / (r.std() + 1e-6)


def clipped_term(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> Tensor:
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return torch.minimum(ratio * advantage, clipped * advantage)


def masked_mean_loss(per_token: Tensor, mask: Tensor) -> Tensor:
    return ((per_token * mask).sum(1) / mask.sum(1)).mean()


def token_logps(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    logps = (logits / temperature).log_softmax(-1)  # [B, T, V]
    return logps.gather(-1, tokens[..., None])[..., 0]


def token_weights(target_logps: Tensor, sampler_logps: Tensor, mask: Tensor, cap: float) -> Tensor:
    return (target_logps - sampler_logps).exp().clamp(max=cap) * mask


def effective_sample_size(ratios: Tensor) -> Tensor:
    return ratios.sum() ** 2 / (len(ratios) * (ratios**2).sum())


def mixture_weights(target_logps: Tensor, draws_logps: Tensor) -> Tensor:
    log_mean = draws_logps.logsumexp(0) - torch.tensor(len(draws_logps)).log()  # [B]
    return (target_logps - log_mean).exp()


def rollouts_needed(probabilities: Tensor, estimates: Tensor) -> Tensor:
    mean = (probabilities * estimates).sum()
    variance = (probabilities * (estimates - mean) ** 2).sum()
    return variance / mean**2


def consistent_success(log_odds: float, sigma: float, steps: int) -> Tensor:
    z = torch.linspace(-12, 12, 2001, dtype=torch.float64)
    density = (-(z**2) / 2).softmax(0)  # of a standard normal, on this grid
    return density @ torch.sigmoid(log_odds + sigma * z) ** steps


def coherent_share(shifts: Tensor) -> Tensor:
    draws, places = shifts.shape
    rest = shifts - shifts.mean(0)  # what the draws do to a place on average is no draw's own
    own = rest.mean(1, keepdim=True)
    within = (rest - own).square().sum() / ((draws - 1) * (places - 1))
    between = own.square().sum() / (draws - 1) - within / places
    return between / (between + within)


def kl_target_rule(sigma: float, k1: float, target: float) -> float:
    if k1 > 1.1 * target:
        sigma = sigma / 1.01
    elif k1 < target / 1.1:
        sigma = sigma * 1.01
    return min(max(sigma, 1e-6), 0.5)


def self_certainty(logits: Tensor) -> Tensor:
    return -torch.tensor(len(logits)).log() - logits.log_softmax(-1).mean()


def realtime_rule(sigma: float, indicator: float, target: float, growth: float) -> float:
    return sigma * growth if indicator > target else sigma / growth


def block_round(weights: Tensor, levels: Tensor, block: int) -> Tensor:
    blocks = weights.view(-1, block)
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)  # a block of zeros stays zeros
    codes = (blocks[..., None] / scale[..., None] - levels).abs().argmin(-1)
    return (scale * levels[codes]).flatten()


def low_rank_noise(up: Tensor, down: Tensor, sigma: float) -> Tensor:
    size = (sigma / len(down) ** 0.5) ** 0.5  # of the entries of each factor
    return (size * up) @ (size * down)


def update_operations(weights: int, tokens: int, frozen: bool, recompute: bool) -> float:
    passes = 3 - frozen + recompute  # forward, backward to inputs and to weights; less one, and one more
    return 2 * weights * tokens * passes


def holm(ps: Sequence[float]) -> list[float]:
    corrected, last = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        last = max(last, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = last
    return corrected


def sign_flip_p(differences: Sequence[float]) -> float:
    sums = [0.0]
    for difference in differences:  # each may have either sign
        sums = [total + sign * difference for total in sums for sign in (1, -1)]
    return sum(abs(total) >= abs(sum(differences)) - 1e-9 for total in sums) / len(sums)


HINTS = {
    "pass_at_k": (
        "What is the chance that the first sample is wrong? And the second, if the first was?",
        "The chance that all k are wrong is a product of k factors; the first is (n - c) / n.",
    ),
    "expected_coverage": (
        "A mean of shares adds up over the solutions: treat each alone, although a sample hits only one of them.",
        "One solution of probability p is missed by all k samples with probability (1 - p)^k.",
    ),
    "group_advantages": (
        "The baseline is the group's own mean. Which deviation is it, with G or with G - 1?",
        "torch.std divides by G - 1. What must come out when all rewards are equal?",
    ),
    "clipped_term": (
        "Two products are compared, and the smaller one is taken.",
        "Clip the ratio, not the product: ratio.clamp(1 - clip_low, 1 + clip_high).",
    ),
    "masked_mean_loss": (
        "Two means, one after the other: first over the tokens of a rollout, then over the rollouts.",
        "What stands behind the mask must count neither in the sum nor in the number of tokens.",
    ),
    "token_logps": (
        "The temperature divides the logits, before the softmax.",
        "log_softmax over the vocabulary, then gather the entry of each token.",
    ),
    "token_weights": (
        "A ratio of probabilities is the exponential of a difference of log-probabilities; the target stands first.",
        "clamp(max=cap) holds the large ones. Padding gets 0 from the mask.",
    ),
    "effective_sample_size": (
        "The answer must not change when all ratios double.",
        "(sum w)^2 / sum w^2 is a number of samples; divide it by n.",
    ),
    "mixture_weights": (
        "The denominator is the mean of the draws' probabilities, not of their logarithms.",
        "exp(-2000) is 0 in floating point. torch.logsumexp adds probabilities without leaving the logarithms.",
    ),
    "rollouts_needed": (
        "The mean of n independent estimates has the variance of one of them over n.",
        "Expectations are sums over all rollouts, each times its probability. Set deviation and mean equal: n = ?",
    ),
    "consistent_success": (
        "The power stands inside the expectation: one z is kept for all steps.",
        "A sum over a fine grid of z, weighted by exp(-z^2 / 2), is exact enough.",
    ),
    "coherent_share": (
        "Take the mean over the draws out of each place. What is left is the draw's own mean, and a rest.",
        "A mean of N places has a variance of within / N by chance alone. With D draws, how many numbers are free?",
    ),
    "kl_target_rule": (
        "Three cases: too much KL, too little, and a dead band between target / 1.1 and 1.1 target, where sigma stays.",
        "k1 may be negative: that is too little. Last, hold sigma between 1e-6 and 0.5.",
    ),
    "self_certainty": (
        "KL(U || p) is a mean over the vocabulary, of log(1 / V) - log p.",
        "logits.log_softmax(-1) gives log p. A uniform p must come out as 0.",
    ),
    "realtime_rule": (
        "A high indicator means that the rollouts are alike. Do they then need more noise, or less?",
        "Multiply by the growth, or divide by it; the size of the deviation does not matter.",
    ),
    "block_round": (
        "weights.view(-1, block) has a block in each row. What is the scale of a row?",
        "Divide by the scale, find the nearest level with argmin, multiply by the scale again. And a row of zeros?",
    ),
    "low_rank_noise": (
        "An entry of the product is a sum over the rank. Which variance has a product of two standard normals?",
        "Variances of independent terms add up; the standard deviation is the root of their sum.",
    ),
    "update_operations": (
        "One product of a layer's weights with its tokens is 2 operations for each weight and token.",
        "Count the products: one forward, two backward; which of them does frozen save, which does recompute add?",
    ),
    "holm": (
        "sorted(range(len(ps)), key=lambda i: ps[i]) are the places of the p-values, the smallest first.",
        "Keep the largest value so far: none may come out below the one before it.",
    ),
    "sign_flip_p": (
        "itertools.product((1, -1), repeat=n) gives all the ways.",
        "Compare absolute values, with a little room for rounding: the observed signs are among the ways.",
    ),
}
