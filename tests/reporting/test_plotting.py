"""Figures: what is returned is what the artists hold; empty input gets a sentence."""

import json
import math

import matplotlib

matplotlib.use("Agg")  # before pyplot: no screen is needed

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.intervals import Interval, seed_interval
from psn_tutorial.evaluation.metrics import METRICS, Summary
from psn_tutorial.evaluation.probes import Sampler
from psn_tutorial.reporting import plotting
from psn_tutorial.reporting.plotting.labels import axis_label, spread_apart
from psn_tutorial.runs.steps import FIGURES
from tests.evaluation.probes_by_hand import made


@pytest.fixture(autouse=True)
def close_figures(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("plt.show was called"))
    yield
    plt.close("all")


def records(steps, **series):
    return [{"step": step} | {key: values[i] for key, values in series.items()} for i, step in enumerate(steps)]


def interval(value, half=0.02, n=3, unit="seeds"):
    return Interval(value, value - half, value + half, n=n, unit=unit)


def summary(start=0.1, **more):
    passes = {f"pass@{k}": interval(start * (1 + i)) for i, k in enumerate((1, 4, 16))}
    return Summary({**passes, "coverage": interval(0.4), "family_coverage": interval(0.6), **more})


def labels(axes):
    return {text.get_text() for text in axes.texts}


RUNS = {
    "GRPO": [
        records([1, 2, 3, 4], reward=[0.0, 0.25, 0.5, 0.75], ess=[1.0] * 4),
        records([1, 2, 3, 4], reward=[0.25, 0.25, 0.25, 0.25], ess=[1.0] * 4),
    ],
    "PSN": [
        records(
            [1, 2, 3],
            reward=[0.0, 0.5, 0.0],
            ess=[0.9, None, 0.7],
            kl_k3=[0.1] * 3,
            kl_k1=[-0.1] * 3,
        ),
    ],
}


# --- curves over training -------------------------------------------------------------------------


def test_learning_curves_draw_the_mean_bold_and_each_seed_thin():
    figure, numbers = plotting.learning_curves(RUNS)
    grpo = numbers["GRPO"]
    assert grpo["step"] == [1, 2, 3, 4]
    assert grpo["mean"] == [0.125, 0.25, 0.375, 0.5]
    assert grpo["seeds"] == [[0.0, 0.25, 0.5, 0.75], [0.25] * 4]
    axes = figure.axes[0]
    lines = [list(line.get_ydata()) for line in axes.lines]
    assert lines == [*grpo["seeds"], grpo["mean"], numbers["PSN"]["mean"]]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3, 4]] * 3 + [[1, 2, 3]]
    widths = [line.get_linewidth() for line in axes.lines]
    assert widths[0] == widths[1] < widths[2] == widths[3]
    assert labels(axes) == {"GRPO", "PSN"}
    assert axes.get_xlabel() == "training step"
    assert axes.get_ylabel() == "mean reward of the rollouts"


def test_window_averages_the_last_steps():
    figure, numbers = plotting.learning_curves({"GRPO": RUNS["GRPO"]}, window=2)
    assert numbers["GRPO"]["step"] == [2, 3, 4]
    assert numbers["GRPO"]["seeds"][0] == [0.125, 0.375, 0.625]
    assert figure.axes[0].get_ylabel().endswith(", mean of 2 steps")
    _, short = plotting.learning_curves({"GRPO": RUNS["GRPO"]}, window=99)
    assert short["GRPO"] == {"step": [4], "mean": [0.3125], "seeds": [[0.375], [0.25]]}


def test_missing_figures_and_steps_are_left_out():
    _, numbers = plotting.learning_curves({"PSN": RUNS["PSN"]}, "ess")
    assert numbers["PSN"]["step"] == [1, 3]
    uneven = {"A": [records([1, 2, 5], reward=[1, 2, 3]), records([2, 5, 6], reward=[4, 5, 6])]}
    _, numbers = plotting.learning_curves(uneven)
    assert numbers["A"] == {"step": [2, 5], "mean": [3.0, 4.0], "seeds": [[2.0, 3.0], [4.0, 5.0]]}


