"""What the server keeps is bounded, whatever the network or a script puts into it: docs/limits.md names these bounds."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import DataError
from polykemi.kemi import pattern
from polykemi.kemi.limits import ScriptLimits
from polykemi.logs import Few
from polykemi.modules import dialog_state, dispatcher_load, mqueue, pipelimit, registrar_contacts, registration
from polykemi.modules.auth import AuthParams, Nonces
from polykemi.modules.dialog_profiles import Profiles
from polykemi.modules.dialog_state import CONFIRMED_NA, Dialog, DialogTable
from polykemi.modules.dispatcher_load import Loads
from polykemi.modules.htable_table import MAXSIZE, parse_definition
from polykemi.overload import OverloadLimits
from polykemi.sip import message
from polykemi.sip.digest import parse_credentials
from polykemi.sip.message import Request, parse
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import MOST_STAGED, Binding, MemoryLocation
from polykemi.storage.sql_location import WRITE_THROUGH, MirroredLocation, SqlLocation
from polykemi.testing import ServerUnderTest
from polykemi.transport import resolver
from polykemi.transport.limits import StreamLimits
from tests.test_router import PEER, request

SCRIPT = """
function ksr_request_route()
  local n = KSR.pv.get("$ci")
  KSR.pv.sets("$shv(" .. n .. ")", "x")
  KSR.pvx.var_sets("v" .. n, "x")
  KSR.mqueue.mq_add("queue", n, "x")
  KSR.htable.sht_sets("table", n, "x")
  KSR.pipelimit.pl_check_limit(n, "TAILDROP", 10)
  KSR.pike.pike_check_ip("10." .. (n % 250) .. "." .. math.floor(n / 250) .. ".1")
  KSR.textops.search("a" .. n)
  KSR.nathelper.is_rfc1918("x" .. n)
  KSR.sl.sl_send_reply(200, "OK")
