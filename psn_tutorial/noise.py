"""Parameter-space noise: which weights, how much, and the clean policy back bit for bit.

Before the rollouts of a step the policy's weights theta become theta + eps with eps ~ N(0, sigma^2 I)
(arXiv 2602.02555, section on the method; the authors' `_apply_param_noise`). One draw of eps holds for whole
trajectories. Here a draw is a number: draw 7 of seed 0 is the same noise on every machine, in every order of the
parameters, whether it sits in the weights in place (:func:`perturbed`) or next to other draws in one batch
(:func:`stacked`).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psn_tutorial.choices import CARRIERS, LARGEST_SIGMA
from psn_tutorial.errors import UserError, check_count, check_range
from psn_tutorial.extensions import check_named
from psn_tutorial.sites import check_layers, chosen, role


@dataclass(frozen=True)
class NoiseConfig:
    """What to perturb and by how much.

    Attributes:
        sigma: standard deviation of the noise; a multiple of each tensor's RMS when ``relative``.
        targets: "mlp", "attention", "embeddings", "head", "norms", "all", a regular expression searched in the
            parameter names, or a filter of your own as module:name (:mod:`psn_tutorial.sites`). The paper perturbs
            "mlp"; its released code perturbs "all".
        relative: scale sigma by the root mean square of each tensor (the paper's sigma is absolute).
        seed: base seed of all draws.
        antithetic: draw 2j + 1 is minus draw 2j.
        carrier: how the noise is applied while the model samples, one of CARRIERS or your own as module:name; see
            :mod:`psn_tutorial.carriers`. :func:`perturbed` and :func:`stacked` are the carrier "weights".
        rank: of the noise, for the carrier "lowrank".
        layers: "all", or only some: "first", "middle", "last" third of the depth, or numbers from 0 such as "4-7".
            The draws do not depend on it: a layer that is among them gets the noise that it gets with "all". Not in the
            paper, which compares sites; that reinforcement learning changes the middle layers most is the claim of
            arXiv 2607.01232 (second-hand).
    """

    sigma: float
    targets: str = "mlp"
    relative: bool = False
    seed: int = 0
    antithetic: bool = False
    carrier: str = "auto"
    rank: int = 16
    layers: str = "all"

    @classmethod
    def of(cls, config: Any, sigma: float) -> "NoiseConfig":
        """The noise of a training run's settings, :class:`psn_tutorial.config.TrainConfig`, at a step's sigma."""
        names = ("targets", "relative", "seed", "antithetic", "carrier", "layers")
        return cls(sigma, **{name: getattr(config, name) for name in names}, rank=config.noise_rank)

    def __post_init__(self):
        check_range("sigma", self.sigma, low=0, high=LARGEST_SIGMA)
        check_named("carrier", self.carrier, CARRIERS)
        check_count("rank", self.rank)
        check_layers(self.layers)


@dataclass(frozen=True)
class NoiseReceipt:
    """What the noise really did, measured on the weights after the cast to their own type.

    Attributes:
        names: the perturbed tensors; a tensor with several names (tied embeddings) stands once, as
            "model.embed_tokens.weight = lm_head.weight".
        entries: how many numbers they hold together.
        requested_sigma: root mean square, over the entries, of the standard deviation asked for.
        realised_sigma: root mean square of the change (over all draws when several are stacked).
        norm: Euclidean length of the change (root mean square over the draws).
        unchanged_fraction: share of entries that the cast to the tensor's type left as they were.
    """

    names: tuple[str, ...]
    entries: int
    requested_sigma: float
    realised_sigma: float
    norm: float
    unchanged_fraction: float


@dataclass
class _Target:
    """One tensor to perturb: its names, and the (module, attribute) pairs that hold it."""

    parameter: nn.Parameter
    names: list[str] = field(default_factory=list)
    owners: list[tuple[nn.Module, str]] = field(default_factory=list)


def select(model: nn.Module, targets: str, layers: str = "all") -> list[_Target]:
    """The tensors that ``targets`` and ``layers`` name together, each once however many names it has.

    Raises:
        UserError: as :func:`psn_tutorial.sites.chosen`; the filter matches nothing, or a quantised tensor.
    """
    those = _named(model, targets, layers)
    for target in those:
        if not target.parameter.is_floating_point():
            raise UserError(
                f"targets {targets!r} matches {target.names[0]}, which is quantised ({target.parameter.dtype}): "
                "noise needs floating-point weights"
            )
    return those


def _named(model: nn.Module, targets: str, layers: str) -> list[_Target]:
    """As :func:`select`, with quantised tensors."""
    found: dict[int, _Target] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            if parameter is None:
                continue
            target = found.setdefault(id(parameter), _Target(parameter))
            target.names.append(f"{path}.{attribute}" if path else attribute)
            target.owners.append((module, attribute))
    wanted = chosen((name for target in found.values() for name in target.names), targets, layers)
    those = [target for target in found.values() if not wanted.isdisjoint(target.names)]
    if not those:
        example = ", ".join(target.names[0] for target in list(found.values())[:3])
        raise UserError(f"targets {targets!r} matches no parameter of the model, whose names look like {example}")
    return those


def on_head_alone(model: nn.Module, config: NoiseConfig) -> bool:
    """Does the noise leave all hidden states as they are, because every tensor that gets it is the head's alone? A head
    that is tied is the embedding too; of a carrier from outside the package it is not known.

    Raises:
        UserError: as :func:`psn_tutorial.sites.chosen`; the filter matches nothing.
    """
    named = _named(model, config.targets, config.layers)
    return config.carrier in CARRIERS and all(role(name) == "head" for target in named for name in target.names)


def gaussian(config: NoiseConfig, draw: int, name: str, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of one draw for one tensor: fp32, on the CPU, of the tensor's shape.

    The seed is a hash of (seed, draw, name), so nothing depends on order, device or rank. torch's CPU generator keeps
    32 bits of it: of the 200,000 seeds of 600 steps on a 339-tensor model about one in 20,000 recurs; the
    released code's ``step ^ adler32(name)`` repeats 2.9 % of them.
    """
    sign = 1.0
    if config.antithetic:
        draw, odd = divmod(draw, 2)
        sign = -1.0 if odd else 1.0
    return torch.randn(tuple(shape), generator=stream(config.seed, draw, name)).mul_(sign)


def stream(seed: int, *purpose: str | int) -> torch.Generator:
    """A random stream of its own for every (seed, purpose, step ...), so that a resumed run needs no saved state.

    Returns a generator on the CPU. Hashed, because torch's CPU generator keeps only the low 32 bits of its seed.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def _scale(config: NoiseConfig, parameter: Tensor) -> float:
    """Standard deviation of the noise on this tensor."""
    if not config.relative:
        return config.sigma
    return config.sigma * float(parameter.detach().float().square().mean().sqrt())


def _noisy(config: NoiseConfig, draw: int, target: _Target, scale: float) -> Tensor:
    """The tensor with one draw of standard deviation ``scale`` added, in its own type and place."""
    clean = target.parameter.detach()
    noise = gaussian(config, draw, target.names[0], clean.shape).to(clean.device)
    return noise.mul_(scale).add_(clean).to(clean.dtype)  # added in fp32, then rounded once


class Tally:
    """Sums over the perturbed tensors, from which the receipt follows."""

    def __init__(self) -> None:
        self.names, self.entries, self.unchanged, self.wanted, self.changed = [], 0, 0.0, 0.0, 0.0

    def add(self, name: str, entries: int, scale: float, changed: float, unchanged: float) -> None:
        """One tensor, its noise of standard deviation ``scale``: the sum of the squares of its change, and how many
        entries stayed as they were, both means over the draws."""
        self.names.append(name)
        self.entries += entries
        self.wanted += entries * scale**2
        self.changed += changed
        self.unchanged += unchanged

    def add_noisy(self, target: _Target, noisy: Tensor, scale: float, draws: int = 1) -> None:
        """One tensor and what became of it, [...] or [draws, ...]."""
        change = noisy.float() - target.parameter.detach().float()
        changed = float(torch.linalg.vector_norm(change, dtype=torch.float64)) ** 2 / draws
        unchanged = (change.numel() - int(torch.count_nonzero(change))) / draws
        self.add(" = ".join(target.names), target.parameter.numel(), scale, changed, unchanged)

    def receipt(self) -> NoiseReceipt:
        rms = lambda total: (total / self.entries) ** 0.5  # noqa: E731
        return NoiseReceipt(
            tuple(self.names),
            self.entries,
            rms(self.wanted),
            rms(self.changed),
            self.changed**0.5,
            self.unchanged / self.entries,
        )


@contextmanager
def perturbed(model: nn.Module, config: NoiseConfig, draw: int = 0) -> Iterator[NoiseReceipt]:
    """Add one draw of noise to the model's weights in place for the length of a ``with`` block.

    The clean tensors are kept and put back, never recovered by subtracting, which rounds: on leaving the
    block, by an exception too, every parameter is bitwise what it was. Paper: theta~ = theta + eps.

    Args:
        draw: number of the draw; with ``config.seed`` and a tensor's name it fixes the noise, on every machine.

    Yields:
        NoiseReceipt: what was changed, and by how much.

    Raises:
        UserError: see :func:`select`.
    """
    targets, tally = select(model, config.targets, config.layers), Tally()
    clean = [target.parameter.data for target in targets]
    try:
        for target in targets:
            scale = _scale(config, target.parameter)
            noisy = _noisy(config, draw, target, scale)
            tally.add_noisy(target, noisy, scale)
            target.parameter.data = noisy
        yield tally.receipt()
    finally:
        for target, data in zip(targets, clean, strict=True):
            target.parameter.data = data


@contextmanager
def stacked(model: nn.Module, config: NoiseConfig, draws: Sequence[int]) -> Iterator[NoiseReceipt]:
    """Let each row of a batch see its own draw: row b of B rows uses ``draws[b // (B // N)]``.

    The N noisy copies of a weight are stacked to [N, out, in] and a linear layer becomes one batched matrix product, so
    that N draws cost one pass. Draw d gives bitwise the weights that ``perturbed(model, config, d)`` gives. The clean
    parameters are never touched. Works in :func:`psn_tutorial.models.decoder.forward` and in transformers' own forward.

    Yields:
        NoiseReceipt: over all draws together.

    Raises:
        UserError: ``draws`` is empty, a target belongs to a layer that computes something else than a linear layer, an
            embedding or an RMS norm, or (when the model runs) the batch cannot be shared evenly among the draws.
    """
    if not len(draws):
        raise UserError("draws must name at least one draw, got none")
    targets, tally, stacks = select(model, config.targets, config.layers), Tally(), {}
    for target in targets:
        scale = _scale(config, target.parameter)
        stack = torch.stack([_noisy(config, draw, target, scale) for draw in draws])
        tally.add_noisy(target, stack, scale, len(draws))
        for module, attribute in target.owners:
            stacks.setdefault(module, {})[attribute] = stack
    with other_forwards() as give:
        for module, tensors in stacks.items():
            give(module, _stacked_forward(module, tensors, len(draws)))
        yield tally.receipt()


@contextmanager
def other_forwards() -> Iterator[Callable[[nn.Module, Callable[..., Tensor]], None]]:
    """Give modules another forward pass for the length of the block, by calling what this yields.

    On leaving it, by an exception too, each has again what it had: the one of its class, or one of its own, where a
    library has put a hook (accelerate). While the block lasts, such a hook rests unless the new pass calls it.
    """
    before: dict[nn.Module, Callable[..., Tensor] | None] = {}

    def give(module: nn.Module, forward: Callable[..., Tensor]) -> None:
        before.setdefault(module, vars(module).get("forward"))
        module.forward = forward

    try:
        yield give
    finally:
        for module, own in before.items():
            if own is None:
                del module.forward
            else:
                module.forward = own


def share_rows(x: Tensor, draws: int) -> Tensor:
    """[B, ..., C] -> [N, B/N * ..., C]: the rows of each draw together."""
    if x.shape[0] % draws:
        raise UserError(f"the batch must be a multiple of the {draws} draws, got {x.shape[0]} rows")
    return x.reshape(draws, -1, x.shape[-1])


def _stacked_forward(module: nn.Module, tensors: dict[str, Tensor], draws: int) -> Callable[[Tensor], Tensor]:
    """The forward pass of one module whose parameters are stacked over the draws, [N, ...].

    It takes the place of the module's own, so a subclass that computes something else (scaled embeddings, layers in
    4 bits) is refused.
    """
    own = type(module).forward
    if own is nn.Linear.forward:
        weight = tensors.get("weight", module.weight).mT
        bias = tensors["bias"][:, None] if "bias" in tensors else module.bias

        def linear(x: Tensor) -> Tensor:
            rows = share_rows(x, draws)
            out = rows @ weight if bias is None else rows @ weight + bias
            return out.view(*x.shape[:-1], -1)

        return linear
    if own is nn.Embedding.forward and module.max_norm is None:
        weight, size = tensors["weight"].flatten(0, 1), module.num_embeddings

        def embedding(ids: Tensor) -> Tensor:
            offset = torch.arange(draws, device=ids.device)[:, None] * size
            return F.embedding(share_rows(ids[..., None], draws)[..., 0] + offset, weight).view(*ids.shape, -1)

        return embedding
    if _is_rms_norm(module):
        weight = tensors["weight"][:, None]

        def rms_norm(x: Tensor) -> Tensor:
            return (share_rows(_normed(module, x), draws) * weight).view(x.shape)

        return rms_norm
    raise UserError(
        "several draws in one batch need plain linear layers, embeddings or RMS norms, "
        f"got {type(module).__name__}; one draw at a time can perturb it"
    )


def _normed(module: nn.Module, x: Tensor) -> Tensor:
    """``x`` divided by its root mean square, as the RMS norms of Qwen and Llama divide it."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=module.variance_epsilon).to(x.dtype)


@torch.no_grad()
def _is_rms_norm(module: nn.Module) -> bool:
    """Is ``module`` the RMS norm of Qwen and Llama? It is asked for an output: there is no class in common, and others
    look the same from outside (Gemma multiplies by 1 + weight)."""
    if not hasattr(module, "variance_epsilon") or list(module._parameters) != ["weight"]:
        return False
    x = torch.linspace(-1, 2, len(module.weight), dtype=module.weight.dtype, device=module.weight.device)
    return torch.allclose(module(x), _normed(module, x) * module.weight, rtol=0.02, atol=0)  # 0.02: bfloat16 rounds
