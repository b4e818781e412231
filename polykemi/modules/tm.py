"""tm: stateful processing (RFC 3261 sections 16, 17; Kamailio's module tm).

``tm_relay`` sends downstream what ``tm_request`` makes, ``tm_responses`` takes what comes back, ``tm_reply`` sends upstream;
here are the hooks for the router and the functions of KSR that relay and reply (the others: ``tm_settings``, ``tm_status``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.tm_commands import TmCommands
from polykemi.modules.tm_fork import E_UNSPEC
from polykemi.modules.tm_hops import E_BAD_URI, Hops, destination_of
from polykemi.modules.tm_local import LOCAL_REQUEST, LocalRequest, Locals, OnEnd, of_headers
from polykemi.modules.tm_relay import Relayer
from polykemi.modules.tm_reply import Replier, TmParams, reply_of
from polykemi.modules.tm_responses import Responses
from polykemi.modules.tm_settings import TmSettings
from polykemi.pv.classes.factories import uri_or_none
from polykemi.sip.flow import Flow, TokenFlow, parse_socket
from polykemi.sip.grammar import to_ip
from polykemi.sip.message import Request, Response
from polykemi.sip.uri import parse_uri
from polykemi.transaction.forking import Transaction
from polykemi.transaction.layer import TransactionLayer, dialog_key, method_and_branch
from polykemi.transaction.machine import ClientTransaction, Timings

log = logging.getLogger("polykemi.tm")

_E_SCRIPT: Final = -10
_OVERDUE: Final = 90  # seconds


class Tm(TmSettings):
    """Transactions: stateful forwarding and replies."""

    name = "tm"
    Params = TmParams
    events: ClassVar[Mapping[str, str]] = {
        LOCAL_REQUEST: "before a request of our own leaves; the message is that request, what is changed is sent"
    }

    def __init__(self, services: Services, params: TmParams | None = None) -> None:
        super().__init__(services, params)
        p = self.params
        self.layer = TransactionLayer(services.outbox.send, _timings(p))
        self.replier = Replier(services, self.layer, p)
        services.figures["tmx.active_transactions"] = self.active
        services.figures["tmx.inuse_transactions"] = self._in_use
        hops = Hops(services)
        self.local = Locals(self.replier, hops)
        self.responses = Responses(self.replier, self.local)
        self.relayer = Relayer(self.replier, self.responses, hops)
        self.responses.failover = self.relayer.failover
        self._now = 0.0

    def params_changed(self) -> None:
        """Use the new timers for transactions that come."""
        self.layer.use(_timings(self.params))
        self.relayer.timings.forget()

    def commands(self) -> tuple[object, ...]:
        """Return the commands tm.*."""
        return (TmCommands(self),)

    # ---- the router's side
    def absorb(self, request: Request, flow: Flow, now: float) -> bool:
        """Take a retransmission or the ACK to a non-2xx; False for all that the script is to see. Raise ParseError."""
        self._now = now
        return self.layer.absorb(request, now)

    def client_of(self, response: Response) -> ClientTransaction | None:
        """Return the client transaction of ``response``. Raise ParseError, also when it could not be forwarded."""
        _ = response.content_length
        return self.layer.client_of(response)

    def handle_response(
        self, branch: ClientTransaction, response: Response, ctx: RouteContext, now: float
    ) -> Iterable[RouteContext]:
        """Take a response after the core's reply route, which ran on ``ctx``; return the route blocks to be run, in order."""
        self._now = now
        try:
            blocks = self.responses.handle(branch, response, ctx, now)
        except Exception:
            self.responses.give_up(branch, now)
            raise
        return self.responses.guarded(blocks, branch, now) if blocks else blocks

    def next_timeout(self) -> float | None:
        """Return when ``handle_timer`` wants to be called next."""
        return self.layer.next_timeout()

    def handle_timer(self, now: float) -> Process[None] | None:
        """Run the timers that are due; a Process when a branch timed out and route blocks may have to run."""
        self._now = now
        client = self.layer.run_timers(now)
        return None if client is None else self._timeouts(client, now)

    def _timeouts(self, client: ClientTransaction | None, now: float) -> Process[None]:
        while client is not None:
            yield from self.responses.guarded(self.responses.failed(client, 408, now), client, now)
            client = self.layer.run_timers(now)

    def transport_error(self, flow: Flow, data: bytes, now: float | None = None) -> Process[None] | None:
        """Take the news that ``data`` could not be sent: its branch has failed with 503 (RFC 3261 section 17.1.4).

        Of a request the beginning is enough: an error of ICMP quotes no more. With 430 where a flow token has named the flow
        (RFC 5626 section 5.3.1).
        """
        now = self._now if now is None else now
        method, branch = method_and_branch(data)
        client = self.layer.client_of_request(branch, method) if branch else None
        if client is None or not self.layer.transport_error(client, now):
            return None
        failed = self.responses.failed(client, 430 if isinstance(flow, TokenFlow) else 503, now)
        return self.responses.guarded(failed, client, now)

    def lost(self, flow: Flow, now: float) -> Process[None] | None:
        """Take the news that the connection of ``flow`` has ended: what waits for an answer over it has failed.

        With 503, or 430 as in ``transport_error``.
        """
        self._now = now
        clients = self.layer.lost(flow, now)
        return self._lost(clients, now) if clients else None

    def _lost(self, clients: list[ClientTransaction], now: float) -> Process[None]:
        for client in clients:
            failed = self.responses.failed(client, 430 if isinstance(client.flow, TokenFlow) else 503, now)
            yield from self.responses.guarded(failed, client, now)

    def finish(self, ctx: RouteContext, now: float) -> None:
        """End a request route: answer what t_relay failed to forward, forget what the script left without an answer."""
        t = ctx.transaction
        if t is None or t.is_answered or t.is_waiting:
            return
        if t.error is not None and not ctx.replied:
            self.replier.reply(t, *t.error, now, headers=ctx.reply_headers)
        else:
            self.replier.close(t)

    def fail(self, ctx: RouteContext, code: int, reason: str) -> None:
        """Answer for a script that failed, unless the request was answered or is on its way downstream."""
        t = ctx.transaction
        if t is not None and not ctx.replied and not any(branch.is_pending for branch in t.branches):
            self.replier.reply(t, code, reason, ctx.now, headers=ctx.reply_headers)

    def reply(self, ctx: RouteContext, code: int, reason: str) -> int:
        """Reply through the transaction of ``ctx`` (sl.send_reply): 1, or -1."""
        return reply_of(self.replier, ctx, code, reason)

    def active(self) -> int:
        """Return how many transactions have no final response yet."""
        return self.replier.active

    def _in_use(self) -> int:
        return self.layer.sizes()[0]

    # ---- requests of our own
    def request(self, request: LocalRequest, now: float, on_end: OnEnd | None = None) -> int:
        """Send a request of our own; ``on_end`` is called once, with the final response or what stands for it.

        Answers 1 when it was sent or is to be sent when the event route has seen it; -7 or -400 when it has no next hop
        (then ``on_end`` is not called).
        """
        sending = self.local.send(request, now, on_end)
        try:
            block = next(sending)
        except StopIteration as done:
            sent: int = done.value
            return sent
        self.services.work.append(_resumed(block, sending))
        return 1

    def request_at_once(self, request: LocalRequest, now: float, on_end: OnEnd | None = None) -> Process[int]:
        """Do as ``request`` from a Process, which runs the event route before it goes on; 0 when that dropped the request."""
        return self.local.send(request, now, on_end)

    @export()
    def t_uac_send(
        self, ctx: RouteContext, method: str, ruri: str, nexthop: str, ssock: str, hdrs: str, body: str
    ) -> Process[int]:
        """Send a request of our own; ``hdrs`` have From, To and perhaps Call-ID and CSeq; "" or "." for no nexthop or socket.

        In the other headers ``!!`` stands for our host and port. Answers 1, or -1 when it cannot be sent.
        """
        next_hop, socket = ("" if text == "." else text for text in (nexthop, ssock))
        listener = next((x for x in self.services.listeners if socket in ("", str(x), str(x).partition(":")[2])), None)
        if listener is None:
            log.error("t_uac_send: %r is no socket of ours", socket)
            return -1
        try:
            parse_uri(ruri)
            if next_hop:
                parse_uri(next_hop)
            request = of_headers(method, ruri, next_hop, hdrs, body, listener)
        except ParseError as error:
            log.error("t_uac_send: %s", error.reason)
            return -1
        if socket:
            request.listener = listener
        sent = yield from self.local.send(request, ctx.now, None)
        return 1 if sent >= 0 else -1

    @export()
    def t_clean(self, ctx: RouteContext) -> int:
        """End transactions that should have ended 90 seconds ago at the latest. Answers 1."""
        self.end_overdue(ctx.now)
        return 1

    def end_overdue(self, now: float) -> None:
        """End transactions that should have ended 90 seconds ago at the latest."""
        for t in self.layer.server_transactions():
            if isinstance(t, Transaction) and t.expires and now > t.expires + _OVERDUE:
                log.warning("a transaction of %s lasted too long", t.method)
                self.close(t)

    def close(self, t: Transaction) -> None:
        """Forget a transaction and its branches at once."""
        self.replier.close(t)

    # ---- relaying
    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE)
    def t_relay(self, ctx: RouteContext) -> Process[int]:
        """Forward the request statefully to its destination set.

        Answers 1, 0 for a retransmission, else why nothing was sent: -1, -6 (dropped by the script), -7 (no listener for
        the transport), -400 (bad URI), -477 (on the blocklist), -478 (a name that leads nowhere). 1 also while DNS is
        asked: a branch whose name leads nowhere fails with 478 then. A request that cannot be sent is answered when the route ends,
        or by the script after ``t_set_disable_internal_reply``: -4.
        """
        done = self.relayer.relay(ctx)
        return done if isinstance(done, int) else (yield from done)

    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE)
    def t_relay_to_proto(self, ctx: RouteContext, proto: str) -> Process[int]:
        """Forward like ``t_relay``, over ``proto`` (udp, tcp, ...) whatever the URI says."""
        done = self._relay_over(ctx, proto)
        return done if isinstance(done, int) else (yield from done)

    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE)
    def t_relay_to_proto_addr(self, ctx: RouteContext, proto: str, host: str, port: int) -> Process[int]:
        """Forward like ``t_relay``, over ``proto`` to ``host``:``port``."""
        done = self._relay_to(ctx, proto, host, port)
        return done if isinstance(done, int) else (yield from done)

    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE)
    def t_relay_to_proxy(self, ctx: RouteContext, proxy: str) -> Process[int]:
        """Forward like ``t_relay``, to ``proxy`` (``[proto:]host[:port]``)."""
        proto, host, port = parse_socket(proxy)
        done = self._relay_to(ctx, proto, host, port)
        return done if isinstance(done, int) else (yield from done)

    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE)
    def t_relay_to_proxy_flags(self, ctx: RouteContext, proxy: str, flags: int) -> Process[int]:
        """Forward like ``t_relay_to_proxy`` with the flags of ``t_relay_to_flags``."""
        self._relay_flags(ctx, flags)
        proto, host, port = parse_socket(proxy)
        done = self._relay_to(ctx, proto, host, port)
        return done if isinstance(done, int) else (yield from done)

    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE)
    def t_relay_to_flags(self, ctx: RouteContext, flags: int) -> Process[int]:
        """Forward like ``t_relay``; flags: 1 no 100 for INVITE, 2 no answer of our own when nothing could be sent."""
        self._relay_flags(ctx, flags)
        done = self.relayer.relay(ctx)
        return done if isinstance(done, int) else (yield from done)

    @export(routes=Route.REQUEST)
    def t_replicate(self, ctx: RouteContext, uri: str) -> Process[int]:
        """Send a copy of the request to ``uri``; what comes back is dropped. Answers like ``t_relay``, -1 for no URI."""
        if uri_or_none(uri) is None:
            return E_UNSPEC
        hop = self.relayer.hops.hop(uri, ctx.force_listener or ctx.flow.listener, ctx.now)
        if isinstance(hop, int):
            return hop
        done = self.relayer.relay(ctx, hop, replicate=True)
        return done if isinstance(done, int) else (yield from done)

    def _relay_flags(self, ctx: RouteContext, flags: int) -> None:
        if flags & 1:
            self.settings_of(ctx).auto_inv_100 = 0
        if flags & 2:
            ctx.cache["tm.no_internal_reply"] = True

    def _relay_over(self, ctx: RouteContext, proto: str) -> Process[int] | int:
        if len(proto) != 3:  # as in Kamailio it is not looked at then
            return self.relayer.relay(ctx)
        if proto.lower() not in ("udp", "tcp", "tls"):
            return E_UNSPEC
        try:
            uri = parse_uri(ctx.dst_uri or ctx.ruri)
        except ParseError:
            return E_BAD_URI
        if uri.scheme not in ("sip", "sips"):
            return E_BAD_URI
        destination = destination_of(uri)
        port = destination.port if to_ip(destination.host) is None else uri.effective_port
        return self._relay_to(ctx, proto.lower(), destination.host, port)

    def _relay_to(self, ctx: RouteContext, proto: str, host: str, port: int) -> Process[int] | int:
        if not host:
            return E_UNSPEC
        listener = ctx.force_listener or ctx.flow.listener
        hop = self.relayer.hops.hop_to(proto, host, port, listener, ctx.now)
        return hop if isinstance(hop, int) else self.relayer.relay(ctx, hop)

    # ---- the transaction
    @export(routes=Route.REQUEST)
    def t_newtran(self, ctx: RouteContext) -> int:
        """Make the transaction of the request. Answers 1, 0 for a retransmission, -10 when there is one already."""
        if ctx.transaction is not None:
            return _E_SCRIPT
        if not isinstance(ctx.message, Request) or ctx.message.method == "ACK":
            return E_UNSPEC
        return 0 if self.relayer.open(ctx) is None else 1

    @export()
    def t_check_trans(self, ctx: RouteContext) -> int:
        """Look for the transaction of the message.

        A request: 0 when its transaction exists (nothing more is to be done), 1 for an ACK to a relayed 2xx, else -1; a
        CANCEL: 1 when its INVITE is here, else -1; a reply: 1 or -1; in route blocks of a transaction 1.
        """
        message = ctx.message
        if ctx.kind is not Route.REQUEST and ctx.kind is not Route.REPLY:
            return 1 if ctx.transaction is not None else -1
        if isinstance(message, Response):
            return 1 if self.layer.client_of(message) is not None else -1
        assert isinstance(message, Request)
        if message.method == "CANCEL":
            return self.t_lookup_cancel(ctx)
        if message.method == "ACK":
            return 1 if self._invite_of_ack(message) is not None else -1
        return 0 if self.layer.server_of(message) is not None else -1

    def _invite_of_ack(self, ack: Request) -> Transaction | None:
        """Return the accepted INVITE that an ACK to its 2xx belongs to: by branch, or by dialog and CSeq."""
        found = self.layer.server_of(ack) or self.layer.by_alias(dialog_key(ack))
        return found if isinstance(found, Transaction) else None

    @export(routes=Route.REQUEST | Route.FAILURE)
    def t_lookup_request(self, ctx: RouteContext) -> int:
        """Tell whether the transaction of the request exists: 1 or -1."""
        return 1 if self.layer.server_of(ctx.request) is not None else -1

    @export(routes=Route.REQUEST)
    def t_lookup_cancel(self, ctx: RouteContext) -> int:
        """Tell whether the INVITE of this CANCEL is here: 1 or -1."""
        request = ctx.message
        if not isinstance(request, Request) or request.method != "CANCEL":
            return -1
        return 1 if self.relayer.invite_of(request) is not None else -1

    @export(routes=Route.REQUEST)
    def t_lookup_cancel_flags(self, ctx: RouteContext, flags: int) -> int:
        """Look like ``t_lookup_cancel``; flag 1: message flags and $avp of the INVITE are seen by the CANCEL."""
        request = ctx.message
        if not isinstance(request, Request) or request.method != "CANCEL":
            return -1
        invite = self.relayer.invite_of(request)
        if invite is None:
            return -1
        if flags & 1:
            ctx.shared.flags = invite.shared.flags
        return 1

    @export()
    def t_exists(self, ctx: RouteContext) -> int:
        """Tell whether the message has a transaction: 1 or -1."""
        return 1 if ctx.transaction is not None else -1

    @export(routes=Route.REQUEST)
    def t_retransmit_reply(self, ctx: RouteContext) -> int:
        """Send the last response of the transaction again: 1, or -1 when there is none."""
        t = ctx.transaction
        if t is None or not t.data:
            return -1
        self.services.outbox.send(t.data, t.flow)
        return 1

    @export(routes=Route.REQUEST)
    def t_release(self, ctx: RouteContext) -> int:
        """Say that the script is done with the transaction. Answers 1: the end of the route does what there is to do."""
        return 1

    @export()
    def t_is_canceled(self, ctx: RouteContext) -> int:
        """Tell whether a CANCEL came for the transaction: 1 or -1."""
        return 1 if ctx.transaction is not None and ctx.transaction.canceled else -1

    @export()
    def t_is_expired(self, ctx: RouteContext) -> int:
        """Tell whether the transaction has lived as long as it may: 1 or -1."""
        t = ctx.transaction
        return 1 if t is not None and t.expires and ctx.now >= t.expires else -1

    # ---- replies
    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE | Route.BRANCH)
    def t_reply(self, ctx: RouteContext, code: int, reason: str) -> int:
        """Reply through the transaction: 1, or -1 without one and when a final response was sent."""
        return self.reply(ctx, code, reason)

    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE | Route.BRANCH)
    def t_send_reply(self, ctx: RouteContext, code: int, reason: str) -> int:
        """Reply through the transaction, which is made when there is none yet: 1 or -1."""
        if ctx.transaction is None and ctx.kind is Route.REQUEST and self.t_newtran(ctx) < 1:
            return -1
        return self.reply(ctx, code, reason)

    @export(routes=Route.REQUEST | Route.FAILURE | Route.BRANCH_FAILURE | Route.BRANCH)
    def t_reply_error(self, ctx: RouteContext) -> int:
        """Reply through the transaction with what went wrong last, else with ``default_code``: 1 or -1."""
        error: tuple[int, str] = ctx.cache.get("reply_error") or (self.params.default_code, self.params.default_reason)
        return self.reply(ctx, *error)


def _resumed(block: RouteContext, process: Process[int]) -> Process[None]:
    """Return ``process``, which has yielded ``block`` already, from there on."""
    yield block
    yield from process


__all__ = ["Tm", "TmParams"]


def _timings(p: TmParams) -> Timings:
    return Timings(
        t1=p.retr_timer1 / 1000,
        t2=p.retr_timer2 / 1000,
        t4=p.wt_timer / 1000,
        fr=p.fr_timer / 1000,
        fr_inv=p.fr_inv_timer / 1000,
    )