end
"""
MANY = 400


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerUnderTest]:
    """A server whose limits are small."""
    monkeypatch.setattr(mqueue, "SIZE", 100)
    monkeypatch.setattr(pipelimit, "MOST_PIPES", 100)
    (tmp_path / "route.lua").write_text(SCRIPT)
    params: dict[str, dict[str, Any]] = {
        "mqueue": {"mqueue": ["name=queue"]},
        "htable": {"htable": ["table=>autoexpire=60;maxsize=100;"]},
    }
    with ServerUnderTest(
        {"lua": tmp_path / "route.lua"}, domains=["example.test"], modules=params, limits=ScriptLimits(variables=100)
    ) as one:
        yield one


@pytest.mark.pure
def test_names_from_the_network_do_not_fill_what_scripts_keep(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(MANY):
        assert server.receive(request(Call_ID=str(n)), PEER)[0].start_line == "SIP/2.0 200 OK"
    modules: Any = server.node.modules
    environment = server.node.services.variables.environment
    assert (len(environment.variables), len(environment.shared)) == (100, 100)
    assert [item[0] for item in modules["mqueue"].queues["queue"].items] == [str(n) for n in range(300, 400)]
    assert len(modules["htable"].tables["table"].items) == 100
    assert len(modules["pipelimit"]._pipes) == 100
    assert caplog.text.count("101 variables with ") == 2 * 300
    assert "KSR.pvx.var_sets: 101 variables with 'v399', and [limits] variables is 100 at " in caplog.text
    assert re.search(r"KSR.pv.sets: .* at .*route.lua:4", caplog.text)
    assert caplog.text.count("there are 100 pipes, all in use") == 1
    assert "KSR.htable.sht_sets: 101 items of htable table, and its maxsize is 100 at " in caplog.text
    server.advance(25)  # two intervals later the pipes are unused
    server.receive(request(Call_ID="7777"), PEER)
    assert len(modules["pipelimit"]._pipes) == 1
    environment.variables["v5"] = "changed"  # those that are there can be set still
    assert environment.variables["v5"] == "changed"


def test_a_table_without_a_size_has_one() -> None:
    assert parse_definition("t=>size=8").maxsize == MAXSIZE
    assert parse_definition("t=>size=8;maxsize=0").maxsize == 0


def dialog(n: int, call_id: str = "") -> Dialog:
    one = Dialog(n % 64, n, call_id or str(n), "sip:a@b", "sip:b@b", "sip:b@b", 0.0, 43_200)
    one.legs[0].tag = str(n)
    return one


def test_ended_dialogs_leave_no_timers() -> None:
    table = DialogTable(64)
    for n in range(10_000):
        one = dialog(n)
        table.add(one)
        table.schedule(one, n + 5.0)
        table.schedule(one, n + 43_200.0)  # it was answered
        table.schedule(one, n + 6.0)  # it has ended
        list(table.due(float(n)))
        if n >= 10:
            table.remove(table.of_call_id(str(n - 10))[0])
    assert len(table) == 10
    assert len(table._due) < 200


def test_a_dialog_that_is_refreshed_for_ever_has_few_timers_and_all_that_hold() -> None:
    table, one = DialogTable(64), dialog(1)
    table.add(one)
    one.state = CONFIRMED_NA
    one.ack_until = 60.0
    table.wake(one, 60.0)
    one.keepalive = 30.0
    table.wake(one, 30.0)
    for n in range(10_000):
        table.schedule(one, 43_200.0 + n)
    assert len(table._due) < 200
    due = []
    while table.next_timeout() is not None:
        at = table.next_timeout()
        assert at is not None
        due += [at for _ in table.due(at)]
    assert due[:2] == [30.0, 60.0]
    assert due[-1] == 43_200.0 + 9_999


@pytest.mark.pure
def test_there_are_no_more_dialogs_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialog_state, "MOST_DIALOGS", 100)
    table = DialogTable(64)
    for n in range(100):
        assert table.has_room(str(n))
        table.add(dialog(n))
    assert not table.has_room("new")
    table.remove(table.of_call_id("1")[0])
    assert table.has_room("new")


def test_a_call_id_has_no_more_dialogs_than_can_be_looked_through(tmp_path: Path) -> None:
    script = tmp_path / "route.lua"
    script.write_text('function ksr_request_route() KSR.sl.sl_send_reply(200 + KSR.dialog.dlg_manage(), "OK") end')
    with ServerUnderTest({"lua": script}, domains=["example.test"]) as server:
        answers = []
        for n in range(100):
            invite = request(
                "INVITE", From=f"<sip:a@b>;tag={n}", Contact="<sip:a@b>", Via=f"SIP/2.0/UDP h;branch=z9hG4bK{n}"
            )
            answers.append(server.receive(invite, PEER)[0].data[8:11])
        assert (answers.count(b"201"), answers.count(b"199")) == (64, 36)
        assert server.node.services.counters["dialog.failed_dialogs"] == 36
        server.advance(400)
        assert len(server.node.modules["dialog"].table) == 0  # type: ignore[attr-defined]


def test_profiles_count_their_dialogs() -> None:
    profiles = Profiles(["caller"], ["all"])
    dialogs = [dialog(n) for n in range(50)]
    for one in dialogs:
        profiles.join(one, "caller", one.call_id)
        profiles.join(one, "caller", "same")
        profiles.join(one, "all", "")
    assert (profiles.size("caller", None), profiles.size("caller", "same"), profiles.size("all", None)) == (100, 50, 50)
    for one in dialogs[:20]:
        profiles.leave_all(one)
    assert (profiles.size("caller", None), profiles.size("caller", "same"), profiles.size("all", None)) == (60, 30, 30)
    assert profiles.size("nothing", None) == 0
    for one in dialogs:
        profiles.leave_all(one)
    assert not profiles._counts


@pytest.mark.pure
def test_no_more_calls_are_counted_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polykemi.modules.dispatcher_load.MOST_CALLS", 10)

    class Destination:
        load = 0
        uri, setid = "sip:a@b", 1

        class attrs:  # noqa: N801
            duid = "x"

    loads, destination = Loads(8, 7200, 0, lambda _: None), Destination()
    assert sum(loads.add(str(n), destination, 0.0) for n in range(20)) == 10  # type: ignore[arg-type]
    assert destination.load == 10


@pytest.mark.pure
def test_long_texts_are_not_kept_compiled(server: ServerUnderTest) -> None:
    variables = server.node.services.variables
    for n in range(50):
        text = "x" * 5000 + str(n)
        assert variables.text(text)(None) == text  # type: ignore[arg-type]
        assert variables.getters[f"$var({text})"](None) == 0  # type: ignore[arg-type]
    assert not any(
        len(text) > 4096 for cache in (variables._texts, variables.getters, variables._accessors) for text in cache
    )


def test_very_many_names_take_no_memory_of_the_process(tmp_path: Path) -> None:
    location = LmdbLocation(tmp_path)
    binding = Binding("sip:a@h", 2e9, -1, "call", 1, "ua", "", "", "udp:h:5060", 0, 0, 0)

    def register(first: int, last: int) -> None:
        for n in range(first, last):
            location.put("location", f"user{n}@example.test", [binding])
            if n % 50 == 49:
                location.commit()

    register(0, 1000)
    tracemalloc.start()
    register(1000, 40_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 200_000
    assert len(location.get("location", "user39999@example.test")) == 1
    location.close()


@pytest.mark.pure
def test_used_nonces_are_forgotten(tmp_path: Path) -> None:
    nonces = Nonces(b"k" * 32, 1, AuthParams(nonce_count=1, nc_array_size=100))
    data = parse(request("REGISTER"))
    assert isinstance(data, Request)
    for n in range(1000):
        nonce = nonces.make("", 1000.0 + n / 100)
        credentials = parse_credentials(
            f'Digest username="a", realm="r", nonce="{nonce}", uri="sip:h", response="{"0" * 32}", qop=auth, nc=00000001, cnonce=c'
        )
        assert nonces.check(credentials, "", data, 1000.0 + n / 100) > 0
        nonces.use(credentials, data, 1000.0 + n / 100)
    assert len(nonces) == 100


def test_a_cached_message_shape_is_small() -> None:
    for n in range(3000):
        names = "".join(f"X-{n}-{i}: y\r\n" for i in range(n % 60))
        parse(request().replace(b"Content-Length", f"{names}Content-Length".encode()))
    assert len(message._shapes) <= 1024
    assert len(message._likely) <= 65


@pytest.mark.pure
def test_a_full_disk_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polykemi.storage.lmdb_location.MOST_STAGED", 100)
    location = LmdbLocation(tmp_path)
    binding = Binding("sip:a@h", 2e9, -1, "call", 1, "ua", "", "", "udp:h:5060", 0, 0, 0)

    def full(action: object) -> None:
        raise DataError("cannot grow: No space left on device")

    assert location.get("location", "nobody") == []  # the table is there
    with monkeypatch.context() as disk:
        disk.setattr(location._file, "retrying", full)
        for n in range(250):
            location.put("location", f"user{n}", [binding])
            with pytest.raises(DataError, match="No space left"):
                location.commit()
            assert sum(map(len, location._staged.values())) <= 101
    location.commit()
    assert [aor for aor, _ in location.items("location")] == sorted(f"user{n}" for n in range(202, 250))
    location.close()


@pytest.mark.pure
@pytest.mark.parametrize("kind", ["mirrored", "alone"])
def test_a_database_that_takes_nothing_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("polykemi.storage.sql_location.MOST_STAGED", 100)

    class Rows:
        """A database that is gone."""

        def write(self, rows: object) -> None:
            raise DataError("database is locked")

    rows: Any = Rows()
    location: Any = MirroredLocation(MemoryLocation(), rows, WRITE_THROUGH) if kind == "mirrored" else SqlLocation(rows)
    for n in range(250):
        location.put("location", f"user{n}", [])
        with pytest.raises(DataError, match="locked"):
            location.commit()
        assert len(location._changed if kind == "mirrored" else location._staged) <= 100


def test_the_page_tells_the_limits_that_hold() -> None:
    page = (Path(__file__).parents[1] / "docs" / "limits.md").read_text()
    limits = StreamLimits()
    for what, limit in {
        "transactions": OverloadLimits().transactions,
        "dialogs": dialog_state.MOST_DIALOGS,
        "dialogs |": dialog_state.MOST_OF_CALL_ID,
        "items of a hash table": MAXSIZE,
        "items of a queue": mqueue.SIZE,
        "pipes": pipelimit.MOST_PIPES,
        "calls that count as load": dispatcher_load.MOST_CALLS,
        "names of `$var`": ScriptLimits().variables,
        "header lines": message.MAX_HEADERS,
        "contacts in a REGISTER": registrar_contacts.MOST_CONTACTS,
        "contacts of an address of record": registration.MOST_OF_AOR,
        "contacts |": MOST_STAGED,
        "connections |": limits.max_connections,
        "connections that one address opens": limits.accept_iplimit,
        "a message over TCP": limits.longest_message,
        "log lines": Few.MOST,
        "answers of DNS": resolver.MOST,
        "a regular expression of a script": pattern.MAX_SOURCE,
        "one use of a regular expression": int(pattern.SECONDS * 1000),
    }.items():
        (row,) = re.findall(rf"^\| {re.escape(what)}.*", page, re.MULTILINE)
        assert re.search(rf"\b{limit:,}\b", row), (what, limit)
