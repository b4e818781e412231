"""Subscribers and addresses: what an operator enters is what authentication finds."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

import pytest

from polykemi.errors import DataError
from polykemi.kemi.binding import to_octets
from polykemi.storage.provisioned import Address, Database, Subscriber


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.at(tmp_path) as database:
        yield database


def ha1(text: str) -> str:
    return md5(text.encode()).hexdigest()


def test_a_subscriber_is_found_with_password_and_both_hashes(database: Database) -> None:
    database.add_subscriber("alice", "example.com", "secret")
    assert database.credentials("subscriber", "password", "alice") == "secret"
    assert database.credentials("subscriber", "ha1", "alice") == ha1("alice:example.com:secret")
    assert database.credentials("subscriber", "ha1b", "alice") == ha1("alice@example.com:example.com:secret")


def test_nobody_is_found_under_an_unknown_name(database: Database) -> None:
    database.add_subscriber("alice", "example.com", "secret")
    for name in ("bob", "Alice", "", "alice' OR '1'='1", "\xff\xfe", "a\x00b"):
        assert database.credentials("subscriber", "password", name) is None


def test_with_a_domain_only_that_domains_user_is_found(database: Database) -> None:
    database.add_subscriber("alice", "one.test", "first")
    database.add_subscriber("alice", "two.test", "second")
    assert database.credentials("subscriber", "password", "alice", "one.test") == "first"
    assert database.credentials("subscriber", "password", "alice", "TWO.test") == "second"
    assert database.credentials("subscriber", "password", "alice", "three.test") is None
    assert database.credentials("subscriber", "password", "alice", "\xff") is None


def test_adding_again_changes_the_password(database: Database) -> None:
    database.add_subscriber("alice", "example.com", "old")
    database.add_subscriber("alice", "Example.com", "new")
    assert database.credentials("subscriber", "password", "alice", "example.com") == "new"
    assert database.credentials("subscriber", "ha1", "alice") == ha1("alice:Example.com:new")
    assert len(database.list_subscribers()) == 1


def test_a_name_beyond_ascii_is_found_by_the_octets_of_a_sip_user_part(database: Database) -> None:
    database.add_subscriber(to_octets("jürgen"), "example.com", to_octets("geheim-ß"))
    from_the_wire = "jürgen".encode().decode("latin-1")
    assert database.credentials("subscriber", "password", from_the_wire) == to_octets("geheim-ß")
    assert database.credentials("subscriber", "ha1", from_the_wire) == ha1("jürgen:example.com:geheim-ß")
    assert database.list_subscribers() == [Subscriber(from_the_wire, "example.com")]


def test_names_are_stored_as_utf8_for_other_programs(tmp_path: Path, database: Database) -> None:
    database.add_subscriber(to_octets("jürgen"), "", "x")
    other = sqlite3.connect(tmp_path / "polykemi.sqlite")
    assert other.execute("SELECT username FROM subscriber").fetchall() == [("jürgen",)]
    other.close()


@pytest.mark.parametrize(
    ("username", "domain", "password", "says"),
    [
        ("", "example.com", "x", "username is empty"),
        ("alice", "example.com", "", "password of alice is empty"),
        ("al:ice", "example.com", "x", "'al:ice' has ':' in it"),
        ("alice@example.com", "", "x", "has '@' in it"),
        ("alice", " example.com", "x", "domain ' example.com' has ' ' in it"),
        ("alice", "example.com", "topsecret\n", "the password has '\\n' in it"),
        ("\xff", "example.com", "x", "is not UTF-8"),
    ],
)
def test_a_subscriber_that_could_never_authenticate_is_refused(
    database: Database, username: str, domain: str, password: str, says: str
) -> None:
    with pytest.raises(DataError) as raised:
        database.add_subscriber(username, domain, password)
    assert says in str(raised.value)
    assert "topsecret" not in str(raised.value)
    assert database.list_subscribers() == []


def test_a_removed_subscriber_is_gone(database: Database) -> None:
    database.add_subscriber("alice", "example.com", "x")
    assert database.remove_subscriber("alice", "example.com") is True
    assert database.credentials("subscriber", "password", "alice") is None
    assert database.remove_subscriber("alice", "example.com") is False


def test_subscribers_are_listed_by_name_then_domain(database: Database) -> None:
    for name, domain in (("bob", "a.test"), ("alice", "b.test"), ("alice", "a.test"), ("carol", "")):
        database.add_subscriber(name, domain, "x")
    assert [str(one) for one in database.list_subscribers()] == ["alice@a.test", "alice@b.test", "bob@a.test", "carol"]


def test_data_is_there_after_closing_and_opening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with Database.at(path) as database:
        database.add_subscriber("alice", "example.com", "secret")
    with Database.at(path) as database:
        assert database.credentials("subscriber", "password", "alice") == "secret"


def test_what_another_process_adds_is_seen_at_once(tmp_path: Path, database: Database) -> None:
    assert database.credentials("subscriber", "password", "alice") is None
    with Database.at(tmp_path) as other:
        other.add_subscriber("alice", "example.com", "secret")
    assert database.credentials("subscriber", "password", "alice") == "secret"


def test_a_look_up_keeps_no_lock_that_would_make_the_log_grow(tmp_path: Path, database: Database) -> None:
    database.add_subscriber("alice", "example.com", "secret")
    assert database.credentials("subscriber", "password", "alice") == "secret"
    with Database.at(tmp_path) as other:
        busy, _, _ = other.query("PRAGMA wal_checkpoint(TRUNCATE)")[0]
    assert busy == 0


def test_only_the_owner_may_read_the_passwords(tmp_path: Path, database: Database) -> None:
    assert (tmp_path / "polykemi.sqlite").stat().st_mode & 0o077 == 0


def test_a_name_that_is_no_identifier_reaches_no_sql(database: Database) -> None:
    for table, column in (("subscriber; DROP TABLE subscriber", "ha1"), ('subscriber" --', "ha1"), ("subscriber", "*")):
        with pytest.raises(DataError, match="is no name of a table or column"):
            database.credentials(table, column, "alice")


def test_a_missing_table_or_column_is_named(database: Database) -> None:
    with pytest.raises(DataError, match="no such table: users"):
        database.credentials("users", "ha1", "alice")
    with pytest.raises(DataError, match="secret_column"):
        database.credentials("subscriber", "ha1", "alice", user_column="secret_column")


def test_another_layout_is_reached_by_naming_its_columns(database: Database) -> None:
    database.query("CREATE TABLE phones (name TEXT, realm TEXT, pin INTEGER)")
    database.query("INSERT INTO phones VALUES (?, ?, ?)", ("bob", "example.com", 1234))
    names = {"user_column": "name", "domain_column": "realm"}
    assert database.credentials("phones", "pin", "bob", **names) == "1234"
    assert database.credentials("phones", "pin", "bob", "example.com", **names) == "1234"
    assert database.credentials("phones", "pin", "bob", "other.test", **names) is None


def test_a_password_is_found_in_an_index_without_the_tables_row(database: Database) -> None:
    database.add_subscriber("alice", "example.com", "secret")
    assert database.credentials("subscriber", "password", "alice") == "secret"
    (sql,) = database._statements.values()
    (plan,) = database.query(f"EXPLAIN QUERY PLAN {sql}", ("alice",))
    assert "COVERING INDEX" in plan[3]


def test_an_index_that_an_older_file_lacks_is_made(tmp_path: Path, database: Database) -> None:
    database.query("DROP INDEX subscriber_password")
    with Database.at(tmp_path) as again:
        assert again.query("SELECT count(*) FROM sqlite_master WHERE name = 'subscriber_password'") == [(1,)]


def test_a_database_is_opened_while_another_process_writes(tmp_path: Path, database: Database) -> None:
    database.query("BEGIN IMMEDIATE")
    with Database.at(tmp_path) as other:
        assert other.list_subscribers() == []


def test_a_null_is_no_credential(database: Database) -> None:
    database.query("CREATE TABLE phones (username TEXT, pin TEXT)")
    database.query("INSERT INTO phones VALUES ('bob', NULL)")
    assert database.credentials("phones", "pin", "bob") is None


def test_addresses_come_in_the_order_they_were_entered_with_kamailios_defaults(database: Database) -> None:
    database.query("INSERT INTO address (grp, ip_addr, mask, port, tag) VALUES (2, '10.0.0.0', 8, 5060, 'office')")
    database.query("INSERT INTO address (ip_addr) VALUES ('192.0.2.1')")
    assert database.addresses() == [Address(2, "10.0.0.0", 8, 5060, "office"), Address(1, "192.0.2.1", 32, 0, None)]


def test_a_wrong_query_fails_with_sqlites_words(database: Database) -> None:
    with pytest.raises(DataError, match="syntax error"):
        database.query("SELEC 1")
    with pytest.raises(DataError, match="not UTF-8"):
        database.query("SELECT ?", ("\xff",))
    with pytest.raises(DataError):
        database.query("SELECT ?", (1 << 70,))
    assert database.query("SELECT ?, ?", (to_octets("ü"), 5)) == [(to_octets("ü"), 5)]


def test_tables_of_another_kamailio_version_are_refused(tmp_path: Path) -> None:
    with Database.at(tmp_path) as database:
        database.query("UPDATE version SET table_version = 6 WHERE table_name = 'subscriber'")
    with pytest.raises(DataError, match="table subscriber has version 6, expected 7"):
        Database.at(tmp_path)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "polykemi.sqlite"
    path.write_text("this is a letter, not a database\n" * 100)
    with pytest.raises(DataError, match=r"polykemi\.sqlite: file is not a database"):
        Database.at(tmp_path)
    assert path.read_text().startswith("this is a letter")


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/polykemi\.sqlite: "):
        Database.at(tmp_path / "file")


# ---- CSV


def csv_file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "users.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        "alice,example.com,secret\nbob,example.com,hidden\n",
        "username,domain,password\nalice,example.com,secret\nbob,example.com,hidden\n",
        "Password,Username,Domain\r\nsecret,alice,example.com\r\n\r\nhidden,bob,example.com",
        "\ufeffusername,domain,password\nalice,example.com,secret\nbob,,hidden\n",
        '"alice","example.com","secret"\n"bob",example.com,hidden\n',
    ],
)
def test_rows_are_imported_with_or_without_a_header(tmp_path: Path, database: Database, content: str) -> None:
    assert database.import_csv(csv_file(tmp_path, content), "example.com") == 2
    assert database.credentials("subscriber", "password", "alice", "example.com") == "secret"
    assert database.credentials("subscriber", "ha1", "bob") == ha1("bob:example.com:hidden")


def test_a_password_keeps_commas_quotes_and_spaces(tmp_path: Path, database: Database) -> None:
    database.import_csv(csv_file(tmp_path, 'alice,example.com," a,""b"" "\n'))
    assert database.credentials("subscriber", "password", "alice") == ' a,"b" '


def test_importing_replaces_passwords_and_keeps_other_subscribers(tmp_path: Path, database: Database) -> None:
    database.add_subscriber("alice", "example.com", "old")
    database.add_subscriber("zoe", "example.com", "kept")
    database.import_csv(csv_file(tmp_path, "alice,example.com,new\n"))
    assert database.credentials("subscriber", "password", "alice") == "new"
    assert database.credentials("subscriber", "password", "zoe") == "kept"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("alice,example.com,x\nbob,example.com\n", ":2: expected username,domain,password, got 2 columns"),
        ("alice,example.com,x\n\nbob,example.com,x,y\n", ":3: expected username,domain,password, got 4 columns"),
        ("alice,example.com,x\n,example.com,x\n", ":2: the username is empty"),
        ("alice,example.com,x\nbob,example.com,\n", ":2: the password of bob is empty"),
        ("alice,example.com,x\nbob, example.com,x\n", ":2: domain ' example.com' has ' ' in it"),
        ("alice,one.test,x\nbob,one.test,x\nalice,ONE.test,y\n", ":3: alice@ONE.test stands in line 1 already"),
        ('alice,example.com,x\nbob,example.com,"x\n', ":2: unexpected end of data"),
        ('alice,example.com,x\nbob,example.com,"x"y\n', ":2: "),
        (b"alice,example.com,x\nj\xfcrgen,example.com,x\n", ":2: username 'j\\udcfcrgen' is not UTF-8"),
        (b"alice,example.com,x\nbob\x00,example.com,x\n", ":2: username 'bob\\x00' has '\\x00' in it"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_imported(
    tmp_path: Path, database: Database, content: str | bytes, says: str
) -> None:
    path = csv_file(tmp_path, content)
    with pytest.raises(DataError) as raised:
        database.import_csv(path)
    assert f"{path}{says}" in str(raised.value)
    assert database.list_subscribers() == []


def test_a_file_without_rows_imports_nobody(tmp_path: Path, database: Database) -> None:
    assert database.import_csv(csv_file(tmp_path, "")) == 0
    assert database.import_csv(csv_file(tmp_path, "username,domain,password\n")) == 0


def test_a_missing_csv_is_named(tmp_path: Path, database: Database) -> None:
    with pytest.raises(DataError, match=r"none\.csv: No such file"):
        database.import_csv(tmp_path / "none.csv")


def test_ten_thousand_rows_are_imported_in_less_than_two_seconds(tmp_path: Path, database: Database) -> None:
    path = csv_file(tmp_path, "".join(f"u{i:05},example.com,pw-{i:05}\n" for i in range(10_000)))
    begin = time.process_time()
    assert database.import_csv(path) == 10_000
    assert time.process_time() - begin < 2
    assert database.credentials("subscriber", "password", "u09999") == "pw-09999"


def test_look_ups_of_a_busy_server_see_new_subscribers_after_a_tenth_of_a_second(tmp_path: Path) -> None:
    with Database.at(tmp_path) as server, Database.at(tmp_path) as operator:
        server.refresh(100.0)
        assert server.credentials("subscriber", "password", "alice") is None
        operator.add_subscriber("alice", "", "wonderland")
        server.refresh(100.05)
        assert server.credentials("subscriber", "password", "alice") is None
        server.refresh(100.1)
        assert server.credentials("subscriber", "password", "alice") == "wonderland"
        server.add_subscriber("bob", "", "builder")  # a write of its own is not in the way
        server.refresh(99.0)  # nor a clock that was set back
        assert server.credentials("subscriber", "password", "bob") == "builder"


def test_rows_are_selected_by_the_values_of_columns() -> None:
    database = Database()
    for row in (("b", "x", "1"), ("a", "x", "2"), ("a", "y", "3")):
        database.query("INSERT INTO grp (username, domain, grp) VALUES (?, ?, ?)", row)
    assert database.select("grp", ["grp"], {"username": "a", "domain": "x"}) == [("2",)]
    assert database.select("grp", ("username", "grp"), order="grp") == [("b", "1"), ("a", "2"), ("a", "3")]
    assert database.select("grp", ["grp"], {"username": "\xff"}) == []
    for table, columns in (("nowhere", ["a"]), ("grp", ["nothing"]), ("grp]", ["a"]), ("grp", ["1, 2"])):
        with pytest.raises(DataError):
            database.select(table, columns)
    with pytest.raises(DataError, match="is no name of a table or column"):
        database.select("grp", ["grp"], order="grp DESC")


def test_all_rows_are_replaced_or_none() -> None:
    database = Database()
    columns = ("key_name", "key_value")
    database.replace("htable", columns, [("a", "1"), ("\xc3\xbc", "2")])
    database.replace("htable", columns, [("b", "3")])
    assert database.select("htable", columns) == [("b", "3")]
    for wrong in ([("c", "4"), ("d", None)], [("c", "4"), ("\xff", "5")]):
        with pytest.raises(DataError):
            database.replace("htable", columns, wrong)
        assert database.select("htable", columns) == [("b", "3")]


def test_a_secret_stays_what_it_was_at_first(tmp_path: Path) -> None:
    for fresh in (b"first", b"second"):
        with Database.at(tmp_path) as database:
            assert database.secret("one", fresh) == b"first"
            assert database.secret(f"of {fresh!r}", fresh) == fresh


def fail_inside(database: Database) -> None:
    with database.transaction():
        database.remove_subscriber("alice", "")
        database.query("DELETE FROM none")


def test_what_is_written_in_a_transaction_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    def there() -> list[str]:
        with Database.at(tmp_path) as other:
            return [who.username for who in other.list_subscribers()]

    with Database.at(tmp_path) as database:
        with database.transaction():
            database.add_subscriber("alice", "", "x")
            database.add_subscriber("bob", "", "x")
            assert there() == []
        assert there() == ["alice", "bob"]
        with pytest.raises(DataError, match="no such table"):
            fail_inside(database)
        assert there() == ["alice", "bob"]
        database.add_subscriber("carol", "", "x")  # and each for itself afterwards
        assert there() == ["alice", "bob", "carol"]
