"""Where a result comes from: commit, versions, hardware, command, date."""

import contextlib
import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psn_tutorial


def provenance(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Return where a result comes from, without the machine's name and without absolute paths."""
    import torch  # here: records are read without torch, and importing it takes seconds

    packages = ("torch", "transformers", "numpy", "safetensors")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit(),
        "versions": {
            "psn_tutorial": psn_tutorial.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "command": None if command is None else [_without_folders(word) for word in command],
        "started": now(),
        "wall_seconds": 0.0,
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """Return the commit of this package's own checkout, "+dirty" when it was changed since."""
    package = Path(psn_tutorial.__file__).resolve().parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # Installed below another project's checkout, git would answer for that project.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1].strip()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    return platform.processor() or "unknown"


def _without_folders(word: str) -> str:
    """Return one command-line word with every absolute path in it made relative, or cut to its
    last part when it lies outside the working folder."""

    def portable(match: re.Match[str]) -> str:
        path = Path(match[0])
        with contextlib.suppress(ValueError):
            return path.relative_to(Path.cwd()).as_posix()
        return path.name

    return re.sub(r"(?:(?<=[=,:\s])|^)/(?!/)[^=,:]*", portable, word)
