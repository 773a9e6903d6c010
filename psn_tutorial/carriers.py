"""How the noise is applied to a model: in its weights, or beside weights that must not change.

A quantised base cannot take noise into its weights: rounding noisy weights to 4 bits again changes no code at useful
sizes, and adding and removing noise through a merged adapter drifts. So the noise is added beside the base, in the
forward pass of the linear layers alone, and the base stays what it was, bit for bit:

    "weights"  theta + eps in the parameters themselves (:mod:`psn_tutorial.noise`); for ordinary models
    "dense"    a noisy copy of the dequantised weight; the reference, at 2 bytes per perturbed weight and draw
    "lowrank"  eps = B A of rank r with entries of standard deviation sigma, never formed: x -> W x + B (A x)

Every carrier takes several draws at once: row b of B rows uses ``draws[b // (B // N)]``, one pass serves all. Each
yields the same receipt. LoRA weights are never perturbed: noise on A does nothing while B is zero, and grows with B
later; noise on B stays in the r directions of the input that A reads.

A carrier of your own is a context manager, which a setting names as my_module:my_carrier. It gets the model, the
NoiseConfig and the draws, applies the noise for the length of the block, leaves the model as it was, bit for bit, and
yields a NoiseReceipt, which a Tally adds up:

    @contextmanager
    def last_norm(model, config, draws):
        weight, tally = model.model.norm.weight, Tally()
        clean = weight.data
        noise = config.sigma * gaussian(config, draws[0], "model.norm.weight", clean.shape)
        weight.data = clean + noise
        tally.add("model.norm.weight", clean.numel(), config.sigma, float(noise.square().sum()), 0)
        yield tally.receipt()
        weight.data = clean
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from psn_tutorial.choices import LINEAR_TARGETS
from psn_tutorial.errors import UserError, shown
from psn_tutorial.extensions import imported, in_one_sentence, is_named
from psn_tutorial.models.qlora import dense_weight, is_four_bit
from psn_tutorial.noise import (
    NoiseConfig,
    NoiseReceipt,
    Tally,
    gaussian,
    other_forwards,
    perturbed,
    select,
    share_rows,
    stacked,
)
from psn_tutorial.sites import chosen, role


@contextmanager
def carried(model: nn.Module, config: NoiseConfig, draws: Sequence[int]) -> Iterator[NoiseReceipt]:
    """The model with the noise of these draws, by the carrier that ``config`` names.

    What "auto" means, see :func:`carrier_of`.

    Raises:
        UserError: no draw, a filter that matches nothing that the carrier can carry, or a matrix that it cannot.
    """
    if not len(draws):
        raise UserError("draws must name at least one draw, got none")
    kind = carrier_of(model, config)
    if is_named(kind):
        context = _own(model, config, draws)
    elif kind == "weights" and len(draws) == 1:
        context = perturbed(model, config, draws[0])
    elif kind == "weights":
        context = stacked(model, config, draws)
    else:
        context = _beside(model, config, draws, _dense if kind == "dense" else _low_rank)
    with context as receipt:
        yield receipt


@contextmanager
def _own(model: nn.Module, config: NoiseConfig, draws: Sequence[int]) -> Iterator[NoiseReceipt]:
    """The carrier of another module. What it raises, in the model's forward pass too, is told in a sentence; its block
    is left without an exception in any case, so that what stands behind its yield is done."""
    own, what = imported("carrier", config.carrier), f"the carrier {config.carrier} fails"
    file = getattr(getattr(own, "__wrapped__", own), "__code__", None)
    stack = ExitStack()
    try:
        with in_one_sentence(what):
            receipt = stack.enter_context(own(model, config, draws))
        if not isinstance(receipt, NoiseReceipt):
            raise UserError(f"the carrier {config.carrier} must yield a NoiseReceipt, got {shown(receipt)}")
        with in_one_sentence(what, file.co_filename if file else ""):
            yield receipt
    finally:
        with in_one_sentence(what):
            stack.close()


def check_carrier(model: nn.Module, config: NoiseConfig) -> None:
    """Apply the noise once and take it away. For a carrier of another module this keeps a copy of all weights.

    Raises:
        UserError: as :func:`carried`; a carrier of another module leaves the model another than it was.
    """
    if not is_named(config.carrier):
        with carried(model, config, [0]):
            return
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    forwards = {name: vars(module).get("forward") for name, module in model.named_modules()}
    with carried(model, config, [0]):
        pass
    left = [name for name, weight in model.named_parameters() if not _bitwise_equal(weight, weights[name])]
    left += [name for name, module in model.named_modules() if vars(module).get("forward") is not forwards[name]]
    if left:
        raise UserError(
            f"the carrier {config.carrier} must leave the model as it was, bit for bit, but {left[0]} is another"
        )


def _bitwise_equal(one: Tensor, other: Tensor) -> bool:
    one, other = (x.detach().contiguous().flatten() for x in (one, other))
    return one.shape == other.shape and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def carrier_of(model: nn.Module, config: NoiseConfig) -> str:
    """The carrier that ``config`` means for this model: one of "weights", "dense" and "lowrank", or one's own.

    "auto" is "lowrank" beside weights that do not learn, those of a model with 4-bit layers or with an adapter: several
    draws then cost no copies of its matrices. It is "weights" for all other models, and where an adapter's base, not in
    4 bits, is to have noise elsewhere than in its linear layers.
    """
    if config.carrier != "auto":
        return config.carrier
    adapted = hasattr(model, "disable_adapter") and config.targets in LINEAR_TARGETS
    return "lowrank" if adapted or any(map(is_four_bit, model.modules())) else "weights"


def change_since(model: nn.Module, config: NoiseConfig) -> Callable[[], float]:
    """A function that tells how far training has moved the perturbed weights since now, as a Euclidean length.

    Of a layer with an adapter it is the change of the product B A that counts, times its scale. What does not learn
    has not moved.
    """
    kind = carrier_of(model, config)
    if kind == "weights":
        weights = [target.parameter for target in select(model, config.targets, config.layers)]
    elif is_named(kind):
        weights = _named_weights(model, config)
    else:
        weights = [layer.weight for layer in linear_layers(model, config.targets, config.layers).values()]
    if not hasattr(model, "disable_adapter"):
        now = [weight for weight in weights if weight.requires_grad]
        before = [p.detach().clone() for p in now]
        return lambda: sum(float((p.detach() - b).square().sum()) for p, b in zip(now, before, strict=True)) ** 0.5
    perturbed_ids = set(map(id, weights))
    layers = [m for m in model.modules() if hasattr(m, "lora_A") and id(m.base_layer.weight) in perturbed_ids]
    before = [_factors(layer, copy=True) for layer in layers]

    def moved() -> float:
        square = 0.0
        for layer, (up, down) in zip(layers, before, strict=True):
            new_up, new_down = _factors(layer)
            left, right = torch.cat([new_up, -up], 1), torch.cat([new_down, down])  # B' A' - B A = left @ right
            square += float(((left.mT @ left) * (right @ right.mT)).sum())
        return max(square, 0.0) ** 0.5  # rounding may leave a tiny negative number

    return moved


def _named_weights(model: nn.Module, config: NoiseConfig) -> list[nn.Parameter]:
    """The parameters that ``config`` names, quantised or not, in the model or below its adapter."""
    every = model.named_parameters(remove_duplicate=False)
    named = {_bare_name(name): parameter for name, parameter in every if "lora_" not in name}
    wanted = chosen(named, config.targets, config.layers)
    return list({id(parameter): parameter for name, parameter in named.items() if name in wanted}.values())


def _factors(layer: nn.Module, copy: bool = False) -> tuple[Tensor, Tensor]:
    """B times its scale [out, r], and A [r, in], of a peft layer's adapter."""
    (name,) = layer.active_adapters
    up, down = layer.lora_B[name].weight.detach() * layer.scaling[name], layer.lora_A[name].weight.detach()
    return up, down.clone() if copy else down


