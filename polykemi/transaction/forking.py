"""The response context of a proxied request: its server transaction, its branches, the best response (RFC 3261 section 16.7).

Kamailio calls it the T cell. ``modules/tm`` moves it; what is here is data and choice, without output.
"""

from __future__ import annotations

from typing import Any, Final

from polykemi.errors import NoRequest
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Edits, Request, Response, parse
from polykemi.transaction.machine import ClientTransaction, ServerTransaction, Timings
from polykemi.transaction.tables import ACCEPTED, PROCEEDING
from polykemi.transaction.target import Shared, Target

_PREFERRED_4XX: Final = frozenset((401, 407, 415, 420, 484))  # section 16.7 step 6: they tell how to go on
_LAST_4XX: Final = frozenset((408, 487))  # no answer, and one that we asked for: they tell least


_NONE: Final[list[Any]] = []  # what transactions hold that were let go: nobody adds to it
_GONE: Final = Shared()


class Branch(ClientTransaction):
    """One branch of a transaction: where the request went, and what came back."""

    __slots__ = (
        "bflags",
        "breadth",
        "cancel_reason",
        "cancel_wanted",
        "canceled",
        "dropped",
        "dst_uri",
        "index",
        "instance",
        "on_branch_failure",
        "on_failure",
        "on_reply",
        "path",
        "replied",
        "reply",
        "reply_edits",
        "ruid",
        "status",
        "timed_out",
        "transaction",
        "uri",
        "way",
    )

    def __init__(
        self, transaction: Transaction, branch: str, method: str, flow: Flow, timings: Timings, target: Target
    ) -> None:
        super().__init__(branch, method, flow, timings)
        self.transaction: Transaction | None = transaction  # None when the transaction has let it go
        self.index = len(transaction.branches)
        self.uri = target.uri
        self.dst_uri = target.dst_uri
        self.path = target.path
        self.bflags = target.flags
        self.ruid = target.ruid
        self.instance = target.instance
        self.on_reply = self.on_failure = self.on_branch_failure = ""  # as they were when the branch was made
        self.status = 0  # of the last response, of our own too (408, 503)
        self.reply: Response | None = None  # the final response of 300 and above, None for one of our own
        self.reply_edits: Edits | None = None  # what the routes changed in it
        self.replied = False  # anything came back before the reply that is being processed
        self.timed_out = False
        self.dropped = False  # t_drop_replies: its response is not to be chosen
        self.cancel_wanted = False  # a CANCEL goes out as soon as there is a provisional response (section 9.1)
        self.breadth = 0  # its share of Max-Breadth, 0 when it was not shared out (RFC 5393)
        self.cancel_reason = ""  # of that CANCEL
        self.canceled = False  # it went out
        self.way: Any = None  # modules/tm_hops.Way: what else may be tried, or what DNS is asked for

    def arm(self, transaction: Transaction) -> None:
        """Take the route blocks that are set for the transaction now; those of branches to come may be others."""
        self.on_reply = transaction.on_reply
        self.on_failure = transaction.on_failure
        self.on_branch_failure = transaction.on_branch_failure

    def again(self, branch: str, flow: Flow) -> Branch:
        """Return what takes the place of this branch, whose server has not answered: another client transaction."""
        t = self.transaction
        assert t is not None
        target = Target(
            self.uri, self.dst_uri, path=self.path, flags=self.bflags, instance=self.instance, ruid=self.ruid
        )
        other = Branch(t, branch, self.method, flow, self.timings, target)
        other.index, other.expires, other.way = self.index, self.expires, self.way
        other.on_reply, other.on_failure = self.on_reply, self.on_failure
        other.on_branch_failure = self.on_branch_failure
        t.branches[t.branches.index(self)] = other
        other.breadth = self.breadth
        self.way = None
        self.status = self.status if self.status >= 200 else 408
        return other

    @property
    def is_pending(self) -> bool:
        """Whether there is no final response yet."""
        return self.status < 200


