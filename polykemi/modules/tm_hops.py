"""tm: where a request goes, from which listener, and the Via that it gets (RFC 3261 section 16.6 steps 6 to 8)."""

from __future__ import annotations

import logging
from typing import Final

from polykemi.errors import ParseError
from polykemi.modules.base import Services
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.message import Edits, Request
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.tm")

# what t_relay answers (Kamailio: core/error.h) when there is no next hop
E_NO_SOCKET: Final = -7  # no listener of the transport that the URI asks for
E_BAD_URI: Final = -400

_MAX_HOPS: Final = 4096  # next hops kept for each listener


class Hops:
    """Finds next hops; what it found it keeps, for phones are called again."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._hops: dict[Listener, dict[str, Flow]] = {}  # by listener and URI
        self._vias: dict[Listener, str] = {}

    def via(self, listener: Listener) -> str:
        """Return the value of our Via but for the branch itself, which goes behind it."""
        via = self._vias.get(listener)
        if via is None:
            via = self._vias[listener] = f"SIP/2.0/{listener.proto.upper()} {listener.sent_by};branch="
        return via

    def next_hop(
        self, dst_uri: str, routes: list[str], request: Request, edits: Edits, uri: str, listener: Listener
    ) -> Flow | int:
        """Return where a request goes: $du, else the first Route, else the Request-URI; or why it cannot."""
        if dst_uri:
            return self.hop(dst_uri, listener)
        try:
            if routes:
                return self.hop(parse_name_addr(routes[0]).uri, listener)
            if request.has("route"):
                top = _top_route(request, edits)
                if top:
                    route = parse_uri(top)
                    if not self._services.is_myself(route.host, route.effective_port):
                        return self.hop(top, listener)
        except ParseError:
            return E_BAD_URI
        return self.hop(uri, listener)

    def hop(self, text: str, listener: Listener) -> Flow | int:
        """Return the flow to the URI ``text``; host names are the transport's to resolve."""
        hops = self._hops.get(listener)
        if hops is None:
            hops = self._hops[listener] = {}
        known = hops.get(text)
        if known is not None:
            return known
        try:
            uri = parse_uri(text)
        except ParseError:
            return E_BAD_URI
        if uri.scheme not in ("sip", "sips"):
            return E_BAD_URI
        flow = self.hop_to(uri.proto, uri.param("maddr") or uri.host, uri.effective_port, listener)
        if not isinstance(flow, int) and len(text) <= 256:
            if len(hops) >= _MAX_HOPS:  # URIs come from the network
                hops.clear()
            hops[text] = flow
        return flow

    def hop_to(self, proto: str, host: str, port: int, listener: Listener) -> Flow | int:
        """Return the flow to ``host:port``, from ``listener`` or another one of that transport."""
        own = self._services.listener_of(proto, host, listener)
        if own is None:
            log.warning("t_relay: no listener for %s, wanted for %s:%d", proto, host, port)
            return E_NO_SOCKET
        return Flow(own, host.strip("[]"), port)


def _top_route(request: Request, edits: Edits) -> str:
    """Return the URI of the topmost Route after the edits, "" when none is left or it is a strict router's."""
    removed = edits.removed
    if request.shape.first["route"] in removed and "route" not in request.shape.repeated:
        return ""  # there was one, and it named us
    for i in request.indexes("route"):
        if i in removed:
            continue
        line = edits.replaced.get(i)
        value = request.value(i) if line is None else line.partition(":")[2].strip(" \t")
        top = parse_name_addr(split_quoted(value, ",")[0]).uri
        return top if parse_uri(top).is_loose else ""
    return ""
