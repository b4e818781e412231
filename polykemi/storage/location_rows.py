"""Bindings as rows of Kamailio's ``location`` table in SQLite: what its usrloc module writes, and its tools read.

Text is octets, in the file as they are. Times are Julian days, as db_sqlite stores them, or with ``expires_type`` 1
seconds since the epoch; a written date and time (UTC) is read too.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from polykemi.errors import DataError
from polykemi.storage.location import MAX_AOR, MEMORY_ONLY, Binding
from polykemi.storage.tables import LOCATION, LOCATION_INDEXES

log = logging.getLogger("polykemi.storage")

_TIMEOUT: Final = 0.5  # seconds for which one writer waits for another; all stands still meanwhile
_EPOCH: Final = 2440587.5  # the Julian day of 1970-01-01
_DAY: Final = 86400.0
_ALL_METHODS: Final = 0xFFFFFFFF  # NULL in the table

_TEXTS: Final = (
    "ruid",
    "username",
    "domain",
    "contact",
    "received",
    "path",
    "callid",
    "user_agent",
    "socket",
    "instance",
)
_NUMBERS: Final = ("expires", "q", "cseq", "last_modified", "flags", "cflags", "methods", "reg_id", "connection_id")
_COLUMNS: Final = (*_TEXTS, *_NUMBERS)
_READ: Final = ", ".join(_COLUMNS)
_PAGE: Final = 256  # AoRs


class LocationRows:
    """The location tables of one SQLite file. Raise DataError with SQLite's own words."""

    def __init__(self, place: str, tables: Iterable[str], *, use_domain: bool = False, expires_type: int = 0) -> None:
        """Open ``place`` (a path, or a URI of SQLite's) and make the tables that are missing: ``made``."""
        self.name = place
        self._use_domain = use_domain
        self._in_seconds = expires_type == 1
        self._permanent = self._stored(0.0)
        try:
            self._connection = sqlite3.connect(
                place, _TIMEOUT, isolation_level=None, check_same_thread=False, uri=place.startswith("file:")
            )
        except sqlite3.Error as error:
            raise DataError(f"{place}: {error}") from None
        try:
            self._connection.text_factory = lambda octets: octets.decode("latin-1")
            self._make(tuple(tables))
        except BaseException:
            self._connection.close()
            raise

    def _make(self, tables: tuple[str, ...]) -> None:
        execute = self._run
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")  # a commit is the operating system's: it survives kill -9, as in LMDB
        there = {name for (name,) in execute("SELECT name FROM sqlite_master")}
        version, columns = LOCATION
        if "version" in there:
            for table, found in execute("SELECT table_name, table_version FROM version"):
                if table in tables and found != version:
                    raise DataError(f"{self.name}: table {table} has version {found}, expected {version}")
        self.made = frozenset(tables) - there
        if not self.made:
            return
        execute("BEGIN IMMEDIATE")
        execute(
            "CREATE TABLE IF NOT EXISTS version (table_name VARCHAR(32) PRIMARY KEY NOT NULL, table_version INTEGER NOT NULL)"
        )
        for table in tables:
            execute(f"CREATE TABLE IF NOT EXISTS [{table}] ({columns})")
            execute("INSERT OR REPLACE INTO version VALUES (?, ?)", (table, version))
            for name, key in LOCATION_INDEXES.items():
                execute(f"CREATE INDEX IF NOT EXISTS [{table}_{name}] ON [{table}] ({key})")
        execute("COMMIT")

    def _run(self, sql: str, params: Iterable[Any] = ()) -> list[Any]:
        try:
            return self._connection.execute(sql, tuple(params)).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise DataError(f"{self.name}: {error}") from None

    # ---- reading
    def get(self, table: str, aor: str) -> list[Binding]:
        """Return the bindings of ``aor``, the oldest row first."""
        where, key = self._key(aor)
        return [
            self._binding(row) for row in self._run(f"SELECT {_READ} FROM [{table}] WHERE {where} ORDER BY id", key)
        ]

    def load(self, table: str) -> Iterator[tuple[str, list[Binding]]]:
        """Iterate over (AoR, bindings) of the whole table, which is not to be written meanwhile. What is no row is skipped."""
        try:
            cursor = self._connection.execute(f"SELECT {_READ} FROM [{table}] ORDER BY username, domain, id")
            for (user, domain), rows in itertools.groupby(cursor, key=lambda row: row[1:3]):
                aor = self._aor(user, domain)
                if 0 < len(aor) <= MAX_AOR:
                    yield aor, [self._binding(row) for row in rows if row[3]]
                else:
                    log.warning(
                        "%s: a row of %s with username %.60r and domain %.60r is nobody's",
                        self.name,
                        table,
                        user,
                        domain,
                    )
        except sqlite3.Error as error:
            raise DataError(f"{self.name}: {error}") from None

    def aors(self, table: str) -> Iterator[str]:
        """Iterate over all AoRs, some hundred at a time: they may be written meanwhile."""
        columns = "username, domain" if self._use_domain else "username"
        marks = "(CAST(? AS TEXT), CAST(? AS TEXT))" if self._use_domain else "CAST(? AS TEXT)"
        last: tuple[str, ...] = ("", "") if self._use_domain else ("",)
        sql = f"SELECT DISTINCT {columns} FROM [{table}] WHERE ({columns}) > {marks} ORDER BY {columns} LIMIT {_PAGE}"
        while rows := self._run(sql, map(_octets, last)):
            for row in rows:
                yield "@".join(row)
            last = rows[-1]

    def expired(self, table: str, now: float, limit: int) -> list[str]:
        """Return up to ``limit`` AoRs that have a binding whose expiry is not after ``now``, the earliest first."""
        sql = f"SELECT username, domain FROM [{table}] WHERE expires <= ? AND expires <> ? ORDER BY expires LIMIT ?"
        rows = self._run(sql, (self._stored(now), self._permanent, limit))
        return list(dict.fromkeys(self._aor(user, domain) for user, domain in rows))

    def next_expiry(self, table: str) -> float | None:
        """Return when the first binding expires, None when none ever will."""
        ((first,),) = self._run(f"SELECT min(expires) FROM [{table}] WHERE expires <> ?", (self._permanent,))
        return None if first is None else self._seconds(first)

    def count(self, table: str) -> int:
        """Return how many rows there are."""
        return int(self._run(f"SELECT count(*) FROM [{table}]")[0][0])

    # ---- writing
    def write(self, changes: Mapping[tuple[str, str], list[Binding]]) -> None:
        """Put the bindings of each (table, AoR) in the place of its rows, all or none. Durable when it returns."""
        self._run("BEGIN IMMEDIATE")
        try:
            for (table, aor), bindings in changes.items():
                self._write(table, aor, [b for b in bindings if not b.flags & MEMORY_ONLY])
            self._run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _write(self, table: str, aor: str, bindings: list[Binding]) -> None:
        where, key = self._key(aor)
        ruids = [_octets(b.ruid) for b in bindings]
        others = f" AND ruid NOT IN ({', '.join(['CAST(? AS TEXT)'] * len(ruids))})" if ruids else ""
        self._run(f"DELETE FROM [{table}] WHERE {where}{others}", [*key, *ruids])
        for binding in bindings:
            self._run(_upsert(table), self._row(aor, binding))

    def _row(self, aor: str, b: Binding) -> list[Any]:
        user, at, domain = aor.partition("@") if self._use_domain else (aor, "", "")
        texts: list[str | None] = [b.ruid, user, domain if at else None, b.uri, b.received or None, b.path or None]
        texts += [b.call_id, b.user_agent, b.listener or None, b.instance or None]
        methods = None if b.methods == _ALL_METHODS else b.methods
        q = -1.0 if b.q < 0 else b.q / 1000
        numbers = (
            self._stored(b.expires),
            q,
            b.cseq,
            self._stored(b.modified),
            b.flags,
            b.bflags,
            methods,
            b.reg_id,
            -1,
        )
        return [*(None if text is None else _octets(text) for text in texts), *numbers]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # ---- what stands in a row
    def _key(self, aor: str) -> tuple[str, list[Any]]:
        """Return what finds the rows of an AoR, and its parameters."""
        user, _, domain = aor.partition("@")
        if self._use_domain:
            return "username = CAST(? AS TEXT) AND domain = CAST(? AS TEXT)", [_octets(user), _octets(domain)]
        return "username = CAST(? AS TEXT)", [_octets(aor)]

    def _aor(self, user: str, domain: str | None) -> str:
        if not self._use_domain:
            return user
        return f"{user}@{domain}" if domain else ""

    def _binding(self, row: tuple[Any, ...]) -> Binding:
        ruid, _, _, uri, received, path, call_id, user_agent, listener, instance = row[:10]
        expires, q, cseq, modified, flags, bflags, methods, reg_id, _ = row[10:]
        return Binding(
            uri,
            self._seconds(expires),
            -1 if q is None or q < 0 else round(float(q) * 1000),
            call_id or "",
            int(cseq or 0),
            user_agent or "",
            received or "",
            path or "",
            listener or "",
            _ALL_METHODS if methods is None else int(methods) & _ALL_METHODS,
            int(flags or 0),
            int(bflags or 0),
            instance or "",
            int(reg_id or 0),
            ruid or "",
            self._seconds(modified),
        )

    def _stored(self, seconds: float) -> float:
        return float(round(seconds)) if self._in_seconds else seconds / _DAY + _EPOCH

    def _seconds(self, stored: Any) -> float:
        """Return seconds since the epoch, 0 for what is no time."""
        if isinstance(stored, str):
            try:
                return datetime.fromisoformat(stored).replace(tzinfo=UTC).timestamp()
            except ValueError:
                return 0.0
        if not isinstance(stored, int | float):
            return 0.0
        return float(stored) if self._in_seconds else round((stored - _EPOCH) * _DAY, 3)


def _octets(text: str) -> str | bytes:
    """Return ``text`` as a parameter of SQLite, which the statement casts to text: its octets are not looked at."""
    return text if text.isascii() else text.encode("latin-1")


def _upsert(table: str) -> str:
    values = ["CAST(? AS TEXT)"] * len(_TEXTS) + ["?"] * len(_NUMBERS)
    updates = ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS if column != "ruid")
    insertion = f"INSERT INTO [{table}] ({_READ}) VALUES ({', '.join(values)})"
    return f"{insertion} ON CONFLICT (ruid) DO UPDATE SET {updates}"
