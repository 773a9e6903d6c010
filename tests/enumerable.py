"""A policy small enough to enumerate: the exact oracle of the tests.

An autoregressive softmax policy over a vocabulary of V tokens and at most T of them, with one row
of logits per prefix. All trajectories fit into one batch, so that every expectation is a finite sum
and every gradient is autograd's of that sum; float64 throughout.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trajectories:
    """Every trajectory there is, one per row.

    Attributes:
        tokens: [B, T] ids; 0 where mask is False.
        mask: [B, T] bool, True up to and including the end token.
        prefixes: [B, T] the row of the logits table from which token t is drawn.
        prefix_count: rows of the logits table.
        vocabulary: V, columns of the logits table.
    """

    tokens: Tensor
    mask: Tensor
    prefixes: Tensor
    prefix_count: int
    vocabulary: int

    def __len__(self) -> int:
        return len(self.tokens)


def trajectories(vocabulary: int = 3, horizon: int = 3, end: int | None = None) -> Trajectories:
    """All V^T trajectories; with an ``end`` token, those that stop at it are shorter."""
    texts = set()
    for text in product(range(vocabulary), repeat=horizon):
        texts.add(text[: text.index(end) + 1] if end in text else text)
    rows = {}  # prefix -> row of the table
    tokens, mask, prefixes = [], [], []
    for text in sorted(texts):
        padding = horizon - len(text)
        tokens.append([*text, *[0] * padding])
        mask.append([True] * len(text) + [False] * padding)
        seen = [rows.setdefault(text[:t], len(rows)) for t in range(len(text))]
        prefixes.append(seen + [0] * padding)
    tensors = torch.tensor(tokens), torch.tensor(mask), torch.tensor(prefixes)
    return Trajectories(*tensors, len(rows), vocabulary)


def random_table(every: Trajectories, seed: int, spread: float = 1.0) -> Tensor:
    """Logits [prefixes, V] ~ N(0, spread^2)."""
    generator = torch.Generator().manual_seed(seed)
    shape = every.prefix_count, every.vocabulary
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def logps(table: Tensor, every: Trajectories) -> Tensor:
    """[B, T] log pi(o_t | o_<t) of every trajectory, 0 where mask is False."""
    chosen = table.log_softmax(-1)[every.prefixes, every.tokens]
    return torch.where(every.mask, chosen, 0.0)


def probabilities(table: Tensor, every: Trajectories) -> Tensor:
    """[B] pi(o) of every trajectory; they sum to 1."""
    return logps(table, every).sum(-1).exp()


def value(table: Tensor, every: Trajectories, rewards: Tensor) -> Tensor:
    """J = E_pi[R], with its gradient; ``rewards`` [B]."""
    return (probabilities(table, every) * rewards).sum()


def value_gradient(table: Tensor, every: Trajectories, rewards: Tensor) -> Tensor:
    """The exact policy gradient dJ / dlogits, [prefixes, V]."""
    leaf = table.detach().requires_grad_()
    return torch.autograd.grad(value(leaf, every, rewards), leaf)[0]
