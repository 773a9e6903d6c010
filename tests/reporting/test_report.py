"""The page: one file, nothing from outside, every figure from the records, and nothing left unsaid."""

import base64
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.experiments.experiment import Arm, Experiment, experiments_to_json
from psn_tutorial.experiments.results import read_comparison
from psn_tutorial.experiments.run import run_comparison
from psn_tutorial.reporting.page import limits, write_report
from psn_tutorial.reporting.tables import conclusions, tables
from psn_tutorial.runs.files import read_json, write_json

EVIL = '<script>alert("1")</script> & "more"'
ARMS = {
    "grpo": Arm("GRPO"),
    "psn": Arm("PSN-GRPO", {"sigma": 0.8, "relative": True, "targets": "head", "draws": 4}),
}
TINY = {
    "rules": Experiment(
        "rules",
        f"Who wins? {EVIL}",
        ARMS,
        {"prompts": 2, "group": 8, "steps": 4, "eval_every": 2, "samples": 0, "eval_problems": 2},
        seeds=(0, 1),
        metrics=("success",),
    ),
    "countdown": Experiment(
        "countdown",
        "And here?",
        ARMS,
        {"prompts": 2, "group": 4, "steps": 2, "eval_every": 1, "samples": 8, "eval_problems": 4},
        metrics=("pass@1", "coverage", "family_coverage"),
        frontier=("pass@1", "pass@8"),
    ),
}
PICTURES = [
    *(f"countdown-{name}.png" for name in ("coverage", "diagnostics", "frontier", "pass-at-k", "reward")),
    *(f"rules-{name}.png" for name in ("diagnostics", "reward", "success")),
]
VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes, text and tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.words, self.ids = [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        self.ids |= {value for name, value in attributes if name == "id"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    write_report(run_comparison(TINY, out, progress=False, command=["psn-tutorial", "compare", "--out", "my runs"]))
    return out


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_from_outside(folder, page):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and "<script" not in text
    for tag, name, value in page.attributes:
        if name == "src":
            assert tag == "img" and value.startswith("data:image/png;base64,")
        if name == "href":
            assert value.startswith("#") and value[1:] in page.ids
    assert not re.search(r"https?:|url\(|@import|srcset|<link|<iframe", text)
    assert ("meta", "name", "viewport") in page.attributes and ("html", "lang", "en") in page.attributes


def test_the_pictures_are_on_the_page_and_in_the_folder(folder, page):
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == PICTURES
    shown = {base64.b64decode(v.partition(",")[2]) for _, n, v in page.attributes if n == "src"}
    files = {path.read_bytes() for path in (folder / "pictures").iterdir()}
    assert shown == files and all(png.startswith(b"\x89PNG") for png in files)
    alternatives = [v for t, n, v in page.attributes if (t, n) == ("img", "alt")]
    assert len(alternatives) == len(PICTURES) and all(len(words) > 20 for words in alternatives)


def test_every_finding_and_every_cell_is_on_the_page(folder, page):
    for results in read_comparison(folder).results.values():
        for conclusion in conclusions(results):
            assert " ".join(str(conclusion).split()) in page.text
        for table in tables(results):
            for words in (table.title, table.note, *table.columns, *(cell for row in table.rows for cell in row)):
                assert " ".join(words.split()) in page.text


def test_text_is_text(folder, page):
    """A question with markup in it is shown, not obeyed."""
    assert EVIL in page.text
    assert "<script>alert" not in (folder / "report.html").read_text()


def test_it_says_where_it_comes_from(folder, page):
    assert "psn-tutorial compare --out 'my runs'" in page.text
    run = read_json(folder / "rules/psn/seed-1/provenance.json")
    for fact in (run["versions"]["torch"], run["versions"]["transformers"], run["cpu"], str(run["commit"])):
        assert fact in page.text
    assert read_json(folder / "rules/base/config.json")["policy_sha256"][:16] in page.text
    seconds = sum(read_json(path)["wall_seconds"] for path in folder.rglob("provenance.json"))
    assert f"{seconds:.0f} seconds in 8 runs" in page.text or seconds >= 120


def test_settings_of_noise_are_not_shown_where_there_is_none(folder):
    text = (folder / "report.html").read_text()
    assert "<tr><th>sigma</th><td>0</td><td>0.8</td></tr>" in text
    assert "<tr><th>targets</th><td>-</td><td>head</td></tr>" in text
    assert "<tr><th>relative</th><td>-</td><td>yes</td></tr>" in text


def test_it_says_what_it_does_not_show(folder):
    every = list(read_comparison(folder).results.values())
    said = limits(every)
    assert [s for s in said if s.startswith("Countdown: one training seed per arm.")]
    assert not [s for s in said if s.startswith("Rules: one training seed")]
    assert [s for s in said if s.startswith("Countdown: 8 samples per problem.")]
    # rules: 1 metric x (1 against GRPO + 2 against the base); countdown: 4 x 3
    assert [s for s in said if s.startswith("The tables hold 15 differences")]


def test_the_summary_is_beside_it(folder):
    summary = read_json(folder / "summary.json")
    expected = read_comparison(folder).to_json()["countdown"]["frontier"]["psn"]["verdict"]
    assert summary["countdown"]["frontier"]["psn"]["verdict"] == expected
    assert set(summary["rules"]) == {"final", "minus_base", "minus_grpo", "training"}


def test_the_same_records_give_the_same_bytes(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("report.html", "summary.json", "pictures"):
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    write_report(read_comparison(copy))
    for path in [*(folder / "pictures").iterdir(), folder / "summary.json", folder / "report.html"]:
        assert (copy / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_single_arm_is_reported_too(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    alone = {n: replace(e, arms={"grpo": e.arms["grpo"]}) for n, e in TINY.items()}
    write_json(copy / "comparison.json", experiments_to_json(alone))
    Page(write_report(read_comparison(copy)).read_text())


def test_a_page_that_cannot_be_written_is_a_sentence(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "pictures")
    (copy / "pictures").write_text("in the way")
    with pytest.raises(UserError, match="^cannot write .*pictures: File exists; the records are kept$"):
        write_report(read_comparison(copy))