def test_success_curves_take_the_geometric_mean_above_the_floor():
    runs = {
        "GRPO": [records([0, 25], success=[1e-9, 0.0])],
        "PSN": [
            records([0, 25], success=[1e-4, 0.25]),
            records([0, 25], success=[1e-2, 1.0]),
        ],
    }
    figure, numbers = plotting.success_curves(runs, floor=1e-5)
    assert numbers["GRPO"]["mean"] == pytest.approx([1e-5, 1e-5])
    assert numbers["PSN"]["mean"] == pytest.approx([1e-3, 0.5])
    axes = figure.axes[0]
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 1e-5
    assert list(axes.lines[0].get_ydata()) == numbers["GRPO"]["mean"]
    assert list(axes.lines[3].get_ydata()) == numbers["PSN"]["mean"]
    assert labels(axes) == {"GRPO", "PSN", "1e-05 or less"}


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_success_must_be_a_probability(value):
    with pytest.raises(UserError, match="success must be a probability"):
        plotting.success_curves({"A": [records([0], success=[value])]})


# --- evaluations ----------------------------------------------------------------------------------


def test_pass_at_k_curves_draw_values_and_bands():
    figure, numbers = plotting.pass_at_k_curves({"base": summary(), "PSN": summary(0.2)})
    assert numbers["base"] == {
        "k": [1, 4, 16],
        "pass": pytest.approx([0.1, 0.2, 0.3]),
        "low": pytest.approx([0.08, 0.18, 0.28]),
        "high": pytest.approx([0.12, 0.22, 0.32]),
    }
    axes = figure.axes[0]
    for line, band, arm in zip(axes.lines, axes.collections, ("base", "PSN"), strict=True):
        n = numbers[arm]
        assert list(line.get_xdata()) == n["k"] and list(line.get_ydata()) == n["pass"]
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
        assert corners >= {
            *zip(n["k"], n["low"], strict=True),
            *zip(n["k"], n["high"], strict=True),
        }
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4", "16"]
    assert figure.get_supxlabel() == "Intervals: 95 % over 3 seeds"


def test_a_figure_says_which_arm_has_which_interval():
    base = {k: Interval(v.value, v.low, v.high, n=200) for k, v in summary().items()}
    figure, _ = plotting.pass_at_k_curves({"base": base, "GRPO": summary(), "PSN": summary()})
    assert figure.get_supxlabel() == ("Intervals: 95 % over 200 problems (base); 95 % over 3 seeds (others)")
    alone = {"pass@1": Interval(0.5, math.nan, math.nan, n=1)}
    figure, numbers = plotting.pass_at_k_curves({"chain": alone})
    assert figure.get_supxlabel() == "" and math.isnan(numbers["chain"]["low"][0])


def test_frontier_plot_joins_the_checkpoints_in_the_order_of_training():
    arms = {
        "base": {0: summary(0.1)},
        "GRPO": {300: summary(0.3), 0: summary(0.1), 75: summary(0.2)},
    }
    figure, numbers = plotting.frontier_plot(arms, y="pass@16")
    n = numbers["GRPO"]
    assert n["step"] == [0, 75, 300]
    assert n["pass@1"] == pytest.approx([0.1, 0.2, 0.3])
    assert n["pass@16"] == pytest.approx([0.3, 0.6, 0.9])
    assert n["pass@16 low"] == pytest.approx([0.28, 0.58, 0.88])
    assert n["pass@1 high"] == pytest.approx([0.12, 0.22, 0.32])
    axes = figure.axes[0]
    path = axes.lines[1]
    assert (list(path.get_xdata()), list(path.get_ydata())) == (n["pass@1"], n["pass@16"])
    upright, level, dots = axes.collections[3:]
    assert [segment[:, 1].tolist() for segment in upright.get_segments()] == [
        list(pair) for pair in zip(n["pass@16 low"], n["pass@16 high"], strict=True)
    ]
    assert [segment[:, 0].tolist() for segment in level.get_segments()] == [
        list(pair) for pair in zip(n["pass@1 low"], n["pass@1 high"], strict=True)
    ]
    sizes = dots.get_sizes()
    assert sizes[2] > sizes[0] == sizes[1]
    assert labels(axes) == {"base", "GRPO"}
    assert axes.get_xlabel() == "pass@1 (share of problems solved by 1 sample)"
    assert axes.get_ylabel() == "pass@16 (share of problems solved by 16 samples)"
    assert figure.get_supxlabel().startswith("Large marker: last checkpoint. Intervals: 95 %")


