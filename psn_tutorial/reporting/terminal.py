"""Tables and sentences printed to a terminal."""

import textwrap

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from psn_tutorial.experiments.results import Results
from psn_tutorial.reporting.tables import Table, conclusions, tables


def print_results(results: Results) -> None:
    """Print the tables of an experiment, then its conclusions."""
    print("\n" + textwrap.fill(f"{results.name}: {results.experiment.question}", 96) + "\n")
    for table in tables(results):
        print_table(table)
    for conclusion in conclusions(results):
        print(textwrap.fill(f"- {conclusion}", 96, subsequent_indent="  "))


def print_table(table: Table) -> None:
    """Print one table, wider than the terminal if need be: a wrapped interval cannot be read."""
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, column in enumerate(table.columns):
        grid.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        grid.add_row(*row)
    needed = Console(width=1000).measure(grid).maximum
    console = Console(highlight=False, width=max(Console().width, needed))
    console.print(table.title, style="bold", markup=False)
    console.print(grid)
    console.print(table.note, style="dim", markup=False)
    console.print()
