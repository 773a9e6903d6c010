"""Which base policies are shipped, and where they lie."""

from pathlib import Path

from psn_tutorial.errors import UserError
from psn_tutorial.tasks.files import DATA

# name -> the task that it was made for; :mod:`psn_tutorial.jobs.pretraining` says how
SHIPPED = {"countdown": "countdown", "rules": "rules", "chain": "chain", "sums": "math"}


def base_folder(name: str) -> Path:
    """The shipped base policy of a task with words of its own, or "sums": a small language model for worded sums.

    Raises UserError when it is not there.
    """
    folder = DATA / "bases" / name
    if name not in SHIPPED:
        raise UserError(
            f"{name} has no shipped base policy: give a language model, "
            "such as --base qwen2.5-0.5b-instruct --lora-rank 16"
        )
    if not folder.is_dir():
        raise UserError(
            f"the shipped base policy of {name} is not beside the package; make one with "
            f"`psn-tutorial pretrain --task {SHIPPED[name]} --out my-base` and give it as --base"
        )
    return folder
