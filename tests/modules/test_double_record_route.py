"""A call between phones on two networks of the server: each side gets the address that it can reach."""

from __future__ import annotations

from pathlib import Path

from polykemi.sip.flow import Listener
from polykemi.sip.message import parse
from polykemi.storage.location import Binding
from polykemi.testing import ServerUnderTest

SCRIPT = """
function ksr_request_route()
  if KSR.siputils.has_totag() > 0 then KSR.rr.loose_route() KSR.tm.t_relay() return end
  KSR.rr.record_route()
  KSR.registrar.lookup("location")
  KSR.tm.t_relay()
end
"""
INVITE = (
    b"INVITE sip:bob@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
    b"From: <sip:alice@example.test>;tag=a\r\nTo: <sip:bob@example.test>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.10>\r\nContent-Length: 0\r\n\r\n"
)
BYE = (
    b"BYE sip:bob@10.0.0.20 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK2\r\nMax-Forwards: 70\r\n"
    b"Route: <sip:192.0.2.1;r2=on;lr;ftag=a>, <sip:10.0.0.1;r2=on;lr;ftag=a>\r\n"
    b"From: <sip:alice@example.test>;tag=a\r\nTo: <sip:bob@example.test>;tag=b\r\nCall-ID: c\r\nCSeq: 2 BYE\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def test_a_call_across_two_listeners_records_both(tmp_path: Path) -> None:
    script = tmp_path / "route.lua"
    script.write_text(SCRIPT)
    inner = Listener("udp", "10.0.0.1", 5060)
    listeners = (Listener("udp", "192.0.2.1", 5060), inner)
    with ServerUnderTest({"lua": script}, domains=["example.test"], listeners=listeners) as server:
        contact = Binding("sip:bob@10.0.0.20", expires=server.now + 600, listener=str(inner))
        server.node.services.location.put("location", "bob", [contact])
        _, invite = server.receive(INVITE, "192.0.2.10:5060")
        assert invite.flow.listener == inner
        assert parse(invite.data).list("record-route") == [
            "<sip:10.0.0.1;r2=on;lr;ftag=a>",
            "<sip:192.0.2.1;r2=on;lr;ftag=a>",
        ]
        (bye,) = server.receive(BYE, "192.0.2.10:5060")
        assert parse(bye.data).list("route") == []
        assert bye.flow.listener == inner
        assert bye.to == "10.0.0.20:5060"
