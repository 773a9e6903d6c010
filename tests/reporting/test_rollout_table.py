"""Rollouts as a table: every value beside its own token, text escaped, nothing said by a colour alone."""

import re

import pytest
import torch

from psn_tutorial import base_folder, encode, load_policy, sample, stream
from psn_tutorial.errors import UserError
from psn_tutorial.reporting.rollout_table import STEPS, STYLES, rollout_table, token_texts
from psn_tutorial.reporting.side_by_side import Answers
from psn_tutorial.runs.transcripts import Transcript
from psn_tutorial.tasks.base import Verdict
from tests.reporting.test_report import Page

EVIL = "<script>alert(1)</script> & more"
RIGHT, WRONG = Verdict(True, ""), Verdict(False, "step 2: rule A, not B")
PROMPTS = ["1 2 :", "1 2 :", "3 4 :"]
ANSWERS = [["B", "9"], ["A", EVIL], ["B", "7", "<eos>"]]
WEIGHTS = torch.tensor([[0.12, 1.0, 0.0], [4.03, 1.05, 0.0], [0.95, 0.0, 12.0]])


def table(**more):
    return rollout_table(PROMPTS, ANSWERS, [RIGHT, WRONG, WRONG], **more)


def test_a_row_says_what_became_of_a_rollout():
    made = table(advantages=torch.tensor([1.5, -0.5, 0.0]), weights=WEIGHTS)
    assert str(made).splitlines() == [
        "1 2 :",
        "  ✓  A +1.50  w .56  B(.12) 9",
        f"  ✗  A -0.50  w 2.54  A(4.03) {EVIL}  [step 2: rule A, not B]",
        "3 4 :",
        "  ✗  A +0.00  w 4.32  B 7(.00) <eos>(12.00)  [step 2: rule A, not B]",
    ]


def test_the_page_has_the_same_words_and_numbers_and_runs_nothing():
    made = table(advantages=[[1.5, -0.5, 0.0]], weights=WEIGHTS)
    page = Page(made._repr_html_())
    for text in ("1 2 :", "+1.50", ".56", "2.54", "4.03", "12.00", "-0.50", EVIL, "<eos>", WRONG.reason, made.note):
        assert text in page.text, text
    tags = [tag for tag, _, _ in page.attributes]
    assert "script" not in tags and "style" not in tags
    assert made._repr_html_().count('rowspan="2"') == 1


def test_the_shade_is_the_size_and_the_line_is_the_side():
    (_, rows), (_, (last,)) = table(weights=WEIGHTS).groups
    shades = [[token.shade for token in row.tokens] for row in (*rows, last)]
    assert shades == [[-3, 0], [3, 0], [0, -4, 4]]
    assert [[token.value for token in row.tokens] for row in rows] == [[".12", ""], ["4.03", ""]]
    for depth in range(1, 5):
        assert f"{depth}px solid" in STYLES[depth] and f"{depth}px dashed" in STYLES[-depth]


@pytest.mark.parametrize("factor, depth", [(1.0, 0), (1.09, 0), (1.11, 1), (1.99, 1), (2.01, 2), (4.1, 3), (10.1, 4)])
def test_twice_as_much_and_half_as_much_are_as_deep(factor, depth):
    for value, sign in ((factor, 1), (1 / factor, -1)):
        (row,) = rollout_table(["p"], [["t"]], [RIGHT], weights=[[value]]).rows
        assert row.tokens[0].shade == sign * depth


def test_the_kl_comes_before_the_weight_and_may_be_negative():
    made = table(weights=WEIGHTS, kl=[[0.3, 0.0], [-0.02, 5.0], [0.0, 0.009, 0.1]])
    assert made.shaded == "KL" and "nats" in made.note
    assert [[t.shade for t in row.tokens] for row in made.rows] == [[2, 0], [-1, 4], [0, 0, 2]]
    assert [row.weight for row in made.rows] == [".56", "2.54", "4.32"]
    assert list(STEPS["KL"]) == sorted(STEPS["KL"])


def test_rows_are_picked_in_the_order_that_is_asked_for():
    made = table(rows=[2, 0], advantages=[1.0, 2.0, 3.0])
    assert [(row.prompt, row.advantage) for row in made.rows] == [("3 4 :", "+3.00"), ("1 2 :", "+1.00")]


def test_texts_need_no_tokens_and_transcripts_are_verdicts():
    kept = [Transcript(0, "clean", 0.0, 1.0, 3, "How many?", "14", f"12 + 2 = {EVIL}", False, "not 14")]
    made = rollout_table([t.question for t in kept], [t.answer for t in kept], kept)
    assert str(made) == f"How many?\n  ✗  12 + 2 = {EVIL}  [not 14]"
    assert not made.note and EVIL in Page(made._repr_html_()).text
    assert "advantage" not in Page(made._repr_html_()).text and "weight" not in Page(made._repr_html_()).text


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"advantages": [1.0]}, "advantages must hold one entry for each of the 3 prompts, got 1"),
        ({"weights": WEIGHTS[:2]}, "weights must hold one entry for each of the 3 prompts, got 2"),
        ({"weights": WEIGHTS[:, :2]}, "weight of row 2 must cover its 3 tokens, got 2"),
        ({"rows": [3]}, "rows must be 0 to 2, got 3"),
        ({"rows": [-1]}, "rows must be 0 to 2, got -1"),
    ],
)
def test_what_does_not_fit_is_refused(more, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        table(**more)


def test_shades_of_whole_texts_are_refused():
    with pytest.raises(UserError, match="answers must be lists of tokens to be shaded by weight; token_texts"):
        rollout_table(["p"], ["B 9"], [RIGHT], weights=[[1.0, 1.0]])


def test_tokens_are_those_under_the_mask():
    policy = load_policy(base_folder("countdown"))
    prompts = encode(policy.tokenizer, ["3 10 14 13 -> 15 :"])
    rollouts = sample(policy, prompts, 4, 18, stream(0, "a test"))
    words = token_texts(policy.tokenizer, rollouts)
    assert [len(row) for row in words] == rollouts.mask.sum(1).tolist()
    ids = [policy.tokenizer.convert_tokens_to_ids(row) for row in words]
    assert ids == [tokens[mask].tolist() for tokens, mask in zip(rollouts.tokens, rollouts.mask, strict=True)]


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page, ink", [((255,) * 3, (34,) * 3), ((17,) * 3, (222,) * 3)], ids=["light", "dark"])
def test_text_on_every_shade_has_the_contrast_that_wcag_asks_for(page, ink):
    for style in filter(None, STYLES.values()):
        *colour, alpha = map(float, re.search(r"rgba\(([\d., ]+)\)", style)[1].split(","))
        mixed = [alpha * c + (1 - alpha) * p for c, p in zip(colour, page, strict=True)]
        assert contrast(mixed, ink) >= 4.5, style


def test_the_verdicts_of_both_tables_are_one_sign_with_a_word():
    kept = [Transcript(0, "clean", 0.0, 1.0, 3, "How many?", "14", "14", True, "")]
    for html in (rollout_table(["p"], ["14"], kept)._repr_html_(), Answers({"base": kept})._repr_html_()):
        assert html.count('role="img" aria-label="right"') == 1 and "✓" in html
