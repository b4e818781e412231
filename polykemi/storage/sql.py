"""SQLite files that scripts ask by themselves (KSR.sqlops): statements as they are, answers with the names of columns.

Values are octet text, integers or None, as Kamailio's db_sqlite makes them of the declared type of a column. Text is UTF-8
in the file.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from polykemi.errors import DataError
from polykemi.kemi.binding import from_octets, to_octets

Value = int | str | None

OWN: Final = "polykemi"  # in the place of a URL: the server's own database
_SCHEME: Final = "sqlite://"
_TIMEOUT: Final = 5.0  # seconds for which one writer waits for another
_LEADING: Final = re.compile(rb"\s*([+-]?\d{1,18})")
_EPOCH: Final = 2440587.5  # the Julian day of 1970-01-01


def sqlite_path(url: str) -> str:
    """Return the path in ``sqlite:///path``, "" for ``polykemi``. Raise ValueError for what is neither."""
    path = url.removeprefix(_SCHEME)
    if url == OWN:
        return ""
    if path == url or not path:
        raise ValueError(f"expected sqlite:///path or {OWN}, got {without_password(url)!r}; there are no other drivers")
    return path


def without_password(url: str) -> str:
    """Return a database URL as it may stand in a log."""
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)


class Answer(NamedTuple):
    """What a statement gave: column names, rows, and how many rows it changed."""

    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]
    changed: int


class SqlConnection:
    """A connection to one file. Writes are durable when ``run`` returns."""

    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        self.name = name
        self._connection = connection

    @classmethod
    def open(cls, path: str, *, query_only: bool = False) -> SqlConnection:
        """Open the SQLite file ``path`` (or a URI of one), made when it is missing. Raise DataError.

        With ``query_only`` nothing can be changed; a file that is missing is one without tables, and stays missing.
        """
        is_uri = path.startswith("file:")
        if query_only and not is_uri and not Path(path).exists():
            path = ":memory:"
        try:
            connection = sqlite3.connect(
                path,
                _TIMEOUT,
                sqlite3.PARSE_DECLTYPES,
                isolation_level=None,
                check_same_thread=False,
                uri=is_uri,
            )
            if query_only:
                connection.execute("PRAGMA query_only = ON")
            connection.execute("SELECT 1 FROM sqlite_master")
        except sqlite3.Error as error:
            raise DataError(f"{path}: {error}") from None
        return cls(path, connection)

    def run(self, sql: str) -> Answer:
        """Run one statement, octet text. Raise DataError with SQLite's own words."""
        if not sql.strip(" \t\r\n;"):
            raise DataError(f"{self.name}: an empty statement")
        try:
            cursor = self._connection.execute(from_octets(sql))
            rows = [tuple(map(_value, row)) for row in cursor.fetchall()]
        except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError, ValueError) as error:
            raise DataError(f"{self.name}: {error}") from None
        names = tuple(to_octets(column[0]) for column in cursor.description or ())
        return Answer(names, rows, max(cursor.rowcount, 0))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _value(value: object) -> Value:
    if isinstance(value, int):
        return _int32(value)
    if isinstance(value, str):
        return to_octets(value)
    return value.decode("latin-1") if isinstance(value, bytes) else None  # a fraction has no type in scripts


def _int32(value: int) -> int:
    """Return what fits into Kamailio's 32 bits."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def _integer(data: bytes) -> int:
    found = _LEADING.match(data)
    return int(found[1]) if found else 0


def _time(data: bytes) -> int | None:
    """Return seconds since the epoch of a Julian day, as db_sqlite stores times, or of a written date and time (UTC)."""
    try:
        return int(86400 * (float(data) - _EPOCH) + 0.5)
    except (ValueError, OverflowError):
        pass
    try:
        return int(datetime.fromisoformat(data.decode("ascii")).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# the first word of a declared type -> what to make of the octets of a value. They hold for connections that ask for them
_CONVERTERS: Final[dict[str, Callable[[bytes], object]]] = {
    **dict.fromkeys(("INT", "INTEGER", "TINYINT", "SMALLINT", "MEDIUMINT", "SERIAL", "UNSIGNED"), _integer),
    **dict.fromkeys(("BIGINT", "BIGSERIAL", "BLOB"), _text),
    **dict.fromkeys(("REAL", "FLOAT", "DOUBLE"), lambda data: None),
    **dict.fromkeys(("DATETIME", "TIMESTAMP", "DATE", "TIME"), _time),
}
for _word, _converter in _CONVERTERS.items():
    sqlite3.register_converter(_word, _converter)
