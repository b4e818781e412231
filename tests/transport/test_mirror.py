"""Mirroring to a capture server: what is mirrored, over what, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from polykemi.errors import UsageError
from polykemi.sip.flow import Flow, Listener
from polykemi.transport.manager import Transports
from polykemi.transport.mirror import BACKLOG, HepSettings, Mirror
from tests.pki import Pki
from tests.sip.test_hep import chunks
from tests.waiting import PATIENCE

UDP = Listener("udp", "192.0.2.1", 5060)
PHONE = Flow(UDP, "192.0.2.10", 5070)


def message(start: str = "OPTIONS sip:x SIP/2.0", call_id: str = "a@b", cseq: str = "1 OPTIONS") -> bytes:
    return f"{start}\r\nVia: SIP/2.0/UDP 192.0.2.10\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n\r\n".encode()


class Collector:
    """A capture server on UDP, and a mirror to it."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.mirrors: list[Mirror] = []

    def mirror(self, **options: object) -> Mirror:
        """Make a mirror to it."""
        self.mirrors.append(Mirror(HepSettings("udp", "127.0.0.1", self.port, **options)))  # type: ignore[arg-type]
        return self.mirrors[-1]

    def took(self) -> list[dict[int, bytes]]:
        """Return the chunks of what has come: on loopback a datagram is there when it has been sent."""
        found = []
        while True:
            try:
                found.append(dict(chunks(self.socket.recv(65536))))
            except BlockingIOError:
                return found

    def close(self) -> None:
        for mirror in self.mirrors:
            mirror.close()
        self.socket.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def test_both_directions_with_their_addresses(collector: Collector) -> None:
    mirror = collector.mirror(capture_id=7, node="edge")
    request, reply = message(), message("SIP/2.0 200 OK")
    mirror.received(request, PHONE)
    mirror.sent(reply, UDP, "192.0.2.10", 5070)
    there, back = collector.took()
    ours, peers = (socket.inet_aton("192.0.2.1"), b"\x13\xc4"), (socket.inet_aton("192.0.2.10"), b"\x13\xce")
    assert ((there[3], there[7]), (there[4], there[8]), there[15]) == (peers, ours, request)
    assert ((back[3], back[7]), (back[4], back[8]), back[15]) == (ours, peers, reply)
    assert there[17] == back[17] == b"a@b"
    assert there[12] == b"\0\0\0\x07"
    assert (there[9], there[10]) <= (back[9], back[10])
    assert mirror.counters == {"hep.sent": 2, "hep.dropped": 0}


def test_what_is_no_sip_message_is_not_mirrored(collector: Collector) -> None:
    mirror = collector.mirror()
    mirror.received(message(), PHONE)
    (packet,) = (collector.socket.recv(65536),)
    for data in (
        b"\r\n\r\n",
        b"",
        b"\0\1\0\0stun",
        b"GET / HTTP/1.1\r\nAuthorization: x\r\n\r\n",
        b"\xff\xfe junk",
        packet,
    ):
        mirror.received(data, PHONE)
    assert collector.took() == []
    for data in (b"\r\n\r\n" + message(), message("SIP/2.0 100 Trying"), b"OPTIONS sip:x SIP/2.0\r\nbroken"):
        mirror.received(data, PHONE)
    assert len(collector.took()) == 3


def test_some_methods_alone_with_the_responses_to_them(collector: Collector) -> None:
    mirror = collector.mirror(methods=frozenset(("INVITE", "BYE")))
    wanted = [
        message("INVITE sip:x SIP/2.0", cseq="1 INVITE"),
        message("SIP/2.0 200 OK", cseq="1 INVITE"),
        message("BYE sip:x SIP/2.0", cseq="2 BYE"),
    ]
    others = [
        message(),
        message("SIP/2.0 200 OK", cseq="1 OPTIONS"),
        message("SIP/2.0 200 OK", cseq="nonsense"),
        message("SIP/2.0 200 OK", cseq="1 REGISTER") + b"\nCSeq: 1 INVITE\r\n",
    ]
    for data in wanted + others:
        mirror.received(data, PHONE)
    assert [found[15] for found in collector.took()] == wanted


def test_a_sample_has_whole_calls(collector: Collector) -> None:
    mirror = collector.mirror(sample=0.25)
    found = []
    for i in range(1000):
        mirror.received(message(call_id=f"{i}@x"), PHONE)
        mirror.sent(message("SIP/2.0 200 OK", call_id=f"{i}@x"), UDP, "192.0.2.10", 5070)
        found += [one[17] for one in collector.took()]
    assert 150 < len(set(found)) < 350
    assert all(found.count(one) == 2 for one in set(found))


def test_what_nobody_takes_is_dropped_and_counted(collector: Collector) -> None:
    mirror = collector.mirror()
    mirror.received(message() + b"x" * 70_000, PHONE)  # longer than a packet may be
    assert mirror.counters == {"hep.sent": 0, "hep.dropped": 1}
    collector.socket.close()
    for _ in range(10):  # the kernel tells with the next one that nobody is there
        mirror.received(message(), PHONE)
    assert mirror.counters["hep.dropped"] >= 5
    assert sum(mirror.counters.values()) == 11


