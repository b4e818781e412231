"""What runs for a message, told to who has attached (`polykemi trace`): the messages that match, the calls that they belong to.

Nothing of this is there while nobody is attached: the first who attaches makes the tracer an onlooker of the router and a
watcher of the KSR functions, the last who leaves takes it away. What matches is decided once, when a message comes in or goes
out; whatever else has its Call-ID belongs to it. What happens in a turn is kept until its end and given then, so a message
that matches by where it goes still brings the blocks that ran for it.

An event is plain data (docs/tracing.md). Who does not read it loses events and is told how many; the server waits for nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from polykemi.control.jsonrpc import INVALID_REQUEST, JsonRpc
from polykemi.control.trace_blocks import Node, Recorder
from polykemi.errors import ParseError, RpcError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.documents import with_unicode
from polykemi.kemi.probes import Probes
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import INVALID_PARAMS, rpc
from polykemi.log_watches import names
from polykemi.router import Router
from polykemi.sip.flow import Flow, bracketed
from polykemi.sip.grammar import canonical_host, to_ip
from polykemi.sip.message import Message, Request, Response, parse

_MOST_CALLS: Final = 1000  # that one follows at a time; the oldest is forgotten
_FINAL: Final = 200
_LONGEST_LINE: Final = 500  # octets of what is malformed
_CALL_ID: Final = re.compile(rb"\r\n(?:Call-ID|i)[ \t]*:[ \t]*([^\r\n]*[^\r\n \t])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages match: all of what is not empty. A user is one of From, To or the Request-URI, perhaps with its domain."""

    call_id: str = ""
    user: str = ""
    ip: str = ""  # of either end, as ``canonical_host`` writes it

    def takes(self, seen: Seen, host: str) -> bool:
        """Tell whether a message from or to ``host`` matches."""
        return (
            (not self.call_id or self.call_id == seen.call_id)
            and (not self.ip or self.ip == canonical_host(host))
            and (not self.user or (seen.message is not None and names(seen.message, self.user)))
        )


_ALL: Final = Filter()


class Seen(NamedTuple):
    """What is read of a message."""

    message: Message | None  # None: it is no SIP message
    call_id: str
    line: str
    cseq: str
    method: str  # of a request
    status: int  # of a response

    @classmethod
    def of(cls, message: Message) -> Seen:
        """Read a message."""
        call_id, cseq = message.get("call-id") or "", message.get("cseq") or ""
        if isinstance(message, Response):
            return cls(message, call_id, message.start_line, cseq, "", message.status)
        return cls(
            message, call_id, message.start_line, cseq, message.method if isinstance(message, Request) else "", 0
        )

    @classmethod
    def in_octets(cls, data: bytes) -> Seen:
        """Read what leaves: not all of it is SIP."""
        try:
            return cls.of(parse(data))
        except (ParseError, IndexError):
            return cls(None, "", data.partition(b"\r\n")[0].decode("latin-1"), "", "", 0)


def _call_id_in(data: bytes) -> str:
    """Return the Call-ID of what leaves, as the server writes messages or as they came."""
    found = _CALL_ID.search(data)
    return found[1].decode("latin-1") if found is not None else ""


class Event:
    """One event: with or without the whole message, as data and as the line that tells of it."""

    __slots__ = ("_data", "_lines", "_octets")

    def __init__(self, data: Node, octets: bytes | None = None) -> None:
        self._data, self._octets = data, octets
        self._lines: dict[bool, bytes] = {}

    def data(self, *, whole: bool) -> Node:
        """Return it with texts as Unicode; ``whole``: messages with all of their text."""
        data: Node = self._data
        if whole and self._octets is not None:
            data = data | {"message": self._octets.decode("latin-1")}
        made: Node = with_unicode(data)
        return made

    def line(self, *, whole: bool) -> bytes:
        """Return the JSON-RPC notification, without a newline."""
        line = self._lines.get(whole)
        if line is None:
            told = {"jsonrpc": "2.0", "method": "trace.event", "params": self.data(whole=whole)}
            line = self._lines[whole] = json.dumps(told, separators=(",", ":")).encode()
        return line


