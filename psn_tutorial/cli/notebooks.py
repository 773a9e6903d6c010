"""psn-tutorial notebooks: lay the notebooks into a folder."""

import json
import re
import shutil
from pathlib import Path

from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.errors import UserError
from psn_tutorial.tasks.files import SHIPPED

# A link or picture, whose text may hold code; or code in a line, which stays as it is.
_LINK_OR_CODE = re.compile(r"!?\[((?:`[^`]*`|[^\[\]`])*)\]\(([^)\s#]+)(?:#[^)\s]*)?\)|`[^`\n]+`")


def run(words: list[str]) -> int:
    """Lay the notebooks into a folder."""
    parser = Parser(
        f"{NAME} notebooks",
        "Lay the notebooks into FOLDER/notebooks and the records that they read into FOLDER/data.",
        f"""example:
  {NAME} notebooks psn-notebooks && jupyter lab psn-notebooks/notebooks""",
        "FOLDER ",
    )
    parser.add_argument("folder", metavar="FOLDER", help="a new folder, or an empty one")
    folder = Path(parser.parse_args(words).folder)
    count = lay_out(folder)
    print(f"{count} notebooks in {folder / 'notebooks'}; open them with: jupyter lab {folder / 'notebooks'}")
    return 0


def lay_out(folder: Path, shipped: Path = SHIPPED) -> int:
    """Copy the notebooks of ``shipped`` and its data into ``folder``; returns the number of notebooks.

    Links to files that are not in the folder, such as the library's code, become plain text.
    Raises UserError when the folder is a file, holds something, or cannot be written.
    """
    found = sorted((shipped / "notebooks").glob("*.ipynb"))
    if not found:
        raise UserError(f"there are no notebooks in {shipped / 'notebooks'}: install psn-tutorial anew")
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"FOLDER must be new or an empty folder, got {folder}, which is a file")
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"FOLDER must be new or an empty folder, got {folder}, which holds something already")
        shutil.copytree(shipped / "data", folder / "data", copy_function=shutil.copyfile)
        (folder / "notebooks").mkdir()
        copies = [Path(shutil.copyfile(path, folder / "notebooks" / path.name)) for path in found]
        for path in copies:
            path.write_text(_without_dead_links(path), encoding="utf-8")
    except (OSError, shutil.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"FOLDER cannot be written, got {folder}: {why}") from None
    return len(copies)


def _without_dead_links(path: Path) -> str:
    """The notebook with the words alone of each link that leads nowhere from its place."""

    def plain(match: re.Match[str]) -> str:
        words, target = match.groups()
        leads = words is None or re.match(r"\w+:", target) or (path.parent / target).exists()
        return match[0] if leads else words

    book = json.loads(path.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _LINK_OR_CODE.sub(plain, "".join(cell["source"]))
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"
