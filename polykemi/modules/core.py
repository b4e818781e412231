"""core: the functions that stand on KSR itself: log, tests of the message, flags, Request-URI and destination URI."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.log_levels import NOTICE, number_of
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.core_events import CoreEvents
from polykemi.modules.core_forward import Forwarder
from polykemi.pv.classes.message import METHOD_IDS
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.script")

_LEVELS: Final = {
    "dbg": logging.DEBUG,
    "info": logging.INFO,
    "notice": NOTICE,
    "warn": logging.WARNING,
    "err": logging.ERROR,
    "crit": logging.CRITICAL,
}

# the letters of is_method_in()
_METHOD_LETTERS: Final = {
    "INVITE": "I",
    "ACK": "A",
    "BYE": "B",
    "CANCEL": "C",
    "MESSAGE": "M",
    "REGISTER": "R",
    "PRACK": "E",
    "PUBLISH": "P",
    "SUBSCRIBE": "S",
    "NOTIFY": "N",
    "OPTIONS": "O",
    "REFER": "F",
    "GET": "G",
    "UPDATE": "U",
    "KDMQ": "K",
    "DELETE": "D",
    "POST": "T",
    "PUT": "V",
}
_PROTO_LETTERS: Final = {"udp": "U", "tcp": "T", "tls": "E", "sctp": "S", "ws": "V", "wss": "W"}


def _say(level: int, text: str) -> None:
    if log.isEnabledFor(level):
        log.log(level, "%s", text.rstrip("\r\n"))


def _method_test(method: str) -> Callable[[Core, RouteContext], bool]:
    def test(self: Core, ctx: RouteContext) -> bool:
        return ctx.method == method

    test.__doc__ = f"Tell whether the method is {method}; of a reply, that of its CSeq."
    return export(by_method=True, name=f"is_{method}")(test)


def _proto_test(name: str, *protos: str) -> Callable[[Core, RouteContext], bool]:
    def test(self: Core, ctx: RouteContext) -> bool:
        return ctx.flow.listener.proto in protos

    test.__doc__ = f"Tell whether the message came over {' or '.join(protos).upper()}."
    return export(constant=True, name=f"is_{name}")(test)


class Core(CoreEvents):
    """The functions of KSR itself."""

    name = ""

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.forwarder = Forwarder(services)

    # ---- log
    @export()
    def dbg(self, ctx: RouteContext, text: str) -> None:
        """Log ``text`` as debug message."""
        _say(logging.DEBUG, text)

    @export()
    def info(self, ctx: RouteContext, text: str) -> None:
        """Log ``text`` as information."""
        _say(logging.INFO, text)

    @export()
    def notice(self, ctx: RouteContext, text: str) -> None:
        """Log ``text`` as notice."""
        _say(NOTICE, text)

    @export()
    def warn(self, ctx: RouteContext, text: str) -> None:
        """Log ``text`` as warning."""
        _say(logging.WARNING, text)

    @export()
    def err(self, ctx: RouteContext, text: str) -> None:
        """Log ``text`` as error."""
        _say(logging.ERROR, text)

    @export()
    def crit(self, ctx: RouteContext, text: str) -> None:
        """Log ``text`` as critical."""
        _say(logging.CRITICAL, text)

    @export()
    def log(self, ctx: RouteContext, level: str, text: str) -> None:
        """Log ``text`` with ``level``: dbg, info, notice, warn, crit; anything else is err."""
        _say(_LEVELS.get(level, logging.ERROR), text)

    @export(constant=True)
    def get_debug(self, ctx: RouteContext) -> int:
        """Return the log level as Kamailio's ``debug`` parameter counts: 3 debug, 2 info, 1 notice, 0 warnings, -1 errors."""
        return number_of(log.getEffectiveLevel())

    # ---- outcome
    @export()
    def set_drop(self, ctx: RouteContext) -> None:
        """Mark what is being routed as dropped: a branch, a reply, a message about to be sent. The route block goes on."""
        ctx.dropped = True

    # ---- is it ours?
    @export(constant=True)
    def is_myself(self, ctx: RouteContext, uri: str) -> bool:
        """Tell whether ``uri`` (a SIP URI, or a host alone) names this server: one of its domains or addresses."""
        if uri[:4].lower() == "sip:" or uri[:5].lower() == "sips:":
            return self._is_myself(uri)
        return self.services.is_myself(uri)

    @export()
    def is_myself_ruri(self, ctx: RouteContext) -> bool:
        """Tell whether the Request-URI, as changed so far, names this server."""
        return self._is_myself(ctx.ruri)

    @export()
    def is_myself_duri(self, ctx: RouteContext) -> bool:
        """Tell whether the destination URI is set and names this server."""
        return bool(ctx.dst_uri) and self._is_myself(ctx.dst_uri)

    @export()
    def is_myself_nhuri(self, ctx: RouteContext) -> bool:
        """Tell whether the next hop (the destination URI, without one the Request-URI) names this server."""
        return self._is_myself(ctx.dst_uri or ctx.ruri)

    @export(constant=True)
    def is_myself_furi(self, ctx: RouteContext) -> bool:
        """Tell whether the From URI names this server."""
        return self._is_myself(ctx.message.from_.uri)

    @export(constant=True)
    def is_myself_turi(self, ctx: RouteContext) -> bool:
        """Tell whether the To URI names this server."""
        return self._is_myself(ctx.message.to.uri)

    @export(constant=True)
    def is_myself_suri(self, ctx: RouteContext) -> bool:
        """Tell whether the message came from an address, port and transport of this server."""
        flow = ctx.flow
        return self.services.is_myself(flow.host, flow.port, flow.listener.proto)

    @export(constant=True)
    def is_myself_srcip(self, ctx: RouteContext) -> bool:
        """Tell whether the message came from an IP address of this server."""
        return self.services.is_myself(ctx.flow.host)

    def _is_myself(self, text: str) -> bool:
        uri = parse_uri(text)
        return bool(uri.host) and self.services.is_myself(uri.host, uri.port, uri.transport)

    # ---- flags
    @export()
    def setflag(self, ctx: RouteContext, flag: int) -> bool:
        """Set a message flag (0..31); all route blocks of the transaction see it."""
        if 0 <= flag <= 31:
            ctx.shared.flags |= 1 << flag
            return True
        return False

    @export()
    def resetflag(self, ctx: RouteContext, flag: int) -> bool:
        """Clear a message flag (0..31)."""
        if 0 <= flag <= 31:
            ctx.shared.flags &= ~(1 << flag)
            return True
        return False

    @export()
    def isflagset(self, ctx: RouteContext, flag: int) -> bool:
        """Tell whether a message flag (0..31) is set."""
        return 0 <= flag <= 31 and bool(ctx.shared.flags >> flag & 1)

    @export()
    def setbflag(self, ctx: RouteContext, flag: int) -> bool:
        """Set a flag (0..31) of the first branch; in branch routes of the branch itself."""
        return self.setbiflag(ctx, flag, 0)

    @export()
    def resetbflag(self, ctx: RouteContext, flag: int) -> bool:
        """Clear a flag (0..31) of the first branch; in branch routes of the branch itself."""
        return self.resetbiflag(ctx, flag, 0)

    @export()
    def isbflagset(self, ctx: RouteContext, flag: int) -> bool:
        """Tell whether a flag (0..31) of the first branch is set; in branch routes of the branch itself."""
        return self.isbiflagset(ctx, flag, 0)

    @export()
    def setbiflag(self, ctx: RouteContext, flag: int, branch: int) -> bool:
        """Set a flag (0..31) of the branch with number ``branch``, 0 for the first; nothing happens when it is not there."""
        return self._change_bflags(ctx, flag, branch, on=True)

    @export()
    def resetbiflag(self, ctx: RouteContext, flag: int, branch: int) -> bool:
        """Clear a flag (0..31) of the branch with number ``branch``, 0 for the first; nothing happens when it is not there."""
        return self._change_bflags(ctx, flag, branch, on=False)

    @export()
    def isbiflagset(self, ctx: RouteContext, flag: int, branch: int) -> bool:
        """Tell whether a flag (0..31) of the branch with number ``branch`` is set, 0 for the first."""
        if not 0 <= flag <= 31 or not 0 <= branch <= len(ctx.branches):
            return False
        flags = ctx.branches[branch - 1].flags if branch else ctx.bflags
        return bool(flags >> flag & 1)

    def _change_bflags(self, ctx: RouteContext, flag: int, branch: int, *, on: bool) -> bool:
        if not 0 <= flag <= 31 or branch < 0:
            return False
        if branch > len(ctx.branches):
            return True
        flags = ctx.branches[branch - 1].flags if branch else ctx.bflags
        flags = flags | 1 << flag if on else flags & ~(1 << flag)
        if branch:
            ctx.branches[branch - 1].flags = flags
        else:
            ctx.bflags = flags
        return True

    @export()
    def setsflag(self, ctx: RouteContext, flag: int) -> bool:
        """Set a script flag (0..31): seen in this route block only."""
        if 0 <= flag <= 31:
            ctx.sflags |= 1 << flag
            return True
        return False

    @export()
    def resetsflag(self, ctx: RouteContext, flag: int) -> bool:
        """Clear a script flag (0..31)."""
        if 0 <= flag <= 31:
            ctx.sflags &= ~(1 << flag)
            return True
        return False

    @export()
    def issflagset(self, ctx: RouteContext, flag: int) -> bool:
        """Tell whether a script flag (0..31) is set."""
        return 0 <= flag <= 31 and bool(ctx.sflags >> flag & 1)

    # ---- where to
    @export()
    def seturi(self, ctx: RouteContext, uri: str) -> bool:
        """Set the Request-URI."""
        if not uri or " " in uri or "\r" in uri or "\n" in uri:
            return False
        ctx.ruri = uri
        return True

    @export()
    def setuser(self, ctx: RouteContext, user: str) -> bool:
        """Set the user part of the Request-URI; "" takes it away."""
        return self.seturi(ctx, parse_uri(ctx.ruri).changed(user=user))

    @export()
    def sethost(self, ctx: RouteContext, host: str) -> bool:
        """Set the host of the Request-URI; the port stays."""
        return bool(host) and self.seturi(ctx, parse_uri(ctx.ruri).changed(host=host))

    @export()
    def setdsturi(self, ctx: RouteContext, uri: str) -> bool:
        """Set the destination URI ($du): where the request is sent, whatever its Request-URI."""
        ctx.dst_uri = uri
        return True

    @export()
    def resetdsturi(self, ctx: RouteContext) -> bool:
        """Take the destination URI away."""
        ctx.dst_uri = ""
        return True

    @export()
    def isdsturiset(self, ctx: RouteContext) -> bool:
        """Tell whether the destination URI is set."""
        return ctx.dst_uri != ""

    @export()
    def force_rport(self, ctx: RouteContext) -> bool:
        """Send replies to the source port, as if the Via asked for it with ``rport`` (RFC 3581)."""
        ctx.force_rport = True
        return True

    @export()
    def route(self, ctx: RouteContext, route: str) -> Process[int]:
        """Run the function ``route`` of the script on this message, as Kamailio runs a native route block of that name.

        What it changes stays. Answers 1, or -1 when there is no such function or it failed.
        """
        if not route or not self.services.routes.defines(ctx.kind, route):
            return -1
        outer, ctx.callback = ctx.callback, route
        yield ctx
        ctx.callback = outer
        failed, ctx.error = ctx.error is not None, None
        return -1 if failed else 1

    @export(routes=Route.REQUEST)
    def forward(self, ctx: RouteContext) -> Process[int]:
        """Forward the request statelessly to the destination URI, or else the Request-URI (RFC 3261 section 16.11).

        Answers 1, or -1 when there is no usable destination or the onsend route dropped it.
        """
        return (yield from self.forwarder.forward(ctx, ctx.dst_uri or ctx.ruri))

    @export(routes=Route.REQUEST)
    def forward_uri(self, ctx: RouteContext, uri: str) -> Process[int]:
        """Forward the request statelessly to ``uri``; the Request-URI stays. Answers like ``forward``."""
        return (yield from self.forwarder.forward(ctx, uri))

    # ---- method, transport, addresses
    @export(by_method=True)
    def is_method(self, ctx: RouteContext, method: str) -> bool:
        """Tell whether the method is ``method``, in any case; of a reply, that of its CSeq.

        ``INVITE|ACK`` stands for one of several; all of them must be methods that Kamailio knows.
        """
        if "|" in method:
            return self._is_one_of(ctx.method, method)
        return ctx.method == method or ctx.method.lower() == method.lower()

    def _is_one_of(self, method: str, names: str) -> bool:
        wanted = [name.strip(" \t\r\n").upper() for name in names.removesuffix("|").split("|")]
        if not all(name in METHOD_IDS and name != "OTHER" for name in wanted):
            log.error("core.is_method: %r holds what is no method", names)
            return False
        return method.upper() in wanted

    @export(by_method=True)
    def is_method_in(self, ctx: RouteContext, letters: str) -> bool:
        """Tell whether the method is one of ``letters``.

        I INVITE, A ACK, B BYE, C CANCEL, M MESSAGE, R REGISTER, E PRACK, P PUBLISH, S SUBSCRIBE, N NOTIFY, O OPTIONS,
        F REFER, G GET, U UPDATE, K KDMQ, D DELETE, T POST, V PUT; either case.
        """
        letter = _METHOD_LETTERS.get(ctx.method)
        return letter is not None and (letter in letters or letter.lower() in letters)

    is_INVITE = _method_test("INVITE")  # noqa: N815
    is_ACK = _method_test("ACK")  # noqa: N815
    is_BYE = _method_test("BYE")  # noqa: N815
    is_CANCEL = _method_test("CANCEL")  # noqa: N815
    is_REGISTER = _method_test("REGISTER")  # noqa: N815
    is_OPTIONS = _method_test("OPTIONS")  # noqa: N815
    is_SUBSCRIBE = _method_test("SUBSCRIBE")  # noqa: N815
    is_PUBLISH = _method_test("PUBLISH")  # noqa: N815
    is_NOTIFY = _method_test("NOTIFY")  # noqa: N815
    is_REFER = _method_test("REFER")  # noqa: N815
    is_INFO = _method_test("INFO")  # noqa: N815
    is_UPDATE = _method_test("UPDATE")  # noqa: N815
    is_PRACK = _method_test("PRACK")  # noqa: N815
    is_MESSAGE = _method_test("MESSAGE")  # noqa: N815
    is_KDMQ = _method_test("KDMQ")  # noqa: N815
    is_GET = _method_test("GET")  # noqa: N815
    is_POST = _method_test("POST")  # noqa: N815
    is_PUT = _method_test("PUT")  # noqa: N815
    is_DELETE = _method_test("DELETE")  # noqa: N815

    @export(constant=True)
    def is_proto(self, ctx: RouteContext, letters: str) -> bool:
        """Tell whether the transport is one of ``letters``: U UDP, T TCP, E TLS, S SCTP, V WS, W WSS; either case."""
        letter = _PROTO_LETTERS[ctx.flow.listener.proto]
        return letter in letters or letter.lower() in letters

    is_UDP = _proto_test("UDP", "udp")  # noqa: N815
    is_TCP = _proto_test("TCP", "tcp")  # noqa: N815
    is_TCPX = _proto_test("TCPX", "tcp", "tls", "ws", "wss")  # noqa: N815
    is_TLS = _proto_test("TLS", "tls")  # noqa: N815
    is_WS = _proto_test("WS", "ws")  # noqa: N815
    is_WSS = _proto_test("WSS", "wss")  # noqa: N815
    is_WSX = _proto_test("WSX", "ws", "wss")  # noqa: N815
    is_SCTP = _proto_test("SCTP", "sctp")  # noqa: N815

    @export(constant=True)
    def is_IPv4(self, ctx: RouteContext) -> bool:  # noqa: N802
        """Tell whether the message came over IPv4."""
        return ":" not in ctx.flow.listener.host

    @export(constant=True)
    def is_IPv6(self, ctx: RouteContext) -> bool:  # noqa: N802
        """Tell whether the message came over IPv6."""
        return ":" in ctx.flow.listener.host

    @export(constant=True)
    def is_src_port(self, ctx: RouteContext, port: int) -> bool:
        """Tell whether the message came from ``port``."""
        return ctx.flow.port == port

    @export(constant=True)
    def is_dst_port(self, ctx: RouteContext, port: int) -> bool:
        """Tell whether the message came in on our ``port``."""
        return ctx.flow.listener.port == port
