"""Plain docstrings become reStructuredText that says the same."""

import pytest

from docs.docstrings import restructure


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a * b and **kwargs", r"a \* b and \*\*kwargs"),
        ("KL(p || q), |x|", r"KL(p \|\| q), \|x\|"),
        ("pass@16 is no address", r"pass\@16 is no address"),
        ("MALLOC_TOP_PAD_ is set", r"MALLOC_TOP_PAD\_ is set"),
        ("``a * b_`` and :func:`f_`", "``a * b_`` and :func:`f_`"),
        (r"\boxed", r"\\boxed"),
        ("snake_case stays", "snake_case stays"),
    ],
)
def test_accidental_markup_is_escaped_outside_code(text, wanted):
    assert restructure(text) == wanted


def test_lines_with_a_name_and_a_colon_are_a_list():
    text = 'First line.\n\nn, c: samples, and\n    the correct ones.\n"auto": the default.'
    assert restructure(text) == 'First line.\n\n* n, c: samples, and\n  the correct ones.\n* "auto": the default.'


@pytest.mark.parametrize(
    "text",
    [
        "One thing: a sentence\nthat goes on without an indent.",
        "Raises: only one line",
        "Attributes:\n    n: samples.\n    c: correct ones.",
    ],
)
def test_prose_and_sections_stay(text):
    assert restructure(text) == text


def test_code_between_blank_lines_is_literal_and_unescaped():
    text = "See:\n\n    a = b * c_\n\n    d = |e|\n\nafter * it"
    assert restructure(text) == "See:\n\n::\n\n    a = b * c_\n\n    d = |e|\n\nafter \\* it"
