"""How much memory and time a QLoRA run needs, counted before anything is loaded.

The largest of two moments counts: while sampling, the key-value caches of all rollouts live; while updating, the
activations of one micro-batch do. Weights, adapter and noise are there all the time. Every part is a count of numbers
times their bytes; what a GPU's libraries and its allocator keep for themselves is not in it (``OVERHEAD`` is a margin,
not a measurement). The time is a floor: what the card's memory and its multipliers allow at best.
"""

from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from psn_tutorial.errors import UserError, check_choice

GIB = 2**30
OVERHEAD = 0.75 * GIB


class Card(NamedTuple):
    """A GPU: memory in GB, bytes it reads and bfloat16 operations it does in a second, as its data sheet has them."""

    name: str
    gigabytes: int
    bandwidth: float
    operations: float


# An example of each size, not advice; dense, with float32 accumulation. A100 80 GB SXM: NVIDIA's data sheet. RTX 4060
# and 4090: hmc-tech.com, waredb.com. RTX 4060 Ti: cputronic.com, at twice its float32 rate, as for the RTX 4060.
CARDS = (
    Card("RTX 4060", 8, 272e9, 30.2e12),
    Card("RTX 4060 Ti", 16, 288e9, 44.1e12),
    Card("RTX 4090", 24, 1008e9, 165.2e12),
    Card("A100", 80, 2039e9, 312e12),
)

