"""Bindings in LMDB: shared by all processes of a machine, with no Python object per contact.

Each table is two named databases: ``TABLE`` holds AoR -> index time and bindings, ``TABLE#expires`` is ordered by
index time and AoR. There is one index entry for each AoR, and its time is never later than the AoR's first expiry. A
refresh moves the expiry on and leaves the entry where it is, so it costs no index write; ``expired`` moves entries that
turn out to be early.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple, NoReturn

import lmdb

from polykemi.errors import DataError
from polykemi.storage.lmdb_file import MIN_STEP, LmdbFile
from polykemi.storage.location import (
    MAX_AOR,
    MOST_STAGED,
    NEVER,
    Binding,
    check_aor,
    decode,
    earliest_expiry,
    encode,
    number_of,
)

FORMAT: Final = b"polykemi location 1"
_MAX_TABLES: Final = 64
_TIME: Final = Struct(">d")  # times after 1970 sort as their octets do
_NEVER: Final = _TIME.pack(NEVER)

# A write that waits for the commit: the first expiry, the record (None: a removal), and whether the index entry goes to
# that expiry even if an earlier one would do.
_Staged = tuple[bytes, bytes | None, bool]
_REMOVAL: Final[_Staged] = (_NEVER, None, False)


class _Table(NamedTuple):
    """The handles of a table's two databases."""

    rows: Any
    index: Any


