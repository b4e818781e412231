"""TCP: messages in pieces, replies over the same connection, calls to others, limits; and WebSocket on it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from polykemi.errors import UsageError
from polykemi.sip.flow import Flow, LastFlow, Listener, OpenFlow
from polykemi.transport.connection import Connection, as_websocket
from polykemi.transport.limits import StreamLimits
from polykemi.transport.manager import Transports
from tests.waiting import PATIENCE

MESSAGE = b"OPTIONS sip:a@example.test SIP/2.0\r\nContent-Length: 0\r\n\r\n"
GET = b"GET / HTTP/1.1\r\n\r\n"


class Network:
    """One TCP listener on loopback, and what it reported."""

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.received: list[tuple[bytes, Flow]] = []
        self.failed: list[bytes] = []
        self.closed: list[int] = []
        self.lost: list[Flow] = []
        self.upgrade = False  # take WebSocket frames from the next message on
        self.transports = Transports(
            [Listener("tcp", "127.0.0.1", 0)],
            self._receive,
            lambda: None,
            self._failed,
            self._closed,
            limits,
            lost=lambda flow, _: self.lost.append(flow),
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
        end = self.loop.time() + PATIENCE
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
        network.until(
            lambda: network.streams.ident(flow) > 0 and network.streams.known._by_flow[flow]._transport is not None
        )
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
    first = network.peer()
    heard(network, first)
    assert network.from_peer(network.peer(), 1) == b""
    heard(network, first)
    network.transports.send([(b"x", Flow(network.listener, "127.0.0.1", 9))])
    assert network.failed == [b"x"]
    network.close()


def test_who_says_nothing_makes_room_for_who_does() -> None:
    network = limited(max_connections=3)
    talker = network.peer()
    heard(network, talker)
    silent = [network.peer() for _ in range(6)]
    network.until(lambda: network.streams.counters["tcp.silent_dropped"] == 4)
    for peer in silent[:4]:
        assert network.from_peer(peer, 1) == b""
    heard(network, network.peer())  # in place of the fifth
    heard(network, talker)
    heard(network, silent[5])
    assert network.from_peer(network.peer(), 1) == b""  # all have something to say
    assert not network.streams._silent
    network.close()


def test_a_connection_that_brings_no_message_is_dropped() -> None:
    network = limited(connection_lifetime=0.05)
    peer = network.peer()
    peer.sendall(b"OPTIONS")
    assert network.from_peer(peer, 1) == b""
    network.close()


@pytest.mark.parametrize(
    "data", [b"OPTIONS", MESSAGE + b"O", b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"]
)
def test_a_message_that_comes_octet_by_octet_is_not_waited_for(data: bytes) -> None:
    network = limited(msg_read_timeout=0.2)
    peer, quiet = network.peer(), network.peer()
    quiet.sendall(MESSAGE)
    peer.sendall(data)
    end = network.loop.time() + PATIENCE

    def trickled() -> bool:
        try:
            peer.send(b"x")
            return network.loop.time() > end
        except OSError:
            return True

    network.until(trickled)
    assert network.loop.time() < end
    assert network.streams.counters["tcp.msg_read_timeout"] == 1
    assert len(network.streams) == 1  # the other one waits for nothing
    network.close()


@pytest.mark.parametrize("start", [b"\x81", b"\x81\xfe\x10\x00abcdef", b"\x01\x85abcdHELLO"])
def test_a_frame_that_comes_octet_by_octet_is_not_waited_for(start: bytes) -> None:
    network = limited(msg_read_timeout=0.05)
    network.upgrade = True
    peer = network.peer()
    peer.sendall(GET)
    network.until(lambda: bool(network.received))
    peer.sendall(start)
    assert network.from_peer(peer, 1) == b""
    assert network.streams.counters["tcp.msg_read_timeout"] == 1
    network.close()


def test_a_peer_that_takes_nothing_for_too_long_loses_its_connection() -> None:
    network = limited(send_timeout=0.05)
    peer = network.peer()
    peer.sendall(MESSAGE)
    network.until(lambda: len(network.received) == 1)
    flow = network.received[0][1]

    def stuck() -> bool:
        network.transports.send([(b"x" * 65536, flow)])
        return network.streams.waiting > 0

    network.until(stuck)
    network.until(lambda: len(network.streams) == 0)
    assert network.streams.counters["tcp.send_timeout"] == 1
    network.close()


def test_what_waits_for_one_peer_and_for_all_is_bounded_as_configured() -> None:
    network = limited(conn_wq_max=1000, wq_max=1200)
    assert network.streams.share == 1000
    network.streams.waiting = 3
    assert network.streams.share == 400
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
        Transports([Listener("tcp", "127.0.0.1", network.listener.port)], *[lambda *_: None] * 3)  # type: ignore[arg-type]


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
    browser.socket.settimeout(PATIENCE)
    browser.socket.sendall(browser.frames.send_data(b"x" * 70_000))
    browser.socket.setblocking(False)
    network.until(lambda: network.closed == [1])
    assert network.received == []


# ---- which connection is taken
def flow_of(network: Network, peer: socket.socket) -> Flow:
    return Flow(network.listener, *peer.getsockname()[:2])


def heard(network: Network, peer: socket.socket) -> Flow:
    """Let the server know the peer; return its flow."""
    peer.sendall(MESSAGE)
    before = len(network.received)
    network.until(lambda: len(network.received) > before)
    return network.received[-1][1]


def test_a_peer_is_reached_over_its_connection_with_another_listener(network: Network) -> None:
    peer = network.peer()
    flow = heard(network, peer)
    other = flow._replace(listener=flow.listener._replace(host="127.0.0.9", port=5999))
    network.transports.send([(b"hello", other)])
    assert network.from_peer(peer, 5) == b"hello"
    assert len(network.streams) == 1


def test_what_goes_to_an_alias_goes_over_the_connection(network: Network) -> None:
    peer = network.peer()
    flow = heard(network, peer)
    assert network.streams.alias(flow, 5060)
    assert network.streams.alias(flow, 5060)
    network.transports.send([(b"hello", flow._replace(port=5060))])
    assert network.from_peer(peer, 5) == b"hello"
    assert network.streams.ident(flow._replace(port=5060)) == 1
    peer.close()
    network.until(lambda: len(network.streams) == 0)
    assert network.streams.ident(flow._replace(port=5060)) == -1
    assert not network.streams.alias(flow, 5060)
    assert not network.streams.known._by_flow
    assert not network.streams.known._by_peer


def with_via(params: str, start: bytes = b"OPTIONS sip:x SIP/2.0") -> bytes:
    via = f"Via: SIP/2.0/TCP 127.0.0.1:5070;branch=z9hG4bK1{params}\r\n".encode()
    return start + b"\r\n" + via + b"CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("accepts", "message", "is_known"),
    [
        (True, with_via(";alias"), True),
        (True, with_via(""), False),
        (True, with_via(";aliases"), False),
        (True, with_via(";alias", b"SIP/2.0 200 OK"), False),
        (True, with_via(";alias").replace(b"127.0.0.1:5070", b"127.0.0.1:x"), False),
        (False, with_via(";alias"), False),
    ],
)
def test_a_via_with_alias_names_another_port_of_the_connection(accepts: bool, message: bytes, is_known: bool) -> None:
    network = limited(accept_aliases=accepts)
    peer = network.peer()
    peer.sendall(message)
    network.until(lambda: bool(network.received))
    flow = network.received[0][1]
    assert (network.streams.ident(Flow(flow.listener, "127.0.0.1", 5070)) == network.streams.ident(flow)) is is_known
    network.close()


def test_a_peer_has_few_aliases(network: Network) -> None:
    flow = heard(network, network.peer())
    assert not all(network.streams.alias(flow, port) for port in range(1000, 1100))


def test_a_number_tells_the_flow(network: Network) -> None:
    flow = heard(network, network.peer())
    assert network.streams.flow_of(1) == flow
    assert network.streams.flow_of(2) is None
    network.streams.upgrade(flow)
    assert network.streams.flow_of(1) == as_websocket(flow)


def reply(via: str) -> bytes:
    return (
        f"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP {via}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>;tag=2\r\nCall-ID: 1\r\n"
        "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def test_a_reply_whose_connection_is_gone_goes_where_its_via_says(network: Network) -> None:
    peer = network.peer()
    flow = heard(network, peer)
    peer.close()
    network.until(lambda: len(network.streams) == 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        data = reply(f"phone.invalid:{port};received=127.0.0.1;rport={flow.port};branch=z9hG4bK1")
        network.transports.send([(data, flow)])
        network.until(lambda: network.streams.counters["tcp.connect_success"] == 1)
        other, _ = server.accept()
        with other:
            other.setblocking(False)
            assert network.from_peer(other, len(data)) == data
            other.setblocking(True)
        network.until(lambda: len(network.streams) == 0)
        network.transports.send([(data, OpenFlow(*flow))])  # the script wants no other connection
    assert network.failed == [data]


def test_nobody_is_called_for_an_open_flow(network: Network) -> None:
    peer = network.peer()
    flow = heard(network, peer)
    network.transports.send([(b"over", OpenFlow(*flow))])
    assert network.from_peer(peer, 4) == b"over"
    with socket.create_server(("127.0.0.1", 0)) as server:
        network.transports.send([(b"not", OpenFlow(network.listener, "127.0.0.1", server.getsockname()[1]))])
    assert network.failed == [b"not"]


# ---- how much one may take
def test_one_address_has_not_all_connections(caplog: pytest.LogCaptureFixture) -> None:
    network = limited(accept_iplimit=2)
    kept = [network.peer() for _ in range(2)]
    for _ in range(5):
        assert network.from_peer(network.peer(), 1) == b""
    assert len(network.streams) == 2
    assert network.streams.counters["tcp.local_reject"] == 5
    (record,) = caplog.records
    assert record.message.startswith("refused 1 connections, the last from 127.0.0.1:")
    kept[0].close()
    network.until(lambda: len(network.streams) == 1)
    heard(network, network.peer())
    network.close()


def test_who_is_gone_before_it_is_taken_leaves_nothing() -> None:
    network = limited()
    for _ in range(20):
        sock = network.peer()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    peer = network.peer()
    heard(network, peer)
    network.until(lambda: len(network.streams) == 1)
    network.close()


def test_one_connection_gets_in_a_part_at_a_time(network: Network) -> None:
    flood, other = network.peer(), network.peer()
    heard(network, other)
    heard(network, flood)
    network.received.clear()
    flood.setblocking(True)
    flood.sendall(MESSAGE * 1000)
    other.sendall(MESSAGE)
    network.until(lambda: len(network.received) == 1001)
    place = [flow for _, flow in network.received].index(flow_of(network, other))
    assert place < 900
    assert all(message == MESSAGE for message, _ in network.received)


def test_counters(network: Network) -> None:
    peer = network.peer()
    heard(network, peer)
    peer.sendall(b"x" * 70_000)
    network.until(lambda: len(network.streams) == 0)
    network.transports.send([(b"lost", Flow(network.listener, "127.0.0.1", 9))])
    network.until(lambda: network.failed == [b"lost"])
    counters = {name: n for name, n in network.streams.counters.items() if n}
    assert counters == {
        "tcp.passive_open": 1,
        "tcp.established": 1,
        "tcp.unreadable": 1,
        "tcp.connect_failed": 1,
    } | {name: n for name, n in counters.items() if name == "tcp.con_reset"}


def test_a_connection_ends_behind_the_last_flow(network: Network) -> None:
    peer = network.peer()
    flow = heard(network, peer)
    network.transports.send([(b"last", LastFlow(*flow))])
    assert network.from_peer(peer, 99) == b"last"


def test_the_end_of_a_connection_is_told_for_all_that_was_sent_over_it(network: Network) -> None:
    peer = network.peer()
    peer.sendall(MESSAGE)
    network.until(lambda: bool(network.received))
    flow = network.received[0][1]
    other = Flow(flow.listener, "localhost", flow.port)  # the same peer by its name
    for way in (flow, other, flow):
        network.transports.send([(MESSAGE, way)])
    network.from_peer(peer, 3 * len(MESSAGE))
    assert not network.lost
    peer.close()
    network.until(lambda: len(network.lost) == 2)
    assert set(network.lost) == {flow, other}


def test_the_end_of_a_websocket_is_told_as_such_too(network: Network) -> None:
    network.upgrade = True
    peer = network.peer()
    peer.sendall(GET)
    network.until(lambda: bool(network.received))
    flow = as_websocket(network.received[0][1])
    network.transports.send([(MESSAGE, flow)])
    network.from_peer(peer, len(MESSAGE))
    peer.close()
    network.until(lambda: bool(network.closed))
    assert flow in network.lost


# ---- HTTP
def test_a_client_that_waits_for_100_sends_its_chunks_then(network: Network) -> None:
    peer = network.peer()
    peer.sendall(b"PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert network.from_peer(peer, 25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not network.received
    peer.sendall(b"5\r\nhello\r\n0\r\n\r\n" + GET)
    network.until(lambda: len(network.received) == 2)
    expected = b"PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
    assert [data for data, _ in network.received] == [expected, GET]


def test_http_that_cannot_be_followed_is_refused_before_the_connection_ends(network: Network) -> None:
    peer = network.peer()
    peer.sendall(b"POST / HTTP/1.1\r\nContent-Length: all\r\n\r\n")
    answer = network.from_peer(peer, 1000)
    assert answer == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    assert network.streams.counters["tcp.unreadable"] == 1


class CallsItself:
    """A TCP connection whose both ends are one socket: nobody listened, and the kernel chose that port for our side."""

    def __init__(self, protocol: Connection) -> None:
        self._protocol = protocol

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return {"sockname": ("127.0.0.1", 40000), "peername": ("127.0.0.1", 40000)}[name]

    def set_write_buffer_limits(self, high: int) -> None: ...

    def abort(self) -> None:
        self._protocol.connection_lost(None)


def test_a_connection_with_oneself_is_none(network: Network) -> None:
    connection = Connection(network.streams, network.listener)
    network.streams.add(connection, "127.0.0.1", 40000)
    connection.send(b"x", connection.flow)
    connection.connection_made(CallsItself(connection))
    assert network.failed == [b"x"]
    assert (network.streams.counters["tcp.connect_failed"], network.streams.counters["tcp.connect_success"]) == (1, 0)
    assert len(network.streams) == 0
