"""The results of a comparison as tables and sentences; nothing here knows how they are shown."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from psn_tutorial.evaluation.frontier import FrontierGap
from psn_tutorial.evaluation.intervals import Interval, short
from psn_tutorial.evaluation.metrics import Summary, compare, summarise
from psn_tutorial.evaluation.results import Evaluation
from psn_tutorial.experiments.results import Results

WORDS = {
    "success": "success probability",
    "coverage": "solutions found",
    "family_coverage": "families found",
}
MARKS = "+ higher, - lower, ? no difference shown: the interval holds 0"


@dataclass(frozen=True)
class Table:
    """Cells of text: ``columns`` are the headings, the first column of ``rows`` names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def narrow(self) -> "Table":
        """The same, turned over where it has more columns than rows: screens are narrow."""
        if len(self.columns) <= len(self.rows) + 1:
            return self
        grid = list(zip(self.columns, *self.rows, strict=True))
        return Table(self.title, grid[0], tuple(grid[1:]), self.note)


def tables(results: Results) -> list[Table]:
    """What an experiment came to: the end of training, the differences, what training met."""
    reference = results.label(results.experiment.reference)
    return [
        _final(results),
        _differences(results, results.experiment.reference, f"Minus {reference}, at equal steps"),
        _differences(results, "base", "Minus the base they all started from"),
        _training(results),
    ]


def print_results(results: Results) -> None:
    """Print what an experiment came to."""
    print("\n" + textwrap.fill(f"{results.name}: {results.experiment.question}", 96) + "\n")
    for table in tables(results):
        print_table(table)
    for finding in findings(results):
        print(textwrap.fill(f"- {finding}", 96, subsequent_indent="  "))


def print_table(table: Table) -> None:
    """Print one table, as wide as it must be: a wrapped interval cannot be read."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, column in enumerate(table.columns):
        grid.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        grid.add_row(*row)
    needed = Console(width=1000).measure(grid).maximum
    console = Console(highlight=False, width=max(Console().width, needed))
    console.print(table.title, style="bold", markup=False)
    console.print(grid)
    console.print(table.note, style="dim", markup=False)
    console.print()


def summary_table(title: str, summary: Summary) -> Table:
    """One policy's metrics."""
    rows = tuple((WORDS.get(m, m), interval.brackets()) for m, interval in summary.items())
    first = next(iter(summary.values()))
    note = f"{100 * first.level:g} % intervals: bootstrap over {first.n} problems"
    return Table(title, ("", "value"), rows, note)


def difference_table(title: str, results: Evaluation, other: Evaluation) -> Table:
    """The metrics of two evaluations of the same problems, first minus second."""
    metrics = [m for m in summarise([results]) if m in summarise([other])]
    differences = {m: compare([results], [other], m) for m in metrics}
    rows = tuple((WORDS.get(m, m), f"{d.brackets()} {mark(d)}") for m, d in differences.items())
    return Table(title, ("", "difference"), rows, MARKS)


def _final(results: Results) -> Table:
    rows = []
    for metric in results.metrics:
        intervals = [summary[metric] for summary in results.summaries.values()]
        rows.append((WORDS.get(metric, metric), *(interval.brackets() for interval in intervals)))
    seeds = len(results.experiment.seeds)
    if seeds > 1:
        metric = results.metrics[0]
        each = ["; ".join(_seeds(results, arm, metric)) for arm in results.runs]
        rows.append((f"{WORDS.get(metric, metric)}, each seed", "", *each))
    columns = ("", *map(results.label, results.summaries))
    title = "The clean policy after the last step"
    return Table(title, columns, tuple(rows), _how(results.summaries)).narrow()


def _seeds(results: Results, arm: str, metric: str) -> list[str]:
    values = [results.summary([evaluation])[metric].value for evaluation in results.final(arm)]
    return [short(v, ".3f" if v >= 0.0005 or v == 0 else ".1e") for v in values]


