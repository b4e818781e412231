"""What is counted, and what is worked out when somebody asks: all of Kamailio's statistics as one mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

Figures = dict[str, Callable[[], int]]


class Counted(Mapping[str, int]):
    """Counters, then figures; a name is ``group.name``."""

    def __init__(self, counters: Mapping[str, int], figures: Mapping[str, Callable[[], int]]) -> None:
        """Both may change as they like."""
        self._counters, self._figures = counters, figures

    def __getitem__(self, name: str) -> int:
        """Return what is counted, or what is worked out now. Raise KeyError."""
        number = self._counters.get(name)
        return self._figures[name]() if number is None else number

    def __iter__(self) -> Iterator[str]:
        """Give the names."""
        return chain(self._counters, self._figures)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._counters) + len(self._figures)
