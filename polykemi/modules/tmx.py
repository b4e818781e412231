"""tmx: more of transactions: kinds of routes, suspended processing, cancelling (Kamailio's module tmx)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.modules.tm_fork import MAX_BRANCHES
from polykemi.sip.message import Request
from polykemi.transaction.forking import Branch, Transaction
from polykemi.transaction.target import Target

if TYPE_CHECKING:
    from polykemi.modules.tm import Tm

CONTINUE: Final = "tm:continue"  # evname of what t_continue runs: Kamailio takes that for a failure route


class Tmx(Module):
    """Extensions to tm."""

    name = "tmx"
    requires = ("tm",)

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)  # mypyc runs one that is inherited twice, and keeps what the first has set

    def start(self, now: float) -> None:
        """Find tm, without which there is nothing here to do."""
        self.tm: Tm = self.services.modules["tm"]
        self._suspended: dict[tuple[int, int], Transaction] = {}

    # ---- which route block runs
    @export(constant=True)
    def t_is_request_route(self, ctx: RouteContext) -> int:
        """Tell whether this is request_route: 1 or -1; what t_continue runs is none."""
        return 1 if ctx.kind is Route.REQUEST and ctx.event != CONTINUE else -1

    @export(constant=True)
    def t_is_reply_route(self, ctx: RouteContext) -> int:
        """Tell whether this is reply_route or an onreply route: 1 or -1."""
        return 1 if ctx.kind in (Route.REPLY, Route.ONREPLY) else -1

    @export(constant=True)
    def t_is_failure_route(self, ctx: RouteContext) -> int:
        """Tell whether this is a failure route or what t_continue runs: 1 or -1."""
        return 1 if ctx.kind is Route.FAILURE or ctx.event == CONTINUE else -1

    @export(constant=True)
    def t_is_branch_route(self, ctx: RouteContext) -> int:
        """Tell whether this is a branch route: 1 or -1."""
        return 1 if ctx.kind is Route.BRANCH else -1

    # ---- transactions
    @export(routes=Route.REQUEST)
    def t_precheck_trans(self, ctx: RouteContext) -> int:
        """Tell whether this request is being processed already, in another run of the route: 1, -1, or -2 for a CANCEL."""
        request = ctx.message
        if not isinstance(request, Request) or request.method == "CANCEL":
            return -2
        found = self.tm.layer.server_of(request)
        return 1 if found is not None and found is not ctx.transaction and request.method != "ACK" else -1

    @export()
    def t_flush_flags(self, ctx: RouteContext) -> int:
        """Bring the message flags into the transaction, which shares them already: 1, or -1 without a transaction."""
        if ctx.transaction is None:
            return -1
        ctx.transaction.shared.flags = ctx.shared.flags
        return 1

    @export()
    def t_flush_xflags(self, ctx: RouteContext) -> int:
        """Bring the extended flags into the transaction, which shares them already: 1, or -1 without a transaction."""
        if ctx.transaction is None:
            return -1
        ctx.transaction.shared.xflags = ctx.shared.xflags
        return 1

    # ---- another call
    def _invite_with(self, callid: str, cseq: str) -> Transaction | None:
        """Return the INVITE transaction of a call that is still being set up."""
        for t in self.tm.layer.server_transactions():
            if isinstance(t, Transaction) and t.method == "INVITE" and not t.is_answered:
                request = t.request
                if request.call_id == callid and str(request.cseq[0]) == cseq:
                    return t
        return None

    @export()
    def t_cancel_callid(self, ctx: RouteContext, callid: str, cseq: str, flag: int) -> int:
        """Cancel the branches of the INVITE with this Call-ID and CSeq number; its message ``flag`` is set. Answers 1 or -1."""
        return self.t_cancel_callid_reason(ctx, callid, cseq, flag, 0)

    @export()
    def t_cancel_callid_reason(self, ctx: RouteContext, callid: str, cseq: str, flag: int, reason: int) -> int:
        """Cancel like ``t_cancel_callid``, with ``reason`` (a SIP status, 0 for none) in the Reason of the CANCELs."""
        t = self._invite_with(callid, cseq)
        if t is None or not 0 <= flag <= 31:
            return -1
        t.shared.flags |= 1 << flag
        self.tm.replier.cancel_branches(t, ctx.now, f"SIP;cause={reason}" if reason else "")
        return 1

    @export()
    def t_reply_callid(self, ctx: RouteContext, callid: str, cseq: str, code: int, reason: str) -> int:
        """Reply to the INVITE with this Call-ID and CSeq number: 1, or -1 when there is none that waits for an answer."""
        t = self._invite_with(callid, cseq)
        if t is None or not 100 <= code <= 699 or "\n" in reason or "\r" in reason:
            return -1
        return 1 if self.tm.replier.reply(t, code, reason, ctx.now, headers=t.reply_headers) else -1

    @export()
    def t_uac_ack_local(self, ctx: RouteContext, callid: str, cseq: str, hdrs: str, body: str) -> int:
        """Send the ACK to the 2xx of an INVITE of ours (``tm.t_set_no_auto_ack``), with more headers and a body.

        Answers 0, -1 when there is no transaction with this Call-ID and CSeq number, -2 when it does not wait for an ACK.
        """
        client = self.tm.local.waiting(callid, cseq)
        if client is not None:
            lines = [line for line in hdrs.split("\r\n") if line]
            return 0 if self.tm.local.acknowledge(client, lines, body.encode("latin-1"), ctx.now) else -1
        return -2 if self.tm.local.knows(callid, cseq) or self._invite_with(callid, cseq) is not None else -1

    @export()
    def t_drop(self, ctx: RouteContext) -> int:
        """End the transaction without a response. Answers 0, or -1 without a transaction."""
        return self.t_drop_rcode(ctx, 500)

    @export()
    def t_drop_rcode(self, ctx: RouteContext, rcode: int) -> int:
        """End the transaction as if ``rcode`` had been sent, without sending it. Answers 0, or -1 without a transaction."""
        t = ctx.transaction
        if t is None:
            return -1
        if not t.is_answered:
            self.tm.replier.drop(t, rcode, ctx.now)
        return 0

    # ---- branches
    @export(routes=Route.REQUEST | Route.REPLY | Route.ONREPLY | Route.FAILURE)
    def t_cancel_branches(self, ctx: RouteContext, which: str) -> int:
        """Cancel pending branches: ``all``, ``others`` (than that of this reply) or ``this``.

        Answers 1, or -1 when there is none.
        """
        t, which = ctx.transaction, which.lower()
        if t is None or which not in ("all", "others", "this"):
            return -1
        own = ctx.branch if isinstance(ctx.branch, Branch) else None
        if which == "this":
            if own is None or not own.is_pending:
                return -1
            self.tm.replier.cancel(own, ctx.now)
            return 1
        return 1 if self.tm.replier.cancel_branches(t, ctx.now, keep=own if which == "others" else None) else -1

    @export(routes=Route.BRANCH_FAILURE)
    def t_reuse_branch(self, ctx: RouteContext) -> int:
        """Take Request-URI, destination and path of the failed branch as this block's: 1, or -1 without one."""
        branch = ctx.branch
        if not isinstance(branch, Branch):
            return -1
        ctx.ruri, ctx.dst_uri, ctx.path, ctx.bflags = branch.uri, branch.dst_uri, branch.path, branch.bflags
        ctx.instance, ctx.ruid = branch.instance, branch.ruid
        ctx.cache.pop("tm.consumed", None)
        return 1

    # ---- suspended processing
    @export(routes=Route.REQUEST | Route.FAILURE)
    def t_suspend(self, ctx: RouteContext) -> int:
        """Keep the transaction open until ``t_continue`` or fr_timer; $T(id_index) and $T(id_label) name it.

        An INVITE is answered with 100 as by t_relay. Answers 1, or -1 when there cannot be a transaction and when the one
        that there is has ended: it was answered, canceled, or has lived as long as it may.
        """
        t = ctx.transaction
        if t is None:
            if self.tm.t_newtran(ctx) < 1:
                return -1
            t = ctx.transaction
        assert t is not None
        if t.is_answered or t.canceled or (t.expires and ctx.now >= t.expires) or len(t.branches) >= MAX_BRANCHES:
            return -1
        if t.suspended is not None:
            return 1
        self.tm.relayer.answer_100(ctx, t)
        t.suspended = Branch(t, self.services.ids.branch(), "INVITE", t.flow, t.timings, Target(ctx.ruri))
        t.suspended.expires = t.expires
        t.suspended.arm(t)
        self.tm.relayer.remember(ctx, t)
        self.tm.layer.wait(t.suspended, ctx.now)
        self._suspended[t.id_index, t.label] = t
        if len(self._suspended) % 1024 == 0:  # those that ended otherwise
            self._suspended = {k: v for k, v in self._suspended.items() if v.suspended is not None}
        return 1

    @export()
    def t_continue(self, ctx: RouteContext, tindex: int, tlabel: int, cbname: str) -> Process[int]:
        """Go on with a suspended transaction: ``cbname`` runs on its request, with the event name tm:continue. Answers 1, or -1 when it is not waiting."""
        t = self._suspended.pop((tindex, tlabel), None)
        if t is None or t.suspended is None:
            return -1
        self.tm.layer.close(t.suspended)
        t.suspended = None
        block = RouteContext(Route.REQUEST, cbname, t.request, t.source, ctx.now)
        block.event = CONTINUE
        block.ruri, block.dst_uri, block.path, block.bflags = t.ruri, t.dst_uri, t.path, t.bflags
        block.force_listener, block.force_rport = t.force_listener, t.force_rport
        if t.edits is not None:
            block.edits = t.edits
        block.reply_headers, block.shared, block.transaction = t.reply_headers, t.shared, t
        yield block
        if block.error is not None:
            self.tm.fail(block, 500, "Server Internal Error")
        self.tm.finish(block, ctx.now)
        return 1
