"""Times in classes: how many were at most as long as each of a few bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator


class Histogram:
    """Counts times; ``buckets`` has one more than ``bounds``, for what is longer than the last."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """``bounds``: seconds, rising."""
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count a time."""
        self.sum += seconds
        self.buckets[bisect_left(self.bounds, seconds)] += 1

    def reset(self) -> None:
        """Begin anew."""
        self.buckets = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def up_to(self) -> Iterator[tuple[float, int]]:
        """Give for each bound, and for infinity, how many times were at most as long."""
        total = 0
        for bound, number in zip((*self.bounds, float("inf")), self.buckets, strict=True):
            total += number
            yield bound, total
