"""The results of an experiment as tables and sentences of plain text; page, terminal and README show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psn_tutorial.evaluation.frontier import FrontierGap
from psn_tutorial.evaluation.intervals import Interval, number, short
from psn_tutorial.evaluation.metrics import Summary, compare, in_words, summarise
from psn_tutorial.evaluation.probes import Probe, figures, pass_difference, surrogate
from psn_tutorial.evaluation.results import Evaluation
from psn_tutorial.experiments.results import Results

MARKS = "+ higher, - lower, ? undecided: the interval holds 0"


@dataclass(frozen=True)
class Table:
    """Cells of text: ``columns`` are the headings, the first column of ``rows`` names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def narrow(self) -> "Table":
        """The same, rows and columns exchanged where it has more columns than rows: screens are narrow."""
        if len(self.columns) <= len(self.rows) + 1:
            return self
        grid = list(zip(self.columns, *self.rows, strict=True))
        return Table(self.title, grid[0], tuple(grid[1:]), self.note)

    def _repr_markdown_(self) -> str:
        """How a notebook shows it."""
        parts = (f"**{self.title}**", self.markdown(), self.note)
        return "\n\n".join(part for part in parts if part.strip("*"))

    def markdown(self) -> str:
        """The cells as a table of Markdown, without title and note."""
        lines = [self.columns, ("---",) + ("---:",) * (len(self.columns) - 1), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tables(results: Results) -> list[Table]:
    """The tables of an experiment: the end of training, differences to the reference and to the base, training."""
    reference = results.label(results.experiment.reference)
    return [
        _final(results),
        _differences(results, results.experiment.reference, f"Minus {reference}, at equal steps"),
        _differences(results, "base", "Minus the base they all started from"),
        _training(results),
    ]


def summary_table(title: str, summary: Summary) -> Table:
    """One policy's metrics."""
    rows = tuple((in_words(m), interval.brackets()) for m, interval in summary.items())
    return Table(title, ("", "value"), rows, summary.origin)


def difference_table(title: str, evaluation: Evaluation, other: Evaluation) -> Table:
    """The metrics of two evaluations of the same problems, first minus second."""
    metrics = [m for m in summarise([evaluation]) if m in summarise([other])]
    differences = {m: compare([evaluation], [other], m) for m in metrics}
    rows = tuple((in_words(m), _marked(difference)) for m, difference in differences.items())
    return Table(title, ("", "difference"), rows, MARKS)


def probe_table(title: str, probes: Sequence[Probe]) -> Table:
    """One row per sampler; those set to the KL of another stand below it."""
    found = [figures(probe, _ks(probe)) for probe in probes]
    columns = ("", *(found[0] if found else ()))
    rows = [
        ("  " * bool(probe.matches) + str(probe.sampler), *(interval.brackets() for interval in row.values()))
        for probe, row in zip(probes, found, strict=True)
    ]
    note = "KL in nats per token; below a noise, set in, samplers of its KL; 95 % intervals over draws and problems"
    return Table(title, columns, tuple(rows), note)


def matched_table(title: str, probes: Sequence[Probe]) -> Table:
    """Every noise minus the temperature, and minus the top-p, that was set to its KL: pass@k on the same problems. No
    difference where the intervals of the two KLs do not meet: what was looked for was not found."""
    noises = {str(probe.sampler): probe for probe in probes if probe.sampler.sigma}
    rows = []
    for other in probes:
        if noise := noises.get(other.matches):
            one, two = (figures(probe, ())["KL"] for probe in (noise, other))
            kls = f"{number(one.value)} and {number(two.value)}"
            meet = one.low <= two.high and two.low <= one.high
            differences = (_marked(pass_difference(noise, other, k)) if meet else "KLs differ" for k in _ks(noise))
            rows.append((f"{noise.sampler} minus {other.sampler}", kls, *differences))
    return Table(title, ("", "KL", *(f"pass@{k}" for k in (_ks(probes[0]) if probes else ()))), tuple(rows), MARKS)


def signals_table(title: str, probes: Sequence[Probe]) -> Table:
    """What Variant II would read of each sampler's answers, and whether its similarity tells how many are different."""
    rows = []
    for probe in probes:
        answers = len(probe.right[0])
        different = sum(probe.distinct_answers) / (len(probe.right) * answers)
        ranges = (probe.similarity or (), probe.uniform_to_policy, probe.policy_to_uniform)
        spans = (f"{number(min(x))} to {number(max(x))}" if x else "-" for x in ranges)
        rows.append((str(probe.sampler), *spans, number(different), surrogate(probe).brackets()))
    columns = ("", "similarity", "certainty, KL(U || pi)", "certainty, KL(pi || U)", "different", "rank correlation")
    note = (
        "Similarity: over problems; certainty, nats per token: over draws; different: share of the answers to a "
        "problem; correlation over problems of similarity and the number of different answers"
    )
    return Table(title, columns, tuple(rows), note)


def _ks(probe: Probe) -> list[int]:
    return [k for k in (1, 8) if k <= probe.answers]


def _final(results: Results) -> Table:
    rows = []
    for metric in results.metrics:
        intervals = [summary[metric] for summary in results.summaries.values()]
        rows.append((in_words(metric), *(interval.brackets() for interval in intervals)))
    seeds = len(results.experiment.seeds)
    if seeds > 1:
        metric = results.metrics[0]
        each = ["; ".join(_seeds(results, arm, metric)) for arm in results.runs]
        rows.append((f"{in_words(metric)}, each seed", "", *each))
    columns = ("", *map(results.label, results.summaries))
    title = "The clean policy after the last step"
    return Table(title, columns, tuple(rows), _how(results.summaries)).narrow()


def _seeds(results: Results, arm: str, metric: str) -> list[str]:
    return [number(results.summary([evaluation])[metric].value) for evaluation in results.final(arm)]


def _how(summaries: Mapping[str, Summary]) -> str:
    """How the intervals were computed, of the arms and of the base."""
    base, arm = (next(iter(s.values())) for s in (summaries["base"], list(summaries.values())[-1]))
    level = f"{100 * arm.level:g} % intervals"
    if arm.unit == "seeds":
        return f"{level}: t over {arm.n} training seeds; of the base, which is one policy, {base.method}"
    return f"{level}: {arm.method}. One training seed per arm: they say nothing of how another seed would have trained"


def _differences(results: Results, other: str, title: str) -> Table:
    arms = [arm for arm in results.runs if arm != other]
    differences = {arm: results.difference(arm, other) for arm in arms}
    rows = tuple((in_words(m), *(_marked(d[m]) for d in differences.values())) for m in results.metrics)
    return Table(title, ("", *map(results.label, arms)), rows, MARKS).narrow()


def _marked(difference: Interval) -> str:
    """A difference with one sign for what it shows; the legend is MARKS."""
    return f"{difference.brackets()} {({'higher': '+', 'lower': '-'}).get(difference.verdict, '?')}"


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


class Conclusion(NamedTuple):
    """An arm against the reference: the figures with the interval of their difference, and what it shows."""

    text: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.text}: {self.verdict}."


