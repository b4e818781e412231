"""What the core does around a script: malformed messages, script errors, draining, the order of commit and sending."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.config import RouteSettings
from polykemi.errors import DataError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import parse
from polykemi.testing import ServerUnderTest

SCRIPT = """
function ksr_request_route()
  local method = KSR.pv.get("$rm")
  if method == "MESSAGE" then local x = nil; x.y = 1 end
  if method == "SUBSCRIBE" then KSR.tm.t_newtran(); error("after t_newtran") end
  if method == "NOTIFY" then KSR.sl.sl_send_reply(202, "Taken"); error("after the reply") end
  KSR.sl.sl_send_reply(200, "OK")
end
"""
PEER = "192.0.2.10:5060"
LISTENER = Listener("udp", "192.0.2.1", 5060)


def request(method: str = "OPTIONS", **headers: str) -> bytes:
    """Build a request; a keyword argument (Call_ID="x") replaces a header, "" leaves it out."""
    values = {
        "Via": f"SIP/2.0/UDP {PEER};branch=z9hG4bK{method}",
        "From": "<sip:a@example.test>;tag=a",
        "To": "<sip:b@example.test>",
        "Call-ID": "c",
        "CSeq": f"1 {method}",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} sip:b@example.test SIP/2.0", *(f"{n}: {v}" for n, v in values.items() if v)]
    return "\r\n".join([*lines, "Content-Length: 0", "", ""]).encode("latin-1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server that answers everything with 200, but for the methods that its script fails on."""
    script = tmp_path / "answer.lua"
    script.write_text(SCRIPT)
    with ServerUnderTest({"lua": script}, domains=["example.test"]) as under_test:
        yield under_test


def lines(server: ServerUnderTest, data: bytes) -> list[str]:
    """Return the start lines of what leaves for ``data``."""
    return [sent.start_line for sent in server.receive(data, PEER)]


def test_a_script_error_costs_that_request_a_500_and_the_next_is_unharmed(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    assert lines(server, request("MESSAGE")) == ["SIP/2.0 500 Server Internal Error"]
    assert "answer.lua:4:" in caplog.text
    assert server.node.services.counters["core.script_errors"] == 1
    assert lines(server, request()) == ["SIP/2.0 200 OK"]


def test_a_script_error_in_a_transaction_is_answered_statefully(server: ServerUnderTest) -> None:
    assert lines(server, request("SUBSCRIBE")) == ["SIP/2.0 500 Server Internal Error"]
    assert lines(server, request("SUBSCRIBE")) == ["SIP/2.0 500 Server Internal Error"]
    assert server.node.services.counters["core.script_errors"] == 1  # the second was answered as a retransmission


def test_a_script_that_fails_after_its_reply_sends_no_second_one(server: ServerUnderTest) -> None:
    assert lines(server, request("NOTIFY")) == ["SIP/2.0 202 Taken"]


@pytest.mark.parametrize("header", ["From", "To", "Call-ID", "CSeq"])
def test_a_request_without_a_mandatory_header_gets_400_and_is_counted(server: ServerUnderTest, header: str) -> None:
    assert lines(server, request(**{header.replace("-", "_"): ""})) == [f"SIP/2.0 400 Missing {header.title()}"]
    assert server.node.services.counters["core.bad_requests"] == 1


@pytest.mark.parametrize("line", ["From: <sip:c@d>", "f: <sip:c@d>;tag=x", "To: <sip:c@d>", "i: x", "CSeq: 2 OPTIONS"])
def test_a_request_that_says_twice_who_sends_what_gets_400(server: ServerUnderTest, line: str) -> None:
    (answer,) = lines(server, request().replace(b"\r\n\r\n", f"\r\n{line}\r\n\r\n".encode(), 1))
    assert answer.startswith("SIP/2.0 400 More Than One ")


@pytest.mark.parametrize("cseq", ["x OPTIONS", "4294967296 OPTIONS", "1", "1 INVITE"])
def test_a_bad_cseq_gets_400(server: ServerUnderTest, cseq: str) -> None:
    (line,) = lines(server, request(CSeq=cseq))
    assert line.startswith("SIP/2.0 400 ")


def test_another_version_gets_505(server: ServerUnderTest) -> None:
    assert lines(server, request().replace(b"SIP/2.0\r\n", b"SIP/7.0\r\n", 1)) == ["SIP/2.0 505 Version Not Supported"]


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"\0\0", b"nonsense", b"SIP/2.0 999 x\r\n\r\n", b"\xff" * 2000])
def test_noise_is_dropped_without_an_answer(server: ServerUnderTest, data: bytes) -> None:
    assert lines(server, data) == []
    assert lines(server, request()) == ["SIP/2.0 200 OK"]


def test_a_malformed_ack_is_never_answered(server: ServerUnderTest) -> None:
    assert lines(server, request("ACK", CSeq="x ACK")) == []


def test_a_response_whose_top_via_is_not_ours_is_dropped(server: ServerUnderTest) -> None:
    stray = request().replace(b"OPTIONS sip:b@example.test SIP/2.0", b"SIP/2.0 200 OK")
    assert lines(server, stray) == []


