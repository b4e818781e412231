"""How many contacts there are. Part of usrloc.

Nobody counts them as they come and go, which would cost each REGISTER. They are counted when somebody asks: few at once, many
piece by piece beside the messages; until that is done the number of before is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from polykemi.modules.base import Services

AT_ONCE: Final = 1000  # AoRs of a table
_PAUSE: Final = 0.005  # seconds between two pieces


class ContactCount:
    """The contacts of one table."""

    def __init__(self, services: Services, table: str) -> None:
        self._services, self._table = services, table
        self._walk: Iterator[int] | None = None
        self._so_far = 0
        self._number: int | None = None  # when it was counted last
        self.due: float | None = None  # when the next piece is counted, seconds since the epoch

    def number(self) -> int:
        """Return how many there are: now, or when they were counted last; the first time, of many, how many AoRs."""
        location = self._services.location
        aors = location.count(self._table)
        if aors <= AT_ONCE:
            return sum(location.sizes(self._table))
        if self._walk is None:
            self._walk, self._so_far, self.due = location.sizes(self._table), 0, 0.0
        return aors if self._number is None else self._number

    def run(self, now: float) -> None:
        """Count a piece if it is time."""
        if self._walk is None or self.due is None or now < self.due:
            return
        piece = next(self._walk, None)
        if piece is None:
            self._number, self._walk, self.due = self._so_far, None, None
        else:
            self._so_far += piece
            self.due = now + _PAUSE
