"""websocket: handshakes of both sides, keep-alives, events, commands; the connections are made up."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.network import NoConnections
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.sl import Sl
from polykemi.modules.websocket import WebSocketModule, WebSocketParams
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.http import parse_request
from tests.support import NOW, replies, services

TCP = Listener("tcp", "192.0.2.1", 5060)
PEER = Flow(TCP, "192.0.2.10", 4000)
HEADERS = {
    "Host": "example.test",
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "sip",
}
ACCEPT = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3


class Connections(NoConnections):
    """Connections that note what is asked of them."""

    def __init__(self) -> None:
        self.idents: dict[Flow, int] = {PEER: 7}
        self.asked: list[tuple[Any, ...]] = []
        self.used: dict[int, float] = {}

    def ident(self, flow: Flow) -> int:
        """Return the number."""
        return self.idents.get(flow, -1)

    def close_after_reply(self, flow: Flow) -> None:
        """Note it."""
        self.asked.append(("close_after_reply",))

    def upgrade(self, flow: Flow, *, client: bool = False) -> bool:
        """Note it."""
        self.asked.append(("upgrade", client))
        self.idents[flow._replace(listener=flow.listener._replace(proto="ws"))] = self.idents[flow]
        return True

    def last_used(self, ident: int) -> float | None:
        """Return what the test has set."""
        return self.used.get(ident)

    def end_websocket(self, ident: int, code: int, reason: str) -> bool:
        """Note it."""
        self.asked.append(("end", ident, code, reason))
        return True

    def ping(self, ident: int, data: bytes, *, pong: bool = False) -> bool:
        """Note it."""
        self.asked.append(("pong" if pong else "ping", ident, data))
        return True

    def abort(self, ident: int) -> None:
        """Note it."""
        self.asked.append(("abort", ident))


def made(**params: Any) -> tuple[Services, WebSocketModule, Connections]:
    one = services(Sl, WebSocketModule, params={"websocket": params} if params else None, listeners=(TCP,))
    connections = Connections()
    one.connections = connections
    return one, one.modules["websocket"], connections


def handshake(module: WebSocketModule, **changed: str | None) -> tuple[int, RouteContext]:
    headers = {**HEADERS, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    request = parse_request(f"GET /ws HTTP/1.1\r\n{lines}\r\n".encode(), PEER)
    assert request is not None
    ctx = RouteContext(Route.EVENT, "http", request, PEER, NOW)
    return module.handle_handshake(ctx), ctx


def test_a_handshake_is_answered_and_the_connection_goes_on_in_frames() -> None:
    one, module, connections = made()
    result, _ = handshake(module)
    assert result == 1
    (reply,) = replies(one)
    assert reply == (
        "HTTP/1.1 101 Switching Protocols\r\nSia: SIP/2.0/TCP 192.0.2.10:4000\r\nSec-WebSocket-Protocol: sip\r\n"
        f"Upgrade: websocket\r\nConnection: upgrade\r\n{ACCEPT}\r\nServer: polykemi\r\nContent-Length: 0\r\n\r\n"
    )
    assert connections.asked == [("close_after_reply",), ("upgrade", False)]
    assert one.counters["websocket.ws_current_connections"] == 1
    assert module.dump(now=NOW) == {
        "connections": [
            "7: ws:192.0.2.10:4000 -> ws:192.0.2.1:5060 (state: OPEN,  last used 0s ago, sub-protocol: sip)"
        ],
        "info": {"wscounter": 1, "truncated": "no"},
    }


@pytest.mark.parametrize(
    ("changed", "status", "header"),
    [
        ({"Sec_WebSocket_Version": "12"}, "426 Upgrade Required", "Sec-WebSocket-Version: 13"),
        ({"Sec_WebSocket_Version": None}, "400 Bad Request", "Sec-WebSocket-Version: 13"),
        ({"Sec_WebSocket_Protocol": "msrp"}, "400 Bad Request", "Sec-WebSocket-Protocol: sip"),
        ({"Upgrade": None}, "400 Bad Request", "Sec-WebSocket-Protocol: sip"),
        ({"Sec_WebSocket_Key": None}, "400 Bad Request", "Sec-WebSocket-Version: 13"),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZQ=="}, "400 Bad Request", "Sec-WebSocket-Version: 13"),  # not 16 octets
        ({"Sec_WebSocket_Key": "no base64 at all, not even"}, "400 Bad Request", "Sec-WebSocket-Version: 13"),
        ({"Host": None}, "400 Bad Request", "Sec-WebSocket-Version: 13"),
        ({"Connection": "not-upgrade"}, "400 Bad Request", "Sec-WebSocket-Version: 13"),
        ({"Upgrade": "websockets"}, "400 Bad Request", "Sec-WebSocket-Version: 13"),
        ({"Sec_WebSocket_Protocol": "gossip"}, "400 Bad Request", "Sec-WebSocket-Protocol: sip"),
        ({"Origin": "a\r\nOrigin: b"}, "400 Bad Request", "Server: polykemi"),
    ],
)
def test_a_handshake_that_is_none_is_refused(changed: dict[str, str | None], status: str, header: str) -> None:
    one, module, connections = made()
    assert handshake(module, **changed)[0] == 0
    (reply,) = replies(one)
    assert reply.startswith(f"HTTP/1.1 {status}\r\n")
    assert header in reply.split("\r\n")
    assert connections.asked == [("close_after_reply",)]


def test_handshakes_can_be_switched_off() -> None:
    one, module, _ = made()
    module.disable()
    assert handshake(module)[0] == 0
    assert replies(one)[0].startswith("HTTP/1.1 503 Service Unavailable\r\n")
    module.enable()
    assert handshake(module)[0] == 1


@pytest.mark.parametrize(("mode", "value"), [(0, None), (1, "*"), (2, "https://a.test")])
def test_origins(mode: int, value: str | None) -> None:
    one, module, _ = made(cors_mode=mode)
    handshake(module, Origin="https://a.test")
    lines = replies(one)[0].split("\r\n")
    assert [line for line in lines if line.startswith("Access")] == (
        [] if value is None else [f"Access-Control-Allow-Origin: {value}"]
    )


def test_a_quiet_connection_is_asked_and_then_dropped() -> None:
    _, module, connections = made(keepalive_timeout=60, ping_application_data="hello")
    assert module.next_timeout() is None
    handshake(module)
    connections.asked.clear()
    connections.used[7] = NOW
    due = module.next_timeout()
    assert due == NOW + 1
    module.handle_timer(NOW + 59)
    assert connections.asked == []
    module.handle_timer(NOW + 61)
    module.handle_timer(NOW + 65)
    assert connections.asked == [("ping", 7, b"hello")]
    connections.used[7] = NOW + 66  # the Pong
    module.handle_timer(NOW + 72)
    module.handle_timer(NOW + 127)
    module.handle_timer(NOW + 138)
    assert connections.asked == [("ping", 7, b"hello"), ("ping", 7, b"hello"), ("abort", 7)]
    module.closed(PEER, 7, NOW + 138)
    module.handle_timer(NOW + 140)
    assert module.next_timeout() is None


def test_the_end_of_a_connection_is_an_event() -> None:
    one, module, connections = made(event_callback="ksr_ws")
    _, ctx = handshake(module)
    assert module.close_reason(ctx, 1001, "going") == 1
    assert connections.asked[-1] == ("end", 7, 1001, "going")
    flow = PEER._replace(listener=TCP._replace(proto="ws"))
    connections.idents.clear()
    module.closed(flow, 7, NOW + 1)
    (event,) = one.events
    assert (event.callback, event.event, event.flow) == ("ksr_ws", "websocket:closed", flow)
    assert one.variables.getters["$ws_conid"](event) == 7
    assert one.counters["websocket.ws_local_closed_connections"] == 1
    assert one.counters["websocket.ws_current_connections"] == 0
    assert module.close_conid(ctx, 1000, "again", 7) == -1


def test_a_handshake_of_our_own() -> None:
    one, module, connections = made()
    _, ctx = handshake(module)
    replies(one)
    to = Flow(TCP, "192.0.2.20", 8080)
    assert module.connect(ctx, "192.0.2.20", 8080, "/ws", "sip", 0) == 1
    assert module.connect(ctx, "192.0.2.20", 8080, "/ws", "sip", 0) == -1
    assert module.send(ctx, "192.0.2.20", 8080, "/ws", "sip", 0) == 1
    (request,) = replies(one)
    assert request.startswith("GET /ws HTTP/1.1\r\nHost: 192.0.2.20:8080\r\nUpgrade: websocket\r\n")
    key = next(line.partition(": ")[2] for line in request.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
    assert not module.take(b"HTTP/1.1 101 x\r\n\r\n", PEER, NOW)  # from another
    connections.idents[to] = 8
    from polykemi.modules.websocket import _accept

    answer = f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {_accept(key)}\r\n\r\n"
    assert module.take(answer.encode(), to, NOW)
    assert connections.asked[-1] == ("upgrade", True)
    assert one.outbox.items == [(ctx.message.raw, to._replace(listener=TCP._replace(proto="ws")))]
    one.outbox.items.clear()
    assert module.send(ctx, "192.0.2.20", 8080, "/ws", "sip", 0) == 1
    assert len(one.outbox.items) == 1


def test_a_server_that_refuses_our_handshake_loses_the_connection() -> None:
    _, module, connections = made()
    _, ctx = handshake(module)
    to = Flow(TCP, "192.0.2.20", 80)
    connections.idents[to] = 8
    assert module.connect(ctx, "192.0.2.20", 0, "", "sip", 0) == -1  # there is a connection
    connections.idents.pop(to)
    assert module.connect(ctx, "192.0.2.20", 0, "", "sip", 0) == 1
    connections.idents[to] = 8
    assert module.take(b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: wrong\r\n\r\n", to, NOW)
    assert connections.asked[-1] == ("abort", 8)


def test_commands() -> None:
    _, module, connections = made()
    handshake(module)
    assert module.rpc_ping(7) == module.rpc_pong(7) == module.rpc_close(7) == {}
    assert connections.asked[-3:] == [
        ("ping", 7, b"polykemi"),
        ("pong", 7, b"polykemi"),
        ("end", 7, 1000, "Normal closure"),
    ]
    for command in (module.rpc_ping, module.rpc_close):
        with pytest.raises(RpcError, match="Unknown connection ID"):
            command(99)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"keepalive_mechanism": 4}, "keepalive_mechanism: expected 0 to 3, got 4"),
        ({"cors_mode": -1}, "cors_mode: expected 0 to 2, got -1"),
        ({"keepalive_timeout": 0}, "keepalive_timeout: expected seconds, more than 0, got 0"),
        ({"sub_protocols": 3}, r"sub_protocols: expected 1 \(SIP\), got 3"),
        ({"ping_application_data": ""}, "ping_application_data: expected 1 to 125 octets"),
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        WebSocketParams(**params)
