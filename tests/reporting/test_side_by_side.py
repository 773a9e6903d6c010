"""Answers side by side: each is shown beside its question, under its own heading, and nothing runs in a browser."""

from dataclasses import replace

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.experiments.results import read_comparison
from psn_tutorial.experiments.run import run_comparison
from psn_tutorial.reporting.page import write_report
from psn_tutorial.reporting.side_by_side import Answers, before_and_after
from psn_tutorial.runs.transcripts import Transcript, read_transcripts
from tests.reporting.test_report import TINY, Page

EVIL = "<script>alert(1)</script> & \\boxed{5}"


def written(problem, answer, correct=False, step=0):
    question, reference = f"Question {problem}?", str(10 + problem)
    return Transcript(step, "clean", 0.0, 1.0, problem, question, reference, answer, correct, "")


BEFORE = [written(1, "one"), written(0, EVIL), written(0, "zero", correct=True)]
AFTER = [written(0, "later zero", step=4), written(1, "later one", correct=True, step=4)]


def test_a_row_is_a_question_and_a_column_a_policy():
    rows = Answers({"before": BEFORE, "after": AFTER}).rows
    assert [(row.question, row.reference) for row in rows] == [("Question 0?", "10"), ("Question 1?", "11")]
    assert [[t.answer for t in cell] for cell in rows[0].cells] == [[EVIL, "zero"], ["later zero"]]
    assert [[t.answer for t in cell] for cell in rows[1].cells] == [["one"], ["later one"]]


def test_the_text_has_every_answer_with_its_verdict():
    text = str(Answers({"before": BEFORE, "after": AFTER}))
    assert text.splitlines() == [
        "Question 0?  (10)", "  before", f"    ✗ {EVIL}", "    ✓ zero", "  after", "    ✗ later zero",
        "Question 1?  (11)", "  before", "    ✗ one", "  after", "    ✓ later one",
    ]  # fmt: skip


def test_what_a_model_wrote_is_no_part_of_the_page():
    html = Answers({"before <b>": BEFORE})._repr_html_()
    page = Page(html)
    assert EVIL in page.text and "before <b>" in page.text and "script" not in {tag for tag, _, _ in page.attributes}
    assert html.count("✓") == 1 and html.count("✗") == 2


def test_columns_that_do_not_match_are_refused():
    with pytest.raises(UserError, match="column 'after' has no answer to problem 1, which another column has"):
        Answers({"before": BEFORE, "after": AFTER[:1]})
    with pytest.raises(UserError, match="at least one answer"):
        Answers({"before": []})


def test_a_comparison_shows_the_base_and_the_end_of_every_arm(tmp_path):
    experiment = replace(TINY["countdown"], common={**TINY["countdown"].common, "transcripts": 2}, seeds=(3, 4))
    write_report(run_comparison({"kept": experiment}, tmp_path / "kept", progress=False))
    (results,) = read_comparison(tmp_path / "kept").results.values()
    answers = before_and_after(results)
    assert list(answers.columns) == ["base", "GRPO", "PSN-GRPO"]
    psn = read_transcripts(tmp_path / "kept/kept/psn/seed-3")
    assert answers.columns["PSN-GRPO"] == [t for t in psn if t.step == 2 and t.sampler == "clean"]
    assert answers.columns["base"] == [t for t in psn if t.step == 0 and t.sampler == "clean"]
    page = Page((tmp_path / "kept/report.html").read_text()).text
    assert "Answers of the clean policies, seed 3" in page
    assert all(" ".join(t.answer.split()) in page for column in answers.columns.values() for t in column)
    plain = replace(experiment, common={**experiment.common, "transcripts": 0}, seeds=(3,))
    write_report(run_comparison({"none": plain}, tmp_path / "none", progress=False))
    assert "Answers of" not in (tmp_path / "none/report.html").read_text()
