"""Overload: new requests are refused as far as needed, what has begun goes on, and all is as before afterwards."""

from __future__ import annotations

import logging
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi import memory
from polykemi.config import load
from polykemi.errors import ConfigError
from polykemi.overload import BEAT, Overload, OverloadLimits
from polykemi.sip.flow import Flow, Listener
from polykemi.testing import ServerUnderTest
from polykemi.transport.udp import BATCH, UdpListener
from tests.test_router import PEER, request

SCRIPT = """
function ksr_request_route()
  if KSR.is_INVITE() then KSR.pv.sets("$du", "sip:192.0.2.20"); KSR.tm.t_relay(); return 1 end
  KSR.sl.sl_send_reply(200, "OK")
end
"""


class Queue:
    """What stands before a server that does ``capacity`` requests a second, or refuses three times as many."""

    def __init__(self, capacity: float, room: float = 1e9, limits: OverloadLimits | None = None) -> None:
        self.overload = Overload(limits or OverloadLimits())
        self.capacity, self.room = capacity, room
        self.waiting = self.done = self.lost = self.now = 0.0

    def load(self, rate: float, seconds: float) -> float:
        """Let requests come at ``rate``; return the longest wait in seconds."""
        longest, step, lost = 0.0, 0.01, 0.0
        for i in range(round(seconds / step)):
            self.waiting += rate * step
            if self.waiting > self.room:
                lost += self.waiting - self.room
                self.waiting = self.room
            level = self.overload.level
            cost = (1 - level + level / 3) / self.capacity
            served = min(self.waiting, step / cost)
            self.waiting -= served
            self.done += served * (1 - level)
            longest = max(longest, self.waiting * cost)
            self.now += step
            if i % round(BEAT / step) == 0:
                self.overload.beat(self.waiting * cost, round(lost), 0, 0, self.now)
                self.lost += lost
                lost = 0.0
        return longest


@pytest.mark.parametrize("capacity", [20.0, 1000.0, 10_000.0])
@pytest.mark.parametrize("times", [1.2, 1.5, 2.0])
def test_the_wait_stays_short_and_the_capacity_is_used(capacity: float, times: float) -> None:
    queue = Queue(capacity)
    assert queue.load(times * capacity, 30) < 1.2  # it would be up to 30 s
    possible = capacity * (3 - times) / 2  # the rest of the time is for refusing
    assert queue.done > 0.9 * 30 * possible
    assert 0 < queue.overload.level < 1
    queue.load(0.5 * capacity, 10)
    assert queue.overload.level == 0
    before = queue.done
    queue.load(0.5 * capacity, 1)
    assert queue.done - before == pytest.approx(0.5 * capacity)


def test_a_small_socket_buffer_shows_by_what_is_lost() -> None:
    queue = Queue(10_000.0, room=300)
    queue.load(15_000, 30)
    assert queue.lost < 0.03 * 15_000 * 30  # a third of it without
    assert queue.overload.episodes == 1


def test_one_pause_refuses_nothing() -> None:
    overload = Overload(OverloadLimits())
    for now, waited in ((1.0, 0.0), (1.1, 0.0), (4.0, 2.9), (5.0, 0.9), (5.1, 0.0)):
        overload.beat(waited, 0, 0, 0, now)
        assert overload.level == 0
    assert not overload.episodes


def test_the_level_is_the_part_that_is_refused_and_calls_for_help_are_not() -> None:
    overload = Overload(OverloadLimits(retry_after=4))
    overload.level = 0.3
    assert sum(overload.refuses("sip:a@b") for _ in range(1000)) == pytest.approx(300, abs=1)
    assert not any(overload.refuses("URN:service:sos.fire") for _ in range(100))
    times = set()
    for _ in range(100):
        overload.refuses("sip:a@b")
        times.add(overload.retry_after())
    assert times == {4, 5, 6, 7, 8}