def linear_layers(model: nn.Module, targets: str, layers: str = "all") -> dict[str, nn.Module]:
    """The linear layers whose weight ``targets`` and ``layers`` name, by the name that weight has in the bare model.

    peft's wrapping is looked through and its own layers are left out, so that a draw is the same noise on a model
    with an adapter, in 4 bits or not.

    Raises:
        UserError: no linear layer matches.
    """
    found = {
        _bare_name(f"{path}.weight"): module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in path
    }
    wanted = chosen(found, targets, layers)
    if not wanted:
        raise UserError(
            f"targets {targets!r} matches no linear layer of the model; a carrier beside the weights needs the "
            "linear layers of mlp, attention and head"
        )
    return {name: module for name, module in found.items() if name in wanted}


def left_out(model: nn.Module, config: NoiseConfig) -> list[str]:
    """The parameters that ``config.targets`` names and the carrier leaves without noise: beside the weights of linear
    layers these are norms, biases and embeddings. Of a carrier of another module nothing is known."""
    kind = carrier_of(model, config)
    if kind == "weights" or is_named(kind):
        return []
    carried_along = linear_layers(model, config.targets, config.layers)
    names = [_bare_name(name) for name, _ in model.named_parameters() if "lora_" not in name]
    wanted = chosen(names, config.targets, config.layers)
    return [name for name in names if name in wanted and name not in carried_along]


def _bare_name(name: str) -> str:
    """The name that a parameter has in the model without peft's wrapping."""
    return re.sub(r"^base_model\.model\.|\.base_layer", "", name)