def conclusions(results: Results) -> list[Conclusion]:
    """Each arm against the reference: at equal steps, and at equal x where the experiment has a frontier."""
    experiment = results.experiment
    reference = results.label(experiment.reference)
    drawn = []
    for arm in results.others:
        label, differences = results.label(arm), results.difference(arm, experiment.reference)
        for metric in experiment.frontier or experiment.metrics[:1]:
            own, others = (number(results.summaries[a][metric].value) for a in (arm, experiment.reference))
            text = (
                f"{label} against {reference} at equal steps, {in_words(metric)}: "
                f"{own} against {others}, difference {differences[metric]}"
            )
            drawn.append(Conclusion(text, differences[metric].verdict))
        if experiment.frontier:
            drawn.append(_at_equal(label, reference, results.frontier(arm)))
    return drawn


def _at_equal(label: str, reference: str, gap: FrontierGap) -> Conclusion:
    opening = f"{label} against {reference} at equal {gap.x_metric}"
    x, low, high = map(number, (gap.x, gap.path_low, gap.path_high))
    if gap.difference is None:
        why = (
            f"{opening}: its {gap.x_metric} of {x} lies outside the {low} to "
            f"{high} that {reference} passed, and nothing is extrapolated"
        )
        return Conclusion(why, "no comparison")
    text = f"{opening} ({x}), {gap.y_metric}: difference {gap.difference}{gap.partly}"
    return Conclusion(text, gap.difference.verdict)
