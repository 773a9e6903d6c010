"""The results in README.md, written from the records in data/runs; a test compares the two.

``python -m psn_tutorial.reporting.readme`` writes them again.
"""

from collections.abc import Sequence
from pathlib import Path

from psn_tutorial.experiments.results import read_comparison
from psn_tutorial.reporting.tables import conclusions, tables
from psn_tutorial.tasks.files import DATA

README = DATA.parent / "README.md"
RECORDS = tuple(DATA / "runs" / name for name in ("full", "qlora", "qwen"))
BEGIN, END = "these lines -->\n", "<!-- end of results -->"


def results_in_markdown(records: Sequence[Path] = RECORDS) -> str:
    """The final table of every experiment, and its conclusions, each with its interval."""
    parts = []
    for results in (results for record in records for results in read_comparison(record).results.values()):
        final = tables(results)[0]
        parts += [f"**{results.experiment.question}**", final.markdown(), final.note + "."]
        parts.append("\n".join(f"- {conclusion}" for conclusion in conclusions(results)))
    return "\n\n".join(parts) + "\n"


def with_results(text: str, results: str) -> str:
    """``text`` with ``results`` between its two marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + results + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_results(README.read_text(), results_in_markdown()))
