"""The tasks: problems whose answers a program can check."""

from psn_tutorial.tasks.base import Demonstration, Task, Verdict, get_task

__all__ = ["Demonstration", "Task", "Verdict", "get_task"]
