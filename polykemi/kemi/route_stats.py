"""How often each route block ran and how long it took: always counted, so a run costs two reads of a clock and ``add``.

A block's time is wall time from its call to its return. It includes the blocks that ran inside of it (the branch route
of a ``t_relay``), as Kamailio's latency does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from polykemi.errors import ScriptMemory, ScriptTimeout
from polykemi.kemi.histogram import Histogram
from polykemi.kemi.route import Route

OTHERS: Final = "(others)"  # the name that all blocks beyond the limit are counted under
LIMIT: Final = 1024  # names come from scripts and may be made there

# of the histograms; not a tuple of so many floats, which mypyc has no value for
BOUNDS: Final[tuple[float, ...]] = (25e-6, 50e-6, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1.0)


class BlockStats(Histogram):
    """The counters of one route block in one engine; times are seconds."""

    __slots__ = ("callback", "engine", "errors", "kind", "max", "memory_stops", "min", "timeouts")

    def __init__(self, kind: Route, callback: str, engine: str) -> None:
        super().__init__(BOUNDS)
        self.kind, self.callback, self.engine = kind, callback, engine
        self.min, self.max = float("inf"), 0.0
        self.errors = self.timeouts = self.memory_stops = 0

    @property
    def cnt(self) -> int:
        """How many runs there were."""
        return sum(self.buckets)

    def add(self, seconds: float) -> None:
        """Count a run that took ``seconds``."""
        self.sum += seconds
        i = 0
        for bound in BOUNDS:  # mostly one of the first: sooner found in this way than by bisection
            if seconds <= bound:
                break
            i += 1
        self.buckets[i] += 1
        if seconds < self.min:
            self.min = seconds
        if seconds > self.max:
            self.max = seconds

    def reset(self) -> None:
        """Begin anew; ``min`` is infinite until the block has run. Failures stay, they are no times."""
        super().reset()
        self.min, self.max = float("inf"), 0.0

    def fail(self, error: Exception) -> None:
        """Count a run that ``error`` has ended: by its limits, or by a mistake of the script."""
        if isinstance(error, ScriptTimeout):
            self.timeouts += 1
        elif isinstance(error, ScriptMemory):
            self.memory_stops += 1
        else:
            self.errors += 1


class RouteStats:
    """The counters of all route blocks, at most ``LIMIT`` and one more for each kind and engine."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, str, str], BlockStats] = {}
        self._others: dict[tuple[int, str], BlockStats] = {}  # by kind and engine

    def of(self, kind: Route, callback: str, engine: str) -> BlockStats:
        """Return the counters of a block."""
        key = kind._value_, callback, engine  # the hash of an enum is a Python call
        block = self._blocks.get(key)
        if block is not None:
            return block
        if len(self._blocks) < LIMIT:
            block = self._blocks[key] = BlockStats(kind, callback, engine)
            return block
        others = self._others.get((kind._value_, engine))
        if others is None:
            others = self._others[kind._value_, engine] = BlockStats(kind, OTHERS, engine)
        return others

    def __iter__(self) -> Iterator[BlockStats]:
        """Give the blocks that have run, in the order in which they were first asked for."""
        return (block for table in (self._blocks, self._others) for block in table.values() if block.cnt)

    def reset(self) -> None:
        """Set all counters to zero."""
        for table in (self._blocks, self._others):
            for block in table.values():
                block.reset()
