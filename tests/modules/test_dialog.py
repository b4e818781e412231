"""dialog: what time does to dialogs, who is asked whether they live, and what an operator sees of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import DataError, RpcError
from polykemi.kemi.rpc import commands_of
from polykemi.modules.dialog import DialogModule
from polykemi.modules.dialog_params import DialogParams
from polykemi.modules.dialog_state import CONFIRMED, CONFIRMED_NA, DELETED, UNCONFIRMED, DialogTable
from polykemi.sip.message import Response, parse
from polykemi.storage.provisioned import Database
from polykemi.testing import Sent, ServerUnderTest

ALICE, BOB = "192.0.2.10:5060", "192.0.2.20:5060"
SCRIPT = """
function ksr_request_route()
    if KSR.is_INVITE() and KSR.pv.is_null("$tt") then
        KSR.dialog.dlg_set_property("ka-dst")
        KSR.pv.sets("$dlg_ctx(timeout_route)", "over")
        if KSR.dialog.dlg_manage() < 0 then KSR.sl.sl_send_reply(400, "No dialog") return end
        KSR.dialog.set_dlg_profile("caller", KSR.pv.get("$fU"))
        KSR.dialog.var_sets("color", "green")
        if KSR.pv.get("$rU") == "nobody" then KSR.sl.sl_send_reply(404, "Not Found") return end
        KSR.seturi("sip:bob@192.0.2.20")
    else
        KSR.dialog.dlg_manage()
    end
    KSR.tm.t_relay()
end
function events(name)
    KSR.pv.sets("$shv(events)", (KSR.pv.get("$shv(events)") or "") .. name .. " ")
