"""LOG.md: every entry is complete, and every decimal in it stands in the records that the entry links to."""

import json
import re
from pathlib import Path

import pytest

from psn_tutorial.evaluation.intervals import Interval, number
from psn_tutorial.evaluation.probes import figures, pass_difference, read_probes, surrogate

ROOT = Path(__file__).resolve().parents[1]
LOG = (ROOT / "LOG.md").read_text(encoding="utf-8")
FIELDS = ["Asked", "Run", "Record", "Result", "Decided"]
NUMBER = r"-?\d*\.\d+(?:e[+-]\d+)?"
INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")


def entries(page):
    """(date, text) of every dated section, and ("", text) of what stands before, between and after them."""
    head, *sections = re.split(r"^## ", page, flags=re.M)
    dated = [re.match(r"(\d{4}-\d\d-\d\d): ", section) for section in sections]
    return [("", head), *((match[1] if match else "", text) for match, text in zip(dated, sections, strict=True))]


ENTRIES = [entry for entry in entries(LOG) if entry[0]]
every_entry = pytest.mark.parametrize(("date", "text"), ENTRIES, ids=[text.partition("\n")[0] for _, text in ENTRIES])


def plain(text):
    """The text in one line, without the targets of links."""
    return " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())


def records(text):
    """The folders of data/runs that an entry links to."""
    return [ROOT / target for target in re.findall(r"\]\((data/runs/[^)]+)\)", text)]


def leaves(content):
    """All values of a JSON text but objects and lists."""
    if isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from leaves(inner)
    else:
        yield content


def intervals(content):
    """All intervals of a summary; a figure of a single problem has none."""
    if isinstance(content, dict) and content.keys() == {"value", "low", "high", "level", "n", "unit"}:
        if content["low"] is not None:
            yield Interval(**content)
    elif isinstance(content, dict):
        for inner in content.values():
            yield from intervals(inner)


def probed(probes):
    """The intervals of a record of probes: of each sampler, of each minus the policy itself, and minus what was set to
    its KL."""
    noises = {str(probe.sampler): probe for probe in probes if not probe.matches}
    for probe in probes:
        yield from figures(probe).values()
        yield surrogate(probe)
        yield surrogate(probe, right=True)
        for other, sign in ((noises["clean"], 1), (noises.get(probe.matches), -1)):
            for k in (1, 8) if other else ():
                yield pass_difference(*(probe, other)[::sign], k)


def unknown(text, folders):
    """The decimals of a text that are in none of the records; those of an interval all together."""
    shown, known = set(), set()
    for folder in folders:
        for path in folder.glob("*.json"):
            if path.name == "summary.json":
                summary = json.loads(path.read_text())
                shown |= {interval.brackets() for interval in intervals(summary)}
                known |= {number(x) for x in leaves(summary) if isinstance(x, float)}
            elif path.name in ("comparison.json", "config.json"):
                known |= set(re.findall(NUMBER, path.read_text()))  # of labels too: T = 1.3
        for path in folder.glob("*/probe.jsonl"):
            shown |= {interval.brackets() for interval in probed(read_probes(path))}
    found = INTERVAL.findall(plain(text))
    wrong = [f"{value} [{low}, {high}]" for value, low, high in found]
    rest = re.findall(rf"(?<![\w.])({NUMBER})(?![\w.]*\w)", INTERVAL.sub("", plain(text)))
    return [each for each in wrong if each not in shown] + [each for each in rest if each not in known]


def test_the_newest_entry_comes_first():
    dates = [date for date, _ in ENTRIES]
    assert len(dates) > 8 and dates == sorted(dates, reverse=True)


@every_entry
def test_an_entry_says_what_was_asked_run_found_and_decided(date, text):
    fields = re.findall(r"^- \*\*(\w+)\.\*\* ", text, re.M)
    assert fields in (FIELDS, [field for field in FIELDS if field != "Record"])
    assert ("Record" in fields) == bool(records(text))


@every_entry
def test_its_decimals_stand_in_its_records(date, text):
    assert unknown(text, records(text)) == []


def test_outside_the_entries_there_are_no_decimals():
    assert unknown("".join(text for date, text in entries(LOG) if not date), []) == []


@every_entry
def test_its_date_is_that_of_its_records(date, text):
    started = {
        json.loads(path.read_text())["started"][:10]
        for folder in records(text)
        for path in folder.rglob("provenance.json")
    }
    assert started <= {date}


def test_every_published_experiment_has_an_entry():
    """Also one in which nothing came out."""
    for path in (ROOT / "data" / "runs").glob("*/comparison.json"):
        linked = [text for _, text in ENTRIES if path.parent in records(text)]
        assert len(linked) >= len(json.loads(path.read_text())), path.parent.name


def test_wrong_decimals_are_noticed():
    folders = [ROOT / "data" / "runs" / "full"]
    assert (
        unknown("by .031 [.013,\n.048], -.008 [-.028, .013], 7.2e-06 [8.9e-07, 1.4e-05], 0.0003, T = 1.3.", folders)
        == []
    )
    for text in (".031 [.013, .049]", "-.031 [.013, .048]", ".0317", "7.4e-06", "0.02.", ".987"):
        assert unknown(f"it is {text}, then", folders), text
    assert unknown(".031 [.013, .048] and 0.8", []) == [".031 [.013, .048]", "0.8"]
    assert unknown("[notebook](notebooks/0.5.ipynb), release v1.2.3 of 5", []) == []
