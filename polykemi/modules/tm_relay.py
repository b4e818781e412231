"""tm: what goes downstream: the destination set, its branches, ACK and CANCEL (RFC 3261 sections 16.5, 16.6, 16.10)."""

from __future__ import annotations

import logging
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import ONSEND_ROUTE, Route
from polykemi.modules.tm_reply import Replier
from polykemi.modules.tm_responses import Responses
from polykemi.sip.build import forward_request
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.message import Edits, Request
from polykemi.sip.reply_path import reply_path
from polykemi.sip.uri import parse_uri
from polykemi.transaction.forking import Branch, Transaction
from polykemi.transaction.layer import server_key
from polykemi.transaction.machine import Timings
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.tm")

_NO_RELAY: Final = (Route.REPLY, Route.ONREPLY, Route.ONSEND, Route.BRANCH)
_ON_FAILURE: Final = (Route.FAILURE, Route.BRANCH_FAILURE)

# what t_relay answers when nothing could be sent (Kamailio: core/error.h)
E_UNSPEC: Final = -1
E_NOT_ANSWERED: Final = -4  # for any of these reasons, and t_set_disable_internal_reply leaves the answer to the script
E_CFG: Final = -6  # the branch routes dropped all branches
E_NO_SOCKET: Final = -7  # no listener of the transport that the URI asks for
E_BAD_URI: Final = -400
E_BAD_ADDRESS: Final = -478


class Settings:
    """What a route set for a transaction that does not exist yet."""

    __slots__ = (
        "auto_inv_100",
        "disable_6xx",
        "fr",
        "fr_inv",
        "max_inv",
        "max_noninv",
        "no_e2e_cancel_reason",
        "no_internal_reply",
        "retr1",
        "retr2",
        "routes",
    )

    def __init__(self) -> None:
        self.routes: dict[str, str] = {}  # on_branch, on_failure, on_reply, on_branch_failure -> callback
        self.fr = self.fr_inv = self.retr1 = self.retr2 = 0  # milliseconds, 0: the parameter's
        self.max_inv = self.max_noninv = -1  # milliseconds, -1: the parameter's, 0: no limit
        self.auto_inv_100 = -1  # -1: the parameter's
        self.disable_6xx = False
        self.no_internal_reply = False
        self.no_e2e_cancel_reason = False


