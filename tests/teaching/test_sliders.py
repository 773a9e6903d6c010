"""Sliders: a still picture everywhere, a moving one where there is a kernel, and in both the exact numbers."""

import builtins
import math

import matplotlib

matplotlib.use("Agg")  # before pyplot: no screen is needed

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from psn_tutorial import NoiseConfig, base_folder, get_task, load_policy, load_split
from psn_tutorial.errors import UserError
from psn_tutorial.reporting.plotting import arm_colours
from psn_tutorial.reporting.plotting.legends import legend_faults, legend_of
from psn_tutorial.teaching.sliders import answers, cap_slider, equal_kl_slider, gain_slider, laboratory, moving
from psn_tutorial.teaching.sliders.moving import WIDGET, slider
from tests.notebooks.execute import drop_widgets

PNG = b"\x89PNG"


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture
def published(monkeypatch):
    """What a cell shows: (numbers of the still picture, mime bundles of the rest)."""
    shown, rest = [], []
    monkeypatch.setattr(moving, "show", lambda figure, numbers, **more: (shown.append(numbers), plt.close(figure)))
    monkeypatch.setattr(moving, "publish_display_data", rest.append)
    monkeypatch.setattr(moving, "display", lambda data, **more: rest.append(data))
    return shown, rest


class Kernel:
    kernel = True


def test_a_slider_shows_its_setting_and_draws_each_setting_once():
    drawn = []
    made = slider("C", (1.0, 2.0), 2.0, lambda value: drawn.append(value) or PNG + str(value).encode())
    assert made.view.value == PNG + b"2.0" and made.handle.value == 2.0
    for value in (1.0, 2.0, 1.0):
        made.handle.value = value
        assert made.view.value == PNG + str(value).encode()
    assert drawn == [2.0, 1.0] and made.box.children == (made.handle, made.view)
    assert [label for label, _ in made.handle.options] == ["1", "2"]


def test_text_is_shown_as_html():
    made = slider("sigma", (0.0, 0.5), 0.0, lambda value: f"<b>{value}</b>")
    made.handle.value = 0.5
    assert type(made.view).__name__ == "HTML" and made.view.value == "<b>0.5</b>"


def test_without_a_kernel_there_is_the_still_picture_alone(published):
    shown, rest = published
    cap_slider()
    assert list(shown[0]) == ["cap C 0.5", "cap C 2", "cap C 10"] and rest == []


def test_with_a_kernel_a_widget_and_nothing_else_is_added(published, monkeypatch):
    shown, rest = published
    monkeypatch.setattr(moving, "get_ipython", Kernel)
    gain_slider(steps=40)
    (bundle,) = rest
    assert len(shown) == 1 and set(bundle) == {WIDGET} and bundle[WIDGET]["model_id"]