def test_coverage_bars_show_bar_whisker_and_figure():
    arms = {"base": summary(), "GRPO": summary(coverage=interval(0.25, 0.05))}
    figure, numbers = plotting.coverage_bars(arms)
    assert numbers["coverage"]["GRPO"] == pytest.approx([0.25, 0.2, 0.3])
    for axes, metric in zip(figure.axes, ("coverage", "family_coverage"), strict=True):
        drawn = [bar.get_width() for bar in axes.patches]
        assert drawn == [v for v, _, _ in numbers[metric].values()]
        whiskers = [w.get_segments()[0][:, 0].tolist() for w in axes.collections]
        assert whiskers == [[low, high] for _, low, high in numbers[metric].values()]
        assert labels(axes) == {f"{v:.3f}" for v, _, _ in numbers[metric].values()}
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["base", "GRPO"]


# --- diagnostics ----------------------------------------------------------------------------------


def test_noise_diagnostics_draw_a_panel_per_figure_that_is_there():
    figure, numbers = plotting.noise_diagnostics(RUNS, window=1)
    assert set(numbers) == {"ess", "kl_k3", "kl_k1"}
    assert set(numbers["ess"]) == {"GRPO", "PSN"} and set(numbers["kl_k3"]) == {"PSN"}
    ess, kl = (axes for axes in figure.axes if axes.get_visible())
    assert list(ess.lines[-1].get_ydata()) == numbers["ess"]["PSN"]["mean"] == [0.9, 0.7]
    assert [list(line.get_ydata()) for line in kl.lines] == [[0.1] * 3, [-0.1] * 3]
    assert kl.lines[0].get_linestyle() == "-" and kl.lines[1].get_linestyle() == "--"
    assert kl.lines[0].get_color() == ess.lines[-1].get_color(), "one arm, one colour"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["GRPO", "PSN"]


def test_noise_diagnostics_title_says_what_is_drawn():
    for keys, title in ((("kl_k3",), "KL per token: k3 solid, k1 dashed"), (("kl_k1",), "KL per token (k1, nats)")):
        figure, _ = plotting.noise_diagnostics({"PSN": RUNS["PSN"]}, keys, window=1)
        (axes,) = figure.axes
        assert axes.get_title(loc="left") == title
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--"][: len(axes.lines)]


def test_noise_diagnostics_leave_out_what_no_step_has_of_all_seeds():
    """Steps without an update have no noise_to_update; of two short runs none may be in common."""
    seeds = [
        [{"step": step, "ess": 0.5, "noise_to_update": value} for step, value in enumerate(values)]
        for values in ([3.0, None], [None, 2.0])
    ]
    _, numbers = plotting.noise_diagnostics({"PSN": seeds}, window=1)
    assert set(numbers) == {"ess"}


def test_noise_diagnostics_of_a_full_record():
    keys = {key: [0.5, 0.25] for key in (*plotting.DIAGNOSTICS, "kl_k1")}
    figure, numbers = plotting.noise_diagnostics({"PSN": [records([1, 2], **keys)] * 2}, window=1)
    assert set(numbers) == {*plotting.DIAGNOSTICS, "kl_k1"}
    assert sum(axes.get_visible() for axes in figure.axes) == 6
    assert all(axes.get_title(loc="left") for axes in figure.axes)
    assert {axes.get_xlabel() for axes in figure.axes[3:]} == {"training step"}


# --- style ----------------------------------------------------------------------------------------


def test_an_arm_keeps_its_colour():
    known = {
        "base": plotting.GREY,
        "GRPO": plotting.BLUE,
        "T = 1.3 + TIS": plotting.ORANGE,
        "hotter sampling": plotting.ORANGE,
        "PSN-GRPO + TIS": plotting.VERMILION,
        "psn, no TIS": plotting.PURPLE,
    }
    for arm, colour in known.items():
        assert plotting.arm_colours([arm]) == {arm: colour}
    figure, _ = plotting.learning_curves({"GRPO": RUNS["GRPO"], "PSN": RUNS["PSN"]})
    colours = [to_hex(line.get_color()).upper() for line in figure.axes[0].lines]
    assert colours == [plotting.BLUE] * 3 + [plotting.VERMILION]


