"""sqlops: SQL statements from scripts (Kamailio: sqlops). The databases are SQLite files, and the server's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import DataError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import is_number
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module, Services
from polykemi.pv.accessor import Accessor, Factory, Getter
from polykemi.pv.classes.factories import no_index, required
from polykemi.pv.compiler import Variables
from polykemi.pv.grammar import parse_variable
from polykemi.pv.transformations.shape import Step
from polykemi.storage.sql import OWN, Answer, SqlConnection, sqlite_path, without_password

log = logging.getLogger("polykemi.script")

_EMPTY: Final = Answer((), [], 0)
_SPACES: Final = " \t\r\n"
_BETWEEN: Final = " \t\n,;"  # of variables in a list


@dataclass(frozen=True, slots=True)
class SqlopsParams:
    """Kamailio's names and defaults; ``sqlcon`` has one definition for each connection, ``name=>sqlite:///path``."""

    sqlcon: tuple[str, ...] = ()
    sqlres: tuple[str, ...] = ()  # names of results; others are made when they are used
    results_maxsize: int = 32  # how many results
    tr_buf_size: int = 2048  # octets: {sql.val} takes texts of less than half of it
    connect_mode: int = 0  # 1: the server starts when a database cannot be opened, and tries again when it is used

    def __post_init__(self) -> None:
        names = [parse_connection(definition)[0] for definition in self.sqlcon]
        if len(set(names)) < len(names):
            raise ValueError(f"sqlcon: two connections have one name: {', '.join(names)}")
        if self.tr_buf_size < 4:
            raise ValueError(f"tr_buf_size: expected 4 or more, got {self.tr_buf_size}")


def parse_connection(definition: str) -> tuple[str, str]:
    """Return name and path ("" for the server's own database) of a definition. Raise ValueError."""
    name, arrow, url = (part.strip(_SPACES) for part in definition.partition("=>"))
    if not arrow or not name or not url:
        raise ValueError(f"sqlcon: expected name=>sqlite:///path, got {without_password(definition)!r}")
    try:
        return name, sqlite_path(url)
    except ValueError as error:
        raise ValueError(f"sqlcon: {name}: {error}") from None


