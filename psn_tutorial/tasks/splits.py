"""The shipped problems: data/<task>/<split>.jsonl, and how each file was made.

``make_splits(DATA)`` makes them again, byte for byte, and enters them in the manifest. The splits
of a task are disjoint: each is generated with the earlier ones excluded. Experiments at another
difficulty, or with more problems, generate their own and exclude the shipped eval split:

    task.generate(seed=7, count=50_000, exclude=load_split("countdown", "eval"))
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psn_tutorial.errors import check_choice
from psn_tutorial.tasks.files import DATA, MANIFEST, shipped_problems, write_problems
from psn_tutorial.tasks.registry import OWN, get_task

# task -> split -> the arguments of task.generate; in this order, each excluding those before it
SPLITS = {task.name: task.splits for task in OWN if task.shipped}


def load_split(task_name: str, split: str, data: Path = DATA) -> list[Any]:
    """The problems of a task ("train" or "eval") at its default difficulty; those of SPLITS are shipped.

    Raises UserError for an unknown task or split, or when the data is not beside the package.
    """
    task = get_task(task_name)
    check_choice("split", split, ("eval", "train"))
    return shipped_problems(task, split, data) if task.shipped else task.problems(split)


def make_splits(data: Path) -> None:
    """Write every split below ``data`` and enter it in the manifest, which may list other files."""
    manifest_path = data / MANIFEST
    manifest = json.loads(manifest_path.read_text()) if manifest_path.is_file() else {}
    for task_name, splits in SPLITS.items():
        task = get_task(task_name)
        (data / task_name).mkdir(parents=True, exist_ok=True)
        taken: list[Any] = []
        taken_files: list[str] = []
        for split, arguments in splits.items():
            file = f"{task_name}/{split}.jsonl"
            problems = task.generate(**arguments, exclude=taken)
            write_problems(data / file, task, problems)
            manifest[file] = {
                "sha256": hashlib.sha256((data / file).read_bytes()).hexdigest(),
                "rows": len(problems),
                "made_by": f"psn_tutorial.tasks.get_task({task_name!r}, **difficulty).generate",
                "difficulty": asdict(task),
                "arguments": arguments | {"exclude": list(taken_files)},
            }
            taken += problems
            taken_files.append(file)
    manifest_path.write_bytes((json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
