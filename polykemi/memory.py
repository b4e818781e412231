"""How much memory this process has, and may have."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PART: Final = 0.75  # of what there is, for one process


def in_use() -> int:
    """Return the octets that are resident."""
    with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123  # ten times a second
        return int(file.read(64).split()[1]) * _PAGE


def limit() -> int:
    """Return what the process may have by default: three quarters of the machine's memory, or of its container's."""
    there = os.sysconf("SC_PHYS_PAGES") * _PAGE
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            there = min(there, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return int(there * _PART)


def give_back() -> None:
    """Give freed memory back to the system: the C library keeps what lies between blocks that are in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
