"""Exercises about samples and solutions: pass@k and expected coverage."""

import math
from itertools import combinations, product

from psn_tutorial.teaching.exercises.grading import Exercise


def _pass_at_k(n, c, k):
    """Of n samples c are right: the chance that k of them, taken without replacement, hold a right one."""
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    return sum(map(any, subsets)) / len(subsets)


def _expected_coverage(probabilities, k):
    """One sample finds solution i with chance probabilities[i] -> the expected share of solutions k samples find."""
    chances = [*probabilities, 1 - sum(probabilities)]  # the last one: a wrong answer
    found = 0.0
    for outcome in product(range(len(chances)), repeat=k):
        distinct = set(outcome) - {len(probabilities)}
        found += math.prod(chances[i] for i in outcome) * len(distinct)
    return found / len(probabilities)


PASS_AT_K = Exercise(
    _pass_at_k,
    [(n, c, k) for n in range(1, 8) for c in range(n, -1, -1) for k in range(1, n + 1)],
    {
        "this draws with replacement, 1 - (1 - c/n)^k": lambda n, c, k: 1 - (1 - c / n) ** k,
        "this looks at the first k samples in one fixed order, the right ones last": lambda n, c, k: float(k > n - c),
        "this looks at the first k samples in one fixed order, the right ones first": lambda n, c, k: float(c > 0),
        "this is pass@1, k is not used": lambda n, c, k: c / n,
        "this is the chance that all k are wrong; subtract it from 1": lambda n, c, k: (
            math.comb(n - c, k) / math.comb(n, k)
        ),
        "this is the chance that all k are right": lambda n, c, k: math.comb(c, k) / math.comb(n, k),
        "this adds up the chances of k samples as if they excluded each other": lambda n, c, k: min(1, k * c / n),
    },
)

EXPECTED_COVERAGE = Exercise(
    _expected_coverage,
    [([0.5], 1), ([0.5], 2), ([0.5, 0.25], 1), ([0.5, 0.25], 2), ([0.2, 0.1, 0.05], 4), ([0.6, 0.3, 0.1, 0.0], 4)],
    {
        "this is the number of solutions found, not their share": lambda p, k: sum(1 - (1 - x) ** k for x in p),
        "this is pass@k, the chance of finding any solution": lambda p, k: 1 - (1 - sum(p)) ** k,
        "this is the share after one sample, k is not used": lambda p, k: sum(p) / len(p),
        "this adds up the chances of k samples as if they excluded each other": lambda p, k: (
            sum(min(1, k * x) for x in p) / len(p)
        ),
        "this takes one solution, of average probability": lambda p, k: 1 - (1 - sum(p) / len(p)) ** k,
        "this is the share still missing; subtract it from 1": lambda p, k: sum((1 - x) ** k for x in p) / len(p),
    },
)

EXERCISES = {"pass_at_k": PASS_AT_K, "expected_coverage": EXPECTED_COVERAGE}
