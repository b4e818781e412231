"""Requests find their next hop by DNS, and the one behind that when it is dead: a server, a name server, phones on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.ports import free_port
from polykemi.sip.message import Request, Response, parse
from tests.dns_server import DnsServer
from tests.e2e.conftest import ServerProcess
from tests.waiting import PATIENCE

HOST = "127.0.13.1"
SCRIPT = """
function ksr_request_route()
  if KSR.is_CANCEL() then KSR.tm.t_relay() return end
  KSR.tm.t_on_failure("ksr_failure_route")
  if KSR.pv.gete("$rd") == "dead.test" then KSR.tm.t_set_fr(0, 600000) end
  KSR.tm.t_relay()
end

function ksr_failure_route()
  KSR.info("failure route: " .. KSR.pv.gete("$T_reply_code") .. "\\n")
end
"""
CONFIG = """
[dns]
nameservers = ["{nameserver}"]
retr_time = 1
retr_no = 1
use_dst_blocklist = {blocklist}
[modules.tm]
fr_timer = 2000
retr_timer1 = 500
"""


class Peer:
    """A UDP socket that speaks SIP by hand."""

    def __init__(self, host: str = HOST) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(PATIENCE)
        self.port = self.socket.getsockname()[1]

    def receive(self) -> tuple[Any, Any]:
        """Return the next message and where it came from."""
        data, peer = self.socket.recvfrom(65535)
        return parse(data), peer

    def expect(self, start: str) -> Any:
        """Return the next message that begins with ``start``; all before are passed over."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            message, _ = self.receive()
            if message.start_line.startswith(start):
                return message
        raise AssertionError(f"no {start}")

    def answer(self, request: Request, status: str, peer: Any) -> None:
        """Answer ``request``."""
        lines = [line for name, line in zip(request.names, request.lines, strict=True) if name in _REPEATED]
        self.socket.sendto("\r\n".join([f"SIP/2.0 {status}", *lines, "Content-Length: 0\r\n\r\n"]).encode(), peer)

    def close(self) -> None:
        self.socket.close()


_REPEATED = ("via", "from", "to", "call-id", "cseq")


