"""`polykemi trace` on a running server, on each engine: what it prints, how it ends, and that nothing is left behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.control.client import SOCKET, call
from tests.e2e.conftest import ROOT, SCRIPTS, ServerProcess
from tests.e2e.test_bad_scripts import Peer
from tests.waiting import PATIENCE


@pytest.fixture(params=SCRIPTS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with its sample script."""
    process = ServerProcess(tmp_path, ["--engine", request.param, SCRIPTS[request.param]])
    process.engine = request.param
    yield process
    if process.process.poll() is None:
        assert process.stop() == 0
    assert "Traceback" not in process.log()


@pytest.fixture
def peer(server: ServerProcess) -> Iterator[Peer]:
    """A phone of that server."""
    one = Peer(server)
    yield one
    one.close()


class Tracing:
    """A running `polykemi trace`."""

    def __init__(self, server: ServerProcess, *options: str, stdout: int = subprocess.PIPE) -> None:
        command = [sys.executable, "-m", "polykemi", "trace", "--data", str(server.data), *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        assert self.process.stderr.readline() == f"polykemi: attached to {server.data}/control.sock\n"

    def ended(self) -> tuple[int, str, str]:
        """Return exit code, output and errors when it has ended by itself."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def line(self) -> str:
        """Return the next line of the output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def test_once_prints_the_tree_of_one_message_and_ends(server: ServerProcess, peer: Peer) -> None:
    tracing = Tracing(server, "--once", "--user", "b")
    assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
    code, out, err = tracing.ended()
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert re.search(
        rf"^\|     \|       request_route ksr_request_route  {server.engine}, version 1, {SCRIPTS[server.engine]}, \d+ us$",
        out,
        re.M,
    )
    assert re.search(r'^\|     \| +\d+ KSR\.sl\.sl_send_reply\(200, "Keepalive"\) = 1  \d+ us$', out, re.M)
    assert re.search(r"^\|<----\|       \S+ 200 Keepalive  \d+ OPTIONS  to udp:127.0.0.1:\d+$", out, re.M)
    assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"


def test_each_is_told_of_the_call_that_it_has_asked_for(server: ServerProcess, peer: Peer) -> None:
    everything, second = Tracing(server, "--json"), Tracing(server, "--json", "--once", "--call-id", "c2", "--messages")
    nothing = Tracing(server, "--json", "--ip", "127.0.0.2")
    for _ in range(3):
        assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
    events = [json.loads(everything.line()) for _ in range(9)]
    assert [event["event"] for event in events] == ["received", "block", "sent"] * 3
    assert [event["call_id"] for event in events[::3]] == ["c1", "c2", "c3"]
    code, out, err = second.ended()
    assert (code, err) == (0, "")
    told = [json.loads(line) for line in out.splitlines()]
    assert [event["call_id"] for event in told] == ["c2"] * 3
    assert told[0]["message"].startswith("OPTIONS sip:e2e.test SIP/2.0\r\n")
    for one in (everything, nothing):  # Ctrl-C
        one.process.send_signal(signal.SIGINT)
        assert one.ended() == (0, "", "")


def test_the_end_of_the_server_is_told(server: ServerProcess) -> None:
    tracing = Tracing(server)
    server.stop()
    assert tracing.ended() == (1, "", "polykemi: the server has ended\n")


@pytest.mark.parametrize("server", ["lua"], indirect=True)
def test_mistakes_are_one_line(server: ServerProcess) -> None:
    command = [sys.executable, "-m", "polykemi", "trace", "--data", str(server.data), "--ip", "example.test"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "polykemi: --ip: expected an IP address, got 'example.test'\n"
    command[5] = str(server.data / "none")
    ran = subprocess.run(command[:6], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ran.returncode, ran.stderr) == (
        2,
        f"polykemi: cannot reach a server: {command[5]}/control.sock is not there\n",
    )


@pytest.mark.parametrize("server", ["lua"], indirect=True)
def test_a_terminal_gets_colours_and_lines_of_its_width(server: ServerProcess, peer: Peer) -> None:
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    tracing = Tracing(server, "--once", stdout=theirs)
    os.close(theirs)
    peer.ask("OPTIONS")
    assert tracing.process.wait(PATIENCE) == 0
    assert tracing.process.stderr is not None
    tracing.process.stderr.close()
    out = b""
    while select.select([mine], [], [], 0)[0]:
        try:
            out += os.read(mine, 65536)
        except OSError:  # all is read, and nobody holds the other end
            break
    os.close(mine)
    lines = out.decode().split("\r\n")
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert lines != plain
    assert max(map(len, plain)) == 60
    assert any(line.endswith("...") for line in plain)


def all_that_is_there(sock: socket.socket, server: ServerProcess) -> bytearray:
    """Return what comes until nothing does although the server's loop has been round."""
    data, rounds = bytearray(), 0
    while rounds < 2:
        if select.select([sock], [], [], 0)[0]:
            data += sock.recv(65536)
            rounds = 0
        else:
            call(server.data / SOCKET, "core.version", [])
            rounds += 1
    return data


@pytest.mark.parametrize("server", ["lua"], indirect=True)
def test_who_does_not_read_keeps_nobody_waiting(server: ServerProcess, peer: Peer) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(str(server.data / "control.sock"))
        params = {"messages": 1}
        sock.sendall(
            json.dumps({"jsonrpc": "2.0", "method": "trace.attach", "params": params, "id": 1}).encode() + b"\n"
        )
        assert b'"id":1' in sock.recv(100)
        for _ in range(300):
            assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
        data = all_that_is_there(sock, server)
        told = data.count(b'"sent"')
        assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"  # there is room again
        while not data.endswith(b"\n") or data.count(b'"sent"') == told:
            data += sock.recv(65536)
    events = [json.loads(line)["params"] for line in data.splitlines()]
    (lost,) = [event["count"] for event in events if event["event"] == "lost"]
    assert len(events) - 1 + lost == 301 * 3


@pytest.mark.parametrize("server", ["lua"], indirect=True)
def test_a_hundred_come_and_go_under_traffic(server: ServerProcess, peer: Peer) -> None:
    request = json.dumps({"jsonrpc": "2.0", "method": "trace.attach", "id": 1}).encode() + b"\n"
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(server.data / "control.sock"))
            sock.sendall(request)
            assert sock.recv(100)
            assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
        assert peer.ask("OPTIONS") == "SIP/2.0 200 Keepalive"
