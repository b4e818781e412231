"""websocket: SIP over WebSocket (RFC 7118): handshakes of either side, keep-alives, the end (Kamailio: websocket).

The frames themselves are the transport's (``kemi.network.Connections``).
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import event_context
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.rpc import rpc
from polykemi.live import live
from polykemi.modules.base import Module, Services
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import plain
from polykemi.sip.flow import WEBSOCKETS, Flow, Listener, bracketed
from polykemi.sip.http import HttpRequest, Upgraded, parse_upgraded

log = logging.getLogger("polykemi.websocket")

EVENT: Final = "websocket:closed"
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_VERSION: Final = "13"
_SIP, _MSRP = 1, 2  # in the parameter sub_protocols
_PING, _PONG = 1, 2  # keepalive_mechanism
_NORMAL: Final = 1000
_MOST_WAITING: Final = 64  # messages for a connection whose handshake is not over
_GRACE: Final = 10.0  # seconds that a peer has for its Pong
_MOST_DUMPED: Final = 50


@dataclass(frozen=True, slots=True)
class WebSocketParams:
    """Kamailio's names and defaults. MSRP is not spoken here: ``sub_protocols`` may be 1 (SIP) only."""

    keepalive_mechanism: int = (
        _PING  # of a connection that is quiet: 0 nothing, 1 Ping, 2 Pong, 3 look whether it is there
    )
    keepalive_timeout: int = live(180, "seconds without anything from the peer until it is asked")
    keepalive_interval: int = live(1, "seconds between two looks")
    ping_application_data: str = "polykemi"
    sub_protocols: int = _SIP
    cors_mode: int = 0  # Access-Control-Allow-Origin: 0 none, 1 *, 2 the request's Origin
    verbose_list: int = 0  # without effect
    event_callback: str = ""

    def __post_init__(self) -> None:
        for name, most in (("keepalive_mechanism", 3), ("cors_mode", 2)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: expected 0 to {most}, got {getattr(self, name)}")
        for name in ("keepalive_timeout", "keepalive_interval"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected seconds, more than 0, got {getattr(self, name)}")
        if self.sub_protocols != _SIP:
            raise ValueError(f"sub_protocols: expected 1 (SIP), got {self.sub_protocols}")
        if not 0 < len(self.ping_application_data) <= 125:
            raise ValueError("ping_application_data: expected 1 to 125 octets")


@dataclass(slots=True)
class _Peer:
    """A WebSocket that is open."""

    flow: Flow
    is_asked: bool = False  # a Ping has gone out, and nothing has come since
    asked_at: float = 0.0
    is_closing: bool = False


@dataclass(slots=True)
class _Calling:
    """A handshake of ours that is not over."""

    key: str
    waiting: list[bytes] = field(default_factory=list)


class WebSocketModule(Module):
    """All WebSockets of a server."""

    name = "websocket"
    Params = WebSocketParams
    requires = ("sl",)
    events: ClassVar[Mapping[str, str]] = {EVENT: "a WebSocket has ended; $ws_conid, $si and $sp are its own"}

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.requests = self  # the router brings what is no SIP message
        self._peers: dict[int, _Peer] = {}
        self._calling: dict[Flow, _Calling] = {}
        self._enabled = True
        self._due: float | None = None

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $ws_conid."""
        return {"ws_conid": plain(self._conid)}

    def _conid(self, ctx: RouteContext) -> Xval:
        """Return the number of the connection; 0 for datagrams."""
        ended: int | None = ctx.cache.get("websocket.conid")
        return max(self.services.connections.ident(ctx.flow), 0) if ended is None else ended

    # ---- handshakes of clients
    @export()
    def handle_handshake(self, ctx: RouteContext) -> int:
        """Answer the HTTP request of a client that wants to speak WebSocket. Answers 1, or 0 when it was refused."""
        connections = self.services.connections
        connections.close_after_reply(ctx.flow)
        if not self._enabled:
            return self._refuse(ctx, 503, "Service Unavailable")
        ident, request = connections.ident(ctx.flow), ctx.message
        if ident < 0 or ctx.flow.listener.proto not in WEBSOCKETS or not isinstance(request, HttpRequest):
            log.error("handle_handshake: the request is not HTTP over TCP or TLS")
            return self._refuse(ctx, 500, "Internal Server Error")
        values = {name: request.all(name) for name in ("sec-websocket-key", "sec-websocket-version", "origin")}
        if any(len(found) > 1 for found in values.values()):
            return self._refuse(ctx, 400, "Bad Request")
        if values["sec-websocket-version"] not in ([], [_VERSION]):
            return self._refuse(ctx, 426, "Upgrade Required", f"Sec-WebSocket-Version: {_VERSION}")
        key = "".join(values["sec-websocket-key"])
        if not _is_handshake(request) or not values["sec-websocket-version"]:
            log.warning("handle_handshake: the headers of a handshake for SIP are not there")
            return self._refuse(
                ctx, 400, "Bad Request", "Sec-WebSocket-Protocol: sip", f"Sec-WebSocket-Version: {_VERSION}"
            )
        headers = []
        if self.params.cors_mode == 1:
            headers.append("Access-Control-Allow-Origin: *")
        elif self.params.cors_mode == 2 and values["origin"]:
            headers.append(f"Access-Control-Allow-Origin: {values['origin'][0]}")
        headers += ["Sec-WebSocket-Protocol: sip", "Upgrade: websocket", "Connection: upgrade"]
        headers.append(f"Sec-WebSocket-Accept: {_accept(key)}")
        if self._reply(ctx, 101, "Switching Protocols", headers) < 0 or not connections.upgrade(ctx.flow):
            return 0
        self._opened(ident, ctx.flow, ctx.now)
        self.services.count("websocket.ws_successful_handshakes")
        self.services.count("websocket.ws_sip_successful_handshakes")
        return 1

    def _refuse(self, ctx: RouteContext, code: int, reason: str, *headers: str) -> int:
        self._reply(ctx, code, reason, headers)
        self.services.count("websocket.ws_failed_handshakes")
        return 0

    def _reply(self, ctx: RouteContext, code: int, reason: str, headers: Any) -> int:
        ctx.reply_headers += headers
        return int(self.services.modules["sl"].send_reply(ctx, code, reason))

    # ---- handshakes of our own
    @export()
    def connect(self, ctx: RouteContext, host: str, port: int, path: str, subproto: str, cmode: int) -> int:
        """Begin a WebSocket to a server; ``cmode`` 0: over TCP, 1: over TLS. Answers 1, or -1: there is one already, or it cannot be.

        ``subproto`` is sip. The handshake is over some time later.
        """
        flow = self._flow_to(ctx, host, port, subproto, cmode)
        if flow is None:
            return -1
        if flow in self._calling or self.services.connections.ident(flow) >= 0:
            log.error("connect: there is a connection to %s:%d already", flow.host, flow.port)
            return -1
        self._call(flow, path)
        return 1

    @export()
    def send(self, ctx: RouteContext, host: str, port: int, path: str, subproto: str, cmode: int) -> int:
        """Send the message, as it has come, over the WebSocket to a server; parameters as for ``connect``, which it does too.

        Answers 1, or -1.
        """
        flow = self._flow_to(ctx, host, port, subproto, cmode)
        if flow is None:
            return -1
        calling = self._calling.get(flow)
        if calling is None:
            if self.services.connections.ident(_in_frames(flow)) >= 0:
                self.services.outbox.send(ctx.message.raw, _in_frames(flow))
                return 1
            calling = self._call(flow, path)
        if len(calling.waiting) >= _MOST_WAITING:
            log.error("send: too many messages wait for %s:%d", flow.host, flow.port)
            return -1
        calling.waiting.append(ctx.message.raw)
        return 1

    def _flow_to(self, ctx: RouteContext, host: str, port: int, subproto: str, cmode: int) -> Flow | None:
        listener = self._listener(ctx, "tls" if cmode else "tcp")
        if not self._enabled or not host or subproto.lower() != "sip":
            log.error("expected a host and the sub-protocol sip, and websocket to be enabled")
        elif listener is None:
            log.error("there is no %s listener", "tls" if cmode else "tcp")
        elif port <= 65535:
            return Flow(listener, host.strip("[]"), port if port > 0 else 443 if cmode else 80)
        return None

    def _listener(self, ctx: RouteContext, proto: str) -> Listener | None:
        listeners = [ctx.force_listener or ctx.flow.listener, *self.services.listeners]
        return next((one for one in listeners if one.proto == proto), None)

    def _call(self, flow: Flow, path: str) -> _Calling:
        key = base64.b64encode(self.services.ids.octets(16)).decode()
        path = path if path[:1] == "/" and not set(path) & set(" \r\n") else "/"
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {bracketed(flow.host)}:{flow.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {_VERSION}\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
        )
        if len(self._calling) >= _MOST_WAITING:  # those that nobody has answered
            self._calling.pop(next(iter(self._calling)))
        calling = self._calling[flow] = _Calling(key)
        self.services.outbox.send(request.encode("latin-1"), flow)
        return calling

    def take(self, data: bytes, flow: Flow, now: float) -> bool:
        """Take the HTTP response to a handshake of ours; False for what is none."""
        calling = self._calling.pop(flow, None) if data[:5] == b"HTTP/" else None
        if calling is None:
            return False
        connections = self.services.connections
        ident = connections.ident(flow)
        if parse_upgraded(data) != Upgraded(101, _accept(calling.key)) or not connections.upgrade(flow, client=True):
            log.error("%s:%d refused the handshake: %.60r", flow.host, flow.port, data)
            connections.abort(ident)
            self.services.count("websocket.ws_failed_handshakes")
            return True
        self._opened(ident, flow, now)
        for message in calling.waiting:
            self.services.outbox.send(message, _in_frames(flow))
        return True

    # ---- the life of a connection
    def _opened(self, ident: int, flow: Flow, now: float) -> None:
        self._peers[ident] = _Peer(flow)
        counters, current = self.services.counters, len(self._peers)
        for kind in ("", "sip_"):
            counters[f"websocket.ws_{kind}current_connections"] = current
            most = f"websocket.ws_{kind}max_concurrent_connections"
            counters[most] = max(counters.get(most, 0), current)
        if self._due is None and self.params.keepalive_mechanism:
            self._due = now + self.params.keepalive_interval

    def closed(self, flow: Flow, ident: int, now: float) -> None:
        """Take the news that a WebSocket has ended; the script's event route block is run for it."""
        peer = self._peers.pop(ident, None)
        side = "local" if peer is not None and peer.is_closing else "remote"
        for kind in ("", "sip_"):
            self.services.counters[f"websocket.ws_{kind}current_connections"] = len(self._peers)
            self.services.count(f"websocket.ws_{kind}{side}_closed_connections")
        if self.params.event_callback:
            ctx = event_context(self.params.event_callback, EVENT, flow.listener, now)
            ctx.flow = flow
            ctx.cache["websocket.conid"] = ident
            self.services.events.append(ctx)

    @export()
    def close(self, ctx: RouteContext) -> int:
        """Close the WebSocket that the message came over. Answers 1, or -1 when it came over none."""
        return self._close(self.services.connections.ident(ctx.flow), _NORMAL, "Normal closure")

    @export()
    def close_reason(self, ctx: RouteContext, status: int, reason: str) -> int:
        """Close like ``close``, with a status and a reason for the peer (RFC 6455 section 7.4)."""
        return self._close(self.services.connections.ident(ctx.flow), status, reason)

    @export()
    def close_conid(self, ctx: RouteContext, status: int, reason: str, con: int) -> int:
        """Close the WebSocket with the number ``con`` ($ws_conid). Answers like ``close``."""
        return self._close(con, status, reason)

    def _close(self, ident: int, status: int, reason: str) -> int:
        peer = self._peers.get(ident)
        if peer is None or not self.services.connections.end_websocket(ident, status & 0xFFFF, reason):
            log.error("there is no WebSocket %d", ident)
            return -1
        peer.is_closing = True
        return 1

    # ---- keep-alives
    def next_timeout(self) -> float | None:
        """Return when quiet connections are looked for next."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Ask those that have been quiet for too long, and drop those that have not answered."""
        if self._due is None or now < self._due:
            return
        p, connections = self.params, self.services.connections
        for ident, peer in list(self._peers.items()):
            used = connections.last_used(ident)
            if used is None or used > now - p.keepalive_timeout:
                peer.is_asked = False
            elif peer.is_asked and peer.asked_at >= used:
                if now - peer.asked_at >= _GRACE:
                    log.warning("dropped the WebSocket %d: it does not answer", ident)
                    connections.abort(ident)
            elif p.keepalive_mechanism in (_PING, _PONG):
                data = p.ping_application_data.encode("latin-1")
                connections.ping(ident, data, pong=p.keepalive_mechanism == _PONG)
                peer.is_asked, peer.asked_at = p.keepalive_mechanism == _PING, now
        self._due = now + p.keepalive_interval if self._peers else None

    # ---- commands
    @rpc("ws.dump")
    def dump(self, *, now: float) -> dict[str, Any]:
        """Return the open WebSockets, up to 50."""
        shown = list(self._peers.items())[:_MOST_DUMPED]
        return {
            "connections": [self._shown(ident, peer, now) for ident, peer in shown],
            "info": {"wscounter": len(shown), "truncated": "no" if len(shown) == len(self._peers) else "yes"},
        }

    def _shown(self, ident: int, peer: _Peer, now: float) -> str:
        flow = peer.flow
        proto = WEBSOCKETS[flow.listener.proto]
        state = "CLOSING" if peer.is_closing else "OPEN"
        used = self.services.connections.last_used(ident)
        ago = int(max(now - used, 0)) if used is not None else 0
        return (
            f"{ident}: {proto}:{flow.host}:{flow.port} -> {proto}:{flow.listener.host}:{flow.listener.port} "
            f"(state: {state},  last used {ago}s ago, sub-protocol: sip)"
        )

    @rpc("ws.close", (500, "Invalid Parameters"))
    def rpc_close(self, ident: int) -> dict[str, Any]:
        """Close a WebSocket."""
        if self._close(ident, _NORMAL, "Normal closure") < 0:
            raise RpcError(500, "Unknown connection ID")
        return {}

    @rpc("ws.ping", (500, "Invalid Parameters"))
    def rpc_ping(self, ident: int) -> dict[str, Any]:
        """Send a Ping."""
        return self._rpc_ping(ident, pong=False)

    @rpc("ws.pong", (500, "Invalid Parameters"))
    def rpc_pong(self, ident: int) -> dict[str, Any]:
        """Send a Pong."""
        return self._rpc_ping(ident, pong=True)

    def _rpc_ping(self, ident: int, *, pong: bool) -> dict[str, Any]:
        data = self.params.ping_application_data.encode("latin-1")
        if ident not in self._peers or not self.services.connections.ping(ident, data, pong=pong):
            raise RpcError(500, "Unknown connection ID")
        return {}

    @rpc("ws.enable")
    def enable(self) -> dict[str, Any]:
        """Take handshakes."""
        self._enabled = True
        return {}

    @rpc("ws.disable")
    def disable(self) -> dict[str, Any]:
        """Refuse handshakes with 503; what is open stays."""
        self._enabled = False
        return {}


def _in_frames(flow: Flow) -> Flow:
    """Return the flow of a connection as it is named once it carries frames."""
    return Flow(flow.listener._replace(proto=WEBSOCKETS[flow.listener.proto]), flow.host, flow.port)


def _is_handshake(request: HttpRequest) -> bool:
    """Tell whether a client asks for SIP over WebSocket, with all that RFC 6455 section 4.2.1 and RFC 7118 section 4 want."""
    wanted = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-protocol": "sip"}
    for name, token in wanted.items():
        if token not in [one.strip(" \t").lower() for one in ",".join(request.all(name)).split(",")]:
            return False
    try:
        key = base64.b64decode(request.get("sec-websocket-key") or "", validate=True)
    except ValueError:
        return False
    return len(key) == 16 and request.method == "GET" and request.version != "HTTP/1.0" and bool(request.get("host"))


def _accept(key: str) -> str:
    """Return Sec-WebSocket-Accept for a key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode("latin-1"), usedforsecurity=False).digest()).decode()
