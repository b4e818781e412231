"""How much memory this process has, and may have."""

from __future__ import annotations

import ctypes
import os
import re
import resource
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_ROOM: Final = 1.25  # above the limit where requests are refused
_PART: Final = 0.75  # of what there is, for one process


@cache
def _statm() -> int:
    """Return the descriptor of what the kernel tells of this process; it stays open: there may be none left later."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def in_use() -> int:
    """Return the octets that are resident. The same process is to call it each time."""
    return int(os.pread(_statm(), 64, 0).split()[1]) * _PAGE


def limit() -> int:
    """Return what the process may have by default: three quarters of the machine's memory, or of its container's."""
    there = os.sysconf("SC_PHYS_PAGES") * _PAGE
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            there = min(there, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return int(there * _PART)


def bound(octets: int) -> None:
    """Let an allocation beyond ``octets`` fail, which costs its message, before the kernel ends the process."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = int(octets * _ROOM)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def give_back() -> None:
    """Give freed memory back to the system: the C library keeps what lies between blocks that are in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


class Figures(NamedTuple):
    """What the process has, in octets."""

    resident: int
    own: int  # of these, what is no file and no library
    peak: int  # the most that was ever resident
    free_blocks: int  # blocks that the C library keeps for what comes; 0 where it does not tell


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in ("arena", "ordblks", *(f"other_{n}" for n in range(8))))


def figures() -> Figures:
    """Ask the system and the C library. Linux's names are VmRSS, RssAnon and VmHWM."""
    status = Path("/proc/self/status").read_text("latin-1")
    kilobytes = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc's, since 2.33
    free_blocks = 0
    if mallinfo is not None:
        mallinfo.restype = _Mallinfo2
        free_blocks = mallinfo().ordblks
    return Figures(kilobytes["VmRSS"] << 10, kilobytes.get("RssAnon", 0) << 10, kilobytes["VmHWM"] << 10, free_blocks)
