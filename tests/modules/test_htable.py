"""htable: items by key through functions and pseudo-variables; expiry with the clock as an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from polykemi.errors import DataError, LimitReached, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.modules.base import Services
from polykemi.modules.htable import Htable
from polykemi.storage.items import LmdbItems
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.provisioned import Database
from tests.support import NOW, message, request_context, services

TABLES = (
    "a=>size=8;autoexpire=100;",
    "b=>size=8;initval=7",
    "c=>size=4;autoexpire=100;updateexpire=0;",
    "small=>maxsize=2",
)


def server(*definitions: str, **more: Any) -> Services:
    given = {"htable": definitions or TABLES, **more.pop("params", {})}
    return services(Htable, params={"htable": given}, **more)


def at(now: float = NOW) -> RouteContext:
    return request_context(message("INVITE sip:bob@example.test SIP/2.0"), now=now)


def value(made: Services, name: str, ctx: RouteContext) -> Xval:
    accessor = made.variables.compile(name)
    assert accessor is not None, name
    return accessor.get(ctx)


def assign(made: Services, name: str, new: Xval, ctx: RouteContext) -> bool:
    accessor = made.variables.compile(name)
    assert accessor is not None
    assert accessor.set is not None
    return accessor.set(ctx, new)


def test_items_keep_the_type_that_they_were_set_with() -> None:
    ht, ctx = server().modules["htable"], at()
    assert (ht.sht_get(ctx, "a", "x"), ht.sht_gete(ctx, "a", "x"), ht.sht_getw(ctx, "a", "x")) == (None, "", "<null>")
    assert ht.sht_seti(ctx, "a", "x", 5) == 1
    assert (ht.sht_get(ctx, "a", "x"), ht.sht_gete(ctx, "a", "x"), ht.sht_getw(ctx, "a", "x")) == (5, 5, 5)
    assert ht.sht_sets(ctx, "a", "x", "5") == 1
    assert ht.sht_get(ctx, "a", "x") == "5"
    assert ht.sht_rm(ctx, "a", "x") == 1
    assert ht.sht_rm(ctx, "a", "x") == 1
    assert ht.sht_get(ctx, "a", "x") is None


def test_an_initval_stands_for_items_that_are_not_there() -> None:
    ht, ctx = server().modules["htable"], at()
    assert ht.sht_get(ctx, "b", "x") == 7
    assert ht.sht_inc(ctx, "b", "x") == 8
    assert ht.sht_dec(ctx, "b", "y") == 6
    assert ht.sht_get(ctx, "b", "x") == 8


def test_only_integers_count() -> None:
    ht, ctx = server().modules["htable"], at()
    assert ht.sht_inc(ctx, "a", "new") == -255
    ht.sht_sets(ctx, "a", "s", "abc")
    assert ht.sht_dec(ctx, "a", "s") == -255
    ht.sht_seti(ctx, "a", "n", 5)
    assert [ht.sht_inc(ctx, "a", "n"), ht.sht_dec(ctx, "a", "n")] == [6, 5]


def test_what_is_null_and_why() -> None:
    ht, ctx = server().modules["htable"], at()
    ht.sht_seti(ctx, "a", "x", 5)
    assert [ht.sht_is_null(ctx, t, k) for t, k in (("a", "x"), ("a", "y"), ("b", "y"), ("zz", "y"))] == [-1, 1, -2, 2]


def test_a_table_that_is_not_defined_is_null_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    made = server()
    ht, ctx = made.modules["htable"], at()
    for _ in range(3):
        assert value(made, "$sht(ipban=>$si)", ctx) is None
        assert not assign(made, "$sht(ipban=>$si)", 1, ctx)
        assert ht.sht_get(ctx, "ipban", "x") is None
        assert [ht.sht_seti(ctx, "ipban", "x", 1), ht.sht_rm(ctx, "ipban", "x"), ht.sht_reset(ctx, "ipban")] == [
            -1,
            -1,
            -1,
        ]
        assert [ht.sht_inc(ctx, "ipban", "x"), ht.sht_match_name(ctx, "ipban", "eq", "x")] == [-255, -1]
        assert [ht.sht_iterator_start(ctx, "i", "ipban"), ht.sht_lock(ctx, "ipban", "x")] == [-1, -1]
    assert len(caplog.records) == 1


def test_items_expire_and_changing_one_starts_its_time_anew() -> None:
    ht = server().modules["htable"]
    ht.sht_seti(at(), "a", "x", 1)
    assert ht.sht_get(at(NOW + 99), "a", "x") == 1
    ht.sht_inc(at(NOW + 99), "a", "x")
    assert ht.sht_get(at(NOW + 198), "a", "x") == 2
    assert ht.sht_get(at(NOW + 199), "a", "x") is None
    ht.sht_seti(at(), "b", "x", 1)
    assert ht.sht_get(at(NOW + 1e9), "b", "x") == 1


def test_updateexpire_0_lets_items_expire_at_their_first_time() -> None:
    ht = server().modules["htable"]
    ht.sht_seti(at(), "c", "x", 1)
    ht.sht_inc(at(NOW + 50), "c", "x")
    assert ht.sht_get(at(NOW + 99), "c", "x") == 2
    assert ht.sht_get(at(NOW + 100), "c", "x") is None
    ht.sht_seti(at(NOW + 100), "c", "x", 3)
    assert ht.sht_get(at(NOW + 199), "c", "x") == 3


def test_the_expiry_of_one_item_can_be_set_and_read() -> None:
    made = server()
    ht = made.modules["htable"]
    assert ht.sht_setxs(at(), "a", "s", "text", 10) == 1
    assert ht.sht_setxi(at(), "a", "n", 5, 20) == 0
    assert [value(made, f"$shtex(a=>{key})", at(NOW + 4)) for key in ("s", "n", "none")] == [6, 16, 0]
    assert (ht.sht_get(at(NOW + 9), "a", "s"), ht.sht_get(at(NOW + 10), "a", "s")) == ("text", None)
    assert ht.sht_setex(at(), "a", "n", 3) == 1
    assert ht.sht_setex(at(), "a", "none", 3) == 1
    assert ht.sht_get(at(NOW + 3), "a", "n") is None
    assign(made, "$sht(a=>n)", 1, at())
    assert assign(made, "$shtex(a=>n)", 5, at())
    assert value(made, "$sht(a=>n)", at(NOW + 5)) is None


def test_variables_take_keys_with_variables_in_them() -> None:
    made, ctx = server(), at()
    assert assign(made, "$sht(a=>$fU)", "hey", ctx)
    assert made.modules["htable"].sht_get(ctx, "a", "alice") == "hey"
    assert value(made, "$sht(a=>$fU)", ctx) == "hey"
    assert assign(made, "$sht(a=>$fU::$si)", 3, ctx)
    assert made.modules["htable"].sht_get(ctx, "a", "alice::192.0.2.10") == 3
    assert value(made, "$shtinc(a=>$fU::$si)", ctx) == 4
    assert value(made, "$shtdec(a=>$fU::$si)", ctx) == 3
    assert assign(made, "$sht(a=>alice)", None, ctx)
    assert value(made, "$sht(a=>alice)", ctx) is None
    for wrong in ("$sht(a)", "$sht()", "$sht(=>k)", "$shtrecord(x)"):
        assert made.variables.compile(wrong) is None


def test_items_are_found_by_name_and_by_text() -> None:
    made, ctx = server(), at()
    ht = made.modules["htable"]
    for key, item in (("abc", "xyz"), ("abd", "xy"), ("n", 5)):
        assign(made, f"$sht(a=>{key})", item, ctx)
    cases = [
        ("eq", "abc", 1),
        ("eq", "ab", -1),
        ("sw", "ab", 1),
        ("re", "^a.d$", 1),
        ("re", "q", -1),
        ("ne", "abc", 1),
        ("xx", "abc", -1),
    ]
    assert [ht.sht_match_name(ctx, "a", op, text) for op, text, _ in cases] == [result for *_, result in cases]
    assert [ht.sht_match_str_value(ctx, "a", op, text) for op, text in (("eq", "xy"), ("sw", "q"), ("re", "z$"))] == [
        1,
        -1,
        1,
    ]
    assert [ht.sht_cn(ctx, "a", op, text) for op, text in (("sw", "ab"), ("re", "."), ("ne", "n"))] == [2, 3, 2]
    names = [value(made, f"$shtcn(a=>{e})", ctx) for e in ("~~^ab", "%~ab", "~%c", "==abc", "**", "^ab", "~~[")]
    assert names == [2, 2, 1, 1, 3, 2, 0]
    assert [value(made, f"$shtcv(a=>{e})", ctx) for e in ("%~xy", "==5", "eq5", "~~z")] == [2, 0, 1, 1]
    assert ht.sht_match_name(at(NOW + 100), "a", "eq", "abc") == -1
    assert ht.sht_cn(at(NOW + 100), "a", "re", ".") == 0


def test_many_items_are_removed_at_once() -> None:
    made, ctx = server(), at()
    ht = made.modules["htable"]
    for key, item in (("a1", "x"), ("a2", "y"), ("b1", "x"), ("n", 5)):
        assign(made, f"$sht(b=>{key})", item, ctx)
    assert ht.sht_rm_name(ctx, "b", "sw", "a") == 1
    assert ht.sht_rm_name(ctx, "b", "eq", "n") == -1
    assert ht.sht_rm_name_re(ctx, "b", "(") == -1
    assert ht.sht_rm_value(ctx, "b", "re", "5") == 1  # integers have no text
    assert list(ht.tables["b"].items) == ["b1", "n"]
    assert ht.sht_rm_value_re(ctx, "b", "^x$") == 1
    assert list(ht.tables["b"].items) == ["n"]
    assert ht.sht_reset(ctx, "b") == 0
    assert list(ht.tables["b"].items) == []


def test_an_iterator_goes_through_a_table_that_is_changed_meanwhile() -> None:
    made, ctx = server(), at()
    ht = made.modules["htable"]
    for n in range(4):
        ht.sht_seti(ctx, "b", f"k{n}", n)
    assert ht.sht_iterator_next(ctx, "i") == -1
    assert ht.sht_iterator_start(ctx, "i", "b") == 1
    assert value(made, "$shtitkey(i)", ctx) is None
    assert ht.sht_iterator_sets(ctx, "i", "x") == -1
    assert ht.sht_iterator_next(ctx, "i") == 1
    assert (value(made, "$shtitkey(i)", ctx), value(made, "$shtitval(i)", ctx)) == ("k0", 0)
    assert ht.sht_iterator_sets(ctx, "i", "text") == 1
    assert value(made, "$shtitval(i)", ctx) == "text"
    assert ht.sht_iterator_seti(ctx, "i", 9) == 1
    assert ht.sht_iterator_setex(ctx, "i", 5) == 1
    assert ht.sht_get(at(NOW + 4), "b", "k0") == 9
    ht.sht_rm(ctx, "b", "k1")
    ht.sht_seti(ctx, "b", "new", 1)
    assert ht.sht_iterator_next(ctx, "i") == 1
    assert value(made, "$shtitkey(i)", ctx) == "k2"
    assert ht.sht_iterator_rm(ctx, "i") == 1
    assert value(made, "$shtitkey(i)", ctx) == "k3"
    assert ht.sht_iterator_rm(ctx, "i") == -2
    assert ht.sht_iterator_rm(ctx, "i") == -1
    assert ht.sht_iterator_end(ctx, "i") == 1
    assert ht.sht_iterator_end(ctx, "i") == -1
    assert list(ht.tables["b"].items) == ["k0", "new"]


def test_there_are_four_iterators_at_most() -> None:
    ht, ctx = server().modules["htable"], at()
    assert [ht.sht_iterator_start(ctx, f"i{n}", "a") for n in range(5)] == [1, 1, 1, 1, -1]
    assert ht.sht_iterator_start(ctx, "i0", "a") == 1


def test_a_full_table_takes_no_new_items() -> None:
    ht, ctx = server().modules["htable"], at()
    assert [ht.sht_seti(ctx, "small", key, 1) for key in ("x", "y")] == [1, 1]
    with pytest.raises(LimitReached, match="3 items of htable small, and its maxsize is 2"):
        ht.sht_seti(ctx, "small", "z", 1)
    assert ht.sht_seti(ctx, "small", "x", 1) == 1
    ht.sht_rm(ctx, "small", "x")
    assert ht.sht_seti(ctx, "small", "z", 1) == 1


def test_the_timer_removes_expired_items_bit_by_bit_and_tells_an_event_route() -> None:
    made = server(params={"event_callback": "ksr_htable_event"})
    ht = made.modules["htable"]
    (block,) = made.events
    assert (block.callback, block.event) == ("ksr_htable_event", "htable:mod-init")
    made.events.clear()
    for n in range(2500):
        ht.sht_setxi(at(), "a", f"k{n}", n, 10 if n else 1000)
    assert ht.next_timeout() == NOW + 20
    ht.handle_timer(NOW + 19)
    assert len(ht.tables["a"].items) == 2500
    ht.handle_timer(NOW + 20)
    assert len(ht.tables["a"].items) == 500
    ht.handle_timer(ht.next_timeout())
    assert list(ht.tables["a"].items) == ["k0"]
    assert ht.next_timeout() > NOW + 40
    ctx = made.events[0]
    assert (ctx.callback, ctx.event, len(made.events)) == ("ksr_htable_event", "htable:expired:a", 2499)
    assert (value(made, "$shtrecord(key)", ctx), value(made, "$shtrecord(value)", ctx)) == ("k2499", 2499)
    assert value(made, "$shtrecord(key)", at()) is None


def test_a_table_is_loaded_from_the_database() -> None:
    database = Database()
    database.query(
        "CREATE TABLE items (id INTEGER PRIMARY KEY, key_name TEXT, key_type INT, value_type INT, key_value TEXT)"
    )
    for row in (("text", 0, 0, "abc"), ("number", 0, 1, "42"), ("list", 1, 0, "x"), ("list", 1, 0, "y")):
        database.query("INSERT INTO items (key_name, key_type, value_type, key_value) VALUES (?, ?, ?, ?)", row)
    made = server("t=>size=4;dbtable=items;", database=database)
    expected = {"text": "abc", "number": 42, "list[0]": "x", "list[1]": "y", "list::size": 2}
    assert {key: made.modules["htable"].sht_get(at(), "t", key) for key in expected} == expected
    database.query("UPDATE items SET key_value = 'many' WHERE key_name = 'number'")
    for definition in ("t=>dbtable=items", "t=>dbtable=none", 't=>dbtable=no"name'):
        with pytest.raises(DataError):
            server(definition, database=database)


@pytest.mark.parametrize("definition", ["", "x", "=>size=8", "x=>size=big", "x=>colour=red"])
def test_a_wrong_definition_is_an_error_when_the_server_starts(definition: str) -> None:
    with pytest.raises(ValueError, match="htable"):
        Htable.Params(htable=(definition,))


def test_a_table_of_other_columns_is_loaded() -> None:
    database = Database()
    database.query("CREATE TABLE people (who TEXT, floor INT, name TEXT)")
    database.query("INSERT INTO people VALUES ('a', 3, 'Ann'), ('b', NULL, 'Bo')")
    made = server("t=>dbtable=people;cols='who,floor,name'", database=database)
    assert made.modules["htable"].tables["t"].items.keys() == {"a", "b"}
    assert [made.modules["htable"].sht_get(at(), "t", key) for key in "ab"] == ["3,Ann", "*,Bo"]
    database.query("ALTER TABLE people RENAME COLUMN floor TO story")
    with pytest.raises(RpcError, match="no such column"):
        made.modules["htable"].reload_table("t", now=NOW)


def test_tables_are_stored_when_the_server_ends_and_found_again_with_their_times() -> None:
    database = Database()
    definition = "t=>dbtable=htable;dbmode=1;autoexpire=60"
    made = server(definition, database=database, params={"db_expires": 1})
    ht = made.modules["htable"]
    ht.sht_sets(at(), "t", "text", "x")
    ht.sht_seti(at(NOW + 20), "t", "number", -7)
    ht.sht_setxs(at(), "t", "gone", "x", 5)
    ht.stop(NOW + 30)
    ht = server(definition, database=database, params={"db_expires": 1}).modules["htable"]
    assert {key: value for key, (value, _) in ht.tables["t"].items.items()} == {"text": "x", "number": -7}
    assert [ht.tables["t"].expiry(key, NOW) for key in ("text", "number")] == [60, 80]


def test_an_operator_reads_and_writes_items() -> None:
    ht = server("a=>autoexpire=60", "b=>size=4;maxsize=1").modules["htable"]
    assert ht.set_text("a", "k", "v", now=NOW) == "Ok. Key set to new value."
    assert ht.set_integer("b", "n", 7, now=NOW) == "Ok. Key set to new value."
    assert ht.get_item("a", "k", now=NOW) == {
        "item": {"name": "k", "value": "v", "flags": 2, "expire": "2027-01-15 08:01:00"}
    }
    assert ht.get_item("b", "n", now=NOW)["item"] == {"name": "n", "value": 7, "flags": 0, "expire": "NEVER"}
    assert ht.set_expiring_text("a", "s", "w", 5, now=NOW) == ht.set_expiring_integer("a", "i", 8, 9, now=NOW)
    assert ht.set_expiry("a", "k", 3, now=NOW) == "Ok"
    assert [one["name"] for one in ht.dump("a", now=NOW + 4)[0]["slot"]] == ["s", "i"]
    assert ht.dump("a", now=NOW + 4)[0]["slot"][1] == {"name": "i", "value": 8, "type": "int"}
    assert ht.stats() == [
        {"name": "a", "slots": 1, "all": 3, "min": 3, "max": 3},
        {"name": "b", "slots": 1, "all": 1, "min": 1, "max": 1},
    ]
    assert ht.delete_item("a", "s", now=NOW) == "Ok. Key deleted."
    assert ht.flush("b") == "Ok. Htable flushed."
    assert ht.dump("b", now=NOW) == []
    assert ht.list_tables()[0] == {
        "name": "a",
        "dbtable": "",
        "dbmode": 0,
        "expire": 60,
        "updateexpire": 1,
        "size": 1,
        "dmqreplicate": 0,
    }
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: ht.get_item("x", "k", now=NOW), "No such htable"),
        (lambda: ht.get_item("a", "s", now=NOW), "Key name doesn't exist"),
        (lambda: ht.delete_item("a", "s", now=NOW), "Key not found"),
        (lambda: ht.set_text("b", "1", "", now=NOW) + ht.set_text("b", "2", "", now=NOW), "Failed to set the item"),
        (lambda: ht.reload_table("a", now=NOW), "No database htable"),
        (lambda: ht.store_table("a", now=NOW), "No database htable"),
    ]
    for call, cause in calls:
        with pytest.raises(RpcError, match=cause):
            call()


def test_an_operator_reads_a_table_anew_and_stores_it() -> None:
    database = Database()
    made = server("t=>dbtable=htable", database=database, params={"event_callback": "ksr_ht"})
    ht = made.modules["htable"]
    made.events.clear()
    ht.set_text("t", "k", "v", now=NOW)
    assert ht.store_table("t", now=NOW) == "Ok. Htable successfully stored to DB."
    ht.set_text("t", "k", "w", now=NOW)
    assert ht.reload_table("t", now=NOW) == "Ok. Htable reloaded."
    assert ht.sht_get(at(), "t", "k") == "v"
    assert [ctx.event for ctx in made.events] == ["htable:reloaded:t"]
    database.query("UPDATE htable SET value_type = 1")
    with pytest.raises(RpcError, match=r"Htable reload failed: .*'v' is no integer"):
        ht.reload_table("t", now=NOW)
    assert ht.sht_get(at(), "t", "k") == "v"


# ---- persist=1


KEPT = ("kept=>persist=1;autoexpire=100", "lost=>size=8")


class Kept:
    """One server after the other, whose tables with persist=1 are in the same place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items = LmdbItems(path)

    def __call__(self, now: float = NOW) -> Services:
        """Start the next one. The one before is gone, and has done nothing at its end that ``kill -9`` would not let it."""
        self._items.close()
        self._items = LmdbItems(self._path)
        return server(*KEPT, items=self._items, start=now)

    def stored(self) -> list[str]:
        """Return the keys that are there."""
        return [key for key, _ in self._items.load("kept")]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    one = Kept(tmp_path / "items")
    yield one
    one._items.close()


