"""Which pictures a comparison gets, drawn from its records by :mod:`psn_tutorial.reporting.plotting`."""

import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib.pyplot as plt

from psn_tutorial.evaluation.metrics import per_problem, summarise
from psn_tutorial.experiments.results import Results
from psn_tutorial.reporting import plotting


class Picture(NamedTuple):
    """A figure: its file name without ending, what it shows, the PNG, and its numbers as text."""

    name: str
    caption: str
    png: bytes
    numbers: str


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