def test_the_key_goes_into_packets_and_nowhere_else(collector: Collector) -> None:
    mirror = collector.mirror(auth_key="open sesame", methods=frozenset(("INVITE",)), sample=0.5)
    settings = HepSettings("udp", "127.0.0.1", collector.port, auth_key="open sesame")
    assert "sesame" not in f"{settings} {settings!r} {mirror.describe()}"
    expected = f"mirrored to udp:127.0.0.1:{collector.port} (HEPv3, capture ID 1, methods INVITE, 0.5 of all calls)"
    assert mirror.describe() == expected
    everything = collector.mirror(auth_key="open sesame")
    everything.received(message(), PHONE)
    assert [found[14] for found in collector.took()] == [b"open sesame"]


def test_a_name_that_is_none_is_told() -> None:
    with pytest.raises(UsageError, match=r"\[hep\] cannot mirror to udp:no-such-host\.invalid:9060: [A-Z]"):
        Mirror(HepSettings("udp", "no-such-host.invalid", 9060))


def test_transports_tell_what_comes_and_leaves(collector: Collector) -> None:
    loop = uvloop.new_event_loop()
    replies: list[tuple[bytes, Flow]] = []
    transports = Transports(
        [Listener("udp", "127.0.0.1", 0), Listener("tcp", "127.0.0.1", 0)],
        lambda data, flow, now: replies.append((message("SIP/2.0 200 OK"), flow)),
        lambda: transports.send([replies.pop() for _ in range(len(replies))]),
        lambda data, flow: None,
    )
    transports.mirror_to(collector.mirror())
    transports.open(loop)
    udp, tcp = transports.bound
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
            phone.bind(("127.0.0.1", 0))
            phone.sendto(message(), ("127.0.0.1", udp.port))
            over_udp = _until(loop, collector, 2)
            ports = [int.from_bytes(over_udp[0][kind], "big") for kind in (7, 8)]
            assert ports == [phone.getsockname()[1], udp.port]
        assert [one[15][:7] for one in over_udp] == [b"OPTIONS", b"SIP/2.0"]
        with socket.create_connection(("127.0.0.1", tcp.port)) as phone:
            phone.sendall(message()[:-2] + b"Content-Length: 0\r\n\r\n")
            over_tcp = _until(loop, collector, 2)
            ports = [int.from_bytes(over_tcp[1][kind], "big") for kind in (7, 8)]
            assert ports == [tcp.port, phone.getsockname()[1]]
        assert [(one[2], one[15][:7]) for one in over_tcp] == [(b"\x06", b"OPTIONS"), (b"\x06", b"SIP/2.0")]
        assert transports.messages() == {"udp": (1, 1), "tcp": (1, 1), "ws": (0, 0)}
        assert list(transports.sent.responses()) == [(200, 2)]
    finally:
        transports.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def _until(loop: asyncio.AbstractEventLoop, collector: Collector, number: int) -> list[dict[int, bytes]]:
    found: list[dict[int, bytes]] = []

    def has_come() -> bool:
        found.extend(collector.took())
        return len(found) >= number

    _run(loop, has_come)
    return found


def _mirrored(mirror: Mirror) -> bool:
    """Mirror a message and tell whether it was taken."""
    before = mirror.counters["hep.sent"]
    mirror.received(message(), PHONE)
    return mirror.counters["hep.sent"] > before


def _run(loop: asyncio.AbstractEventLoop, condition: Callable[[], bool]) -> None:
    """Run the loop until ``condition`` holds."""
    end = loop.time() + PATIENCE
    while not condition():
        assert loop.time() < end
        loop.call_later(0.005, loop.stop)
        loop.run_forever()


class Server(asyncio.Protocol):
    """A capture server that is reached over a connection."""

    def __init__(self) -> None:
        self.got = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data


@pytest.mark.parametrize("proto", ["tcp", "tls"])
def test_over_a_connection_that_is_made_again(proto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = Pki(tmp_path) if proto == "tls" else None
    context = None
    if pki is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.path("server.pem"), pki.path("server.key"))
    loop = asyncio.new_event_loop()
    server = Server()
    listening = loop.run_until_complete(loop.create_server(lambda: server, "127.0.0.1", 0, ssl=context))
    port = listening.sockets[0].getsockname()[1]
    mirror = Mirror(HepSettings(proto, "127.0.0.1", port, ca=None if pki is None else pki.ca, again=0.01))
    try:
        mirror.received(message(), PHONE)  # before there is a loop
        assert mirror.counters == {"hep.sent": 0, "hep.dropped": 1}
        mirror.open(loop)
        for _ in range(2):
            _run(loop, lambda: server.transport is not None)
            _run(loop, lambda: _mirrored(mirror))
            _run(loop, lambda: message() in server.got)
            assert server.got[:4] == b"HEP3"
            assert server.transport is not None
            server.transport.abort()
            server.transport, server.got = None, b""
    finally:
        mirror.close()
        listening.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_a_capture_server_that_takes_nothing_does_not_fill_the_memory() -> None:
    loop = uvloop.new_event_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        mirror = Mirror(HepSettings("tcp", "127.0.0.1", listening.getsockname()[1]))
        mirror.open(loop)
        big = message() + b"x" * 50_000
        _run(loop, lambda: _mirrored(mirror))
        for _ in range(10_000):
            mirror.received(big, PHONE)
        assert mirror.counters["hep.dropped"] > 5_000
        assert mirror.waiting <= BACKLOG
        mirror.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