class Watch:
    """Somebody who has attached."""

    def __init__(self, wanted: Filter, give: Callable[[Event], bool], *, once: bool = False) -> None:
        """``give``: take an event, or tell that there is no room for it. ``once``: the first transaction is enough."""
        self.wanted, self._give, self._once = wanted, give, once
        self.lost = 0  # events since the last that was taken
        self.is_over = False  # the transaction of ``once``
        self._followed: dict[str, None] = {}  # Call-IDs, the oldest first
        self._first: Seen | None = None  # of ``once``
        self._came_in = False  # so did the first

    @property
    def waits_for_the_end(self) -> bool:
        """Whether a message may match when it has been through its blocks."""
        return bool(self.wanted.ip) and self._first is None

    def follows(self, call_id: str) -> bool:
        """Tell whether what belongs to this call is shown. Who wants everything is shown what belongs to none, too."""
        return call_id in self._followed or (not self._once and self.wanted == _ALL)

    def takes_malformed(self, host: str) -> bool:
        """Tell whether what is no proper message and comes from ``host`` is shown: of which call and user it is nobody knows."""
        wanted = self.wanted
        return (
            not wanted.call_id and not wanted.user and wanted.ip in ("", canonical_host(host)) and self._first is None
        )

    def may_want(self, data: bytes) -> bool:
        """Tell whether ``data`` is worth a look: it is not when it has nothing of what is wanted, nor of what is followed."""
        if self.wanted.ip or self.wanted == _ALL:
            return True
        word = self.wanted.call_id or self.wanted.user.partition("@")[0]
        return word.encode("latin-1") in data or (bool(self._followed) and self.follows(_call_id_in(data)))

    def look(self, seen: Seen, host: str, *, came_in: bool) -> None:
        """Follow the call of a message that matches."""
        if seen.call_id in self._followed or self._first is not None or not self.wanted.takes(seen, host):
            return
        if self._once:
            self._first, self._came_in = seen, came_in
        if len(self._followed) >= _MOST_CALLS:
            del self._followed[next(iter(self._followed))]
        self._followed[seen.call_id] = None

    def give(self, event: Event) -> bool:
        """Hand an event over, behind the number of those that are lost; tell whether it is not one of them."""
        given = self.tell_of_loss() and self._give(event)
        if not given and not self.is_over:
            self.lost += 1
        return given

    def tell_of_loss(self) -> bool:
        """Hand over how many events are lost; tell whether nothing of that is left to be told."""
        if self.lost and self._give(Event({"event": "lost", "count": self.lost})):
            self.lost = 0
        return not self.lost

    def is_done(self, came: list[Seen], went: list[Seen], waiting: set[tuple[str, str]]) -> bool:
        """Tell whether the first transaction is over after a turn in which these messages came and went.

        ``waiting``: Call-ID and CSeq of the requests whose route blocks have made a transaction.
        """
        first = self._first
        if first is None:
            return False
        answers = went if self._came_in else came
        if any(one.status >= _FINAL and (one.call_id, one.cseq) == (first.call_id, first.cseq) for one in answers):
            return True
        if not self._came_in:
            return first.method in ("", "ACK")
        is_new = any(one.message is first.message for one in came)
        return is_new and (first.method in ("", "ACK") or (first.call_id, first.cseq) not in waiting)