class Relayer:
    """Makes transactions and branches."""

    def __init__(self, replier: Replier, responses: Responses) -> None:
        self._replier = replier
        self._responses = responses
        self._services = replier.services
        self._layer = replier.layer
        self._params = replier.params
        self._labels = 0
        self._timings: dict[tuple[int, int, int, int], Timings] = {}

    # ---- the transaction
    def open(self, ctx: RouteContext) -> Transaction | None:
        """Make the transaction of the request of ``ctx``; None when there is one (the request is a retransmission)."""
        request = ctx.message
        assert isinstance(request, Request)
        key = server_key(request)
        if self._layer.by_alias(key) is not None:
            return None
        path = reply_path(request, ctx.flow, ctx.force_rport)
        settings: Settings | None = ctx.cache.get("tm.settings")
        timings = self._layer.timings if settings is None else self.timings_of(settings)
        t = Transaction(key, request, ctx.flow, path, timings, ctx.shared, ctx.now)
        self._labels += 1
        t.label = self._labels
        lifetime = self._params.max_inv_lifetime if t.method == "INVITE" else self._params.max_noninv_lifetime
        if settings is not None:
            for slot, callback in settings.routes.items():
                setattr(t, slot, callback)
            t.disable_6xx = settings.disable_6xx
            t.no_internal_reply = settings.no_internal_reply
            t.no_e2e_cancel_reason = settings.no_e2e_cancel_reason
            own = settings.max_inv if t.method == "INVITE" else settings.max_noninv
            lifetime = own if own >= 0 else lifetime
        t.expires = ctx.now + lifetime / 1000 if lifetime else 0.0
        self._layer.open_server(t)
        ctx.transaction = t
        self._replier.active += 1
        self._services.count("tmx.UAS_transactions")
        return t

    def timings_of(self, settings: Settings) -> Timings:
        """Return the timings with what a route has set; the same object for the same values."""
        key = (settings.fr, settings.fr_inv, settings.retr1, settings.retr2)
        timings = self._timings.get(key)
        if timings is None:
            base = self._layer.timings
            timings = Timings(
                t1=settings.retr1 / 1000 or base.t1,
                t2=settings.retr2 / 1000 or base.t2,
                t4=base.t4,
                fr=settings.fr / 1000 or base.fr,
                fr_inv=settings.fr_inv / 1000 or base.fr_inv,
            )
            if len(self._timings) < 256:  # values come from scripts and may be computed
                self._timings[key] = timings
        return timings

    # ---- t_relay
    def relay(self, ctx: RouteContext, hop: Flow | None = None, *, replicate: bool = False) -> Process[int]:
        """Forward the request to its destination set; ``hop`` takes the place of the next hop of every branch.

        Return 1, 0 for a retransmission, or one of the negative numbers above.
        """
        if ctx.kind in _NO_RELAY:
            return E_UNSPEC
        t = ctx.transaction
        if t is None:
            request = ctx.message
            assert isinstance(request, Request)
            if request.method == "ACK":
                return (yield from self._relay_ack(ctx, hop))
            if request.method == "CANCEL":
                handled = yield from self.cancel(ctx)
                if handled:
                    return handled
            if not ctx.dst_uri and _is_unusable(ctx.ruri):
                return E_BAD_URI
            t = self.open(ctx)
            if t is None:
                return 0
        if t.is_answered or (t.canceled and not t.suspended):
            return E_UNSPEC
        try:
            return (yield from self._fork(ctx, t, hop, replicate))
        except ParseError as error:  # the request cannot be copied: a header that nobody has looked at is malformed
            t.error = ctx.cache["reply_error"] = (error.status, error.reason)
            return E_BAD_URI

    def _fork(self, ctx: RouteContext, t: Transaction, hop: Flow | None, replicate: bool) -> Process[int]:
        targets = _targets(ctx)
        if not targets:
            log.warning("t_relay: the destination set is empty")
            return E_UNSPEC
        if ctx.kind is Route.REQUEST:
            self.remember(ctx, t)
        ctx.cache["tm.consumed"] = (ctx.ruri, ctx.dst_uri)
        ctx.branches = []
        self.answer_100(ctx, t)
        on_branch, t.on_branch = t.on_branch, ""
        start = len(t.branches)
        error = E_UNSPEC
        branches = []
        for target in targets:
            branch = yield from self._make_branch(ctx, t, target, on_branch, hop)
            if isinstance(branch, Branch):
                branches.append(branch)
                t.branches.append(branch)
            else:
                error = branch
        if not branches:
            if ctx.kind is Route.REQUEST and not t.no_internal_reply and "tm.no_internal_reply" not in ctx.cache:
                status = 478 if error == E_BAD_ADDRESS else 500
                reason = "Unresolvable destination" if status == 478 else "Server Internal Error"
                t.error = ctx.cache["reply_error"] = (status, reason)
            return E_NOT_ANSWERED if t.no_internal_reply and not replicate else error
        if ctx.kind in _ON_FAILURE and self._params.failure_reply_mode and "tm.keep_replies" not in ctx.cache:
            drop_replies(t, "l" if self._params.failure_reply_mode == 2 else "a")
        t.new_branches = start
        t.relayed = True
        if replicate:  # what comes back is nobody's
            del t.branches[start:]
        for branch in branches:
            if replicate:
                branch.transaction = None
            self._layer.open_client(branch, ctx.now)
        self._services.count("tmx.UAC_transactions", len(branches))
        return 1

    def answer_100(self, ctx: RouteContext, t: Transaction) -> None:
        """Answer an INVITE that has no response yet with 100, unless auto_inv_100 or the script says not to."""
        if t.method != "INVITE" or t.status:
            return
        settings: Settings | None = ctx.cache.get("tm.settings")
        wanted = self._params.auto_inv_100 if settings is None or settings.auto_inv_100 < 0 else settings.auto_inv_100
        if wanted:
            self._replier.reply(t, 100, self._params.auto_inv_100_reason, ctx.now)

    def remember(self, ctx: RouteContext, t: Transaction) -> None:
        """Keep the request as the request route left it: failure routes start from there."""
        t.ruri, t.dst_uri, t.path, t.bflags = ctx.ruri, ctx.dst_uri, ctx.path, ctx.bflags
        if ctx.force_rport and not t.force_rport:  # said after the transaction was made
            t.received, t.rport, t.flow = reply_path(t.request, ctx.flow, force_rport=True)
        t.force_listener, t.force_rport = ctx.force_listener, ctx.force_rport
        t.edits = ctx.edits
        t.reply_headers = ctx.reply_headers
        contacts = ctx.cache.get("tm.contacts")
        if contacts:
            t.contacts = contacts

    # ---- one branch
    def _make_branch(
        self, ctx: RouteContext, t: Transaction, target: Target, on_branch: str, hop: Flow | None
    ) -> Process[Branch | int]:
        """Run the branch and onsend routes and return the branch, ready to be sent, or why there is none."""
        request = t.request
        listener = target.listener or ctx.force_listener or ctx.flow.listener
        edits = ctx.edits
        branch = Branch(t, self._services.ids.branch(), t.method, ctx.flow, t.timings, target)
        branch.expires = t.expires
        if on_branch:
            block = RouteContext(Route.BRANCH, on_branch, request, ctx.flow, ctx.now)
            block.ruri, block.dst_uri, block.path, block.bflags = target.uri, target.dst_uri, target.path, target.flags
            block.ruid, block.instance = target.ruid, target.instance
            block.force_listener, block.force_rport = target.listener or ctx.force_listener, ctx.force_rport
            block.edits = edits.copy()
            block.reply_headers = ctx.reply_headers
            block.shared, block.transaction, block.branch, block.branch_index = ctx.shared, t, branch, branch.index
            if "tm.add_local_rport" in ctx.cache:
                block.cache["tm.add_local_rport"] = True
            yield block
            if block.dropped:
                return E_CFG
            branch.uri, branch.dst_uri, branch.path, branch.bflags = block.ruri, block.dst_uri, block.path, block.bflags
            listener, edits = block.force_listener or ctx.flow.listener, block.edits
        routes = split_quoted(branch.path, ",") if branch.path else []
        flow = hop or self._next_hop(branch.dst_uri, routes, request, edits, branch.uri, listener)
        if isinstance(flow, int):
            return flow
        branch.flow = flow
        if flow.listener != ctx.flow.listener and "rr" in self._services.modules:
            edits = self._services.modules["rr"].doubled(edits, ctx.flow.listener, flow.listener)
        branch.on_branch_failure = t.on_branch_failure
        branch.data = self._request_for(ctx, request, edits, branch.uri, branch.key, flow.listener, routes)
        if not (yield from self._may_send(ctx, t, branch)):
            return E_CFG
        return branch

    def _request_for(
        self,
        ctx: RouteContext,
        request: Request,
        edits: Edits,
        uri: str,
        branch: str,
        listener: Listener,
        routes: list[str],
    ) -> bytes:
        """Build the request as it goes downstream (section 16.6)."""
        if "max-forwards" not in request.names and not any(_is_max_forwards(text) for _, text in edits.inserts):
            edits = edits.copy()
            edits.inserts.append((len(request.lines), "Max-Forwards: 70"))
        t = ctx.transaction
        received, rport = (t.received, t.rport) if t is not None else reply_path(request, ctx.flow, ctx.force_rport)[:2]
        branch = branch.partition(" ")[0]
        ask = ";rport" if "tm.add_local_rport" in ctx.cache else ""
        return forward_request(
            request,
            edits,
            uri=uri,
            via=f"SIP/2.0/{listener.proto.upper()} {listener.sent_by};branch={branch}{ask}",
            received=received,
            rport=rport,
            routes=routes,
        )

    def _may_send(self, ctx: RouteContext, t: Transaction | None, branch: Branch | bytes) -> Process[bool]:
        """Run the onsend route; False when it dropped the message."""
        if not self._services.routes.defines(Route.ONSEND, ONSEND_ROUTE):
            return True
        onsend = RouteContext(Route.ONSEND, ONSEND_ROUTE, ctx.message if t is None else t.request, ctx.flow, ctx.now)
        onsend.shared, onsend.transaction = ctx.shared, t
        if isinstance(branch, Branch):
            onsend.wire, onsend.branch, onsend.branch_index = branch.data, branch, branch.index
            onsend.destination = branch.flow
            onsend.ruri, onsend.dst_uri = branch.uri, branch.dst_uri
        else:
            onsend.wire, onsend.ruri, onsend.dst_uri = branch, ctx.ruri, ctx.dst_uri
        yield onsend
        return not onsend.dropped

    def _next_hop(
        self, dst_uri: str, routes: list[str], request: Request, edits: Edits, uri: str, listener: Listener
    ) -> Flow | int:
        """Return where a request goes: $du, else the first Route, else the Request-URI; or why it cannot."""
        if dst_uri:
            return self.hop(dst_uri, listener)
        try:
            if routes:
                return self.hop(parse_name_addr(routes[0]).uri, listener)
            if "route" in request.names:
                top = _top_route(request, edits)
                if top:
                    route = parse_uri(top)
                    if not self._services.is_myself(route.host, route.effective_port):
                        return self.hop(top, listener)
        except ParseError:
            return E_BAD_URI
        return self.hop(uri, listener)

    def hop(self, text: str, listener: Listener) -> Flow | int:
        """Return the flow to the URI ``text``; host names are the transport's to resolve."""
        try:
            uri = parse_uri(text)
        except ParseError:
            return E_BAD_URI
        if uri.scheme not in ("sip", "sips"):
            return E_BAD_URI
        proto = "tls" if uri.scheme == "sips" else uri.transport or "udp"
        return self.hop_to(proto, uri.param("maddr") or uri.host, uri.effective_port, listener)

    def hop_to(self, proto: str, host: str, port: int, listener: Listener) -> Flow | int:
        """Return the flow to ``host:port``, from ``listener`` or another one of that transport."""
        if proto != listener.proto:
            for other in self._services.listeners:
                if other.proto == proto:
                    listener = other
                    break
            else:
                log.warning("t_relay: no listener for %s, wanted for %s:%d", proto, host, port)
                return E_NO_SOCKET
        return Flow(listener, host.strip("[]"), port)

    # ---- ACK, CANCEL
    def _relay_ack(self, ctx: RouteContext, hop: Flow | None) -> Process[int]:
        """Forward the ACK to a 2xx: it is a transaction of its own and has no answer (section 16.11)."""
        request = ctx.message
        assert isinstance(request, Request)
        listener = ctx.force_listener or ctx.flow.listener
        routes = split_quoted(ctx.path, ",") if ctx.path else []
        flow = hop or self._next_hop(ctx.dst_uri, routes, request, ctx.edits, ctx.ruri, listener)
        if isinstance(flow, int):
            return flow
        data = self._request_for(ctx, request, ctx.edits, ctx.ruri, self._services.ids.branch(), flow.listener, routes)
        if not (yield from self._may_send(ctx, None, data)):
            return E_CFG
        self._services.outbox.send(data, flow)
        return 1

    def cancel(self, ctx: RouteContext) -> Process[int]:
        """Answer a CANCEL and cancel the branches of its INVITE (section 16.10); 0 when there is no such INVITE."""
        request = ctx.message
        assert isinstance(request, Request)
        invite = self.invite_of(request)
        if invite is None:
            if self._params.unmatched_cancel == 0:
                return 0
            if self._params.unmatched_cancel == 1:
                return (yield from self._relay_ack(ctx, None))
            return E_UNSPEC
        t = self.open(ctx)
        if t is None:
            return 1
        self._replier.reply(t, 200, "canceling", ctx.now, headers=ctx.reply_headers)
        if invite.is_answered:
            return 1
        invite.canceled = True
        passes_reason = self._params.e2e_cancel_reason and not invite.no_e2e_cancel_reason
        reason = request.get("reason") if passes_reason else None
        if invite.suspended is not None:
            self._layer.close(invite.suspended)
            invite.suspended = None
        self._replier.cancel_branches(invite, ctx.now, reason or "")
        if invite.branches:
            yield from self._responses.conclude(invite, ctx.now)
        else:
            self._replier.reply(invite, 487, "Request Terminated", ctx.now)
        return 1

    def invite_of(self, request: Request) -> Transaction | None:
        """Return the INVITE transaction that a CANCEL is about (section 9.2)."""
        invite = self._layer.server_of(request, "INVITE")
        return invite if isinstance(invite, Transaction) else None


