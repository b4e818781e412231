"""Mirroring as its users see it: what Kamailio's siptrace sends of the same messages, and what its sipcapture makes of ours."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, SCRIPTS, ServerProcess
from tests.e2e.kamailio_peer import Kamailio
from tests.sip.test_hep import chunks
from tests.waiting import PATIENCE

REQUEST = (
    "OPTIONS sip:e2e.test SIP/2.0\r\nVia: SIP/2.0/{} 127.0.0.1:{};branch=z9hG4bK{}\r\nFrom: <sip:a@e2e.test>;tag=1\r\n"
    "To: <sip:a@e2e.test>\r\nCall-ID: {}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
Chunks = dict[int, bytes]


class Collector:
    """A capture server on UDP."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE)
        self.port = self._socket.getsockname()[1]

    def take(self) -> Chunks:
        """Return the next packet."""
        return dict(chunks(self._socket.recv(65536)))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def polykemi(tmp_path: Path, hep: str, engine: str = "lua") -> ServerProcess:
    """Start a server with a table [hep]."""
    config = tmp_path / "polykemi.toml"
    config.write_text(f"[hep]\n{hep}\n")
    return ServerProcess(tmp_path, ["--config", str(config), "--engine", engine, SCRIPTS[engine]])


def ask_over_udp(port: int, call_id: str) -> tuple[bytes, bytes, int]:
    """Send a request; return it, the response and our port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        phone.settimeout(PATIENCE)
        own = phone.getsockname()[1]
        request = REQUEST.format("UDP", own, call_id, call_id).encode()
        phone.sendto(request, ("127.0.0.1", port))
        return request, phone.recv(65536), own


def ask_over_tcp(port: int, call_id: str) -> tuple[bytes, bytes, int]:
    """Send a request; return it, the response and our port."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as phone:
        own = phone.getsockname()[1]
        request = REQUEST.format("TCP", own, call_id, call_id).encode()
        phone.sendall(request)
        response = b""
        while b"\r\n\r\n" not in response:
            response += phone.recv(65536)
        return request, response, own


def mirrored(port: int, collector: Collector) -> list[Chunks]:
    """Ask the server on ``port`` something, and return what is mirrored of it, which is looked at."""
    request, response, own = ask_over_udp(port, "1@test")
    there, back = collector.take(), collector.take()
    assert (there[15], back[15]) == (request, response)
    ports = [int.from_bytes(one[kind], "big") for one in (there, back) for kind in (7, 8)]
    assert ports == [own, port, port, own]
    assert abs(int.from_bytes(there[9], "big") - time.time()) < 60
    assert int.from_bytes(there[10], "big") < 1_000_000
    return [there, back]


def test_packets_are_those_of_siptrace(tmp_path: Path, collector: Collector) -> None:
    kamailio = Kamailio("trace.cfg", tmp_path / "kamailio", CAPTURE=f'"sip:127.0.0.1:{collector.port}"')
    try:
        theirs = mirrored(kamailio.port, collector)
    finally:
        kamailio.stop()
    server = polykemi(tmp_path, f'server = "udp:127.0.0.1:{collector.port}"\ncapture_id = 77')
    try:
        ours = mirrored(server.port, collector)
    finally:
        assert server.stop() == 0
    for one, other in zip(theirs, ours, strict=True):
        assert other.keys() - one.keys() == {17, 19}  # siptrace tells neither Call-ID nor node
        assert one.keys() - other.keys() == set()
        assert all(one[kind] == other[kind] for kind in (1, 2, 3, 4, 11, 12))
        assert other[17] == b"1@test"


@pytest.mark.parametrize("engine", SCRIPTS)
def test_sipcapture_reads_what_we_send(engine: str, tmp_path: Path) -> None:
    capture = Kamailio("capture.cfg", tmp_path / "kamailio", DATABASE=f'"text://{tmp_path}"')
    try:
        server = polykemi(tmp_path, f'server = "udp:127.0.0.1:{capture.port}"', engine)
        assert f"mirrored to udp:127.0.0.1:{capture.port} (HEPv3, capture ID 1)" in server.greeting
        try:
            _, _, udp = ask_over_udp(server.port, "over-udp")
            _, _, tcp = ask_over_tcp(server.port, "over-tcp")
            capture.until(f"captured OPTIONS over-udp from udp:127.0.0.1:{udp}\n")
            capture.until(f"captured 200 over-udp from udp:127.0.0.1:{server.port}\n")
            capture.until(f"captured OPTIONS over-tcp from tcp:127.0.0.1:{tcp}\n")
            capture.until(f"captured 200 over-tcp from tcp:127.0.0.1:{server.port}\n")
        finally:
            assert server.stop() == 0
    finally:
        capture.stop()


def test_a_server_that_would_mirror_to_itself_does_not_start(tmp_path: Path) -> None:

    config = tmp_path / "polykemi.toml"
    config.write_text('listen = ["udp:127.0.0.1:29988"]\n[hep]\nserver = "udp:127.0.0.1:29988"\n')
    command = [sys.executable, "-m", "polykemi", "serve", "--config", str(config), "--data", str(tmp_path)]
    ran = subprocess.run(
        [*command, "--engine", "lua", SCRIPTS["lua"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (
        2,
        "polykemi: [hep] server: udp:127.0.0.1:29988 is a listener of this server\n",
    )