end
"""


class Bench:
    """A server that follows calls of alice to bob."""

    def __init__(self, directory: Path, database: Database | None = None, **params: Any) -> None:
        script = directory / "script.lua"
        script.write_text(SCRIPT)
        params = {"event_callback": "events", "profiles_with_value": "caller", **params}
        self.server = ServerUnderTest({"lua": script}, modules={"dialog": params}, database=database)
        self.dialogs: DialogModule = self.server.node.services.modules["dialog"]

    @property
    def events(self) -> str:
        return str(self.server.node.services.variables.environment.shared.get("events", ""))

    @property
    def state(self) -> int:
        states = [dialog.state for dialog in self.dialogs.table]
        return states[0] if states else 0

    def send(self, method: str, cseq: int, user: str = "bob", to_tag: str = "") -> list[Sent]:
        tag = f";tag={to_tag}" if to_tag else ""
        return self.server.receive(
            f"{method} sip:{user}@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP {ALICE};branch=z9hG4bK{method}{cseq}\r\n"
            f"From: <sip:alice@a>;tag=a1\r\nTo: <sip:{user}@a>{tag}\r\nCall-ID: call\r\nCSeq: {cseq} {method}\r\n"
            "Contact: <sip:alice@192.0.2.10>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n".encode(),
            ALICE,
        )

    def answer(self, request: Sent, status: int = 200) -> list[Sent]:
        message = parse(request.data)
        lines = [line for line in message.lines if line.split(":")[0] in ("Via", "From", "Call-ID", "CSeq")]
        to = message.get("to") or ""
        to = to if "tag=" in to else to + ";tag=b1"
        text = "\r\n".join([f"SIP/2.0 {status} Fine", *lines, f"To: {to}", "Contact: <sip:bob@192.0.2.20>"])
        return self.server.receive((text + "\r\nContent-Length: 0\r\n\r\n").encode(), request.to)

    def call(self) -> None:
        """Let bob answer and alice acknowledge."""
        invite = next(s for s in self.send("INVITE", 1) if s.to == BOB)
        self.answer(invite)
        self.send("ACK", 1, to_tag="b1")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path, default_timeout=100, send_bye=1)
    with one.server:
        yield one


def test_a_call_that_lasts_too_long_is_ended_on_both_sides(bench: Bench) -> None:
    bench.call()
    assert bench.state == CONFIRMED
    sent = bench.server.advance(99)
    assert not [s for s in sent if s.start_line.startswith("BYE")]
    byes = [s for s in bench.server.advance(1.5) if s.start_line.startswith("BYE")]
    assert [s.to for s in byes][:2] == [ALICE, BOB]
    assert "dialog:timeout" in bench.events
    assert bench.events.split()[-1] == "dialog:end"
    bench.answer(byes[0])
    assert len(bench.dialogs.table) == 0
    bench.answer(byes[1])
    counters = bench.server.node.services.counters
    assert (counters["dialog.active_dialogs"], counters["dialog.expired_dialogs"]) == (0, 1)


def test_without_send_bye_it_is_only_forgotten(tmp_path: Path) -> None:
    bench = Bench(tmp_path, default_timeout=100)
    with bench.server:
        bench.call()
        sent = bench.server.advance(101)
        assert not [s for s in sent if s.start_line.startswith("BYE")]
        assert bench.state == DELETED
        assert bench.events.split()[-1] == "dialog:end"
        bench.server.advance(6)
        assert len(bench.dialogs.table) == 0


def test_a_call_without_ack_ends_after_noack_timeout(bench: Bench) -> None:
    bench.answer(next(s for s in bench.send("INVITE", 1) if s.to == BOB))
    assert bench.state == CONFIRMED_NA
    sent = bench.server.advance(72)
    assert [s.to for s in sent if s.start_line.startswith("BYE")][:2] == [ALICE, BOB]


def test_a_call_that_the_script_refuses_without_a_transaction_is_gone_soon(bench: Bench) -> None:
    bench.send("INVITE", 1, "nobody")
    assert bench.state == UNCONFIRMED
    assert bench.dialogs.profiles.size("caller", "alice") == 1
    bench.server.advance(6)
    assert len(bench.dialogs.table) == 0
    assert bench.dialogs.profiles.size("caller", "alice") == 0


def test_a_side_that_does_not_know_the_call_any_more_ends_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ka_timer=10, ka_interval=30, send_bye=1)
    with bench.server:
        bench.call()
        asked = [s for s in bench.server.advance(30.2) if s.start_line.startswith("OPTIONS")]
        assert [s.to for s in asked] == [BOB]
        bench.answer(asked[0], 200)
        asked = [s for s in bench.server.advance(30) if s.start_line.startswith("OPTIONS")]
        bench.answer(asked[0], 481)
        assert bench.state == CONFIRMED
        sent = bench.server.advance(11)
        assert [s.to for s in sent if s.start_line.startswith("BYE")][:2] == [ALICE, BOB]


def ask(bench: Bench, method: str, *params: Any) -> Any:
    """Ask as an operator does."""
    commands = {one.name: one for one in commands_of(bench.dialogs)}
    return commands[f"dlg.{method}"].run(params, bench.server.now)


def refused(bench: Bench, method: str, *params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as raised:
        ask(bench, method, *params)
    return raised.value.code, str(raised.value)


def test_an_operator_finds_dialogs(bench: Bench) -> None:
    bench.send("INVITE", 1)
    (early,) = ask(bench, "list_ctx")
    assert early["callee"] == dict.fromkeys(("tag", "contact", "cseq", "route_set", "socket"))
    assert (
        ask(bench, "list_match", "callid", "eq", "call")
        == ask(bench, "list_match_ctx", "furi", "re", "^sip:A")
        == [early]
    )
    assert refused(bench, "list_match", "turi", "sw", "sips:") == (404, "Not found")
    assert refused(bench, "list_match", "ruri", "re", "nobody") == (404, "Not found")
    assert refused(bench, "list_match") == (500, "Invalid parameters")
    assert refused(bench, "list_match", "color", "eq", "x") == (500, "Invalid matching key parameter")
    assert refused(bench, "list_match", "furi", "gt", "x") == (500, "Invalid matching operator parameter")
    assert refused(bench, "list_match", "furi", "re", "(") == (500, "Invalid matching value parameter")
    ident = {"h_entry": early["h_entry"], "h_id": early["h_id"]}
    assert ask(bench, "briefing", "scx") == [ident | {"state": early["state"], "call-id": "call"}]
    assert set(ask(bench, "briefing")[0]) == {*ident, "from_uri", "to_uri", "call-id", "from_tag", "to_tag"}


def test_an_operator_asks_for_the_state_of_a_dialog_and_sets_it(bench: Bench) -> None:
    bench.call()
    (listed,) = ask(bench, "list")
    ident = ("call", listed["caller"]["tag"], listed["callee"]["tag"])
    assert ask(bench, "is_alive", *ident) == "Alive"
    assert refused(bench, "is_alive", "call")[1] == "Too few parameters (required callid, from-tag, to-tag)"
    assert refused(bench, "is_alive", "another", "a", "b") == (404, "Dialog not found")
    assert refused(bench, "set_state", "call") == (400, "Need the callid, from tag,to tag and state")
    assert refused(bench, "set_state", "another", "a", "b", 5) == (500, "Dialog not found")
    assert (
        refused(bench, "set_state", *ident, 6) == refused(bench, "set_state", *ident, 0) == (500, "Invalid state value")
    )
    assert ask(bench, "set_state", *ident, 3) == "Done"
    assert refused(bench, "is_alive", *ident) == (500, "Dialog not in confirmed state")
    assert ask(bench, "set_state", *ident, "5") == "Done"
    assert bench.dialogs.services.counters["dialog.active_dialogs"] == 0
    assert refused(bench, "end_dlg", listed["h_entry"], listed["h_id"])[0] == 500
    bench.server.advance(6)
    assert ask(bench, "list") == []
    assert refused(bench, "end_dlg", 1, 2) == (404, "Dialog not found")
    assert refused(bench, "end_dlg") == refused(bench, "bridge_dlg", "sip:a@b") == (500, "Invalid parameters")
    assert refused(bench, "terminate_dlg", "call") == (400, "Need a Callid ,from tag ,to tag")
    assert refused(bench, "terminate_dlg", "call", "a", "b") == (500, "Couldnt find callid in dialog")


def test_an_operator_makes_a_call(bench: Bench) -> None:
    assert ask(bench, "bridge_dlg", "sip:bob@192.0.2.20", "sip:carol@192.0.2.30") == {}
    (invite,) = bench.server.advance(0.1)
    assert (invite.to, invite.start_line) == (BOB, "INVITE sip:bob@192.0.2.20 SIP/2.0")
    assert refused(bench, "bridge_dlg", "nonsense", "sip:carol@192.0.2.30") == (500, "nonsense cannot be called")


def test_an_operator_lists_and_ends_calls(bench: Bench) -> None:
    bench.call()
    bench.server.advance(10)
    (listed,) = bench.dialogs.list_dialogs()
    assert listed["call-id"] == "call"
    assert listed["callee"]["contact"] == "sip:bob@192.0.2.20"
    assert listed["profiles"] == [{"caller": "alice"}]
    assert listed["variables"] == [{"color": "green"}]
    assert 8 <= listed["duration"] <= 10
    assert bench.dialogs.list_of_call("call", "a1") == bench.dialogs.list_contexts_of_call("call") == listed
    assert bench.dialogs.list_of_call("call", "x") == {}
    assert bench.dialogs.count_by_state()["ongoing"] == 1
    assert bench.dialogs.profile_size("caller") == bench.dialogs.profile_size("caller", "alice") == 1
    assert bench.dialogs.profile_list("caller", "bob") == []
    with pytest.raises(RpcError):
        bench.dialogs.profile_size("nothing")
    with pytest.raises(RpcError):
        bench.dialogs.end_dialog(1, 77)
    assert bench.dialogs.end_dialog(listed["h_entry"], listed["h_id"]) == {}
    sent = bench.server.advance(1)
    assert [s.to for s in sent if s.start_line.startswith("BYE")] == [ALICE, BOB]


def test_a_reply_carries_nothing_of_it_and_a_server_without_dialogs_has_no_timer(bench: Bench) -> None:
    assert bench.dialogs.next_timeout() is None
    replies = [m for s in bench.send("OPTIONS", 1) if isinstance(m := parse(s.data), Response)]
    assert all(not reply.has("record-route") for reply in replies)
    assert bench.dialogs.next_timeout() is None


def test_a_call_survives_a_restart_in_the_database(tmp_path: Path) -> None:
    file = tmp_path / "data.sqlite"
    bench = Bench(tmp_path, Database(file), db_mode=1, default_timeout=100, send_bye=1)
    with bench.server:
        bench.call()
        (before,) = bench.dialogs.list_dialogs()
    again = Bench(tmp_path, Database(file), db_mode=1, default_timeout=100, send_bye=1)
    with again.server:
        (after,) = again.dialogs.list_dialogs()
        same = ("h_entry", "h_id", "call-id", "from_uri", "to_uri", "state", "timeout", "iflags", "caller", "callee")
        assert [after[key] for key in same] == [before[key] for key in same]
        assert after["profiles"] == [{"caller": "alice"}]
        assert after["variables"] == [{"color": "green"}]
        assert again.dialogs.profiles.size("caller", "alice") == 1
        sent = again.server.advance(101)
        byes = [s for s in sent if s.start_line.startswith("BYE")]
        assert [s.to for s in byes][:2] == [ALICE, BOB]
        again.answer(byes[0])
        assert again.server.database.query("SELECT count(*) FROM dialog") == [(0,)]
        assert again.server.database.query("SELECT count(*) FROM dialog_vars") == [(0,)]


@pytest.mark.pure
def test_a_dialog_is_stored_as_a_whole_before_the_caller_hears_of_it(tmp_path: Path) -> None:
    file = tmp_path / "data.sqlite"
    bench = Bench(tmp_path, Database(file), db_mode=1)
    seen: list[list[tuple[Any, ...]]] = []
    with bench.server, Database(file) as other:
        database, send = bench.server.database, bench.server.node.router._send
        statements = counted(database)

        def look(items: list[Any]) -> None:
            if b"SIP/2.0 200" in items[0][0]:
                seen.append(other.query("SELECT state, callee_contact FROM dialog"))
                seen.append(other.query("SELECT dialog_value FROM dialog_vars"))
            send(items)

        bench.server.node.router._send = look
        bench.call()
        assert seen == [[(CONFIRMED_NA, "sip:bob@192.0.2.20")], [("green",)]]
        # the 200 and the ACK: in each turn one transaction, whatever is written in it
        assert [sql for sql in statements if sql.startswith(("BEGIN", "COMMIT"))] == ["BEGIN IMMEDIATE", "COMMIT"] * 2


def counted(database: Database) -> list[str]:
    statements: list[str] = []
    database._connection.set_trace_callback(statements.append)
    return statements


def test_a_dialog_that_cannot_be_stored_keeps_no_other_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, db_mode=1)
    with bench.server:
        bench.call()
        (good,) = bench.dialogs.table
        store = bench.dialogs.store
        assert store is not None
        wrong = copy.copy(good)
        wrong.h_id, wrong.call_id = good.h_id + 1, "\xff is no UTF-8"
        good.variables["color"] = "blue"
        store.save(good)
        store.save(wrong)
        bench.server.node.router.commit()
        assert bench.server.database.query("SELECT dialog_value FROM dialog_vars") == [("blue",)]
        assert bench.server.database.query("SELECT count(*) FROM dialog") == [(1,)]
    assert "is not stored: " in caplog.text
    assert caplog.text.count("is not stored") == 1


@pytest.mark.parametrize("damage", ["caller_cseq = 'x'", "from_uri = x'fe00'"])
def test_what_the_table_of_dialogs_has_that_is_none_is_left_out(tmp_path: Path, damage: str) -> None:
    bench = Bench(tmp_path, db_mode=1)
    with bench.server:
        bench.call()
        database = bench.server.database
        database.query(f"UPDATE dialog SET {damage}")
        again = Bench(tmp_path, database, db_mode=1)
        assert len(again.dialogs.table) == 0
        database.query("DROP TABLE dialog")
        with pytest.raises(DataError):
            again.dialogs.load(1.0)
        assert bench.state == CONFIRMED


def test_dialogs_of_one_call_id_are_told_apart() -> None:
    table = DialogTable(16)
    assert table.find("call", "a", "") == (None, 0)
    assert table.by_rr_param("nonsense") is None
    assert table.by_rr_param("1.1") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("dlg_flag", 32), ("dlg_match_mode", 3), ("default_timeout", 0), ("db_mode", 4), ("profiles_no_value", "a b")],
)
def test_a_wrong_parameter_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        DialogParams(**{name: value})