def _check_carriable(model: nn.Module, config: NoiseConfig, layers: dict[str, nn.Module]) -> None:
    """Raise UserError when a matrix that ``config.targets`` names gets no noise (the experts of a mixture stand in one
    tensor, in no linear layer), or a linear layer computes something of its own. Embeddings are left out of "all"."""
    kind = carrier_of(model, config)
    matrices = {_bare_name(name) for name, parameter in model.named_parameters() if parameter.dim() > 1}
    for name in left_out(model, config):
        if name in matrices and not (config.targets == "all" and role(name) == "embeddings"):
            raise UserError(
                f"targets {config.targets!r} names {name}, which is in no linear layer: the carrier {kind!r} cannot "
                "give it noise; name the linear layers alone, or take the carrier 'weights'"
            )
    for name, layer in layers.items():
        if type(layer).forward is not nn.Linear.forward and not is_four_bit(layer):
            raise UserError(
                f"the carrier {kind!r} needs plain or 4-bit linear layers, got {type(layer).__name__} for {name}"
            )


Noisy = tuple[Callable[[Tensor], Tensor], float, float]  # a forward pass; mean square and unchanged share of its noise


@contextmanager
def _beside(
    model: nn.Module, config: NoiseConfig, draws: Sequence[int], carry: Callable[..., Noisy]
) -> Iterator[NoiseReceipt]:
    """Give each target a noisy forward pass for the length of the block; take it away again, whatever happens."""
    layers, tally = linear_layers(model, config.targets, config.layers), Tally()
    _check_carriable(model, config, layers)
    with other_forwards() as give:
        for name, layer in layers.items():
            scale = config.sigma * _rms(layer) if config.relative else config.sigma
            forward, mean_square, same = carry(layer, config, draws, name, scale)
            give(layer, forward)
            count = layer.in_features * layer.out_features
            tally.add(name, count, scale, count * mean_square, count * same)
        yield tally.receipt()


def _rms(layer: nn.Module) -> float:
    """Root mean square of a layer's weight. One in 4 bits never learns: it is dequantised for this once, and the
    number kept with its scales, which any other weight would replace."""
    kept = vars(layer.weight.quant_state) if is_four_bit(layer) else {}
    if "rms" not in kept:
        kept["rms"] = float(dense_weight(layer).float().square().mean().sqrt())
    return kept["rms"]


def _dense(layer: nn.Module, config: NoiseConfig, draws: Sequence[int], name: str, scale: float) -> Noisy:
    """Multiply by noisy copies [N, out, in] of the weight, rounded to its type as :func:`perturbed` rounds."""
    weight = dense_weight(layer)
    clean = weight.float()
    noisy = torch.stack(
        [
            gaussian(config, draw, name, weight.shape).to(weight.device).mul_(scale).add_(clean).to(weight.dtype)
            for draw in draws
        ]
    )
    change = noisy.float() - clean

    def forward(x: Tensor) -> Tensor:
        rows = share_rows(x.to(noisy.dtype), len(draws))
        out = (rows @ noisy.mT if len(draws) > 1 else nn.functional.linear(rows, noisy[0])).view(*x.shape[:-1], -1)
        return (out if layer.bias is None else out + layer.bias.to(out.dtype)).to(x.dtype)

    return forward, float(change.square().mean()), float((change == 0).float().mean())


def _low_rank(layer: nn.Module, config: NoiseConfig, draws: Sequence[int], name: str, scale: float) -> Noisy:
    """Add B (A x) with A [N, r, in] and B [N, out, r], entries ~ N(0, s^2), s^2 = scale / sqrt(r): then the entries
    of B A, sums of r products, have standard deviation ``scale``."""
    rank, size = config.rank, (scale / config.rank**0.5) ** 0.5
    dtype, device = layer.compute_dtype if hasattr(layer, "compute_dtype") else layer.weight.dtype, layer.weight.device
    if device.type == "cpu" and is_four_bit(layer):
        dtype = torch.float32  # a CPU multiplies so thin matrices faster than in bfloat16, both casts included
    one_sided = NoiseConfig(config.sigma, seed=config.seed)  # antithetic: B alone changes its sign
    ups, downs = [], []
    for draw in draws:
        pair = draw // 2 if config.antithetic else draw
        downs.append(gaussian(one_sided, pair, f"{name}/A", (rank, layer.in_features)))
        ups.append(gaussian(config, draw, f"{name}/B", (layer.out_features, rank)))
    # squeeze: one draw is not multiplied as a batch of one
    down, up = (torch.stack(x).mul_(size).to(device=device, dtype=dtype).squeeze(0) for x in (downs, ups))
    # |B A|^2 = trace of (A A^T)(B^T B): r x r numbers instead of out x in.
    square = float(((down @ down.mT).float() * (up.mT @ up).float()).sum()) / len(draws)
    clean = layer.forward

    def forward(x: Tensor) -> Tensor:
        if len(draws) == 1:
            return clean(x) + nn.functional.linear(nn.functional.linear(x.to(dtype), down), up).to(x.dtype)
        rows = share_rows(x.to(dtype), len(draws))
        return clean(x) + (rows @ down.mT @ up.mT).view(*x.shape[:-1], -1).to(x.dtype)

    return forward, square / (layer.in_features * layer.out_features), 0.0
