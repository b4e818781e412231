"""tm: what goes downstream: the destination set, its branches, ACK and CANCEL (RFC 3261 sections 16.5, 16.6, 16.10)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.local_via import ONWARD
from polykemi.modules.tm_failover import Failover
from polykemi.modules.tm_fork import (
    E_CFG,
    E_NOT_ANSWERED,
    E_TOO_MANY_BRANCHES,
    E_UNSPEC,
    MAX_BRANCHES,
    Fork,
    branch_context,
    drop_replies,
    targets_of,
)
from polykemi.modules.tm_hops import E_BAD_ADDRESS, E_BAD_URI, E_SEND, Hops, Way
from polykemi.modules.tm_loops import breadth_left, is_loop, loop_mark, shares, with_breadth
from polykemi.modules.tm_preset import RouteTimings, Settings
from polykemi.modules.tm_reply import Replier
from polykemi.modules.tm_request import Requests
from polykemi.modules.tm_responses import Responses
from polykemi.sip.flow import Flow, Listener, onward
from polykemi.sip.header import split_quoted
from polykemi.sip.message import Edits, Request
from polykemi.sip.reply_path import reply_path
from polykemi.sip.uri import parse_uri
from polykemi.transaction.forking import Branch, Transaction
from polykemi.transaction.layer import dialog_key
from polykemi.transaction.target import Target

log = logging.getLogger("polykemi.tm")

_REQUEST: Final = Route.REQUEST  # a member of an enumeration takes a Python call to find
_ONSEND: Final = Route.ONSEND
_NO_RELAY: Final = (Route.REPLY, Route.ONREPLY, Route.ONSEND, Route.BRANCH)
_ON_FAILURE: Final = (Route.FAILURE, Route.BRANCH_FAILURE)


class Relayer:
    """Makes transactions and branches."""

    def __init__(self, replier: Replier, responses: Responses, hops: Hops) -> None:
        self._replier = replier
        self._responses = responses
        self._services = replier.services
        self._layer = replier.layer
        self._params = replier.params
        self._counters = replier.services.counters
        self._udp = replier.services.udp
        self._labels = 0
        self.hops = hops
        self.timings = RouteTimings(replier.layer)
        self.requests = Requests(replier.services, hops)
        self.failover = Failover(self, replier, responses)
        # what modules do when a transaction begins (Kamailio: TMCB_REQUEST_IN), and with the ACK to a 2xx (TMCB_E2EACK_IN)
        self.on_request_in: list[Callable[[RouteContext, Transaction], None]] = []
        self.on_ack: list[Callable[[RouteContext, Transaction], None]] = []

    # ---- the transaction
    def open(self, ctx: RouteContext) -> Transaction | None:
        """Make the transaction of the request of ``ctx``; None when there is one (the request is a retransmission)."""
        request = ctx.message
        assert isinstance(request, Request)
        key = self._layer.key_of(request)
        if self._layer.by_alias(key) is not None:
            return None
        path = reply_path(request, ctx.flow, ctx.force_rport)
        settings: Settings | None = ctx.cache.get("tm.settings")
        timings = self._layer.timings if settings is None else self.timings.of(settings)
        t = Transaction(key, request, ctx.flow, path, timings, ctx.shared, ctx.now)
        self._labels += 1
        t.label = self._labels
        lifetime = self._params.max_inv_lifetime if t.method == "INVITE" else self._params.max_noninv_lifetime
        if settings is not None:
            for slot, callback in settings.routes.items():
                setattr(t, slot, callback)
            t.disable_6xx = settings.disable_6xx
            t.disable_failover = settings.disable_failover
            t.no_internal_reply = settings.no_internal_reply
            t.no_e2e_cancel_reason = settings.no_e2e_cancel_reason
            own = settings.max_inv if t.method == "INVITE" else settings.max_noninv
            lifetime = own if own >= 0 else lifetime
        t.expires = ctx.now + lifetime / 1000 if lifetime else 0.0
        self._layer.open_server(t)
        ctx.transaction = t
        self._replier.active += 1
        self._counters["tmx.UAS_transactions"] += 1
        if self.on_request_in:
            for call in self.on_request_in:
                call(ctx, t)
        return t

    # ---- t_relay
    def relay(self, ctx: RouteContext, hop: Flow | Way | None = None, *, replicate: bool = False) -> Process[int] | int:
        """Forward the request to its destination set; ``hop`` takes the place of the next hop of every branch.

        Return 1, 0 for a retransmission, or one of the negative numbers above; the Process that comes to one of these when
        route blocks have to run.
        """
        if ctx.kind is not _REQUEST and ctx.kind in _NO_RELAY:
            return E_UNSPEC
        if ctx.transaction is None:
            request = ctx.message
            assert isinstance(request, Request)
            if request.method == "ACK":
                return self._relay_ack(ctx, request, hop)
            if request.method == "CANCEL":
                return self._relay_cancel(ctx, hop, replicate)
        return self._relay(ctx, hop, replicate)

    def _relay_cancel(self, ctx: RouteContext, hop: Flow | Way | None, replicate: bool) -> Process[int]:
        handled = yield from self.cancel(ctx)
        if handled:
            return handled
        done = self._relay(ctx, hop, replicate)
        return done if isinstance(done, int) else (yield from done)

    def _relay(self, ctx: RouteContext, hop: Flow | Way | None, replicate: bool) -> Process[int] | int:
        t = ctx.transaction
        if t is None:
            if not ctx.dst_uri and _is_unusable(ctx.ruri):
                return E_BAD_URI
            t = self.open(ctx)
            if t is None:
                return 0
        if t.status >= 200 or t.canceled or (t.expires and ctx.now >= t.expires):
            # what would be sent after max_inv_lifetime would be given up at once, and ring all the same
            return E_UNSPEC
        if ctx.kind is Route.BRANCH_FAILURE and self._responses.is_refused(t):
            return E_UNSPEC  # no branch is made any more (section 16.7 step 5); a failure route may still go on
        targets = targets_of(ctx)
        if not targets:
            log.warning("t_relay: the destination set is empty")
            return E_UNSPEC
        if len(t.branches) + len(targets) > MAX_BRANCHES:  # a failure route may run again and again
            log.error("t_relay: more than %d branches", MAX_BRANCHES)
            return E_TOO_MANY_BRANCHES
        if ctx.kind is _REQUEST:
            self.remember(ctx, t)
        ctx.cache["tm.consumed"] = (ctx.ruri, ctx.dst_uri)
        ctx.branches = []
        self.answer_100(ctx, t)
        fork = Fork(ctx, t, targets, hop, replicate)
        if len(targets) > 1 or t.branches:
            try:
                refused = self._bound(fork)
            except ParseError as malformed:
                return fork.malformed(malformed)
            if refused:
                return refused
        on_branch, t.on_branch = t.on_branch, ""
        if on_branch or self._services.routes.defines(_ONSEND, self._services.callbacks.onsend, ctx.shared.version):
            return self._fork_with_blocks(fork, on_branch)
        try:
            for target in targets:
                branch = self._branch(fork, target)
                listener = target.listener or ctx.force_listener or ctx.flow.listener
                error = self._build(fork, branch, ctx.edits, listener)
                fork.add(branch, error)
        except ParseError as malformed:
            return fork.malformed(malformed)
        except Exception:
            fork.take_back()  # what was made and not sent would be awaited for ever
            raise
        return self._launch(fork)

    def _bound(self, fork: Fork) -> int:
        """Keep a forked request from multiplying (RFC 5393); 0, or what t_relay answers when it is to be refused."""
        params, t, request = self._params, fork.transaction, fork.transaction.request
        if params.loop_detection:
            fork.mark = loop_mark(fork.ctx, request, self._services.ids.secret)
            if is_loop(request, fork.mark):
                self._services.count("core.loops_detected")
                return fork.refused(482)
        if params.max_breadth:
            breadth, n = breadth_left(t, request, params.max_breadth), len(fork.targets)
            if breadth < n:
                self._services.count("core.max_breadth_exceeded")
                return fork.refused(440)
            if n > 1 or t.is_waiting:
                fork.shares = shares(breadth, n)
        return 0

    def _fork_with_blocks(self, fork: Fork, on_branch: str) -> Process[int]:
        """Do the same for each target with the branch route ``on_branch`` and the onsend route."""
        ctx = fork.ctx
        try:
            for target in fork.targets:
                branch = self._branch(fork, target)
                edits, listener = ctx.edits, target.listener or ctx.force_listener or ctx.flow.listener
                block: RouteContext | None = None
                if on_branch:
                    block = branch_context(fork, on_branch, target, branch)
                    yield block
                    if fork.transaction.status >= 200:
                        return fork.take_back()
                    if block.dropped:
                        fork.add(branch, E_CFG)
                        continue
                    branch.uri, branch.dst_uri, branch.path = block.ruri, block.dst_uri, block.path
                    branch.bflags = block.bflags
                    edits, listener = block.edits, block.force_listener or ctx.flow.listener
                error = self._build(fork, branch, edits, listener, block)
                if not error and branch.data and not (yield from self.requests.may_send(ctx, fork.transaction, branch)):
                    error = E_CFG
                if fork.transaction.status >= 200:
                    return fork.take_back()
                fork.add(branch, error)
        except ParseError as malformed:
            return fork.malformed(malformed)
        except Exception:
            fork.take_back()  # what was made and not sent would be awaited for ever
            raise
        return self._launch(fork)

    def _launch(self, fork: Fork) -> int:
        """Send the branches that were made; without any say why."""
        ctx, t = fork.ctx, fork.transaction
        branches = t.branches[fork.start :]
        if not branches:
            status = -fork.error if fork.error in (E_SEND, E_BAD_ADDRESS) else 500
            refused = fork.refused(status)
            return refused if refused == E_NOT_ANSWERED else fork.error
        if ctx.kind in _ON_FAILURE and self._params.failure_reply_mode and "tm.keep_replies" not in ctx.cache:
            drop_replies(t, "l" if self._params.failure_reply_mode == 2 else "a")
        t.new_branches = fork.start
        if fork.replicate:  # what comes back is nobody's
            del t.branches[fork.start :]
        for branch in branches:
            if fork.replicate:
                branch.transaction = None
            if branch.data:
                self._layer.open_client(branch, ctx.now)
            else:
                self.failover.find(branch)
        self._counters["tmx.UAC_transactions"] += len(branches)
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
    def _branch(self, fork: Fork, target: Target) -> Branch:
        t = fork.transaction
        ids = self._services.ids
        key = ids.branch() if not fork.mark or ids.is_named else ids.branch() + fork.mark
        branch = Branch(t, key, t.method, fork.ctx.flow, t.timings, target)
        branch.expires = t.expires
        if fork.shares:
            branch.breadth = fork.shares.pop(0)
        return branch

    def _build(
        self, fork: Fork, branch: Branch, edits: Edits, listener: Listener, block: RouteContext | None = None
    ) -> int:
        """Make ``branch``, as its branch route ``block`` left it, ready to be sent; return 0, or why it cannot be."""
        ctx, t = fork.ctx, fork.transaction
        request = t.request
        routes = split_quoted(branch.path, ",") if branch.path else []
        flow = fork.hop or self.hops.next_hop(branch.dst_uri, routes, request, edits, branch.uri, listener, ctx.now)
        if isinstance(flow, int):
            return flow
        if branch.breadth:
            edits = with_breadth(edits, request, branch.breadth)
        branch.arm(t)
        if isinstance(flow, Way):
            way = branch.way = flow.copy()
            way.ctx, way.request, way.edits, way.replicates = block or ctx, request, edits.copy(), fork.replicate
            way.onward = ctx.cache.get(ONWARD)
            if not way.flows:
                return 0  # DNS has to be asked
            flow = way.flows.pop(0)
        if ONWARD in ctx.cache:
            flow = onward(ctx.cache[ONWARD], flow)
        self.requests.build(block or ctx, request, branch, edits, flow)
        return 0

    # ---- ACK, CANCEL
    def _relay_ack(self, ctx: RouteContext, request: Request, hop: Flow | Way | None) -> Process[int] | int:
        """Forward the ACK to a 2xx: it is a transaction of its own and has no answer (section 16.11)."""
        if self.on_ack:
            self._tell_of_ack(ctx, request)
        listener = ctx.force_listener or ctx.flow.listener
        routes = split_quoted(ctx.path, ",") if ctx.path else []
        flow = hop or self.hops.next_hop(ctx.dst_uri, routes, request, ctx.edits, ctx.ruri, listener, ctx.now)
        if isinstance(flow, int):
            return flow
        if isinstance(flow, Way):
            if not flow.flows:
                self.failover.find_for_ack(flow, ctx, request)
                return 1
            flow = flow.flows[0]
        return self.send_ack(ctx, request, flow)

    def send_ack(self, ctx: RouteContext, request: Request, flow: Flow) -> Process[int] | int:
        """Send an ACK over ``flow``."""
        if ONWARD in ctx.cache:
            flow = onward(ctx.cache[ONWARD], flow)
        path, branch = [ctx.path] if ctx.path else [], self._services.ids.branch()
        data = self.requests.data(ctx, request, ctx.edits, ctx.ruri, branch, flow.listener, path)
        other = self._services.instead_of_udp(flow, len(data)) if self._udp.mtu else None
        if other is not None:
            flow = other
            data = self.requests.data(ctx, request, ctx.edits, ctx.ruri, branch, flow.listener, path)
        if self._services.routes.defines(_ONSEND, self._services.callbacks.onsend, ctx.shared.version):
            return self._send_ack_with_block(ctx, data, flow)
        self._services.outbox.send(data, flow)
        return 1

    def _tell_of_ack(self, ctx: RouteContext, request: Request) -> None:
        invite = self._layer.server_of(request) or self._layer.by_alias(dialog_key(request))
        if request.method == "ACK" and isinstance(invite, Transaction):
            for call in self.on_ack:
                call(ctx, invite)

    def _send_ack_with_block(self, ctx: RouteContext, data: bytes, flow: Flow) -> Process[int]:
        if not (yield from self.requests.may_send(ctx, None, data)):
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
                done = self._relay_ack(ctx, request, None)
                return done if isinstance(done, int) else (yield from done)
            return E_UNSPEC
        t = self.open(ctx)
        if t is None:
            return 1
        if not invite.is_answered:
            invite.canceled = True
            if any(branch.is_pending for branch in invite.branches):
                self._replier.reply(t, 200, "canceling", ctx.now, headers=ctx.reply_headers)
                if invite.suspended is not None:
                    self._layer.close(invite.suspended)
                    invite.suspended = None
                passes_reason = self._params.e2e_cancel_reason and not invite.no_e2e_cancel_reason
                self._replier.cancel_branches(invite, ctx.now, request.get("reason") or "" if passes_reason else "")
                yield from self._responses.conclude(invite, ctx.now)
                return 1
            self._replier.reply(invite, 487, "Request canceled", ctx.now)  # nobody is called; it may be suspended
        self._replier.reply(t, 200, "ok -- no more pending branches", ctx.now, headers=ctx.reply_headers)
        return 1

    def invite_of(self, request: Request) -> Transaction | None:
        """Return the INVITE transaction that a CANCEL is about (section 9.2)."""
        invite = self._layer.server_of(request, "INVITE")
        return invite if isinstance(invite, Transaction) else None


def _is_unusable(uri: str) -> bool:
    try:
        return parse_uri(uri).scheme not in ("sip", "sips")
    except ParseError:
        return True