class Transaction(ServerTransaction):
    """A server transaction with the branches that its request was forwarded to."""

    __slots__ = (
        "_request",
        "_version",
        "bflags",
        "branches",
        "canceled",
        "contacts",
        "created",
        "disable_6xx",
        "disable_failover",
        "dst_uri",
        "edits",
        "error",
        "force_listener",
        "force_rport",
        "label",
        "new_branches",
        "no_e2e_cancel_reason",
        "no_internal_reply",
        "on_branch",
        "on_branch_failure",
        "on_failure",
        "on_reply",
        "path",
        "raw",
        "received",
        "reply_headers",
        "rport",
        "ruri",
        "shared",
        "source",
        "status",
        "suspended",
        "watchers",
    )

    def __init__(
        self,
        key: str,
        request: Request,
        source: Flow,
        reply_path: tuple[str, int, Flow],
        timings: Timings,
        shared: Shared,
        now: float,
    ) -> None:
        self.received, self.rport, path = reply_path  # what the top Via of replies and forwarded requests gets
        super().__init__(key, request.method, path, timings)
        self._request: Request | None = request
        self._version: Any = None
        self.raw = request.raw
        self.source = source  # where the request came from
        self.shared = shared
        self.created = now
        self.label = 0  # $T(id_label)
        self.branches: list[Branch] = []
        self.new_branches = 0  # index of the first branch of the last t_relay
        self.status = 0  # of the last response sent upstream
        self.error: tuple[int, str] | None = None  # what to answer when the script does not
        self.canceled = False  # a CANCEL came
        self.suspended: Branch | None = None  # t_suspend: stands for the script that is to go on
        self.disable_6xx = False
        self.disable_failover = False  # the first place that a name leads to is the only one
        self.no_internal_reply = False
        self.no_e2e_cancel_reason = False  # the Reason of a received CANCEL stays here
        self.on_branch = ""  # callbacks of the armed route blocks
        self.on_failure = ""
        self.on_reply = ""
        self.on_branch_failure = ""
        self.contacts: list[list[Target]] = []  # t_load_contacts: groups for serial forking, the next one first
        self.reply_headers: list[str] = []
        self.watchers: list[Any] = _NONE  # modules/tm_watch.Watcher: who is told of what becomes of it
        # the request as the request route left it: what failure routes start from
        self.ruri = request.uri
        self.dst_uri = ""
        self.path = ""
        self.bflags = 0
        self.force_listener: Listener | None = None
        self.force_rport = False
        self.edits: Edits | None = None

    @property
    def request(self) -> Request:
        """The request; parsed again when it was let go. Raise NoRequest when nothing is left of it."""
        request = self._request
        if request is None:
            if not self.raw:
                raise NoRequest("the transaction has ended")
            message = parse(self.raw)
            assert isinstance(message, Request)
            request = message
        return request

    def renew(self, request: Request) -> None:
        """Take the request as a script has made it anew."""
        self._request, self.raw = request, request.raw

    @property
    def id_index(self) -> int:
        """A number that stays the same while the transaction lives: $T(id_index)."""
        return sum(map(ord, self.key)) % 65536

    @property
    def is_answered(self) -> bool:
        """Whether a final response went upstream."""
        return self.status >= 200

    @property
    def is_waiting(self) -> bool:
        """Whether a branch can still bring a final response."""
        for branch in self.branches:
            if branch.status < 200:
                return True
        return self.suspended is not None

    @property
    def needs_answer(self) -> bool:
        """Whether a final response has to be made of what came: none went upstream and no branch is pending."""
        return not self.is_answered and not self.is_waiting

    def best(self) -> Branch | None:
        """Return the branch with the best final response of 300 and above (section 16.7 step 6), None without any."""
        best: Branch | None = None
        for branch in self.branches:
            if branch.status < 300 or branch.dropped:
                continue
            if best is None or preference(branch.status) < preference(best.status):
                best = branch
        return best

    def challenges(self, best: Branch) -> list[str]:
        """Return the challenges of all 401 and 407 responses besides ``best`` as header lines (section 16.7 step 7)."""
        out: list[str] = []
        for branch in self.branches:
            reply = branch.reply
            if reply is not None and branch is not best and branch.status in (401, 407) and not branch.dropped:
                out += [f"WWW-Authenticate: {value}" for value in reply.all("www-authenticate")]
                out += [f"Proxy-Authenticate: {value}" for value in reply.all("proxy-authenticate")]
        return out

    @property
    def version(self) -> Any:
        """The version of the scripts that it began with."""
        return self._version if self.shared is _GONE else self.shared.version

    def let_go(self) -> None:
        """Drop all that is not needed to answer and pass on retransmissions, once answered and with no branch pending."""
        if self._request is None and not self.branches:  # let go before: what its onreply route needs stays
            return
        # no reference is left to go both ways: all is freed without a garbage collection
        branches, self.branches = self.branches, []
        accepted, watched = False, bool(self.watchers) and any(w.keeps_request for w in self.watchers)
        for branch in branches:
            branch.reply = branch.reply_edits = branch.way = None
            branch.uri = branch.dst_uri = branch.path = branch.ruid = branch.instance = ""
            if branch.state == ACCEPTED or branch.state == PROCEEDING:  # more 2xx may come, and run the onreply route
                accepted = accepted or watched or branch.on_reply != ""
            else:
                branch.transaction = None
        if not accepted:
            self.raw = b""
            self._version, self.shared = self.shared.version, _GONE
            self.source = self.flow
        self._request = self.edits = None
        self.contacts = self.reply_headers = _NONE
        self.ruri = self.dst_uri = self.path = ""


def preference(status: int) -> int:
    """Return the rank of a final response: 6xx first, then the lowest class; 503 last (section 16.7 step 6)."""
    if status >= 600:
        return 0
    if status == 503:
        return 9
    rank = status // 100 * 2 - 5  # 3xx: 1, 4xx: 3, 5xx: 5
    if status in _PREFERRED_4XX:
        return rank - 1
    return rank + 1 if status in _LAST_4XX else rank
