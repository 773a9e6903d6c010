"""What pyproject.toml cannot say: a wheel carries data/ and notebooks/, in psn_tutorial/shipped/.

In a clone, and in an editable installation, they are read where they are (psn_tutorial/tasks/files.py).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithData(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shipped = Path(self.build_lib, "psn_tutorial", "shipped")
            unwanted = shutil.ignore_patterns(".*", "__pycache__")
            for name in ("data", "notebooks"):
                shutil.copytree(ROOT / name, shipped / name, ignore=unwanted, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithData})
