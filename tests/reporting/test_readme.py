from psn_tutorial.reporting.readme import README, results_in_markdown, with_results


def test_the_results_in_the_readme_are_those_of_the_record():
    text = README.read_text()
    assert text == with_results(text, results_in_markdown())


def test_other_results_would_show():
    text = README.read_text()
    assert with_results(text, "something else") != text
    assert with_results(with_results(text, "something else"), results_in_markdown()) == text
