"""tm: requests of our own (RFC 3261 section 8.1; Kamailio's t_uac): made, sent through a client transaction, and answered.

A module makes a ``LocalRequest``, gives it to ``Tm.request`` and is told of its end by a function of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.tm_hops import E_BAD_URI, Hops, Way
from polykemi.modules.tm_reply import Replier
from polykemi.sip.build import with_edits, with_via
from polykemi.sip.flow import Flow, Listener, bracketed
from polykemi.sip.header import canonical_names, is_header_lines, parse_name_addr, split_quoted
from polykemi.sip.message import Request, Response, join_folded, parse
from polykemi.sip.uri import parse_uri
from polykemi.transaction.machine import ClientTransaction, Timings

LOCAL_REQUEST: Final = "tm:local-request"
_MADE: Final = frozenset(("via", "from", "to", "cseq", "call-id", "max-forwards", "content-length"))
_MOST_ACKS: Final = 16  # of one INVITE of ours, whose 2xx come from so many forks
FIRST_CSEQ: Final = 10  # of a request outside of dialogs, as Kamailio counts


@dataclass(slots=True)
class LocalRequest:
    """A request that we send. What is "" is made or chosen when it is sent, and can be read here then."""

    method: str
    uri: str  # the Request-URI
    from_: str  # value of From: a URI or name-addr; gets a tag when it has none
    to: str  # value of To, with the tag of the peer inside of a dialog
    headers: list[str] = field(default_factory=list)  # further header lines, without CRLF
    body: bytes = b""
    dst_uri: str = ""  # where it goes; "": to the first of the routes, else to the Request-URI
    routes: list[str] = field(default_factory=list)  # Route values, in order
    call_id: str = ""
    cseq: int = FIRST_CSEQ
    listener: Listener | None = None  # where it leaves; None: the first listener of the transport
    auto_ack: bool = True  # an INVITE's 2xx is acknowledged by tm
    dropped: Callable[[], None] | None = None  # called when the event route drops it


@dataclass(frozen=True, slots=True)
class LocalReply:
    """How a local request ended: its final response, or without one 408 (timeout) and 503 (could not be sent)."""

    request: LocalRequest
    status: int
    reason: str
    response: Response | None
    flow: Flow  # where the response came from, else where the request went
    now: float  # seconds since the epoch


# what a module does at the end of its request; it may return route blocks to be run
OnEnd = Callable[[LocalReply], Iterable[RouteContext] | None]


class LocalClient(ClientTransaction):
    """The client transaction of a local request."""

    __slots__ = ("acks", "answered", "ended", "on_end", "request", "response", "way")

    def __init__(self, branch: str, request: LocalRequest, flow: Flow, timings: Timings, on_end: OnEnd | None) -> None:
        super().__init__(branch, request.method, flow, timings)
        self.request = request
        self.on_end = on_end
        self.ended = False
        self.acks: dict[str, tuple[bytes, Flow]] = {}  # by To tag: ACKs to 2xx, sent again when those come again
        self.response: Response | None = None  # the 2xx that waits for acknowledge()
        self.answered = False  # provisionally
        self.way: Way | None = None  # where else it may be sent to

    def end(
        self, status: int, reason: str, response: Response | None, flow: Flow, now: float
    ) -> Iterable[RouteContext]:
        """Tell the module, once; return the route blocks that it wants run."""
        if self.ended or self.on_end is None:
            self.ended = True
            return ()
        self.ended = True
        blocks = self.on_end(LocalReply(self.request, status, reason, response, flow, now))
        return () if blocks is None else blocks


class Locals:
    """Sends local requests."""

    def __init__(self, replier: Replier, hops: Hops) -> None:
        self._services = replier.services
        self._layer = replier.layer
        self._params = replier.params
        self._counters = replier.counters
        self._hops = hops
        self.total = 0  # requests with a transaction that were sent

    @property
    def has_event(self) -> bool:
        """Whether a script wants to see local requests before they leave."""
        callback = self._params.event_callback
        return bool(callback) and self._services.routes.defines(Route.EVENT, callback)

    def send(self, request: LocalRequest, now: float, on_end: OnEnd | None) -> Process[int]:
        """Send ``request``: 1, 0 when the event route dropped it, or why not, as t_relay (then ``on_end`` is not called).

        Without an event route no block is run, and the first step is the last. While DNS is asked it answers 1 too, and
        a name that leads nowhere ends the request with 503.
        """
        listener = request.listener or self._services.listeners[0]
        try:
            self._identify(request)
            flow = self._hops.hop(next_hop_of(request), listener, now)
        except ParseError:
            flow = E_BAD_URI
        if isinstance(flow, int):
            return flow
        if not isinstance(flow, Way):
            return (yield from self._send(request, flow, None, now, on_end))
        if flow.flows:
            return (yield from self._send(request, flow.flows.pop(0), flow, now, on_end))
        self._hops.ask(flow, partial(self._found, request, flow, on_end))
        return 1

    def _found(
        self, request: LocalRequest, way: Way, on_end: OnEnd | None, flows: list[Flow] | int, now: float
    ) -> None:
        self._services.work.append(self._send_later(request, way, on_end, flows, now))

    def _send_later(
        self, request: LocalRequest, way: Way, on_end: OnEnd | None, flows: list[Flow] | int, now: float
    ) -> Process[None]:
        sent = -1
        if not isinstance(flows, int):
            way.flows = flows if self._services.dns_failover else flows[:1]
            sent = yield from self._send(request, way.flows.pop(0), way, now, on_end)
        if sent < 0 and on_end is not None:
            flow = Flow(way.listener, way.destination.host, way.destination.port)
            blocks = on_end(LocalReply(request, 503, "Service Unavailable", None, flow, now))
            yield from blocks or ()

    def _send(
        self, request: LocalRequest, flow: Flow, way: Way | None, now: float, on_end: OnEnd | None
    ) -> Process[int]:
        branch = self._services.ids.branch()
        try:
            data = self._build(request, self._hops.via(flow.listener) + branch)
            other = self._services.instead_of_udp(flow, len(data))
            if other is not None:
                flow, data = other, self._build(request, self._hops.via(other.listener) + branch)
        except ParseError:
            return E_BAD_URI
        client: LocalClient | None = None
        if request.method != "ACK":
            client = LocalClient(branch, request, flow, self._layer.timings, on_end)
            is_invite = request.method == "INVITE"
            lifetime = self._params.max_inv_lifetime if is_invite else self._params.max_noninv_lifetime
            client.expires = now + lifetime / 1000 if lifetime else 0.0
        if self.has_event:
            block = self._event(data, flow, now)
            block.dst_uri = next_hop_of(request)
            yield block
            if block.dropped:
                if request.dropped is not None:
                    request.dropped()
                return 0
            data, flow = self._edited(block, data, flow, branch)
            if block.cache.get("tm.no_auto_ack"):
                request.auto_ack = False
        if client is None:
            self._services.outbox.send(data, flow)
            return 1
        client.flow, client.data = flow, data
        if way is not None and way.flows:
            client.way, way.data = way, data
        self._layer.open_client(client, now)
        self._counters["tmx.UAC_transactions"] += 1
        self.total += 1
        return 1

    def _next(self, client: LocalClient, now: float) -> bool:
        """Send the request to the next place that its name leads to (RFC 3263 section 4.3); False when there is none."""
        way = client.way
        while way is not None and way.flows:
            flow = way.flows.pop(0)
            if self._hops.blocklist.blocks(flow, now):
                continue
            branch = self._services.ids.branch()
            other = LocalClient(branch, client.request, flow, client.timings, client.on_end)
            other.expires, other.way = client.expires, way
            other.data = way.data = with_via(way.data, self._hops.via(flow.listener) + branch)
            client.on_end, client.way = None, None
            self._layer.open_client(other, now)
            self._counters["tmx.UAC_transactions"] += 1
            return True
        return False

    def _identify(self, request: LocalRequest) -> None:
        """Choose what the caller has left open."""
        ids = self._services.ids
        request.call_id = request.call_id or ids.unique()
        request.from_ = _bracketed(request.from_)
        if parse_name_addr(request.from_).tag is None:
            request.from_ += ";tag=" + ids.tag()
        request.to = _bracketed(request.to)

    def _build(self, request: LocalRequest, via: str) -> bytes:
        to, from_ = "To: " + request.to, "From: " + request.from_
        cseq, call_id = f"CSeq: {request.cseq} {request.method}", "Call-ID: " + request.call_id
        routes = ["Route: " + route for route in request.routes]
        fixed = "".join((request.uri, request.from_, request.to, request.call_id, *request.routes))
        if "\n" in fixed or "\r" in fixed or not all(map(is_header_lines, filter(None, request.headers))):
            raise ParseError("Line break in a header")
        lines = [f"{request.method} {request.uri} SIP/2.0", "Via: " + via]
        if request.method == "ACK":  # which Kamailio writes in another order
            lines += [from_, call_id, to, cseq, *routes, *(line for line in request.headers if line)]
            if self._services.server_header:
                lines.append("User-Agent: " + self._services.server_header)
            lines.append(f"Content-Length: {len(request.body)}")
            return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + request.body
        lines += [to, from_, cseq, call_id, *routes]
        if not any(line[:13].lower() == "max-forwards:" for line in request.headers):
            lines.append("Max-Forwards: 70")
        lines.append(f"Content-Length: {len(request.body)}")
        if self._services.server_header:
            lines.append("User-Agent: " + self._services.server_header)
        lines += [line for line in request.headers if line]
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + request.body

    # ---- the event route
    def _event(self, data: bytes, flow: Flow, now: float) -> RouteContext:
        listener = flow.listener
        source = Flow(listener, listener.host, listener.port)
        block = RouteContext(Route.EVENT, self._params.event_callback, parse(data), source, now)
        block.event = LOCAL_REQUEST
        block.wire, block.destination = data, flow
        return block

    def _edited(self, block: RouteContext, data: bytes, flow: Flow, branch: str) -> tuple[bytes, Flow]:
        """Return what the event route made of the request, and from where it goes now."""
        message = block.message
        assert isinstance(message, Request)
        if block.force_listener is not None and block.force_listener != flow.listener:
            flow = Flow(block.force_listener, flow.host, flow.port)
            block.edits.replaced[0] = f"Via: {self._hops.via(flow.listener)}{branch}"
        if block.ruri == message.uri and not block.edits:
            return data, flow
        return with_edits(message, block.edits, f"{message.method} {block.ruri} SIP/2.0"), flow

    # ---- what comes back
    def handle(self, client: LocalClient, response: Response, flow: Flow, now: float) -> Iterable[RouteContext]:
        """Take a response that is no retransmission to the layer; return the route blocks to be run."""
        status = response.status
        if status < 200:
            client.answered = True
            return ()
        if status == 503 and client.way is not None and self._next(client, now):
            return ()
        if client.method == "INVITE" and status < 300:
            sent = client.acks.get(response.to.tag or "")
            if sent is not None:
                self._services.outbox.send(*sent)
                return ()
            client.response = response
            if client.request.auto_ack:
                self.acknowledge(client, (), b"", now)
        return client.end(status, response.reason, response, flow, now)

    def knows(self, call_id: str, cseq: str) -> bool:
        """Tell whether there is a request of ours with this Call-ID and CSeq number."""
        ours = [c.request for c in self._layer.client_transactions() if isinstance(c, LocalClient)]
        return any(request.call_id == call_id and str(request.cseq) == cseq for request in ours)

    def waiting(self, call_id: str, cseq: str) -> LocalClient | None:
        """Return the INVITE of ours with this Call-ID and CSeq number, the 2xx of which waits for its ACK."""
        for client in self._layer.client_transactions():
            if isinstance(client, LocalClient) and client.response is not None:
                if client.request.call_id == call_id and str(client.request.cseq) == cseq:
                    return client
        return None

    def acknowledge(self, client: LocalClient, headers: Iterable[str], body: bytes, now: float) -> bool:
        """Send the ACK to the 2xx that came for an INVITE of ours; False when none waits for one."""
        response = client.response
        if response is None:
            return False
        try:
            ack = ack_request(client.request, response)
            ack.headers, ack.body = list(headers), body
            self._identify(ack)
            hop = self._hops.hop(next_hop_of(ack), client.flow.listener, now)
        except ParseError:
            return False
        tag = response.to.tag or ""
        if isinstance(hop, int):
            return False
        if not isinstance(hop, Way):
            return self._send_ack(client, ack, tag, hop)
        if hop.flows:
            return self._send_ack(client, ack, tag, hop.flows[0])
        client.response = None
        self._hops.ask(hop, partial(self._found_for_ack, client, ack, tag))
        return True

    def _found_for_ack(
        self, client: LocalClient, ack: LocalRequest, tag: str, flows: list[Flow] | int, now: float
    ) -> None:
        if not isinstance(flows, int):
            self._send_ack(client, ack, tag, flows[0])

    def _send_ack(self, client: LocalClient, ack: LocalRequest, tag: str, flow: Flow) -> bool:
        try:
            data = self._build(ack, self._hops.via(flow.listener) + self._services.ids.branch())
        except ParseError:
            return False
        if len(client.acks) < _MOST_ACKS:
            client.acks[tag] = (data, flow)
        client.response = None
        self._services.outbox.send(data, flow)
        return True

    def failed(self, client: LocalClient, status: int, now: float) -> Iterable[RouteContext]:
        """Take a timeout (408) or transport error (503); return the route blocks to be run."""
        if client.way is not None and not client.answered and self._next(client, now):
            return ()
        reason = "Request Timeout" if status == 408 else "Service Unavailable"
        return client.end(status, reason, None, client.flow, now)


def ack_request(request: LocalRequest, response: Response) -> LocalRequest:
    """Return the ACK to the 2xx ``response`` of an INVITE (RFC 3261 sections 12.1.2 and 13.2.2.4). Raise ParseError."""
    contacts = response.list("contact")
    target = parse_name_addr(contacts[0]).uri if contacts else request.uri
    routes = response.list("record-route")[::-1] or request.routes
    return within_dialog("ACK", request, target, response.get("to") or request.to, routes, request.cseq)


def within_dialog(
    method: str, request: LocalRequest, target: str, to: str, routes: list[str], cseq: int
) -> LocalRequest:
    """Return a request to the remote ``target`` along ``routes``, the first of which may be a strict router's (12.2.1.1)."""
    if routes:
        first = parse_name_addr(routes[0]).uri
        if not parse_uri(first).is_loose:
            target, routes = first, [*routes[1:], f"<{target}>"]
            return LocalRequest(
                method, target, request.from_, to, routes=routes, dst_uri=first, call_id=request.call_id, cseq=cseq
            )
    return LocalRequest(method, target, request.from_, to, routes=routes, call_id=request.call_id, cseq=cseq)


