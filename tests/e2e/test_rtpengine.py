"""A call through Debian's rtpengine in user space: what it makes of the descriptions reaches both sides. Skips without it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.ports import free_port
from polykemi.modules.rtpengine_bencode import decode, encode
from polykemi.testing import Sent, ServerUnderTest
from polykemi.transport.peers import PeerSockets
from tests.waiting import PATIENCE

RTPENGINE = shutil.which("rtpengine")
pytestmark = pytest.mark.skipif(RTPENGINE is None, reason="rtpengine is not installed")

SCRIPT = """\
function ksr_request_route()
    if KSR.is_INVITE() then
        KSR.rtpengine.rtpengine_manage("replace-origin ICE=remove RTP/AVP")
        KSR.tm.t_on_reply("ksr_onreply")
    elseif KSR.is_BYE() then
        KSR.info("statistics: " .. KSR.pv.getw("$rtpstat") .. "\\n")
        if KSR.rtpengine.rtpengine_manage("delete-delay=0") < 0 then KSR.err("no delete\\n") end
    end
    KSR.tm.t_relay()
end
function ksr_onreply() KSR.rtpengine.rtpengine_manage("replace-origin RTP/AVP") end
"""
SDP = "v=0\r\no=u 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[str]:
    """Start rtpengine; give its address."""
    assert RTPENGINE is not None
    port = free_port()
    command = [RTPENGINE, "--config-file=none", "--table=-1", "--interface=127.0.0.1", f"--listen-ng=127.0.0.1:{port}"]
    command += ["--foreground", "--log-stderr", "--log-level=3", "--port-min=42000", "--port-max=42100"]
    command += [f"--pidfile={tmp_path / 'pid'}", "--num-threads=1"]
    with (tmp_path / "rtpengine.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    peers = PeerSockets()
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                ping = b"1 " + encode({"command": "ping"})
                if peers.ask(f"udp:127.0.0.1:{port}", ping, 0.2, lambda answer: answer.startswith(b"1 ")):
                    break
            except OSError:
                time.sleep(0.02)
            if time.monotonic() > until or process.poll() is not None:
                pytest.fail((tmp_path / "rtpengine.log").read_text())
        yield f"127.0.0.1:{port}"
    finally:
        peers.close()
        process.terminate()
        process.wait(PATIENCE)


def request(method: str, sdp: str = "", to_tag: str = "") -> bytes:
    kind = "Content-Type: application/sdp\r\n" if sdp else ""
    return (
        f"{method} sip:bob@192.0.2.20:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{method}\r\n"
        f"From: <sip:alice@example.test>;tag=a1\r\nTo: <sip:bob@example.test>{to_tag}\r\nCall-ID: call-1\r\n"
        f"CSeq: 1 {method}\r\nMax-Forwards: 70\r\nContact: <sip:alice@192.0.2.10>\r\n{kind}"
        f"Content-Length: {len(sdp)}\r\n\r\n{sdp}"
    ).encode()


def answer(invite: Sent, sdp: str) -> bytes:
    lines = invite.data.decode().split("\r\n")
    kept = [line for line in lines if line.startswith(("Via:", "From:", "Call-ID:", "CSeq:"))]
    kept += ["To: <sip:bob@example.test>;tag=b1", "Contact: <sip:bob@192.0.2.20>", "Content-Type: application/sdp"]
    return "\r\n".join(["SIP/2.0 200 OK", *kept, f"Content-Length: {len(sdp)}", "", sdp]).encode()


def media(sent: Sent) -> tuple[str, int]:
    """Return address and port of the description in a datagram."""
    text = sent.data.decode()
    address, port = re.search(r"^c=IN IP4 (\S+)", text, re.M), re.search(r"^m=audio (\d+) ", text, re.M)
    assert address is not None, text
    assert port is not None, text
    return address[1], int(port[1])


def test_media_pass_through_the_relay(relay: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = tmp_path / "route.lua"
    script.write_text(SCRIPT)
    peers = PeerSockets()
    caplog.set_level("INFO")
    with (
        ServerUnderTest(
            {"lua": script}, modules={"rtpengine": {"rtpengine_sock": f"udp:{relay}"}}, peers=peers
        ) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alice,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bob,
    ):
        for side in (alice, bob):
            side.bind(("127.0.0.1", 0))
            side.settimeout(PATIENCE)
        offer, reply = (SDP.format(host="127.0.0.1", port=side.getsockname()[1]) for side in (alice, bob))
        sent = server.receive(request("INVITE", offer), "192.0.2.10:5060")
        invite = next(one for one in sent if one.start_line.startswith("INVITE"))
        to_bob = media(invite)
        [ok] = server.receive(answer(invite, reply), "192.0.2.20:5060")
        to_alice = media(ok)
        assert to_bob[0] == to_alice[0] == "127.0.0.1"
        assert len({to_bob[1], to_alice[1], alice.getsockname()[1], bob.getsockname()[1]}) == 4
        rtp = b"\x80\x00\x00\x01\x00\x00\x00\xa0\x00\x00\x00\x07" + bytes(160)
        alice.sendto(rtp, to_alice)
        assert bob.recv(2000)[12:] == rtp[12:]
        server.receive(request("BYE", to_tag=";tag=b1"), "192.0.2.10:5060")
        assert "statistics: RTP: 172 bytes, 1 packets, 0 errors; RTCP: 0 bytes, 0 packets, 0 errors" in caplog.text
        assert "no delete" not in caplog.text
        question = b"2 " + encode({"command": "list"})
        listed = peers.ask(f"udp:{relay}", question, PATIENCE, lambda data: data.startswith(b"2 "))
        assert listed is not None
        assert decode(listed[2:]) == {"calls": [], "result": "ok"}
    peers.close()
