"""architecture.svg is what its script draws from the code as it is, and can be read."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

import psn_tutorial.trainer
from tests.architecture import BOXES, ITERATION, METHOD, PICTURE, STYLE, files, imports, layers, picture

SVG = "{http://www.w3.org/2000/svg}"
PICTURE_TREE = ET.fromstring(PICTURE.read_text(encoding="utf-8"))
DRAWN = {shape.get("id"): shape for shape in PICTURE_TREE.iter(f"{SVG}rect") if shape.get("id")}


def edges(shape):
    """left, top, right, bottom"""
    x, y, width, height = (float(shape.get(name)) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_the_picture_is_that_of_the_code():
    assert PICTURE.read_text(encoding="utf-8") == picture(), "draw it anew: python -m tests.architecture"


def test_every_module_has_a_box_and_every_box_a_module():
    assert DRAWN.keys() == files().keys() == BOXES.keys()
    assert sorted(DRAWN) == sorted(name for layer in layers() for name in layer)


def test_the_rows_are_the_layers_of_the_contract():
    rows = {}
    for name, shape in DRAWN.items():
        rows.setdefault(edges(shape)[1], set()).add(name)
    assert [rows[top] for top in sorted(rows)] == [set(layer) for layer in layers()]


def test_imports_lead_down():
    level = {name: i for i, layer in enumerate(layers()) for name in layer}
    found = imports()
    assert sum(map(len, found.values())) > 80, "the imports are not found"
    assert not [(a, b) for a, used in found.items() for b in used if level[b] <= level[a]]


def test_the_iteration_is_that_of_the_trainer():
    said = " ".join(psn_tutorial.trainer.__doc__.split())
    assert " -> ".join(words for words, _ in ITERATION) in said
    used = {name for _, names in ITERATION for name in names}
    assert used - {"trainer"} <= imports()["trainer"]
    assert used - METHOD == {"tasks"}


def test_boxes_do_not_overlap():
    shapes = [edges(shape) for shape in PICTURE_TREE.iter(f"{SVG}rect")][1:]  # the first is the page
    assert len(shapes) == len(ITERATION) + len(BOXES)
    assert not [pair for pair in combinations(shapes, 2) if overlap(*pair)]


def written():
    """(text, its rectangle), as wide as in a wide font."""
    sizes = {"plain": 13, "soft": 13, "number": 13, "title": 17, "name": 15, "files": 12}
    for text in PICTURE_TREE.iter(f"{SVG}text"):
        size, x, y = sizes[text.get("class")], float(text.get("x")), float(text.get("y"))
        width = len(text.text) * size * (0.603 if text.get("class") in ("name", "files") else 0.56)
        x -= width / 2 * (text.get("class") == "number")
        yield text.text, (x, y - 0.8 * size, x + width, y + 0.2 * size)


def test_texts_stay_in_their_boxes_and_do_not_overlap():
    texts = list(written())
    assert len(texts) > 80
    assert not [(one[0], other[0]) for one, other in combinations(texts, 2) if overlap(one[1], other[1])]
    shapes = [edges(shape) for shape in PICTURE_TREE.iter(f"{SVG}rect")]
    for text, (left, top, right, bottom) in texts:
        around = [s for s in shapes if s[0] <= left and s[1] <= top and top < s[3] and left < s[2]]
        assert around and all(right <= s[2] and bottom <= s[3] for s in around), text


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_ink_stands_out_from_what_it_is_written_on(mode):
    """Contrast of at least 4.5, as WCAG 2 asks for text of this size."""
    light, dark = STYLE.split("@media")
    colours = dict(re.findall(r"--(\w+): (#\w{6})", light if mode == "light" else dark))
    assert colours.keys() == set(re.findall(r"var\(--(\w+)\)", PICTURE.read_text(encoding="utf-8")))

    def luminance(name):
        parts = [int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for ink, ground in (("ink", "page"), ("ink", "method"), ("ink", "other"), ("soft", "other"), ("page", "step")):
        low, high = sorted((luminance(ink), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)