@given(st.lists(st.text(max_size=12), unique=True, max_size=8))
def test_eight_arms_have_eight_colours(arms):
    colours = plotting.arm_colours(arms)
    assert list(colours) == arms and len(set(colours.values())) == len(arms)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=9).map(sorted))
def test_labels_stand_apart_and_move_as_little_as_needed(places):
    spread = spread_apart(places, 14.0)
    assert all(b - a >= 14.0 - 1e-9 for a, b in zip(spread, spread[1:], strict=False))
    assert np.mean(spread) == pytest.approx(np.mean(places), abs=1e-6)  # least squares keeps it
    if all(b - a >= 14.0 for a, b in zip(places, places[1:], strict=False)):
        assert spread == pytest.approx(places)


def test_every_figure_of_a_step_and_every_metric_has_a_name_of_its_own_on_an_axis():
    names = [axis_label(name) for name in {**FIGURES, **METRICS}]
    assert all(names) and len(set(names)) == len(names)
    assert axis_label("coverage") == "distinct solutions found (share)"
    assert (
        axis_label("tokens") == "completion tokens per step" and axis_label("tokens_per_second") == "tokens per second"
    )


def test_nothing_is_left_behind_in_the_reader_s_style():
    before = dict(matplotlib.rcParams)
    plotting.learning_curves(RUNS)
    assert dict(matplotlib.rcParams) == before


def test_numbers_are_plain():
    for _, numbers in (
        plotting.learning_curves(RUNS),
        plotting.pass_at_k_curves({"base": summary()}),
        plotting.coverage_bars({"base": summary()}),
        plotting.noise_diagnostics(RUNS),
        plotting.frontier_plot({"base": {0: summary()}}, y="pass@4"),
    ):
        assert json.loads(json.dumps(numbers)) == numbers


# --- digest ---------------------------------------------------------------------------------------


def test_digest_is_a_rounded_table():
    numbers = {"GRPO": {"step": [1, 100], "mean": [0.12345, -1e-7], "seeds": [[0.5, -0.0]]}, "n": 3}
    assert plotting.digest(numbers) == (
        "GRPO, step             1       100\n"
        "GRPO, mean         0.123 -1.00e-07\n"
        "GRPO, seeds 0      0.500         0\n"
        "n                      3"
    )
    assert "0.12 " in plotting.digest(numbers, digits=2)


def test_digest_tells_what_was_measured_from_what_was_counted():
    measured = {"x": [1.0, 12.0, 12.34, 1234.0, 9.96, float("nan"), None, "a"]}
    assert plotting.digest(measured, digits=2).split()[1:] == "1.0 12.0 12.3 1234.0 10.0 nan None a".split()
    assert plotting.digest({"x": [1e-6, 0.5, 4.2]}, digits=1).split()[1:] == "1e-06 0.5 4.2".split()
    assert plotting.digest({"x": [0.0, 0, 12, 1234]}, digits=2).split()[1:] == "0 0 12 1234".split()