def end_turn(made: Services) -> None:
    """Do what the router does before anything leaves."""
    while made.commits:
        made.commits.pop()()


def test_what_has_changed_in_a_turn_is_there_in_the_next_process(kept: Kept) -> None:
    made = kept()
    ht, ctx = made.modules["htable"], at()
    long, odd = "k" * 2000, "\xff\x00 key"
    ht.sht_sets(ctx, "kept", "text", "a\xe9\x00b")
    ht.sht_seti(ctx, "kept", "number", -7)
    ht.sht_sets(ctx, "kept", long, "long")
    ht.sht_sets(ctx, "kept", odd, "")
    ht.sht_setxs(ctx, "kept", "soon", "x", 10)
    ht.sht_sets(ctx, "lost", "text", "x")
    assert len(made.commits) == 1  # one transaction, however much it is
    end_turn(made)
    # it is not closed: what was committed is there for whoever comes
    again = kept(NOW + 5).modules["htable"]
    ctx = at(NOW + 5)
    assert [again.sht_get(ctx, "kept", key) for key in ("text", "number", long, odd)] == ["a\xe9\x00b", -7, "long", ""]
    assert again.tables["kept"].expiry("soon", NOW + 5) == 5  # the time goes on
    assert again.sht_get(ctx, "lost", "text") is None
    late = kept(NOW + 50).modules["htable"]
    assert late.sht_get(at(NOW + 50), "kept", "soon") is None


