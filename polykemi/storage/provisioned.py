"""Provisioned data in SQLite: what an operator enters and the server reads, in Kamailio's table layout.

Text given and returned is octets, one character each, as everywhere inside; in the file it is UTF-8. So a user that was
entered as ``jürgen`` is found by the octets of a SIP user part.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from polykemi.errors import DataError
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.storage.sql import SqlConnection
from polykemi.storage.tables import INDEXES, TABLES

FILE_NAME: Final = "polykemi.sqlite"
IN_MEMORY: Final = ":memory:"
COLUMNS: Final = ("username", "domain", "password")  # of an imported CSV

SNAPSHOT: Final = 0.1  # seconds
_TIMEOUT: Final = 5000  # milliseconds for which one writer waits for another
_MAP: Final = 1 << 40  # octets of the file that are read through the memory map; SQLite has a limit of its own (2 GiB)

_UPSERT: Final = """INSERT INTO subscriber (username, domain, password, ha1, ha1b) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (username, domain) DO UPDATE
    SET domain = excluded.domain, password = excluded.password, ha1 = excluded.ha1, ha1b = excluded.ha1b"""

_serials: Final = itertools.count()  # of the databases in memory
_IDENTIFIER: Final = re.compile("[A-Za-z0-9_]+")
_NOT_IN_NAMES: Final = re.compile("[\\x00-\\x20\\x7f:@]")  # ":" separates in digests, "@" in addresses
_NOT_IN_PASSWORDS: Final = re.compile("[\\x00-\\x1f\\x7f]")


class Subscriber(NamedTuple):
    """Who may authenticate; ``domain`` is empty when there is none."""

    username: str
    domain: str

    def __str__(self) -> str:
        return f"{self.username}@{self.domain}" if self.domain else self.username


class Address(NamedTuple):
    """A row of the address table (Kamailio's permissions module); port 0 matches every port."""

    grp: int
    ip_addr: str
    mask: int
    port: int
    tag: str | None


class Database:
    """The provisioned data of one server. Writes are durable when a method returns; other processes may write too.

    ``path`` is the SQLite file, made with its folder and tables when missing; ``:memory:`` (the default) keeps all in
    memory. With ``query_only`` nothing can be changed. Raise DataError when the file cannot be used.
    """

    def __init__(self, path: Path | str = IN_MEMORY, *, query_only: bool = False) -> None:
        self.name = str(path)
        self._query_only = query_only
        # in memory too a second connection has to find the same tables
        self._place = f"file:polykemi{next(_serials)}?mode=memory&cache=shared" if path == IN_MEMORY else self.name
        self._statements: dict[tuple[str, str, str, str, bool], str] = {}
        self._seen = 0.0  # when the reader's transaction began
        try:
            if self.name != IN_MEMORY:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):  # closing the file would let go of SQLite's locks on it
                    # passwords are nobody else's business
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            self._connection = self._reader = self._connect()
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{self.name}: {getattr(error, 'strerror', None) or error}") from None
        try:
            self._create_tables()
            if self.name != IN_MEMORY:
                self._reader = self._connect()
                # else pages of a large table are copied all the time
                self._reader.execute(f"PRAGMA mmap_size = {_MAP}")
            if query_only:
                self._connection.execute("PRAGMA query_only = ON")
            # one cursor for all look-ups: a new one for each costs more than 1 us
            self._select = self._reader.cursor().execute
        except BaseException:
            self.close()
            raise

    @classmethod
    def at(cls, data: Path) -> Database:
        """Open the database of the data directory ``data``."""
        return cls(data / FILE_NAME)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._place, _TIMEOUT / 1000, check_same_thread=False, isolation_level=None, uri=self._place != self.name
        )

    def _create_tables(self) -> None:
        execute = self._connection.execute
        try:
            execute("PRAGMA journal_mode = WAL")  # readers and one writer at the same time
            there = {name for (name,) in execute("SELECT name FROM sqlite_master")}
            versions = dict(execute("SELECT table_name, table_version FROM version")) if "version" in there else {}
            for table, (version, _) in TABLES.items():
                if (found := versions.get(table, version)) != version:
                    raise DataError(f"{self.name}: table {table} has version {found}, expected {version}")
            if there >= {*TABLES, *INDEXES} and versions.keys() >= TABLES.keys():
                return  # a start does not wait for somebody who writes
            execute("BEGIN IMMEDIATE")
            execute(
                "CREATE TABLE IF NOT EXISTS version (table_name VARCHAR(32) PRIMARY KEY NOT NULL, table_version INTEGER NOT NULL)"
            )
            for table, (version, columns) in TABLES.items():
                execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
                execute("INSERT OR IGNORE INTO version VALUES (?, ?)", (table, version))
            for index, columns in INDEXES.items():
                execute(f"CREATE INDEX IF NOT EXISTS {index} ON {columns}")
            execute("COMMIT")
        except sqlite3.Error as error:
            raise DataError(f"{self.name}: {error}") from None

    def refresh(self, now: float) -> None:
        """Let look-ups see what was written by others, if they have not for ``SNAPSHOT`` seconds.

        They share one read transaction until then: opening one for each doubles what a look-up costs.
        """
        if self._seen <= now < self._seen + SNAPSHOT or self._reader is self._connection:
            return
        self._seen = now
        try:
            if self._reader.in_transaction:
                self._reader.execute("ROLLBACK")
            self._reader.execute("BEGIN")
        except sqlite3.Error:  # the next look-up has the same trouble, and somebody to tell
            pass

    def credentials(
        self,
        table: str,
        column: str,
        username: str,
        domain: str | None = None,
        *,
        user_column: str = "username",
        domain_column: str = "domain",
    ) -> str | None:
        """Return ``column`` (password, ha1, ...) of a subscriber, None when there is none. ``domain`` None: any domain.

        Raise DataError for a table or a column that does not exist.
        """
        key = (table, column, user_column, domain_column, domain is None)
        sql = self._statements.get(key) or self._statement(key)
        try:
            if not username.isascii():
                username = from_octets(username)
            if domain is None:
                row = self._select(sql, (username,)).fetchone()
            else:
                row = self._select(sql, (username, from_octets(domain))).fetchone()
        except UnicodeEncodeError:  # octets that are no UTF-8: nobody can be stored under them
            return None
        except sqlite3.Error as error:
            raise DataError(f"{self.name}: {error}") from None
        if row is None or row[0] is None:
            return None
        value = row[0] if type(row[0]) is str else str(row[0])
        return value if value.isascii() else to_octets(value)

    def _statement(self, key: tuple[str, str, str, str, bool]) -> str:
        table, column, user_column, domain_column, any_domain = key
        self._check_names(table, column, user_column, domain_column)
        # in brackets: SQLite takes an unknown name in double quotes for a text, which would be everybody's password
        sql = f"SELECT [{column}] FROM [{table}] WHERE [{user_column}] = ?"
        if not any_domain:
            sql += f" AND [{domain_column}] = ?"
        self._statements[key] = sql = f"{sql} LIMIT 1"
        return sql

    def add_subscriber(self, username: str, domain: str, password: str) -> None:
        """Add a subscriber, or give an old one this password. Raise DataError for names that SIP or digests cannot hold."""
        try:
            row = _subscriber_row(username, domain, password)
        except ValueError as error:
            raise DataError(f"{self.name}: {error}") from None
        self._run(_UPSERT, row)

    def import_csv(self, path: Path, default_domain: str = "") -> int:
        """Add the rows ``username,domain,password`` of a file, all or none, and return how many they were.

        A first line with the names of the columns (in any order) is optional. An empty domain stands for
        ``default_domain``. Raise DataError naming file and line of the first wrong row.
        """
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            try:
                number = self._connection.executemany(_UPSERT, _read_csv(path, default_domain)).rowcount
                execute("COMMIT")
            except BaseException:
                execute("ROLLBACK")
                raise
            # what stays in the log is read more slowly: give a running server's snapshot the time to pass
            execute(f"PRAGMA busy_timeout = {int(2000 * SNAPSHOT)}")
            execute("PRAGMA wal_checkpoint(TRUNCATE)")
            execute(f"PRAGMA busy_timeout = {_TIMEOUT}")
        except sqlite3.Error as error:
            raise DataError(f"{self.name}: {error}") from None
        return number

    def remove_subscriber(self, username: str, domain: str) -> bool:
        """Remove a subscriber and tell whether there was one."""
        sql = "DELETE FROM subscriber WHERE username = ? AND domain = ? RETURNING id"
        return bool(self.query(sql, (username, domain)))

    def list_subscribers(self) -> list[Subscriber]:
        """Return all subscribers, sorted by name, then domain."""
        return [Subscriber(*row) for row in self.query("SELECT username, domain FROM subscriber ORDER BY 1, 2")]

    def addresses(self) -> list[Address]:
        """Return the address table in the order of its ids."""
        sql = "SELECT grp, ip_addr, mask, port, tag FROM address ORDER BY id"
        return [Address(*row) for row in self.query(sql)]

    def secret(self, name: str, fresh: bytes) -> bytes:
        """Return the octets that are kept under ``name``: ``fresh`` ones at first, and then the same. Raise DataError."""
        sql = "SELECT value FROM polykemi_secret WHERE name = ?"
        if not self.query("SELECT 1 FROM sqlite_master WHERE name = 'polykemi_secret'"):
            self._run(
                "CREATE TABLE IF NOT EXISTS polykemi_secret (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)", ()
            )
        if not (found := self.query(sql, (name,))):  # another process may be quicker: what stands there holds
            self._run("INSERT OR IGNORE INTO polykemi_secret VALUES (?, ?)", (name, fresh.hex()))
            found = self.query(sql, (name,))
        return bytes.fromhex(found[0][0])

    @property
    def place(self) -> str:
        """Where another connection to this database finds it: a path, or a URI of SQLite's."""
        return self._place

    def for_scripts(self) -> SqlConnection:
        """Return a connection to this database that scripts may use (KSR.sqlops). Raise DataError."""
        return SqlConnection.open(self._place, query_only=self._query_only)

    def select(
        self, table: str, columns: Sequence[str], where: Mapping[str, str] = MappingProxyType({}), order: str = ""
    ) -> list[tuple[Any, ...]]:
        """Return ``columns`` of the rows of ``table`` in which the columns of ``where`` have its values, by ``order``.

        Raise DataError for a table or a column that does not exist.
        """
        self._check_names(table, *columns, *where, order or table)
        for value in where.values():
            try:
                value.encode("latin-1").decode()
            except UnicodeDecodeError:  # octets that are no UTF-8: nothing can be stored under them
                return []
        sql = f"SELECT {', '.join(f'[{c}]' for c in columns)} FROM [{table}]"
        if where:
            sql += f" WHERE {' AND '.join(f'[{c}] = ?' for c in where)}"
        if order:
            sql += f" ORDER BY [{order}]"
        return self.query(sql, list(where.values()))

    def insert(self, table: str, row: Mapping[str, int | float | str | None]) -> None:
        """Add a row to ``table``: column -> value. Raise DataError."""
        self._check_names(table, *row)
        self.query(_insertion(table, row), list(row.values()))

    def replace(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[int | str | None]]) -> None:
        """Put ``rows`` in the place of all rows of ``table``. Raise DataError; nothing has changed then."""
        self._check_names(table, *columns)
        execute = self._connection.execute
        sql = _insertion(table, columns)
        try:
            execute("BEGIN IMMEDIATE")
            try:
                execute(f"DELETE FROM [{table}]")
                stored = ([from_octets(v) if isinstance(v, str) else v for v in row] for row in rows)
                self._connection.executemany(sql, stored)
                execute("COMMIT")
            except BaseException:
                execute("ROLLBACK")
                raise
        except UnicodeEncodeError:
            raise DataError(f"{self.name}: text that is not UTF-8") from None
        except (sqlite3.Error, OverflowError) as error:
            raise DataError(f"{self.name}: {error}") from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is written inside one: all or nothing. Raise DataError.

        It is handed to the operating system without waiting for the disk: it survives ``kill -9``, and after a power
        failure it may be missing as a whole.
        """
        execute = self._connection.execute
        try:
            execute("PRAGMA synchronous = NORMAL")  # the log is synced when it is carried over into the file
            execute("BEGIN IMMEDIATE")
            try:
                yield
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # it is not when the disk is full
                    execute("ROLLBACK")
                raise
            finally:
                execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise DataError(f"{self.name}: {error}") from None

    def _check_names(self, *names: str) -> None:
        for name in names:
            if not _IDENTIFIER.fullmatch(name):
                raise DataError(f"{self.name}: {name!r} is no name of a table or column")

    def query(self, sql: str, params: Sequence[int | float | str | None] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. Raise DataError with SQLite's own words."""
        rows = self._run(sql, [from_octets(p) if isinstance(p, str) else p for p in params])
        return [tuple(to_octets(v) if isinstance(v, str) else v for v in row) for row in rows]

    def _run(self, sql: str, params: Sequence[int | float | str | None]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, params).fetchall()
        except UnicodeEncodeError:
            raise DataError(f"{self.name}: text that is not UTF-8") from None
        except (sqlite3.Error, OverflowError) as error:
            raise DataError(f"{self.name}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the database is not used afterwards."""
        self._reader.close()
        self._connection.close()


def _insertion(table: str, columns: Iterable[str]) -> str:
    names = [f"[{column}]" for column in columns]
    return f"INSERT INTO [{table}] ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def _subscriber_row(username: str, domain: str, password: str) -> tuple[str, str, str, str, str]:
    """Return the columns of a subscriber as they are stored, or raise ValueError saying what is wrong with it."""
    if not username:
        raise ValueError("the username is empty")
    if not password:
        raise ValueError(f"the password of {from_octets(username)} is empty")
    texts = []
    for name, text, refused in (
        ("username", username, _NOT_IN_NAMES),
        ("domain", domain, _NOT_IN_NAMES),
        ("password", password, _NOT_IN_PASSWORDS),
    ):
        shown = "the password" if name == "password" else f"{name} {from_octets(text)!r}"
        if wrong := refused.search(text):
            raise ValueError(f"{shown} has {wrong[0]!r} in it")
        try:
            texts.append(text.encode("latin-1").decode())
        except UnicodeDecodeError:
            raise ValueError(f"{shown} is not UTF-8") from None
    ha1 = md5(f"{username}:{domain}:{password}".encode("latin-1")).hexdigest()
    ha1b = md5(f"{username}@{domain}:{domain}:{password}".encode("latin-1")).hexdigest()
    return texts[0], texts[1], texts[2], ha1, ha1b


def _read_csv(path: Path, default_domain: str) -> Iterator[tuple[str, str, str, str, str]]:
    order = [0, 1, 2]
    seen: dict[tuple[str, str], int] = {}
    try:
        with path.open(encoding="latin-1", newline="") as file:
            if file.read(3) != "\xef\xbb\xbf":  # the mark that spreadsheets put before UTF-8
                file.seek(0)
            reader = csv.reader(file, strict=True)
            try:
                for number, cells in enumerate(filter(None, reader)):
                    if len(cells) != 3:
                        raise ValueError(f"expected {','.join(COLUMNS)}, got {len(cells)} columns")
                    names = [c.strip(" ").lower() for c in cells]
                    if number == 0 and set(names) == set(COLUMNS):
                        order = [names.index(c) for c in COLUMNS]
                        continue
                    username, domain, password = (cells[i] for i in order)
                    row = _subscriber_row(username, domain or default_domain, password)
                    first = seen.setdefault((row[0], row[1].lower()), reader.line_num)
                    if first != reader.line_num:
                        raise ValueError(f"{Subscriber(row[0], row[1])} stands in line {first} already")
                    yield row
            except (ValueError, csv.Error) as error:
                raise DataError(f"{path}:{reader.line_num}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
