"""Bindings in LMDB: shared by all processes of a machine, with no Python object per contact.

Each table is two named databases: ``TABLE`` holds AoR -> index time and bindings, ``TABLE#expires`` is ordered by
index time and AoR. There is one index entry for each AoR, and its time is never later than the AoR's first expiry. A
refresh moves the expiry on and leaves the entry where it is, so it costs no index write; ``expired`` moves entries that
turn out to be early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import lmdb

from polykemi.errors import DataError
from polykemi.storage.location import MAX_AOR, NEVER, Binding, check_aor, decode, earliest_expiry, encode

FORMAT: Final = b"polykemi location 1"
_ABOUT: Final = b"#about"  # the named database that tells whose file this is
_MAX_TABLES: Final = 64
_TIME: Final = Struct(">d")  # times after 1970 sort as their octets do
_NEVER: Final = _TIME.pack(NEVER)

T = TypeVar("T")


class _Table(NamedTuple):
    """The handles of a table's two databases."""

    rows: Any
    index: Any


class _Staged(NamedTuple):
    """A write that waits for the commit. ``data`` is None for a removal."""

    expires: bytes
    data: bytes | None
    exact: bool = False  # the index entry goes to ``expires`` even if an earlier one would do


class LmdbLocation:
    """A LocationStore on disk.

    ``commit`` hands one transaction to the operating system without waiting for the disk: what was committed survives
    the death of the process in any way (``kill -9`` included). After a power failure or a crash of the operating system
    the last seconds may be missing, and in the worst case the file cannot be opened any more (DataError); it can be
    removed then, for phones register again. ``sync`` waits for the disk.

    ``map_size`` (octets) is what the file may grow to at first; it is doubled when it is full.
    """

    def __init__(self, path: str | Path, map_size: int = 1 << 30) -> None:
        self.path = Path(path)
        self._staged: dict[str, dict[str, _Staged]] = {}
        self._tables: dict[str, _Table] = {}
        self._env = self._open(map_size)
        self._reader: Any = None  # a read transaction, kept between reads and given up by commit
        self._check_owner()

    # ---- reading
    def get(self, table: str, aor: str) -> list[Binding]:
        """Return the bindings of ``aor``, staged ones first of all."""
        staged = self._staged.get(table)
        if staged and aor in staged:
            data = staged[aor].data
            return decode(data) if data is not None else []
        if not 0 < len(aor) <= MAX_AOR:
            return []
        handles = self._tables.get(table) or self._table(table)
        try:
            data = (self._reader or self._read()).get(aor.encode("latin-1"), db=handles.rows)
        except lmdb.Error as error:
            self._fail(error)
        return self._decode(data, aor) if data is not None else []

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
        for aor, row in staged.items():
            if row.data is not None:
                yield aor, decode(row.data)

    def _rows(self, handles: _Table, start: bytes, limit: int = 256) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Return the rows from key ``start`` on, and the key to go on with."""
        rows: list[tuple[bytes, bytes]] = []
        with self._transaction() as txn:
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
        staged = self._staged.setdefault(table, {})
        until = _TIME.pack(now)
        due = [(row.expires, aor) for aor, row in staged.items() if row.data is not None and row.expires <= until]
        try:
            with self._transaction() as txn:
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
                        staged[aor] = _Staged(expires, data[8:] if data else None, exact=True)
        except lmdb.Error as error:
            self._fail(error)
        due.sort()
        return [aor for _, aor in due[:limit]]

    def next_expiry(self, table: str) -> float | None:
        """Return the time of the first index entry, or of an earlier staged binding."""
        handles = self._table(table)
        times = [row.expires for row in self._staged.get(table, {}).values() if row.data is not None]
        with self._transaction() as txn:
            cursor = txn.cursor(handles.index)
            if cursor.first():
                times.append(cursor.key()[:8])
        first = min(times, default=_NEVER)
        return None if first == _NEVER else float(_TIME.unpack(first)[0])

    # ---- writing
    def put(self, table: str, aor: str, bindings: list[Binding]) -> None:
        """Stage the bindings of ``aor``, as they are now."""
        check_aor(aor)
        staged = self._staged.get(table)
        if staged is None:
            staged = self._staged[table] = {}
        if bindings:
            staged[aor] = _Staged(_TIME.pack(earliest_expiry(bindings)), encode(bindings))
        else:
            staged[aor] = _Staged(_NEVER, None)

    def commit(self) -> None:
        """Write what is staged. The next read sees what other processes have committed."""
        self._end_reading()
        for table, staged in self._staged.items():
            if staged:
                self._table(table)
        if any(self._staged.values()):
            self._retrying(self._write)
            self._staged.clear()

    def _write(self) -> None:
        with self._env.begin(write=True) as txn:
            for table, staged in self._staged.items():
                if not staged:
                    continue
                rows, index = self._tables[table]
                for aor, (expires, data, exact) in staged.items():
                    key = aor.encode("latin-1")
                    old = txn.get(key, db=rows)
                    entry = old[:8] if old is not None else _NEVER
                    if data is None:
                        txn.delete(key, db=rows)
                        txn.delete(entry + key, db=index)
                        continue
                    if entry > expires or exact:
                        if entry != _NEVER:
                            txn.delete(entry + key, db=index)
                        if expires != _NEVER:
                            txn.put(expires + key, b"", db=index)
                        entry = expires
                    txn.put(key, entry + data, db=rows)

    def sync(self) -> None:
        """Wait until all that is committed stands on the disk."""
        self._env.sync(force=True)

    def close(self) -> None:
        """Commit, wait for the disk and close; a second call does nothing."""
        if self._env is not None:
            self.commit()
            self.sync()
            self._env.close()
            self._env = None

    # ---- the environment
    def _open(self, map_size: int) -> Any:
        file = self.path / "data.mdb"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            size = file.stat().st_size if file.exists() else 0
            env = lmdb.open(
                str(self.path),
                map_size=max(map_size, size),
                max_dbs=2 * _MAX_TABLES + 1,
                sync=False,
                metasync=False,
                lock=True,
            )
            env.reader_check()  # a process that was killed while it read would keep old pages for ever
        except (lmdb.Error, OSError) as error:
            raise DataError(f"{self.path}: cannot be opened as a location store: {error}") from None
        # pages that the file does not have would be a SIGBUS when they are read
        if size and (env.info()["last_pgno"] + 1) * env.stat()["psize"] > size:
            env.close()
            raise DataError(f"{file}: cut off after {size} octets")
        return env

    def _check_owner(self) -> None:
        try:
            with self._env.begin() as txn:
                is_new = not txn.stat()["entries"]
            if is_new:
                about = self._env.open_db(_ABOUT)
                with self._env.begin(write=True) as txn:
                    txn.put(b"format", FORMAT, db=about)
                return
            about = self._env.open_db(_ABOUT, create=False)
            with self._env.begin() as txn:
                found = txn.get(b"format", db=about)
        except lmdb.NotFoundError:
            found = None
        except lmdb.Error as error:
            self._fail(error)
        if found != FORMAT:
            self._env.close()
            raise DataError(f"{self.path}: not a location store of this version (expected {FORMAT.decode()!r})")

    def _table(self, table: str) -> _Table:
        """Return the handles of ``table``, which is made when it does not exist."""
        handles = self._tables.get(table)
        if handles is None:
            self._end_reading()  # its snapshot is older than the new databases
            name = table.encode("latin-1", "replace")

            def make() -> _Table:
                return _Table(self._env.open_db(name), self._env.open_db(name + b"#expires"))

            handles = self._tables[table] = self._retrying(make)
        return handles

    def _read(self) -> Any:
        self._reader = self._transaction()
        return self._reader

    def _end_reading(self) -> None:
        if self._reader is not None:
            self._reader.abort()
            self._reader = None

    def _transaction(self) -> Any:
        try:
            return self._env.begin()
        except lmdb.MapResizedError:  # another process has grown the file
            self._end_reading()
            self._env.set_mapsize(0)
            return self._env.begin()

    def _retrying(self, action: Callable[[], T]) -> T:
        """Run ``action``, as often as it needs a larger map. No read transaction is open then."""
        while True:
            try:
                return action()
            except lmdb.MapFullError:
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                self._env.set_mapsize(0)
            except lmdb.Error as error:
                self._fail(error)

    def _decode(self, data: bytes, aor: str) -> list[Binding]:
        try:
            return decode(data, 8)
        except DataError as error:
            raise DataError(f"{self.path}: {aor}: {error}") from None

    def _fail(self, error: Exception) -> NoReturn:
        raise DataError(f"{self.path}: {error}") from None