def test_a_response_of_no_transaction_goes_to_its_second_via(server: ServerUnderTest) -> None:
    stray = request(
        Via="SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx, SIP/2.0/UDP 10.0.0.9;received=192.0.2.30;rport=7070"
    )
    stray = stray.replace(b"OPTIONS sip:b@example.test SIP/2.0", b"SIP/2.0 200 OK")
    (sent,) = server.receive(stray, PEER)
    assert sent.to == "192.0.2.30:7070"
    assert b"192.0.2.1" not in sent.data


def test_a_draining_server_takes_no_new_work_but_knows_its_dialogs(server: ServerUnderTest) -> None:
    server.node.router.drain()
    assert lines(server, request("INVITE")) == ["SIP/2.0 503 Service Unavailable"]
    assert lines(server, request("BYE", To="<sip:b@example.test>;tag=b")) == ["SIP/2.0 200 OK"]


@pytest.mark.pure
def test_what_could_not_be_stored_is_not_promised(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise DataError("location: disk full")

    monkeypatch.setattr(server.node.services.location, "commit", fail)
    assert lines(server, request()) == []
    assert "location: disk full; 1 messages are not sent" in caplog.text
    monkeypatch.undo()
    assert lines(server, request()) == ["SIP/2.0 200 OK"]


@pytest.mark.pure
def test_a_bug_of_ours_costs_one_message(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.node.modules["tm"], "absorb", fail)
    assert lines(server, request()) == []
    assert "internal error" in caplog.text
    assert server.node.services.counters["core.internal_errors"] == 1
    monkeypatch.undo()
    assert lines(server, request()) == ["SIP/2.0 200 OK"]


def test_what_the_network_does_not_take_ends_its_branch(tmp_path: Path) -> None:
    script = tmp_path / "relay.lua"
    script.write_text("function ksr_request_route() KSR.pv.sets('$du', 'sip:nowhere.invalid') KSR.tm.t_relay() end")
    with ServerUnderTest({"lua": script}) as server:
        (sent,) = server.receive(request(), PEER)
        tm: Any = server.node.modules["tm"]
        server.node.router.put(tm.transport_error(sent.flow, sent.data))
        assert [s.start_line for s in server.advance(0)] == ["SIP/2.0 500 Server Internal Error"]


def test_a_response_that_its_via_leads_back_needs_no_call_id(tmp_path: Path) -> None:
    script = tmp_path / "relay.lua"
    script.write_text("function ksr_request_route() KSR.tm.t_relay() end")
    with ServerUnderTest({"lua": script}) as server:
        relayed = server.receive(request("INVITE").replace(b"b@example.test SIP", b"b@192.0.2.20 SIP"), PEER)[-1]
        via = next(line for line in relayed.data.split(b"\r\n") if line.startswith(b"Via"))
        answer = [b"SIP/2.0 200 OK", via, b"From: <sip:a@example.test>;tag=a", b"To: <sip:b@example.test>;tag=b"]
        answer += [b"CSeq: 1 INVITE", b"Record-Route: <sip:192.0.2.1;lr>", b"Content-Length: 0", b"", b""]
        server.receive(b"\r\n".join(answer), "192.0.2.20:5060")
        assert not server.node.services.counters.get("core.internal_errors")


def test_an_engine_that_waits_for_another_one_cannot_be_entered_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lua, python = tmp_path / "r.lua", tmp_path / "r.py"
    lua.write_text("function ksr_request_route() KSR.tm.t_on_branch('b') KSR.tm.t_relay() end\nfunction c() end")
    python.write_text("import KSR\ndef b():\n    pass\n")
    routes = RouteSettings("lua", by_kind={Route.BRANCH: "python"})
    with ServerUnderTest({"lua": lua, "python": python}, routes=routes) as server:
        router = server.node.router

        def enter_again(*args: Any) -> None:
            inner = RouteContext(Route.FAILURE, "c", parse(request()), Flow(LISTENER, "192.0.2.9", 5060), 0.0)
            router.run(inner)
            assert inner.error is not None
            errors.append(str(inner.error))
            call(*args)

        errors: list[str] = []
        script: Any = server.node.router.version.scripts["python"]
        call = script.call
        script.call = enter_again
        server.receive(request(), PEER)
        assert errors == ["lua: c: lua is waiting for python: cannot be entered again"]


@pytest.mark.pure
def test_a_timer_that_cannot_read_its_data_neither_stops_the_others_nor_spins(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> list[str]:
        raise DataError("location: cannot be read")

    monkeypatch.setattr(server.node.services.location, "expired", fail)
    server.advance(120)
    assert 1 <= caplog.text.count("usrloc: location: cannot be read") <= 3
    assert lines(server, request()) == ["SIP/2.0 200 OK"]


@pytest.mark.parametrize("place", [b"From: <sip:a@example.test>", b"OPTIONS sip", b"Call-ID: c"])
def test_a_line_with_a_bare_cr_in_it_is_no_line(server: ServerUnderTest, place: bytes) -> None:
    """Else what some take for a part of a value others would take for a header."""
    assert lines(server, request().replace(place, place[:4] + b"\rX-Injected: 1" + place[4:])) in (
        [],
        ["SIP/2.0 400 CR without LF"],
    )
    assert server.calls == []
    assert lines(server, request().replace(b"\r\n", b"\n")) == ["SIP/2.0 200 OK"]
