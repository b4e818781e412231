"""Looks at single messages closely: what belongs to one caller is logged at level debug while all else stays as it is.

A watch names a Call-ID, a source address or a user. A message that fits is followed by its Call-ID, so that replies, the
other leg and what timers do is seen too. While such a message is worked on the levels of all loggers are lowered; that is
no more often than messages are watched, so nobody else pays for it. The router's own steps are written here.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from polykemi.errors import SipError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.faked import FAKED_MESSAGE
from polykemi.kemi.log_levels import Levels
from polykemi.kemi.route import ROUTE_NAMES, Route
from polykemi.sip.flow import Flow
from polykemi.sip.message import Message, Request
from polykemi.sip.uri import parse_uri

log = logging.getLogger("polykemi.router")

KINDS: Final = ("call_id", "source", "user")
MOST: Final = 32  # watches
SECONDS: Final = 600.0  # how long a watch lasts by default
LONGEST: Final = 86_400.0
_FOLLOWED: Final = 1024  # Call-IDs that are followed for one watch; beyond that its own test alone counts

# Call-ID, and the method in CSeq
_HEADERS: Final = (
    re.compile(rb"\r\n(?:Call-ID|i)[ \t]*:[ \t]*([^\r]*?)[ \t]*\r\n", re.IGNORECASE),
    re.compile(rb"\r\nCSeq[ \t]*:[ \t]*[0-9]+[ \t]+([^\s]+)", re.IGNORECASE),
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(eq=False, slots=True)
class Watch:
    """One of them, until ``ends`` (seconds since the epoch)."""

    kind: str
    value: str
    ends: float
    fits: Callable[[Message, Flow], bool]
    messages: int = 0  # that were watched because of it
    calls: set[str] = field(default_factory=set)  # Call-IDs of messages that fit


class Watches:
    """The watches of a server. An onlooker of the router (``router.Onlooker``) while there are some, or its level is debug."""

    def __init__(self, levels: Levels, look: Callable[[Watches, bool], None]) -> None:
        """``look``: is told whether messages are to be shown here."""
        self._levels, self._look = levels, look
        self._watches: list[Watch] = []
        self._blocks: list[bool] = []  # of the blocks that run: whether levels were lowered for it
        levels.on_change = self._see

    def _see(self) -> None:
        self._look(self, bool(self._watches) or log.isEnabledFor(logging.DEBUG))

    # ---- what is watched
    def add(self, kind: str, value: str, seconds: float, now: float) -> Watch:
        """Begin a watch, or set the end of one that there is, ``seconds`` from now. Raise ValueError."""
        if not 0 < seconds <= LONGEST:
            raise ValueError(f"expected seconds, more than 0 and at most {LONGEST:g}, got {seconds:g}")
        self._end(now)
        fits = _test(kind, value)
        watch = next((one for one in self._watches if (one.kind, one.value) == (kind, value)), None)
        if watch is None:
            if len(self._watches) >= MOST:
                raise ValueError(f"there are {MOST} watches already")
            watch = Watch(kind, value, 0.0, fits, calls={value} if kind == "call_id" else set())
            self._watches.append(watch)
        watch.ends = now + seconds
        log.info("watching %s %s for %g s", kind, value, seconds)
        self._see()
        return watch

    def remove(self, kind: str = "", value: str = "") -> int:
        """End a watch, or all; return how many there were."""
        gone = [one for one in self._watches if not kind or (one.kind, one.value) == (kind, value)]
        self._watches = [one for one in self._watches if one not in gone]
        self._see()
        return len(gone)

    def all(self, now: float) -> list[Watch]:
        """Return the watches, the oldest first."""
        self._end(now)
        return list(self._watches)

    def _end(self, now: float) -> None:
        """Forget what is over."""
        over = [one for one in self._watches if one.ends <= now]
        for one in over:
            self._watches.remove(one)
            log.info("no longer watching %s %s: %d messages", one.kind, one.value, one.messages)
        if over:
            self._see()

    def _watching(self, message: Message, flow: Flow, now: float) -> bool:
        try:
            call_id = message.call_id
        except SipError:
            call_id = ""
        watched = over = False
        for one in self._watches:
            over = over or one.ends <= now
            fits = one.fits(message, flow)
            if (fits or call_id in one.calls) and one.ends > now:
                watched = True
                one.messages += 1
                if fits and call_id and len(one.calls) < _FOLLOWED:
                    one.calls.add(call_id)
        if over:
            self._end(now)
        return watched

    # ---- the router's steps (router.Onlooker)
    def follow(self, process: Process[None], message: Message, flow: Flow, now: float) -> Process[None]:
        """Return ``process`` of a message that has come in, in something that shows it when it is watched."""
        if self._watching(message, flow, now):
            return self._show(process, message, flow, now, lower=True)
        return self._show(process, message, flow, now, lower=False) if log.isEnabledFor(logging.DEBUG) else process

    def _show(self, process: Process[None], message: Message, flow: Flow, now: float, *, lower: bool) -> Process[None]:
        about = {"about": RouteContext(Route.REQUEST, "", message, flow, now), "at": ""}
        if lower:
            self._levels.lower()
        try:
            log.debug("received %s from %s", _start_line(message.raw), flow.peer, extra=about)
            yield from process
        finally:
            if lower:
                self._levels.restore()

    def malformed(self, data: bytes, flow: Flow, cause: str, *, answered: bool) -> None:
        """The router's own line tells of it."""

    def began(self, ctx: RouteContext) -> None:
        """A route block begins; one that a timer runs has no message that came in."""
        lower = not self._levels.is_lowered and self._is_followed(ctx)
        if lower:
            self._levels.lower()
        self._blocks.append(lower)
        log.debug("%s %s begins", ROUTE_NAMES[ctx.kind], ctx.callback, extra={"about": ctx, "at": ""})

    def ended(self, ctx: RouteContext, seconds: float) -> None:
        """A route block has ended."""
        log.debug(
            "%s %s ended after %d us",
            ROUTE_NAMES[ctx.kind],
            ctx.callback,
            seconds * 1e6,
            extra={"about": ctx, "at": ""},
        )
        if self._blocks and self._blocks.pop():
            self._levels.restore()

    def sent(self, items: list[tuple[bytes, Flow]]) -> None:
        """These leave, also by a timer."""
        for data, flow in items:
            call_id, method = (found[1].decode("latin-1") if (found := one.search(data)) else "" for one in _HEADERS)
            lower = not self._levels.is_lowered and self._follows(call_id)
            if lower:
                self._levels.lower()
            fields = {"call_id": call_id, "method": method}
            log.debug("sends %s to %s", _start_line(data), flow.peer, extra={"fields": fields})
            if lower:
                self._levels.restore()

    def _is_followed(self, ctx: RouteContext) -> bool:
        if not self._watches or ctx.message is FAKED_MESSAGE:
            return False
        try:
            return self._follows(ctx.message.call_id)
        except SipError:
            return False

    def _follows(self, call_id: str) -> bool:
        return any(call_id in one.calls for one in self._watches)


