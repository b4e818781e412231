"""corex: more functions of the core: destination set, extended flags, the sending socket, raw data.

set_recv_socket and set_source_address are left out: where a message came from does not change while a route runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import FAKED_MESSAGE
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import expanded
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.uri import parse_uri
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.corex")

MAX_BRANCHES: Final = 31  # besides the Request-URI, as Kamailio's max_branches allows at most


class Corex(Module):
    """Extensions of the core."""

    name = "corex"

    def pv_classes(self) -> Mapping[str, Factory]:
        """``$lsock(match/value/field)``: a field of the listener that matches; none has a name or an advertised address."""

        def find(ctx: RouteContext, expression: str) -> Xval:
            match, _, rest = expression.partition("/")
            value, slash, field = rest.rpartition("/")
            if match not in ("n", "l", "a", "i") or not slash or len(field) < 2 or field[0] not in "nlai":
                log.error("$lsock: %r is not n|l|a|i/value/name|listen|advertise|index", expression)
                return None
            for number, listener in enumerate(self.services.listeners):
                if (match == "l" and value == str(listener)) or (match == "i" and value == str(number)):
                    return number if field[0] == "i" else str(listener) if field[0] == "l" else ""
            return None

        return {"lsock": expanded(find)}

    # ---- tests
    @export()
    def has_ruri_user(self, ctx: RouteContext) -> int:
        """Tell whether the Request-URI has a user part. Answers 1 or -1."""
        return 1 if ctx.ruri and parse_uri(ctx.ruri).user else -1

    @export(constant=True)
    def has_user_agent(self, ctx: RouteContext) -> int:
        """Tell whether there is a User-Agent header with a value. Answers 1 or -1."""
        return 1 if ctx.message.get("user-agent") else -1

    @export(constant=True)
    def is_faked_msg(self, ctx: RouteContext) -> int:
        """Tell whether the message is one that the server made up for an event route block. Answers 1 or -1."""
        return 1 if ctx.message is FAKED_MESSAGE else -1

    # ---- destination set
    @export(routes=Route.REQUEST | Route.FAILURE)
    def append_branch(self, ctx: RouteContext) -> int:
        """Add the Request-URI with $du, path, socket and branch flags as another branch; they are no more the message's.

        Answers 1 or -1.
        """
        target = Target(ctx.ruri, ctx.dst_uri, path=ctx.path, flags=ctx.bflags, listener=ctx.force_listener)
        ctx.dst_uri, ctx.path, ctx.force_listener, ctx.bflags = "", "", None, 0
        return self._append(ctx, target)

    @export(routes=Route.REQUEST | Route.FAILURE)
    def append_branch_uri(self, ctx: RouteContext, uri: str) -> int:
        """Add ``uri`` as another branch; "" stands for the Request-URI. Answers 1, or -1 when it is no URI."""
        return self.append_branch_uri_q(ctx, uri, "")

    @export(routes=Route.REQUEST | Route.FAILURE)
    def append_branch_uri_q(self, ctx: RouteContext, uri: str, q: str) -> int:
        """Add ``uri`` as another branch with the priority ``q`` ("0" to "1", at most three decimals). Answers 1 or -1.

        It goes where the message goes ($du, path, socket), as in Kamailio.
        """
        if not uri:
            return self.append_branch(ctx)
        thousandths = _thousandths(q) if q else -1
        if q and thousandths < 0:
            return -1
        parse_uri(uri)
        path, listener = ctx.path, ctx.force_listener
        return self._append(
            ctx, Target(uri, ctx.dst_uri, path=path, q=thousandths, flags=ctx.bflags, listener=listener)
        )

    def _append(self, ctx: RouteContext, target: Target) -> int:
        if len(ctx.branches) >= MAX_BRANCHES:
            return -1
        ctx.branches.append(target)
        return 1

    # ---- extended flags
    @export()
    def setxflag(self, ctx: RouteContext, flag: int) -> int:
        """Set an extended flag (0..63); all route blocks of the transaction see it. Answers 1 or -1."""
        if 0 <= flag <= 63:
            ctx.shared.xflags |= 1 << flag
            return 1
        return -1

    @export()
    def resetxflag(self, ctx: RouteContext, flag: int) -> int:
        """Clear an extended flag (0..63). Answers 1 or -1."""
        if 0 <= flag <= 63:
            ctx.shared.xflags &= ~(1 << flag)
            return 1
        return -1

    @export()
    def isxflagset(self, ctx: RouteContext, flag: int) -> int:
        """Tell whether an extended flag (0..63) is set. Answers 1 or -1."""
        return 1 if 0 <= flag <= 63 and ctx.shared.xflags >> flag & 1 else -1

    # ---- the sending socket
    @export()
    def set_send_socket(self, ctx: RouteContext, address: str) -> int:
        """Send from our listener ``proto:host:port``, "" for any. Answers 1, or -1 for what is no address.

        When we have no such listener, that is logged and nothing changes.
        """
        if not address:
            ctx.force_listener = None
            return 1
        parts = socket_address(address)
        if not parts[1]:
            return -1
        ctx.force_listener = self._listener(parts) or ctx.force_listener
        return 1

    @export()
    def set_send_socket_name(self, ctx: RouteContext, name: str) -> int:
        """Send from our listener of that name, "" for any. Listeners have no names: that is logged, nothing changes."""
        if name:
            log.warning("no listener is named %s", name)
        else:
            ctx.force_listener = None
        return 1

    @export()
    def is_socket_name(self, ctx: RouteContext, name: str) -> int:
        """Tell whether a listener has this name. Listeners have none: -1."""
        return -1

    def _listener(self, parts: tuple[str, str, int]) -> Listener | None:
        proto, host, port = parts
        for listener in self.services.listeners:
            if listener.host == host and listener.port == port and proto in ("", listener.proto):
                return listener
        log.warning("we do not listen on %s:%s:%d", proto or "any", host, port)
        return None

    # ---- raw data
    @export()
    def send_data(self, ctx: RouteContext, uri: str, data: str) -> int:
        """Send ``data`` as it is to the SIP URI ``uri``. Answers 1, or -1 when we have no listener of its transport."""
        return self._send(ctx.force_listener or ctx.flow.listener, uri, data)

    @export()
    def sendx(self, ctx: RouteContext, uri: str, address: str, data: str) -> int:
        """Send ``data`` as it is to the SIP URI ``uri`` from our listener ``proto:host:port``. Answers 1 or -1.

        When we have no such listener, that is logged and ``send_data`` chooses one.
        """
        parts = socket_address(address)
        if address and not parts[1]:
            return -1
        listener = self._listener(parts) if address else None
        return self.send_data(ctx, uri, data) if listener is None else self._send(listener, uri, data)

    def _send(self, listener: Listener, uri: str, data: str) -> int:
        target = parse_uri(uri)
        if target.scheme != "sip" or (target.transport or "udp") != listener.proto or not data:
            return -1
        flow = Flow(listener, target.host.strip("[]"), target.effective_port)
        self.services.outbox.send(data.encode("latin-1"), flow)
        return 1


def _thousandths(q: str) -> int:
    """Return a q value (RFC 3261 section 25.1) in thousandths, -1 when it is none."""
    whole, _, decimals = q.partition(".")
    if whole not in ("0", "1", "") or len(decimals) > 3 or not (whole + decimals).isdecimal():
        return -1
    value = int(whole or "0") * 1000 + int(decimals.ljust(3, "0"))
    return value if value <= 1000 else -1


def socket_address(text: str) -> tuple[str, str, int]:
    """Split ``proto:host:port`` (proto and port may be missing); the host is "" when it makes no sense."""
    proto, _, rest = text.partition(":")
    if proto.lower() not in ("udp", "tcp", "tls", "sctp", "ws", "wss"):
        proto, rest = "", text
    try:
        uri = parse_uri("sip:" + rest)
    except ParseError:
        return "", "", 0
    if uri.user or uri.params or uri.headers:
        return "", "", 0
    return proto.lower(), uri.host.lower().strip("[]"), uri.port or 5060