def test_digest_thins_long_lists_and_keeps_both_ends():
    text = plotting.digest({"step": list(range(1, 301)), "y": [i / 300 for i in range(300)]})
    steps = text.splitlines()[0].split()[1:]
    assert len(steps) == 10 and steps[0] == "1" and steps[-1] == "300"
    assert plotting.digest({"x": list(range(10))}).split() == ["x", *map(str, range(10))]
    assert len(plotting.digest({"x": list(range(10))}, columns=2).split()) == 3
    assert plotting.digest({"x": []}) == "x"


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plotting.learning_curves({}), "runs must not be empty"),
        (lambda: plotting.learning_curves({"A": []}), r"runs\['A'\] must not be empty"),
        (lambda: plotting.learning_curves({"A": [[]]}), "seed 0 of 'A' holds no reward"),
        (lambda: plotting.learning_curves(RUNS, "rewrad"), "seed 0 of 'GRPO' holds no rewrad"),
        (lambda: plotting.learning_curves(RUNS, window=0), "window must be"),
        (
            lambda: plotting.learning_curves({"A": [records([1], reward=[0]), records([2], reward=[0])]}),
            "the seeds of 'A' have no step with reward in common",
        ),
        (lambda: plotting.success_curves({}), "runs must not be empty"),
        (lambda: plotting.success_curves(RUNS, floor=0), "floor must be"),
        (lambda: plotting.pass_at_k_curves({}), "summaries must not be empty"),
        (
            lambda: plotting.pass_at_k_curves({"A": {"coverage": interval(0.5)}}),
            "the summary of 'A' holds no pass@k, only coverage",
        ),
        (lambda: plotting.frontier_plot({}), "arms must not be empty"),
        (lambda: plotting.frontier_plot({"A": {}}), r"arms\['A'\] must not be empty"),
        (
            lambda: plotting.frontier_plot({"A": {7: summary()}}),
            "the summary of 'A' at step 7 holds no pass@256",
        ),
        (lambda: plotting.coverage_bars({}), "summaries must not be empty"),
        (lambda: plotting.coverage_bars({"A": summary()}, []), "metrics must not be empty"),
        (
            lambda: plotting.coverage_bars({"A": {"pass@1": interval(0.5)}}),
            "the summary of 'A' holds no coverage",
        ),
        (lambda: plotting.noise_diagnostics({}), "runs must not be empty"),
        (lambda: plotting.noise_diagnostics({"A": [[]]}), "no arm holds any of ess, clipped"),
        (lambda: plotting.digest({}), "numbers must not be empty"),
        (lambda: plotting.digest({"x": 1}, digits=0), "digits must be"),
    ],
)
def test_nothing_to_draw_gets_a_sentence_and_leaves_no_figure(draw, words):
    with pytest.raises(UserError, match=words):
        draw()
    assert not plt.get_fignums()


def test_a_probe_is_a_point_at_its_kl_in_the_panel_of_its_policy():
    clean = made(["1000", "1111"], 4)
    noise = made(["1111", "1100"], 4, sampler=Sampler("mlp", 0.1), kl_k3=[0.25] * 4)
    cut = made(["1111", "0000"], 4, sampler=Sampler(top_p=0.5), kl_k1=[0.5] * 4, kl_k3=[9.0] * 4)
    figure, numbers = plotting.probe_plot({"small": [clean, noise], "large": [clean, cut]}, k=1)
    assert numbers["small"]["clean"][:2] == [0.0, 0.625] and numbers["small"]["mlp=0.1"][:2] == [0.25, 0.75]
    assert numbers["large"]["top-p=0.5"][:2] == [0.5, 0.5]
    small, large = figure.axes
    assert [axes.get_title(loc="left") for axes in (small, large)] == ["small", "large"]
    at = [tuple(place) for points in small.collections if len(places := points.get_offsets()) for place in places]
    assert (0.25, 0.75) in at and (0.0, 0.625) in at
    assert {text.get_text() for text in small.get_legend().get_texts()} == {"weight noise", "top-p", "policy"}
    for wrong in ({}, {"small": []}):
        with pytest.raises(UserError, match="empty"):
            plotting.probe_plot(wrong)
    with pytest.raises(UserError, match="k must be <= 4, the answers of 'small'"):
        plotting.probe_plot({"small": [clean]})


def test_where_no_probe_solves_anything_the_scale_still_shows_shares():
    figure, _ = plotting.probe_plot({"small": [made(["0000", "0000"], 4)]}, k=1)
    assert figure.axes[0].get_ylim()[1] == pytest.approx(0.1)
    figure, _ = plotting.probe_plot({"small": [made(["1111", "1111"], 4)]}, k=1)
    assert figure.axes[0].get_ylim()[1] >= 1


# --- studies ------------------------------------------------------------------------------------------


