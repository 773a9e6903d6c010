"""Exercises about noise beside 4-bit weights: rounding in blocks, and low-rank noise of the right size."""

import math

import torch

from psn_tutorial.teaching.exercises.grading import Exercise


def _block_round(weights, levels, block):
    """Weights [n] -> the weights [n] that a quantised layer computes with.

    A block is so many neighbours, and keeps its largest absolute value a. A weight w becomes a times the level that
    is nearest to w / a. The levels ascend from -1 to 1; a block of zeros stays zeros.
    """
    rounded = []
    for start in range(0, len(weights), block):
        ours = weights[start : start + block].tolist()
        a = max(abs(w) for w in ours)
        rounded += [min((a * level for level in levels.tolist()), key=lambda value, w=w: abs(value - w)) for w in ours]
    return rounded


def _nearest(x, levels):
    return levels[(x[..., None] - levels).abs().argmin(-1)]


def _rounded(weights, levels, block, scale, nearest=_nearest, back=True):
    """The same with one part another: ``scale`` of the blocks [blocks, block] -> [blocks, 1]."""
    blocks = weights.view(-1, block)
    a = scale(blocks).clamp_min(1e-12)
    found = nearest(blocks / a, levels)
    return (found * a if back else found).flatten()


def _largest(blocks):
    return blocks.abs().amax(1, keepdim=True)


LEVELS = torch.tensor([-1.0, -0.4, 0.0, 0.3, 1.0])

BLOCK_ROUND = Exercise(
    _block_round,
    [
        (torch.tensor([1.0, 0.2]), LEVELS, 2),
        (torch.tensor([-0.5, 0.4]), LEVELS, 2),
        (torch.tensor([0.5, -0.3, 0.1, -0.02, 2.0, -1.2, 0.5, -0.3]), LEVELS, 4),
        (torch.tensor([0.1, -0.3, 0.25, 0.01, 0.0, 0.0]), LEVELS, 2),
    ],
    {
        "this has one scale for all weights; each block has its own": lambda w, levels, b: _rounded(
            w, levels, len(w), _largest
        ),
        "this takes the largest value; take the largest absolute value": lambda w, levels, b: _rounded(
            w, levels, b, lambda x: x.amax(1, keepdim=True)
        ),
        "this scales by the root mean square of a block; take its largest absolute value": lambda w, levels, b: (
            _rounded(w, levels, b, lambda x: x.square().mean(1, keepdim=True).sqrt())
        ),
        "the level is not multiplied by the block's scale again": lambda w, levels, b: _rounded(
            w, levels, b, _largest, back=False
        ),
        "this rounds the weights without dividing them by the block's scale": lambda w, levels, b: _nearest(w, levels),
        "this takes the next level below, not the nearest": lambda w, levels, b: _rounded(
            w, levels, b, _largest, lambda x, levels: levels[torch.searchsorted(levels, x, right=True) - 1]
        ),
        "this takes the next level above, not the nearest": lambda w, levels, b: _rounded(
            w, levels, b, _largest, lambda x, levels: levels[torch.searchsorted(levels, x)]
        ),
    },
)


def _low_rank_noise(up, down, sigma):
    """Standard normal up [out, r] and down [r, in] -> noise [out, in], a multiple of their product.

    Over many draws of the two factors every entry has the standard deviation sigma, whatever the rank r.
    """
    rows, columns = up.tolist(), list(zip(*down.tolist(), strict=True))
    variance = len(down)  # of an entry: r products of two independent standard normals, of variance 1 each
    factor = sigma / math.sqrt(variance)
    return [[factor * sum(b * a for b, a in zip(row, column, strict=True)) for column in columns] for row in rows]


LOW_RANK_NOISE = Exercise(
    _low_rank_noise,
    [
        (torch.tensor([[1.0]]), torch.tensor([[2.0]]), 0.5),
        (torch.tensor([[1.0, -1.0, 0.5, 2.0]]), torch.tensor([[1.0], [0.5], [2.0], [-1.0]]), 0.1),
        (torch.tensor([[1.0, 0.5], [-2.0, 1.0], [0.0, 3.0]]), torch.tensor([[1.0, -1.0], [0.5, 2.0]]), 0.02),
    ],
    {
        "this divides by r; the sum of r products grows like the root of r": lambda up, down, s: (
            s / len(down) * up @ down
        ),
        "this does not divide: the sum of r products has the standard deviation sqrt(r)": lambda up, down, s: (
            s * up @ down
        ),
        "each factor has the standard deviation sigma, and the product sigma squared sqrt(r)": lambda up, down, s: (
            (s * up) @ (s * down)
        ),
        "each factor is scaled by sigma / sqrt(r); together they count twice": lambda up, down, s: (
            s**2 / len(down) * up @ down
        ),
        "this multiplies by sqrt(r); divide by it": lambda up, down, s: s * len(down) ** 0.5 * up @ down,
        "sigma is a standard deviation, no variance": lambda up, down, s: (s / len(down)) ** 0.5 * up @ down,
        "this divides by the root of the number of inputs; an entry is a sum over the rank": lambda up, down, s: (
            s / down.shape[1] ** 0.5 * up @ down
        ),
    },
)

EXERCISES = {"block_round": BLOCK_ROUND, "low_rank_noise": LOW_RANK_NOISE}
