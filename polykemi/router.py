"""One message through its route blocks: builds the context, calls the engine, hands on what the script asked for.

The router is the work that route blocks are run from. A message or a timer becomes a Process (a generator that yields a
RouteContext for each block to be run); processes run one after the other, in the order of arrival.
Engines are called from the event loop, by ``pump``.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from polykemi.blocks import Blocks
from polykemi.calls import Calls
from polykemi.errors import DataError, ParseError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.faked import FAKED_MESSAGE
from polykemi.kemi.histogram import Histogram
from polykemi.kemi.route import Route
from polykemi.malformed import Malformed
from polykemi.modules.base import Services
from polykemi.modules.sl import Sl
from polykemi.modules.tm import Tm
from polykemi.modules.xhttp import TakesHttp
from polykemi.overload import Overload, OverloadLimits
from polykemi.sip import build, http
from polykemi.sip.flow import Flow, LastFlow
from polykemi.sip.message import Request, Response, parse
from polykemi.sip.tally import METHODS, RECEIVED_COUNTERS, REQUEST_COUNTERS, UNKNOWN_METHOD, reply_counters
from polykemi.transaction.forking import Branch

log = logging.getLogger("polykemi.router")

_OF_CALLS: Final = ("INVITE", "BYE")  # methods whose answers begin and end a call
_WAITS: Final[tuple[float, ...]] = (1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)  # seconds


class Dialogs(Protocol):
    """What knows which version of the scripts a dialog belongs to (``modules/dialog.py``)."""

    def version_of(self, request: Request) -> Any:
        """Return the version that the dialog of ``request`` began with; None when it is of none that is known."""


class Router(Blocks):
    """Runs processes and their route blocks.

    A turn ends when nothing is left to do: what was stored is committed, ``send`` takes the outbox, ``ended`` is called.
    """

    def __init__(
        self,
        services: Services,
        send: Callable[[list[tuple[bytes, Flow]]], None],
        ended: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        overload: Overload | None = None,
    ) -> None:
        super().__init__(services, clock)
        self.overload = overload or Overload(OverloadLimits())
        self.draining = False
        self.refusing = False  # draining, or some of the new requests are refused
        self._send = send
        self._ended = ended
        self._queue: deque[Process[None]] = deque()
        self._process: Process[None] | None = None
        self._now = 0.0  # of the datagram before
        self._malformed = Malformed(self)
        self.calls = Calls()
        self.waits = Histogram(_WAITS)  # how long messages have waited, at each beat
        self.received_codes = [0] * 700  # how many responses have come, by status
        self._reply_counters: dict[str, dict[int, tuple[str, ...]]] = {}  # by method and status
        for name in RECEIVED_COUNTERS:
            services.counters.setdefault(name, 0)
        self._tm: Tm | None = None
        self._sl: Sl | None = None
        self._dialogs: Dialogs | None = None
        self._http: list[TakesHttp] = []  # of the modules that take what is no SIP message

    def start(self) -> None:
        """Take the modules, which are all there now."""
        self.services.call_is_over = self.calls.over
        self._dialogs = self.services.modules.get("dialog")
        self._tm = self.services.modules.get("tm")
        self._sl = self.services.modules.get("sl")
        modules = (self.services.modules.get(name) for name in ("stun", "websocket", "xmlrpc", "xhttp"))
        self._http = [module.requests for module in modules if module is not None]

    # ---- work comes in
    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """Take one datagram."""
        if now != self._now:  # another pass
            self._now = now
            self.services.database.refresh(now)
        if self.services.callbacks.received:
            self._queue.append(self._received(data, flow, now))
        else:
            self._take(data, flow, now)

    def _received(self, data: bytes, flow: Flow, now: float) -> Process[None]:
        """Run the block for octets that have come; it may change ($rcv(buf)) and drop them."""
        ctx = RouteContext(Route.EVENT, self.services.callbacks.received, FAKED_MESSAGE, flow, now)
        ctx.wire = data
        if self.defines(Route.EVENT, ctx.callback):
            yield ctx
        if not ctx.dropped:
            self._take(ctx.wire, flow, now)

    def _take(self, data: bytes, flow: Flow, now: float) -> None:
        try:
            message = parse(data)
        except ParseError as error:
            if any(requests.take(data, flow, now) for requests in self._http):
                return
            refusal = http.refusal(data, flow)
            if refusal:
                self.services.count("core.bad_requests")
                self.services.outbox.send(refusal, LastFlow(*flow))
            else:
                self._malformed.refuse(data, flow, error, now)
            return
        if isinstance(message, Request):
            process = self._request(message, flow, now)
        else:
            process = self._response(message, flow, now)
        if self.onlookers:
            for onlooker in self.onlookers:
                process = onlooker.follow(process, message, flow, now)
        self._queue.append(process)

    def put(self, process: Process[None]) -> None:
        """Take work that is no datagram: a timer, a transport error."""
        self._queue.append(process)

    # ---- work is done
    def next(self) -> RouteContext | None:
        """Go on until a route block has to run and return its context; None when nothing is left and the turn has ended."""
        ran = self._ran
        if ran is not None and ran.error is not None:
            self.report(ran)
        while True:
            process = self._process
            if process is None:
                if not self._queue:
                    if self.services.events:
                        self._queue.append(self._events())
                        continue
                    if self.services.work:
                        self._queue.extend(self.services.work)
                        self.services.work.clear()
                        continue
                    self._flush()
                    if self._queue:  # what could not be sent
                        continue
                    self._ended()
                    return None
                process = self._process = self._queue.popleft()
            try:
                ctx = next(process, None)
            except Exception:
                ctx = None
                self.services.count("core.internal_errors")
                log.exception("internal error; the message it happened on is lost")
            self._ran = ctx
            if ctx is not None:
                return ctx
            self._process = None

    def pump(self) -> None:
        """Do all that is to be done, calling engines from here."""
        while (ctx := self.next()) is not None:
            self.run(ctx)

    def _flush(self) -> None:
        """Make what was stored durable, then let the outbox go."""
        outbox = self.services.outbox
        items, outbox.items = outbox.items, []
        try:
            self.services.location.commit()
            if self.services.commits:
                self.commit()
        except (
            DataError
        ) as error:  # disk full: what was staged is kept for the next commit, nobody is told that it is there
            self.services.count("core.failed_commits", len(items))
            log.error("%s; %d messages are not sent", error, len(items))
        else:
            if self.onlookers:
                for onlooker in self.onlookers:
                    onlooker.sent(items)
            if items:
                self._send(items)

    def commit(self) -> None:
        """Make durable what modules have asked for. Raise DataError; who has failed asks again when there is more to store."""
        commits = self.services.commits
        while commits:
            commits.pop()()

    # ---- the core's handling of messages
    def _request(self, request: Request, flow: Flow, now: float) -> Process[None]:
        services = self.services
        counters = services.counters
        counters["core.rcv_requests"] += 1
        counters[REQUEST_COUNTERS.get(request.method, UNKNOWN_METHOD)] += 1
        try:
            if request.shape.fault:
                raise ParseError(request.shape.fault)
            if not request.has_whole_body:  # RFC 3261 section 18.3
                raise ParseError("Content-Length Does Not Match")
            if request.cseq[1] != request.method:
                raise ParseError("CSeq method does not match")
            callbacks = services.callbacks
            ctx = RouteContext(Route.REQUEST, callbacks.request, request, flow, now)
            if self._reloaded:
                ctx.shared.version = self._begun(request)
            if callbacks.pre_routing and (yield from self._pre_routing(ctx)):
                return
            tm = self._tm
            if tm is not None and tm.absorb(request, flow, now):
                return
            if request.method == "ACK" and self._sl is not None and self._sl.is_own_ack(request, flow, now):
                return
        except ParseError as error:
            self._malformed.refuse(request.raw, flow, error, now)
            return
        if self.refusing and self._refuses_new(request):
            ctx.reply_headers.append(f"Retry-After: {self.overload.retry_after()}")
            self._reply(ctx, 503, "Service Unavailable")
            return
        yield ctx
        if ctx.error is not None:
            self._reply(ctx, 500, "Server Internal Error")
        if ctx.transaction is not None and tm is not None:
            tm.finish(ctx, now)

    def _begun(self, request: Request) -> Any:
        """Return the version in which the dialog of ``request`` began, or the INVITE that it cancels; None for the current one."""
        if request.method == "CANCEL":
            invite = self._tm.relayer.invite_of(request) if self._tm is not None else None
            return invite.version if invite is not None else None
        version = self._dialogs.version_of(request) if self._dialogs is not None else None
        return version if version is not None else self.calls.version_of(request)

    def _refuses_new(self, request: Request) -> bool:
        """Tell whether ``request`` begins something new that is refused; what belongs to a dialog or a transaction goes on."""
        if request.method == "ACK" or request.method == "CANCEL":
            return False
        try:
            if request.to.tag is not None:
                return False
        except ParseError:  # a To that cannot be read is of no dialog
            pass
        if self.draining:
            return True
        if not self.overload.refuses(request.uri):
            return False
        self.services.count("core.overload_refused")
        return True

    def drain(self) -> None:
        """Refuse all new requests from now on."""
        self.draining = self.refusing = True

    def beat(self, waited: float, lost: int, memory: int, now: float) -> None:
        """Look how far behind the server is (``Overload.beat``); called every ``BEAT`` seconds."""
        self.waits.add(waited)
        self.calls.sweep(now)
        overload = self.overload
        overload.beat(waited, lost, len(self._tm.layer) if self._tm is not None else 0, memory, now)
        self.refusing = self.draining or overload.level > 0
        if overload.episodes:
            self.services.counters["core.overload_episodes"] = overload.episodes
            self.services.counters["core.overload_level"] = round(100 * overload.level)

    def _pre_routing(self, ctx: RouteContext) -> Process[bool]:
        """Run the block in front of a message's route block, with the same context; tell whether it dropped the message."""
        callback, ctx.callback, ctx.event = ctx.callback, self.services.callbacks.pre_routing, "core:pre-routing"
        if self.defines(ctx.kind, ctx.callback, ctx.shared.version):
            yield ctx
        dropped, ctx.dropped = ctx.dropped, False
        ctx.callback, ctx.event, ctx.error, ctx.sflags = callback, "", None, 0
        return dropped

    def _reply(self, ctx: RouteContext, status: int, reason: str) -> None:
        """Answer for the script, unless it has answered itself."""
        if ctx.method == "ACK" or self._sl is None:
            return
        if ctx.transaction is not None and self._tm is not None:
            self._tm.fail(ctx, status, reason)
        elif not ctx.replied:
            self._sl.reply(ctx, status, reason)

    def _response(self, response: Response, flow: Flow, now: float) -> Process[None]:
        services = self.services
        try:
            self._count_response(response)
            if not response.has_whole_body:
                raise ParseError("Content-Length does not match")
            via = response.via
            branch = self._tm.client_of(response) if self._tm is not None else None
            if branch is None and not services.is_myself(via.host, via.port or 5060):  # a script may write any address
                raise ParseError("the top Via is not ours")
        except ParseError as error:
            self._malformed.drop(response.raw, flow, error, now)
            return
        if branch is None and any(absorbs(response) for absorbs in services.strays):
            return
        callbacks = services.callbacks
        ctx = RouteContext(Route.REPLY, callbacks.reply, response, flow, now)
        ctx.reply_status = response.status
        if isinstance(branch, Branch) and branch.transaction is not None:
            version = ctx.shared.version = branch.transaction.version
            comes_again = 200 <= branch.status < 300  # perhaps when its call is over
            if response.status >= 200 and not comes_again and response.cseq[1] in _OF_CALLS and version is not None:
                self.calls.answered(response, version, now)
        if callbacks.pre_routing and (yield from self._pre_routing(ctx)):
            return
        if self.defines(Route.REPLY, callbacks.reply, ctx.shared.version):
            yield ctx
            if ctx.dropped:
                services.count("core.drop_replies")
                return
            if ctx.message is not response:
                assert isinstance(ctx.message, Response)
                response = ctx.message
        if branch is not None and self._tm is not None:
            yield from self._tm.handle_response(branch, response, ctx, now)
        else:
            self._forward_statelessly(response, ctx)

    def _count_response(self, response: Response) -> None:
        """Count a response as Kamailio does, and by its very status. Raise ParseError."""
        counters, status = self.services.counters, response.status
        counters["core.rcv_replies"] += 1
        self.received_codes[status] += 1
        method = response.cseq[1]
        of_method = self._reply_counters.get(method)
        if of_method is None:
            of_method = self._reply_counters.setdefault(method if method in METHODS else "", {})
        names = of_method.get(status)
        if names is None:
            names = of_method[status] = reply_counters(method, status)
        for name in names:
            counters[name] += 1

    def _forward_statelessly(self, response: Response, ctx: RouteContext) -> None:
        """Forward a response that belongs to no transaction by its second Via (RFC 3261 section 16.11)."""
        target = self.services.response_target(response, ctx.flow.listener)
        if target is None:
            self._malformed.drop(response.raw, ctx.flow, ParseError("no second Via"), ctx.now)
            return
        self.services.outbox.send(build.forward_response(response, ctx.edits), target)
        self.services.count("core.fwd_replies")

    def _events(self) -> Process[None]:
        """Run the event route blocks that modules have asked for."""
        events, self.services.events = self.services.events, []
        for ctx in events:
            if self.defines(Route.EVENT, ctx.callback, ctx.shared.version):
                yield ctx
