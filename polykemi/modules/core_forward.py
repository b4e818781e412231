"""core: forwarding without a transaction (RFC 3261 section 16.11)."""

from __future__ import annotations

import logging

from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.local_via import ONWARD, wish_for
from polykemi.modules.tm_hops import Draws, Hops, Way
from polykemi.sip.build import forward_request
from polykemi.sip.flow import Flow, Listener, onward
from polykemi.sip.message import Request
from polykemi.sip.reply_path import reply_path
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.script")


class Forwarder:
    """Sends requests on statelessly."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._hops = Hops(services)

    def forward(self, ctx: RouteContext, to: str, *, as_client: bool = False, index: int = 0) -> Process[int]:
        """Forward statelessly to the URI ``to``; as a client without the Vias that came. ``index`` changes our branch."""
        request = ctx.message
        if not isinstance(request, Request):
            return -1
        parse_uri(to)
        branch, listener = self._services.ids.stateless_branch(request, index), ctx.force_listener or ctx.flow.listener

        def find(now: float) -> Flow | Way | int:
            # a retransmission, and the CANCEL, go where the request went: the same numbers are drawn (RFC 3261 section 16.11)
            return self._hops.hop(to, listener, now, Draws(branch).draw)

        def found(flows: list[Flow] | int, now: float) -> None:
            hop = find(now)
            if isinstance(hop, Way) and not isinstance(flows, int):  # otherwise for what does not hold for a second
                hop = (hop.flows or flows)[0]
            if isinstance(hop, Flow):
                self._services.work.append(_ended(self._forward_over(ctx, request, hop, branch, as_client)))
            else:
                log.error("forward: no way to %s", to)

        hop = find(ctx.now)
        if isinstance(hop, Way) and not hop.flows:
            self._hops.ask(hop, found)
            return 1
        if isinstance(hop, int):
            log.error("forward: no way to %s", to)
            return -1
        target = hop.flows[0] if isinstance(hop, Way) else hop
        return (yield from self._forward_over(ctx, request, target, branch, as_client))

    def _forward_over(
        self, ctx: RouteContext, request: Request, flow: Flow, branch: str, as_client: bool
    ) -> Process[int]:
        services = self._services
        received, rport, edits = "", 0, ctx.edits
        if as_client:
            edits = edits.copy()
            edits.removed.update(request.indexes("via"))
        else:
            received, rport, _ = reply_path(request, ctx.flow, ctx.force_rport)
        if ctx.flow.listener.proto != "udp" and not as_client:
            branch += f";i={services.connections.ident(ctx.flow):x}"  # the reply is to find back
        way: Flow | None = flow
        while way is not None:  # a second time when it is too long for UDP
            flow, via = way, _via(ctx, way.listener, branch)
            data = forward_request(request, edits, uri=ctx.ruri, via=via, received=received, rport=rport)
            way = services.instead_of_udp(flow, len(data))
        if ONWARD in ctx.cache:
            flow = onward(ctx.cache[ONWARD], flow)
        if services.routes.defines(Route.ONSEND, services.callbacks.onsend, ctx.shared.version):
            onsend = RouteContext(Route.ONSEND, services.callbacks.onsend, request, ctx.flow, ctx.now)
            onsend.ruri, onsend.dst_uri = ctx.ruri, ctx.dst_uri
            onsend.shared, onsend.wire, onsend.destination = ctx.shared, data, flow
            yield onsend
            if onsend.dropped:
                return -1
        services.outbox.send(data, flow)
        services.count("core.fwd_requests")
        return 1


def _via(ctx: RouteContext, listener: Listener, branch: str) -> str:
    """Return our Via, as the script wants it, with ``branch`` and the parameters behind it."""
    wish = wish_for(ctx)
    if wish is not None:
        return wish.value(ctx, listener, branch)
    return f"SIP/2.0/{listener.proto.upper()} {listener.sent_by};branch={branch}"


def _ended(process: Process[int]) -> Process[None]:
    """Run ``process``; nobody asks how it ended."""
    yield from process
