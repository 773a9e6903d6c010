"""What this machine can run, and what to do next. Looks only; changes nothing."""

import contextlib
import os
import platform
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from psn_tutorial import __version__
from psn_tutorial.errors import UserError
from psn_tutorial.jobs.malloc import keep_freed_memory
from psn_tutorial.preflight.findings import Finding
from psn_tutorial.tasks import files
from psn_tutorial.tasks.registry import offered
from psn_tutorial.tasks.splits import SPLITS, load_split

PINNED = ("torch", "transformers")  # whose new versions often break things; pyproject.toml holds the ranges
# package -> the extra that brings it, what it is for
EXTRAS = {
    "jupyterlab": ("notebooks", "the notebooks"),
    "peft": ("qlora", "LoRA adapters on larger models"),
    "bitsandbytes": ("qlora", "4-bit base models"),
    "gguf": ("gguf", "GGUF files as base models"),
    "math-verify": ("math", "answers to mathematical problems"),
    "tensorboard": ("tensorboard", "the curves of a run"),
    "sentence-transformers": ("embeddings", "the similarity signal on sentences"),
    "trl": ("trl", "the comparison with trl in `make bench`"),
}
HUB = "https://huggingface.co"
NEEDED_GIB = 2.0  # memory for the demo


def examine(online: bool = True) -> list[Finding]:
    """Look at everything. A look that fails becomes a finding, never an exception.

    online: also ask whether the hub answers, for at most 3 seconds (not with HF_HUB_OFFLINE).
    """
    looks: list[Callable[[], list[Finding]]] = [
        _python,
        _libraries,
        _processor,
        _accelerator,
        _memory,
        _disk,
        _data,
        _allocator,
        _extras,
    ]
    found = []
    for look in [*looks, *([_hub] if online else [])]:
        try:
            found += look()
        except Exception as error:  # whatever is wrong with this machine, the other looks are still reported
            name = look.__name__.strip("_")
            found.append(Finding(name, f"could not be looked at ({error})", "absent"))
    return found


def _python() -> list[Finding]:
    version, good = platform.python_version(), sys.version_info >= (3, 11)
    advice = "" if good else f"Python must be 3.11 or newer, and this is {version}."
    return [
        Finding("psn_tutorial", __version__),
        Finding("python", version, "good" if good else "bad", advice),
    ]


def _libraries() -> list[Finding]:
    requirements = {r.name: r for r in map(Requirement, metadata.requires("psn-tutorial"))}
    return [_library(name, requirements[name].specifier) for name in PINNED]


def _library(name: str, allowed: SpecifierSet) -> Finding:
    words = ",".join(sorted(map(str, allowed), reverse=True))
    install = f'pip install "{name}{words}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed", "bad", f"{name} is missing: {install}.")
    if allowed.contains(version, prereleases=True):
        return Finding(name, version)
    untried = f"{name} {version} has not been tried with this version of psn_tutorial: {install}."
    return Finding(name, f"{version}, outside {words}", "bad", untried)


def _processor() -> list[Finding]:
    import torch  # here and below: a torch that cannot be imported is a finding

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    advice = ""
    if threads > (cores or 1):
        advice = f"torch uses {threads} threads on {cores} cores, which is slow: set OMP_NUM_THREADS={cores}."
    return [
        Finding("cores", f"{cores} ({platform.machine()})"),
        Finding("threads of torch", str(threads), "absent" if advice else "good", advice),
    ]


def _accelerator() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 2**30
        return [Finding("GPU", f"{properties.name}, {memory:.0f} GiB")]
    return [Finding("GPU", "none usable; the tiny models need none", "absent")]


def _memory() -> list[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    with contextlib.suppress(OSError, ValueError):  # a container may be allowed less
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()) / 2**30)
    if total >= NEEDED_GIB:
        return [Finding("memory", f"{total:.1f} GiB")]
    advice = f"The demo needs {NEEDED_GIB:g} GiB of memory; train with --micro-batch 128 and fewer --samples."
    return [Finding("memory", f"{total:.1f} GiB", "bad", advice)]


def _disk() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free >= 0.5:
        return [Finding("disk here", f"{free:.1f} GiB free")]
    advice = "Run records and checkpoints need about 0.1 GiB: free some of the disk, or use --out."
    return [Finding("disk here", f"{free:.2f} GiB free", "bad" if free < 0.1 else "absent", advice)]


def _data() -> list[Finding]:
    found = []
    for task in SPLITS:
        try:
            counts = [f"{len(load_split(task, split, files.DATA))} {split}" for split in SPLITS[task]]
            found.append(Finding(f"problems of {task}", ", ".join(counts)))
        except UserError as error:
            found.append(Finding(f"problems of {task}", "missing", "bad", f"{error}."))
    for task in SPLITS:
        folder = files.DATA / "bases" / task
        if (folder / "config.json").is_file():
            found.append(Finding(f"base policy of {task}", "shipped"))
        else:
            advice = (
                f"The base policy of {task} is not beside the package: install from a clone, or "
                f"make one with psn-tutorial pretrain --task {task}."
            )
            found.append(Finding(f"base policy of {task}", "missing", "bad", advice))
    if offered():
        found.append(Finding("tasks of other packages", ", ".join(offered())))
    return found


def _allocator() -> list[Finding]:
    if keep_freed_memory():
        return [Finding("memory allocator", "glibc, told to keep what a step frees")]
    value = "not glibc: steps of small models may be 2 to 3 times slower"
    return [Finding("memory allocator", value, "absent")]


def _extras() -> list[Finding]:
    found = []
    for package, (extra, purpose) in EXTRAS.items():
        try:
            found.append(Finding(package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            advice = f'For {purpose}: pip install "psn-tutorial[{extra}]" brings {package}.'
            found.append(Finding(package, "not installed (optional)", "absent", advice))
    return found


def _hub() -> list[Finding]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return [Finding("model hub", "not asked: HF_HUB_OFFLINE is set", "absent")]
    advice = "Nothing shipped here needs the model hub; larger models do, and can be copied in by hand."
    reasons: list[str] = []
    # In a thread: looking up a name can take longer than any timeout given to urlopen.
    asking = threading.Thread(target=lambda: reasons.append(_ask_hub()), daemon=True)
    asking.start()
    asking.join(4)
    reason = reasons[0] if reasons else "no answer within 4 seconds"
    if reason:
        return [Finding("model hub", f"does not answer ({reason})", "absent", advice)]
    return [Finding("model hub", "answers")]


def _ask_hub() -> str:
    """Return "" when the hub answers, else why not."""
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", HUB), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=3).close()
    except urllib.error.HTTPError:  # an answer, even if it is a refusal
        pass
    except Exception as error:  # a proxy, a certificate, a name: each raises a type of its own
        return str(getattr(error, "reason", error))
    return ""
