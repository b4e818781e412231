"""What /proc says: the CPU and memory of a server with its children, and what else ran on the machine meanwhile."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")  # a second has this many


class Process(NamedTuple):
    """A line of /proc/PID/stat: its parent, and user + system time of all its threads in seconds."""

    parent: int
    cpu: float


class Memory(NamedTuple):
    """Of several processes, in kB; ``rss`` counts a page that they share once for each, ``pss`` once."""

    rss: int
    pss: int


def parse_stat(line: str) -> Process:
    """Read a line of /proc/PID/stat; the command's name in it may hold blanks and parentheses."""
    fields = line.rpartition(")")[2].split()
    return Process(int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK)


def processes() -> dict[int, Process]:
    """Return all processes by id."""
    found = {}
    for directory in PROC.iterdir():
        if directory.name.isdecimal():
            try:
                found[int(directory.name)] = parse_stat((directory / "stat").read_text())
            except OSError:  # it has ended
                pass
    return found


def cpu_seconds(pid: int, by_ticks: float) -> float:
    """Return the CPU of a process to the nanosecond, from the scheduler's account of its threads.

    ``by_ticks`` is what its stat says, which has hundredths of a second; it is more only when threads have ended.
    """
    nanoseconds = 0
    try:
        for thread in (PROC / str(pid) / "task").iterdir():
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    except (OSError, IndexError):  # it has ended, or the kernel keeps no such account
        pass
    return max(nanoseconds / 1e9, by_ticks)


def family(pid: int, among: dict[int, Process]) -> set[int]:
    """Return ``pid`` and all its descendants."""
    children = defaultdict(list)
    for child, process in among.items():
        children[process.parent].append(child)
    members, todo = set(), [pid]
    while todo:
        members.add(one := todo.pop())
        todo += children[one]
    return members


def memory(pids: Iterable[int]) -> Memory:
    """Return what ``pids`` hold together."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0])
    return Memory(sums["Rss"], sums["Pss"])


class Watch:
    """What a server, sipp and everybody else used from one moment to another."""

    def __init__(self, server: int) -> None:
        self.server = server
        self._before, self._stolen = processes(), _stolen()
        self._server_before = _exact(family(server, self._before), self._before)

    def end(self) -> None:
        """Take the second reading."""
        self._after = processes()
        self.members = family(self.server, self._after)
        self.server_cpu = _exact(self.members, self._after) - self._server_before  # seconds, with its children
        self.stolen = _stolen() - self._stolen  # seconds that the machine's host gave to others

    def cpu(self, pids: Iterable[int]) -> float:
        """Return the seconds of CPU that ``pids`` used."""
        return sum(self._after[p].cpu - (self._before[p].cpu if p in self._before else 0.0) for p in pids)

    def others(self, but: Iterable[int]) -> float:
        """Return the seconds of CPU that processes used which were there all the time, but the server and ``but``."""
        return self.cpu((self._after.keys() & self._before.keys()) - self.members - set(but))


def _exact(pids: Iterable[int], among: dict[int, Process]) -> float:
    return sum(cpu_seconds(pid, among[pid].cpu) for pid in pids)


def _stolen() -> float:
    return int((PROC / "stat").read_text().split(None, 9)[8]) / TICK
