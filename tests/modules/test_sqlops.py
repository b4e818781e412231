"""sqlops: files, connections that cannot be opened, times, limits."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import DataError
from polykemi.modules.base import Services
from polykemi.modules.sqlops import Sqlops, SqlopsParams
from polykemi.storage.provisioned import Database
from tests.support import message, request_context, services


def server(**params: Any) -> Services:
    return services(Sqlops, params={"sqlops": params})


CTX = request_context(message("OPTIONS sip:example.test SIP/2.0"))


def test_a_file_is_made_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    sqlops = server(sqlcon=(f" ca => sqlite://{path} ",)).modules["sqlops"]
    assert sqlops.sql_query(CTX, "ca", "CREATE TABLE t (a INTEGER, b TEXT)", "r") == 0
    assert sqlops.sql_query(CTX, "ca", "INSERT INTO t VALUES (1, 'j\xc3\xbcrgen')", "r") == 0
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT * FROM t").fetchall() == [(1, "jürgen")]


def test_the_servers_own_database_is_always_there(tmp_path: Path) -> None:
    for database in (Database(), Database(tmp_path / "own.sqlite")):
        made = services(Sqlops, database=database)
        sqlops = made.modules["sqlops"]
        database.add_subscriber("bob", "example.test", "secret")
        assert sqlops.sql_query(CTX, "polykemi", "SELECT username FROM subscriber", "r") == 0
        assert sqlops.sql_result_get(CTX, "r", 0, 0) == "bob"
        assert sqlops.sql_query(CTX, "polykemi", "DELETE FROM subscriber", "r") == 0
        assert database.list_subscribers() == []
        rows = made.variables.compile("$sqlrows(polykemi)")
        assert rows is not None
        assert rows.get(CTX) == 1


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("ca=>mysql://u:p@host/db", "ca: expected sqlite:///path or polykemi, got 'mysql://u:[*]{3}@host/db'"),
        ("ca=>sqlite://", "ca: expected sqlite:///path"),
        ("ca", "expected name=>sqlite:///path, got 'ca'"),
        ("=>sqlite:///x", "expected name=>sqlite:///path"),
    ],
)
def test_only_sqlite_has_a_driver(definition: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"sqlcon: {expected}"):
        SqlopsParams(sqlcon=(definition,))


def test_names_of_connections_differ() -> None:
    with pytest.raises(ValueError, match="two connections have one name: a, a"):
        SqlopsParams(sqlcon=("a=>polykemi", "a=>sqlite:///x"))


def test_a_database_that_cannot_be_opened_stops_the_start_or_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    definition = f"ca=>sqlite://{folder}/x.sqlite"
    with pytest.raises(DataError, match="unable to open database file"):
        server(sqlcon=(definition,))
    sqlops = server(sqlcon=(definition,), connect_mode=1).modules["sqlops"]
    assert sqlops.sql_query(CTX, "ca", "SELECT 1", "r") == -1
    folder.mkdir()
    assert sqlops.sql_query(CTX, "ca", "SELECT 1", "r") == 0


def test_times_are_seconds(tmp_path: Path) -> None:
    sqlops = server().modules["sqlops"]
    for sql in (
        "CREATE TABLE t (a DATETIME, b TIMESTAMP, c DATETIME)",
        "INSERT INTO t VALUES (2440588.5, '2000-01-01 00:00:01', 'never')",
        "SELECT a, b, c FROM t",
    ):
        assert sqlops.sql_query(CTX, "polykemi", sql, "r") == 0
    assert [sqlops.sql_result_get(CTX, "r", 0, i) for i in range(3)] == [86400, 946684801, None]


def test_one_statement_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    sqlops = server().modules["sqlops"]
    assert sqlops.sql_query(CTX, "polykemi", "SELECT 1; DROP TABLE subscriber", "r") == -1
    assert "one statement at a time" in caplog.text
    assert sqlops.sql_query_async(CTX, "polykemi", "DELETE FROM subscriber") == 1


def test_results_are_bounded() -> None:
    sqlops = server(results_maxsize=2, sqlres=("a",)).modules["sqlops"]
    assert [sqlops.sql_query(CTX, "polykemi", "SELECT 1", name) for name in "abcdb"] == [0, 0, 0, -1, 0]


def test_long_texts_make_no_literal() -> None:
    made = server(tr_buf_size=20)
    variable, literal = made.variables.compile("$var(x)"), made.variables.compile("$(var(x){sql.val})")
    assert variable is not None
    assert variable.set is not None
    assert literal is not None
    variable.set(CTX, "123456789")
    assert literal.get(CTX) == "'123456789'"
    variable.set(CTX, "1234567890")
    assert literal.get(CTX) is None


@pytest.mark.parametrize(
    "name", ["$dbr(r)", "$dbr(r=>)", "$dbr(r=>[0])", "$dbr(r=>[x,0])", "$dbr(r=>more)", "$sqlrows(none)"]
)
def test_variables_that_make_no_sense(name: str) -> None:
    assert server().variables.compile(name) is None
