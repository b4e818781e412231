"""Where the replies to a request go, and what they say of its source (RFC 3261 section 18.2, RFC 3581)."""

from __future__ import annotations

from collections.abc import Iterable

from polykemi.errors import ParseError
from polykemi.sip.constants import PORT, TLS_PORT
from polykemi.sip.flow import SECURE, Flow, Listener, listener_for
from polykemi.sip.grammar import canonical_host, ip4_octets, is_host, to_ip, to_port
from polykemi.sip.header import Via
from polykemi.sip.message import Request, Response


def reply_path(request: Request, flow: Flow, force_rport: bool = False) -> tuple[str, int, Flow]:
    """Return the ``received`` and ``rport`` of the top Via ("" and 0: not to be added) and where replies go.

    ``flow`` is where the request came from; ``force_rport`` lets replies go there also when its Via does not ask for
    it. The same two values go into the forwarded request. Raise ParseError for a missing or malformed Via.
    """
    via = request.via
    params = via.params
    is_plain = params[:7] == "branch=" and ";" not in params  # nothing else to look for
    source = flow.host
    if not is_plain and via.param("rport") == "":
        return source, flow.port, flow  # RFC 3581 section 4: received comes with rport, also when it says nothing new
    sent_by = via.host
    if sent_by[:1] == "[":
        sent_by = canonical_host(sent_by)
    received = source if sent_by != source or (not is_plain and via.param("received") is not None) else ""
    if force_rport:
        return received, flow.port, flow
    if flow.listener.proto != "udp":
        return received, 0, flow  # the connection that the request came on
    port = via.port or 5060
    maddr = None if is_plain else via.param("maddr")
    if maddr and _is_multicast(maddr):
        return received, 0, Flow(flow.listener, maddr, port)
    return received, 0, flow if port == flow.port else Flow(flow.listener, source, port)


def response_target(response: Response, listener: Listener, others: Iterable[Listener] = ()) -> Flow | None:
    """Return where a response goes by its second Via, sent from ``listener``; None when there is no usable second Via.

    Where that Via names another transport or address family, the first of ``others`` that has it takes the place of
    ``listener``. A response never goes to many: not to broadcast and multicast addresses (RFC 4475 section 3.3.13).
    Its ``received`` and ``rport`` are what the proxy or we wrote there (RFC 3261 section 18.2.2, RFC 3581 section 4).
    """
    vias = response.list("via")
    if len(vias) < 2:
        return None
    try:
        via = Via(vias[1])
    except ParseError:
        return None
    host = (via.param("received") or via.host).strip("[]")
    if (not is_host(host) and ":" not in host) or is_for_many(host):
        return None
    port = max(0, to_port(via.param("rport") or "")) or via.port
    proto = via.transport.lower()
    if not port and to_ip(host) is not None:
        port = TLS_PORT if proto in SECURE else PORT  # of a name DNS says it (RFC 3263 section 5)
    return Flow(listener_for(proto, host, listener, others) or listener, host, port)


def is_for_many(host: str) -> bool:
    """Tell whether ``host`` is a multicast or broadcast address, or the one that means every address (0.0.0.0, ::)."""
    address = to_ip(host)
    if address is None:
        return False
    if address.version == 6:
        address = address.ipv4_mapped or address
    return address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255"


def _is_multicast(address: str) -> bool:
    """Tell whether ``address`` is an IPv4 multicast address: to any other one maddr would aim replies at strangers."""
    return 224 <= (ip4_octets(address) or [0])[0] <= 239
