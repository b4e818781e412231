"""sl: stateless replies (RFC 3261 sections 8.2.6, 8.2.7, 18.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.modules.sl_rpc import SlCommands
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import keyed
from polykemi.sip import http
from polykemi.sip.build import forward_response, response
from polykemi.sip.flow import Flow, LastFlow, OpenFlow
from polykemi.sip.http import HttpRequest
from polykemi.sip.message import Request, Response
from polykemi.sip.reply_path import reply_path

_EVENT: Final = int(Route.EVENT)
_ON_REQUESTS: Final = Route.REQUEST | Route.BRANCH | Route.FAILURE | Route.BRANCH_FAILURE | Route.EVENT

FILTERED_ACK: Final = "sl:filtered-ack"
LOCAL_RESPONSE: Final = "sl:local-response"

# statuses that Kamailio counts by themselves; all others fall to their class
_COUNTED_ALONE: Final = frozenset((200, 202, 300, 301, 302, 400, 401, 403, 404, 407, 408, 483, 500))


def _counter(status: int) -> str:
    return f"sl.{status}_replies" if status in _COUNTED_ALONE else f"sl.{status // 100}xx_replies"


_COUNTERS: Final = {status: _counter(status) for status in range(100, 700)}


@dataclass(frozen=True, slots=True)
class SlParams:
    """The script's functions for the events of sl, "" for none."""

    event_callback_fl_ack: str = ""
    event_callback_lres_sent: str = ""


