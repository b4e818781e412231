"""path: this proxy puts itself into the Path of REGISTER requests (RFC 3327; Kamailio: path)."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module
from polykemi.modules.outbound import Outbound, is_neighbour
from polykemi.sip.flow import TRANSPORT_NUMBERS, TRANSPORTS, bracketed
from polykemi.sip.header import parse_params
from polykemi.sip.uri import parse_uri, unescape

log = logging.getLogger("polykemi.script")

_NAME: Final = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(frozen=True, slots=True)
class PathParams:
    """Kamailio's names and defaults; ``sockname_mode`` has no effect: listeners have no names here."""

    use_received: int = 0  # 1: loose_route sends to the address in the received parameter of our own Route
    received_format: int = 0  # 0: received=sip:host:port, 1: received=host~port~number of the protocol
    received_name: str = "received"
    enable_r2: int = 0  # 1: two values, one for each side
    sockname_mode: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.received_name):
            raise ValueError(f"received_name: expected the name of a URI parameter, got {self.received_name!r}")


class PathModule(Module):
    """The Path header."""

    name = "path"
    Params = PathParams

    def start(self, now: float) -> None:
        """Take part in loose routing when use_received says so; flow tokens are outbound's, where that is loaded."""
        self._outbound: Outbound | None = self.services.modules.get("outbound")
        rr = self.services.modules.get("rr")
        if self.params.use_received and rr is not None:
            rr.on_routed.append(self._routed)

    @export()
    def add_path(self, ctx: RouteContext) -> int:
        """Put our URI before the other Path values. Answers 1 or -1.

        With the module outbound, and when the phone asks for it, its user part is the token of the flow (RFC 5626).
        """
        return self._add_flow(ctx)

    @export()
    def add_path_user(self, ctx: RouteContext, user: str) -> int:
        """Put our URI with the user part ``user`` before the other Path values. Answers 1 or -1."""
        return self._add(ctx, user)

    @export()
    def add_path_user_params(self, ctx: RouteContext, user: str, params: str) -> int:
        """Put our URI with ``user`` and the URI parameters ``params`` before the other Path values. Answers 1 or -1."""
        return self._add(ctx, user, params)

    @export()
    def add_path_received(self, ctx: RouteContext) -> int:
        """Do as ``add_path``, with the address that the request came from in the parameter ``received``."""
        return self._add_flow(ctx, received=True)

    @export()
    def add_path_received_user(self, ctx: RouteContext, user: str) -> int:
        """Do as ``add_path_user``, with the address that the request came from in the parameter ``received``."""
        return self._add(ctx, user, received=True)

    @export()
    def add_path_received_user_params(self, ctx: RouteContext, user: str, params: str) -> int:
        """Do as ``add_path_user_params``, with the address that the request came from in ``received``."""
        return self._add(ctx, user, params, received=True)

    @export()
    def add_path_advertised_address(self, ctx: RouteContext, address: str) -> int:
        """Put a URI with ``address`` (host, host:port) in place of ours before the other Path values. Answers 1 or -1."""
        return self._advertise(ctx, address)

    @export()
    def add_path_advertised_address_user(self, ctx: RouteContext, address: str, user: str) -> int:
        """Do as ``add_path_advertised_address`` with the user part ``user``."""
        return self._advertise(ctx, address, user)

    @export()
    def add_path_advertised_address_user_params(self, ctx: RouteContext, address: str, user: str, params: str) -> int:
        """Do as ``add_path_advertised_address`` with ``user`` and the URI parameters ``params``."""
        return self._advertise(ctx, address, user, params)

    @export()
    def add_path_received_advertised_address(self, ctx: RouteContext, address: str) -> int:
        """Do as ``add_path_advertised_address``, with the address that the request came from in ``received``."""
        return self._advertise(ctx, address, received=True)

    @export()
    def add_path_received_advertised_address_user(self, ctx: RouteContext, address: str, user: str) -> int:
        """Do as ``add_path_advertised_address_user``, with the address that the request came from in ``received``."""
        return self._advertise(ctx, address, user, received=True)

    @export()
    def add_path_received_advertised_address_user_params(
        self, ctx: RouteContext, address: str, user: str, params: str
    ) -> int:
        """Do as ``add_path_advertised_address_user_params``, with the address that the request came from in ``received``."""
        return self._advertise(ctx, address, user, params, received=True)

    def _add_flow(self, ctx: RouteContext, *, received: bool = False) -> int:
        """Insert the Path line, with a flow token where outbound says so; ``ob`` only in that of the first hop."""
        outbound = self._outbound
        if outbound is None or not outbound.use_outbound(ctx):
            return self._add(ctx, received=received)
        params = "ob" if is_neighbour(ctx.request) else ""
        return self._add(ctx, outbound.token(ctx.flow), params, received=received)

    def _advertise(
        self, ctx: RouteContext, address: str, user: str = "", params: str = "", *, received: bool = False
    ) -> int:
        try:
            if not address or not parse_uri(f"sip:{address};lr").host:
                raise ParseError("no host")
        except ParseError:
            log.error("path.add_path_advertised_address: %r is no host with an optional port", address)
            return -1
        return self._add(ctx, user, params, received=received, address=address)

    def _add(
        self, ctx: RouteContext, user: str = "", params: str = "", *, received: bool = False, address: str = ""
    ) -> int:
        """Insert the Path line, two of them with enable_r2: where the request leaves and where it came in."""
        if any(c in text for text in (user, params) for c in "<>\r\n"):
            log.error("path.add_path: %r and %r are no parts of a URI", user, params)
            return -1
        suffix = ";lr"
        if received:
            suffix += f";{self.params.received_name}={self._received(ctx)}"
        if params:
            suffix += f";{params}"
        came_in = ctx.flow.listener
        sides = [ctx.force_listener or came_in]
        if self.params.enable_r2:
            suffix += ";r2=on"
            sides.append(came_in)
        message = ctx.message
        place = message.shape.first.get("path", len(message.lines))
        for listener in sides:
            where = f"{address};transport={listener.transport}" if address else listener.route
            ctx.edits.inserts.append((place, f"Path: <sip:{user}{'@' if user else ''}{where}{suffix}>"))
        return 1

    def _received(self, ctx: RouteContext) -> str:
        host, proto = ctx.flow.host, ctx.flow.listener.proto
        host = bracketed(host)
        if self.params.received_format:
            return f"{host}~{ctx.flow.port}~{TRANSPORT_NUMBERS[proto]}"
        transport = "" if proto == "udp" else f"%3Btransport%3D{'ws' if proto == 'wss' else proto}"
        return f"sip:{host}:{ctx.flow.port}{transport}"

    def _routed(self, ctx: RouteContext, route_params: str) -> None:
        """Send to where the phone was when our Path was made, as the parameters of our own Route say."""
        received = parse_params(route_params).get(self.params.received_name)
        if not received:
            return
        if not self.params.received_format:
            ctx.dst_uri = unescape(received)
            return
        host, *rest = received.split("~")
        if len(rest) != 2 or not rest[1][:1].isdecimal() or int(rest[1][0]) not in TRANSPORTS:
            log.error("path: %r in our own Route is not host~port~protocol", received)
            return
        proto = TRANSPORTS[int(rest[1][0])]
        ctx.dst_uri = f"sip:{host}:{rest[0]}" + ("" if proto == "udp" else f";transport={proto}")
