"""Bindings that are kept in SQL, as usrloc's ``db_mode`` says: besides the store that the server works with, or there alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from polykemi.errors import DataError
from polykemi.storage.location import MOST_STAGED, Binding, LocationStore, check_aor
from polykemi.storage.location_rows import LocationRows

WRITE_THROUGH: Final = 1  # db_mode
WRITE_BACK: Final = 2
READ_ONLY: Final = 4

_BATCH: Final = 1000  # AoRs in one transaction when a table is loaded
_BEHIND: Final = "#sql"  # added to a table's name: the AoRs whose rows are behind, for write-back


class MirroredLocation:
    """A LocationStore that is kept in step with rows: ``store`` answers all questions.

    Write-through: the rows are written in each ``commit``, before those of ``store``. Write-back: ``flush`` writes them;
    which are behind is kept in ``store`` itself, so that nothing is lost when the process is killed. Read-only: never.
    """

    def __init__(self, store: LocationStore, rows: LocationRows, mode: int) -> None:
        self._store, self._rows, self._mode = store, rows, mode
        self._changed: dict[tuple[str, str], None] = {}

    def load(self, table: str) -> int:
        """Put the rows of ``table`` in the place of what the store has, and return how many AoRs they have.

        A table that was made just now gets what the store has: contacts are not lost when SQL comes in.
        """
        store, number = self._store, 0
        if self._mode != READ_ONLY:
            if table in self._rows.made:
                self._fill(table)
            while self.flush(table, _BATCH):  # a process that was killed has left them
                pass
        store.clear(table)
        for aor, bindings in self._rows.load(table):
            store.put(table, aor, bindings)
            number += 1
            if number % _BATCH == 0:
                store.commit()
        store.commit()
        return number

    def _fill(self, table: str) -> None:
        """Write rows for all that the store has."""
        items = self._store.items(table)
        while batch := {(table, aor): bindings for aor, bindings in itertools.islice(items, _BATCH)}:
            self._rows.write(batch)

    def flush(self, table: str, limit: int) -> int:
        """Write the rows of up to ``limit`` AoRs that are behind, and return how many there were. Raise DataError."""
        store, behind = self._store, table + _BEHIND
        aors = [aor for aor, _ in itertools.islice(store.items(behind), limit)]
        if aors:
            self._rows.write({(table, aor): store.get(table, aor) for aor in aors})
            for aor in aors:
                store.put(behind, aor, [])
            store.commit()
        return len(aors)

    # ---- LocationStore
    def get(self, table: str, aor: str) -> list[Binding]:
        """Return the bindings of ``aor``."""
        return self._store.get(table, aor)

    def put(self, table: str, aor: str, bindings: list[Binding]) -> None:
        """Stage the bindings of ``aor``."""
        self._store.put(table, aor, bindings)
        if self._mode == WRITE_THROUGH:
            self._changed[table, aor] = None
        elif self._mode == WRITE_BACK:
            self._store.put(table + _BEHIND, aor, [Binding("", 0)])

    def commit(self) -> None:
        """Make what was staged durable: in SQL first, where it has to be there at once."""
        if self._changed:
            try:
                self._rows.write({(table, aor): self._store.get(table, aor) for table, aor in self._changed})
            except DataError:  # nobody has been told that what is staged is there
                if len(self._changed) > MOST_STAGED:
                    self.discard()
                raise
            self._changed.clear()
        self._store.commit()

    def discard(self) -> None:
        """Forget what is staged."""
        self._changed.clear()
        self._store.discard()

    def items(self, table: str) -> Iterator[tuple[str, list[Binding]]]:
        """Iterate over (AoR, bindings)."""
        return self._store.items(table)

    def expired(self, table: str, now: float, limit: int) -> list[str]:
        """Return AoRs that have expired bindings."""
        return self._store.expired(table, now, limit)

    def next_expiry(self, table: str) -> float | None:
        """Return the time before which nothing expires."""
        return self._store.next_expiry(table)

    def count(self, table: str) -> int:
        """Return about how many AoRs there are."""
        return self._store.count(table)

    def sizes(self, table: str) -> Iterator[int]:
        """Give how many bindings there are, piece by piece."""
        return self._store.sizes(table)

    def clear(self, table: str) -> None:
        """Remove all bindings from the store; the rows stay."""
        self._store.clear(table)

    def close(self) -> None:
        """Commit and close both."""
        try:
            self.commit()
        finally:
            self._rows.close()
            self._store.close()


class SqlLocation:
    """A LocationStore that has its bindings in SQL alone: each question is a query (``db_mode`` 3)."""

    def __init__(self, rows: LocationRows) -> None:
        self._rows = rows
        self._staged: dict[tuple[str, str], list[Binding]] = {}

    def get(self, table: str, aor: str) -> list[Binding]:
        """Return the bindings of ``aor``, staged ones first of all."""
        staged = self._staged.get((table, aor))
        return self._rows.get(table, aor) if staged is None else [b.copy() for b in staged]

    def put(self, table: str, aor: str, bindings: list[Binding]) -> None:
        """Stage the bindings of ``aor``."""
        check_aor(aor)
        self._staged[table, aor] = [b.copy() for b in bindings]

    def commit(self) -> None:
        """Write what is staged."""
        if self._staged:
            try:
                self._rows.write(self._staged)
            except DataError:  # nobody has been told that what is staged is there
                if len(self._staged) > MOST_STAGED:
                    self.discard()
                raise
            self._staged.clear()

    def discard(self) -> None:
        """Forget what is staged."""
        self._staged.clear()

    def items(self, table: str) -> Iterator[tuple[str, list[Binding]]]:
        """Iterate over what is there, some hundred AoRs at a time."""
        for aor in self._rows.aors(table):
            bindings = self.get(table, aor)
            if bindings:
                yield aor, bindings

    def expired(self, table: str, now: float, limit: int) -> list[str]:
        """Return AoRs that have expired bindings, and none that have been staged since."""
        return [aor for aor in self._rows.expired(table, now, limit) if (table, aor) not in self._staged]

    def next_expiry(self, table: str) -> float | None:
        """Return when the first binding expires."""
        return self._rows.next_expiry(table)

    def count(self, table: str) -> int:
        """Return how many bindings there are."""
        return self._rows.count(table)

    def sizes(self, table: str) -> Iterator[int]:
        """Give how many bindings there are."""
        yield self._rows.count(table)

    def clear(self, table: str) -> None:
        """Do nothing: what others have written is not ours to remove."""

    def close(self) -> None:
        """Commit and close."""
        try:
            self.commit()
        finally:
            self._rows.close()
