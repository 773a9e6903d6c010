"""The tasks: problems whose answers a program can check."""

from psn_tutorial.tasks.base import Demonstration, Task, Verdict
from psn_tutorial.tasks.registry import TASK_NAMES, get_task, register_task
from psn_tutorial.tasks.splits import load_split

__all__ = ["TASK_NAMES", "Demonstration", "Task", "Verdict", "get_task", "load_split", "register_task"]
