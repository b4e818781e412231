"""How tests wait: until something is so, however busy the machine is; and what was needed for it, not how late it was."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE: Final = 120.0  # seconds: only a test that fails waits so long


def until(found: Callable[[], T], what: str = "what is waited for", seconds: float = PATIENCE) -> T:
    """Wait until ``found`` gives something true and return that; ``what`` is said when it does not."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.01)
    return result


def cpu_seconds(action: Callable[[], object]) -> float:
    """Return the CPU seconds that ``action`` takes, without a pass of the collector through what all tests have left."""
    gc.disable()
    began = time.process_time()
    try:
        action()
    finally:
        gc.enable()
    return time.process_time() - began


def cpu_time(pid: int) -> float:
    """Return the seconds that a process has had a processor, to the nanosecond (clock_getcpuclockid, POSIX)."""
    return time.clock_gettime((~pid << 3) | 2)  # as Linux makes a clock of a process id: its threads together
