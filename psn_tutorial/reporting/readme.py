"""What README.md says of results, written from the records in data/runs; a test compares the two.

``python -m psn_tutorial.reporting.readme`` writes it again.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from psn_tutorial.experiments.results import Results, read_comparison
from psn_tutorial.experiments.study_results import read_study_results
from psn_tutorial.reporting.answer import answer
from psn_tutorial.reporting.study import short_verdict_table
from psn_tutorial.reporting.tables import conclusions, tables
from psn_tutorial.tasks.files import DATA

README = DATA.parent / "README.md"
RECORDS = tuple(DATA / "runs" / name for name in ("full", "qlora", "qwen"))
STUDY = DATA / "runs" / "study"
SHOWN = {"rules": ("methods", "recipe", "correction-best"), "sums": ("sums",)}  # file of the study -> experiments
BEGIN, END = "<!-- {}: `python -m psn_tutorial.reporting.readme` writes this -->\n", "<!-- end of {} -->"


@cache
def _study(name: str) -> dict[str, Results]:
    return read_study_results(STUDY / name).results


@cache
def _comparison(record: Path) -> dict[str, Results]:
    return read_comparison(record).results


def answer_in_markdown() -> str:
    """Should I use it? In three sentences."""
    rules, local, pretrained = _study("rules"), *(_comparison(DATA / "runs" / name) for name in ("full", "qwen"))
    elsewhere = {
        "on Countdown": local["countdown"],
        "on worded sums": _study("sums")["sums"],
        "on worded sums with a pretrained Qwen": pretrained["qwen"],
    }
    said = answer(rules["methods"], rules["recipe"], elsewhere)
    return "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(said, 1)) + "\n"


def study_in_markdown() -> str:
    """The verdicts of the experiments SHOWN; the study's reports have all, with more of each."""
    parts = []
    for results in (_study(file)[name] for file, names in SHOWN.items() for name in names):
        table = short_verdict_table(results)
        parts += [f"**{results.experiment.question}** {table.title}:", table.markdown()]
    return "\n\n".join([*parts, f"{table.note}."]) + "\n"


def results_in_markdown(records: Sequence[Path] = RECORDS) -> str:
    """The final table of every experiment, and its conclusions, each with its interval."""
    parts = []
    for results in (results for record in records for results in _comparison(record).values()):
        final = tables(results)[0]
        parts += [f"**{results.experiment.question}**", final.markdown(), final.note + "."]
        parts.append("\n".join(f"- {conclusion}" for conclusion in conclusions(results)))
    return "\n\n".join(parts) + "\n"


BLOCKS = {"answer": answer_in_markdown, "study": study_in_markdown, "results": results_in_markdown}


def with_block(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the two marks of the block ``name``."""
    begin, end = BEGIN.format(name), END.format(name)
    before, rest = text.split(begin)
    return before + begin + "\n" + content + "\n" + end + rest.split(end)[1]


def written(text: str) -> str:
    """``text`` with every block as the records have it."""
    for name, content in BLOCKS.items():
        text = with_block(text, name, content())
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
