"""Should I use weight noise? Three sentences, whose figures and verdicts are those of the records.

They open the README and end notebook 09. The words follow the verdicts, so that other records give another answer.
"""

from collections.abc import Mapping

from psn_tutorial.evaluation.intervals import number
from psn_tutorial.experiments.results import Results

IN_WORDS = {
    "gain": "it helps",
    "loss": "it hurts",
    "no difference shown": "it changes nothing that matters",
    "undecided": "it is not shown to help",
}
OF_CHOICES = {  # of one, of several
    "loss": ("ends lower", "end lower"),
    "gain": ("ends higher", "end higher"),
    "no difference shown": ("ends where ours does", "end where ours does"),
    "undecided": ("is not shown to matter", "are not shown to matter"),
}
CHOICES = {  # an arm that has one choice of the paper in place of ours -> the choice
    "ours-mlp": "noise on the MLPs",
    "ours-one-draw": "one draw a step",
    "ours-absolute": "an absolute sigma",
    "ours-realtime": "sigma in real time",
}


def answer(rare: Results, recipe: Results, elsewhere: Mapping[str, Results]) -> list[str]:
    """Three sentences: of the first task, of the recipe, of other tasks.

    Args:
        rare: methods on a task in which a rare strategy must be kept throughout, with the arms "psn" and "psn-none"
            beside the reference.
        recipe: on the same task, beside the noise of ``rare``, the arms of CHOICES and, all at once, "paper-six".
        elsewhere: where, such as "on Countdown" -> an experiment with the arm "psn" and a frontier.

    Raises:
        KeyError: one of these arms is not recorded.
    """
    metric, reference = rare.experiment.metrics[0], rare.experiment.reference
    judged = rare.judged()["psn", metric]
    difference = judged.effect.difference
    first = (
        f"Where a strategy that the base rarely chooses must be kept through a whole answer, "
        f"{IN_WORDS[judged.verdict]}: noise on the head, 16 draws a step, ends at a success probability of "
        f"{_end(rare, 'psn')}, GRPO, tuned as much, at {_end(rare, reference)} (difference {difference.brackets()}, "
        f"{difference.n} seeds)."
    )
    second = (
        f"How it is done decides: of the paper's choices, each by itself in the place of ours and at its own best "
        f"sigma, {_choices(recipe)}; all of them together end at {_end(recipe, 'paper-six')}, and ours without "
        f"importance weights at {_end(rare, 'psn-none')}."
    )
    *others, last = (_elsewhere(results, where) for where, results in elsewhere.items())
    return [first, second, f"Elsewhere, {', '.join(others)}{', and ' if others else ''}{last}."]


def _end(results: Results, arm: str) -> str:
    """An arm's first metric at the end of training."""
    return number(results.summaries[arm][results.experiment.metrics[0]].value)


def _choices(recipe: Results) -> str:
    """The choices of the paper by their verdicts, each with where it ends."""
    metric, judged = recipe.experiment.metrics[0], recipe.judged()
    said = []
    for verdict, words in OF_CHOICES.items():
        ends = [f"{CHOICES[arm]} ({_end(recipe, arm)})" for arm in CHOICES if judged[arm, metric].verdict == verdict]
        if ends:
            said.append(f"{' and '.join(ends)} {words[len(ends) > 1]}")
    return "; ".join(said)


def _elsewhere(results: Results, where: str) -> str:
    """What noise does to the second metric of the frontier, at equal steps."""
    metric = results.experiment.frontier[1]
    judged = results.judged()["psn", metric]
    difference = judged.effect.difference
    return (
        f"{where} {IN_WORDS[judged.verdict]}: {metric} differs from GRPO's by {difference.brackets()} "
        f"({difference.n} seeds)"
    )
