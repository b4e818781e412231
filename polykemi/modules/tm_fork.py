"""tm: one t_relay on its way: the destination set of a request, what becomes of it, and the context of its branch routes."""

from __future__ import annotations

from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.local_via import inherit
from polykemi.modules.tm_hops import E_BAD_URI, Way
from polykemi.sip.constants import REASONS
from polykemi.sip.flow import Flow
from polykemi.transaction.forking import Branch, Transaction
from polykemi.transaction.target import Target

# what t_relay answers when nothing could be sent (Kamailio: core/error.h)
E_UNSPEC: Final = -1
E_NOT_ANSWERED: Final = -4  # for any of these reasons, and t_set_disable_internal_reply leaves the answer to the script
E_CFG: Final = -6  # the branch routes dropped all branches
E_TOO_MANY_BRANCHES: Final = -12

MAX_BRANCHES: Final = 32  # of one transaction, as Kamailio's max_branches allows at most


class Fork:
    """One t_relay on its way: the transaction, its new destination set, and why the last branch could not be sent."""

    __slots__ = ("ctx", "error", "hop", "mark", "replicate", "shares", "start", "targets", "transaction")

    def __init__(
        self,
        ctx: RouteContext,
        transaction: Transaction,
        targets: list[Target],
        hop: Flow | Way | None,
        replicate: bool,
    ) -> None:
        self.ctx = ctx
        self.transaction = transaction
        self.targets = targets
        self.hop = hop
        self.replicate = replicate
        self.start = len(transaction.branches)
        self.error = E_UNSPEC
        self.mark = ""  # what its branches end with, see tm_loops
        self.shares: list[int] = []  # Max-Breadth of the branches that are still to be made

    def add(self, branch: Branch, error: int) -> None:
        """Take a branch that can be sent (``error`` is 0), or why it cannot."""
        if error:
            self.error = error
        else:
            self.transaction.branches.append(branch)

    def malformed(self, error: ParseError) -> int:
        """Take back what was made: the request cannot be copied, a header that nobody has looked at is malformed."""
        self.take_back()
        self.transaction.error = self.ctx.cache["reply_error"] = (error.status, error.reason)
        return E_BAD_URI

    def take_back(self) -> int:
        """Take back what was made: a block on its way has given the final reply, or something of ours went wrong."""
        del self.transaction.branches[self.start :]
        return E_UNSPEC

    def refused(self, status: int) -> int:
        """Let the request be answered with ``status`` when its route has ended; return what t_relay answers."""
        ctx, t = self.ctx, self.transaction
        if ctx.kind is Route.REQUEST and not t.no_internal_reply and "tm.no_internal_reply" not in ctx.cache:
            t.error = ctx.cache["reply_error"] = (status, REASONS[status])
        return E_NOT_ANSWERED if t.no_internal_reply and not self.replicate else E_UNSPEC


def branch_context(fork: Fork, name: str, target: Target, branch: Branch) -> RouteContext:
    """Return the context of the branch route ``name`` for one branch."""
    ctx, t = fork.ctx, fork.transaction
    block = RouteContext(Route.BRANCH, name, t.request, ctx.flow, ctx.now)
    block.ruri, block.dst_uri, block.path, block.bflags = target.uri, target.dst_uri, target.path, target.flags
    block.ruid, block.instance = target.ruid, target.instance
    block.force_listener, block.force_rport = target.listener or ctx.force_listener, ctx.force_rport
    block.edits = ctx.edits.copy()
    block.reply_headers = ctx.reply_headers
    block.shared, block.transaction, block.branch, block.branch_index = ctx.shared, t, branch, branch.index
    inherit(block, ctx)
    return block


def targets_of(ctx: RouteContext) -> list[Target]:
    """Return the destination set: the Request-URI unless it was forwarded to already, and the additional branches."""
    out = []
    if ctx.cache.get("tm.consumed") != (ctx.ruri, ctx.dst_uri):
        first = Target(ctx.ruri, ctx.dst_uri, path=ctx.path, flags=ctx.bflags, instance=ctx.instance, ruid=ctx.ruid)
        out.append(first)
    return out + ctx.branches


def drop_replies(t: Transaction, mode: str) -> None:
    """Take the responses that have come out of the choice of the best one: ``a`` all, ``l`` those of the last t_relay."""
    for branch in t.branches[t.new_branches if mode == "l" else 0 :]:
        if branch.status >= 200:
            branch.dropped = True
