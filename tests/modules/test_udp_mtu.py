"""Requests that are too long for UDP go over TCP (RFC 3261 section 18.1.1), where that is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.sip.flow import Flow, Listener, UdpSettings
from polykemi.testing import ServerUnderTest
from polykemi.testing.harness import Sent

UDP, TCP = Listener("udp", "192.0.2.1", 5060), Listener("tcp", "192.0.2.1", 5060)
SCRIPT = """
import KSR as KSR
def ksr_request_route(msg):
    if KSR.pv.get("$rU") == "own":
        headers = "From: <sip:us@x>\\r\\nTo: <sip:b@x>\\r\\nContent-Type: text/plain\\r\\n"
        KSR.tm.t_uac_send("MESSAGE", "sip:b@192.0.2.20:5070", "", "", headers, KSR.pv.get("$rb"))
        return
    KSR.rr.record_route()
    if KSR.pv.get("$rU") == "stateless":
        KSR.forward()
    else:
        KSR.tm.t_relay()
"""


def relayed(
    tmp_path: Path,
    user: str,
    padding: int,
    mtu: int,
    listeners: tuple[Listener, ...] = (UDP, TCP),
    method: str = "MESSAGE",
) -> Sent:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    text = (
        f"{method} sip:{user}@192.0.2.20:5070 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKa\r\n"
        f"From: <sip:a@x>;tag=1\r\nTo: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\n"
        f"Content-Length: {padding}\r\n\r\n{'x' * padding}"
    )
    with ServerUnderTest({"python": script}, listeners=listeners, udp=UdpSettings(mtu)) as server:
        (out,) = server.receive(text.encode(), "192.0.2.10:5060")
    return out


@pytest.mark.parametrize("user", ["stateful", "stateless"])
def test_a_long_request_goes_over_tcp_and_says_so(tmp_path: Path, user: str) -> None:
    out = relayed(tmp_path, user, 1300, 1300)
    assert out.flow == Flow(TCP, "192.0.2.20", 5070)
    head = out.data.decode().split("\r\n")
    assert head[1].startswith("Record-Route: ")
    assert sum(line.startswith("Via: SIP/2.0/TCP 192.0.2.1;branch=") for line in head) == 1
    assert sum(line.startswith("Via: ") for line in head) == 2


def test_a_long_request_of_our_own_goes_over_tcp_and_says_so(tmp_path: Path) -> None:
    out = relayed(tmp_path, "own", 1300, 1300)
    assert out.flow == Flow(TCP, "192.0.2.20", 5070)
    assert b"\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=" in out.data


def test_a_long_ack_goes_over_tcp_and_says_so(tmp_path: Path) -> None:
    out = relayed(tmp_path, "stateful", 1300, 1300, method="ACK")
    assert out.flow == Flow(TCP, "192.0.2.20", 5070)
    assert b"\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=" in out.data


def test_both_sides_are_recorded(tmp_path: Path) -> None:
    out = relayed(tmp_path, "stateful", 1300, 1300)
    assert [line for line in out.data.decode().split("\r\n") if line.startswith("Record-Route")] == [
        "Record-Route: <sip:192.0.2.1;transport=tcp;r2=on;lr;ftag=1>",
        "Record-Route: <sip:192.0.2.1;r2=on;lr;ftag=1>",
    ]


@pytest.mark.parametrize("user", ["stateful", "stateless"])
@pytest.mark.parametrize(
    ("padding", "mtu", "listeners"),
    [(10, 1300, (UDP, TCP)), (1300, 0, (UDP, TCP)), (1300, 1300, (UDP,))],
    ids=["short", "off", "no listener for TCP"],
)
def test_all_else_stays_with_udp(
    tmp_path: Path, user: str, padding: int, mtu: int, listeners: tuple[Listener, ...]
) -> None:
    assert relayed(tmp_path, user, padding, mtu, listeners).flow == Flow(UDP, "192.0.2.20", 5070)
