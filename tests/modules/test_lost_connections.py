"""What becomes of a request whose connection is lost before its answer: the next target, the failure route, an error at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.sip.flow import Flow, Listener
from polykemi.testing import ServerUnderTest
from polykemi.testing.harness import Sent

UDP, TCP, WS = Listener("udp", "192.0.2.1", 5060), Listener("tcp", "192.0.2.1", 5060), Listener("ws", "192.0.2.1", 5060)
PHONE, BROWSER = Flow(TCP, "192.0.2.20", 5070), Flow(WS, "192.0.2.30", 40000)
SCRIPT = """
import KSR as KSR
def ksr_request_route(msg):
    to = KSR.pv.get("$rU")
    if to == "both":
        KSR.pv.sets("$ru", "sip:bob@192.0.2.20:5070;transport=tcp")
        KSR.corex.append_branch_uri("sip:bob@192.0.2.30:40000;transport=ws")
    elif to == "other":
        KSR.tm.t_on_failure("ksr_failure")
    KSR.tm.t_relay()
def ksr_failure(msg):
    KSR.pv.sets("$ru", "sip:spare@192.0.2.40")
    KSR.tm.t_relay()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with ServerUnderTest({"python": script}, listeners=[UDP, TCP, WS]) as one:
        yield one


def invite(server: ServerUnderTest, uri: str) -> list[Sent]:
    text = (
        f"INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKa\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\n"
        "Call-ID: c\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    trying, *out = server.receive(text.encode(), "192.0.2.10:5060")
    assert trying.start_line.startswith("SIP/2.0 100")
    return out


def answer(server: ServerUnderTest, sent: Sent, status: str) -> list[Sent]:
    lines = sent.data.decode().split("\r\n")
    kept = [line for line in lines if line[:4] in ("Via:", "From", "To: ", "Call", "CSeq")]
    text = "\r\n".join([f"SIP/2.0 {status}", *kept, "Content-Length: 0", "", ""])
    return server.receive(text.encode(), f"{sent.flow.host}:{sent.flow.port}", at=sent.flow.listener)


def lines(sent: list[Sent]) -> list[str]:
    return [one.start_line for one in sent]


def test_a_call_over_a_connection_that_ends_is_answered_at_once(server: ServerUnderTest) -> None:
    (out,) = invite(server, "sip:bob@192.0.2.20:5070;transport=tcp")
    assert out.flow == PHONE
    assert lines(server.lose(PHONE)) == ["SIP/2.0 500 Server Internal Error"]
    assert server.lose(PHONE) == []


def test_a_call_that_rings_waits_for_the_phone_to_call_back(server: ServerUnderTest) -> None:
    (out,) = invite(server, "sip:bob@192.0.2.20:5070;transport=tcp")
    answer(server, out, "180 Ringing")
    assert server.lose(PHONE) == []
    assert lines(answer(server, out, "200 OK")) == ["SIP/2.0 200 OK"]


def test_a_call_to_a_browser_that_is_gone_ends(server: ServerUnderTest) -> None:
    (out,) = invite(server, "sip:bob@192.0.2.30:40000;transport=ws")
    assert out.flow == BROWSER
    answer(server, out, "180 Ringing")
    assert lines(server.lose(BROWSER)) == ["SIP/2.0 500 Server Internal Error"]


def test_the_other_branches_go_on(server: ServerUnderTest) -> None:
    phone, browser = invite(server, "sip:both@x")
    assert server.lose(BROWSER) == []
    assert lines(answer(server, phone, "200 OK")) == ["SIP/2.0 200 OK"]
    assert browser.flow == BROWSER


def test_the_failure_route_finds_another_target(server: ServerUnderTest) -> None:
    invite(server, "sip:other@192.0.2.20:5070;transport=tcp")
    (out,) = server.lose(PHONE)
    assert (out.start_line, out.flow) == ("INVITE sip:spare@192.0.2.40 SIP/2.0", Flow(UDP, "192.0.2.40", 5060))
    assert lines(answer(server, out, "200 OK")) == ["SIP/2.0 200 OK"]