def _targets(ctx: RouteContext) -> list[Target]:
    """Return the destination set: the Request-URI unless it was forwarded to already, and the additional branches."""
    out = []
    if ctx.cache.get("tm.consumed") != (ctx.ruri, ctx.dst_uri):
        first = Target(ctx.ruri, ctx.dst_uri, path=ctx.path, flags=ctx.bflags, instance=ctx.instance, ruid=ctx.ruid)
        out.append(first)
    return out + ctx.branches


def _is_unusable(uri: str) -> bool:
    try:
        return parse_uri(uri).scheme not in ("sip", "sips")
    except ParseError:
        return True


def _top_route(request: Request, edits: Edits) -> str:
    """Return the URI of the topmost Route after the edits, "" when none is left or it is a strict router's."""
    for i in request.indexes("route"):
        if i in edits.removed:
            continue
        line = edits.replaced.get(i)
        value = request.value(i) if line is None else line.partition(":")[2].strip(" \t")
        top = parse_name_addr(split_quoted(value, ",")[0]).uri
        return top if parse_uri(top).is_loose else ""
    return ""


def _is_max_forwards(text: str) -> bool:
    return text[:13].lower() == "max-forwards:"


def drop_replies(t: Transaction, mode: str) -> None:
    """Take the responses that have come out of the choice of the best one: ``a`` all, ``l`` those of the last t_relay."""
    for branch in t.branches[t.new_branches if mode == "l" else 0 :]:
        if branch.status >= 200:
            branch.dropped = True
