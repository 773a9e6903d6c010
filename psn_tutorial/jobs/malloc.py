"""Let glibc keep the memory a training step frees, instead of returning it to the system.

A small model's step allocates and frees tens of megabytes; with glibc's defaults every large block is unmapped and
faulted in again, which can cost as much as the arithmetic (benchmarks/, `--malloc default`). These are the settings of
MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_, made while the process runs.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_GIBIBYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for this process; False (and nothing done) where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(option, value)
        for option, value in (
            (_MMAP_THRESHOLD, _GIBIBYTE),
            (_TRIM_THRESHOLD, _GIBIBYTE),
            (_TOP_PAD, 64 << 20),
        )
    )
