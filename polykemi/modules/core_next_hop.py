"""The functions of KSR itself that tell where a message goes next. Part of core."""

from __future__ import annotations

from collections.abc import Callable

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module
from polykemi.pv.classes.factories import uri_or_none
from polykemi.pv.classes.message import reply_hop
from polykemi.pv.classes.uris import family_of


def _next_hop(ctx: RouteContext) -> tuple[str, str]:
    """Return the host and the transport: of the destination URI, else of the Request-URI; for replies of the second Via.

    The transport is "" where a URI names none, as Kamailio does not choose one here.
    """
    hop = reply_hop(ctx)
    if hop is not None:
        host, _, proto = hop
        return host, proto
    uri = uri_or_none(ctx.dst_uri or ctx.ruri)
    return ("", "") if uri is None else (uri.host, (uri.param("transport") or "").lower())


def _proto_test(name: str, *protos: str) -> Callable[[NextHop, RouteContext], bool]:
    def test(self: NextHop, ctx: RouteContext) -> bool:
        return _next_hop(ctx)[1] in protos

    test.__doc__ = (
        f"Tell whether the URI of the next hop names {' or '.join(protos).upper()}; of a reply, its second Via."
    )
    return export(name=f"to_{name}")(test)


class NextHop(Module):
    """Tests of the next hop."""

    to_UDP = _proto_test("UDP", "udp")  # noqa: N815
    to_TCP = _proto_test("TCP", "tcp")  # noqa: N815
    to_TLS = _proto_test("TLS", "tls")  # noqa: N815
    to_SCTP = _proto_test("SCTP", "sctp")  # noqa: N815
    to_WS = _proto_test("WS", "ws")  # noqa: N815
    to_WSS = _proto_test("WSS", "wss")  # noqa: N815
    to_WSX = _proto_test("WSX", "ws", "wss")  # noqa: N815

    @export()
    def to_IPv4(self, ctx: RouteContext) -> bool:  # noqa: N802
        """Tell whether the host of the next hop is an IPv4 address."""
        return family_of(_next_hop(ctx)[0]) == 4

    @export()
    def to_IPv6(self, ctx: RouteContext) -> bool:  # noqa: N802
        """Tell whether the host of the next hop is an IPv6 address."""
        return family_of(_next_hop(ctx)[0]) == 6