class Sl(Module):
    """Stateless replies, and replies that are stateful when there is a transaction."""

    name = "sl"
    Params = SlParams
    events: ClassVar[Mapping[str, str]] = {
        FILTERED_ACK: "an ACK to a stateless reply came, which ends here; the message is that ACK",
        LOCAL_RESPONSE: "a stateless reply leaves; the message is the request, as in Kamailio",
    }

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        for name in (
            "sl.sent_replies",
            "sl.sent_err_replies",
            "sl.received_ACKs",
            "sl.failures",
            *_COUNTERS.values(),
        ):  # so that counting is one step
            services.counters.setdefault(name, 0)

    def commands(self) -> tuple[object, ...]:
        """Return the command sl.stats."""
        return (SlCommands(self.services.counters),)

    def reply(self, ctx: RouteContext, code: int, reason: str, headers: Iterable[str] = (), body: bytes = b"") -> int:
        """Reply statelessly to the request of ``ctx``; ``headers`` are whole lines without CRLF.

        Return 1, or -1 when there is nothing to reply to (a reply, an ACK) or ``code`` and ``reason`` are no status line.
        """
        request = ctx.message
        if ctx.kind == _EVENT and isinstance(request, HttpRequest):
            return self._http_reply(ctx, request, code, reason, body)
        counter = _COUNTERS.get(code)
        if not isinstance(request, Request) or request.method == "ACK" or counter is None:
            return -1
        if "\n" in reason or "\r" in reason:
            return -1
        services = self.services
        received, rport, path = reply_path(request, ctx.flow, ctx.force_rport)
        if not body:
            body = ctx.cache.get("reply_body", b"")
        data = response(
            request,
            code,
            reason,
            to_tag=self._to_tag(request),
            received=received,
            rport=rport,
            headers=[*ctx.reply_headers, *headers] if headers else ctx.reply_headers,
            body=body,
            server=services.server_header,
        )
        services.outbox.items.append((data, path))
        ctx.replied = True
        counters = services.counters
        counters[counter] += 1
        counters["sl.sent_replies"] += 1
        callback = self.params.event_callback_lres_sent
        if callback and ctx.kind is not Route.EVENT:
            self._event(callback, LOCAL_RESPONSE, request, ctx.flow, ctx.now)
        return 1

    def _event(self, callback: str, event: str, message: Request, flow: Flow, now: float) -> None:
        block = RouteContext(Route.EVENT, callback, message, flow, now)
        block.event = event
        self.services.events.append(block)

    def pv_classes(self) -> Mapping[str, Factory]:
        """``$ltt(s)``: the To tag of our replies; ``$ltt(t)`` with a transaction only; ``$ltt(x)`` in either case."""

        def tag(ctx: RouteContext) -> Xval:
            message = ctx.message
            return self.services.ids.stateless_tag(message) if isinstance(message, Request) else None

        def of_transaction(ctx: RouteContext) -> Xval:
            return None if ctx.transaction is None else tag(ctx)

        return {"ltt": keyed({"s": tag, "t": of_transaction, "x": tag})}

    def _http_reply(self, ctx: RouteContext, request: HttpRequest, code: int, reason: str, body: bytes) -> int:
        """Reply to an HTTP request."""
        if not 100 <= code <= 999 or "\n" in reason or "\r" in reason:
            return -1
        services = self.services
        body = body or ctx.cache.get("reply_body", b"")
        headers = ctx.reply_headers
        data = http.response(request, code, reason, headers=headers, body=body, server=services.server_header)
        services.outbox.send(data, LastFlow(*ctx.flow) if http.is_last(request, code, headers) else ctx.flow)
        ctx.replied = True
        return 1

    def _to_tag(self, request: Request) -> str:
        try:
            return "" if request.to.tag else self.services.ids.stateless_tag(request)
        except ParseError:  # a To that cannot be read goes back as it came
            return ""

    def is_own_ack(self, request: Request, flow: Flow, now: float) -> bool:
        """Tell whether an ACK belongs to a stateless reply of ours: it ends here and no route sees it (section 8.2.7)."""
        if request.method != "ACK" or request.to.tag != self.services.ids.stateless_tag(request):
            return False
        self.services.count("sl.received_ACKs")
        if self.params.event_callback_fl_ack:
            self._event(self.params.event_callback_fl_ack, FILTERED_ACK, request, flow, now)
        return True

    @export(routes=_ON_REQUESTS)
    def sl_send_reply(self, ctx: RouteContext, code: int, reason: str) -> int:
        """Reply statelessly with ``code`` (100 to 699) and ``reason``. Answers 1, or -1 when nothing was sent."""
        return self.reply(ctx, code, reason)

    @export(routes=_ON_REQUESTS)
    def send_reply(self, ctx: RouteContext, code: int, reason: str) -> int:
        """Reply with ``code`` and ``reason``: through the transaction when there is one, else statelessly."""
        if ctx.transaction is not None:
            tm = self.services.modules.get("tm")
            if tm is not None:
                return int(tm.reply(ctx, code, reason))
        return self.reply(ctx, code, reason)

    @export(routes=_ON_REQUESTS)
    def send_reply_mode(self, ctx: RouteContext, code: int, reason: str, mode: int) -> int:
        """Reply as ``send_reply`` does. ``mode``, a sum, is about connections: 1 open none, 2 close it behind the reply."""
        if ctx.flow.listener.proto != "udp":
            if mode & 1:
                ctx.flow = OpenFlow(*ctx.flow)
            if mode & 2:
                self.services.connections.close_after_reply(ctx.flow)
        return self.send_reply(ctx, code, reason)

    @export(routes=_ON_REQUESTS)
    def sl_reply_error(self, ctx: RouteContext) -> int:
        """Reply statelessly with what went wrong last (``ctx.cache["reply_error"]``: status and reason), else with 500."""
        if ctx.replied:  # what failed has said so itself: save() answers its own errors
            return 1
        if ctx.method == "ACK":  # never answered
            return 1
        code, reason = _last_error(ctx)
        return self._count_error(self.reply(ctx, code, reason))

    @export(routes=_ON_REQUESTS)
    def send_reply_error(self, ctx: RouteContext) -> int:
        """Reply like ``sl_reply_error``, through the transaction when there is one."""
        if ctx.replied and ctx.transaction is None:
            return 1
        code, reason = _last_error(ctx)
        return self._count_error(self.send_reply(ctx, code, reason))

    def _count_error(self, result: int) -> int:
        self.services.count("sl.sent_err_replies" if result > 0 else "sl.failures")
        return result

    @export(routes=Route.REPLY)
    def sl_forward_reply(self, ctx: RouteContext, code: str, reason: str) -> int:
        """Forward the reply statelessly to the next Via, with another status and reason when given ("" keeps each).

        The class of the status must not change (Kamailio: sl_forward_reply). Answers 1, or -1.
        """
        reply = ctx.message
        if not isinstance(reply, Response) or "\n" in reason or "\r" in reason:
            return -1
        status = code or str(reply.status)
        if len(status) != 3 or not status.isdecimal() or status[0] != str(reply.status)[0]:
            return -1
        target = self.services.response_target(reply, ctx.flow.listener)
        if target is None:
            return -1
        data = forward_response(reply, ctx.edits)
        if code or reason:
            rest = data[data.index(b"\r\n") :]
            data = f"SIP/2.0 {status} {reason or reply.reason}".encode("latin-1") + rest
        self.services.outbox.send(data, target)
        return 1


def _last_error(ctx: RouteContext) -> tuple[int, str]:
    error: tuple[int, str] | None = ctx.cache.get("reply_error")
    return error or (500, "Server Internal Error")
