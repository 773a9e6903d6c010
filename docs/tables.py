"""Write the tables of paper_to_code.md, glossary.md and faq.md, from the index, the glossaries and a record.

python docs/tables.py
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))  # this tree, whatever is installed

from psn_tutorial.evaluation.metrics import METRICS  # noqa: E402
from psn_tutorial.jobs.records import RunRecord  # noqa: E402
from psn_tutorial.runs.steps import FIGURES  # noqa: E402
from psn_tutorial.teaching.paper import DIVERGENCES, IDENTITIES, METHOD, QUESTIONS, table  # noqa: E402

PAGES = ("paper_to_code.md", "glossary.md", "faq.md")
RECORD = ROOT / "data" / "runs" / "full" / "rules" / "psn" / "seed-0"
PLACE = re.compile(r"<!-- table (\w+) -->\n.*?<!-- end -->", re.S)


def cell(text: str) -> str:
    """Text for a cell of a table: a bar would end it."""
    return text.replace("||", "‖").replace("|", r"\|")


def steps() -> str:
    """Every figure of steps.jsonl: its value at the last step of a record, and what it is."""
    record = RunRecord.read(RECORD).steps[-1]
    shown = {name: f"{value:#.3g}" if isinstance(value, float) else str(value) for name, value in record.items()}
    rows = [f"| `{name}` | {shown.get(name, '')} | {cell(figure.meaning)} |" for name, figure in FIGURES.items()]
    return "\n".join(["| figure | in that record | what it is |", "|---|---:|---|", *rows])


def metrics() -> str:
    """Every metric of an evaluation: its name on the command line, in a table, and what it is."""
    names = {name: f"{name}@K" if metric.at_k else name for name, metric in METRICS.items()}
    rows = [f"| `{names[name]}` | {metric.words} | {cell(metric.meaning)} |" for name, metric in METRICS.items()]
    return "\n".join(["| metric | in tables | what it is |", "|---|---|---|", *rows])


TABLES: dict[str, Callable[[], str]] = {
    "method": lambda: table(METHOD),
    "identities": lambda: table(IDENTITIES, ("what", "formula", "function", "test")),
    "divergences": lambda: table(DIVERGENCES, ("released", "what", "source", "function", "test")),
    "questions": lambda: table(QUESTIONS, ("what", "source", "function", "test")),
    "steps": steps,
    "metrics": metrics,
}


def filled(page: str) -> str:
    """The text of a page with its tables written anew."""
    return PLACE.sub(lambda place: f"<!-- table {place[1]} -->\n\n{TABLES[place[1]]()}\n\n<!-- end -->", page)


if __name__ == "__main__":
    for name in PAGES:
        path = DOCS / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
