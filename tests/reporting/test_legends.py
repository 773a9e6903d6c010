"""One name and one colour per arm: in the presets, in every figure the library draws, and in what a notebook keeps."""

import matplotlib

matplotlib.use("Agg")  # before pyplot: no screen is needed

import matplotlib.pyplot as plt
import pytest

from psn_tutorial.experiments.presets import PRESETS
from psn_tutorial.reporting import plotting
from psn_tutorial.reporting.plotting.legends import legend_faults, legend_of
from psn_tutorial.reporting.plotting.style import ARM_PATTERNS, ARMS, SERIES, SPARE_COLOURS, arm_of
from tests.reporting.test_plotting import RUNS, records, summary

VERMILION, PURPLE, BLUE, GREEN, ORANGE = (
    plotting.VERMILION, plotting.PURPLE, plotting.BLUE, plotting.GREEN, plotting.ORANGE,
)  # fmt: skip


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_every_arm_has_a_colour_of_its_own_and_what_is_no_arm_has_none_of_them():
    assert len(set(ARMS.values())) == len(ARMS) and set(SPARE_COLOURS) == set(ARMS.values())
    assert not set(SERIES) & set(ARMS.values()) and len(set(SERIES)) == len(SERIES)
    assert set(ARM_PATTERNS.values()) == set(ARMS)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arms_name_is_read_as_its_own(arm):
    assert arm_of(arm) == arm and plotting.arm_colours([arm]) == {arm: ARMS[arm]}


@pytest.mark.parametrize(
    "label, arm",
    [
        ("PSN, none TIS", "PSN-GRPO without TIS"),
        ("PSN, token TIS", "PSN-GRPO"),
        ("PSN, sequence TIS", "PSN-GRPO, sequence TIS"),
        ("token TIS", "PSN-GRPO"),
        ("token TIS with cap 2", None),
        ("ours", "PSN-GRPO"),
        ("... but one draw", None),
        ("hours", None),
        ("constant", "PSN-GRPO"),
        ("constant 0.8", None),
        ("Variant I, KL .1", None),
        ("weight noise", "PSN-GRPO"),
        ("temperature", "GRPO, sampled hotter"),
        ("GRPO, sampled at T = 1.3", "GRPO, sampled hotter"),
        ("rank 16", None),
        ("no baseline", None),
        ("right", None),
        ("pass@16", None),
    ],
)
def test_a_label_says_which_arm_it_is(label, arm):
    assert arm_of(label) == arm


def test_the_paper_s_recipe_is_vermilion_whatever_stands_before_it():
    colours = plotting.arm_colours(["PSN, none TIS", "PSN, sequence TIS", "PSN, token TIS", "GRPO"])
    assert list(colours.values()) == [PURPLE, GREEN, VERMILION, BLUE]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_arms_of_the_presets_begin_with_their_names(preset):
    for experiment in PRESETS[preset].values():
        for arm in experiment.arms.values():
            name = arm_of(arm.label)
            assert arm.label.startswith(name.replace("sampled hotter", "sampled")), arm.label


def drawn():
    """A figure of every function that draws arms."""
    arms = ("PSN-GRPO without TIS", "GRPO", "base", "PSN-GRPO", "GRPO, sampled at T = 2")
    runs = {arm: RUNS["PSN"] for arm in arms}
    success = {arm: [records([0, 5], success=[1e-3, 0.5])] for arm in arms}
    summaries = {arm: summary() for arm in arms}
    paths = {arm: {0: summary(), 5: summary(0.2)} for arm in arms}
    yield plotting.learning_curves(runs)
    yield plotting.success_curves(success)
    yield plotting.noise_diagnostics(runs)
    yield plotting.pass_at_k_curves(summaries)
    yield plotting.coverage_bars(summaries)
    yield plotting.frontier_plot(paths, y="pass@16")


@pytest.mark.parametrize("number", range(6))
def test_every_figure_of_the_library_keeps_the_rule(number):
    legend = legend_of(list(drawn())[number][0])
    arms = {label: colour for label, colour in legend.items() if arm_of(label)}
    assert arms or number == 4  # bars have the arms' names on the axis
    assert all(colour == ARMS[arm_of(label)] for label, colour in arms.items()), legend
    assert not list(legend_faults(legend))


def test_labels_of_every_kind_are_read():
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([1], [1], color=BLUE, label="GRPO")
    left.scatter([1, 2], [1, 2], color=VERMILION, label="PSN-GRPO")
    left.bar([1], [1], color="#01665e", label="right")
    left.legend()
    right.annotate("base", (0, 0), color=plotting.GREY)
    figure.legend([plt.Line2D([], [], color=PURPLE)], ["PSN-GRPO without TIS"])
    assert legend_of(figure) == {
        "PSN-GRPO without TIS": PURPLE,
        "GRPO": BLUE,
        "PSN-GRPO": VERMILION,
        "right": "#01665E",
        "base": plotting.GREY,
    }


@pytest.mark.parametrize(
    "legend, sentence",
    [
        ({"PSN, token TIS": GREEN}, "'PSN, token TIS' must have the colour of PSN-GRPO, #D55E00, got #009E73"),
        ({"PSN, none TIS": VERMILION, "PSN": VERMILION}, "'PSN, none TIS' must have the colour of PSN-GRPO without"),
        ({"right": VERMILION}, "'right' is no arm and must not have the colour of PSN-GRPO, #D55E00"),
        ({"GRPO": BLUE, "rank 4": BLUE}, "'rank 4' must not have the colour of GRPO, which is in the figure"),
        ({"psn .1": ORANGE, "psn .2": GREEN}, "'psn .1', 'psn .2' must have the colour of PSN-GRPO"),
    ],
)
def test_what_breaks_the_rule_is_told(legend, sentence):
    assert any(fault.startswith(sentence) for fault in legend_faults(legend)), list(legend_faults(legend))


@pytest.mark.parametrize(
    "legend",
    [
        {},
        {"GRPO": BLUE, "PSN-GRPO": VERMILION.lower(), "exact": "#000000"},
        {"psn .1": VERMILION, "psn .2": GREEN},
        {"rank 4": SERIES[0], "rank 16": SERIES[1], "chance": plotting.GREY},
        {"GRPO": BLUE, "a variant": plotting.SKY},
    ],
)
def test_what_keeps_the_rule_is_passed_over(legend):
    assert not list(legend_faults(legend))