def _how(summaries: Mapping[str, Summary]) -> str:
    """Where the intervals come from."""
    base, arm = (next(iter(s.values())) for s in (summaries["base"], list(summaries.values())[-1]))
    level = f"{100 * arm.level:g} % intervals"
    if arm.unit == "seeds":
        return (
            f"{level}: t over {arm.n} training seeds; of the base, which is one policy, bootstrap "
            f"over {base.n} problems"
        )
    return (
        f"{level}: bootstrap over {arm.n} problems. One training seed per arm: they say nothing of "
        f"how another seed would have trained"
    )


def _differences(results: Results, other: str, title: str) -> Table:
    arms = [arm for arm in results.runs if arm != other]
    differences = {arm: results.difference(arm, other) for arm in arms}
    rows = tuple(
        (WORDS.get(m, m), *(f"{d[m].brackets()} {mark(d[m])}" for d in differences.values())) for m in results.metrics
    )
    return Table(title, ("", *map(results.label, arms)), rows, MARKS).narrow()


def mark(difference: Interval) -> str:
    """One sign for what a difference shows; the legend is MARKS."""
    return {"higher": "+", "lower": "-"}.get(verdict(difference), "?")


def verdict(difference: Interval) -> str:
    """What a difference shows, in words."""
    if math.isnan(difference.low):
        return "no interval, so no difference shown"
    if difference.low > 0:
        return "higher"
    return "lower" if difference.high < 0 else "no difference shown"


def _training(results: Results) -> Table:
    met = [results.training(arm) for arm in results.runs]

    def row(name: str, key: str, spec: str) -> tuple[str, ...]:
        return (name, *(short(m[key], spec) for m in met))

    rows = (
        ("correct rollouts", *(f"{m['correct']:,} of {m['rollouts']:,}" for m in met)),
        (
            "first one at step",
            *(", ".join(str(step or "never") for step in m["first_correct"]) for m in met),
        ),
        row("groups without contrast", "zero_contrast", ".3f"),
        row("effective sample size / n", "ess", ".3f"),
        row("KL to the policy (k3)", "kl_k3", ".4f"),
        row("ratios above the cap", "clipped_fraction", ".1e"),
        row("seconds per step", "seconds_per_step", ".3f"),
    )
    note = "Means over all steps and seeds. Of the rollouts' distribution, not of the clean policy"
    return Table("What training met", ("", *map(results.label, results.runs)), rows, note)


class Finding(NamedTuple):
    """What one comparison came to, with its interval, and what that shows."""

    text: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.text}: {self.verdict}."


def findings(results: Results) -> list[Finding]:
    """What the experiment shows, one finding per arm and question, each with its interval."""
    experiment = results.experiment
    reference = results.label(experiment.reference)
    said = []
    for arm in results.others:
        label, differences = results.label(arm), results.difference(arm, experiment.reference)
        for metric in experiment.frontier or experiment.metrics[:1]:
            values = (results.summaries[a][metric] for a in (arm, experiment.reference))
            own, others = (short(v.value, _digits(v.value)) for v in values)
            text = (
                f"{label} against {reference} at equal steps, {WORDS.get(metric, metric)}: "
                f"{own} against {others}, difference {differences[metric]}"
            )
            said.append(Finding(text, verdict(differences[metric])))
        if experiment.frontier:
            said.append(_at_equal(label, reference, results.frontier(arm)))
    return said


def _digits(value: float) -> str:
    return ".3f" if abs(value) >= 0.0005 or value == 0 else ".1e"


def _at_equal(label: str, reference: str, gap: FrontierGap) -> Finding:
    opening = f"{label} against {reference} at equal {gap.x_metric}"
    if gap.difference is None:
        low, high = short(gap.path_low, ".3f"), short(gap.path_high, ".3f")
        why = (
            f"{opening}: its {gap.x_metric} of {short(gap.x, '.3f')} lies outside the {low} to "
            f"{high} that {reference} passed, and nothing is extrapolated"
        )
        return Finding(why, "no comparison")
    what = "seeds" if gap.difference.unit == "seeds" else "resamples"
    partly = f", from the {gap.inside:.0%} of {what} that overlap" * (gap.inside < 1)
    text = f"{opening} ({short(gap.x, '.3f')}), {gap.y_metric}: difference {gap.difference}{partly}"
    return Finding(text, verdict(gap.difference))
