"""Timers without event loop objects: those of equal length stand in a queue, in order by themselves; cancelling is lazy."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

_WORTH_COMPACTING: Final = 1024


class Timer:
    """A timer that runs. ``owner`` is None when it was stopped or has fired."""

    __slots__ = ("deadline", "event", "owner")

    def __init__(self, deadline: float, owner: Any, event: int) -> None:
        self.deadline = deadline  # seconds since the epoch
        self.owner = owner
        self.event = event


class Timers:
    """All timers of a transaction layer. ``lengths`` (seconds) get a queue each; timers of other lengths share a heap."""

    __slots__ = ("_heap", "_queues", "_serial", "_stopped")

    def __init__(self, lengths: Iterable[float]) -> None:
        self._queues: dict[float, deque[Timer]] = {length: deque() for length in lengths}
        self._heap: list[tuple[float, int, Timer]] = []
        self._serial = 0
        self._stopped = 0

    def __len__(self) -> int:
        """How many timers stand here, stopped ones that were not swept yet included."""
        return len(self._heap) + sum(map(len, self._queues.values()))

    def start(self, length: float, owner: Any, event: int, now: float) -> Timer:
        """Start a timer of ``length`` seconds; ``pop`` gives (owner, event) when it is due."""
        timer = Timer(now + length, owner, event)
        queue = self._queues.get(length)
        if queue is None or (queue and queue[-1].deadline > timer.deadline):  # the clock was set back: not in order
            self._serial += 1
            heapq.heappush(self._heap, (timer.deadline, self._serial, timer))
        else:
            queue.append(timer)
        return timer

    def stop(self, timer: Timer) -> None:
        """Stop ``timer``. Its place is swept later, all at once when most places are such."""
        if timer.owner is None:
            return
        timer.owner = None
        self._stopped += 1
        if self._stopped > _WORTH_COMPACTING and self._stopped * 2 > len(self):
            self._compact()

    def _compact(self) -> None:
        for length, queue in self._queues.items():
            self._queues[length] = deque(t for t in queue if t.owner is not None)
        self._heap = [entry for entry in self._heap if entry[2].owner is not None]
        heapq.heapify(self._heap)
        self._stopped = 0

    def next_timeout(self) -> float | None:
        """Return when the first timer is due (seconds since the epoch), None when none runs."""
        first: float | None = None
        for queue in self._queues.values():
            while queue and queue[0].owner is None:
                queue.popleft()
                self._stopped -= 1
            if queue and (first is None or queue[0].deadline < first):
                first = queue[0].deadline
        heap = self._heap
        while heap and heap[0][2].owner is None:
            heapq.heappop(heap)
            self._stopped -= 1
        if heap and (first is None or heap[0][0] < first):
            first = heap[0][0]
        return first

    def pop(self, now: float) -> tuple[Any, int] | None:
        """Take out the first timer that is due at ``now`` and return (owner, event), None when none is."""
        first = self.next_timeout()
        if first is None or first > now:
            return None
        for queue in self._queues.values():
            if queue and queue[0].deadline == first:
                timer = queue.popleft()
                break
        else:
            timer = heapq.heappop(self._heap)[2]
        owner, timer.owner = timer.owner, None
        return owner, timer.event
