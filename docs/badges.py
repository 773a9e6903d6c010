"""Put badges for Colab and Binder, and a cell that installs, into the notebooks of a repository with a public address.

python docs/badges.py OWNER/NAME [--branch main]

A badge leads to an address, so none is shipped before there is one. Once there is, run this and commit the result; a
second run puts a new address in place of the old one. Binder installs environment.yml by itself; on Colab the cell
clones the repository, for the records that the notebooks read, and installs the package from it; after a restart of
the kernel it finds both. Only its text was tested: neither service was reached.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
NAME = r"[\w.-]+"
CELL = "install"  # the id of the cell
BADGES = re.compile(r"^\[!\[Colab\].*\n\n", re.M)
EXTRAS = "notebooks,qlora,gguf,math"


def badges(address: str, branch: str, notebook: str) -> str:
    """A line of Markdown: the two badges of one notebook, each with its link."""
    colab = f"https://colab.research.google.com/github/{address}/blob/{branch}/notebooks/{notebook}"
    binder = f"https://mybinder.org/v2/gh/{address}/{branch}?urlpath=lab/tree/notebooks/{notebook}"
    pictures = ("https://colab.research.google.com/assets/colab-badge.svg", "https://mybinder.org/badge_logo.svg")
    return f"[![Colab]({pictures[0]})]({colab}) [![Binder]({pictures[1]})]({binder})"


def install(address: str, branch: str) -> str:
    """The source of the cell that installs."""
    return f"""# On Colab: the records that this notebook reads, and the package. Where both are there, nothing.
import os
import subprocess
import sys
from importlib.util import find_spec

if not os.path.isdir("../data/runs"):
    if not os.path.isdir("psn_tutorial_clone"):
        clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", "{branch}"]
        subprocess.run([*clone, "https://github.com/{address}", "psn_tutorial_clone"], check=True)
    os.chdir("psn_tutorial_clone/notebooks")
if find_spec("psn_tutorial") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "..[{EXTRAS}]"], check=True)"""


def unmarked(cells: list) -> list:
    """The cells of a notebook without badges and without the cell that installs, as the documentation shows them: it
    fetches nothing from elsewhere."""
    cells = [cell for cell in cells if cell.get("id") != CELL]
    cells[0]["source"] = BADGES.sub("", "".join(cells[0]["source"]))
    return cells


def mark(path: Path, address: str, branch: str) -> None:
    """Write badges and cell into one notebook; its other cells and all outputs stay, and are numbered anew."""
    book = nbformat.read(path, as_version=4)
    book.cells = unmarked(book.cells)
    card = book.cells[0]
    title, rest = card.source.split("\n\n", 1)
    card.source = "\n\n".join((title, badges(address, branch, path.name), rest))
    book.cells.insert(1, nbformat.v4.new_code_cell(install(address, branch), id=CELL))
    for number, cell in enumerate([cell for cell in book.cells if cell.cell_type == "code"], 1):
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    nbformat.write(book, path)


def main(words: list[str], folder: Path = NOTEBOOKS) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("address", metavar="OWNER/NAME", help="of the repository on GitHub")
    parser.add_argument("--branch", default="main", help="that the badges open (%(default)s)")
    args = parser.parse_args(words)
    for field, value, allowed in (("OWNER/NAME", args.address, f"{NAME}/{NAME}"), ("--branch", args.branch, NAME)):
        if not re.fullmatch(allowed, value):
            parser.error(f"{field} must be made of letters, digits and . _ -, got {value!r}")
    for path in sorted(folder.glob("*.ipynb")):
        mark(path, args.address, args.branch)


if __name__ == "__main__":
    main(sys.argv[1:])
