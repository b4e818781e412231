"""TCP: messages in pieces, replies over the same connection, calls to others, limits; and WebSocket on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from polykemi.errors import UsageError
from polykemi.sip.flow import Flow
from polykemi.transport.connection import as_websocket
from polykemi.transport.manager import Transports
from polykemi.transport.stream import StreamLimits

MESSAGE = b"OPTIONS sip:a@example.test SIP/2.0\r\nContent-Length: 0\r\n\r\n"
GET = b"GET / HTTP/1.1\r\n\r\n"


class Network:
    """One TCP listener on loopback, and what it reported."""

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.received: list[tuple[bytes, Flow]] = []
        self.failed: list[bytes] = []
        self.closed: list[int] = []
        self.upgrade = False  # take WebSocket frames from the next message on
        self.transports = Transports(
            [("tcp", "127.0.0.1", 0)], self._receive, lambda: None, self._failed, self._closed, limits
        )
        self.transports.open(self.loop)
        self.streams = self.transports.streams
        self.listener = self.transports.listeners[0]
        self._peers: list[socket.socket] = []

    def _receive(self, data: bytes, flow: Flow, now: float) -> None:
        self.received.append((data, flow))
        if self.upgrade:
            self.upgrade = False
            assert self.streams.upgrade(flow)

    def _failed(self, data: bytes, flow: Flow) -> None:
        self.failed.append(data)

    def _closed(self, flow: Flow, ident: int, now: float) -> None:
        assert flow.listener.proto == "ws"
        self.closed.append(ident)

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop until ``condition`` holds."""
        end = self.loop.time() + 10
        while not condition():
            assert self.loop.time() < end
            self.loop.call_later(0.002, self.loop.stop)
            self.loop.run_forever()

    def peer(self) -> socket.socket:
        """Return a connection of a peer."""
        sock = socket.create_connection(("127.0.0.1", self.listener.port))
        sock.setblocking(False)
        self._peers.append(sock)
        return sock

    def from_peer(self, sock: socket.socket, n: int) -> bytes:
        """Return what ``n`` octets or more come to a peer; what there is when the server closes."""
        data = b""

        def enough() -> bool:
            nonlocal data
            try:
                more = sock.recv(65536)
            except BlockingIOError:
                return len(data) >= n
            except ConnectionError:
                return True
            data += more
            return not more or len(data) >= n

        self.until(enough)
        return data

    def close(self) -> None:
        """Close everything."""
        for sock in self._peers:
            sock.close()
        self.transports.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture
def network() -> Iterator[Network]:
    """A network with the default limits."""
    one = Network()
    yield one
    one.close()


def limited(**limits: float) -> Network:
    return Network(StreamLimits(**limits))  # type: ignore[arg-type]


def test_messages_in_pieces_and_a_reply_over_the_same_connection(network: Network) -> None:
    peer = network.peer()
    for piece in (MESSAGE[:7], MESSAGE[7:] + MESSAGE[:20], MESSAGE[20:]):
        peer.sendall(piece)
        network.until(lambda: True)
    network.until(lambda: len(network.received) == 2)
    data, flow = network.received[0]
    assert (data, flow) == (MESSAGE, Flow(network.listener, *peer.getsockname()))
    assert network.streams.ident(flow) == 1
    network.transports.send([(b"reply", flow)])
    assert network.from_peer(peer, 5) == b"reply"


def test_a_keep_alive_is_answered(network: Network) -> None:
    peer = network.peer()
    peer.sendall(b"\r\n\r\n")
    assert network.from_peer(peer, 2) == b"\r\n"
    assert network.received == []


