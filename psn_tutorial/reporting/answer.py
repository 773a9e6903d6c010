"""Should I use weight noise? Three sentences, whose figures and verdicts are those of the records.

They open the README and end notebook 09. The words follow the verdicts, so that other records give another answer.
"""

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


def answer(rare: Results, recipe: Results, local: Results, language: Results) -> list[str]:
    """Three sentences: of the first task, of the recipe, of the other two.

    Args:
        rare: methods on a task in which a rare strategy must be kept throughout, with the arms "psn" and "psn-none"
            beside the reference.
        recipe: on the same task, beside the noise of ``rare``, the arms of CHOICES and, all at once, "paper-six".
        local: an experiment in which errors are local to a token, with the arm "psn" and a frontier.
        language: the same with a pretrained language model.

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
    third = f"Elsewhere, {_elsewhere(local, 'on Countdown')}, and {_elsewhere(language, 'on worded sums with Qwen')}."
    return [first, second, third]


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
