"""The picture of a step: one file, the part that is asked for marked, every word inside its box."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from psn_tutorial.errors import UserError
from psn_tutorial.teaching.data_flow import PARTS, PICTURE, data_flow

SVG = "{http://www.w3.org/2000/svg}"
STEP = (
    "problems", "prompts", "noise", "rollouts", "verifier", "advantages", "logps", "weights", "loss", "optimiser",
    "signals", "scheduler",
)  # fmt: skip


def groups(part=None):
    root = ElementTree.fromstring(data_flow(part)._repr_svg_())
    return {group.get("id"): group for group in root.iter(f"{SVG}g")}


def test_every_part_of_a_step_is_in_the_picture():
    assert sorted(PARTS) == sorted(STEP) == sorted(groups())


@pytest.mark.parametrize("part", STEP)
def test_the_part_at_hand_is_marked_and_no_other(part):
    marked = [name for name, group in groups(part).items() if group.get("class") == "part here"]
    assert marked == [part]
    assert PARTS[part] in str(data_flow(part)) and str(data_flow(part)) in data_flow(part)._repr_svg_()


def test_without_a_part_none_is_marked():
    assert all(group.get("class") == "part" for group in groups().values())
    assert str(data_flow()) == "One step of PSN-GRPO"


def test_an_unknown_part_is_refused():
    with pytest.raises(UserError, match="part must be one of 'problems', .*, got 'weight'"):
        data_flow("weight")


def test_the_mark_is_not_a_colour_alone():
    style = PICTURE.read_text(encoding="utf-8")
    widths = [re.search(rf"\n  {name} {{[^}}]*stroke-width: ([\d.]+)", style)[1] for name in ("rect", r"\.here rect")]
    assert float(widths[1]) >= 3 * float(widths[0])


@pytest.mark.parametrize("part", STEP)
def test_words_stand_inside_their_box(part):
    """In DejaVu Sans, which is wider than the fonts of most systems."""
    group = groups()[part]
    box = group.find(f"{SVG}rect")
    for text, size, weight in zip(group.findall(f"{SVG}text"), (15, 13), ("semibold", "normal"), strict=True):
        width = TextPath((0, 0), text.text, size=size, prop=FontProperties(weight=weight)).get_extents().width
        assert width <= float(box.get("width")) - 12, text.text


def test_boxes_do_not_touch_and_lie_on_the_page():
    root = ElementTree.fromstring(data_flow()._repr_svg_())
    _, _, width, height = map(float, root.get("viewBox").split())
    rects = [group.find(f"{SVG}rect") for group in groups().values()]
    boxes = [[float(rect.get(k)) for k in ("x", "y", "width", "height")] for rect in rects]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    for i, (x, y, w, h) in enumerate(boxes):
        assert all(x + w < a or a + c < x or y + h < b or b + d < y for a, b, c, d in boxes[:i])