def test_changes_of_every_kind_are_kept(kept: Kept) -> None:
    made = kept()
    ht, ctx = made.modules["htable"], at()
    for key in ("a", "b", "c", "d", "e"):
        ht.sht_seti(ctx, "kept", key, 1)
    end_turn(made)
    ht.sht_rm(ctx, "kept", "a")
    ht.sht_inc(ctx, "kept", "b")
    assign(made, "$sht(kept=>c)", "text", ctx)
    ht.sht_setex(ctx, "kept", "d", 7)
    ht.sht_rm_name(ctx, "kept", "re", "^e$")
    end_turn(made)
    again = kept().modules["htable"]
    assert {key: item[0] for key, item in again.tables["kept"].items.items()} == {"b": 2, "c": "text", "d": 1}
    assert again.tables["kept"].expiry("d", NOW) == 7


@pytest.mark.parametrize("how", ["sht_reset", "flush"])
def test_an_emptied_table_stays_empty_but_for_what_came_then(kept: Kept, how: str) -> None:
    made = kept()
    ht, ctx = made.modules["htable"], at()
    ht.sht_seti(ctx, "kept", "a", 1)
    end_turn(made)
    ht.sht_seti(ctx, "kept", "b", 1)
    assert ht.sht_reset(ctx, "kept") == 0 if how == "sht_reset" else ht.flush("kept")
    ht.sht_seti(ctx, "kept", "c", 1)
    end_turn(made)
    assert list(kept().modules["htable"].tables["kept"].items) == ["c"]


