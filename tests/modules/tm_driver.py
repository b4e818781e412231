"""A proxy without a server for the tests of tm: messages go in at given times, routes are Python functions, bytes come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import REQUEST_ROUTE, Route
from polykemi.modules.sl import Sl
from polykemi.modules.tm import Tm
from polykemi.modules.tmx import Tmx
from polykemi.sip.flow import Flow
from polykemi.sip.locate import Destination, Draw, Place, Usable
from polykemi.sip.message import Request, Response, parse
from polykemi.transaction.target import Target
from tests.support import LISTENER, NOW, NoRoutes, services

ALICE = ("192.0.2.10", 5060)
BOB = ("192.0.2.20", 5060)
CAROL = ("192.0.2.30", 5060)
BOB_URI = "sip:bob@192.0.2.20"
CAROL_URI = "sip:carol@192.0.2.30"


class Proxy:
    """A server with tm and the given routes: ``request(tm, ctx)`` and, by callback name, ``name=function(tm, ctx)``.

    ``given`` are other services than usual. A route is a function; what it gets from a Process such as t_relay comes through ``run``.
    """

    def __init__(
        self,
        request: Callable[[Proxy, RouteContext], Any],
        *,
        tm: dict[str, Any] | None = None,
        given: dict[str, Any] | None = None,
        **routes: Any,
    ) -> None:
        self.request = request
        self.routes = routes
        self.services = services(Sl, Tm, Tmx, params={"tm": tm or {}}, routes=NoRoutes(*routes), **(given or {}))
        self.tm: Tm = self.services.modules["tm"]
        self.tmx: Tmx = self.services.modules["tmx"]
        self.now = NOW
        self.ran: list[tuple[str, int]] = []  # callback and reply status of each block that ran

    # ---- in
    def receive(self, data: str | bytes, source: tuple[str, int]) -> list[Sent]:
        """Take one datagram and return what left because of it."""
        message = parse(data.encode("latin-1") if isinstance(data, str) else data)
        flow = Flow(LISTENER, *source)
        if isinstance(message, Request):
            if not self.tm.absorb(message, flow, self.now):
                ctx = RouteContext(Route.REQUEST, REQUEST_ROUTE, message, flow, self.now)
                self.call(ctx)
                if ctx.transaction is not None:
                    self.tm.finish(ctx, self.now)
            return self.sent()
        branch = self.tm.client_of(message)
        ctx = RouteContext(Route.REPLY, "ksr_reply_route", message, flow, self.now)
        if "ksr_reply_route" in self.routes:
            self.call(ctx)
        if branch is not None:
            for block in self.tm.handle_response(branch, message, ctx, self.now):
                self.call(block)
        return self.sent()

    def wait(self, seconds: float) -> list[Sent]:
        """Let time pass; every timer runs when it is due."""
        end = self.now + seconds
        while (due := self.tm.next_timeout()) is not None and due <= end:
            self.now = max(due, self.now)
            process = self.tm.handle_timer(self.now)
            if process is not None:
                self.run(process)
        self.now = end
        return self.sent()

    def fail(self, sent: Sent) -> list[Sent]:
        """Say that ``sent`` could not be sent."""
        process = self.tm.transport_error(sent.flow, sent.data, self.now)
        if process is not None:
            self.run(process)
        return self.sent()

    # ---- routes
    def run(self, process: Process[Any]) -> Any:
        """Run a Process and the blocks that it asks for; return its value."""
        try:
            while True:
                self.call(next(process))
        except StopIteration as end:
            return end.value

    def call(self, ctx: RouteContext) -> None:
        """Run one block."""
        self.ran.append((ctx.callback, ctx.reply_status))
        route = self.request if ctx.callback == REQUEST_ROUTE else self.routes.get(ctx.callback)
        if route is not None:
            route(self, ctx)

    def relay(self, ctx: RouteContext) -> int:
        """Call KSR.tm.t_relay."""
        result: int = self.run(self.tm.t_relay(ctx))
        return result

    # ---- out
    def sent(self) -> list[Sent]:
        """Return what left, and forget it."""
        items, self.services.outbox.items = self.services.outbox.items, []
        return [Sent(data, flow) for data, flow in items]


class Names:
    """A DNS that knows ``places`` by host at once; other names are asked, and wait for ``answer``."""

    def __init__(self, **places: list[Place]) -> None:
        self.places = {name.replace("_", "."): found for name, found in places.items()}
        self.asked: list[tuple[Destination, Callable[[list[Place], float], None]]] = []
        self.usable: Usable = {}

    def locate(
        self, destination: Destination, usable: Usable, now: float, draw: Draw | None = None
    ) -> list[Place] | None:
        self.usable = usable
        return self.places.get(destination.host)

    def ask(self, destination: Destination, usable: Usable, answer: Callable[[list[Place], float], None]) -> None:
        self.asked.append((destination, answer))


class Sent:
    """A message that left."""

    def __init__(self, data: bytes, flow: Flow) -> None:
        self.data = data
        self.flow = flow
        self.to = (flow.host, flow.port)
        self.message = parse(data)

    def __repr__(self) -> str:
        return f"{self.what} -> {self.to}"

    @property
    def what(self) -> str:
        """``INVITE``, ``200 INVITE``: the method, or the status with the method that it answers."""
        m = self.message
        return m.method if isinstance(m, Request) else f"{m.status} {m.cseq[1]}"

    @property
    def request(self) -> Request:
        """The message, which is a request."""
        assert isinstance(self.message, Request)
        return self.message

    @property
    def response(self) -> Response:
        """The message, which is a response."""
        assert isinstance(self.message, Response)
        return self.message


def whats(sent: list[Sent]) -> list[str]:
    """Return what left, in order, as ``Sent.what``."""
    return [s.what for s in sent]


def find(sent: list[Sent], what: str, to: tuple[str, int] | None = None) -> Sent:
    """Return the one message of this kind (to this address) that left."""
    found = [s for s in sent if s.what == what and to in (None, s.to)]
    assert len(found) == 1, f"{what} to {to}: {found} in {sent}"
    return found[0]


def request(
    method: str,
    *extra: str,
    branch: str = "a1",
    cseq: int = 1,
    uri: str = "sip:bob@example.test",
    to_tag: str = "",
    body: str = "",
) -> str:
    """Return a request of Alice."""
    tag = f";tag={to_tag}" if to_tag else ""
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{branch}",
        "From: <sip:alice@example.test>;tag=alice",
        f"To: <sip:bob@example.test>{tag}",
        "Call-ID: call-1@192.0.2.10",
        f"CSeq: {cseq} {method}",
        "Max-Forwards: 70",
        *extra,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", body])


def answer(sent: Sent, status: int, *extra: str, reason: str = "Reason", tag: str = "callee") -> str:
    """Return a response to a request that left."""
    message = sent.request
    lines = [f"SIP/2.0 {status} {reason}"]
    for name, line in zip(message.names, message.lines, strict=True):
        if name in ("via", "from", "call-id", "cseq", "record-route"):
            lines.append(line)
        elif name == "to":
            lines.append(line if message.to.tag or status == 100 else f"{line};tag={tag}")
    return "\r\n".join([*lines, *extra, "Content-Length: 0", "", ""])


def to(*uris: str, **armed: str) -> Callable[[Proxy, RouteContext], None]:
    """Return a request route that relays to ``uris``, with route blocks armed: ``failure="name"``, ``branch=``, ``reply=``."""

    def route(proxy: Proxy, ctx: RouteContext) -> None:

        if ctx.method not in ("CANCEL", "ACK"):
            ctx.ruri = uris[0]
            ctx.branches = [Target(uri) for uri in uris[1:]]
        elif ctx.method == "ACK":
            ctx.ruri = uris[0]
        for kind, name in armed.items():
            getattr(proxy.tm, f"t_on_{kind}")(ctx, name)
        proxy.relay(ctx)

    return route


def ack_of(final: Sent, branch: str = "a1") -> str:
    """Return the ACK of the caller's transaction layer to a final response of 300 and above."""
    return request("ACK", branch=branch, to_tag=final.message.to.tag or "")


def answer_of(text: str) -> Request | Response:
    """Return the message in ``text``."""
    return parse(text.encode("latin-1"))