def test_every_seed_its_mean_and_the_verdict_stand_in_one_row():
    arms = {"GRPO": [0.0, 0.0, 0.0], "PSN": [0.2, 0.6, 0.7], "... but the MLPs": [0.1]}
    figure, numbers = plotting.seeds_plot(arms, verdicts={"PSN": "gain"}, base=0.25)
    (axes,) = figure.axes
    assert numbers["PSN"]["seeds"] == arms["PSN"] and numbers["PSN"]["verdict"] == "gain"
    mean, low, high = numbers["PSN"]["mean"]
    assert mean == pytest.approx(0.5) and mean - low == pytest.approx(4.302653 * np.std(arms["PSN"], ddof=1) / 3**0.5)
    assert math.isnan(numbers["... but the MLPs"]["mean"][1]) and numbers["GRPO"]["verdict"] is None
    dots, means = axes.collections[0::3], axes.collections[2::3]
    for place, (label, values) in enumerate(arms.items()):
        assert dots[place].get_offsets().tolist() == [[value, place] for value in values]
        assert means[place].get_offsets().tolist() == [[pytest.approx(numbers[label]["mean"][0]), place]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(arms)
    assert axes.yaxis_inverted() and labels(axes) == {"gain"}
    (base,) = axes.lines
    assert list(base.get_xdata()) == [0.25, 0.25]
    colours = [to_hex(dot.get_facecolor()[0]).upper() for dot in dots]
    assert colours[:2] == [plotting.BLUE, plotting.VERMILION] and colours[2] not in (plotting.BLUE, plotting.VERMILION)
    assert "t over" not in axes.get_xlabel() and "success probability" in axes.get_xlabel()


def test_arms_over_the_knobs_of_a_task():
    panels = {
        "steps": {"GRPO": {12: interval(0.1), 4: interval(0.3)}, "PSN": {4: interval(0.9), 12: interval(0.8)}},
        "prior": {"PSN": {0.1: interval(0.7)}},
    }
    figure, numbers = plotting.knob_plot(panels)
    assert numbers["steps"]["GRPO"] == {
        "x": [4.0, 12.0],
        "value": [0.3, 0.1],
        "low": [pytest.approx(0.28), pytest.approx(0.08)],
        "high": [pytest.approx(0.32), pytest.approx(0.12)],
    }
    steps, prior = figure.axes
    assert steps.get_xlabel() == "steps" and prior.get_xlabel() == "prior"
    assert [list(line.get_xdata()) for line in steps.lines] == [[4, 12], [4, 12]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["GRPO", "PSN"], "each arm once"
    assert steps.lines[1].get_color() == prior.lines[0].get_color() == plotting.VERMILION


def test_many_tasks_in_one_picture():
    groups = {
        "steps": {
            "4": {"GRPO": interval(0.3), "PSN": interval(0.9)},
            "12": {"GRPO": interval(0.1), "PSN": interval(0.8)},
        },
        "prior": {"0.1": {"PSN": interval(0.7)}},
    }
    figure, numbers = plotting.map_plot(groups)
    assert list(numbers) == ["steps: 4", "steps: 12", "prior: 0.1"]
    assert numbers["steps: 12"]["PSN"] == [0.8, pytest.approx(0.78), pytest.approx(0.82)]
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["4", "12", "0.1"] and axes.yaxis_inverted()
    assert {"steps", "prior"} <= {text.get_text() for text in axes.texts}
    marks = [mark for mark in axes.collections if isinstance(mark, PathCollection)]
    drawn = [(round(float(x), 3), to_hex(m.get_facecolor()[0]).upper()) for m in marks for x, _ in m.get_offsets()]
    expected = [(0.3, plotting.BLUE), (0.9, plotting.VERMILION), (0.1, plotting.BLUE), (0.8, plotting.VERMILION)]
    assert drawn == [*expected, (0.7, plotting.VERMILION)]
    both = {n: {arm: seed_interval([0.5, 0.6] * n) for arm in ("GRPO", "PSN")} for n in (2, 5)}
    figure, _ = plotting.map_plot({"seeds": {str(n): arms for n, arms in both.items()}})
    assert figure.get_supxlabel() == "Intervals: 95 % over 4 seeds or 95 % over 10 seeds"
    heights = [float(y) for mark in marks for _, y in mark.get_offsets()]
    assert heights == sorted(heights) and len(set(heights)) == 5, "no mark hides another"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["GRPO", "PSN"], "each arm once"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: plotting.map_plot({}), "groups must not be empty"),
        (lambda: plotting.map_plot({"steps": {}}), "groups.'steps'. must not be empty"),
        (lambda: plotting.map_plot({"steps": {"4": {}}}), "groups.'steps'..'4'. must not be empty"),
        (lambda: plotting.seeds_plot({}), "arms must not be empty"),
        (lambda: plotting.seeds_plot({"GRPO": []}), "must be a list of at least one number"),
        (lambda: plotting.knob_plot({}), "panels must not be empty"),
        (lambda: plotting.knob_plot({"steps": {}}), "panels.'steps'. must not be empty"),
    ],
)
def test_a_study_without_anything_to_draw_is_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
