"""What an evaluation says: estimators, intervals, comparisons. Sampling is apart: this much needs no torch."""

from psn_tutorial.evaluation.estimators import coverage, pass_at_k, pass_at_k_interval, zero_contrast
from psn_tutorial.evaluation.intervals import Interval, bootstrap_interval, paired_difference, seed_interval
from psn_tutorial.evaluation.metrics import Summary, compare, parse_metric, per_problem, summarise
from psn_tutorial.evaluation.results import Evaluation, ProblemResult, tally

__all__ = [
    "Evaluation",
    "Interval",
    "ProblemResult",
    "Summary",
    "bootstrap_interval",
    "compare",
    "coverage",
    "paired_difference",
    "parse_metric",
    "pass_at_k",
    "pass_at_k_interval",
    "per_problem",
    "seed_interval",
    "summarise",
    "tally",
    "zero_contrast",
]
