"""What a training step costs on one GPU or many: tokens, operations, bytes, and the least seconds that they take.

Operations are those of the matrix products, a multiplication and an addition each: a test counts them on the model
itself. Seconds are a floor, what a card's data sheet allows; a real step takes a multiple of it.
:mod:`psn_tutorial.preflight.budget` has the shapes, the cards, and what fits into memory.
"""

import math
from dataclasses import dataclass, replace

from psn_tutorial.errors import check_count
from psn_tutorial.preflight.budget import MLP, Card, Shape

LINK = 25e9  # bytes a second between two cards: a network of 200 Gbit/s. Inside one machine it may be ten times faster.


@dataclass(frozen=True)
class Step:
    """One step: rollouts of P prompts x G answers, and an update on all of them.

    prompt, completion: tokens. draws: of the noise. learns: share of the weights that learn (an adapter: about .01).
    recompute: the layers are computed again in the backward pass. bytes: per number (2: bfloat16). engine: another
    program samples (vLLM), so that each draw's weights are sent to it.
    """

    prompts: int = 64
    group: int = 16
    prompt: int = 256
    completion: int = 1024
    draws: int = 1
    learns: float = 1.0
    recompute: bool = False
    bytes: int = 2
    engine: bool = False

    @property
    def rollouts(self) -> int:
        return self.prompts * self.group

    @property
    def tokens(self) -> dict[str, int]:
        """Read or written while sampling, where a group shares its prompt, and read in the update, where none does."""
        return {
            "sampling": self.prompts * self.prompt + self.rollouts * (self.completion - 1),
            "updating": self.rollouts * (self.prompt + self.completion - 1),
        }


def weights(shape: Shape) -> int:
    """All weights that a token is multiplied with: the linear layers and the head."""
    return shape.linear_weights + shape.vocabulary * shape.hidden


def operations(shape: Shape, step: Step) -> dict[str, float]:
    """Of one step, by part: 2 for each linear weight and token, 4 for each channel of a head and pair of tokens that
    may attend, 2 for each weight of the head and token whose logits are needed. The backward pass costs two forward
    passes, and one where few weights learn.
    """
    head, channels = 2 * shape.vocabulary * shape.hidden, 4 * shape.layers * shape.heads * shape.head_dim
    length, later = step.prompt + step.completion - 1, step.completion - 1
    pairs = {
        "sampling": step.prompts * step.prompt**2 + step.rollouts * (later * step.prompt + later * (later + 1) / 2),
        "updating": step.rollouts * length**2,
    }
    logits = {"sampling": step.prompts + step.rollouts * later, "updating": step.rollouts * step.completion}
    passes = {"sampling": 1, "updating": 1 + (2 if step.learns == 1 else 1) + step.recompute}
    return {
        part: passes[part] * (2 * shape.linear_weights * tokens + channels * pairs[part] + head * logits[part])
        for part, tokens in step.tokens.items()
    }


def read(shape: Shape, step: Step) -> float:
    """Bytes that sampling reads from memory: all weights for each new token of the batch, and the keys and values of
    all tokens before it."""
    before = step.completion * (step.prompt + step.completion / 2)
    cache = step.rollouts * before * shape.layers * 2 * shape.kv_heads * shape.head_dim
    return step.bytes * (step.completion * weights(shape) + cache)


def seconds(shape: Shape, step: Step, card: Card, gpus: int = 1, link: float = LINK) -> dict[str, float]:
    """The least seconds of a step on ``gpus`` cards, each with all weights and a share of the rollouts.

    Returns:
        "sampling": whichever takes longer, reading or multiplying; "updating"; "gradients", their exchange by a ring
        all-reduce (2 (n - 1) / n of their bytes pass each link); "noise": each draw's sent to the engine, or in place
        read and written; "total"; and "efficiency", the share of the cards' time that one card alone would need.

    Raises:
        UserError: ``gpus`` is not a whole number >= 1.
    """
    check_count("gpus", gpus)
    share = replace(step, prompts=math.ceil(step.prompts / gpus))  # of the card that has most: the others wait for it
    if step.prompts < gpus:  # a group is spread over cards
        share = replace(share, group=math.ceil(step.rollouts / gpus))
    work, all_weights = operations(shape, share), weights(shape)
    mlp = shape.layers * sum(shape.linear[name][0] * shape.linear[name][1] for name in MLP)
    sent = all_weights * step.bytes / link if step.engine else 2 * mlp * step.bytes / card.bandwidth
    parts = {
        "sampling": max(read(shape, share) / card.bandwidth, work["sampling"] / card.operations),
        "updating": work["updating"] / card.operations,
        "gradients": 2 * (gpus - 1) / gpus * step.learns * all_weights * step.bytes / link,
        "noise": step.draws * sent,
    }
    parts["total"] = sum(parts.values())
    alone = parts["total"] if gpus == 1 else seconds(shape, step, card, 1, link)["total"]
    return parts | {"efficiency": alone / (gpus * parts["total"])}
