"""tm: the functions that tell what came back from the branches."""

from __future__ import annotations

import logging
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module
from polykemi.modules.tm_fork import drop_replies
from polykemi.sip.message import Response
from polykemi.transaction.forking import Branch

log = logging.getLogger("polykemi.script")

_REPLIED: Final = Route.FAILURE | Route.BRANCH_FAILURE | Route.ONREPLY


class TmStatus(Module):
    """What a script asks about replies."""

    # ---- what came back
    @export()
    def t_check_status(self, ctx: RouteContext, pattern: str) -> int:
        """Compare the status of the reply (failure route: the best one) with a regular expression: 1 or -1."""
        status = self._status(ctx)
        try:
            return 1 if status and compile_posix(pattern).matches(str(status)) else -1
        except BadPattern as error:
            log.error("tm.t_check_status: %s", error)
            return -1

    @export()
    def t_get_status_code(self, ctx: RouteContext) -> int:
        """Return the status of the reply (failure route: of the best one, else the last one sent), -1 without any."""
        return self._status(ctx) or -1

    def _status(self, ctx: RouteContext) -> int:
        if ctx.reply_status:
            return ctx.reply_status
        if isinstance(ctx.message, Response):
            return ctx.message.status
        return ctx.transaction.status if ctx.transaction is not None else 0

    @export()
    def t_grep_status(self, ctx: RouteContext, code: int) -> int:
        """Tell whether a branch has ended with ``code``: 1 or -1; the reply that is being processed does not count."""
        t = ctx.transaction
        return 1 if t is not None and any(b.status == code and b.replied for b in t.branches) else -1

    @export()
    def t_get_branch_index(self, ctx: RouteContext) -> int:
        """Return the index of the branch that the route block is about, -1 without one.

        In request and failure routes it is that of the branch that would be added next.
        """
        if ctx.kind is Route.REQUEST:
            return len(ctx.branches)
        if ctx.transaction is None:
            return -1
        return ctx.branch_index + len(ctx.branches) if ctx.kind is Route.FAILURE else ctx.branch_index

    @export()
    def t_any_replied(self, ctx: RouteContext) -> int:
        """Tell whether any branch has answered before the reply that is being processed: 1 or -1."""
        t = ctx.transaction
        return 1 if t is not None and any(branch.replied for branch in t.branches) else -1

    @export()
    def t_any_timeout(self, ctx: RouteContext) -> int:
        """Tell whether any branch timed out: 1 or -1."""
        t = ctx.transaction
        return 1 if t is not None and any(branch.timed_out for branch in t.branches) else -1

    @export(routes=_REPLIED)
    def t_branch_replied(self, ctx: RouteContext) -> int:
        """Tell whether the branch of this block (failure route: the best one) has answered before: 1 or -1."""
        return 1 if isinstance(ctx.branch, Branch) and ctx.branch.replied else -1

    @export(routes=_REPLIED)
    def t_branch_timeout(self, ctx: RouteContext) -> int:
        """Tell whether the branch of this block (failure route: the best one) timed out: 1 or -1."""
        return 1 if isinstance(ctx.branch, Branch) and ctx.branch.timed_out else -1

    @export()
    def t_drop_replies(self, ctx: RouteContext, mode: str) -> int:
        """Forget replies, so that none of them is sent upstream: ``l`` those of the last t_relay, else all.

        With ``n`` none is forgotten, whatever failure_reply_mode says. Answers 1; it acts in failure routes alone.
        """
        if ctx.kind is not Route.FAILURE:
            return 1
        if mode[:1] == "n":
            ctx.cache["tm.keep_replies"] = True
        elif ctx.transaction is not None:
            drop_replies(ctx.transaction, mode[:1])
        return 1

    @export()
    def t_drop_replies_all(self, ctx: RouteContext) -> int:
        """Forget all replies that came so far. Answers 1."""
        return self.t_drop_replies(ctx, "a")

    @export(routes=Route.ONREPLY)
    def t_is_retr_async_reply(self, ctx: RouteContext) -> int:
        """Tell whether the transaction of this reply is suspended (``tmx.t_suspend``): 1 or -1."""
        t = ctx.transaction
        return 1 if t is not None and t.suspended is not None else -1

    @export()
    def t_use_uac_headers(self, ctx: RouteContext) -> int:
        """Make CANCEL and ACK of From and To as they were sent, not as they came. Answers 1: that is always done."""
        return 1

    @export()
    def t_save_lumps(self, ctx: RouteContext) -> int:
        """Let failure routes start from the message as it is changed now: 1, or -1 without a transaction."""
        if ctx.kind is not Route.REQUEST:
            return 1
        if ctx.transaction is None:
            return -1
        ctx.transaction.edits = ctx.edits.copy()
        return 1
