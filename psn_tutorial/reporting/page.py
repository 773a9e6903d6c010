"""The page of a comparison: one HTML file that needs nothing else, and the pictures as PNG files.

Every figure on it is recomputed from the records in the comparison's folder.
"""

import base64
import html
import io
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt

from psn_tutorial.evaluation.metrics import per_problem, summarise
from psn_tutorial.experiments.results import Comparison, Results
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.reporting import plotting
from psn_tutorial.reporting.tables import Conclusion, Table, conclusions, tables
from psn_tutorial.runs.files import in_words, replace_file, write_json

# Settings that say nothing where sigma is 0.
NOISE = ("targets", "relative", "draws", "spread", "antithetic")


class Picture(NamedTuple):
    """A figure: its file name without ending, what it shows, the PNG, and its numbers as text."""

    name: str
    caption: str
    png: bytes
    numbers: str


def write_report(comparison: Comparison) -> Path:
    """Write report.html, summary.json and pictures/*.png into the comparison's folder.

    Returns the page. Raises UserError when something cannot be written.
    """
    folder = comparison.folder
    pictures = {name: list(draw(results)) for name, results in comparison.results.items()}
    with in_words(folder / "pictures", "the records are kept"):
        (folder / "pictures").mkdir(exist_ok=True)
    for drawn in pictures.values():
        for picture in drawn:
            replace_file(folder / "pictures" / f"{picture.name}.png", picture.png)
    write_json(folder / "summary.json", comparison.to_json())
    replace_file(folder / "report.html", page(comparison, pictures).encode())
    return folder / "report.html"


# --- pictures -------------------------------------------------------------------------------------