def test_expired_items_are_removed_from_the_disk_too(kept: Kept) -> None:
    made = kept()
    ht = made.modules["htable"]
    ht.sht_seti(at(), "kept", "a", 1)
    end_turn(made)
    ht.handle_timer(NOW + 200)
    end_turn(made)
    assert kept.stored() == []


def test_what_was_not_told_of_is_not_there(kept: Kept) -> None:
    made = kept()
    made.modules["htable"].sht_seti(at(), "kept", "a", 1)
    assert kept().modules["htable"].sht_get(at(), "kept", "a") is None


def test_a_disk_that_takes_nothing_is_told_of_and_all_is_stored_with_the_next_change(kept: Kept) -> None:
    made = kept()
    ht = made.modules["htable"]
    store = made.items

    class Full:
        def write(self, changes: object) -> None:
            raise DataError("no room")

    made.items = Full()  # type: ignore[assignment]
    ht.sht_seti(at(), "kept", "a", 1)
    with pytest.raises(DataError, match="no room"):
        end_turn(made)
    assert made.commits == []  # who does not touch the table goes on
    made.items = store
    ht.sht_seti(at(), "kept", "b", 1)
    end_turn(made)
    assert list(kept().modules["htable"].tables["kept"].items) == ["a", "b"]


def test_persist_stands_beside_no_dbtable() -> None:
    with pytest.raises(ValueError, match="htable a: persist=1 and dbtable=t, expected one of them"):
        server("a=>persist=1;dbtable=t")


def test_a_file_that_is_something_else_is_told(tmp_path: Path, kept: Kept) -> None:
    LmdbLocation(tmp_path / "items").close()
    with pytest.raises(DataError, match="not a store of items of this version"):
        kept()


def test_an_item_that_cannot_be_read_costs_itself(tmp_path: Path, kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    made = kept()
    for key in ("a", "b", "c"):
        made.modules["htable"].sht_seti(at(), "kept", key, 1)
    end_turn(made)
    made.items.close()
    with lmdb.open(str(tmp_path / "items"), max_dbs=9) as env:
        table = env.open_db(b":kept", create=False)
        with env.begin(write=True, db=table) as txn:
            txn.put(b":a", b"cut")
            txn.put(b":b", (txn.get(b":b") or b"") + b"no number")
    assert list(kept().modules["htable"].tables["kept"].items) == ["c"]
    assert "table kept: b':a' is no item: unpack_from requires" in caplog.text
