"""The page of a comparison: one HTML file that needs nothing else, and the pictures as PNG files.

Every figure on it is recomputed from the records in the comparison's folder. page.html is its Jinja template,
page.css its style.
"""

import base64
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from psn_tutorial.experiments.results import Comparison, Results
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.reporting.pictures import Picture, draw
from psn_tutorial.reporting.side_by_side import before_and_after, templates
from psn_tutorial.reporting.tables import Table, conclusions, tables
from psn_tutorial.runs.files import in_words, replace_file, write_json

# Settings that say nothing where sigma is 0.
NOISE = ("targets", "relative", "draws", "spread", "antithetic")


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


def page(comparison: Comparison, pictures: dict[str, list[Picture]]) -> str:
    """The whole page as HTML."""
    every = list(comparison.results.values())
    environment = templates()
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template("page.html").render(
        experiments=[_experiment(results, pictures[results.name]) for results in every],
        limits=limits(every),
        facts=_facts(_runs(comparison)),
        command=_first_command(_runs(comparison)),
    )


def _experiment(results: Results, pictures: Sequence[Picture]) -> dict[str, Any]:
    """What the template shows of one experiment; the last two pictures are of its training."""
    final, minus_reference, minus_base, training = tables(results)
    return {
        "name": results.name,
        "question": results.experiment.question,
        "conclusions": conclusions(results),
        "pictures": pictures[:-2],
        "tables": (final, minus_reference, minus_base, training),
        "training_pictures": pictures[-2:],
        "answers": before_and_after(results),
        "seed": results.experiment.seeds[0],
        "settings": _settings(results),
    }


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
        "The models are small and their tasks made up. Nothing here says that a large language "
        "model would behave alike.",
        f"The tables hold {count} differences, each with its own interval: of twenty intervals at "
        f"95 %, one misses by chance.",
    ]
    return said


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


def _runs(comparison: Comparison) -> list[RunRecord]:
    every = comparison.results.values()
    return [run for results in every for run in (results.base, *(run for arm in results.runs.values() for run in arm))]


def _facts(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Provenance: every different value that the runs recorded."""
    return {
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


def _first_command(runs: Sequence[RunRecord]) -> str:
    """The command that began the comparison; "" when it was Python."""
    return shlex.join(min(runs, key=lambda run: run.provenance["started"]).provenance["command"] or ())


def _each(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def _duration(runs: Sequence[RunRecord]) -> str:
    seconds = sum(run.provenance["wall_seconds"] for run in runs)
    resumed = sum(len(run.provenance.get("resumed", ())) for run in runs)
    again = f", resumed {resumed} times" if resumed else ""
    spent = f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    return f"{spent} in {len(runs)} runs{again}"