class Sqlops(Module):
    """The connections and results of one server. Results stay until they are freed or their name is used again."""

    name = "sqlops"
    Params = SqlopsParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._paths = dict(parse_connection(definition) for definition in self.params.sqlcon)
        self._paths.setdefault(OWN, "")
        self._connections: dict[str, SqlConnection] = {}
        self._results: dict[str, Answer] = dict.fromkeys(self.params.sqlres, _EMPTY)
        self._changed: dict[str, int] = {}

    def start(self, now: float) -> None:
        """Open the databases. Raise DataError."""
        for name, path in self._paths.items():
            if path and not self.params.connect_mode:
                self._connections[name] = self._open(path)

    def _open(self, path: str) -> SqlConnection:
        """Open a file, the server's own database for "". Raise DataError."""
        query_only = self.services.is_rehearsal
        return SqlConnection.open(path, query_only=query_only) if path else self.services.database.for_scripts()

    def _run(self, name: str, sql: str) -> Answer | None:
        """Run a statement; None, and one logged error, when it cannot be run."""
        path = self._paths.get(name)
        if path is None:
            log.error("sqlops: there is no connection %r; they are defined in sqlops' parameter sqlcon", name)
            return None
        try:
            connection = self._connections.get(name)
            if connection is None:
                connection = self._open(path)
                self._connections[name] = connection
            answer = connection.run(sql)
        except DataError as error:
            log.error("sqlops: %s: %s, in %r", name, error, sql[:200])
            return None
        self._changed[name] = answer.changed
        return answer

    def _result(self, name: str) -> Answer:
        return self._results.get(name, _EMPTY)

    # ---- statements
    @export()
    def sql_query(self, ctx: RouteContext, scon: str, squery: str, sres: str) -> int:
        """Run a statement as it is; what it gives is kept under the name ``sres``. Answers 0, or -1."""
        if sres not in self._results and len(self._results) > self.params.results_maxsize:
            log.error("sqlops.sql_query: there are %d results already: %r is one too many", len(self._results), sres)
            return -1
        if scon in self._paths:
            self._results[sres] = _EMPTY
        answer = self._run(scon, squery)
        if answer is None:
            return -1
        if answer.rows:
            self._results[sres] = answer
        return 0

    @export()
    def sql_query_async(self, ctx: RouteContext, scon: str, squery: str) -> int:
        """Run a statement as it is, whatever it gives; SQLite needs no waiting for. Answers 1, or -1."""
        return 1 if self._run(scon, squery) is not None else -1

    @export()
    def sql_xquery(self, ctx: RouteContext, scon: str, squery: str, xavp: str) -> int:
        """Run a statement as it is; each row becomes an item of the XAVP, with a field for each column. Answers 1, or -1."""
        answer = self._run(scon, squery)
        if answer is None:
            return -1
        items = [_item(answer.columns, row) for row in answer.rows]
        if items:
            ctx.shared.xavps.setdefault(xavp, [])[:0] = items
        return 1

    @export()
    def sql_pvquery(self, ctx: RouteContext, scon: str, squery: str, sres: str) -> int:
        """Run a statement, in which variables are expanded; ``sres`` is a list of variables that take the columns.

        Answers 1, 2 when there are no rows, or -1.
        """
        variables = self.services.variables
        try:
            sql = variables.text(squery)(ctx)
            targets = _variables(sres, variables)
        except ValueError as error:
            log.error("sqlops.sql_pvquery: %s", error)
            return -1
        answer = self._run(scon, sql)
        if answer is None:
            return -1
        for row in reversed(answer.rows):
            for i, value in enumerate(row):
                if i >= len(targets):
                    log.error("sqlops.sql_pvquery: no variable for column %d", i + 1)
                    return -1
                name, accessor = targets[i]
                if value is None and name == "avp":
                    continue
                if accessor.set is None or not accessor.set(ctx, value):
                    log.error("sqlops.sql_pvquery: column %d does not fit its variable", i + 1)
                    return -1
        return 1 if answer.rows else 2

    # ---- results
    @export()
    def sql_result_free(self, ctx: RouteContext, sres: str) -> int:
        """Forget the rows of a result. Answers 1."""
        if sres in self._results:
            self._results[sres] = _EMPTY
        return 1

    @export()
    def sql_num_rows(self, ctx: RouteContext, sres: str) -> int:
        """Return the number of rows."""
        return len(self._result(sres).rows)

    @export()
    def sql_num_columns(self, ctx: RouteContext, sres: str) -> int:
        """Return the number of columns, 0 when there are no rows."""
        return len(self._result(sres).columns)

    @export()
    def sql_is_null(self, ctx: RouteContext, sres: str, i: int, j: int) -> int:
        """Tell whether the value in row ``i``, column ``j`` is null: 1 or 0, -1 when there is no such place."""
        result = self._result(sres)
        if not (0 <= i < len(result.rows) and 0 <= j < len(result.columns)):
            log.error("sqlops.sql_is_null: result %r has no row %d, column %d", sres, i, j)
            return -1
        return 1 if result.rows[i][j] is None else 0

    @export()
    def sql_result_get(self, ctx: RouteContext, resid: str, row: int, col: int) -> Xval:
        """Return a value of a result; null when it is null or not there."""
        return self._value(resid, row, col)

    @export()
    def sql_result_gete(self, ctx: RouteContext, resid: str, row: int, col: int) -> Xval:
        """Return a value of a result, "" for null."""
        value = self._value(resid, row, col)
        return "" if value is None else value

    @export()
    def sql_result_getz(self, ctx: RouteContext, resid: str, row: int, col: int) -> Xval:
        """Return a value of a result, 0 for null."""
        value = self._value(resid, row, col)
        return 0 if value is None else value

    def _value(self, name: str, row: int, column: int) -> Xval:
        result = self._result(name)
        inside = 0 <= row < len(result.rows) and 0 <= column < len(result.columns)
        return result.rows[row][column] if inside else None

    # ---- variables
    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $dbr(result=>rows|cols|[row,column]|colname[column]) and $sqlrows(connection)."""
        return {"dbr": self._dbr, "sqlrows": self._sqlrows}

    def transformations(self) -> Mapping[str, Step]:
        """Return {sql.val}, {sql.val.int} and {sql.val.str}."""
        limit = self.params.tr_buf_size // 2 - 1
        return {
            "sql.val": Step(lambda value: _literal(value, "NULL", limit), raw=True),
            "sql.val.int": Step(lambda value: _literal(value, "0", limit), raw=True),
            "sql.val.str": Step(lambda value: _literal(value, "''", limit), raw=True),
        }

    def _dbr(self, inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        name, arrow, key = (part.strip(_SPACES) for part in required(inner).partition("=>"))
        if not arrow or not name or not key:
            raise ValueError("expected result=>rows, cols, [row,column] or colname[column]")
        if key == "rows":
            return Accessor(lambda ctx: len(self._result(name).rows))
        if key == "cols":
            return Accessor(lambda ctx: len(self._result(name).columns))
        if key[:1] == "[" and key[-1:] == "]":
            row_text, comma, column_text = key[1:-1].partition(",")
            if not comma:
                raise ValueError(f"{key!r} is no [row,column]")
            row, column = _index(row_text, variables), _index(column_text, variables)

            def cell(ctx: RouteContext) -> Xval:
                i, j = row(ctx), column(ctx)
                return self._value(name, i, j) if isinstance(i, int) and isinstance(j, int) else None

            return Accessor(cell)
        if key[:7] == "colname" and key[7:].lstrip(_SPACES)[:1] == "[" and key[-1:] == "]":
            at = _index(key[7:].strip(_SPACES)[1:-1], variables)

            def column_name(ctx: RouteContext) -> Xval:
                i, columns = at(ctx), self._result(name).columns
                return columns[i] if isinstance(i, int) and 0 <= i < len(columns) else None

            return Accessor(column_name)
        raise ValueError(f"{key!r} is none of rows, cols, [row,column] and colname[column]")

    def _sqlrows(self, inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        name = required(inner)
        if name not in self._paths:
            raise ValueError(f"there is no connection {name!r}")
        return Accessor(lambda ctx: self._changed.get(name, 0))


def _item(columns: tuple[str, ...], row: tuple[Xval, ...]) -> dict[str, list[int | str]]:
    item: dict[str, list[int | str]] = {}
    for column, value in zip(columns, row, strict=True):
        if value is not None:
            item.setdefault(column, []).append(value)
    return item


def _index(text: str, variables: Variables) -> Getter:
    """Return the getter of an index: a number, or a variable that holds one. Raise ValueError."""
    text = text.strip(_SPACES)
    if is_number(text):
        number = int(text)
        return lambda ctx: number
    reference, end = parse_variable(text)
    if end != len(text):
        raise ValueError(f"{text!r} is no index")
    get = variables.accessor(reference).get

    def current(ctx: RouteContext) -> Xval:
        value = get(ctx)
        return int(value) if isinstance(value, str) and is_number(value) else value

    return current


def _variables(text: str, variables: Variables) -> list[tuple[str, Accessor]]:
    """Return class and accessor of each variable in a list. Raise ValueError."""
    found, at = [], 0
    while True:
        while at < len(text) and text[at] in _BETWEEN:
            at += 1
        if at == len(text):
            break
        reference, size = parse_variable(text[at:])
        accessor = variables.accessor(reference)
        if accessor.set is None:
            raise ValueError(f"{text[at : at + size]} cannot be set")
        found.append((reference.name, accessor))
        at += size
    if not found:
        raise ValueError("expected variables for the columns")
    return found


def _literal(value: Xval, null: str, limit: int) -> Xval:
    """Return ``value`` as it stands in a statement: numbers as they are, texts in quotes, each quote in them twice.

    A backslash, which Kamailio puts before a quote, is a character like others for SQLite: the text would end there.
    """
    if value is None:
        return null
    if isinstance(value, int):
        return str(value)
    if len(value) > limit:
        log.error("sqlops: a text of %d octets is too long for {sql.val}: more than half of tr_buf_size", len(value))
        return None
    return "'" + value.replace("'", "''") + "'"
