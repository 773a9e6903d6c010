"""Exercises about comparing arms: Holm's correction of many comparisons, and an exact test over few seeds."""

from itertools import combinations, product

from psn_tutorial.teaching.exercises.grading import Exercise


def _holm(ps):
    """The p-values of several comparisons with one reference, corrected by Holm's method, in their order: read at 5 %,
    the chance of any false alarm among all of them stays below 5 %.

    Sort them. The smallest of n is multiplied by n, the next by n - 1, and so on; none may come out above 1, nor below
    the one before it."""
    corrected = []
    for i in range(len(ps)):  # it is Bonferroni's test of every set of comparisons that holds this one (closed testing)
        others = [j for j in range(len(ps)) if j != i]
        sets = [(i, *more) for size in range(len(ps)) for more in combinations(others, size)]
        corrected.append(max(min(1.0, len(s) * min(ps[j] for j in s)) for s in sets))
    return corrected


def _stepped(ps, factors, keep=max, start=0.0):
    """Sorted, times ``factors``, each compared by ``keep`` with the one before it; at most 1; in the old order."""
    order, found, last = sorted(range(len(ps)), key=lambda i: ps[i]), [0.0] * len(ps), start
    for rank, i in enumerate(order):
        last = keep(last, min(1.0, factors(len(ps), rank) * ps[i]))
        found[i] = last
    return found


HOLM = Exercise(
    _holm,
    [([0.03],), ([0.01, 0.04],), ([0.02, 0.03],), ([0.03, 0.2, 0.001, 0.02],), ([0.5, 0.9, 0.4],), ([0.01] * 3,)],
    {
        "this is uncorrected": lambda ps: list(ps),
        "this is Bonferroni's, which multiplies every one by n": lambda ps: [min(1.0, len(ps) * p) for p in ps],
        "a larger p-value must not come out below a smaller one": lambda ps: _stepped(
            ps, lambda n, rank: n - rank, keep=lambda last, now: now
        ),
        "a probability is at most 1": lambda ps: [
            value if value < 1 else max((len(ps) - rank) * p for rank, p in enumerate(sorted(ps)))
            for value in _holm(ps)
        ],
        "the answers stand in the order of the question, not sorted": lambda ps: sorted(_holm(ps)),
        "the smallest is multiplied by n, the largest by 1": lambda ps: _stepped(ps, lambda n, rank: rank + 1),
        "this divides by the rank: Benjamini and Hochberg, who allow a share of false alarms": lambda ps: [
            min(1.0, min(len(ps) * q / (1 + sorted(ps).index(q)) for q in ps if q >= p)) for p in ps
        ],
    },
)


def _sign_flip_p(differences):
    """The two-sided exact p-value of differences between two arms, one per seed, without assuming any distribution.

    If it made no difference which arm is which, each difference might as well have the other sign. Of all 2^n ways to
    give the n differences signs: the share whose sum is at least as far from 0 as the one observed."""
    observed = abs(sum(differences))
    ways = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(way >= observed - 1e-9 for way in ways) / len(ways)


def _share(differences, at_least):
    """Of all ways to give signs, the share that ``at_least(sum of one, sum observed)`` holds for."""
    total = sum(differences)
    ways = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(at_least(way, total) for way in ways) / len(ways)


SIGN_FLIP_P = Exercise(
    _sign_flip_p,
    [([1.0, 2.0],), ([1.0, 1.0, 1.0, 1.0, 1.0],), ([0.5, -0.25, 1.0, 0.75],), ([-1.0, -2.0, -4.0],), ([1.0, -1.0],)],
    {
        "this is one-sided": lambda d: _share(d, lambda way, total: way >= total - 1e-9),
        "the observed signs are one of the ways": lambda d: _share(d, lambda way, t: abs(way) > abs(t) + 1e-9),
        "this counts signs and forgets how large the differences are": lambda d: _share(
            [1.0 if x > 0 else -1.0 for x in d], lambda way, total: abs(way) >= abs(total) - 1e-9
        ),
        "twice the one-sided share is above 1 where the sum is 0": lambda d: (
            2 * _share(d, lambda way, total: way >= abs(total) - 1e-9)
        ),
        "this is the smallest p that so many differences can have": lambda d: 2 / 2 ** len(d),
        "this is the share of the ways that lie nearer to 0": lambda d: _share(
            d, lambda way, total: abs(way) < abs(total) - 1e-9
        ),
    },
)

EXERCISES = {"holm": HOLM, "sign_flip_p": SIGN_FLIP_P}
