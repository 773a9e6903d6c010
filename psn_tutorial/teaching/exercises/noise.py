"""Exercises about the noise: what coherence is worth, and how sigma follows the signals."""

import math

import torch
from scipy.integrate import quad

from psn_tutorial.teaching.exercises.grading import Exercise


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def _gaussian(f):
    """E_{z ~ N(0, 1)} f(z) by adaptive integration."""
    density = lambda z: f(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    return quad(density, -12, 12, epsabs=0, epsrel=1e-9, limit=200)[0]


def _consistent_success(log_odds, sigma, steps):
    """One z ~ N(0, 1) is kept for the whole answer and moves every step's log-odds to log_odds + sigma z.

    The chance that all ``steps`` choices come out right, E_z[sigmoid(log_odds + sigma z)^steps]; to 0.1 %.
    """
    return _gaussian(lambda z: _sigmoid(log_odds + sigma * z) ** steps)


CONSISTENT_SUCCESS = Exercise(
    _consistent_success,
    [(0.0, 0.0, 1), (0.0, 1.0, 2), (-2.0, 1.0, 1), (-2.0, 1.0, 3), (-2.0, 2.0, 6), (-2.2, 3.0, 12)],
    {
        "this is incoherent noise, a new draw at every step: the power of the mean, not the mean of the power": (
            lambda a, s, n: _gaussian(lambda z: _sigmoid(a + s * z)) ** n
        ),
        "this is without noise": lambda a, s, n: _sigmoid(a) ** n,
        "this adds a noise of variance sigma; sigma is its standard deviation": lambda a, s, n: _gaussian(
            lambda z: _sigmoid(a + math.sqrt(s) * z) ** n
        ),
        "this is one step's success": lambda a, s, n: _gaussian(lambda z: _sigmoid(a + s * z)),
        "hermgauss has the weight exp(-x^2): z is sqrt(2) x": lambda a, s, n: _gaussian(
            lambda z: _sigmoid(a + s * z / math.sqrt(2)) ** n
        ),
        "the noise scales the log-odds; it is added to them": lambda a, s, n: _gaussian(
            lambda z: _sigmoid(a * (1 + s * z)) ** n
        ),
    },
    rtol=1e-3,
    atol=0.0,
)


def _coherent_share(shifts):
    """Shifts [D, N] of D draws of noise at N places -> the share of their variance that lies between draws, ICC(C,1).

    The mean over the draws is taken out of each place first. Between draws and within a draw are unbiased variances:
    of the draws' means, less what the spread within them adds to it by chance; and of the rest.
    """
    rows, draws, places = shifts.tolist(), len(shifts), len(shifts[0])
    of_place = [sum(row[n] for row in rows) / draws for n in range(places)]
    of_draw = [sum(x - mean for x, mean in zip(row, of_place, strict=True)) / places for row in rows]
    pairs = [(d, n) for d in range(draws) for n in range(places)]
    within = sum((rows[d][n] - of_place[n] - of_draw[d]) ** 2 for d, n in pairs) / ((draws - 1) * (places - 1))
    between = sum(x * x for x in of_draw) / (draws - 1) - within / places
    return between / (between + within)


def _share(shifts, rest=None, chance=1.0, power=1.0, within=None):
    """The same with one thing done otherwise."""
    (draws, places), rest = shifts.shape, shifts - shifts.mean(0) if rest is None else rest
    own = rest.mean(1, keepdim=True)
    within = within or (draws - 1) * (places - 1)
    inside = (rest - own).square().sum() / within
    between = own.square().sum() / (draws - 1) - chance * inside / places
    return between**power / (between**power + inside**power)


_SHIFTS = torch.tensor([[1.0, 3.0, 2.5], [-0.5, 1.0, 0.0], [0.2, 2.6, 1.1], [2.0, 3.1, 3.3]], dtype=torch.float64)
COHERENT_SHARE = Exercise(
    _coherent_share,
    [(_SHIFTS[:2, :2],), (_SHIFTS,), (_SHIFTS[:, :2] + 4,), (_SHIFTS[1:] * 3,)],
    {
        "what each place has in common is still in it; take the mean over the draws out of every place": (
            lambda x: _share(x, x - x.mean())
        ),
        "the variance of the draws' means holds chance too: less the variance within, divided by the places": (
            lambda x: _share(x, chance=0.0)
        ),
        "this is the share within a draw; the other is wanted": lambda x: 1 - _share(x),
        "this is a share of standard deviations, not of variances": lambda x: _share(x, power=0.5),
        "this divides the rest by D N; its degrees of freedom are (D - 1)(N - 1)": (
            lambda x: _share(x, within=x.numel())
        ),
        "draws and places are exchanged": lambda x: _share(x.T),
    },
)


def _kl_target_rule(sigma, k1, target):
    """The next sigma, as released: divide by 1.01 above 1.1 target, multiply below target / 1.1; within [1e-6, 0.5]."""
    steps = (k1 < target / 1.1) - (k1 > 1.1 * target)
    return sorted((1e-6, sigma * 1.01**steps, 0.5))[1]


def _bounded(sigma):
    return min(max(sigma, 1e-6), 0.5)


def _rule(sigma, k1, target, factor=1.01, band=1.1):
    """The rule with other numbers."""
    return _bounded(sigma / factor if k1 > band * target else sigma * factor if k1 < target / band else sigma)


KL_TARGET_RULE = Exercise(
    _kl_target_rule,
    [
        (0.1, 0.01, 0.003),
        (0.1, 0.001, 0.003),
        (0.1, 0.00302, 0.003),
        (0.1, 0.0032, 0.003),
        (0.1, 0.0029, 0.003),
        (0.1, -0.01, 0.003),
        (0.1, 0.0026, 0.003),
        (0.1, 0.0034, 0.003),
        (0.499, 0.0, 0.003),
        (1.004e-6, 1.0, 0.003),
        (0.02, 0.02, 0.005),
    ],
    {
        "this is turned round: a KL too large must make sigma smaller": lambda s, k, t: _rule(s, k, t, factor=1 / 1.01),
        "the dead band is missing: between target / 1.1 and 1.1 target sigma stays": lambda s, k, t: _rule(
            s, k, t, band=1.0
        ),
        "k1 is signed; a negative one means too little noise, not much": lambda s, k, t: _rule(s, abs(k), t),
        "this only shrinks sigma and never raises it": lambda s, k, t: _bounded(s / 1.01 if k > 1.1 * t else s),
        "the bounds 1e-6 and 0.5 are missing": lambda s, k, t: s * 1.01 ** ((k < t / 1.1) - (k > 1.1 * t)),
        "this changes sigma by a factor of 1.1; that is the width of the dead band": lambda s, k, t: _rule(
            s, k, t, factor=1.1
        ),
        "the dead band has the width of the step, 1.01, not 1.1": lambda s, k, t: _rule(s, k, t, band=1.01),
        "this multiplies by 0.99, which is not 1 / 1.01": lambda s, k, t: _bounded(
            s * 0.99 if k > 1.1 * t else s * 1.01 if k < t / 1.1 else s
        ),
    },
    rtol=1e-6,
    atol=1e-12,
)


def _self_certainty(logits):
    """Logits [V] of one next-token distribution p -> KL(U || p) in nats, U uniform: 0 for p uniform."""
    powers = [math.exp(x) for x in logits.tolist()]
    uniform = 1 / len(powers)
    return sum(uniform * math.log(uniform / (power / sum(powers))) for power in powers)


SELF_CERTAINTY = Exercise(
    _self_certainty,
    [(torch.tensor(x, dtype=torch.float64),) for x in ([0.0, 0.0], [0.0, 2.0], [1.0, -3.0, 0.5], [9.0, 0, 1.5, -4])],
    {
        "this is the other direction, KL(p || U) = log V - H(p)": lambda x: (
            math.log(len(x)) + (x.softmax(-1) * x.log_softmax(-1)).sum()
        ),
        "this is the entropy of p": lambda x: -(x.softmax(-1) * x.log_softmax(-1)).sum(),
        "this is the cross-entropy of U and p; subtract log V": lambda x: -x.log_softmax(-1).mean(),
        "this is minus the KL": lambda x: x.log_softmax(-1).mean() + math.log(len(x)),
        "this adds up over the vocabulary without the weight 1/V": lambda x: (
            -x.log_softmax(-1).sum() - len(x) * math.log(len(x))
        ),
        "this is in bits; nats use the natural logarithm": lambda x: (
            (-x.log_softmax(-1).mean() - math.log(len(x))) / math.log(2)
        ),
    },
)


def _realtime_rule(sigma, indicator, target, growth):
    """The next sigma: times ``growth`` if the indicator is above its target (rollouts collapsed), else divided."""
    return math.exp(math.log(sigma) + math.copysign(math.log(growth), indicator - target))


REALTIME_RULE = Exercise(
    _realtime_rule,
    [(0.1, 0.9, 0.5, 1.25), (0.1, 0.2, 0.5, 1.25), (0.004, 0.96, 0.95, 1.01), (0.004, 0.94, 0.95, 1.01)],
    {
        "this is turned round: collapsed rollouts (a high indicator) need more noise": lambda s, i, t, g: (
            s / g if i > t else s * g
        ),
        "this only raises sigma and never lowers it": lambda s, i, t, g: s * g if i > t else s,
        "this only lowers sigma and never raises it": lambda s, i, t, g: s if i > t else s / g,
        "this adds the growth; multiply by it": lambda s, i, t, g: s + (g - 1) if i > t else s - (g - 1),
        "this multiplies by 1 - (growth - 1), which is not 1 / growth": lambda s, i, t, g: (
            s * g if i > t else s * (2 - g)
        ),
        "this follows the size of the deviation; the rule knows only its sign": lambda s, i, t, g: s * g ** (i - t),
    },
)

EXERCISES = {
    "consistent_success": CONSISTENT_SUCCESS,
    "coherent_share": COHERENT_SHARE,
    "kl_target_rule": KL_TARGET_RULE,
    "self_certainty": SELF_CERTAINTY,
    "realtime_rule": REALTIME_RULE,
}
