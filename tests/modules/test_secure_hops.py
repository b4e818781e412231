"""Requests that go on over TLS and secure WebSocket: from which listener, where to, and what they say of us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Response, parse
from polykemi.sip.reply_path import response_target
from polykemi.testing import ServerUnderTest

UDP, TLS, WSS = (
    Listener("udp", "192.0.2.1", 5060),
    Listener("tls", "192.0.2.1", 5060),
    Listener("wss", "192.0.2.1", 5060),
)
SCRIPT = """
function ksr_request_route()
  KSR.rr.record_route()
  if KSR.hdr.is_present("X-Stateless") > 0 then KSR.forward() else KSR.tm.t_relay() end
end
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    script = tmp_path / "route.lua"
    script.write_text(SCRIPT)
    with ServerUnderTest({"lua": script}, domains=["example.test"], listeners=(UDP, TLS, WSS)) as one:
        yield one


@pytest.mark.parametrize("headers", ["", "X-Stateless: yes\r\n"], ids=["tm", "stateless"])
@pytest.mark.parametrize(
    ("uri", "listener", "port", "recorded"),
    [
        ("sip:bob@192.0.2.20;transport=tls", TLS, 5061, "<sip:192.0.2.1:5060;transport=tls;r2=on;lr;ftag=a>"),
        ("sip:bob@192.0.2.20:99;transport=TLS", TLS, 99, "<sip:192.0.2.1:5060;transport=tls;r2=on;lr;ftag=a>"),
        ("sips:bob@192.0.2.20", TLS, 5061, "<sips:192.0.2.1:5060;transport=tls;r2=on;lr;ftag=a>"),
        ("sips:bob@192.0.2.20;transport=tcp", TLS, 5061, "<sips:192.0.2.1:5060;transport=tls;r2=on;lr;ftag=a>"),
        ("sips:bob@192.0.2.20:9;transport=ws", WSS, 9, "<sips:192.0.2.1:5060;transport=ws;r2=on;lr;ftag=a>"),
        ("sip:bob@192.0.2.20:9;transport=ws", WSS, 9, "<sip:192.0.2.1:5060;transport=ws;r2=on;lr;ftag=a>"),
    ],
)
def test_a_request_that_goes_on(
    server: ServerUnderTest, uri: str, listener: Listener, port: int, recorded: str, headers: str
) -> None:
    request = (
        f"MESSAGE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n{headers}"
        "From: <sip:alice@example.test>;tag=a\r\nTo: <sip:bob@example.test>\r\nCall-ID: c\r\nCSeq: 1 MESSAGE\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    sent = server.receive(request.encode(), "192.0.2.10:5060")[-1]
    assert sent.flow == Flow(listener, "192.0.2.20", port)
    told = parse(sent.data)
    assert told.list("via")[0].startswith(f"SIP/2.0/{listener.proto.upper()} 192.0.2.1:5060;branch=")
    if not headers:
        assert told.list("record-route")[0] == recorded


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        ("TLS 192.0.2.9", Flow(TLS, "192.0.2.9", 5061)),
        ("TLS phone.test", Flow(TLS, "phone.test", 0)),  # DNS says it
        ("TLS phone.test:99;received=192.0.2.9", Flow(TLS, "192.0.2.9", 99)),
        ("UDP 192.0.2.9", Flow(UDP, "192.0.2.9", 5060)),
    ],
)
def test_where_a_stateless_reply_goes_by_its_via(via: str, expected: Flow) -> None:
    reply = parse(
        f"SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS us\r\nVia: SIP/2.0/{via};branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n"
        "To: <sip:b@b>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n".encode()
    )
    assert isinstance(reply, Response)
    assert response_target(reply, UDP, (UDP, TLS, WSS)) == expected
