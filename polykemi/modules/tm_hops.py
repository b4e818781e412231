"""tm: where a request goes, from which listener, and the Via that it gets (RFC 3261 section 16.6 steps 6 to 8, RFC 3263)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.modules.base import Services
from polykemi.sip.constants import PORT
from polykemi.sip.flow import SECURE, Flow, Listener, NamedFlow
from polykemi.sip.grammar import to_ip
from polykemi.sip.header import parse_name_addr, split_quoted
from polykemi.sip.locate import Destination, Draw, Place, Usable, protos
from polykemi.sip.message import Edits, Request
from polykemi.sip.uri import Uri, parse_uri

log = logging.getLogger("polykemi.tm")

# what t_relay answers (Kamailio: core/error.h) when there is no next hop
E_NO_SOCKET: Final = -7  # no listener of the transport that the URI asks for
E_BAD_URI: Final = -400
E_SEND: Final = -477  # all places that it could go to are on the blocklist
E_BAD_ADDRESS: Final = -478  # a name that leads nowhere

_MAX_HOPS: Final = 4096  # next hops kept for each listener


class Way:
    """The next hop of one branch when its URI has a name: the flows that are left to be tried, none while DNS is asked.

    What is needed to build the request for the next flow is kept with it.
    """

    __slots__ = (
        "ctx",
        "data",
        "destination",
        "edits",
        "flows",
        "listener",
        "onward",
        "replicates",
        "request",
        "usable",
    )

    def __init__(self, destination: Destination, listener: Listener, usable: Usable) -> None:
        self.destination = destination
        self.listener = listener  # the one that is preferred
        self.usable = usable
        self.flows: list[Flow] = []
        self.ctx: Any = None  # the RouteContext that the request is built by
        self.request: Request | None = None
        self.edits: Edits | None = None
        self.onward: Any = None  # local_via.ONWARD
        self.replicates = False
        self.data = b""  # of a request of our own, as it was sent

    def copy(self) -> Way:
        """Return the same way for another branch."""
        out = Way(self.destination, self.listener, self.usable)
        out.flows = self.flows.copy()
        return out


class Draws:
    """Numbers that are the same each time for one ``seed``."""

    __slots__ = ("_random", "_seed")

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._random: Random | None = None

    def draw(self, n: int) -> int:
        """Return a number from 0 to n."""
        if self._random is None:
            self._random = Random(self._seed)
        return self._random.randint(0, n)


class Hops:
    """Finds next hops; what it found it keeps, for phones are called again."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._hops: dict[Listener, dict[str, Flow]] = {}  # by listener and URI
        self._names: dict[str, Destination] = {}  # by URI
        self._usable: dict[Listener, Usable] = {}
        self._vias: dict[Listener, str] = {}
        self.blocklist = services.blocklist

    def via(self, listener: Listener) -> str:
        """Return the value of our Via but for the branch itself, which goes behind it."""
        via = self._vias.get(listener)
        if via is None:
            via = self._vias[listener] = f"SIP/2.0/{listener.proto.upper()} {listener.sent_by};branch="
        return via

    def next_hop(
        self, dst_uri: str, routes: list[str], request: Request, edits: Edits, uri: str, listener: Listener, now: float
    ) -> Flow | Way | int:
        """Return where a request goes: $du, else the first Route, else the Request-URI; or why it cannot."""
        if dst_uri:
            return self.hop(dst_uri, listener, now)
        try:
            if routes:
                return self.hop(parse_name_addr(routes[0]).uri, listener, now)
            if request.has("route"):
                top = _top_route(request, edits)
                if top:
                    route = parse_uri(top)
                    if not self._services.is_myself(route.host, route.effective_port):
                        return self.hop(top, listener, now)
        except ParseError:
            return E_BAD_URI
        return self.hop(uri, listener, now)

    def hop(self, text: str, listener: Listener, now: float, draw: Draw | None = None) -> Flow | Way | int:
        """Return the flow to the URI ``text``, or the way to a name; a negative number says why there is none.

        ``draw``: where the numbers for weights come from, None: chance.
        """
        hops = self._hops.get(listener)
        if hops is None:
            hops = self._hops[listener] = {}
        known = hops.get(text)
        if known is not None:
            return E_SEND if self.blocklist.blocks(known, now) else known
        destination = self._names.get(text)
        if destination is None:
            try:
                uri = parse_uri(text)
            except ParseError:
                return E_BAD_URI
            if uri.scheme not in ("sip", "sips"):
                return E_BAD_URI
            destination = destination_of(uri)
            if to_ip(destination.host) is not None:
                flow = self.hop_to(uri.proto, destination.host, uri.effective_port, listener, now)
                if isinstance(flow, Flow) and len(text) <= 256:
                    if len(hops) >= _MAX_HOPS:  # URIs come from the network
                        hops.clear()
                    hops[text] = flow
                return flow
            if len(text) <= 256:
                if len(self._names) >= _MAX_HOPS:
                    self._names.clear()
                self._names[text] = destination
        return self.way_to(destination, listener, now, draw)

    def hop_to(self, proto: str, host: str, port: int, listener: Listener, now: float) -> Flow | Way | int:
        """Return the flow or the way to ``host:port``, from ``listener`` or another one of that transport; "" and 0: by default."""
        host = host.strip("[]")
        if to_ip(host) is None:
            return self.way_to(Destination(host.lower(), port, proto), listener, now)
        proto, port = proto or "udp", port or PORT
        own = self._services.listener_of(proto, host, listener)
        if own is None:
            log.warning("t_relay: no listener for %s, wanted for %s:%d", proto, host, port)
            return E_NO_SOCKET
        flow = Flow(own, host, port)
        return E_SEND if self.blocklist.blocks(flow, now) else flow

    # ---- names
    def way_to(
        self, destination: Destination, listener: Listener, now: float, draw: Draw | None = None
    ) -> Flow | Way | int:
        """Return the way to a name: just the flow when there is one only, no flows while DNS has to be asked."""
        usable = self._usable.get(listener)
        if usable is None:
            usable = self._usable[listener] = usable_of(self._services.listeners, listener)
        places = self._services.locator.locate(destination, usable, now, draw)
        if places is None and protos(destination, usable):
            return Way(destination, listener, usable)
        if not places and not protos(destination, usable):
            log.warning("t_relay: no listener for %s", destination.transport or "sips")
            return E_NO_SOCKET
        flows = self.flows_to(destination, places or [], listener, now)
        if isinstance(flows, int):
            return flows
        if len(flows) == 1:
            return flows[0]
        way = Way(destination, listener, usable)
        way.flows = flows if self._services.dns_failover else flows[:1]
        return way

    def flows_to(
        self, destination: Destination, places: list[Place], listener: Listener, now: float
    ) -> list[Flow] | int:
        """Return the flows to ``places`` but those on the blocklist; a negative number says why there is none."""
        if not places:
            return E_BAD_ADDRESS
        flows: list[Flow] = []
        for proto, host, port in places:
            own = self._services.listener_of(proto, host, listener)
            if own is not None:
                flow = Flow(own, host, port)
                if proto in SECURE:  # it has to be who the URI names, whatever DNS says (RFC 5922 section 4)
                    flow = NamedFlow.to(flow, destination.host)
                if not self.blocklist.blocks(flow, now):
                    flows.append(flow)
        return flows or E_SEND

    def ask(self, way: Way, answer: Callable[[list[Flow] | int, float], None]) -> None:
        """Ask DNS for ``way``; ``answer`` gets the flows, or why there are none, and the time."""

        def take(places: list[Place], now: float) -> None:
            answer(self.flows_to(way.destination, places, way.listener, now), now)

        self._services.locator.ask(way.destination, way.usable, take)


def destination_of(uri: Uri) -> Destination:
    """Return what a SIP URI says of where to go (RFC 3263 section 4: maddr is the target where it is there)."""
    host = (uri.param("maddr") or uri.host).strip("[]").lower()
    return Destination(host, uri.port, uri.transport, uri.scheme == "sips")


def usable_of(listeners: tuple[Listener, ...], preferred: Listener) -> Usable:
    """Return the transports and address families that we can send over; the family of ``preferred`` comes first."""
    found: dict[str, list[int]] = {}
    for listener in (preferred, *listeners):
        families = found.setdefault(listener.proto, [])
        family = 6 if ":" in listener.host else 4
        if family not in families:
            families.append(family)
    first = 6 if ":" in preferred.host else 4
    return {proto: tuple(sorted(families, key=lambda f: f != first)) for proto, families in found.items()}


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
