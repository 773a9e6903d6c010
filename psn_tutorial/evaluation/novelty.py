"""Did training reach anything that the base never produced? Solution families outside of the base's own many samples.

A family that the base does not produce in n samples may still have a small probability under it: with n samples, below
3 / n with 95 % confidence. So the base is given many more samples than the policies that are compared with it.
"""

from psn_tutorial.errors import UserError, shown
from psn_tutorial.evaluation.intervals import check_same_problems
from psn_tutorial.evaluation.results import Evaluation, ProblemResult, check_evaluation


def new_families(evaluation: Evaluation, base: Evaluation) -> dict[str, int]:
    """Of each problem, how many families ``evaluation`` found that ``base`` did not: {problem: count}.

    Raises UserError for other problems, and for records that do not name their families.
    """
    found, before = _families(evaluation), _families(base)
    check_same_problems(found, before)
    return {problem: len(names - before[problem]) for problem, names in found.items()}


def _families(evaluation: Evaluation) -> dict[str, set[str]]:
    check_evaluation(evaluation)
    return {result.problem: _names(result) for result in evaluation}


def _names(result: ProblemResult) -> set[str]:
    if result.n == 0 or any(name.isdigit() for name in result.families):  # a rank in an earlier record
        raise UserError(f"the record does not name the families that were found for problem {shown(result.problem)}")
    return set(result.families)
