"""acc: where records go when time has forms, the database does not take them, and calls end in other ways."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import DataError
from polykemi.modules.acc import Acc, AccParams, extras_of
from polykemi.sip.message import parse
from polykemi.testing import Sent, ServerUnderTest
from tests.support import NOW, message, request_context, services

ALICE, BOB = "192.0.2.10:5060", "192.0.2.20:5060"
SCRIPT = """
function ksr_request_route()
    KSR.setflag(1)
    KSR.setflag(2)
    if KSR.is_INVITE() then
        KSR.dialog.dlg_manage()
        if KSR.pv.get("$rU") == "skip" then KSR.pv.sets("$dlg_var(nocdr)", "1") end
    elseif KSR.pv.get("$rm") == "BYE" then
        KSR.dialog.dlg_manage()
    end
    KSR.seturi("sip:bob@192.0.2.20")
    KSR.tm.t_relay()
end
"""


class Bench:
    """A server that accounts calls from alice to bob."""

    def __init__(self, directory: Path, **params: Any) -> None:
        script = directory / "script.lua"
        script.write_text(SCRIPT)
        self.server = ServerUnderTest({"lua": script}, modules={"acc": params, "dialog": {"default_timeout": 60}})

    def rows(self, table: str, columns: str = "method, sip_code, sip_reason") -> list[tuple[Any, ...]]:
        return self.server.database.query(f"SELECT {columns} FROM {table} ORDER BY id")

    def send(self, method: str, user: str = "bob", to_tag: str = "") -> list[Sent]:
        tag = f";tag={to_tag}" if to_tag else ""
        return self.server.receive(
            f"{method} sip:{user}@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/UDP {ALICE};branch=z9hG4bK{method}{user}\r\n"
            f"From: <sip:alice@a>;tag=a1\r\nTo: <sip:{user}@a>{tag}\r\nCall-ID: {user}\r\nCSeq: 1 {method}\r\n"
            "Contact: <sip:alice@192.0.2.10>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n".encode(),
            ALICE,
        )

    def answer(self, sent: list[Sent], status: int, body: str = "") -> None:
        request = next(s for s in sent if s.to == BOB)
        lines = [line for line in parse(request.data).lines if line.split(":")[0] in ("Via", "From", "Call-ID", "CSeq")]
        text = "\r\n".join(
            [f"SIP/2.0 {status} Fine", *lines, "To: <sip:b@a>;tag=b1", "Contact: <sip:bob@192.0.2.20>", ""]
        )
        self.server.receive(f"{text}Content-Length: {len(body)}\r\n\r\n{body}".encode(), BOB)

    def cancel(self) -> None:
        """Let alice give up."""
        self.send("CANCEL")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(
        tmp_path,
        db_flag=1,
        db_missed_flag=2,
        failed_transaction_flag=1,
        early_media=1,
        cdr_enable=1,
        cdrs_table="acc_cdrs",
        cdr_skip="nocdr",
        cdr_expired_dlg_enable=1,
    )
    with one.server:
        yield one


def test_early_media_is_accounted_too(bench: Bench) -> None:
    sent = bench.send("INVITE")
    bench.answer(sent, 180)
    bench.answer(sent, 183, "v=0")
    bench.answer(sent, 200)
    assert bench.rows("acc") == [("INVITE", "183", "Fine"), ("INVITE", "200", "Fine")]
    assert bench.rows("missed_calls") == []


def test_a_call_that_nobody_answers_is_a_missed_call(bench: Bench) -> None:
    bench.send("INVITE")
    bench.server.advance(31)
    assert bench.rows("missed_calls") == [("INVITE", "408", "Request Timeout")]
    assert bench.rows("missed_calls", "to_tag")[0][0] != ""


def test_calls_leave_records_when_they_end_and_when_they_time_out(bench: Bench) -> None:
    bench.answer(bench.send("INVITE"), 200)
    bench.server.advance(5)
    bench.send("BYE", to_tag="b1")
    assert bench.rows("acc_cdrs", "duration") == [(5.0,)]
    bench.answer(bench.send("INVITE", "skip"), 200)
    bench.send("BYE", "skip", "b1")
    assert len(bench.rows("acc_cdrs", "duration")) == 1
    bench.answer(bench.send("INVITE", "carol"), 200)
    bench.server.advance(62)
    assert bench.rows("acc_cdrs", "duration")[1:] == [(60.0,)]


def test_a_refused_call_leaves_a_record_without_duration(bench: Bench) -> None:
    bench.answer(bench.send("INVITE"), 486)
    assert bench.rows("acc_cdrs", "duration, start_time = end_time") == [(0.0, 1)]


def test_what_the_database_does_not_take_is_one_line_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for table in ("acc", "acc_cdrs"):
        bench.server.database.query(f"DROP TABLE {table}")
    bench.answer(bench.send("INVITE"), 486)
    errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(errors) == 2
    assert all("no such table" in text for text in errors)
    assert bench.rows("missed_calls") == [("INVITE", "486", "Fine")]


@pytest.mark.parametrize(
    ("mode", "line", "columns"),
    [
        (0, "timestamp=1800000000;method=OPTIONS", ""),
        (1, "timestamp=1800000000;time_exten=250000;method", "time_attr = 1800000000 AND time_exten = 250000"),
        (2, "timestamp=1800000000;time_attr=1800000000.250;", "time_attr = 1800000000.25"),
        (4, "timestamp=1800000000;time_attr=2027-01-15;", "time_attr = '2027-01-15'"),
    ],
)
def test_the_time_has_forms(mode: int, line: str, columns: str, caplog: pytest.LogCaptureFixture) -> None:
    made = services(Acc, params={"acc": {"time_mode": mode, "time_format": "%Y-%m-%d"}})
    for name in ("time_attr", "time_exten"):
        made.database.query(f"ALTER TABLE acc ADD COLUMN {name}")
    ctx = request_context(message("OPTIONS sip:a SIP/2.0"), now=1_800_000_000.25)
    with caplog.at_level(logging.DEBUG):
        assert made.modules["acc"].acc_log_request(ctx, "200 OK") == 1
    assert line in caplog.text
    assert made.modules["acc"].acc_db_request(ctx, "200 OK", "acc") == 1
    assert made.database.query(f"SELECT count(*) FROM acc WHERE {columns or '1'}") == [(1,)]


def test_a_request_from_the_callee_is_written_with_its_sides_exchanged() -> None:
    made = services(Acc)
    ctx = request_context(message("BYE sip:a SIP/2.0", to="<sip:b@a>;tag=callee"))
    ctx.shared.acc_upstream = True
    made.modules["acc"].acc_db_request(ctx, "200 OK", "acc")
    assert made.database.query("SELECT from_tag, to_tag FROM acc") == [("callee", "from")]


def test_extras_are_read_up_to_their_variables_ends() -> None:
    assert extras_of("x", "a=$rU ; b = $(hdr(X;Y)[0]{s.len});") == [("a", "$rU"), ("b", "$(hdr(X;Y)[0]{s.len})")]


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"db_flag": 32}, "db_flag"),
        ({"failed_filter": "200"}, "failed_filter"),
        ({"time_mode": 5}, "time_mode"),
        ({"db_extra": "a b=$rU"}, "db_extra"),
        ({"log_extra": "a"}, "log_extra"),
        ({"log_extra": "a=$rU b=$rU"}, "log_extra"),
        ({"db_table_acc": "a b"}, "a b"),
        ({"cdrs_table": "a b"}, "cdrs_table"),
        ({"cdr_start_id": ""}, "cdr_start_id"),
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        AccParams(**params)


def test_an_extra_that_is_no_variable_and_records_without_dialogs_stop_the_start() -> None:
    with pytest.raises(DataError, match="nonsense"):
        services(Acc, params={"acc": {"log_extra": "a=$nonsense"}}, start=NOW)
    with pytest.raises(DataError, match="dialog"):
        services(Acc, params={"acc": {"cdr_enable": 1}})
