"""A policy small enough to enumerate: what the exact oracle is exact about.

An autoregressive softmax policy over V tokens and at most T of them. Its logits are linear in its weights,

    logits(prefix) = W features(prefix),    W [V, D],

and the features say what the positions share. One feature per prefix is a plain table: noise on W then disturbs every
position independently. One feature for all of them is a single set of logits: noise on W then moves every position the
same way, as a network's shared weights do. All trajectories fit into one batch, so that an expectation is a finite sum
(:mod:`psn_tutorial.teaching.exact`). float64 throughout.
"""

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psn_tutorial.errors import UserError, check_choice, check_count, check_range

PARTS = ("prefix", "position", "last", "shared")
MOST_TRAJECTORIES = 2**17


@dataclass(frozen=True)
class Trajectories:
    """Every trajectory there is, one per row, in lexical order.

    Attributes:
        tokens: [B, T] ids; 0 where mask is False.
        mask: [B, T] bool, True up to and including the end token.
        prefixes: [B, T] the number of the prefix after which token t is drawn; 0, the empty prefix, where mask is
            False.
        texts: the prefixes in the order of their numbers, as tuples of ids.
        vocabulary: V.
    """

    tokens: Tensor
    mask: Tensor
    prefixes: Tensor
    texts: tuple[tuple[int, ...], ...]
    vocabulary: int

    def __len__(self) -> int:
        return len(self.tokens)


def trajectories(vocabulary: int = 3, horizon: int = 3, end: int | None = None) -> Trajectories:
    """All V^T trajectories; with an ``end`` token, those that stop at it are shorter.

    Raises:
        UserError: fewer than 2 tokens, horizon below 1, an end token that is none of 0 .. V - 1, or more than
            MOST_TRAJECTORIES trajectories.
    """
    check_count("vocabulary", vocabulary, low=2)
    check_count("horizon", horizon)
    if end is not None:
        check_range("end", end, low=0, high=vocabulary - 1, whole=True)
    if vocabulary**horizon > MOST_TRAJECTORIES:
        raise UserError(
            f"vocabulary ** horizon must be at most {MOST_TRAJECTORIES}, got {vocabulary} ** {horizon}: "
            "every trajectory is enumerated"
        )
    complete = set()
    for text in product(range(vocabulary), repeat=horizon):
        complete.add(text[: text.index(end) + 1] if end in text else text)
    numbers: dict[tuple[int, ...], int] = {}
    tokens, mask, prefixes = [], [], []
    for text in sorted(complete):
        padding = [0] * (horizon - len(text))
        seen = [numbers.setdefault(text[:t], len(numbers)) for t in range(len(text))]
        tokens.append([*text, *padding])
        mask.append([True] * len(text) + [False] * len(padding))
        prefixes.append([*seen, *padding])
    return Trajectories(torch.tensor(tokens), torch.tensor(mask), torch.tensor(prefixes), tuple(numbers), vocabulary)


def features(every: Trajectories, *parts: str) -> Tensor:
    """What the prefixes share, [prefixes, D]; several parts stand side by side.

    "prefix": one feature per prefix. "position": one per length. "last": one per last token (and one for the empty
    prefix). "shared": a single 1.

    Raises:
        UserError: no part, or an unknown one.
    """
    if not parts:
        raise UserError(f"features needs at least one part of {', '.join(PARTS)}, got none")
    columns = []
    for part in parts:
        check_choice("features", part, PARTS)
        if part == "prefix":
            of = range(len(every.texts))
        elif part == "position":
            of = [len(text) for text in every.texts]
        elif part == "last":
            of = [text[-1] + 1 if text else 0 for text in every.texts]
        else:
            of = [0] * len(every.texts)
        columns.append(F.one_hot(torch.tensor(of)))
    return torch.cat(columns, 1).double()


class TabularPolicy(nn.Module):
    """The policy with logits W features(prefix).

    >>> policy = random_policy(trajectories(3, 3), seed=0)
    >>> policy.logps().sum(1).exp().sum()  # the probabilities of all trajectories
    tensor(1.0000, dtype=torch.float64, grad_fn=<SumBackward0>)

    Its one parameter is called "weight": ``perturbed(policy, NoiseConfig(sigma, "weight"), draw)`` makes it noisy.

    Args:
        every: the trajectories.
        features: [prefixes, D].
        weight: [V, D]; copied.

    Raises:
        UserError: shapes that do not fit.
    """

    def __init__(self, every: Trajectories, features: Tensor, weight: Tensor):
        super().__init__()
        if features.dim() != 2 or len(features) != len(every.texts):
            raise UserError(
                f"features must have the shape [prefixes, D] = [{len(every.texts)}, D], got {list(features.shape)}"
            )
        if list(weight.shape) != [every.vocabulary, features.shape[1]]:
            raise UserError(
                f"weight must have the shape [V, D] = [{every.vocabulary}, {features.shape[1]}], "
                f"got {list(weight.shape)}"
            )
        self.every, self.features = every, features.double()
        self.weight = nn.Parameter(weight.detach().double().clone())

    def logits(self) -> Tensor:
        """[prefixes, V], before the softmax."""
        return self.features @ self.weight.T

    def logps(self, temperature: float = 1.0) -> Tensor:
        """[B, T] log pi(o_t | o_<t) of every trajectory in nats, 0 where the mask is False; with its gradient."""
        table = (self.logits() / temperature).log_softmax(-1)
        return torch.where(self.every.mask, table[self.every.prefixes, self.every.tokens], 0.0)

    def forward(self) -> Tensor:
        return self.logps()


def random_policy(
    every: Trajectories, seed: int, spread: float = 1.0, parts: tuple[str, ...] = ("prefix",)
) -> TabularPolicy:
    """A policy with weights ~ N(0, spread^2)."""
    table = features(every, *parts)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(every.vocabulary, table.shape[1], generator=generator, dtype=torch.float64)
    return TabularPolicy(every, table, spread * weight)


def rare_chain(horizon: int, rare: float = 0.1, parts: tuple[str, ...] = ("shared",)) -> TabularPolicy:
    """The deep chain: at each of ``horizon`` steps token 1, the rare one, has probability ``rare``.

    Success is to write it every time: the last of the 2^T trajectories, with probability rare^T.

    Raises:
        UserError: ``rare`` is not between 0 and 1; see :func:`trajectories` and :func:`features`.
    """
    check_range("rare", rare, above=0, below=1)
    every = trajectories(2, horizon)
    table = features(every, *parts)
    weight = torch.zeros(2, table.shape[1], dtype=torch.float64)
    # Each part holds exactly one 1 per prefix; the first part's weights carry the preference.
    first = features(every, parts[0]).shape[1]
    weight[:, :first] = torch.tensor([1 - rare, rare], dtype=torch.float64).log()[:, None]
    return TabularPolicy(every, table, weight)
