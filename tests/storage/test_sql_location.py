"""Bindings in SQL: what stands in Kamailio's table, and what each db_mode has there after which event."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polykemi.errors import DataError
from polykemi.modules.base import Services
from polykemi.modules.usrloc import UsrlocParams
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import MEMORY_ONLY, Binding, LocationStore, MemoryLocation
from polykemi.storage.location_rows import LocationRows
from polykemi.storage.sql_location import MirroredLocation, SqlLocation
from tests.modules.test_registrar import register, server
from tests.support import NOW

ALICE = Binding(
    "sip:alice@10.0.0.1", NOW + 600, 700, "call-1", 5, "Phone 1", "sip:198.51.100.7:1024", "<sip:edge;lr>",
    "udp:192.0.2.1:5060", 0b1001, 0, 64, "<urn:uuid:1>", 2, "uloc-1", NOW,
)  # fmt: skip
BOB = Binding("sip:bob@10.0.0.2", NOW + 60, ruid="uloc-2", call_id="call-2", modified=NOW)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "location.sqlite"


def rows_of(file: Path, columns: str = "username, contact", table: str = "location") -> list[tuple[Any, ...]]:
    """Return what another program reads."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY id").fetchall()


def change(file: Path, statement: str) -> None:
    """Let another program write."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


# ---- rows
def test_a_row_has_what_kamailio_writes(file: Path) -> None:
    with closing(LocationRows(str(file), ["location"])) as rows:
        rows.write({("location", "alice"): [ALICE], ("location", "bob"): [BOB]})
        assert (rows.get("location", "alice"), rows.get("location", "bob")) == ([ALICE], [BOB])
        assert rows.get("location", "carol") == []
    columns = "username, domain, received, q, cseq, cflags, methods, instance, reg_id, connection_id, socket"
    assert rows_of(file, columns) == [
        ("alice", None, "sip:198.51.100.7:1024", 0.7, 5, 64, 9, "<urn:uuid:1>", 2, -1, "udp:192.0.2.1:5060"),
        ("bob", None, None, -1.0, 0, 0, None, None, 0, -1, None),
    ]
    ((expires, typed, shown),) = rows_of(file, "expires, typeof(expires), datetime(expires)")[:1]
    assert (typed, shown) == ("real", "2027-01-15 08:10:00")  # a Julian day, as db_sqlite has them
    assert rows_of(file, "table_name, table_version", "(SELECT rowid AS id, * FROM version)") == [("location", 9)]
    assert abs((expires - 2440587.5) * 86400 - ALICE.expires) < 0.001


def test_rows_are_updated_in_place_and_go_with_their_contact(file: Path) -> None:
    with closing(LocationRows(str(file), ["location"])) as rows:
        rows.write({("location", "alice"): [ALICE, BOB]})
        first = rows_of(file, "id, contact")
        later = ALICE.copy()
        later.uri = "sip:alice@10.0.0.9"
        rows.write({("location", "alice"): [later]})
        assert rows_of(file, "id, contact") == [(first[0][0], "sip:alice@10.0.0.9")]
        rows.write({("location", "alice"): []})
        assert rows_of(file) == []


def test_with_use_domain_the_address_of_record_stands_in_two_columns(file: Path) -> None:
    with closing(LocationRows(str(file), ["location"], use_domain=True)) as rows:
        rows.write({("location", "alice@a.test"): [ALICE], ("location", "alice@b.test"): [BOB]})
        assert rows_of(file, "username, domain") == [("alice", "a.test"), ("alice", "b.test")]
        assert rows.get("location", "alice@b.test") == [BOB]
        assert [aor for aor, _ in rows.load("location")] == ["alice@a.test", "alice@b.test"]
        assert list(rows.aors("location")) == ["alice@a.test", "alice@b.test"]


def test_what_tools_write_is_read(file: Path) -> None:
    LocationRows(str(file), ["location"]).close()
    change(
        file,
        "INSERT INTO location (ruid, username, contact, expires) VALUES ('k-1', 'carol', 'sip:c@h', '2027-01-15 08:10:00')",
    )
    change(file, "INSERT INTO location (ruid, username, contact, expires) VALUES ('k-2', '', 'sip:nobody@h', 0)")
    change(file, "INSERT INTO location (ruid, username, contact, expires) VALUES ('k-3', 'dave', '', 'soon')")
    with closing(LocationRows(str(file), ["location"])) as rows:
        loaded = dict(rows.load("location"))
        assert [(b.uri, b.expires, b.q, b.call_id) for b in loaded["carol"]] == [
            ("sip:c@h", NOW + 600, 1000, "Default-Call-ID")
        ]
        assert loaded == {"carol": loaded["carol"], "dave": []}


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255, exclude_characters="\0"), min_size=1, max_size=40))
def test_octets_come_back_as_they_were(text: str) -> None:
    with closing(LocationRows(":memory:", ["location"])) as rows:
        binding = Binding("sip:a@h", NOW, user_agent=text, ruid="uloc-" + text, instance=text)
        rows.write({("location", text): [binding]})
        assert rows.get("location", text) == [binding]
        assert list(rows.load("location")) == [(text, [binding])]
        assert list(rows.aors("location")) == [text]


def test_seconds_since_the_epoch_are_stored_when_told_so(file: Path) -> None:
    with closing(LocationRows(str(file), ["location"], expires_type=1)) as rows:
        rows.write({("location", "alice"): [ALICE]})
        assert rows_of(file, "expires, last_modified") == [(NOW + 600, NOW)]
        assert rows.get("location", "alice") == [ALICE]


def test_a_table_of_another_version_is_refused(file: Path) -> None:
    LocationRows(str(file), ["location"]).close()
    change(file, "UPDATE version SET table_version = 8")
    with pytest.raises(DataError, match="table location has version 8, expected 9"):
        LocationRows(str(file), ["location"])


# ---- stores
Made = tuple[LocationStore, LocationRows]


@pytest.fixture(params=["mirrored", "sql alone"])
def store(request: pytest.FixtureRequest, file: Path) -> Iterator[LocationStore]:
    rows = LocationRows(str(file), ["location"])
    made: LocationStore = (
        MirroredLocation(MemoryLocation(), rows, 1) if request.param == "mirrored" else SqlLocation(rows)
    )
    yield made
    made.close()


def test_stores_with_rows_do_what_a_location_store_does(store: LocationStore) -> None:
    store.put("location", "alice", [ALICE])
    assert store.get("location", "alice") == [ALICE]  # staged
    store.put("location", "bob", [BOB])
    store.put("location", "zoe", [Binding("sip:zoe@h", 0, ruid="uloc-3")])
    store.commit()
    assert [aor for aor, _ in store.items("location")] == ["alice", "bob", "zoe"]
    assert store.count("location") == sum(store.sizes("location")) == 3
    assert store.next_expiry("location") == NOW + 60
    assert store.expired("location", NOW + 59, 10) == []
    assert store.expired("location", NOW + 600, 10) == ["bob", "alice"]
    assert store.expired("location", NOW + 600, 1) == ["bob"]
    store.put("location", "bob", [])
    store.commit()
    assert store.get("location", "bob") == []
    with pytest.raises(DataError):
        store.put("location", "", [ALICE])


def test_a_locked_database_is_an_error_that_loses_nothing(store: LocationStore, file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.put("location", "alice", [ALICE])
        with pytest.raises(DataError, match="locked"):
            store.commit()
        other.execute("ROLLBACK")
    store.commit()
    assert rows_of(file) == [("alice", "sip:alice@10.0.0.1")]


# ---- db_mode
def with_sql(tmp_path: Path, mode: int, store: LocationStore | None = None, **usrloc: Any) -> Services:
    """Start a server that keeps its contacts in LMDB and SQL, or start it again."""
    location = store or LmdbLocation(tmp_path / "location")
    given = {"db_mode": mode, "db_url": f"sqlite://{tmp_path / 'location.sqlite'}", **usrloc}
    return server(usrloc=given, location=location)


def killed(made: Services) -> None:
    """Let the process end as by kill -9: nothing is written any more; the files are free."""
    location: Any = made.location
    location._rows.close()
    if isinstance(location, MirroredLocation):
        location._store.close()  # LMDB: what was committed is there, nothing is staged


def contacts(made: Services, aor: str = "alice") -> list[str]:
    return [b.uri for b in made.location.get("location", aor)]


def test_write_through_has_the_row_before_the_200_leaves(tmp_path: Path, file: Path) -> None:
    made = with_sql(tmp_path, 1)
    assert register(made, "Contact: <sip:alice@192.0.2.10>")[0] == 1
    assert rows_of(file) == [("alice", "sip:alice@192.0.2.10")]
    killed(made)
    again = with_sql(tmp_path, 1)
    assert register(again, "Contact: <sip:alice@192.0.2.10>;expires=0", cseq=2)[0] == 3
    assert rows_of(file) == []
    again.location.close()


def test_rows_that_others_have_written_are_loaded(tmp_path: Path, file: Path) -> None:
    with_sql(tmp_path, 1).location.close()
    change(
        file, "INSERT INTO location (ruid, username, contact, expires) VALUES ('k-1', 'alice', 'sip:c@h', '2037-01-15')"
    )
    for mode in (1, 2, 3, 4):
        made = with_sql(tmp_path, mode)
        assert contacts(made) == ["sip:c@h"]
        made.location.close()
    made = with_sql(tmp_path, 1, db_load=0)
    assert contacts(made) == ["sip:c@h"]  # those of before: the store is not touched
    made.location.close()


def test_contacts_in_lmdb_go_into_a_table_that_is_new(tmp_path: Path, file: Path) -> None:
    store = LmdbLocation(tmp_path / "location")
    store.put("location", "alice", [ALICE])
    made = with_sql(tmp_path, 2, store)
    assert rows_of(file) == [("alice", "sip:alice@10.0.0.1")]
    assert made.location.get("location", "alice") == [ALICE]
    made.location.close()
    change(file, "DELETE FROM location")  # an operator's wish
    made = with_sql(tmp_path, 2)
    assert contacts(made) == []
    made.location.close()


def test_write_back_writes_by_the_timer_and_at_the_end(tmp_path: Path, file: Path) -> None:
    made = with_sql(tmp_path, 2, timer_interval=30)
    usrloc = made.modules["usrloc"]
    usrloc.handle_timer(NOW)
    register(made, "Contact: <sip:alice@192.0.2.10>")
    assert rows_of(file) == []
    usrloc.handle_timer(NOW + 29)
    assert rows_of(file) == []
    usrloc.handle_timer(NOW + 30)
    assert rows_of(file) == [("alice", "sip:alice@192.0.2.10")]
    register(made, "Contact: <sip:alice@192.0.2.11>", cseq=2)
    usrloc.stop(NOW + 31)
    assert len(rows_of(file)) == 2
    made.location.close()


def test_write_back_loses_nothing_when_the_process_is_killed(tmp_path: Path, file: Path) -> None:
    made = with_sql(tmp_path, 2)
    register(made, "Contact: <sip:alice@192.0.2.10>")
    register(made, "Contact: <sip:bob@192.0.2.10>", to="<sip:bob@example.test>")
    made.modules["usrloc"].stop(NOW)
    register(made, "Contact: <sip:alice@192.0.2.11>", call_id="another")
    register(made, "Contact: *", "Expires: 0", to="<sip:bob@example.test>", cseq=2)
    killed(made)
    again = with_sql(tmp_path, 2)
    assert contacts(again) == ["sip:alice@192.0.2.10", "sip:alice@192.0.2.11"]
    assert contacts(again, "bob") == []
    assert [contact for _, contact in rows_of(file)] == ["sip:alice@192.0.2.10", "sip:alice@192.0.2.11"]
    again.location.close()


def test_writing_back_is_done_in_pieces(tmp_path: Path, file: Path) -> None:
    made = with_sql(tmp_path, 2)
    usrloc = made.modules["usrloc"]
    usrloc.handle_timer(NOW)
    for n in range(500):
        made.location.put("location", f"u{n:03}", [Binding("sip:a@h", NOW + 5000, ruid=f"r{n}")])
    made.location.commit()
    written = []
    for _ in range(3):
        usrloc.handle_timer(usrloc.next_timeout())
        written.append(len(rows_of(file)))
    assert written == [200, 400, 500]
    assert usrloc.next_timeout() < NOW + 125
    made.location.close()


def test_sql_alone_sees_what_others_write_at_once(tmp_path: Path, file: Path) -> None:
    made = with_sql(tmp_path, 3)
    register(made, "Contact: <sip:alice@192.0.2.10>;expires=100")
    assert rows_of(file) == [("alice", "sip:alice@192.0.2.10")]
    change(file, "UPDATE location SET contact = 'sip:elsewhere@h'")
    assert contacts(made) == ["sip:elsewhere@h"]
    made.modules["usrloc"].handle_timer(NOW + 101)
    made.location.commit()
    assert rows_of(file) == []
    made.location.close()


def test_read_only_leaves_the_rows_alone(tmp_path: Path, file: Path) -> None:
    with_sql(tmp_path, 1).location.close()
    change(
        file, "INSERT INTO location (ruid, username, contact, expires) VALUES ('k-1', 'alice', 'sip:c@h', '2037-01-15')"
    )
    made = with_sql(tmp_path, 4)
    register(made, "Contact: <sip:alice@192.0.2.10>")
    assert contacts(made) == ["sip:c@h", "sip:alice@192.0.2.10"]
    made.modules["usrloc"].stop(NOW)
    made.location.close()
    assert rows_of(file) == [("alice", "sip:c@h")]


def test_without_a_database_nothing_outlives_the_server(tmp_path: Path) -> None:
    store = LmdbLocation(tmp_path / "location")
    register(server(usrloc={"db_mode": 0}, location=store), "Contact: <sip:alice@192.0.2.10>")
    store.close()
    store = LmdbLocation(tmp_path / "location")
    assert contacts(server(usrloc={"db_mode": 0}, location=store)) == []
    store.close()


def test_flag_1_of_save_keeps_a_contact_out_of_sql(tmp_path: Path, file: Path) -> None:
    made = with_sql(tmp_path, 1)
    register(made, "Contact: <sip:alice@192.0.2.10>", flags=1)
    assert [b.flags for b in made.location.get("location", "alice")] == [MEMORY_ONLY]
    assert rows_of(file) == []
    made.location.close()


def test_the_servers_own_database_has_the_table_when_told_so() -> None:
    made = server(usrloc={"db_mode": 1, "db_url": "polykemi", "preload": ("location", "other")})
    register(made, "Contact: <sip:alice@192.0.2.10>")
    assert made.database.query("SELECT username, contact FROM location") == [("alice", "sip:alice@192.0.2.10")]
    assert made.database.query("SELECT count(*) FROM other") == [(0,)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"db_mode": 5}, "db_mode: expected 0 to 4, got 5"),
        ({"db_mode": 2}, "db_mode: 2 needs a db_url: sqlite:///path, or polykemi"),
        ({"db_url": "mysql://h/kamailio"}, "db_url: expected sqlite:///path or polykemi, got 'mysql://h/kamailio'"),
        ({"preload": ("location; DROP",)}, "preload: expected names of tables, got location; DROP"),
    ],
)
def test_wrong_parameters_say_what_was_expected(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=r"expected|needs") as raised:
        UsrlocParams(**wrong)
    assert str(raised.value).startswith(says)
