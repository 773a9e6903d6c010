"""psn-tutorial report: write the page of a comparison again."""

from pathlib import Path

from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.experiments.results import read_comparison
from psn_tutorial.reporting.terminal import print_results


def run(words: list[str]) -> int:
    """Write the page of a finished comparison again."""
    parser = Parser(
        f"{NAME} report",
        "Write report.html, summary.json and the pictures of a comparison from its records.",
        f"""example:
  {NAME} report runs/demo""",
        "FOLDER ",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what `compare` wrote")
    return show_comparison(Path(parser.parse_args(words).folder))


def show_comparison(folder: Path) -> int:
    """Print the tables of a comparison, write its report, and say where everything is."""
    from psn_tutorial.reporting.page import write_report  # here: --help does not wait until Matplotlib is imported

    comparison = read_comparison(folder)
    for results in comparison.results.values():
        print_results(results)
    page = write_report(comparison)
    print(f"report: {page}    figures: {folder / 'summary.json'}    pictures: {folder / 'pictures'}")
    return 0
