"""How much memory a call needs beyond what it returns."""

from __future__ import annotations

import ctypes
import os
import re
import statistics
from pathlib import Path

import numpy as np
from contenders import Call

# Linux counts the pages of a process in batches: less than this is lost among them.
SMALLEST_OUTPUT = 4 * 2**20

RESET = Path("/proc/self/clear_refs")


def extra_memory(call: Call) -> float | None:
    """Return the peak of memory that one call adds, less its output, as a share of the output.

    It is the high-water mark of the resident memory, which Linux resets on demand, over what was resident before the
    call; the median of three calls. What the allocator kept of earlier calls is given back before each, or it would be
    used without being counted. None where Linux does not offer this, or the output is too small for it.
    """
    returned = sum(np.asarray(array).nbytes for array in call())
    if returned < SMALLEST_OUTPUT or not os.access(RESET, os.W_OK):
        return None
    return statistics.median(_peak(call) - returned for _ in range(3)) / returned


def _peak(call: Call) -> int:
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # sets the mark to what is resident
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    (kibibytes,) = re.findall(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(kibibytes)