def test_without_ipywidgets_a_sentence_says_how_to_get_it(published, monkeypatch):
    shown, rest = published
    load = builtins.__import__

    def missing(name, *arguments, **more):
        if name == "ipywidgets":
            raise ImportError(name)
        return load(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(moving, "get_ipython", Kernel)
    equal_kl_slider()
    assert len(shown) == 1 and "pip install ipywidgets" in rest[0].data


def test_a_stored_notebook_keeps_the_still_picture_and_leaves_out_the_slider():
    outputs = [
        nbformat.v4.new_output("display_data", {"image/png": "x", "text/plain": "y"}),
        nbformat.v4.new_output("display_data", {WIDGET: {"model_id": "1"}}),
        nbformat.v4.new_output("stream", text="words"),
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x"), nbformat.v4.new_markdown_cell("y")])
    book.cells[0].outputs = outputs
    drop_widgets(book)
    assert book.cells[0].outputs == [outputs[0], outputs[2]]


def test_a_larger_cap_means_less_bias_and_more_variance(axes):
    found = [laboratory._draw_cap(axes, cap, 16) for cap in laboratory.CAPS]
    bias = [abs(numbers["bias"]) for numbers in found]
    deviation = [numbers["standard deviation of a sample"] for numbers in found]
    error = [numbers["error of 16 samples"] for numbers in found]
    assert bias == sorted(bias, reverse=True) and deviation == sorted(deviation)
    assert error == pytest.approx([math.hypot(b, d / 4) for b, d in zip(bias, deviation, strict=True)])
    assert 0 < error.index(min(error)) < len(error) - 1  # the best cap lies between


@pytest.mark.parametrize("kl", laboratory.KLS)
def test_both_samplers_have_the_kl_that_is_asked_for(axes, kl):
    """Summed once more over the two tokens, and for the noise by Gauss and Hermite."""
    found = laboratory._draw_equal_kl(axes, kl, 6, 0.1)
    base = np.array([0.1, 0.9])

    def distance(log_odds):
        p = 1 / (1 + np.exp(-log_odds))
        return rel_entr(p, base[0]) + rel_entr(1 - p, base[1])

    start = math.log(1 / 9)
    z, weights = np.polynomial.hermite_e.hermegauss(120)
    assert distance(start / found["temperature"]) == pytest.approx(kl, rel=1e-6)
    noisy = start + found["sigma"] * z
    assert weights @ distance(noisy) / weights.sum() == pytest.approx(kl, rel=1e-3)
    success = weights @ (1 / (1 + np.exp(-noisy))) ** 6 / weights.sum()
    assert found["weight noise, success"][-1] == pytest.approx(success, rel=1e-2)
    assert found["temperature, success"][2] == pytest.approx(found["temperature, success"][0] ** 3)
    assert legend_of(axes.figure) == arm_colours(["base", "temperature", "weight noise"])


def test_a_kl_that_no_temperature_reaches_is_refused():
    with pytest.raises(UserError, match="values must be above 0 and below 0.511, .*, got 0.6"):
        equal_kl_slider(values=(0.1, 0.2, 0.6))


def test_a_larger_factor_is_there_sooner_and_swings_more(axes):
    slow, middle, quick = (laboratory._draw_gain(axes, factor, 0.003, 300) for factor in (1.05, 1.25, 2.0))
    assert slow["steps until near"] > middle["steps until near"] > quick["steps until near"]
    assert slow["doublings off in the end"] < quick["doublings off in the end"]
    assert laboratory._draw_gain(axes, 1.01, 0.003, 300)["steps until near"] == "never"


@pytest.mark.parametrize("draw", [laboratory._draw_cap, laboratory._draw_equal_kl, laboratory._draw_gain])
def test_legends_keep_the_rule_of_colours(axes, draw):
    more = {"_draw_cap": (2.0, 16), "_draw_equal_kl": (0.1, 6, 0.1), "_draw_gain": (1.1, 0.003, 100)}
    draw(axes, *more[draw.__name__])
    assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()
    assert not list(legend_faults(legend_of(axes.figure)))


def test_what_the_model_says_changes_with_sigma_alone(published):
    shown, rest = published
    policy, task = load_policy(base_folder("rules")), get_task("rules")
    problem = load_split("rules", "eval")[0]
    before = [p.clone() for p in policy.model.parameters()]
    answers.sigma_slider(policy, task, problem, answers=3, values=(0.0, 0.4, 1.6))
    texts = [bundle["text/plain"] for bundle in rest]
    assert [text.partition(":")[0] for text in texts] == ["sigma 0", "sigma 0.4", "sigma 1.6"]
    assert "KL 0.000" in texts[0] and texts[0].count("w 1.00") == 3 and "(" not in texts[0]
    again = answers.heard(policy, task, problem, NoiseConfig(1.6, "head", True), 3, 0)
    assert str(again) == texts[2] and texts[2] != texts[0]
    assert all(torch.equal(p, q) for p, q in zip(before, policy.model.parameters(), strict=True))
    with pytest.raises(UserError, match="values must be at least three, got 2"):
        answers.sigma_slider(policy, task, problem, values=(0.0, 0.4))