def next_hop_of(request: LocalRequest) -> str:
    """Return the URI that ``request`` goes to. Raise ParseError."""
    if request.dst_uri:
        return request.dst_uri
    return parse_name_addr(split_quoted(request.routes[0], ",")[0]).uri if request.routes else request.uri


def _bracketed(value: str) -> str:
    """Return ``value`` as a name-addr: as Kamailio, with brackets when no ``>`` ends it or stands before parameters."""
    end = value.rfind(">")
    return value if end >= 0 and (end == len(value) - 1 or value[end + 1] == ";") else f"<{value}>"


def of_headers(method: str, uri: str, next_hop: str, headers: str, body: str, listener: Listener) -> LocalRequest:
    """Return the request of ``tm.t_uac_send``: From and To, perhaps Call-ID and CSeq are among ``headers``. Raise ParseError.

    In the other headers, ``!!`` stands for host and port of ``listener``, ``!i`` for its host, ``!p`` for its port.
    """
    lines = join_folded([line for line in headers.split("\r\n") if line]) if headers.strip("\r\n") else []
    given: dict[str, str] = {}
    more: list[str] = []
    for line in lines:
        name, colon, value = line.partition(":")
        known = canonical_names[name] if colon else ""
        if not known:
            raise ParseError(f"no header: {line}")
        if known in _MADE:
            given.setdefault(known, value.strip(" \t"))
        else:
            host = bracketed(listener.host)
            for mark, text in (("!!", f"{host}:{listener.port}"), ("!i", host), ("!p", str(listener.port))):
                line = line.replace(mark, text)
            more.append(line)
    if not method or "from" not in given or "to" not in given:
        raise ParseError("From or To is missing")
    if body and ("content-length" in given or not any(line[:13].lower() == "content-type:" for line in more)):
        raise ParseError("a body needs Content-Type, and no Content-Length")
    number, _, of = given.get("cseq", f"{FIRST_CSEQ} {method}").partition(" ")
    if not number.isdecimal() or len(number) > 10 or of.strip(" ") != method:
        raise ParseError("CSeq does not fit")
    return LocalRequest(
        method,
        uri,
        _address(given["from"]),
        _address(given["to"]),
        headers=more,
        body=body.encode("latin-1"),
        dst_uri=next_hop,
        call_id=given.get("call-id", ""),
        cseq=int(number),
    )


def _address(value: str) -> str:
    """Return URI and tag of a From or To value, all that Kamailio takes of it."""
    parsed = parse_name_addr(value)
    return f"<{parsed.uri}>;tag={parsed.tag}" if parsed.tag else f"<{parsed.uri}>"
