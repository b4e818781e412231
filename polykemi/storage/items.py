"""Items of hash tables that outlive the process: in LMDB beside the contacts, or nowhere (in memory)."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import lmdb

from polykemi.storage.lmdb_file import MIN_STEP, LmdbFile

log = logging.getLogger("polykemi.storage")

FORMAT: Final = b"polykemi items 1"
_MOST_TABLES: Final = 256
_HEAD: Final = struct.Struct(">dBI")  # expiry (seconds since the epoch, inf: never), type, length of the key
_TEXT: Final = 0
_INTEGER: Final = 1
_LONGEST_KEY: Final = 400  # octets; LMDB takes 511

Item = tuple[int | str, float]  # a value, and when it expires


class Changes(NamedTuple):
    """What has become of a table: emptied first or not, then items by key, None for one that is gone."""

    emptied: bool
    items: Mapping[str, Item | None]


class ItemStore(Protocol):
    """Where tables keep their items; one process writes."""

    def load(self, table: str) -> Iterator[tuple[str, Item]]:
        """Give what is kept of ``table``, expired items included. Raise DataError."""

    def write(self, changes: Mapping[str, Changes]) -> None:
        """Make the changes of these tables durable, all or none. Raise DataError."""

    def close(self) -> None:
        """Close it; what was written stays."""


class MemoryItems:
    """An ItemStore that ends with the process."""

    def load(self, table: str) -> Iterator[tuple[str, Item]]:
        """There is nothing."""
        return iter(())

    def write(self, changes: Mapping[str, Changes]) -> None:
        """Keep nothing: the tables have it."""

    def close(self) -> None:
        """There is nothing to close."""


class LmdbItems:
    """An ItemStore on disk, opened when a table needs it.

    What was written survives the death of the process in any way; after a power failure the last seconds may be missing
    (``lmdb_file``).
    """

    def __init__(self, path: Path, map_size: int = MIN_STEP) -> None:
        """``path`` is a directory, made when it is missing; ``map_size`` octets are what the file has at first."""
        self.path = path
        self._map_size = map_size
        self._file: LmdbFile | None = None
        self._tables: dict[str, Any] = {}

    def load(self, table: str) -> Iterator[tuple[str, Item]]:
        """Give what is kept of ``table``; an item that is none is left out, with a line in the log."""
        file, handle = self._handle(table)
        try:
            with file.begin() as txn:
                for key, record in txn.cursor(handle):
                    try:
                        yield _decoded(record)
                    except (ValueError, ArithmeticError, struct.error) as error:
                        log.error("%s: table %s: %r is no item: %s", self.path, table, key, error)
        except lmdb.Error as error:
            file.fail(error)

    def write(self, changes: Mapping[str, Changes]) -> None:
        """Write one transaction and hand it to the operating system, without waiting for the disk."""
        handles = {table: self._handle(table)[1] for table in changes}

        def write() -> None:
            with file.env.begin(write=True) as txn:
                for table, (emptied, items) in changes.items():
                    handle = handles[table]
                    if emptied:
                        txn.drop(handle, delete=False)
                    for key, item in items.items():
                        if item is None:
                            txn.delete(_key(key), db=handle)
                        else:
                            txn.put(_key(key), _encoded(key, item), db=handle)

        file = self._opened()
        file.retrying(write)

    def close(self) -> None:
        """Wait for the disk and close."""
        if self._file is not None:
            try:
                self._file.sync()
            finally:
                self._file.close()
                self._file = None

    def _opened(self) -> LmdbFile:
        if self._file is None:
            file = LmdbFile(self.path, self._map_size, _MOST_TABLES + 1, "store of items")
            try:
                file.claim(FORMAT)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file

    def _handle(self, table: str) -> tuple[LmdbFile, Any]:
        file = self._opened()
        handle = self._tables.get(table)
        if handle is None:
            name = b":" + table.encode("latin-1", "replace")
            handle = self._tables[table] = file.retrying(lambda: file.env.open_db(name))
        return file, handle


def _decoded(record: bytes) -> tuple[str, Item]:
    expires, kind, length = _HEAD.unpack_from(record)
    begin = _HEAD.size + length
    text = record[begin:].decode("latin-1")
    return record[_HEAD.size : begin].decode("latin-1"), (int(text) if kind == _INTEGER else text, expires)


def _key(key: str) -> bytes:
    """Return what LMDB files a key under, which is neither empty nor too long; the record has the key itself."""
    octets = key.encode("latin-1", "replace")
    return b":" + octets if len(octets) <= _LONGEST_KEY else b"#" + sha256(octets).digest()


def _encoded(key: str, item: Item) -> bytes:
    value, expires = item
    octets = key.encode("latin-1", "replace")
    kind = _INTEGER if isinstance(value, int) else _TEXT
    return _HEAD.pack(expires, kind, len(octets)) + octets + str(value).encode("latin-1", "replace")
