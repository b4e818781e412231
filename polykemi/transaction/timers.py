"""Timers without event loop objects: entries of equal length stand in a queue, in order by themselves.

To stop or move a timer costs no search: its owner is told, and an entry that has become wrong is passed over when its
time comes. That is never later than ``LAP`` seconds: a longer wait is looked at once in between.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from polykemi.transaction.machine import Machine

LAP: Final = 32.0  # seconds

Entry = tuple[float, Machine]


class Timers:
    """All timers of a transaction layer. ``lengths`` (seconds) get a queue each; entries of other lengths share a heap."""

    __slots__ = ("_first", "_heap", "_queues", "_serial")

    def __init__(self, lengths: Iterable[float]) -> None:
        self._queues: dict[float, deque[Entry]] = {}
        self.expect((*lengths, LAP))
        self._heap: list[tuple[float, int, Machine]] = []
        self._serial = 0  # keeps the order of equal times in the heap
        self._first = math.inf  # nothing is due before

    def __len__(self) -> int:
        """How many entries stand here, those that will be passed over included."""
        return len(self._heap) + sum(map(len, self._queues.values()))

    def expect(self, lengths: Iterable[float]) -> None:
        """Give a queue to each of ``lengths`` that has none."""
        for length in sorted(lengths):
            if length <= LAP and length not in self._queues:
                self._queues[length] = deque()

    def start_resend(self, owner: Machine, event: int, length: float, now: float) -> None:
        """Start the timer of ``owner`` that brings ``event`` after ``length`` seconds, or start it again."""
        owner.resend = event
        owner.resend_at = now + length
        self._add(owner.resend_at, length, owner)

    def start_limit(self, owner: Machine, event: int, length: float, now: float) -> None:
        """Start the other timer of ``owner``, or start it again."""
        owner.limit = event
        owner.limit_at = at = now + length
        if length > LAP:
            length, at = LAP, now + LAP
        if not owner.looked_at or at < owner.looked_at:
            owner.looked_at = at
            self._add(at, length, owner)

    def _add(self, at: float, length: float, owner: Machine) -> None:
        if at < self._first:
            self._first = at
        queue = self._queues.get(length)
        if queue is None or (queue and queue[-1][0] > at):  # the clock was set back: not in order
            self._serial += 1
            heapq.heappush(self._heap, (at, self._serial, owner))
        else:
            queue.append((at, owner))

    def next_timeout(self) -> float | None:
        """Return when ``pop`` is to be called next, seconds since the epoch: not later than the first timer is due.

        It may be earlier, when that timer was stopped. None: no entry is left.
        """
        return self._first if self._first < math.inf else None

    def pop(self, now: float) -> tuple[Machine, int] | None:
        """Take out a timer that is due at ``now`` and return (owner, event), None when none is."""
        if now < self._first:
            return None
        for queue in self._queues.values():
            while queue and queue[0][0] <= now:
                at, owner = queue.popleft()
                event = self._event(owner, at, now)
                if event:
                    return owner, event
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, owner = heapq.heappop(heap)
            event = self._event(owner, at, now)
            if event:
                return owner, event
        self._first = self._first_entry()
        return None

    def _event(self, owner: Machine, at: float, now: float) -> int:
        """Return the event that the entry of ``owner`` for ``at`` brings, 0 for none."""
        if owner.resend_at == at:
            owner.resend_at = 0.0
            return owner.resend
        if owner.looked_at != at:
            return 0
        owner.looked_at = 0.0
        limit_at = owner.limit_at
        if not limit_at:
            return 0
        if limit_at > now:  # started again since, or longer than a lap
            lap = limit_at - now > LAP
            owner.looked_at = at = now + LAP if lap else limit_at
            self._add(at, LAP if lap else 0.0, owner)
            return 0
        owner.limit_at = 0.0
        return owner.limit

    def _first_entry(self) -> float:
        """Return the time of the first entry that is not to be passed over."""
        first = math.inf
        for queue in self._queues.values():
            while queue and _is_idle(queue[0][1], queue[0][0]):
                queue.popleft()
            if queue and queue[0][0] < first:
                first = queue[0][0]
        heap = self._heap
        while heap and _is_idle(heap[0][2], heap[0][0]):
            heapq.heappop(heap)
        return heap[0][0] if heap and heap[0][0] < first else first


def _is_idle(owner: Machine, at: float) -> bool:
    """Tell whether the entry of ``owner`` for ``at`` is to be passed over."""
    if owner.resend_at == at:
        return False
    if owner.looked_at != at:
        return True
    if owner.limit_at:
        return False
    owner.looked_at = 0.0
    return True
