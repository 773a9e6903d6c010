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


def answer(rare: Results, local: Results, language: Results) -> list[str]:
    """Three sentences: of the first task, of the recipe, of the other two.

    Args:
        rare: methods on a task in which a rare strategy must be kept throughout, with the arms "psn", "psn-none" and
            "paper" beside the reference.
        local: an experiment in which errors are local to a token, with the arm "psn" and a frontier.
        language: the same with a pretrained language model.

    Raises:
        KeyError: one of these arms is not recorded.
    """
    metric, reference = rare.experiment.metrics[0], rare.experiment.reference
    ends = {arm: number(rare.summaries[arm][metric].value) for arm in (reference, "psn", "psn-none", "paper")}
    judged = rare.judged()["psn", metric]
    difference = judged.effect.difference
    first = (
        f"Where a strategy that the base rarely chooses must be kept through a whole answer, "
        f"{IN_WORDS[judged.verdict]}: noise on the head, 16 draws a step, ends at a success probability of "
        f"{ends['psn']}, GRPO, tuned as much, at {ends[reference]} (difference {difference.brackets()}, "
        f"{difference.n} seeds)."
    )
    second = (
        f"How it is done decides: there the paper's own recipe (MLPs, one draw, sigma in real time) ends at "
        f"{ends['paper']}, and noise on the head without importance weights, at its own best sigma, at "
        f"{ends['psn-none']}."
    )
    third = f"Elsewhere, {_elsewhere(local, 'on Countdown')}, and {_elsewhere(language, 'on worded sums with Qwen')}."
    return [first, second, third]


def _elsewhere(results: Results, where: str) -> str:
    """What noise does to the second metric of the frontier, at equal steps."""
    metric = results.experiment.frontier[1]
    judged = results.judged()["psn", metric]
    difference = judged.effect.difference
    return (
        f"{where} {IN_WORDS[judged.verdict]}: {metric} differs from GRPO's by {difference.brackets()} "
        f"({difference.n} seeds)"
    )
