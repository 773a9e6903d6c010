"""The report of a study: its tables and figures, from its records alone."""

from collections.abc import Iterator
from pathlib import Path

from psn_tutorial.evaluation.coherence import figures
from psn_tutorial.evaluation.intervals import number, short
from psn_tutorial.evaluation.metrics import in_words
from psn_tutorial.evaluation.verdicts import VERDICTS
from psn_tutorial.experiments.results import Results
from psn_tutorial.experiments.study_results import StudyResults, bases_of, novelty, stages, watched
from psn_tutorial.reporting.plotting import Drawn, seeds_plot
from psn_tutorial.reporting.tables import Table
from psn_tutorial.runs.files import replace_file, write_json
from psn_tutorial.runs.steps import FIGURES

THIRDS = "First third of training -> last third"


def write_study_report(study: StudyResults) -> Path:
    """Write report.md and summary.json into the study's folder; returns the page."""
    write_json(study.folder / "summary.json", study.to_json())
    replace_file(study.folder / "report.md", study_page(study).encode())
    return study.folder / "report.md"


def study_page(study: StudyResults) -> str:
    """The whole report as Markdown."""
    words = "\n".join(f"- *{word}*: {meaning}." for word, meaning in VERDICTS.items())
    parts = [f"# {study.question}", f"The words of a verdict, of which the first that holds is said:\n\n{words}"]
    if study.missing:
        some = ", ".join(study.missing[:5]) + (", ..." if len(study.missing) > 5 else "")
        parts.append(
            f"**Not finished**: {len(study.missing)} records are missing ({some}); arms without all are left out."
        )
    if study.failed:
        each = "\n".join(f"- {place}: {why}" for place, why in study.failed.items())
        parts.append(f"Runs that training itself ended, counted as answering nothing right:\n\n{each}")
    for name, results in study.results.items():
        parts += [f"## {name}", results.experiment.question]
        if (count := bases_of(results)) > 1:
            parts.append(
                f"Its runs began with {count} different makings of their base, on machines that round otherwise."
            )
        for table in (verdict_table(results), stage_table(results), training_table(results)):
            parts += _shown(table)
    for table in (*tuning_tables(study), *coherence_tables(study)):
        parts += _shown(table)
    return "\n\n".join(parts) + "\n"


def _shown(table: Table) -> list[str]:
    return [f"**{table.title}**", table.markdown(), *([table.note + "."] if table.note else [])] if table.rows else []


def seeds_figure(results: Results) -> Drawn:
    """Every seed of every arm at the end of training, by the experiment's first metric; beside each arm the verdict
    against the reference. As :func:`psn_tutorial.reporting.plotting.seeds_plot`."""
    metric, reference = results.experiment.metrics[0], results.experiment.reference
    words = {results.label(arm): one.verdict for (arm, figure), one in results.judged().items() if figure == metric}
    words[results.label(reference)] = "the reference"
    arms = {results.label(arm): results.seed_means(arm, metric) for arm in results.runs}
    return seeds_plot(arms, metric, words, base=results.summaries["base"][metric].value)


def verdict_table(results: Results) -> Table:
    """Each arm against the reference: effect, p-values and verdict."""
    experiment, rows = results.experiment, []
    for (arm, figure), judged in results.judged().items():
        effect = judged.effect
        rows.append(
            (
                results.label(arm),
                in_words(figure),
                effect.difference.brackets(),
                "-" if effect.g is None else f"{effect.g:.1f}",
                short(effect.improvement, ".2f"),
                f"{effect.p:.2g}",
                f"{judged.corrected:.2g}",
                f"{effect.sign_flip:.2g}",
                judged.verdict,
            )
        )
    columns = ("", "of", "difference", "g", "better", "p", "p (Holm)", "p (signs)", "verdict")
    note = (
        f"Differences with 95 % t intervals over {len(experiment.seeds)} seeds, paired; g: Hedges' g; better: chance "
        f"that a seed does better than one of the reference; p: paired t test, corrected for the {len(rows)} "
        f"comparisons of this table (Holm), and exact by changes of sign; margin {experiment.margin:g}"
    )
    return Table(f"Against {results.label(experiment.reference)}", columns, tuple(rows), note)


