"""What a sampler does to a policy's answers, without training: the record of it, and its figures with intervals.

A sampler explores in one of three ways: with weight noise, at a temperature, or with top-p. Each answer of a noisy
sampler comes from a draw of its own, so that k answers to a problem are those of k draws, which is a pooled group.
Sampling is apart (:mod:`psn_tutorial.evaluation.probing`): this much needs no torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import fdtri
from scipy.stats import rankdata

from psn_tutorial.choices import CARRIERS, LAYERS, TARGETS
from psn_tutorial.errors import UserError, check_choice, check_positive, check_range, shown
from psn_tutorial.evaluation.estimators import pass_at_k
from psn_tutorial.evaluation.intervals import Interval, percentile_interval
from psn_tutorial.extensions import check_named, is_named
from psn_tutorial.runs.files import read_lines
from psn_tutorial.settings import to_mapping
from psn_tutorial.sites import RANGE, check_layers

RESAMPLES, LEVEL = 2000, 0.95
WAYS = (
    "temperature=1.2, top-p=0.9, or a site of noise and its sigma such as mlp=0.1, mlp=0.002:absolute, mlp=0.1:dense, "
    "mlp=0.1:middle"
)


@dataclass(frozen=True)
class Sampler:
    """How answers are sampled; by default from the policy itself, at temperature 1.

    targets, sigma, relative, carrier, rank, layers: the noise, as in :class:`psn_tutorial.noise.NoiseConfig`; sigma 0:
        none.
    temperature, top_p: as in :func:`psn_tutorial.rollout.sample`.
    """

    targets: str = "mlp"
    sigma: float = 0.0
    relative: bool = True
    carrier: str = "auto"
    rank: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    layers: str = "all"

    def __post_init__(self) -> None:
        check_layers(self.layers)
        check_range("sigma", self.sigma, low=0)
        check_positive("temperature", self.temperature)
        check_range("top-p", self.top_p, above=0, high=1)
        check_named("carrier", self.carrier, CARRIERS)

    @classmethod
    def parse(cls, text: str) -> "Sampler":
        """The sampler that a word of the command line means; the inverse of ``str``. UserError for any other word."""
        name, equals, rest = text.partition("=")
        number, *details = rest.split(":")
        if text == "clean":
            return cls()
        if not equals or not re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", number) or number.count(".") > 1:
            raise UserError(f"a sampler must be clean, {WAYS}, got {shown(text)}")
        value = float(number)
        if name in ("temperature", "top-p") and not details:
            return cls(**{name.replace("-", "_"): value})
        check_named("the site of noise", name, TARGETS)
        layers = [detail for detail in details if detail in LAYERS or RANGE.fullmatch(detail)]
        carriers = [detail for detail in details if detail in CARRIERS]
        others = [detail for detail in details if detail not in (*layers, *carriers, "absolute")]
        if is_named(":".join(others)):
            carriers, others = [*carriers, ":".join(others)], []
        for detail in others:
            check_choice(f"what follows {name}={number}", detail, ("absolute", *CARRIERS, *LAYERS))
        for what, several in (("carrier", carriers), ("choice of layers", layers)):
            if len(several) > 1:
                raise UserError(f"{name}={number} must name one {what}, got {' and '.join(several)}")
        how = {"carrier": carriers[0] if carriers else "auto", "layers": layers[0] if layers else "all"}
        return cls(name, value, "absolute" not in details, **how)

    def __str__(self) -> str:
        if self.sigma:
            details = [] if self.layers == "all" else [self.layers]
            details += [] if self.relative else ["absolute"]
            details += [] if self.carrier == "auto" else [self.carrier]
            return ":".join([f"{self.targets}={self.sigma:g}", *details])
        if self.top_p < 1:
            return f"top-p={self.top_p:.6g}"
        return "clean" if self.temperature == 1 else f"temperature={self.temperature:.6g}"


@dataclass(frozen=True)
class Probe:
    """What one sampler did: P problems, R sets of G answers each, all of them from different draws, D = G * R.

    Attributes:
        sampler: which.
        matches: the sampler whose KL this one was set to have; "" for none.
        answers: G.
        right: a text of D figures per problem, 1 for a right answer.
        strategy: D numbers per problem, :meth:`psn_tutorial.tasks.base.Task.strategy` of each answer, in percent.
        distinct_answers, distinct_right: of each problem, how many different answers, and right ones, by their words.
        formed: of each draw, share of the answers that ended and hold an answer that can be read.
        tokens: of each draw, how many.
        kl_k1, kl_k3: of each draw of the first set, which the clean policy reads: the estimates of
            KL(sampler || policy), nats per token.
        ratios, squares: of the same, sums of the importance ratios and of their squares.
        uniform_to_policy, policy_to_uniform: of the same, the self-certainty that Variant II reads, by the direction of
            its KL, nats per token: :func:`psn_tutorial.signals.token_certainty`.
        similarity: of each problem, mean cosine of the pairs of its answers; None where no encoder was named.
        seconds: what sampling took.
    """

    sampler: Sampler
    matches: str
    answers: int
    right: tuple[str, ...]
    strategy: tuple[tuple[int, ...], ...]
    distinct_answers: tuple[int, ...]
    distinct_right: tuple[int, ...]
    formed: tuple[float, ...]
    tokens: tuple[int, ...]
    kl_k1: tuple[float, ...]
    kl_k3: tuple[float, ...]
    ratios: tuple[float, ...]
    squares: tuple[float, ...]
    uniform_to_policy: tuple[float, ...]
    policy_to_uniform: tuple[float, ...]
    similarity: tuple[float, ...] | None
    seconds: float

    @property
    def kl(self) -> tuple[float, ...]:
        """The better estimate of each draw: k3 has the smaller variance, and is wrong where the sampler never goes."""
        return self.kl_k1 if self.sampler.top_p < 1 else self.kl_k3

    def to_json(self) -> dict[str, Any]:
        return to_mapping(self)


def read_probes(path: str | Path) -> list[Probe]:
    """The probes of a file probe.jsonl, in its order; [] where there is none. Raises UserError, naming the line."""
    return read_lines(path, Probe)


def pass_values(probe: Probe, k: int) -> np.ndarray:
    """pass@k [P, R] of each problem in each set, for k <= G."""
    figures = np.array([[int(figure) for figure in row] for row in probe.right])
    counts = figures.reshape(len(figures), -1, probe.answers).sum(2)
    return pass_at_k(probe.answers, counts, k)


def figures(probe: Probe, ks: Sequence[int] = (1, 8)) -> dict[str, Interval]:
    """The figures of a sampler: KL, ESS, well-formed answers, pass@k, distinct right answers of a problem, similarity
    of its answers where an encoder was named, consistency.

    Intervals: bootstrap over the draws for KL, ESS and form; over problems and sets of draws for pass@k, both resampled
    independently; over problems for distinct answers; consistency as in :func:`consistency`.
    """
    kl, ratios, squares = (np.array(x, dtype=float) for x in (probe.kl, probe.ratios, probe.squares))
    tokens, formed = np.array(probe.tokens[: len(kl)], dtype=float), np.array(probe.formed)
    read, draws = _resampled(len(kl)), _resampled(len(formed))
    kls = (kl * tokens)[read].sum(1) / tokens[read].sum(1)
    sizes = ratios[read].sum(1) ** 2 / (tokens[read].sum(1) * squares[read].sum(1))
    found = {
        "KL": _interval(float(kl @ tokens / tokens.sum()), kls, len(kl), "draws"),
        "ESS": _interval(float(ratios.sum() ** 2 / (tokens.sum() * squares.sum())), sizes, len(kl), "draws"),
        "well formed": _interval(float(formed.mean()), formed[draws].mean(1), len(formed), "draws"),
    }
    for k in ks:
        if k <= probe.answers:
            values = pass_values(probe, k)
            found[f"pass@{k}"] = _interval(float(values.mean()), _crossed(values), len(values))
    for name, values in (("distinct right", probe.distinct_right), ("similarity", probe.similarity)):
        if values is not None:
            values = np.array(values, dtype=float)
            found[name] = _interval(float(values.mean()), values[_resampled(len(values))].mean(1), len(values))
    return found | {"consistency": consistency(np.array(probe.strategy, dtype=float))}


def pass_difference(one: Probe, other: Probe, k: int) -> Interval:
    """pass@k of one sampler minus that of another on the same problems: resampled problems are the same for both, the
    sets of draws are not."""
    a, b = pass_values(one, k), pass_values(other, k)
    if len(a) != len(b):
        raise UserError(f"both probes must be of the same problems, got {len(a)} and {len(b)} of them")
    return _interval(float(a.mean() - b.mean()), _crossed(a, seed=1) - _crossed(b, seed=2), len(a))


def surrogate(probe: Probe, right: bool = False) -> Interval:
    """How well the similarity of a problem's answers, which Variant II reads, tells how many of them are different:
    Spearman's rank correlation over the problems, -1 where it tells exactly; the interval resamples problems.

    right: how many different RIGHT answers there are instead, which exploration is after.

    nan where no encoder was named, or all problems have as many different answers.
    """
    if probe.similarity is None:
        return Interval(float("nan"), float("nan"), float("nan"), LEVEL, len(probe.right))
    pairs = np.array([probe.similarity, probe.distinct_right if right else probe.distinct_answers], dtype=float)
    ranks = rankdata(pairs[:, _resampled(pairs.shape[1])], axis=-1)
    with np.errstate(invalid="ignore"):
        resampled = _correlation(ranks)
        value = float(_correlation(rankdata(pairs, axis=-1)))
    return _interval(value, resampled, pairs.shape[1])


def _correlation(pairs: np.ndarray) -> np.ndarray:
    """Pearson's, of ``pairs`` [2, ..., P] over the last axis: [...]."""
    a, b = pairs - pairs.mean(-1, keepdims=True)
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def consistency(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Does one draw go about all problems in the same way? The share of the variance of ``values`` [P, D], what each
    problem has in common taken out, that lies between the draws: 0 without, 1 with nothing but such differences.

    The intraclass correlation ICC(C,1) of problems crossed with draws, with its F interval: McGraw and Wong, Forming
    inferences about some intraclass correlation coefficients, Psychological Methods 1996. It may be slightly negative.
    """
    problems, draws = values.shape
    if problems < 2 or draws < 2:
        return Interval(float("nan"), float("nan"), float("nan"), level, draws, "draws")
    rest = values - values.mean(1, keepdims=True)
    between = problems * float(rest.mean(0) @ rest.mean(0)) / (draws - 1)
    within = float(((rest - rest.mean(0)) ** 2).sum()) / ((draws - 1) * (problems - 1))
    if within == 0:
        share = 1.0 if between else 0.0
        return Interval(share, share, share, level, draws, "draws")
    f, free, rest_free = between / within, draws - 1, (draws - 1) * (problems - 1)
    low = f / fdtri(free, rest_free, (1 + level) / 2)
    high = f * fdtri(rest_free, free, (1 + level) / 2)
    return Interval(*((x - 1) / (x - 1 + problems) for x in (f, low, high)), level, draws, "draws")


def _resampled(count: int, seed: int = 0) -> np.ndarray:
    """[RESAMPLES, count] places, drawn with replacement."""
    return np.random.default_rng([seed, count]).integers(count, size=(RESAMPLES, count))


def _crossed(values: np.ndarray, seed: int = 1) -> np.ndarray:
    """Means of ``values`` [P, R] over resampled problems, and, by ``seed``, resampled sets: [RESAMPLES]."""
    problems, sets = values.shape
    by_set = values.T[:, _resampled(problems)].mean(2)  # [R, RESAMPLES]
    return np.take_along_axis(by_set, _resampled(sets, seed).T, 0).mean(0)


def _interval(value: float, resampled: np.ndarray, count: int, unit: str = "problems") -> Interval:
    found = percentile_interval(value, resampled, LEVEL, count)
    return Interval(found.value, found.low, found.high, LEVEL, count, unit)
