"""Equal deviation: how far a sampler is from the clean policy, and the setting at which it is a wanted distance off.

Noise of one standard deviation means something else on every set of weights, and cannot be compared with a temperature
at all. What a step pays for is how far the trajectories of the sampler are from those of the clean policy,
KL(sampler || clean) in nats per token. Samplers are compared where that is equal.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from scipy.optimize import brentq

from psn_tutorial.carriers import carried
from psn_tutorial.errors import UserError, check_count, check_positive
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.policy import Policy, Prompts
from psn_tutorial.noise import NoiseConfig, stream
from psn_tutorial.rollout import sample, spread_draws


@torch.no_grad()
def sampler_kl(
    policy: Policy,
    prompts: Prompts,
    max_tokens: int,
    noise: NoiseConfig | None = None,
    temperature: float = 1.0,
    draws: int = 16,
    seed: int = 0,
    ends: bool = True,
) -> float:
    """KL(mu || pi) in nats per token: mu is the noisy or hot sampler, pi the clean policy at temperature 1.

    E_mu[ sum_t log mu(o_t | o_<t) - log pi(o_t | o_<t) ] / E_mu[ tokens ], averaged over draws of noise. The
    trajectories are sampled from mu; at each of their prefixes the sum over the vocabulary is exact. It has the mean of
    the k1 that a training step logs, far less variance, and no sign but plus.

    Args:
        prompts, max_tokens, ends: as in :func:`psn_tutorial.rollout.sample`.
        draws: N; every prompt is answered once under each of the draws 0 .. N - 1 (N times where there is no noise).
        seed: of the sampling; one seed uses the same random numbers for every noise and temperature.

    Raises:
        UserError: no draw, or a temperature that is not above 0.
    """
    check_count("draws", draws)
    model = policy.model
    shared = spread_draws(len(prompts.ids), draws, draws, "pooled")
    rollouts = sample(policy, prompts, draws, max_tokens, stream(seed, "calibrate"), temperature, noise, shared, ends)
    order = shared.flatten().argsort(stable=True)  # the rows of each draw together, as the noisy weights want them
    order = order.to(rollouts.tokens.device)
    tokens, mask = rollouts.tokens[order], rollouts.mask[order]
    ids, padding = torch.cat([rollouts.prompts[order], tokens[:, :-1]], 1), rollouts.prompt_mask[order]
    with carried(model, noise, range(draws)) if noise else nullcontext():
        mu = (forward(model, ids, padding, last=tokens.shape[1]).float() / temperature).log_softmax(-1)
    pi = forward(model, ids, padding, last=tokens.shape[1]).float().log_softmax(-1)
    return float((mu.exp() * (mu - pi)).sum(-1)[mask].mean())


class OutOfReachError(UserError):
    """No setting between the two ends has the wanted deviation."""


def find_setting(
    measure: Callable[[float], float], target: float, low: float, high: float, tolerance: float = 0.01
) -> float:
    """The setting between ``low`` and ``high`` at which ``measure`` is ``target``: Brent's bisection, on log scales.

    For a sigma, ``lambda sigma: sampler_kl(..., noise=replace(noise, sigma=sigma))``; likewise for a temperature.

    Args:
        measure: setting > 0 -> a number >= 0; at most the target at ``low``, at least the target at ``high``.
        tolerance: relative error allowed in the setting. (The KL of small noise goes with sigma squared: its own
            relative error is then twice that.)

    Raises:
        OutOfReachError: the target does not lie between the two ends.
        UserError: an argument is not above 0.
    """
    for name, value in (("target", target), ("low", low), ("high", high), ("tolerance", tolerance)):
        check_positive(name, value)

    def gap(log_setting: float) -> float:
        measured = measure(math.exp(log_setting))
        return math.log(max(measured, 1e-12) / target)  # no deviation at all has no logarithm

    start, end = math.log(low), math.log(high)
    below, above = gap(start), gap(end)
    if not below <= 0 <= above:
        raise OutOfReachError(
            f"target must lie between the measures at low = {low:g} and at high = {high:g}, which are "
            f"{target * math.exp(below):.3g} and {target * math.exp(above):.3g}, got {target:g}"
        )
    known = {start: below, end: above}
    return math.exp(brentq(lambda x: known[x] if x in known else gap(x), start, end, xtol=tolerance))
