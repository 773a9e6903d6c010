import pytest

from psn_tutorial.reporting.readme import BLOCKS, README, with_block, written


@pytest.fixture(scope="module")
def blocks():
    """What the records say, read once: {name: content}."""
    return {name: write() for name, write in BLOCKS.items()}


def test_what_the_readme_says_of_results_is_what_the_records_say(blocks, monkeypatch):
    text = README.read_text()
    for name, content in blocks.items():
        monkeypatch.setitem(BLOCKS, name, lambda content=content: content)
    assert text == written(text)


@pytest.mark.parametrize("name", BLOCKS)
def test_other_results_would_show(name, blocks):
    text = README.read_text()
    assert with_block(text, name, "something else") != text
    assert with_block(with_block(text, name, "something else"), name, blocks[name]) == text