def test_no_delay_and_no_transactions_are_no_limits() -> None:
    overload = Overload(OverloadLimits(delay=0, transactions=0))
    for n in range(100):
        overload.beat(100.0, 100, 10**9, 10**12, n / 10)
    assert overload.level == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server that relays INVITEs."""
    (tmp_path / "route.lua").write_text(SCRIPT)
    with ServerUnderTest({"lua": tmp_path / "route.lua"}, domains=["example.test"]) as one:
        yield one


def overloaded(server: ServerUnderTest, seconds: float = 3.0) -> None:
    """Let it be overloaded so long."""
    for _ in range(round(seconds / BEAT)):
        server.now += BEAT
        server.node.router.beat(2.0, 0, 0, server.now)


def test_new_requests_are_refused_and_all_else_goes_on(server: ServerUnderTest) -> None:
    invite = request("INVITE", Via=f"SIP/2.0/UDP {PEER};branch=z9hG4bKopen")
    server.receive(invite, PEER)
    overloaded(server)
    (refused,) = server.receive(request("REGISTER"), PEER)
    assert refused.start_line == "SIP/2.0 503 Service Unavailable"
    assert b"\r\nRetry-After: " in refused.data
    to = "<sip:b@example.test>;tag=b"
    calls = len(server.calls)
    assert [s.start_line for s in server.receive(request("BYE", To=to), PEER)] == ["SIP/2.0 200 OK"]
    assert [s.start_line for s in server.receive(invite, PEER)] == ["SIP/2.0 100 Trying"]  # a retransmission
    assert [c.path for c in server.calls[calls:]] == ["KSR.is_INVITE", "KSR.sl.sl_send_reply"]
    calls = len(server.calls)
    server.receive(request("CANCEL", Via=f"SIP/2.0/UDP {PEER};branch=z9hG4bKopen"), PEER)
    server.receive(request("ACK", To=to), PEER)
    assert len(server.calls) > calls
    calls = len(server.calls)
    assert server.receive(request("INVITE", To="<sip:b@example.test"), PEER)[0].data[8:11] in (b"400", b"503")
    assert len(server.calls) == calls
    counters = server.node.services.counters
    assert counters["core.overload_refused"] in (1, 2)
    assert (counters["core.overload_level"], counters["core.overload_episodes"]) == (100, 1)


def test_it_recovers_by_itself_and_tells_of_it_once(server: ServerUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "polykemi.overload"):
        overloaded(server)
        for n in range(50):
            server.receive(request("OPTIONS", Via=f"SIP/2.0/UDP {PEER};branch=z9hG4bK{n}"), PEER)
        for _ in range(80):
            server.now += BEAT
            server.node.router.beat(0.0, 0, 0, server.now)
    assert [s.start_line for s in server.receive(request(), PEER)] == ["SIP/2.0 200 OK"]
    assert not server.node.router.refusing
    first, last = [record.message for record in caplog.records]
    assert first == "overload: messages wait 2.00 s, 0 are lost; new requests are refused with 503"
    assert last.endswith("50 requests refused")


def test_there_are_no_more_transactions_than_allowed(tmp_path: Path) -> None:
    (tmp_path / "route.lua").write_text('function ksr_request_route() KSR.tm.t_send_reply(486, "Busy") end')
    with ServerUnderTest({"lua": tmp_path / "route.lua"}, domains=["example.test"]) as server:
        server.node.router.overload = Overload(OverloadLimits(transactions=1000))
        answers = []
        for n in range(3000):
            if n % 100 == 0:
                server.now += BEAT
                server.node.router.beat(0.0, 0, 0, server.now)
            invite = request("INVITE", Via=f"SIP/2.0/UDP {PEER};branch=z9hG4bK{n}", Call_ID=str(n))
            answers.append(server.receive(invite, PEER)[-1].data[8:11])
        assert (answers.count(b"486"), answers.count(b"503")) == (1000, 2000)
        server.advance(60)
        server.node.router.beat(0.0, 0, 0, server.now)
        assert server.receive(invite, PEER)[-1].data[8:11] == b"486"


def test_new_requests_are_refused_as_long_as_memory_is_short() -> None:
    overload = Overload(OverloadLimits(memory=1 << 30))
    for now, used, level in ((1.0, 1 << 29, 0.0), (1.1, 1 << 30, 1.0), (1.2, 1 << 31, 1.0), (1.3, 1 << 29, 0.0)):
        overload.beat(0.0, 0, 0, used, now)
        assert (overload.level, overload.is_out_of_memory) == (level, bool(level))


# ---- what is measured
def test_the_memory_of_the_process() -> None:
    before = memory.in_use()
    block = bytearray(b"x") * (32 << 20)
    assert 30 << 20 < memory.in_use() - before < 40 << 20
    del block
    assert 256 << 20 < memory.limit() < 1 << 50


def test_the_memory_is_known_when_there_are_no_descriptors_left() -> None:
    memory.in_use()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert memory.in_use() > 1 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_freed_memory_in_between_goes_back_to_the_system() -> None:
    blocks = [bytes(60_000) for _ in range(2_000)]
    blocks = blocks[::100]  # the rest lies between these
    before = memory.in_use()
    memory.give_back()
    assert before - memory.in_use() > 50 << 20
    assert len(blocks) == 20


def _bound_udp() -> tuple[Listener, socket.socket]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.17.2", 0))
    return Listener("udp", "127.0.17.2", 0), sock


def test_a_udp_socket_tells_how_long_datagrams_wait_and_how_many_had_no_room() -> None:
    udp = UdpListener(*_bound_udp(), lambda *_: None, lambda: None, lambda *_: None)
    udp._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    assert udp.waited(time.time()) == 0.0
    assert udp.lost() == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        before = time.time()
        for _ in range(100):
            peer.sendto(b"x" * 1000, ("127.0.17.2", udp.listener.port))
    assert udp.waited(before + 7) == pytest.approx(7, abs=0.5)
    lost = udp.lost()
    assert 50 < lost < 100
    assert udp.lost() == 0
    udp._readable()
    assert udp.waited(before + 7) == 0.0
    udp.close()


def test_passes_that_take_long_become_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    clock = [100.0]

    def receive(data: bytes, flow: Flow, now: float) -> None:
        taken[-1] += 1
        clock[0] += 0.05

    udp = UdpListener(*_bound_udp(), receive, lambda: None, lambda *_: None)
    monkeypatch.setattr("polykemi.transport.udp.time.time", lambda: clock[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for _ in range(150):
            peer.sendto(b"x", ("127.0.17.2", udp.listener.port))
    for _ in range(8):
        taken.append(0)
        udp._readable()
    assert taken == [64, 32, 16, 8, 4, 2, 4, 2]
    udp.close()
    assert BATCH == 64


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    (tmp_path / "polykemi.toml").write_text("[overload]\ndelay = 0.25\nretry_after = -1\n")
    with pytest.raises(ConfigError, match=r":3: \[overload\] retry_after: expected 0 or more, got -1$"):
        load(tmp_path / "polykemi.toml", serving=False)
    (tmp_path / "polykemi.toml").write_text("[overload]\ndelay = 0.25\ntransactions = 5\n")
    settings = load(tmp_path / "polykemi.toml", serving=False)
    assert settings.overload == OverloadLimits(delay=0.25, transactions=5)