class LmdbLocation:
    """A LocationStore on disk.

    ``commit`` hands one transaction to the operating system without waiting for the disk: what was committed survives
    the death of the process in any way (``kill -9`` included). After a power failure or a crash of the operating system
    the last seconds may be missing, and in the worst case the file cannot be opened any more (DataError); it can be
    removed then, for phones register again. ``sync`` waits for the disk. When the disk is full, ``commit`` raises
    DataError and what was staged stays so, but no more than MOST_STAGED.

    ``map_size`` (octets) is what the file has at first; it grows when it is full.
    """

    def __init__(self, path: str | Path, map_size: int = MIN_STEP) -> None:
        self.path = Path(path)
        self._staged: dict[str, dict[str, _Staged]] = {}  # tables with nothing staged are not in it
        self._tables: dict[str, _Table] = {}
        self._file = LmdbFile(self.path, map_size, 2 * _MAX_TABLES + 1)
        self._is_open = True
        try:
            self._file.claim(FORMAT)
        except BaseException:
            self._file.close()
            raise

    # ---- reading
    def get(self, table: str, aor: str) -> list[Binding]:
        """Return the bindings of ``aor``, staged ones first of all."""
        staged = self._staged.get(table)
        if staged is not None and aor in staged:
            record = staged[aor][1]
            return decode(record) if record is not None else []
        if not 0 < len(aor) <= MAX_AOR:
            return []
        handles = self._tables.get(table) or self._table(table)
        try:
            reader = self._file.reader or self._file.read()
            data: bytes | None = reader.get(aor.encode("latin-1"), db=handles.rows)
        except lmdb.Error as error:
            self._file.fail(error)
        if data is None:
            return []
        try:
            return decode(data, 8)
        except DataError as error:
            self._damaged(aor, error)

    def items(self, table: str) -> Iterator[tuple[str, list[Binding]]]:
        """Iterate over what is there, some hundred AoRs at a time: no transaction stays open meanwhile."""
        handles = self._table(table)
        staged = dict(self._staged.get(table, {}))
        start: bytes | None = b""
        while start is not None:
            rows, start = self._rows(handles, start)
            for key, data in rows:
                aor = key.decode("latin-1")
                if aor not in staged:
                    yield aor, self._decode(data, aor)
        for aor, (_, record, _) in staged.items():
            if record is not None:
                yield aor, decode(record)

    def _rows(self, handles: _Table, start: bytes, limit: int = 256) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Return the rows from key ``start`` on, and the key to go on with."""
        rows: list[tuple[bytes, bytes]] = []
        with self._file.begin() as txn:
            cursor = txn.cursor(handles.rows)
            if not (cursor.set_range(start) if start else cursor.first()):
                return rows, None
            for key, data in cursor:
                if len(rows) == limit:
                    return rows, key
                rows.append((key, data))
        return rows, None

    def expired(self, table: str, now: float, limit: int) -> list[str]:
        """Look at no more than four index entries for each AoR asked for, and stage their moves where they are early."""
        handles = self._table(table)
        staged = self._staged.get(table, {})
        early: dict[str, _Staged] = {}
        until = _TIME.pack(now)
        due = [
            (expires, aor) for aor, (expires, record, _) in staged.items() if record is not None and expires <= until
        ]
        try:
            with self._file.begin() as txn:
                for n, key in enumerate(txn.cursor(handles.index).iternext(values=False)):
                    if key[:8] > until or n >= 4 * limit:
                        break
                    aor = key[8:].decode("latin-1")
                    if aor in staged:
                        continue
                    data = txn.get(key[8:], db=handles.rows)
                    expires = _TIME.pack(earliest_expiry(self._decode(data or b"", aor)))
                    if expires <= until:
                        due.append((expires, aor))
                    else:
                        early[aor] = (expires, data[8:] if data else None, True)
        except lmdb.Error as error:
            self._file.fail(error)
        if early:
            self._staged.setdefault(table, {}).update(early)
        due.sort()
        return [aor for _, aor in due[:limit]]

    def next_expiry(self, table: str) -> float | None:
        """Return the time of the first index entry, or of an earlier staged binding."""
        handles = self._table(table)
        times = [expires for expires, record, _ in self._staged.get(table, {}).values() if record is not None]
        with self._file.begin() as txn:
            cursor = txn.cursor(handles.index)
            if cursor.first():
                times.append(cursor.key()[:8])
        first = min(times, default=_NEVER)
        return None if first == _NEVER else float(_TIME.unpack(first)[0])

    def count(self, table: str) -> int:
        """Return how many AoRs have bindings, but for what is staged."""
        rows = self._table(table).rows
        with self._file.begin() as txn:
            return int(txn.stat(rows)["entries"])

    def sizes(self, table: str) -> Iterator[int]:
        """Give how many bindings there are, some hundred AoRs at a time, but for what is staged."""
        handles = self._table(table)
        start: bytes | None = b""
        while start is not None:
            rows, start = self._rows(handles, start)
            yield sum([number_of(data, 8) for _, data in rows])

    # ---- writing
    def put(self, table: str, aor: str, bindings: list[Binding]) -> None:
        """Stage the bindings of ``aor``, as they are now."""
        check_aor(aor)
        staged = self._staged.get(table)
        if staged is None:
            self._tables.get(table) or self._table(table)
            staged = self._staged[table] = {}
        staged[aor] = (_TIME.pack(earliest_expiry(bindings)), encode(bindings), False) if bindings else _REMOVAL

    def commit(self) -> None:
        """Write what is staged. The next read sees what other processes have committed."""
        self._file.end_reading()
        if self._staged:
            try:
                self._file.retrying(self._write)
            except DataError:  # nobody has been told that what is staged is there
                if sum(map(len, self._staged.values())) > MOST_STAGED:
                    self.discard()
                raise
            self._staged.clear()

    def discard(self) -> None:
        """Forget what is staged."""
        self._staged.clear()

    def _write(self) -> None:
        with self._file.env.begin(write=True) as txn:
            for table, staged in self._staged.items():
                rows, index = self._tables[table]
                for aor, (expires, record, exact) in staged.items():
                    key = aor.encode("latin-1")
                    old = txn.get(key, db=rows)
                    entry = old[:8] if old is not None else _NEVER
                    if record is None:
                        txn.delete(key, db=rows)
                        txn.delete(entry + key, db=index)
                        continue
                    if entry > expires or exact:
                        if entry != _NEVER:
                            txn.delete(entry + key, db=index)
                        if expires != _NEVER:
                            txn.put(expires + key, b"", db=index)
                        entry = expires
                    txn.put(key, entry + record, db=rows)

    def clear(self, table: str) -> None:
        """Remove all bindings of ``table``, at once."""
        self._staged.pop(table, None)
        handles = self._table(table)
        self._file.end_reading()

        def drop() -> None:
            with self._file.env.begin(write=True) as txn:
                for database in handles:
                    txn.drop(database, delete=False)

        self._file.retrying(drop)

    def sync(self) -> None:
        """Wait until all that is committed stands on the disk."""
        self._file.sync()

    def close(self) -> None:
        """Commit, wait for the disk and close; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            try:
                self.commit()
                self.sync()
            finally:
                self._file.close()

    # ---- tables
    def _table(self, table: str) -> _Table:
        """Return the handles of ``table``, which is made when it does not exist."""
        handles = self._tables.get(table)
        if handles is None:
            file = self._file
            file.end_reading()  # its snapshot is older than the new databases
            name = table.encode("latin-1", "replace")

            def make() -> _Table:
                return _Table(file.env.open_db(name), file.env.open_db(name + b"#expires"))

            handles = self._tables[table] = file.retrying(make)
        return handles

    def _decode(self, data: bytes, aor: str) -> list[Binding]:
        try:
            return decode(data, 8)
        except DataError as error:
            self._damaged(aor, error)

    def _damaged(self, aor: str, error: DataError) -> NoReturn:
        raise DataError(f"{self.path}: {aor}: {error}") from None
