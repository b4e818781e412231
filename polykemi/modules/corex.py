"""corex: more functions of the core: destination set, extended flags, sockets, Via, raw data, files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polykemi.errors import DataError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.faked import FAKED_MESSAGE
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.core import Core
from polykemi.modules.core_events import CoreParams
from polykemi.modules.corex_files import Files
from polykemi.modules.corex_rpc import CorexCommands
from polykemi.modules.local_via import wishing
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import expanded
from polykemi.pv.classes.network import socket_text
from polykemi.sip.flow import Flow, Listener, find_listener, parse_socket
from polykemi.sip.grammar import canonical_host, to_ip
from polykemi.sip.uri import parse_uri
from polykemi.transaction.target import MOST_TARGETS, Target

log = logging.getLogger("polykemi.script")


@dataclass(frozen=True, slots=True)
class CorexParams:
    """``socket_name``: a name for a listener each, ``name=proto:host:port``, besides those that ``listen`` gives.

    ``file_directory``: where file_read and file_write may work; "": nowhere. Both are polykemi's own.
    """

    socket_name: tuple[str, ...] = ()
    file_directory: str = ""

    def __post_init__(self) -> None:
        for text in self.socket_name:
            name, _, address = text.partition("=")
            if not name or not parse_socket(address)[1]:
                raise ValueError(f"socket_name: expected name=proto:host:port, got {text!r}")


class Corex(Module):
    """Extensions of the core."""

    name = "corex"
    Params = CorexParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._files = Files(self.params.file_directory, read_only=services.is_rehearsal)
        self._named = {listener.name: listener for listener in reversed(services.listeners) if listener.name}

    def start(self, now: float) -> None:
        """Find the listeners that have names. Raise DataError for one that is not there."""
        for text in self.params.socket_name:
            name, _, address = text.partition("=")
            listener = self._listener(address)
            if listener is None:
                raise DataError(f"corex: socket_name: {address!r} is no socket of ours")
            self._named[name] = listener

    def commands(self) -> tuple[object, ...]:
        """Return the commands corex.list_sockets and corex.list_aliases."""
        return (self, CorexCommands(self.services))

    def pv_classes(self) -> Mapping[str, Factory]:
        """``$lsock(match/value/field)``: a field of the listener that matches, for fields n, l, a, i."""

        def find(ctx: RouteContext, expression: str) -> Xval:
            match, _, rest = expression.partition("/")
            value, slash, field = rest.rpartition("/")
            if match not in ("n", "l", "a", "i") or not slash or len(field) < 2 or field[0] not in "nlai":
                log.error("$lsock: %r is not n|l|a|i/value/name|listen|advertise|index", expression)
                return None
            names = {listener: name for name, listener in self._named.items()}
            for number, listener in enumerate(self.services.listeners):
                shown = socket_text(listener.proto, *listener.advertised) if listener.advertised_host else ""
                fields: dict[str, Xval] = {"n": names.get(listener, ""), "l": str(listener), "a": shown, "i": number}
                if value and value == str(fields[match]):
                    return fields[field[0]]
            return None

        return {"lsock": expanded(find)}

    # ---- the log
    @rpc("corex.debug")
    def debug(self, level: str = "") -> dict[str, int]:
        """Return the level of the log (3 debug, 2 info, 1 notice, 0 warnings, -1 errors), or set it; a text is no level."""
        levels = self.services.levels
        try:
            number = int(level)
        except ValueError:
            return {"debug": levels.debug()}
        return {"old": levels.set_debug(number), "new": levels.debug()}

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
        if len(ctx.branches) >= MOST_TARGETS:
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

    # ---- sockets
    @export()
    def set_send_socket(self, ctx: RouteContext, address: str) -> int:
        """Send from our listener ``proto:host:port``, "" for any. Answers 1, or -1 for what is no address.

        When we have no such listener, that is logged and nothing changes.
        """
        return self._set_socket(ctx, address, received=False)

    @export()
    def set_send_socket_name(self, ctx: RouteContext, name: str) -> int:
        """Send from the listener that has this name, "" for any. Answers 1, also for an unknown name."""
        return self._set_socket(ctx, name, received=False, by_name=True)

    @export()
    def set_recv_socket(self, ctx: RouteContext, address: str) -> int:
        """Take the message for one that came in on our listener ``proto:host:port``. Answers like ``set_send_socket``."""
        return self._set_socket(ctx, address, received=True)

    @export()
    def set_recv_socket_name(self, ctx: RouteContext, name: str) -> int:
        """Take the message for one that came in on the listener of this name. Answers like ``set_send_socket_name``."""
        return self._set_socket(ctx, name, received=True, by_name=True)

    def _set_socket(self, ctx: RouteContext, text: str, *, received: bool, by_name: bool = False) -> int:
        if not text:
            ctx.force_listener = None
            return 1
        if by_name:
            listener = self._named.get(text)
            if listener is None:
                log.warning("corex: no listener has the name %s", text)
        else:
            if not parse_socket(text)[1]:
                return -1
            listener = self._listener(text)
        if listener is not None and received:
            ctx.flow = Flow(listener, ctx.flow.host, ctx.flow.port)
        elif listener is not None:
            ctx.force_listener = listener
        return 1

    @export()
    def is_socket_name(self, ctx: RouteContext, sockname: str) -> int:
        """Tell whether a listener has this name: 1 or -1."""
        return 1 if sockname in self._named else -1

    @export()
    def set_source_address(self, ctx: RouteContext, saddr: str) -> int:
        """Take the message for one that came from ``proto:host:port``: replies go there. Answers 1, or -1 for no IP address."""
        _, host, port = parse_socket(saddr)
        if to_ip(host) is None:
            log.error("corex.set_source_address: %r is no address", saddr)
            return -1
        ctx.flow = Flow(ctx.flow.listener, canonical_host(host), port or 5060)
        return 1

    # ---- our Via
    @export()
    def via_add_srvid(self, ctx: RouteContext, fval: int) -> int:
        """Write ``;srvid=`` with the core's server_id into our Via (1), or not (0). Answers 1."""
        wishing(ctx).server_id = self._core.server_id if fval else 0
        return 1

    @export()
    def via_add_xavp_params(self, ctx: RouteContext, fval: int) -> int:
        """Write the fields of the XAVP that the core's xavp_via_params names into our Via (1), or not (0). Answers 1."""
        wishing(ctx).params = self._core.xavp_via_params if fval else ""
        return 1

    @export()
    def via_use_xavp_fields(self, ctx: RouteContext, fval: int) -> int:
        """Take the address and port of our Via from the XAVP that the core's xavp_via_fields names (1), or not (0). Answers 1."""
        wishing(ctx).fields = self._core.xavp_via_fields if fval else ""
        return 1

    @property
    def _core(self) -> CoreParams:
        core: Core = self.services.modules["core"]
        params: CoreParams = core.params
        return params

    # ---- as a client
    @export(routes=Route.REQUEST)
    def forward_uac(self, ctx: RouteContext) -> Process[int]:
        """Forward statelessly without the Vias of those before us, as if we were the sender. Answers 1 or -1."""
        return (yield from self._forward_uac(ctx, "", 0))

    @export(routes=Route.REQUEST)
    def forward_uac_branch(self, ctx: RouteContext, bindex: int) -> Process[int]:
        """Forward like ``forward_uac``; ``bindex`` makes the branch of our Via another one."""
        return (yield from self._forward_uac(ctx, "", bindex))

    @export(routes=Route.REQUEST)
    def forward_uac_uri(self, ctx: RouteContext, vuri: str) -> Process[int]:
        """Forward like ``forward_uac``, to ``vuri``; the Request-URI stays."""
        return (yield from self._forward_uac(ctx, vuri, 0))

    @export(routes=Route.REQUEST)
    def forward_uac_uri_branch(self, ctx: RouteContext, vuri: str, bindex: int) -> Process[int]:
        """Forward like ``forward_uac_branch``, to ``vuri``; the Request-URI stays."""
        return (yield from self._forward_uac(ctx, vuri, bindex))

    def _forward_uac(self, ctx: RouteContext, uri: str, index: int) -> Process[int]:
        core: Core = self.services.modules["core"]
        return (yield from core.forwarder.forward(ctx, uri or ctx.dst_uri or ctx.ruri, as_client=True, index=index))

    # ---- files
    @export()
    def file_read(self, ctx: RouteContext, fname: str) -> Xval:
        """Return what is in a file of file_directory, null when it cannot be read."""
        data = self._files.read(fname)
        return None if data is None else data.decode("latin-1")

    @export()
    def file_write(self, ctx: RouteContext, fname: str, content: str) -> int:
        """Put ``content`` in place of what is in a file of file_directory. Answers 1 or -1."""
        return 1 if self._files.write(fname, content.encode("latin-1")) else -1

    def _listener(self, address: str) -> Listener | None:
        listener = find_listener(address, self.services.listeners, 5060)
        if listener is None:
            log.warning("corex: we do not listen on %s", address)
        return listener

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
        if address and not parse_socket(address)[1]:
            return -1
        listener = self._listener(address) if address else None
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