class Tracer:
    """Looks on for all who have attached (``router.Onlooker``)."""

    def __init__(self, router: Router, probes: Probes, clock: Callable[[], float], timer: Callable[[], float]) -> None:
        """``clock``: seconds since the epoch; ``timer``: seconds, of any beginning."""
        self._router, self._probes, self._clock = router, probes, clock
        self._recorder = Recorder(router.services.variables, timer)
        self._watches: list[Watch] = []
        self._depth = self._kept = 0  # blocks that run inside of each other, and those of them that are kept
        # of this turn:
        self._events: list[
            tuple[str | None, str, Event]
        ] = []  # with the Call-ID, None and the host for what is malformed
        self._came: list[Seen] = []
        self._waiting: set[tuple[str, str]] = set()

    def attach(self, watch: Watch) -> None:
        """Begin to tell ``watch``."""
        if not self._watches:
            self._router.look(self, on=True)
            self._probes.watch(self._recorder.called)
        self._watches.append(watch)

    def detach(self, watch: Watch) -> None:
        """Tell ``watch`` no more; nothing happens when it is not attached."""
        if watch not in self._watches:
            return
        self._watches.remove(watch)
        if not self._watches:
            self._router.look(self, on=False)
            self._probes.unwatch(self._recorder.called)
            self._forget()

    def go_on(self, watch: Watch) -> None:
        """Tell ``watch``, which has room again, what there was none for: nothing else may happen for long."""
        if watch in self._watches:
            watch.tell_of_loss()
            self._end(watch)

    def _end(self, watch: Watch) -> None:
        if watch.is_over and watch.give(Event({"event": "end"})):  # else there is no room for it yet
            self.detach(watch)

    # ---- the router tells
    def follow(self, process: Process[None], message: Message, flow: Flow, now: float) -> Process[None]:
        """A message has come in."""
        seen = Seen.of(message)
        for watch in self._watches:
            watch.look(seen, flow.host, came_in=True)
        if self._wanted(seen.call_id):
            self._came.append(seen)
            self._note(seen.call_id, self._message("received", seen, flow), message.raw)
        return process

    def malformed(self, data: bytes, flow: Flow, cause: str, *, answered: bool) -> None:
        """Something has come in that is no proper message."""
        if any(watch.takes_malformed(flow.host) for watch in self._watches):
            line = data.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r")[:_LONGEST_LINE].decode("latin-1")
            node: Node = {
                "event": "malformed",
                "time": self._clock(),
                "octets": len(data),
                "line": line,
                "cause": cause,
            }
            node |= {"answered": answered, **_places(flow)}
            self._events.append((None, flow.host, Event(node, data)))

    def began(self, ctx: RouteContext) -> None:
        """A route block begins."""
        self._depth += 1
        if self._kept or (self._depth == 1 and self._wanted(_call_id(ctx))):
            self._kept += 1
            self._recorder.began(ctx, self._router.block(ctx.shared.version, ctx.kind, ctx.callback).engine)

    def ended(self, ctx: RouteContext, seconds: float) -> None:
        """A route block has ended."""
        self._depth -= 1
        if not self._kept:
            return
        self._kept -= 1
        block = self._recorder.ended(ctx, seconds)
        if self._kept:
            return
        call_id = _call_id(ctx)
        if ctx.kind is Route.REQUEST and ctx.transaction is not None:
            self._waiting.add((call_id, ctx.message.get("cseq") or ""))
        self._note(call_id, {"event": "block", "time": self._clock(), "call_id": call_id, **block})

    def sent(self, items: list[tuple[bytes, Flow]]) -> None:
        """A turn ends, and ``items`` leave: tell of it."""
        went: list[Seen] = []
        for data, flow in items:
            if not any(watch.may_want(data) for watch in self._watches):
                continue
            seen = Seen.in_octets(data)
            for watch in self._watches:
                watch.look(seen, flow.host, came_in=False)
            if self._wanted(seen.call_id):
                went.append(seen)
                self._note(seen.call_id, self._message("sent", seen, flow), data)
        events, came, waiting = self._events, self._came, self._waiting
        self._forget()
        for watch in self._watches.copy():
            for call_id, host, event in events if not watch.is_over else ():
                if watch.follows(call_id) if call_id is not None else watch.takes_malformed(host):
                    watch.give(event)
            watch.is_over = watch.is_over or watch.is_done(came, went, waiting)
            self._end(watch)

    def _forget(self) -> None:
        self._events, self._came, self._waiting = [], [], set()

    def _wanted(self, call_id: str) -> bool:
        """Tell whether anybody wants what belongs to this call, or may want it at the end of the turn."""
        return any(watch.follows(call_id) or watch.waits_for_the_end for watch in self._watches)

    def _note(self, call_id: str, data: Node, octets: bytes | None = None) -> None:
        self._events.append((call_id, "", Event(data, octets)))

    def _message(self, kind: str, seen: Seen, flow: Flow) -> Node:
        node: Node = {"event": kind, "time": self._clock(), "call_id": seen.call_id, "line": seen.line}
        return node | {"cseq": seen.cseq, **_places(flow)}


def _places(flow: Flow) -> Node:
    return {"peer": f"{flow.listener.proto}:{bracketed(flow.host)}:{flow.port}", "local": str(flow.listener)}


def _call_id(ctx: RouteContext) -> str:
    return ctx.message.get("call-id") or ""


class Tracing:
    """The commands of the tracer."""

    def __init__(self, tracer: Tracer, json_rpc: JsonRpc) -> None:
        self._tracer, self._rpc = tracer, json_rpc

    @rpc("trace.attach")
    def attach(
        self, call_id: str = "", user: str = "", ip: str = "", messages: int = 0, once: int = 0
    ) -> dict[str, Any]:
        """Tell what runs for the messages that match, in notifications on this connection, until it closes.

        ``messages`` 1: with their whole text; ``once`` 1: until the first matching transaction is over.
        """
        client = self._rpc.client
        if client is None:
            raise RpcError(INVALID_REQUEST, "trace.attach: expected a connection to the control socket")
        if ip and to_ip(ip) is None:
            raise RpcError(INVALID_PARAMS, f"trace.attach: ip: expected an IP address, got {ip!r}")
        wanted = Filter(call_id, user, canonical_host(ip) if ip else "")
        watch = Watch(wanted, lambda event: client.push(event.line(whole=bool(messages))), once=bool(once))
        self._tracer.attach(watch)
        client.closed.append(lambda: self._tracer.detach(watch))
        client.relieved.append(lambda: self._tracer.go_on(watch))
        return {"call_id": call_id, "user": user, "ip": wanted.ip}