def draw(results: Results) -> Iterator[Picture]:
    """The pictures of one experiment."""
    steps = {results.label(arm): [run.steps for run in results.runs[arm]] for arm in results.runs}
    if "success" in results.metrics:
        curves = _success(results)
        yield _picture(
            results,
            "success",
            "Exact success probability of the clean policy, on a log scale. Thin lines: one "
            "training seed each; bold: their geometric mean.",
            plotting.success_curves(curves, floor=_floor(curves)),
        )
    if any(metric.startswith("pass@") for metric in results.metrics):
        summaries = {results.label(arm): summarise(results.final(arm)) for arm in ("base", *results.runs)}
        yield _picture(
            results,
            "pass-at-k",
            "pass@k of the clean policy after the last step, with intervals as bands.",
            plotting.pass_at_k_curves(summaries),
        )
    if results.experiment.frontier:
        x, y = results.experiment.frontier
        yield _picture(
            results,
            "frontier",
            f"{y} over {x} along training. Every path begins at the base. An arm explores better "
            f"only where its path lies above another's at equal {x}.",
            plotting.frontier_plot(_paths(results), x, y),
        )
    coverages = [m for m in ("coverage", "family_coverage") if m in results.metrics]
    if coverages:
        summaries = {results.label(arm): s for arm, s in results.summaries.items()}
        samples = results.base.evaluations.samples
        yield _picture(
            results,
            "coverage",
            f"Distinct solutions, and families of solutions, that {samples} samples per problem "
            f"find, of all that an exhaustive solver lists.",
            plotting.coverage_bars(summaries, coverages),
        )
    window = max(1, len(next(iter(steps.values()))[0]) // 15)
    yield _picture(
        results,
        "reward",
        "Mean reward of the rollouts: of the sampler, noisy or hot, not of the clean policy.",
        plotting.learning_curves(steps, window=window),
    )
    yield _picture(
        results,
        "diagnostics",
        "Is the correction alive, and how large is the noise? Importance ratios are unclamped; "
        "plain GRPO samples from the policy itself and stands at 1 and 0.",
        plotting.noise_diagnostics(steps, window=window),
    )


def _success(results: Results) -> dict[str, list[list[dict[str, float]]]]:
    """Arm -> seed -> one record per evaluated step, the base at step 0."""
    curves: dict[str, list[list[dict[str, float]]]] = {}
    for arm in results.runs:
        curves[results.label(arm)] = [
            [{"step": step, "success": _mean(path[step], "success")} for step in sorted(path)]
            for path in results.paths(arm)
        ]
    return curves


def _floor(curves: dict[str, list[list[dict[str, float]]]]) -> float:
    """The power of ten below the smallest success probability, but at least 1e-12."""
    values = [r["success"] for seeds in curves.values() for records in seeds for r in records]
    smallest = min((value for value in values if value > 0), default=1e-12)
    return max(10.0 ** math.floor(math.log10(smallest)), 1e-12) if smallest < 1 else 0.1


def _paths(results: Results) -> dict[str, dict[int, Any]]:
    """Arm -> step -> summary over the seeds, the base at step 0."""
    paths = {}
    for arm in results.runs:
        seeds = results.paths(arm)
        steps = sorted(set.intersection(*map(set, seeds)))
        paths[results.label(arm)] = {
            step: results.summary([seed[step] for seed in seeds] if step else [seeds[0][0]]) for step in steps
        }
    return paths


def _mean(evaluation: Any, metric: str) -> float:
    values = per_problem(evaluation, metric).values()
    return sum(values) / len(values)


def _picture(results: Results, name: str, caption: str, drawn: plotting.Drawn) -> Picture:
    figure, numbers = drawn
    buffer = io.BytesIO()
    # Without the software's version in it, the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    digest = plotting.digest(numbers)
    return Picture(f"{results.name}-{name}", caption, buffer.getvalue(), digest)


# --- the page -------------------------------------------------------------------------------------


def page(comparison: Comparison, pictures: dict[str, list[Picture]]) -> str:
    """The whole page as HTML."""
    every = list(comparison.results.values())
    body = [
        "<h1>GRPO and parameter-space noise: a comparison</h1>",
        "<p>Reinforcement learning with verifiable rewards improves a policy only where sampling "
        "finds a correct answer. PSN-GRPO samples from a policy whose <em>weights</em> carry noise, "
        "one draw for a whole answer, and corrects for it with truncated importance weights. "
        "Every arm here starts from the same base policy and takes the same number of steps; "
        "all evaluations are of the clean policy.</p>",
        "<h2>What it shows</h2>",
        *(_found(r.name, conclusions(r)) for r in every),
        "<h2>What it does not show</h2>",
        _bullets(limits(every)),
    ]
    for results in every:
        body += _experiment(results, pictures[results.name])
    body += ["<h2>Where it comes from</h2>", *_origin(comparison)]
    return PAGE.format(style=STYLE, body="\n".join(body))


def limits(every: Sequence[Results]) -> list[str]:
    """What the comparison cannot say, from its own settings."""
    said = []
    for results in every:
        experiment, name = results.experiment, results.name.capitalize()
        if len(experiment.seeds) == 1:
            said.append(
                f"{name}: one training seed per arm. The intervals come from the problems, "
                f"and how another seed would have trained stays open."
            )
        if samples := results.base.evaluations.samples:
            said.append(f"{name}: {samples} samples per problem. What would be found with more is not known.")
    count = sum(len(r.metrics) * (2 * len(r.runs) - 1) for r in every)
    said += [
        "Temperature and sigma were chosen before, and not searched here: another value of either "
        "could do better or worse. Equal steps are equal numbers of rollouts, not equal seconds.",
        "The models are tiny and their tasks made up. Nothing here says that a large language "
        "model would behave alike.",
        f"The tables hold {count} differences, each with its own interval: of twenty intervals at "
        f"95 %, one misses by chance.",
    ]
    return said


def _experiment(results: Results, pictures: Sequence[Picture]) -> Iterable[str]:
    yield f'<h2 id="{_text(results.name)}">{_text(results.name.capitalize())}</h2>'
    yield f"<p>{_text(results.experiment.question)}</p>"
    final, minus_reference, minus_base, training = tables(results)
    main, rest = pictures[:-2], pictures[-2:]
    yield from map(_figure, main)
    yield from map(_table, (final, minus_reference, minus_base))
    yield _table(training)
    yield from map(_figure, rest)
    yield _table(_settings(results))


def _settings(results: Results) -> Table:
    """What the arms were given: their own settings first, then what all share."""
    configs = {arm: runs[0].config for arm, runs in results.runs.items()}
    own = dict.fromkeys(name for arm in results.experiment.arms.values() for name in arm.changes)
    common = [name for name in results.experiment.common if name not in own]
    rows = tuple(
        (name.replace("_", " "), *(_setting(config, name) for config in configs.values())) for name in (*own, *common)
    )
    seeds = ", ".join(map(str, results.experiment.seeds))
    note = f"Seeds: {seeds}. All settings: config.json in the folder of each run"
    return Table("Settings", ("", *map(results.label, configs)), rows, note)


def _setting(config: dict[str, Any], name: str) -> str:
    value = config[name]
    if value is None or (name in NOISE and not config["sigma"]):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _origin(comparison: Comparison) -> Iterable[str]:
    """Provenance: one line per fact, every different value that the runs recorded."""
    runs = [
        run
        for results in comparison.results.values()
        for run in (results.base, *(run for arm in results.runs.values() for run in arm))
    ]
    facts = {
        "command": _each(shlex.join(run.provenance["command"] or ["(Python)"]) for run in runs),
        "commit": _each(run.provenance["commit"] or "not known" for run in runs),
        "versions": _each(", ".join(f"{k} {v}" for k, v in run.provenance["versions"].items()) for run in runs),
        "processor": _each(
            f"{p['cpu']}, {p['cpu_count']} cores, {p['threads']} threads used, {p['system']}"
            for p in (run.provenance for run in runs)
        ),
        "started": min(run.provenance["started"] for run in runs),
        "time": _duration(runs),
        "base policies": _each(run.config["policy_sha256"][:16] for run in runs if "policy_sha256" in run.config),
    }
    cells = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in facts.items())
    yield f'<div class="scroll"><table class="facts">{cells}</table></div>'
    first = min(runs, key=lambda run: run.provenance["started"]).provenance["command"]
    if first:
        yield "<p>To do it again, or to go on after an interruption:</p>"
        yield f"<pre>{_text(shlex.join(first))}</pre>"


