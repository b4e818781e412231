"""tm: what comes back from the branches, up to the choice of the final response (RFC 3261 section 16.7)."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.tm_failover import Failover
from polykemi.modules.tm_local import LocalClient, Locals
from polykemi.modules.tm_reply import Replier
from polykemi.sip.flow import Flow
from polykemi.sip.message import Edits, Response
from polykemi.transaction.forking import Branch, Transaction
from polykemi.transaction.machine import ClientTransaction
from polykemi.transaction.tables import PROCEEDING

log = logging.getLogger("polykemi.tm")


class Responses:
    """The response context: takes responses, timeouts and transport errors of branches."""

    def __init__(self, replier: Replier, local: Locals) -> None:
        self._replier = replier
        self._local = local
        self._services = replier.services
        self._layer = replier.layer
        self._params = replier.params
        self._counters = replier.services.counters
        self.failover: Failover  # set by tm: it needs what relays, which needs this

    def handle(
        self, client: ClientTransaction, response: Response, ctx: RouteContext, now: float
    ) -> Iterable[RouteContext]:
        """Take ``response``; ``ctx`` is that of the core's reply route, with what it changed.

        Return the route blocks to be run, one after the other, mostly none.
        """
        counters = self._counters
        counters["tmx.rpl_received"] += 1
        restarts = (
            self._params.restart_fr_on_each_reply != 0
            or not isinstance(client, Branch)
            or client.status < response.status >= 180
        )
        if not self._layer.receive(client, response, now, restarts):
            counters["tmx.rpl_absorbed"] += 1
            return ()
        if response.status == 503 and self._params.blst_503:
            self.failover.block_503(client, response, now)
        if not isinstance(client, Branch):
            if isinstance(client, LocalClient):
                return self._local.handle(client, response, ctx.flow, now)
            return ()  # a response to our own CANCEL
        branch, t, status = client, client.transaction, response.status
        if t is None:
            return ()  # comes after all is decided
        pending = branch.status < 200
        if status == 503 and pending and branch.way is not None and self.failover.has_next(branch, now):
            return self._fail_over(branch, response, ctx, now)
        if status < 200 and pending:
            branch.status = status
            if branch.cancel_wanted:
                branch.canceled = False
                self._replier.cancel(branch, now, branch.cancel_reason)
            if branch.canceled:
                counters["tmx.rpl_absorbed"] += 1
                return ()  # nobody waits for it any more
        if status < 200 and branch.cancel_wanted:  # given up before it answered anything; it rings for nobody
            branch.canceled = False
            self._replier.cancel(branch, now, branch.cancel_reason)
            return ()
        return self._received(branch, t, response, ctx, now, pending=pending)

    def _fail_over(self, branch: Branch, response: Response, ctx: RouteContext, now: float) -> Process[None]:
        """Take a 503 of a server that is not the only one: it is news when no other one is left."""
        failed = yield from self.failover.go_on(branch, now)
        if failed is not None and failed.transaction is not None:
            yield from self._received(failed, failed.transaction, response, ctx, now, pending=True)

    def _received(
        self, branch: Branch, t: Transaction, response: Response, ctx: RouteContext, now: float, *, pending: bool
    ) -> Iterable[RouteContext]:
        if t.watchers:
            for watcher in t.watchers:
                watcher.received(t, response, ctx.edits, now)
        if branch.on_reply:
            return self._pass_through_route(branch, t, response, ctx, now, pending=pending)
        return self._pass(branch, t, response, ctx, now, pending=pending)

    def _pass_through_route(
        self, branch: Branch, t: Transaction, response: Response, ctx: RouteContext, now: float, *, pending: bool
    ) -> Process[None]:
        onreply = self._context(Route.ONREPLY, branch.on_reply, t, branch, response, ctx.flow, now)
        onreply.edits = ctx.edits
        yield onreply
        if onreply.message is not response:
            assert isinstance(onreply.message, Response)
            response = onreply.message
        ctx.edits = onreply.edits
        branch.bflags = onreply.bflags
        if onreply.dropped and response.status < 200:
            branch.replied = True
            self._services.count("core.drop_replies")
            return
        yield from self._pass(branch, t, response, ctx, now, pending=pending)

    def _pass(
        self, branch: Branch, t: Transaction, response: Response, ctx: RouteContext, now: float, *, pending: bool
    ) -> Iterable[RouteContext]:
        """Take the response that no route has dropped; ``pending``: the branch had no final one before."""
        status = response.status
        if status < 200:
            branch.replied = True  # for the next one's route blocks: the current reply does not count
            if pending and t.status < 200 and (status > 100 or self._params.relay_100):
                self._replier.forward(t, response, ctx.edits, now)
        elif status < 300:
            branch.replied = True
            branch.status = status
            first = t.status < 200
            self._replier.forward(t, response, ctx.edits, now)
            if not first:
                self._replier.settle(t)
        elif pending:
            edits = ctx.edits
            branch.status, branch.reply, branch.reply_edits = status, response, edits if edits else None
            if status >= 600 and self.is_refused(t):
                self._replier.cancel_branches(t, now, f"SIP;cause={status}")
            return self._failure(branch, t, ctx.flow, now)
        return ()

    def is_refused(self, t: Transaction) -> bool:
        """Whether a 6xx has come that speaks for all branches."""
        if t.disable_6xx or self._params.disable_6xx_block:
            return False
        return any(branch.status >= 600 and not branch.dropped for branch in t.branches)

    def _failure(self, branch: Branch, t: Transaction, flow: Flow, now: float) -> Process[None]:
        yield from self._ended(branch, t, flow, now)
        branch.replied = True

    def guarded(self, process: Iterable[RouteContext], client: ClientTransaction, now: float) -> Process[None]:
        """Run ``process``; a fault of our own in it ends the call of ``client`` with a 500, for nothing else would end it."""
        try:
            yield from process
        except Exception:
            self.give_up(client, now)
            raise

    def give_up(self, client: ClientTransaction, now: float) -> None:
        """End the transaction of a branch that we have failed on."""
        t = client.transaction if isinstance(client, Branch) else None
        if t is None or t.is_answered:
            return
        try:
            self._replier.reply(t, 500, "Server Internal Error", now)
        except Exception:
            log.exception("a transaction cannot be answered")
        if not t.is_answered:
            self._replier.close(t)

    def failed(self, client: ClientTransaction, status: int, now: float) -> Process[None]:
        """Take a timeout (408) or transport error (503) as if it were a final response (RFC 3261 section 16.8, 17.1.4).

        478 and its like: DNS knows no place to go to.
        """
        if self._services.blocklist.enabled:
            self.failover.block(client, status, now)
        if isinstance(client, LocalClient):
            if client.method == "INVITE":
                self._layer.close(client)
            yield from self._local.failed(client, status, now)
            return
        if not isinstance(client, Branch) or client.transaction is None or not client.is_pending:
            return
        branch, t = client, client.transaction
        if branch.way is not None and not branch.status and self.failover.has_next(branch, now):
            branch.cancel_wanted = branch.state == PROCEEDING
            other = yield from self.failover.go_on(branch, now)
            if other is None:
                return
            branch = other
        if t.suspended is branch:
            self._layer.close(branch)
            t.suspended = None
            t.branches.append(branch)
        branch.timed_out = status == 408
        has_answered, branch.status = branch.status > 0, status
        if branch.state == PROCEEDING:
            if has_answered:
                self._replier.cancel(branch, now)
            else:
                branch.cancel_wanted = True
                branch.cancel_reason = "SIP;cause=408" if self._params.local_cancel_reason else ""
        yield from self._ended(branch, t, t.source, now)

    def _ended(self, branch: Branch, t: Transaction, flow: Flow, now: float) -> Process[None]:
        """Go on when ``branch`` has its final response of 300 or above."""
        if branch.on_branch_failure and not t.is_answered:
            name, branch.on_branch_failure, t.on_branch_failure = branch.on_branch_failure, "", ""
            failure = self._context(Route.BRANCH_FAILURE, name, t, branch, t.request, flow, now)
            failure.reply = branch.reply
            yield failure
        yield from self.conclude(t, now)

    def conclude(self, t: Transaction, now: float) -> Process[None]:
        """When no branch is pending: run the failure route, and send the best response unless the script went on."""
        if t.is_answered:
            self._replier.settle(t)
            return
        if t.is_waiting:
            return
        best = t.best()
        if best is not None and best.reply is None and t.request.method == "BYE":
            self._services.call_is_over(t.request.call_id)
        if t.watchers and best is not None:
            for watcher in t.watchers:
                watcher.failed(t, best, now)
        if best is not None and best.on_failure:
            t.on_failure = ""  # a branch that the block makes has one only when the block sets it
            failure = self._context(Route.FAILURE, best.on_failure, t, best, t.request, t.source, now)
            failure.branch_index = len(t.branches)  # as Kamailio: $T_branch_idx is that of the branch to come
            failure.reply = best.reply
            yield failure
            if failure.error is not None and t.suspended is not None:  # nobody will go on with it
                self._layer.close(t.suspended)
                t.suspended = None
            if not t.needs_answer:
                return
        self._replier.forward_best(t, now)

    def _context(
        self, kind: Route, name: str, t: Transaction, branch: Branch, message: object, flow: Flow, now: float
    ) -> RouteContext:
        """Return the context of a block on a reply, or on the request as the request route left it."""
        ctx = RouteContext(kind, name, message, flow, now)  # type: ignore[arg-type]
        ctx.shared = t.shared
        ctx.transaction = t
        ctx.branch = branch
        ctx.branch_index = branch.index
        ctx.reply_status = branch.status
        ctx.bflags = branch.bflags
        ctx.ruid, ctx.instance = branch.ruid, branch.instance
        if kind is Route.ONREPLY:
            assert isinstance(message, Response)
            ctx.reply_status = message.status
            return ctx
        ctx.ruri = t.ruri
        ctx.cache["tm.consumed"] = (t.ruri, "")
        ctx.force_listener = t.force_listener
        ctx.force_rport = t.force_rport
        ctx.edits = t.edits.copy() if t.edits is not None else Edits()
        ctx.reply_headers = t.reply_headers.copy()
        return ctx
