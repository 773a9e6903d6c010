"""Sliders on models that can be summed exactly: the cap, temperature against noise at equal KL, a scheduler's gain."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.optimize import brentq

from psn_tutorial.errors import UserError, check_count, check_range
from psn_tutorial.importance import importance_weights
from psn_tutorial.noise import NoiseConfig, perturbed
from psn_tutorial.reporting.plotting.style import AQUA, BROWN, GREY, TEAL, arm_colours
from psn_tutorial.schedulers import KLTargetSigma
from psn_tutorial.teaching import exact
from psn_tutorial.teaching.sliders.moving import slide_figure
from psn_tutorial.teaching.tabular import random_policy, trajectories

CAPS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
KLS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
FACTORS = (1.01, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0)


def cap_slider(samples: int = 16, values: Sequence[float] = CAPS) -> None:
    """The cap C against bias and variance: the weights of 27 trajectories, what C cuts off, and what that does.

    Exact sums over the trajectories of a small policy under noise, weights per sequence; the estimate is of E_pi[f],
    f a reward minus a baseline. samples: n, of which the error sqrt(bias^2 + variance / n) is shown.
    """
    check_count("samples", samples)
    slide_figure("cap C", values, lambda axes, cap: _draw_cap(axes, cap, samples), (0.5, 2.0, 10.0))


def equal_kl_slider(steps: int = 6, rare: float = 0.1, values: Sequence[float] = KLS) -> None:
    """Temperature against weight noise at equal KL: the chance to keep a rare choice for 1, 2, ... steps.

    At each step the policy takes the rare one of two tokens with probability ``rare``. Noise moves the log-odds of all
    steps alike, by sigma z with one z ~ N(0, 1) per answer; a temperature divides them. Both are set to the same
    KL(sampler || policy) in nats per token.

    Raises UserError: a KL that no temperature reaches.
    """
    check_count("steps", steps)
    check_range("rare", rare, above=0, below=0.5)
    most = math.log(0.5 / rare) / 2 + math.log(0.5 / (1 - rare)) / 2  # of the hottest sampler, a fair coin
    if wrong := [value for value in values if not 0 < value < most]:
        raise UserError(f"values must be above 0 and below {most:.3f}, the KL of a coin toss, got {wrong[0]}")
    still = (values[0], values[len(values) // 2], values[-1])
    slide_figure("KL, nats per token", values, lambda axes, kl: _draw_equal_kl(axes, kl, steps, rare), still)


def gain_slider(target: float = 0.003, steps: int = 300, values: Sequence[float] = FACTORS) -> None:
    """The gain of a scheduler: KLTargetSigma with other factors, on a policy whose KL is 3 sigma^2, measured roughly.

    sigma starts ten times too small, and after half of the steps the policy becomes four times as sensitive. The
    measurement has a relative error of 30 % (a seeded normal). target: of the KL in nats per token.
    """
    check_range("target", target, above=0)
    check_count("steps", steps, low=10)
    slide_figure("factor", values, lambda axes, factor: _draw_gain(axes, factor, target, steps), (1.01, 1.1, 2.0))


def _draw_cap(axes: Axes, cap: float, samples: int) -> Mapping[str, Any]:
    every = trajectories(vocabulary=3, horizon=3)
    policy = random_policy(every, seed=0)
    clean = policy.logps().detach()
    with perturbed(policy, NoiseConfig(sigma=1.0, targets="weight"), draw=0):
        noisy = policy.logps().detach()
    reward = torch.rand(len(every), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    target, sampler, f = exact.probabilities(clean), exact.probabilities(noisy), reward - 0.3
    free = target / sampler
    kept = importance_weights(clean, noisy, every.mask, cap=cap, level="sequence").weights[:, 0]
    bias = float(sampler @ (kept * f) - target @ f)
    variance = float(sampler @ (kept * f).square() - (sampler @ (kept * f)) ** 2)
    error = math.sqrt(bias**2 + variance / samples)
    order = free.argsort(descending=True)
    axes.bar(range(len(order)), free[order].numpy(), color=GREY, alpha=0.35, label="cut off")
    axes.bar(range(len(order)), kept[order].numpy(), color=TEAL, label="kept")
    axes.axhline(cap, color=BROWN, linewidth=1)
    axes.set(xlabel="trajectories, by their weight", ylabel="importance weight")
    axes.set(
        title=f"C = {cap:g}: bias {bias:+.3f}, deviation {variance**0.5:.3f},\nerror of {samples} samples {error:.3f}"
    )
    axes.set_xticks([])
    axes.legend(fontsize=8)
    return {"bias": bias, "standard deviation of a sample": variance**0.5, f"error of {samples} samples": error}


def _draw_equal_kl(axes: Axes, kl: float, steps: int, rare: float) -> Mapping[str, Any]:
    start = math.log(rare / (1 - rare))
    temperature = 1 / brentq(lambda inverse: float(_kl(start * inverse, start)) - kl, 1e-9, 1.0)
    sigma = brentq(lambda s: float(exact.gaussian_mean(lambda x: _kl(start + x, start), s)) - kl, 1e-3, 50.0)
    needed = np.arange(1, steps + 1)
    powers = torch.as_tensor(needed)
    chance = {
        "base": rare**needed,
        "temperature": (1 / (1 + math.exp(-start / temperature))) ** needed,
        "weight noise": exact.gaussian_mean(lambda x: torch.sigmoid(start + x)[:, None] ** powers, sigma).numpy(),
    }
    for name, colour in arm_colours(chance).items():
        axes.plot(needed, chance[name], "o-", color=colour, label=name, markersize=4)
    axes.set(yscale="log", ylim=(rare**steps / 2, 1), xlabel="steps at which it is needed", ylabel="chance of success")
    axes.set(title=f"KL {kl:g}: T = {temperature:.2f},\nsigma = {sigma:.2f} of the log-odds")
    axes.legend(fontsize=8)
    return {
        "temperature": temperature,
        "sigma": sigma,
        **{f"{k}, success": list(map(float, v)) for k, v in chance.items()},
    }


def _kl(log_odds: Any, start: float) -> Any:
    """KL of a coin with these log-odds to one with the log-odds ``start``, in nats; tensors are welcome."""
    log_odds = torch.as_tensor(log_odds, dtype=torch.float64)
    p, base = torch.sigmoid(log_odds), torch.tensor(start, dtype=torch.float64)
    heads = torch.nn.functional.logsigmoid(log_odds) - torch.nn.functional.logsigmoid(base)
    tails = torch.nn.functional.logsigmoid(-log_odds) - torch.nn.functional.logsigmoid(-base)
    return p * heads + (1 - p) * tails


def _draw_gain(axes: Axes, factor: float, target: float, steps: int) -> Mapping[str, Any]:
    right = np.where(np.arange(steps) < steps // 2, (target / 3) ** 0.5, (target / 12) ** 0.5)  # KL = 3 or 12 sigma^2
    chance = np.random.default_rng(0).standard_normal(steps)
    scheduler, path = KLTargetSigma(float(right[0]) / 10, target, factor=factor), []
    for wanted, error in zip(right, chance, strict=True):
        path.append(scheduler.sigma)
        scheduler.update({"kl_k1": target * (scheduler.sigma / wanted) ** 2 * (1 + 0.3 * error)})
    apart = np.log2(np.array(path) / right)  # doublings
    near = np.flatnonzero(np.abs(apart[: steps // 2]) < 0.5)
    arrived = int(near[0]) if len(near) else None
    swing = float(np.abs(apart[3 * steps // 4 :]).mean())
    axes.plot(right, color=GREY, linestyle="--", label="sigma at the target")
    axes.plot(path, color=AQUA, label="the scheduler's sigma")
    axes.set(yscale="log", xlabel="training step", ylabel="sigma")
    when = "not there in time" if arrived is None else f"there after {arrived} steps"
    axes.set(title=f"factor {factor:g}: {when},\nthen off by {swing:.2f} doublings")
    axes.legend(fontsize=8, loc="lower right")
    return {
        "steps until near": "never" if arrived is None else arrived,
        "doublings off in the end": swing,
        "sigma": path,
    }