class Caller(Peer):
    """Calls names through the server."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__()
        self._to = server.host, server.port
        self._calls = 0

    def send(self, method: str, uri: str, branch: str = "") -> None:
        """Send a request to ``uri`` to the server."""
        if not branch:
            self._calls += 1
        call = f"{self.port}-{self._calls}"
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {HOST}:{self.port};branch=z9hG4bK{branch or call}",
            "Max-Forwards: 70",
            f"From: <sip:caller@e2e.test>;tag=c{call}",
            f"To: <{uri}>",
            f"Call-ID: {call}",
            f"CSeq: 1 {method}",
            "Content-Length: 0\r\n\r\n",
        ]
        self.socket.sendto("\r\n".join(lines).encode(), self._to)

    @property
    def branch(self) -> str:
        """The branch of the last request."""
        return f"{self.port}-{self._calls}"


@pytest.fixture(scope="module")
def names() -> Iterator[DnsServer]:
    with contextlib.closing(DnsServer(host=HOST)) as server:
        yield server


def serve(directory: Path, names: DnsServer, *, blocklist: bool = False) -> ServerProcess:
    (directory / "route.lua").write_text(SCRIPT)
    config = CONFIG.format(nameserver=names.address, blocklist=str(blocklist).lower())
    (directory / "polykemi.toml").write_text(config)
    arguments = ["--config", str(directory / "polykemi.toml"), "--engine", "lua", str(directory / "route.lua")]
    return ServerProcess(directory, arguments, HOST)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, names: DnsServer) -> Iterator[ServerProcess]:
    one = serve(tmp_path_factory.mktemp("dns"), names)
    yield one
    assert one.stop() == 0, one.log()
    assert "Traceback" not in one.log()


@pytest.fixture
def caller(server: ServerProcess) -> Iterator[Caller]:
    with contextlib.closing(Caller(server)) as one:
        yield one


@pytest.fixture
def peer() -> Iterator[Callable[[], Peer]]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Peer()))


def names_of(names: DnsServer, name: str, *ports: int, proto: str = "udp") -> str:
    """Let NAPTR and SRV records of ``name`` lead to ``ports``, one after the other; return the URI of Bob there."""
    service = {"udp": "SIP+D2U", "tcp": "SIP+D2T"}[proto]
    names.zone[name, "NAPTR"] = [f'10 10 "s" "{service}" "" _sip._{proto}.{name}.']
    names.zone[f"_sip._{proto}.{name}", "SRV"] = [f"{i} 1 {port} host.{name}." for i, port in enumerate(ports)]
    names.zone[f"host.{name}", "A"] = [HOST]
    return f"sip:bob@{name}"


def call_is_answered_by(caller: Caller, bob: Peer) -> Request:
    invite, source = bob.receive()
    assert isinstance(invite, Request)
    bob.answer(invite, "200 OK", source)
    assert isinstance(caller.expect("SIP/2.0 200"), Response)
    return invite


def test_naptr_srv_and_address_lead_there(names: DnsServer, caller: Caller, peer: Callable[[], Peer]) -> None:
    bob = peer()
    uri = names_of(names, "whole.test", bob.port)
    caller.send("INVITE", uri)
    caller.expect("SIP/2.0 100")
    assert call_is_answered_by(caller, bob).uri == uri
    asked = names.count()
    caller.send("INVITE", uri)
    call_is_answered_by(caller, bob)
    assert names.count() == asked  # all of it is known by now


def test_dns_chooses_the_transport_and_our_via_says_so(names: DnsServer, caller: Caller, server: ServerProcess) -> None:
    with socket.create_server((HOST, 0)) as listening:
        listening.settimeout(PATIENCE)
        caller.send("INVITE", names_of(names, "stream.test", listening.getsockname()[1], proto="tcp"))
        peer, _ = listening.accept()
        with peer:
            peer.settimeout(PATIENCE)
            invite = parse(peer.recv(65535))
    assert invite.via.text.startswith(f"SIP/2.0/TCP {HOST}:{server.port};branch=")


def test_a_dead_udp_server_is_left_at_once(names: DnsServer, caller: Caller, peer: Callable[[], Peer]) -> None:
    bob = peer()
    caller.send("INVITE", names_of(names, "dead.test", free_port(HOST), bob.port))
    call_is_answered_by(caller, bob)  # and not after 600 s: ICMP has said it


def test_a_refused_connection_is_left_at_once(names: DnsServer, caller: Caller) -> None:
    with socket.create_server((HOST, 0)) as listening:
        listening.settimeout(PATIENCE)
        caller.send("INVITE", names_of(names, "refused.test", free_port(HOST), listening.getsockname()[1], proto="tcp"))
        peer, _ = listening.accept()
        with peer:
            peer.settimeout(PATIENCE)
            assert peer.recv(65535).startswith(b"INVITE sip:bob@refused.test SIP/2.0\r\n")


def test_a_silent_server_is_left_after_its_time(names: DnsServer, caller: Caller, peer: Callable[[], Peer]) -> None:
    silent, bob = peer(), peer()
    caller.send("INVITE", names_of(names, "silent.test", silent.port, bob.port))
    first, _ = silent.receive()
    second = call_is_answered_by(caller, bob)
    assert second.via.branch != first.via.branch


def test_503_is_left_and_the_script_hears_nothing_of_it(
    names: DnsServer, caller: Caller, peer: Callable[[], Peer], server: ServerProcess
) -> None:
    busy, bob = peer(), peer()
    logged = server.log().count("failure route")
    caller.send("INVITE", names_of(names, "busy.test", busy.port, bob.port))
    invite, source = busy.receive()
    busy.answer(invite, "503 Service Unavailable", source)
    call_is_answered_by(caller, bob)
    busy.expect("ACK ")
    assert server.log().count("failure route") == logged


def test_a_name_that_leads_nowhere(names: DnsServer, caller: Caller) -> None:
    caller.send("INVITE", "sip:bob@nowhere.test")
    assert caller.expect("SIP/2.0 478").reason == "Unresolvable destination"
    asked = names.count()
    caller.send("MESSAGE", "sip:bob@nowhere.test")
    caller.expect("SIP/2.0 478")
    assert names.count() == asked


def test_a_name_server_that_says_nothing_does_not_hold_up_others(
    names: DnsServer, caller: Caller, peer: Callable[[], Peer]
) -> None:
    bob = peer()
    names.silent.add("slow.test")
    caller.send("MESSAGE", "sip:bob@slow.test")
    caller.send("INVITE", f"sip:bob@{HOST}:{bob.port}")
    invite, source = bob.receive()
    bob.answer(invite, "200 OK", source)
    statuses: list[int] = []
    while statuses[-1:] != [478]:
        statuses.append(caller.receive()[0].status)
    assert statuses == [100, 200, 478]


def test_cancel_while_dns_is_asked(names: DnsServer, caller: Caller) -> None:
    names.silent.add("canceled.test")
    caller.send("INVITE", "sip:bob@canceled.test")
    caller.expect("SIP/2.0 100")
    caller.send("CANCEL", "sip:bob@canceled.test", branch=caller.branch)
    caller.expect("SIP/2.0 200")
    caller.expect("SIP/2.0 487")


def test_what_is_known_can_be_asked(
    names: DnsServer, caller: Caller, peer: Callable[[], Peer], server: ServerProcess
) -> None:
    bob = peer()
    caller.send("INVITE", names_of(names, "asked.test", bob.port))
    call_is_answered_by(caller, bob)
    assert HOST in rpc(server, "dns.lookup", "A", "host.asked.test")
    assert "_sip._udp.asked.test" in rpc(server, "dns.view")


def rpc(server: ServerProcess, *words: str) -> str:
    command = [sys.executable, "-m", "polykemi", "rpc", "--data", str(server.data), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def test_a_dead_server_is_passed_over_for_a_while(tmp_path: Path, names: DnsServer, peer: Callable[[], Peer]) -> None:
    dead = free_port(HOST)
    bob = peer()
    uri = names_of(names, "listed.test", dead, bob.port)
    server = serve(tmp_path, names, blocklist=True)
    try:
        with contextlib.closing(Caller(server)) as caller:
            caller.send("INVITE", uri)
            call_is_answered_by(caller, bob)
            assert str(dead) in rpc(server, "dst_blocklist.view")
            with contextlib.closing(Peer()) as other:  # it is there again, and not called
                other.socket.close()
                other.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                other.socket.bind((HOST, dead))
                caller.send("INVITE", uri)
                call_is_answered_by(caller, bob)
                rpc(server, "dst_blocklist.delete_all")
                caller.send("INVITE", uri)
                other.socket.settimeout(PATIENCE)
                assert other.receive()[0].uri == uri
    finally:
        assert server.stop() == 0, server.log()