def short_verdict_table(results: Results) -> Table:
    """Where each arm ends and its verdict, by the experiment's first metric."""
    experiment, metric, rows = results.experiment, results.experiment.metrics[0], []
    for (arm, figure), judged in results.judged().items():
        if figure == metric:
            end, difference = results.summaries[arm][metric], judged.effect.difference
            rows.append((results.label(arm), number(end.value), difference.brackets(), judged.verdict))
    columns = ("", in_words(metric), "difference", "verdict")
    reference = (
        f"{results.label(experiment.reference)} ({number(results.summaries[experiment.reference][metric].value)})"
    )
    note = "Differences with 95 % t intervals, paired by seed; verdicts after Holm's correction of each table"
    return Table(f"Against {reference}, {len(experiment.seeds)} seeds", columns, tuple(rows), note)


def stage_table(results: Results) -> Table:
    """The metrics early, in the middle and late in training, and what the base never produced."""
    base = results.summaries["base"]
    rows = [("base", "", *(base[metric].brackets() for metric in results.metrics), "")]
    for arm in results.runs:
        reached, new = stages(results, arm), novelty(results, arm)
        for step, evaluations in reached.items():
            summary = results.summary(evaluations)
            found = new.brackets() if new and step == list(reached)[-1] else ""
            rows.append((results.label(arm), step, *(summary[metric].brackets() for metric in results.metrics), found))
    columns = ("", "at", *map(in_words, results.metrics), "new families")
    samples = results.base.evaluations.samples
    note = f"New families: per problem, found at the end and not by the base in {samples} samples" if samples else ""
    if not any(row[-1] for row in rows):
        columns, rows, note = columns[:-1], [row[:-1] for row in rows], ""
    return Table("The clean policy early, midway and late in training", columns, tuple(rows), note)


def training_table(results: Results) -> Table:
    """What training met, in its first and its last third."""
    rows = []
    for arm, runs in results.runs.items():
        met = watched(results, arm)
        cells = (" -> ".join("-" if x is None else number(x) for x in thirds.values()) for thirds in met.values())
        wall = sum(run.provenance["wall_seconds"] for run in runs) / len(runs)
        rows.append((results.label(arm), *cells, f"{wall:.0f} s"))
    columns = ("", *(FIGURES[name].label for name in watched(results, next(iter(results.runs)))), "a run")
    return Table(THIRDS, columns, tuple(rows), "Means over steps and seeds; of the sampler, not of the clean policy")


def tuning_tables(study: StudyResults) -> Iterator[Table]:
    """The candidates of each experiment, and which was taken."""
    experiments, figures_of = study.tuned
    for name, experiment in experiments.items():
        rows = []
        for arm, values in figures_of[name].items():
            best = max((v for v in values if v is not None), default=None) if None not in values else None
            for i, value in enumerate(values):
                taken = "taken" if best is not None and values.index(best) == i else ""
                label = experiment.arms[f"{arm}.{i}"].label
                rows.append((label, "not recorded" if value is None else number(value), taken))
        seeds = ", ".join(map(str, experiment.seeds))
        columns = ("", in_words(experiment.metrics[0]), "")
        yield Table(f"Tuning of {name}", columns, tuple(rows), f"Means over the tuning seeds {seeds}")


def coherence_tables(study: StudyResults) -> Iterator[Table]:
    """Where noise is coherent, at equal KL."""
    rows = []
    for name, sites in study.coherence.items():
        for site in sites:
            found = figures(site)
            cells = (interval.brackets() for interval in found.values())
            tempered = "-" if site.tempered_success is None else number(site.tempered_success)
            sizes = (f"{site.parameters:,}", number(site.sigma))
            rows.append((name, site.site, *sizes, *cells, number(site.clean_success), tempered))
    if rows:
        columns = ("policy", "site", "weights", "sigma", *found, "success, clean", "success, temperature")
        note = (
            "sigma in multiples of each tensor's RMS; 95 % bootstrap intervals over the draws; the temperature is "
            "that of the same KL"
        )
        yield Table("Coherence of noise per site", columns, tuple(rows), note)
