"""Where a response gives its answer, how it is written, and the verdict on answers that people have graded."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.tasks.answers import boxes, find_answer, last_box
from psn_tutorial.tasks.notation import bare, plain, squeezed
from psn_tutorial.tasks.verifier import Verifier
from tests.tasks.grading import KINDS, PAGE, cases, page, verdicts

GRADED, MORE = cases("graded_answers.jsonl"), cases("more_answers.jsonl")
DECIDED = {"v116", "v186", "v251", "v254"}  # debatable; docs/grading.md says what is decided and why


def shown(cases):
    return [f"{case['response']!r} for {case['gold']!r}" for case in cases]


# Graded answers


def test_the_verdicts_are_the_human_graders():
    disagree = [
        case for case, verdict in zip(GRADED, verdicts(GRADED), strict=True) if verdict.correct != case["right"]
    ]
    assert {case["id"] for case in disagree} == DECIDED
    assert all(case["note"].startswith("debatable") for case in disagree)


def test_the_verdicts_on_more_answers_of_these_kinds():
    judged = zip(MORE, verdicts(MORE), strict=True)
    assert shown(case for case, verdict in judged if verdict.correct != case["right"]) == []


def test_both_verdicts_stand_in_every_kind():
    for kind in KINDS:
        assert {case["right"] for case in GRADED + MORE if case["kind"] == kind} == {True, False}, kind


def test_the_page_is_made_from_the_cases():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.tasks.grading"


# Boxes


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"$\boxed 2$", "2"),
        (r"\boxed 12$", "12"),
        (r"\boxed {2}", "2"),
        (r"\fbox{2}", "2"),
        (r"\\boxed{2}", "2"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{\left\{ a \right.}", r"\left\{ a \right."),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{\boxed{2}}", "2"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{2} \boxed{}", "2"),
        (r"\boxed{2}}", "2"),
        (r"I use \boxed to show \boxed{2}", "2"),
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{1} and \boxed", None),
        (r"\boxedeq{2}", None),
        ("2", None),
    ],
)
def test_the_last_box(text, content):
    assert last_box(text) == content


@given(st.text(alphabet="\\{}$ boxedf12", max_size=60))
def test_boxes_lie_where_they_say(text):
    for box in boxes(text):
        assert text[box.start] == "\\" and (box.content is None or box.content in text[box.start : box.end])


# Notation


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("４２", "42"),
        ("−7", "-7"),
        ("3–5", "3–5"),  # a range is no difference
        ("x²", "x^2"),
        ("10⁻³", "10^(-3)"),
        ("x₁₂", "x_{12}"),
        ("2½", "5/2"),
        ("³⁄₄", "3/4"),
        ("2 1/2", "5/2"),
        ("2 5/2", "2 5/2"),
        ("1 234", "1 234"),
        ("√2", r"\sqrt{2}"),
        ("³√8", r"\sqrt[3]{8}"),
        ("3.2E-5", "3.2*10^(-5)"),
        ("x2e5", "x2e5"),
        ("1{,}234", "1,234"),
        ("3 × 4", "3 * 4"),
        ("plain words, 3.5 and -2", "plain words, 3.5 and -2"),
    ],
)
def test_plain_text(written, means):
    assert plain(written) == means


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r"\$18.00", "18.00"),
        ("1,234", "1234"),
        ("1 234 567", "1234567"),
        ("1'234", "1234"),
        ("1, 2, 3", "1, 2, 3"),
        ("1 2 3", ""),
        (r"\bf{42}", "42"),
        (r"x^{\mathbf{2}}", "x^{2}"),
        (r"\color{red}{42}", "42"),
        (r"18\text{ eggs}", r"18\text{ eggs}"),
        (r"\text{18 eggs}", r"18\text{ eggs}"),
        ("18 eggs", r"18\text{ eggs}"),
        ("3x", "3x"),
        ("3 sin x", "3 sin x"),
        ("5 million", "5 million"),
        (r"\text{even}", r"\text{even}"),
        (r"0.\overline{3}", r"\frac{1}{3}"),
        (r"0.1\overline{6}", r"\frac{1}{6}"),
        (r"0.\dot{1}4285\dot{7}", r"\frac{1}{7}"),
        ("0.(3)", r"\frac{1}{3}"),
        ("0.1212...", "0.1212"),
        ("0.333...", r"\frac{1}{3}"),
        ("7.", "7"),
        ("The answer is 7", "7"),
        (r"60^\circ", "60"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\begin{aligned} x &= 1 \\ y &= 2 \end{aligned}", "x = 1 , y = 2"),
    ],
)
def test_one_answer_alone(written, value):
    assert bare(written) == value


@given(st.integers(0, 10**6), st.integers(0, 99), st.integers(1, 999))
def test_a_repeating_decimal_is_the_fraction_that_it_is(whole, fixed, period):
    digits = f"{fixed:02d}"
    value = Fraction(whole) + Fraction(fixed, 100) + Fraction(period, 100 * (10 ** len(str(period)) - 1))
    assert bare(rf"{whole}.{digits}\overline{{{period}}}") == rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


@given(st.text(alphabet="0123456789.,'_ \\{}$%^text-+()eE√½²\u0305…", max_size=80))
def test_plain_notation_is_plain_already(text):
    once = bare(plain(text))
    assert bare(once) == once or len(bare(once)) < len(once)  # a stray command may end in what is taken for its stop


def test_letter_by_letter():
    assert squeezed(r"9:30\text{ a.m.}") == squeezed("9:30 AM") == "9:30am"
    assert squeezed("1.5") != squeezed("15")
    assert squeezed("A") != squeezed("a")  # a variable


# The answer of a response


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (r"It is \boxed{7", "the last box is not complete"),
        ("I cannot solve this. It has 7 parts.", "the response says that it has none"),
        ("1, 2, 3, 4\n5, 6, 7", "the response ends with a row of numbers"),
        ("1 2 3", "several numbers, and nothing says which"),
        ("The answer is not 7.", "the response says what it is not"),
    ],
)
def test_a_response_without_an_answer_says_why(response, reason):
    assert find_answer(response).reason == f"no answer found: {reason}"


@pytest.mark.parametrize(
    ("response", "latex"),
    [
        (r"$x=\boxed{3}$, $y=\boxed{7}$", ("7", "3, 7")),  # the second for a pair alone
        (r"\boxed{3} or \boxed{7}", ("3, 7",)),
        (r"\boxed{3}. Then \boxed{7}", ("7",)),
        (r"\boxed{25}\%", ("25%",)),
        (r"\boxed{3}" + "\nuser\nMore? " + r"\boxed{7}", ("3",)),
        ("<think>\\boxed{3}</think>", ("3",)),
        ("<think>\\boxed{3}</think> <answer>7</answer> thanks for 9", ("7",)),
        ("#### 7\n\nQuestion: 9", ("7",)),
        ("#### 1. First\nthe answer is 7.", ("7",)),
    ],
)
def test_the_place_of_an_answer(response, latex):
    assert find_answer(response).latex == latex


def test_prose_is_left_to_math_verify():
    text = "She has 3 * 14 = 42 eggs, and sells 7 of them."
    assert find_answer(text).prose == text


# Comparing


@pytest.mark.parametrize(
    ("answer", "gold", "tolerance", "right"),
    [
        ("3.04", "3.0", 0.0, False),
        ("3.04", "3.0", 0.1, True),
        ("3.1", "3.0", 0.1, True),
        ("3.11", "3.0", 0.1, False),
        ("(1.05, 2)", "(1, 2)", 0.1, True),
        ("(1.05, 2.2)", "(1, 2)", 0.1, False),
        ("1.05", "(1, 2)", 0.1, False),
        (r"\frac{61}{20}", "3", 0.1, True),
    ],
)
def test_a_tolerance(answer, gold, tolerance, right):
    verifier = Verifier(workers=1)
    assert verifier.verify(rf"\boxed{{{answer}}}", gold, tolerance).correct is right
    verifier.close()


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0", r"$(-\infty, 0) \cup\{1\}$."),
        ("0", "$f(x)=a x+b$, where $b$ is an arbitrary integer"),
        ("2", r"\hbar \omega(v+1 / 2)-\frac{E_{0}^{2} e^{2}}{2 m \omega^{2}}"),
        ("m", "m g l"),
        ("n", r"n \text{ is even}"),
    ],
)
def test_a_part_of_the_reference_answer_is_not_the_answer(answer, gold):
    verifier = Verifier(workers=1)
    assert not verifier.verify(rf"\boxed{{{answer}}}", gold).correct
    assert verifier.verify(rf"\boxed{{{gold}}}", gold).correct
    verifier.close()


def test_reference_answers_that_no_answer_can_be_compared_with():
    good = [
        r"$(-\infty, 0) \cup\{1\}$.",
        "m g l",
        "Tuesday",
        r"\text{(B)}",
        "25 dollars",
        r"2 \text{ m}",
        r"\infty",
        "None",
    ]
    bad = {
        "$f(x)=a x+b$, where $b$ is an arbitrary integer": "the words 'where' cannot be compared",
        r"n \text{ is even}": "the words 'is even' cannot be compared",
        r"\hbar \omega(v+1 / 2)-\frac{E_{0}^{2} e^{2}}{2 m \omega^{2}}": "math-verify cannot read it",
        r"\frac{1}{2": "math-verify cannot read it",
        "3 4": "nothing in it can be read",
    }
    verifier = Verifier(workers=2)
    assert verifier.check_golds(good) == [""] * len(good)
    assert verifier.check_golds(list(bad)) == list(bad.values())
    verifier.close()
