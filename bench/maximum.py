"""The highest rate that a server keeps with under 0.1 % of failures: up in steps until one fails, then halve the gap."""

from __future__ import annotations

from collections.abc import Callable

GROWTH = 1.25
PRECISION = 1.05  # how near the best rate that was kept is to the lowest that was not
LEAST = 20.0  # calls a second


def highest_rate(start: float, keeps: Callable[[float], bool]) -> float:
    """Return the highest rate that is kept, 0 when none is. A rate has failed when it failed twice: one may be noise."""
    good, bad, rate = 0.0, 0.0, start
    while not bad or bad > good * PRECISION:
        if keeps(rate) or keeps(rate):
            good = rate
            rate = (good + bad) / 2 if bad else rate * GROWTH
        else:
            bad = rate
            rate = (good + bad) / 2 if good else rate / GROWTH
            if rate < LEAST:
                return 0.0
    return good
