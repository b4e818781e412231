"""tm: a request as it goes downstream (RFC 3261 section 16.6), and the onsend route that may keep it back. Part of tm."""

from __future__ import annotations

from typing import Final

from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.base import Services
from polykemi.modules.local_via import VIA, LocalVia
from polykemi.modules.tm_hops import Hops
from polykemi.sip.build import forward_request
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Edits, Request
from polykemi.sip.reply_path import reply_path
from polykemi.transaction.forking import Branch, Transaction

_ONSEND: Final = Route.ONSEND  # a member of an enumeration takes a Python call to find


class Requests:
    """Makes what is sent to the next hop."""

    def __init__(self, services: Services, hops: Hops) -> None:
        self._services = services
        self._udp = services.udp
        self._hops = hops

    def build(self, ctx: RouteContext, request: Request, branch: Branch, edits: Edits, flow: Flow) -> None:
        """Make what is sent over ``flow``. Raise ParseError for a request that cannot be copied."""
        branch.flow = flow
        came_in, goes_out = ctx.flow.listener, flow.listener
        added = edits
        if goes_out is not came_in and goes_out != came_in and "rr" in self._services.modules:
            added = self._services.modules["rr"].doubled(edits, ctx.shared, came_in, goes_out)
        path = [branch.path] if branch.path else []  # one Route line, as the Path was written
        branch.data = self.data(ctx, request, added, branch.uri, branch.key, goes_out, path)
        if self._udp.mtu:
            other = self._services.instead_of_udp(flow, len(branch.data))
            if other is not None:
                self.build(ctx, request, branch, edits, other)

    def data(
        self,
        ctx: RouteContext,
        request: Request,
        edits: Edits,
        uri: str,
        branch: str,
        listener: Listener,
        routes: list[str],
    ) -> bytes:
        """Build the request as it goes downstream (section 16.6)."""
        if not request.has("max-forwards") and not any(_is_max_forwards(text) for _, text in edits.inserts):
            edits = edits.copy()
            edits.inserts.append((len(request.lines), "Max-Forwards: 70"))
        t = ctx.transaction
        if t is not None:
            received, rport = t.received, t.rport
        else:
            received, rport, _ = reply_path(request, ctx.flow, ctx.force_rport)
        wish: LocalVia | None = ctx.cache.get(VIA)
        if wish is None:
            via = self._hops.via(listener) + branch.partition(" ")[0]
        else:
            via = wish.value(ctx, listener, branch.partition(" ")[0])
        return forward_request(request, edits, uri=uri, via=via, received=received, rport=rport, routes=routes)

    def may_send(self, ctx: RouteContext, t: Transaction | None, branch: Branch | bytes) -> Process[bool]:
        """Run the onsend route; False when it dropped the message."""
        if not self._services.routes.defines(_ONSEND, self._services.callbacks.onsend, ctx.shared.version):
            return True
        onsend = RouteContext(
            _ONSEND, self._services.callbacks.onsend, ctx.message if t is None else t.request, ctx.flow, ctx.now
        )
        onsend.shared, onsend.transaction = ctx.shared, t
        if isinstance(branch, Branch):
            onsend.wire, onsend.branch, onsend.branch_index = branch.data, branch, branch.index
            onsend.destination = branch.flow
            onsend.ruri, onsend.dst_uri = branch.uri, branch.dst_uri
        else:
            onsend.wire, onsend.ruri, onsend.dst_uri = branch, ctx.ruri, ctx.dst_uri
        yield onsend
        return not onsend.dropped


def _is_max_forwards(text: str) -> bool:
    return text[:13].lower() == "max-forwards:"
