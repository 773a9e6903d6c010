"""psn-tutorial report: write the page of a comparison or of a study again."""

from pathlib import Path

from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.experiments.results import read_comparison
from psn_tutorial.experiments.study_results import is_study, read_study_results
from psn_tutorial.reporting.study import verdict_table, write_study_report
from psn_tutorial.reporting.terminal import print_results, print_table


def run(words: list[str]) -> int:
    """Write the page of a finished comparison, or of what there is of a study, again."""
    parser = Parser(
        f"{NAME} report",
        "Write report.html, summary.json and the pictures of a comparison from its records; of a study report.md.",
        f"""example:
  {NAME} report runs/demo""",
        "FOLDER ",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what `compare` or `study` wrote")
    folder = Path(parser.parse_args(words).folder)
    return show_study(folder) if is_study(folder) else show_comparison(folder)


def show_comparison(folder: Path) -> int:
    """Print the tables of a comparison, write its report, and say where everything is."""
    from psn_tutorial.reporting.page import write_report  # here: --help does not wait until Matplotlib is imported

    comparison = read_comparison(folder)
    for results in comparison.results.values():
        print_results(results)
    page = write_report(comparison)
    print(f"report: {page}    figures: {folder / 'summary.json'}    pictures: {folder / 'pictures'}")
    return 0


def show_study(folder: Path) -> int:
    """Print the verdicts of a study as far as it is recorded, write its report, and say where everything is."""
    study = read_study_results(folder)
    for name, results in study.results.items():
        print(f"\n{name}: {results.experiment.question}\n")
        print_table(verdict_table(results))
    if study.missing:
        print(f"{len(study.missing)} records are missing, such as {study.missing[0]}")
    page = write_study_report(study)
    print(f"report: {page}    figures: {folder / 'summary.json'}")
    return 0
