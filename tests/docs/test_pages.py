"""The pages of docs/ and the README are true: their tables are those of the code, and their code blocks run."""

import doctest
import re
import subprocess
from pathlib import Path

import pytest

from docs.tables import DOCS, PAGES, TABLES, filled

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
WITH_CODE = [path for path in (README, *sorted(DOCS.glob("*.md"))) if "```pycon" in path.read_text(encoding="utf-8")]


def blocks(path: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(path.read_text(encoding="utf-8")) if name == language]


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_are_those_of_the_code(name):
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == filled(page), "write them anew: python docs/tables.py"


def test_every_table_stands_on_a_page():
    text = "".join((DOCS / name).read_text(encoding="utf-8") for name in PAGES)
    assert sorted(re.findall(r"<!-- table (\w+) -->", text)) == sorted(TABLES)


def test_pages_with_code_are_there():
    assert {path.name for path in WITH_CODE} >= {"README.md", "faq.md", "paper_to_code.md"}


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: path.name)
def test_the_examples_show_what_they_say(path):
    """The blocks of a page are one session, from top to bottom."""
    examples = "\n".join(blocks(path, "pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, path.name, path.name, 0)
    told: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=told.append).failed
    assert test.examples and not failed, "".join(told)


def test_every_block_of_the_readme_is_tested():
    """Those in Python by tests/integrations/test_readme_blocks.py."""
    assert {name for name, _ in FENCE.findall(README.read_text(encoding="utf-8"))} == {"sh", "pycon", "python"}


def test_the_targets_of_the_readmes_blocks_can_be_made():
    """make says what it would do (-n) and does nothing."""
    lines = [line.partition("#")[0].strip() for block in blocks(README, "sh") for line in block.splitlines()]
    commands = [line for line in lines if line]
    assert len(commands) > 5 and all(re.fullmatch(r"(?:\w+=\S+ )*make \w+", command) for command in commands)
    for command in commands:
        dry = re.sub(r"\bmake\b", "make -n", command)
        assert subprocess.run(dry, shell=True, cwd=ROOT, capture_output=True, timeout=60).returncode == 0, command


def test_every_question_of_the_index_has_its_answer():
    """In the order of the table, under its own words, and naming the function that settles it."""
    from psn_tutorial.teaching.paper import QUESTIONS

    page = (DOCS / "faq.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", page, flags=re.M)
    assert parts[1::2] == [entry.what for entry in QUESTIONS]
    for entry, answer in zip(QUESTIONS, parts[2::2], strict=True):
        assert re.search(rf"\b{entry.name}\b", answer), entry.what
