"""tm: what waits for DNS, and the next place when one does not answer (RFC 3263 section 4.3). Part of tm.

The failure is that of one server, not of the branch: the next one gets the request with another branch in our Via, and no
route block hears of it. Kamailio: use_dns_failover.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from polykemi.errors import ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.numbers import leading_number
from polykemi.modules.tm_hops import E_BAD_ADDRESS, Way
from polykemi.modules.tm_loops import mark_of
from polykemi.modules.tm_reply import Replier
from polykemi.sip.flow import Flow, onward
from polykemi.sip.message import Request, Response
from polykemi.transaction.blocklist import ERR_SEND, ERR_TIMEOUT, STATUS_503
from polykemi.transaction.forking import Branch
from polykemi.transaction.machine import ClientTransaction
from polykemi.transaction.tables import TERMINATED

if TYPE_CHECKING:
    from polykemi.modules.tm_relay import Relayer
    from polykemi.modules.tm_responses import Responses

log = logging.getLogger("polykemi.tm")


class Failover:
    """Goes on with branches whose next hop is a name."""

    def __init__(self, relayer: Relayer, replier: Replier, responses: Responses) -> None:
        self._relayer = relayer
        self._responses = responses
        self._replier = replier
        self._services = replier.services
        self._layer = replier.layer
        self._counters = replier.counters
        self._params = replier.params
        replier.failover = self

    # ---- the first place
    def find(self, branch: Branch) -> None:
        """Ask DNS where ``branch`` goes; it is sent when the answer is there."""
        way: Way = branch.way
        self._relayer.hops.ask(way, partial(self._found, branch))

    def _found(self, branch: Branch, flows: list[Flow] | int, now: float) -> None:
        self._services.work.append(self._responses.guarded(self._send_first(branch, flows, now), branch, now))

    def _send_first(self, branch: Branch, flows: list[Flow] | int, now: float) -> Process[None]:
        way: Way | None = branch.way
        if branch.status >= 200 or branch.cancel_wanted or branch.state == TERMINATED:
            return  # was canceled in the meantime
        if way is None or (branch.transaction is None and not way.replicates):
            return
        if self._is_decided(branch, way):
            return
        error = E_BAD_ADDRESS
        if isinstance(flows, int):
            error = flows
        else:
            way.flows = flows if self._services.dns_failover else flows[:1]
            while way.flows:
                if (yield from self._send(branch, way, way.flows.pop(0), now)):
                    return
        yield from self._responses.failed(branch, -error if error < -399 else 500, now)

    def _send(self, branch: Branch, way: Way, flow: Flow, now: float) -> Process[bool]:
        """Send ``branch`` over ``flow``; False when it cannot be, or the onsend route has dropped it."""
        ctx: RouteContext = way.ctx
        t = ctx.transaction
        assert t is not None
        assert way.request is not None
        assert way.edits is not None
        if way.onward is not None:
            flow = onward(way.onward, flow)
        try:
            self._relayer.requests.build(ctx, way.request, branch, way.edits, flow)
        except ParseError as error:
            log.warning("a request that cannot be copied: %s", error)
            return False
        wanted = yield from self._relayer.requests.may_send(ctx, t, branch)
        if branch.status >= 200 or self._is_decided(branch, way):
            return True  # the onsend route has answered
        if not wanted:
            return False
        if not way.flows:
            branch.way = None
        self._layer.open_client(branch, now)
        return True

    def _is_decided(self, branch: Branch, way: Way) -> bool:
        """Give up a branch that was not sent yet when its transaction was answered otherwise in the meantime."""
        t = way.ctx.transaction
        if way.replicates or not t.is_answered:
            return False
        branch.status = 487
        self._replier.settle(t)
        return True

    def give_up(self, branch: Branch, now: float) -> None:
        """End a branch that waits for DNS: it was canceled, and nothing was sent that a CANCEL could follow."""
        if not branch.cancel_wanted:
            branch.cancel_wanted = True
            self._services.work.append(self._responses.failed(branch, 487, now))

    def find_for_ack(self, way: Way, ctx: RouteContext, request: Request) -> None:
        """Ask DNS where an ACK goes, and send it then."""
        self._relayer.hops.ask(way, partial(self._found_for_ack, ctx, request))

    def _found_for_ack(self, ctx: RouteContext, request: Request, flows: list[Flow] | int, now: float) -> None:
        if isinstance(flows, int):
            log.info("an ACK that leads nowhere: %s", ctx.dst_uri or ctx.ruri)
        else:
            self._services.work.append(self._send_ack(ctx, request, flows[0]))

    def _send_ack(self, ctx: RouteContext, request: Request, flow: Flow) -> Process[None]:
        try:
            sent = self._relayer.send_ack(ctx, request, flow)
            if not isinstance(sent, int):
                yield from sent
        except ParseError as error:
            log.warning("an ACK that cannot be copied: %s", error)

    # ---- the next place
    def has_next(self, branch: Branch, now: float) -> bool:
        """Tell whether ``branch``, whose server has failed, may be tried elsewhere."""
        way: Way | None = branch.way
        t = branch.transaction
        if way is None or t is None or not way.flows or t.disable_failover:
            return False
        if t.canceled or t.is_answered or branch.cancel_wanted or branch.canceled:
            return False
        return not t.expires or now < t.expires

    def go_on(self, branch: Branch, now: float) -> Process[Branch | None]:
        """Send the request of ``branch`` to the next place that takes it, in a branch that stands in place of this one.

        The value is None then; without such a place it is the branch that has failed.
        """
        way: Way = branch.way
        while way.flows:
            flow = way.flows.pop(0)
            if self._relayer.hops.blocklist.blocks(flow, now):
                continue
            branch = branch.again(self._services.ids.branch() + mark_of(branch.key), flow)
            if (yield from self._send(branch, way, flow, now)):
                self._counters["tmx.UAC_transactions"] += 1
                return None
        return branch

    # ---- the blocklist
    def block(self, client: ClientTransaction, status: int, now: float) -> None:
        """Pass over the server of ``client`` for a while: it has not answered (408), or could not be reached (503)."""
        answered = client.status > 0 if isinstance(client, Branch) else getattr(client, "answered", False)
        if client.data and not answered and status in (408, 503):
            self._services.blocklist.add(client.flow, ERR_TIMEOUT if status == 408 else ERR_SEND, now)

    def block_503(self, client: ClientTransaction, response: Response, now: float) -> None:
        """Pass over the server of ``client``, which has answered 503, for as long as its Retry-After and the parameters say."""
        p = self._params
        asked = leading_number(response.get("retry-after") or "")
        seconds = p.blst_503_def_timeout
        if asked > 0:
            seconds = min(max(asked, p.blst_503_min_timeout), p.blst_503_max_timeout)
        if seconds:
            self._services.blocklist.add(client.flow, STATUS_503, now, seconds)