def _test(kind: str, value: str) -> Callable[[Message, Flow], bool]:
    """Return the test of a watch. Raise ValueError."""
    if not value:
        raise ValueError("expected a value to watch")
    if kind == "call_id":
        return lambda message, _: message.get("call-id") == value
    if kind == "user":
        return lambda message, _: names(message, value)
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"expected an IP address or network, got {value!r}") from None
    return lambda _, flow: _is_from(flow, network)


def names(message: Message, wanted: str) -> bool:
    """Tell whether ``wanted``, a user or user@domain, is caller or callee: in From, To or the Request-URI that can be read."""
    user, at, host = wanted.partition("@")
    for text in _uris(message):
        try:
            uri = parse_uri(text)
        except SipError:
            continue
        if uri.user == user and (not at or uri.host.lower() == host.lower()):
            return True
    return False


def _uris(message: Message) -> Iterator[str]:
    if isinstance(message, Request):
        yield message.uri
    for name in ("from_", "to"):
        try:
            yield getattr(message, name).uri
        except SipError:
            continue


def _is_from(flow: Flow, network: Network) -> bool:
    try:
        return ipaddress.ip_address(flow.host) in network
    except ValueError:
        return False


def _start_line(data: bytes) -> str:
    return data.lstrip(b"\r\n").partition(b"\r\n")[0].decode("latin-1")