# NF4: half a byte per weight, a float32 scale per block of 64; doubly quantised, the scale is one byte and
# each 256 of those share a float32 (QLoRA, arXiv 2305.14314, section 3).
NF4 = {False: 0.5 + 4 / 64, True: 0.5 + 1 / 64 + 4 / 64 / 256}


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen or Llama decoder, as its config.json gives them."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    vocabulary: int
    tied: bool = True
    biases: bool = False  # of queries, keys and values (Qwen2)
    head_norms: bool = False  # of queries and keys (Qwen3)

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """The shape of a transformers config of type qwen2, qwen3 or llama."""
        return cls(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            config.intermediate_size,
            config.vocab_size,
            config.tie_word_embeddings,
            config.model_type == "qwen2",
            config.model_type == "qwen3",
        )

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear layers of one decoder layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.ff),
            "up_proj": (self.hidden, self.ff),
            "down_proj": (self.ff, self.hidden),
        }

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers but the head: those that become 4-bit."""
        return self.layers * sum(a * b for a, b in self.linear.values())

    @property
    def other_weights(self) -> int:
        """Embedding, head, norms and biases: those that do not."""
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim if self.biases else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.head_norms else 0)
        return tables + self.layers * (biases + norms) + self.hidden

    def low_rank(self, rank: int, layers: tuple[str, ...]) -> int:
        """Numbers in the factors A and B of rank ``rank`` on these linear layers of all decoder layers."""
        return self.layers * rank * sum(sum(self.linear[name]) for name in layers)


MLP = ("gate_proj", "up_proj", "down_proj")
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", *MLP)

# Sizes by the short names of models.loading.MODELS; source: the config.json of each model on the hub.
_QWEN25_15 = Shape(1536, 28, 12, 2, 128, 8960, 151936, biases=True)
SHAPES = {
    "qwen2.5-0.5b-instruct": Shape(896, 24, 14, 2, 64, 4864, 151936, biases=True),
    "qwen2.5-coder-0.5b-instruct": Shape(896, 24, 14, 2, 64, 4864, 151936, biases=True),
    "qwen2.5-1.5b": _QWEN25_15,
    "qwen2.5-1.5b-instruct": _QWEN25_15,
    "qwen2.5-math-1.5b": _QWEN25_15,
    "qwen3-0.6b": Shape(1024, 28, 16, 8, 128, 3072, 151936, head_norms=True),
    "qwen3-0.6b-base": Shape(1024, 28, 16, 8, 128, 3072, 151936, head_norms=True),
    "qwen3-1.7b": Shape(2048, 28, 16, 8, 128, 6144, 151936, head_norms=True),
    "qwen3-1.7b-base": Shape(2048, 28, 16, 8, 128, 6144, 151936, head_norms=True),
    "smollm2-135m-instruct": Shape(576, 30, 9, 3, 64, 1536, 49152),
}


@dataclass(frozen=True)
class Load:
    """What a step asks of the machine.

    rollouts: sampled at the same time. prompt, completion: tokens. micro_batch: rollouts per backward pass.
    draws, noise_rank: of the noise. head_chunk: tokens whose logits exist at once while updating.
    bytes: per number of the compute type (2: bfloat16). checkpointing: activations are recomputed layer by layer.
    """

    rollouts: int = 8
    prompt: int = 256
    completion: int = 1024
    micro_batch: int = 1
    draws: int = 1
    rank: int = 16
    noise_rank: int = 16
    head_chunk: int = 256
    bytes: int = 2
    four_bit: bool = True
    double_quant: bool = True
    checkpointing: bool = True


def memory(shape: Shape, load: Load) -> dict[str, float]:
    """Bytes by part; "sampling" and "updating" are the two moments, "total" the larger of them with all the rest."""
    tokens = load.prompt + load.completion
    parts: dict[str, float] = {
        "weights": _weights(shape, load),
        "adapter and optimiser": shape.low_rank(load.rank, ALL) * 4 * 4,  # float32: weight, gradient, two moments
        "noise": load.draws * shape.low_rank(load.noise_rank, MLP) * load.bytes,
    }
    parts["key-value cache"] = load.rollouts * tokens * shape.layers * 2 * shape.kv_heads * shape.head_dim * load.bytes
    # Of the logits of one position: float32, log-probs, probabilities (4 bytes each) and their float64 sums.
    parts["logits while sampling"] = load.rollouts * shape.vocabulary * (3 * 4 + 8)
    parts["activations"] = _activations(shape, load, tokens)
    # Of one chunk: logits in the compute type and in float32, their softmax and their gradient.
    parts["logits while updating"] = load.micro_batch * load.head_chunk * shape.vocabulary * (load.bytes + 3 * 4)
    parts["sampling"] = parts["key-value cache"] + parts["logits while sampling"]
    parts["updating"] = parts["activations"] + parts["logits while updating"]
    fixed = parts["weights"] + parts["adapter and optimiser"] + parts["noise"]
    parts["total"] = fixed + max(parts["sampling"], parts["updating"]) + OVERHEAD
    return parts


def _weights(shape: Shape, load: Load) -> float:
    per_linear = NF4[load.double_quant] if load.four_bit else load.bytes
    return shape.linear_weights * per_linear + shape.other_weights * load.bytes


def _activations(shape: Shape, load: Load, tokens: int) -> float:
    """What one micro-batch keeps for its backward pass: with checkpointing the input of every layer and one layer's
    inside, without it the inside of all."""
    attention = 4 * shape.hidden + (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim * 2
    normed = 2 * shape.hidden + (shape.heads + shape.kv_heads) * shape.head_dim * shape.head_norms
    inside = (attention + 5 * shape.ff) * load.bytes + normed * 4  # the norms compute in float32
    adapters = (len(ALL) * load.rank + 3 * shape.hidden) * 4  # LoRA reads its input in float32
    layers = 1 if load.checkpointing else shape.layers
    kept = shape.layers * shape.hidden * load.bytes if load.checkpointing else 0
    return load.micro_batch * tokens * (kept + layers * (inside + adapters))


def fastest_step(shape: Shape, load: Load, card: Card) -> dict[str, float]:
    """Seconds that a step takes at the very least: "sampling", "updating" and "total".

    Each sampled token needs all weights and all caches read once, and two operations per weight and rollout; whatever
    takes longer counts. Updating is forward, backward through the frozen weights to the activations, and the forward
    of checkpointing again. Left out is everything else: the prompt, launching kernels, 4-bit decoding, the verifier.
    A real step takes a multiple of it, and a small model the largest: `preflight` measures yours.
    """
    parts = memory(shape, load)
    multiplied = shape.linear_weights + shape.vocabulary * shape.hidden + shape.low_rank(load.rank, ALL)
    cache = parts["key-value cache"] * (load.prompt + load.completion / 2) / (load.prompt + load.completion)
    read = parts["weights"] + shape.low_rank(load.rank, ALL) * 4 + parts["noise"] + cache
    token = max(read / card.bandwidth, 2 * load.rollouts * multiplied / card.operations)
    passes = 3 if load.checkpointing else 2
    updating = 2 * passes * load.rollouts * load.completion * multiplied / card.operations
    return {"sampling": load.completion * token, "updating": updating, "total": load.completion * token + updating}


def largest_rollouts(shape: Shape, load: Load, card: float) -> int:
    """How many rollouts fit onto a card of ``card`` GB at once; 0 if not even one does."""

    def fits(rollouts: int) -> bool:
        return memory(shape, replace(load, rollouts=rollouts))["total"] <= card * GIB

    bound = 1  # too many: every rollout has a cache of its own
    while fits(bound):
        bound *= 2
    return bisect(range(1, bound), False, key=lambda rollouts: not fits(rollouts))


def shape_of(name: str) -> Shape:
    """The shape of a model by its short name. Raises UserError for an unknown one."""
    check_choice("base", name, SHAPES)
    return SHAPES[name]


def table(names: Mapping[str, Shape] | None = None, load: Load | None = None) -> list[dict[str, Any]]:
    """One row per model: GB in total and the most rollouts that fit each card of CARDS."""
    load = load or Load()
    if load.rollouts < 1:
        raise UserError(f"rollouts must be >= 1, got {load.rollouts}")
    return [
        {
            "model": name,
            "GB": memory(shape, load)["total"] / GIB,
            **{f"{card.gigabytes} GB": largest_rollouts(shape, load, card.gigabytes) for card in CARDS},
        }
        for name, shape in (names or SHAPES).items()
    ]