def _each(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def _duration(runs: Sequence[RunRecord]) -> str:
    seconds = sum(run.provenance["wall_seconds"] for run in runs)
    resumed = sum(len(run.provenance.get("resumed", ())) for run in runs)
    again = f", resumed {resumed} times" if resumed else ""
    spent = f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    return f"{spent} in {len(runs)} runs{again}"


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><div class="scroll"><img alt="{_text(picture.caption)}" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{_text(picture.caption)}</figcaption>"
        f"<details><summary>the numbers drawn</summary><pre>{_text(picture.numbers)}</pre></details>"
        f"</figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr><th>{_text(row[0])}</th>{''.join(map(_cell, row[1:]))}</tr>" for row in table.rows)
    return (
        f'<h4>{_text(table.title)}</h4><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="note">{_text(table.note)}</p>'
    )


def _cell(text: str) -> str:
    kind = {"+": ' class="higher"', "-": ' class="lower"', "?": ' class="open"'}
    return f"<td{kind.get(text[-1:], '') if len(text) > 1 else ''}>{_text(text)}</td>"


def _found(name: str, found: Sequence[Conclusion]) -> str:
    items = "".join(f"<li>{_text(c.text)}: <strong>{_text(c.verdict)}</strong>.</li>" for c in found)
    link = f'<a href="#{_text(name)}">{_text(name.capitalize())}</a>'
    return f"<h3>{link}</h3><ul>{items}</ul>"


def _bullets(said: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(sentence)}</li>" for sentence in said) + "</ul>"


def _text(value: Any) -> str:
    return html.escape(str(value))


STYLE = """
:root { color-scheme: light; }
body { font: 17px/1.55 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
       max-width: 56rem; padding: 1rem 1.1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.6rem; border-top: 1px solid #ddd;
     padding-top: 1.2rem; font-size: 1.35rem; } h3 { margin: 1.6rem 0 .3rem; font-size: 1.1rem; }
h4 { margin: 1.8rem 0 .3rem; font-size: 1rem; } a { color: #0072b2; }
li { margin: .35rem 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; white-space: nowrap; vertical-align: top;
         border-bottom: 1px solid #eee; font-weight: 400; }
thead th { font-weight: 600; border-bottom: 1.5px solid #999; white-space: normal; }
tbody th, .facts th { text-align: left; color: #555; } .facts td { text-align: left;
         white-space: normal; overflow-wrap: anywhere; }
.higher, .lower { font-weight: 600; } .open { color: #777; }
.note, figcaption { color: #666; font-size: .88rem; margin: .3rem 0 0; }
figure { margin: 1.8rem 0; } img { width: 100%; min-width: 34rem; max-width: 50rem; height: auto; }
pre { font: .78rem/1.45 ui-monospace, monospace; overflow-x: auto; background: #f6f6f6;
      padding: .7rem; } summary { color: #666; font-size: .88rem; cursor: pointer; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>GRPO and parameter-space noise: a comparison</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
