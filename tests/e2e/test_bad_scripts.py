"""A script can neither stop nor stall the running server: each failure costs one message a 500, the next is unharmed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ServerProcess
from tests.waiting import PATIENCE

SCRIPTS = {
    "lua": """
function ksr_request_route()
  local method = KSR.pv.get("$rm")
  if method == "MESSAGE" then while true do end end
  if method == "SUBSCRIBE" then local x = nil; x.y = 1 end
  if method == "NOTIFY" then os.exit(3) end
  KSR.sl.sl_send_reply(200, "OK")
end
""",
    "js": """
function ksr_request_route() {
  const method = KSR.pv.get("$rm");
  if (method === "MESSAGE") for (;;) {}
  if (method === "SUBSCRIBE") nothing.here();
  if (method === "NOTIFY") process.exit(3);
  KSR.sl.sl_send_reply(200, "OK");
}
""",
    "python": """
import sys
import KSR

def ksr_request_route():
    method = KSR.pv.get("$rm")
    if method == "MESSAGE":
        while True: pass
    if method == "SUBSCRIBE":
        None.here()
    if method == "NOTIFY":
        sys.exit(3)
    KSR.sl.sl_send_reply(200, "OK")
""",
}
LINE = {"lua": 5, "js": 5, "python": 10}  # where SUBSCRIBE fails


@pytest.fixture(params=SCRIPTS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose script fails in a way of its own for each method."""
    script = tmp_path / f"bad.{request.param}"
    script.write_text(SCRIPTS[request.param])
    config = tmp_path / "polykemi.toml"
    config.write_text(f'[engines.{request.param}]\nscript = "{script}"\ntimeout = 0.3\n')
    process = ServerProcess(tmp_path, ["--config", str(config)])
    process.engine = request.param
    yield process
    assert process.stop() == 0


class Peer:
    """A phone that speaks raw UDP."""

    def __init__(self, server: ServerProcess) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", server.port))
        self._socket.settimeout(PATIENCE)
        self._number = 0

    def send(self, data: bytes) -> None:
        """Send a datagram."""
        self._socket.send(data)

    def ask(self, method: str) -> str:
        """Send a request and return the status line of the answer."""
        self._number += 1
        port = self._socket.getsockname()[1]
        self.send(
            f"{method} sip:e2e.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{self._number}\r\n"
            f"From: <sip:a@e2e.test>;tag=a\r\nTo: <sip:b@e2e.test>\r\nCall-ID: c{self._number}\r\n"
            f"CSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        return self._socket.recv(65535).partition(b"\r\n")[0].decode()

    def is_silent(self) -> bool:
        """Tell whether nothing has come that was not asked for."""
        self._socket.setblocking(False)
        try:
            return not self._socket.recv(65535)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(PATIENCE)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@pytest.fixture
def peer(server: ServerProcess) -> Iterator[Peer]:
    """A phone of that server."""
    one = Peer(server)
    yield one
    one.close()


def test_a_runaway_loop_is_stopped_and_costs_one_message(server: ServerProcess, peer: Peer) -> None:
    assert peer.ask("OPTIONS") == "SIP/2.0 200 OK"
    for _ in range(2):
        assert peer.ask("MESSAGE") == "SIP/2.0 500 Server Internal Error"
        assert peer.ask("OPTIONS") == "SIP/2.0 200 OK"
    assert "bad." in server.log()


def test_a_script_error_names_file_and_line_and_costs_one_message(server: ServerProcess, peer: Peer) -> None:
    assert peer.ask("SUBSCRIBE") == "SIP/2.0 500 Server Internal Error"
    assert peer.ask("OPTIONS") == "SIP/2.0 200 OK"
    assert f"bad.{server.engine}:{LINE[server.engine]}: " in server.log()


def test_a_script_that_wants_to_exit_ends_its_route_only(server: ServerProcess, peer: Peer) -> None:
    port = peer.ask("OPTIONS")
    assert port == "SIP/2.0 200 OK"
    peer.send(
        b"NOTIFY sip:e2e.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKn\r\nFrom: <sip:a@e2e.test>;tag=a\r\n"
        b"To: <sip:b@e2e.test>\r\nCall-ID: n\r\nCSeq: 1 NOTIFY\r\nContent-Length: 0\r\n\r\n"
    )
    assert peer.ask("OPTIONS") == "SIP/2.0 200 OK"


def test_noise_from_the_network_is_no_trouble(server: ServerProcess, peer: Peer) -> None:
    for noise in (
        b"\0",
        b"\r\n\r\n",
        b"x" * 60_000,
        b"INVITE sip:a SIP/2.0\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"\xff" * 9,
    ):
        peer.send(noise)
    assert peer.ask("OPTIONS") == "SIP/2.0 200 OK"
    assert peer.is_silent()
    assert "Traceback" not in server.log()