def test_a_call_to_another_server_keeps_its_connection(network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        flow = Flow(network.listener, "127.0.0.1", server.getsockname()[1])
        network.transports.send([(b"one", flow), (b"two", flow)])
        network.until(lambda: network.streams.ident(flow) > 0 and network.streams._by_flow[flow]._transport is not None)
        other, _ = server.accept()
        with other:
            other.setblocking(False)
            assert network.from_peer(other, 6) == b"onetwo"
            other.sendall(MESSAGE)
            network.until(lambda: network.received == [(MESSAGE, flow)])
        network.until(lambda: len(network.streams) == 0)


def test_what_nobody_takes_is_reported(network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    network.transports.send([(b"lost", Flow(network.listener, "127.0.0.1", port))])
    network.until(lambda: network.failed == [b"lost"])
    websocket = as_websocket(Flow(network.listener, "127.0.0.1", port))
    network.transports.send([(b"nobody", websocket)])
    assert network.failed == [b"lost", b"nobody"]


def test_a_stream_that_cannot_be_followed_is_closed(network: Network) -> None:
    peer = network.peer()
    peer.sendall(b"OPTIONS sip:a SIP/2.0\r\n\r\n")
    assert network.from_peer(peer, 1) == b""


def test_a_connection_closes_behind_the_reply_when_it_is_asked_for(network: Network) -> None:
    peer = network.peer()
    peer.sendall(MESSAGE)
    network.until(lambda: len(network.received) == 1)
    network.streams.close_after_reply(network.received[0][1])
    network.transports.send([(b"last", network.received[0][1])])
    assert network.from_peer(peer, 99) == b"last"


def test_there_are_no_more_connections_than_allowed() -> None:
    network = limited(max_connections=1)
    first, second = network.peer(), network.peer()
    assert network.from_peer(second, 1) == b""
    first.sendall(MESSAGE)
    network.until(lambda: len(network.received) == 1)
    network.transports.send([(b"x", Flow(network.listener, "127.0.0.1", 9))])
    assert network.failed == [b"x"]
    network.close()


def test_a_connection_that_brings_no_message_is_dropped() -> None:
    network = limited(connection_lifetime=0.05)
    peer = network.peer()
    peer.sendall(b"OPTIONS")
    assert network.from_peer(peer, 1) == b""
    network.close()


def test_a_peer_that_takes_nothing_loses_its_connection(network: Network) -> None:
    peer = network.peer()
    peer.sendall(MESSAGE)
    network.until(lambda: len(network.received) == 1)
    flow = network.received[0][1]
    for _ in range(400):
        network.transports.send([(b"x" * 65536, flow)])
        if network.streams.ident(flow) < 0 or network.failed:
            break
    network.until(lambda: network.streams.ident(flow) < 0)


def test_a_taken_port_is_one_line(network: Network) -> None:
    with pytest.raises(
        UsageError, match=f"cannot listen on tcp:127.0.0.1:{network.listener.port}: Address already in use"
    ):
        Transports([("tcp", "127.0.0.1", network.listener.port)], *[lambda *_: None] * 3)  # type: ignore[arg-type]


# ---- WebSocket
class Browser:
    """A peer that speaks WebSocket."""

    def __init__(self, network: Network) -> None:
        self.network, self.socket, self.frames = network, network.peer(), FrameProtocol(True, [])
        network.upgrade = True
        self.socket.sendall(GET)
        network.until(lambda: len(network.received) == 1)
        self.flow = network.received.pop()[1]

    def receive(self) -> list[tuple[Opcode, object]]:
        """Return the next frames."""
        self.frames.receive_bytes(self.network.from_peer(self.socket, 2))
        return [(frame.opcode, frame.payload) for frame in self.frames.received_frames()]


def test_messages_travel_in_frames(network: Network) -> None:
    browser = Browser(network)
    text = browser.frames.send_data(MESSAGE.decode())
    browser.socket.sendall(text[:9])
    network.until(lambda: True)
    browser.socket.sendall(
        bytes(text[9:] + browser.frames.send_data(b"\xff", fin=False) + browser.frames.send_data(b"\xfe"))
    )
    network.until(lambda: len(network.received) == 2)
    flow = as_websocket(browser.flow)
    assert network.received == [(MESSAGE, flow), (b"\xff\xfe", flow)]
    network.transports.send([(b"SIP/2.0 200 OK", flow)])
    assert browser.receive() == [(Opcode.TEXT, "SIP/2.0 200 OK")]
    network.transports.send([(b"\xff", flow)])
    assert browser.receive() == [(Opcode.BINARY, b"\xff")]


def test_keep_alives_of_both_kinds_are_answered(network: Network) -> None:
    browser = Browser(network)
    browser.socket.sendall(browser.frames.ping(b"hey"))
    assert browser.receive() == [(Opcode.PONG, b"hey")]
    browser.socket.sendall(browser.frames.send_data("\r\n\r\n"))
    assert browser.receive() == [(Opcode.TEXT, "\r\n")]
    assert network.streams.ping(1, b"there?")
    assert browser.receive() == [(Opcode.PING, b"there?")]
    assert network.streams.ping(1, b"here", pong=True)
    assert browser.receive() == [(Opcode.PONG, b"here")]
    assert not network.streams.ping(99, b"")


def test_the_peer_closes(network: Network) -> None:
    browser = Browser(network)
    browser.socket.sendall(browser.frames.close(1000, "bye"))
    assert browser.receive() == [(Opcode.CLOSE, (1000, "bye"))]
    network.until(lambda: network.closed == [1])
    assert network.streams.last_used(1) is None


def test_we_close_and_the_peer_agrees(network: Network) -> None:
    browser = Browser(network)
    assert network.streams.end_websocket(1, 1001, "going")
    assert browser.receive() == [(Opcode.CLOSE, (1001, "going"))]
    assert not network.closed
    browser.socket.sendall(browser.frames.close(1001))
    network.until(lambda: network.closed == [1])
    assert not network.streams.end_websocket(1, 1001, "again")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\xc1\x80\x00\x00\x00\x00", 1002),  # a reserved bit
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),  # a text that is no UTF-8
    ],
)
def test_who_breaks_the_rules_is_told_and_closed(network: Network, data: bytes, code: int) -> None:
    browser = Browser(network)
    browser.socket.sendall(data)
    ((opcode, payload),) = browser.receive()
    assert opcode is Opcode.CLOSE
    assert isinstance(payload, tuple)
    assert payload[0] == code
    network.until(lambda: network.closed == [1])


def test_a_message_too_long_is_refused(network: Network) -> None:
    browser = Browser(network)
    browser.socket.setblocking(True)
    browser.socket.settimeout(5)
    browser.socket.sendall(browser.frames.send_data(b"x" * 70_000))
    browser.socket.setblocking(False)
    network.until(lambda: network.closed == [1])
    assert network.received == []
