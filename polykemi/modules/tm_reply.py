"""tm: what goes upstream (replies of our own, forwarded ones) and the CANCELs that follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from polykemi.errors import ParseError
from polykemi.kemi.registry import RouteContext
from polykemi.live import live
from polykemi.modules.base import Services
from polykemi.sip.build import forward_response, response
from polykemi.sip.constants import REASONS
from polykemi.sip.message import Edits, Request, Response
from polykemi.transaction.forking import Branch, Transaction
from polykemi.transaction.layer import TransactionLayer, dialog_key
from polykemi.transaction.machine import ClientTransaction
from polykemi.transaction.tables import ACCEPTED, CALLING, PROCEEDING

if TYPE_CHECKING:
    from polykemi.modules.tm_failover import Failover


@dataclass(frozen=True, slots=True)
class TmParams:
    """The parameters of tm. Times are milliseconds; names and defaults are Kamailio's."""

    fr_timer: int = live(30000, "no response (non-INVITE: no final response) after this time: 408")
    fr_inv_timer: int = live(120000, "no final response to an INVITE this time after a provisional one: 408")
    max_inv_lifetime: int = live(180000, "an INVITE transaction ends after this time, whatever comes; 0: no limit")
    max_noninv_lifetime: int = live(32000, "the same for other transactions")
    wt_timer: int = live(5000, "T4: how long what has ended waits for what the network still holds")
    restart_fr_on_each_reply: int = live(
        1, "0: of provisional responses only a higher one of 180 and above starts fr_inv_timer anew"
    )
    retr_timer1: int = live(500, "T1: a request is sent again after this time, then after twice as much and so on")
    retr_timer2: int = live(4000, "T2: the longest of these intervals")
    auto_inv_100: int = live(1, "answer INVITE with 100 when it is relayed")
    auto_inv_100_reason: str = live("Trying", "the reason of this 100")
    aggregate_challenges: int = live(1, "put the challenges of all 401 and 407 into the one that goes upstream")
    cancel_b_method: int = live(
        1, "cancelling a branch without a response: 0 give it up, 1 wait for one, 2 send CANCEL anyway"
    )
    unmatched_cancel: int = live(0, "a CANCEL without INVITE: 0 relay it with a transaction, 1 without one, 2 drop it")
    default_code: int = live(500, "the status of t_reply_error, and when nothing better is known")
    default_reason: str = live("Server Internal Error", "its reason")
    disable_6xx_block: int = live(0, "1: a 6xx response is one like all others")
    failure_reply_mode: int = live(
        3, "replies forgotten when a failure route relays: 0 none, 2 of the last t_relay, 1 and 3 all"
    )
    local_cancel_reason: int = live(1, "our CANCELs say why (RFC 3326)")
    e2e_cancel_reason: int = live(1, "the Reason of a received CANCEL goes along")
    remap_503_500: int = live(1, "a 503 goes upstream as 500 (RFC 3261 section 16.7 step 6)")
    relay_100: int = live(0, "1: a 100 of a branch goes upstream")
    blst_503: int = live(0, "1: who answers 503 is put on the blocklist ([dns] use_dst_blocklist), by its Retry-After")
    blst_503_def_timeout: int = live(0, "without one for so many seconds; 0: not at all")
    blst_503_min_timeout: int = live(0, "for so many seconds at least")
    blst_503_max_timeout: int = live(3600, "for so many seconds at most")
    event_callback: str = ""  # the script's function for the events of tm, "" for none
    loop_detection: int = live(
        1, "a forked request that comes back the same way is answered 482 (RFC 5393; not in Kamailio)"
    )
    max_breadth: int = live(
        60,
        "branches that a request without Max-Breadth may have in all servers at once (RFC 5393), else 440; forked requests "
        "carry their share. 0: Max-Breadth is not looked at (as Kamailio)",
    )
    contact_flows_avp: str = ""  # name of the XAVP that keeps more flows to one phone, "": all are called

    def __post_init__(self) -> None:
        for key in ("fr_timer", "fr_inv_timer", "wt_timer", "retr_timer1", "retr_timer2"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected milliseconds, 1 or more, got {getattr(self, key)}")
        for key in ("max_inv_lifetime", "max_noninv_lifetime", "max_breadth"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: expected 0 or more, got {getattr(self, key)}")
        for key, most in (("cancel_b_method", 2), ("unmatched_cancel", 2), ("failure_reply_mode", 3)):
            if not 0 <= getattr(self, key) <= most:
                raise ValueError(f"{key}: expected 0 to {most}, got {getattr(self, key)}")
        for key in ("relay_100", "auto_inv_100", "disable_6xx_block", "blst_503"):
            if getattr(self, key) not in (0, 1):
                raise ValueError(f"{key}: expected 0 or 1, got {getattr(self, key)}")
        if not 400 <= self.default_code <= 699:
            raise ValueError(f"default_code: expected 400 to 699, got {self.default_code}")
        for key in ("default_reason", "auto_inv_100_reason"):
            if "\r" in getattr(self, key) or "\n" in getattr(self, key):
                raise ValueError(f"{key}: expected one line, got {getattr(self, key)!r}")


COUNTERS: Final = (
    "tmx.2xx_transactions",
    "tmx.3xx_transactions",
    "tmx.4xx_transactions",
    "tmx.5xx_transactions",
    "tmx.6xx_transactions",
    "tmx.UAC_transactions",
    "tmx.UAS_transactions",
    "tmx.rpl_absorbed",
    "tmx.rpl_generated",
    "tmx.rpl_received",
    "tmx.rpl_relayed",
    "tmx.rpl_sent",
)


class Replier:
    """Sends responses through server transactions, and CANCELs to branches."""

    def __init__(self, services: Services, layer: TransactionLayer, params: TmParams) -> None:
        self.services = services
        self.layer = layer
        self.params = params
        self.failover: Failover  # makes itself known
        self.active = 0  # transactions without a final response
        self.counters = services.counters
        for name in COUNTERS:
            self.counters.setdefault(name, 0)

    # ---- upstream
    def reply(
        self,
        t: Transaction,
        code: int,
        reason: str,
        now: float,
        *,
        headers: Iterable[str] = (),
        body: bytes = b"",
    ) -> bool:
        """Answer the request of ``t`` ourselves; False when a final response went out before."""
        if t.status >= 200:
            return False
        request = t.request
        data = response(
            request,
            code,
            reason,
            to_tag="" if code == 100 else self.services.ids.stateless_tag(request),
            received=t.received,
            rport=t.rport,
            headers=headers,
            body=body,
            server=self.services.server_header,
        )
        self.counters["tmx.rpl_generated"] += 1
        return self.send(t, code, data, now)

    def send(self, t: Transaction, status: int, data: bytes, now: float, reply: Response | None = None) -> bool:
        """Send the response ``data`` upstream; a final one cancels what is still pending (RFC 3261 section 16.7 step 10)."""
        before = t.status
        if before >= 200 and not 200 <= status < 300:
            return False
        if before >= 300:
            if reply is None or t.method != "INVITE":
                return False
            self.services.outbox.send(data, t.flow)  # whatever went before it (RFC 3261 section 16.7 step 5)
            self.counters["tmx.rpl_sent"] += 1
            return True
        if not self.layer.respond(t, status, data, now):
            return False
        if reply is not None and t.state == ACCEPTED:
            t.data = b""  # the callee sends its 2xx again, not we (RFC 6026 section 7.1)
        self.counters["tmx.rpl_sent"] += 1
        if t.watchers:
            for watcher in t.watchers:
                watcher.replied(t, status, data, reply, now)
        if before >= 200:
            return True
        if status < 200:
            t.status = max(before, status)
            return True
        t.status = status
        if status < 300 and t.method == "INVITE":
            try:
                alias = dialog_key(t.request)
                self.layer.add_alias(t, alias)
                if reply is None:
                    self.layer.resend_2xx(t, alias, now)
            except ParseError:  # From and To are read by nobody else on this way
                pass
        self.active -= 1
        self.counters[COUNTERS[status // 100 - 2]] += 1
        if t.suspended is not None:
            self.layer.close(t.suspended)
            t.suspended = None
        if t.is_waiting:
            self.cancel_branches(t, now, self._reason(status))
        self.settle(t)
        return True

    def drop(self, t: Transaction, status: int, now: float) -> None:
        """End ``t`` as if ``status`` had been sent: nobody is told, retransmissions are absorbed."""
        for branch in t.branches:
            self.layer.close(branch)
            branch.status = branch.status or status
        if t.suspended is not None:
            self.layer.close(t.suspended)
            t.suspended = None
        t.branches = []
        self.layer.respond(t, max(status, 300), b"", now)
        t.status = max(status, 200)
        self.active -= 1
        t.let_go()

    def forward(self, t: Transaction, reply: Response, edits: Edits, now: float) -> bool:
        """Send ``reply`` of a branch upstream, without our Via and with what the routes changed."""
        if self.send(t, reply.status, forward_response(reply, edits), now, reply):
            self.counters["tmx.rpl_relayed"] += 1
            return True
        return False

    def forward_best(self, t: Transaction, now: float) -> None:
        """Send the best final response upstream; without one ``default_code``, for a canceled request 487."""
        best = t.best()
        if best is None:
            code, reason = t.error or (self.params.default_code, self.params.default_reason)
            self.reply(t, code, reason, now, headers=t.reply_headers)
        elif best.reply is None:
            status = 487 if t.canceled and best.status == 408 else best.status
            if status == 503 and self.params.remap_503_500:
                status = 500
            self.reply(t, status, REASONS.get(status, "Server Error"), now, headers=t.reply_headers)
        elif best.status == 503 and self.params.remap_503_500:
            self.reply(t, 500, REASONS[500], now, headers=t.reply_headers)
        else:
            edits = best.reply_edits or Edits()
            if best.status in (401, 407) and self.params.aggregate_challenges:
                more = t.challenges(best)
                if more:
                    edits = edits.copy()
                    edits.inserts += [(len(best.reply.lines), line) for line in more]
            self.forward(t, best.reply, edits, now)

    def close(self, t: Transaction) -> None:
        """Forget a transaction and its branches at once."""
        for branch in t.branches:
            self.layer.close(branch)
            branch.transaction = None
        if t.suspended is not None:
            self.layer.close(t.suspended)
            t.suspended = None
        self.layer.close(t)
        if not t.is_answered:
            self.active -= 1
        t.let_go()

    def settle(self, t: Transaction) -> None:
        """Let go of what an answered transaction with no branch pending holds."""
        if t.status >= 200 and not t.is_waiting:
            t.let_go()

    # ---- CANCEL
    def cancel_branches(self, t: Transaction, now: float, reason: str = "", keep: Branch | None = None) -> int:
        """Cancel the pending branches of ``t`` but ``keep``; return how many there were."""
        n = 0
        for branch in t.branches:
            if branch is not keep and branch.status < 200:
                self.cancel(branch, now, reason)
                n += 1
        return n

    def cancel(self, branch: Branch, now: float, reason: str = "") -> None:
        """Cancel one branch: at once when it has answered provisionally, else as cancel_b_method says (section 9.1)."""
        if not branch.data and branch.way is not None:
            self.failover.give_up(branch, now)
            return
        if branch.canceled or branch.method != "INVITE":
            return
        if branch.state == CALLING:
            if self.params.cancel_b_method == 1:
                branch.cancel_wanted = True
                branch.cancel_reason = reason
                return
            if self.params.cancel_b_method == 0:
                self.layer.close(branch)
                branch.status = 487
                return
        if branch.state not in (CALLING, PROCEEDING):
            return
        earlier = self.layer.client_of_request(branch.key, "CANCEL")
        if earlier is not None:  # sent before any response (cancel_b_method 2)
            self.layer.close(earlier)
        branch.canceled = True
        branch.cancel_wanted = branch.state == CALLING  # may be ignored: once more when something comes
        branch.cancel_reason = reason
        data = branch.make_cancel()
        if reason:
            data = data[:-2] + f"Reason: {reason}\r\n\r\n".encode("latin-1")
        cancel = ClientTransaction(branch.key, "CANCEL", branch.flow, branch.timings, data)
        self.layer.open_client(cancel, now)
        self.layer.canceled(branch, now)
        self.counters["tmx.UAC_transactions"] += 1

    def _reason(self, status: int) -> str:
        """Return the Reason of the CANCELs that a final response causes (RFC 3326)."""
        if not self.params.local_cancel_reason:
            return ""
        return 'SIP;cause=200;text="Call completed elsewhere"' if status == 200 else f"SIP;cause={status}"


def reply_of(replier: Replier, ctx: RouteContext, code: int, reason: str) -> int:
    """Reply through the transaction of ``ctx`` with the headers and the body that the script gave; 1, or -1."""
    t = ctx.transaction
    if t is None or not 100 <= code <= 699 or "\n" in reason or "\r" in reason:
        return -1
    if t.is_answered or not isinstance(t.request, Request):
        return -1
    headers = ctx.reply_headers or t.reply_headers
    if not replier.reply(t, code, reason, ctx.now, headers=headers, body=ctx.cache.get("reply_body", b"")):
        return -1
    if code >= 200:
        ctx.replied = True
    return 1
