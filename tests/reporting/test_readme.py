import pytest

from psn_tutorial.reporting.readme import BLOCKS, README, with_block, written


def test_what_the_readme_says_of_results_is_what_the_records_say():
    text = README.read_text()
    assert text == written(text)


@pytest.mark.parametrize("name", BLOCKS)
def test_other_results_would_show(name):
    text = README.read_text()
    assert with_block(text, name, "something else") != text
    assert with_block(with_block(text, name, "something else"), name, BLOCKS[name]()) == text
