"""An exercise about many comparisons with one reference: Holm's correction."""

from itertools import combinations

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

EXERCISES = {"holm": HOLM}
