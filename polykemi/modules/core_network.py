"""core: what KSR says of the way on: where a request goes, our address in it, connections. Part of core."""

from __future__ import annotations

import logging
from collections.abc import Callable

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module
from polykemi.modules.local_via import ONWARD, wishing
from polykemi.sip.flow import WEBSOCKETS, LastFlow, OpenFlow
from polykemi.sip.grammar import ip4_octets
from polykemi.sip.header import Via
from polykemi.sip.message import Response
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.script")


def _next_proto(ctx: RouteContext) -> str:
    """Return the transport that $du, the Request-URI, or the second Via names, "" when it names none (as Kamailio)."""
    try:
        if isinstance(ctx.message, Response):
            vias = ctx.message.list("via")
            return Via(vias[1]).transport.lower() if len(vias) > 1 else ""
        uri = parse_uri(ctx.dst_uri or ctx.ruri)
    except ParseError:
        return ""
    return uri.transport if uri.transport != "wss" else ""  # which no URI names: RFC 7118 section 5


def _to_test(name: str, *protos: str) -> Callable[[CoreNetwork, RouteContext], bool]:
    def test(self: CoreNetwork, ctx: RouteContext) -> bool:
        return _next_proto(ctx) in protos

    test.__name__ = test.__qualname__ = f"to_{name}"
    test.__doc__ = f"Tell whether the message goes on over {' or '.join(p.upper() for p in protos)}."
    return export()(test)


def _next_host(ctx: RouteContext) -> str:
    try:
        if isinstance(ctx.message, Response):
            vias = ctx.message.list("via")
            return Via(vias[1]).host if len(vias) > 1 else ""
        return parse_uri(ctx.dst_uri or ctx.ruri).host
    except ParseError:
        return ""


class CoreNetwork(Module):
    """The way on."""

    to_UDP = _to_test("UDP", "udp")  # noqa: N815
    to_TCP = _to_test("TCP", "tcp")  # noqa: N815
    to_TLS = _to_test("TLS", "tls")  # noqa: N815
    to_SCTP = _to_test("SCTP", "sctp")  # noqa: N815
    to_WS = _to_test("WS", "ws")  # noqa: N815
    to_WSS = _to_test("WSS", "wss")  # noqa: N815
    to_WSX = _to_test("WSX", "ws", "wss")  # noqa: N815

    @export()
    def to_IPv4(self, ctx: RouteContext) -> bool:  # noqa: N802
        """Tell whether the message goes on to an IPv4 address."""
        return bool(ip4_octets(_next_host(ctx)))

    @export()
    def to_IPv6(self, ctx: RouteContext) -> bool:  # noqa: N802
        """Tell whether the message goes on to an IPv6 address."""
        return ":" in _next_host(ctx)

    # ---- our address
    @export()
    def set_advertised_address(self, ctx: RouteContext, addr: str) -> int:
        """Write ``addr`` in place of our host into our Via of this request. Answers 1, or 0 for what is none."""
        if not addr or len(addr) >= 128 or not addr.isascii() or any(c in addr for c in " ;,<>\r\n\t"):
            log.error("set_advertised_address: %r is no host", addr)
            return 0
        wishing(ctx).address = addr
        return 1

    @export()
    def set_advertised_port(self, ctx: RouteContext, port: str) -> int:
        """Write ``port`` in place of our port into our Via of this request. Answers 1, or 0 for what is none."""
        if not port.isdecimal() or not port.isascii() or len(port) >= 8 or not 0 < int(port) < 65536:
            log.error("set_advertised_port: %r is no port", port)
            return 0
        wishing(ctx).port = port
        return 1

    @export()
    def add_local_rport(self, ctx: RouteContext) -> bool:
        """Ask the next hop for ``rport``: it goes into our Via of the request when it is forwarded (RFC 3581)."""
        wishing(ctx).rport = True
        return True

    # ---- connections
    @export()
    def add_tcp_alias(self, ctx: RouteContext, port: int) -> int:
        """Send what goes to ``port`` of the source over the connection that the request came over (RFC 5923).

        Answers 1, or 0 when that is gone; 1 for UDP, which has none.
        """
        return self._alias(ctx, port)

    @export()
    def add_tcp_alias_via(self, ctx: RouteContext) -> int:
        """Do what ``add_tcp_alias`` does for the port of the top Via, 5060 when it names none."""
        return self._alias(ctx, ctx.message.via.port or 5060)

    def _alias(self, ctx: RouteContext, port: int) -> int:
        if ctx.flow.listener.proto not in WEBSOCKETS:
            return 1
        if not self.services.connections.alias(ctx.flow, port):
            log.error("add_tcp_alias: no connection, or too many aliases")
            return 0
        return 1

    @export()
    def set_forward_close(self, ctx: RouteContext) -> bool:
        """Let the connection that the request goes on over be closed behind it; UDP has none."""
        ctx.cache[ONWARD] = LastFlow
        return True

    @export()
    def set_forward_no_connect(self, ctx: RouteContext) -> bool:
        """Let the request go on over a connection that there is already, or not at all; UDP has none."""
        ctx.cache[ONWARD] = OpenFlow
        return True

    @export()
    def set_reply_close(self, ctx: RouteContext) -> bool:
        """Ask for the connection that the message came over to be closed after the next thing that is sent over it."""
        self.services.connections.close_after_reply(ctx.flow)
        return True

    @export()
    def set_reply_no_connect(self, ctx: RouteContext) -> bool:
        """Let replies go over the request's connection or not at all: none is opened for them. UDP has none."""
        if ctx.flow.listener.proto != "udp":
            ctx.flow = OpenFlow(*ctx.flow)
        return True
