"""What a log line carries besides its text: which message, route block and line of a script it is about.

The context is the one that the record names (``extra={"about": ctx}``), else that of the route block that runs, or has just
run for the message that is still worked on. Nothing of this is worked out before a line is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any, Final

from polykemi.errors import SipError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import FAKED_MESSAGE
from polykemi.kemi.route import CONFIG_NAMES, Route
from polykemi.sip.uri import parse_uri

FIELDS: Final = ("call_id", "from_user", "method", "status", "src", "route", "at", "version", "call")  # in this order

_ROUTES: Final = {kind: name for name, kind in CONFIG_NAMES.items()}
_NAMELESS: Final = Route.REQUEST | Route.REPLY | Route.ONSEND


class Fields:
    """Finds the fields of a record. Only on the thread that routes messages: others know nothing of them."""

    def __init__(self, names: tuple[str, ...] = FIELDS) -> None:
        """``names``: the fields that are wanted."""
        self._names = names
        self._running: Callable[[], RouteContext | None] = lambda: None
        self._where: Callable[[], str] = lambda: ""
        self._prefix: Callable[[RouteContext], str] | None = None
        self.thread = get_ident()
        self._busy = False  # what is asked here may log something itself

    def attach(
        self,
        running: Callable[[], RouteContext | None],
        where: Callable[[], str],
        prefix: Callable[[RouteContext], str] | None = None,
    ) -> None:
        """Take the sources: the context that is worked on, ``file:line`` of the script's call that runs (or "").

        ``prefix``: gives what stands in front of the text while a message is worked on.
        """
        self._running, self._where, self._prefix = running, where, prefix

    def here(self) -> None:
        """Take the thread that calls for the one that routes messages."""
        self.thread = get_ident()

    def context(self, record: logging.LogRecord) -> RouteContext | None:
        """Return the context that a record is about."""
        about: RouteContext | None = record.__dict__.get("about")
        return self._running() if about is None and record.thread == self.thread else about

    def of(self, record: logging.LogRecord) -> dict[str, str | int]:
        """Return the fields by name, without those that there are none of."""
        if self._busy:
            return {}
        self._busy = True
        try:
            ctx = self.context(record)
            found: dict[str, str | int | None] = {} if ctx is None else dict(_of_context(ctx))
            found["at"] = record.__dict__.get("at") or (self._where() if record.thread == self.thread else "")
            found["call"] = record.__dict__.get("ksr_call")
            return {name: value for name in self._names if (value := found.get(name)) not in (None, "", 0)}  # type: ignore[misc]
        except Exception:  # noqa: BLE001 - a line that says less is better than none
            return {}
        finally:
            self._busy = False

    def prefix(self, record: logging.LogRecord) -> str:
        """Return what stands in front of the text of a record."""
        if self._prefix is None or self._busy or record.thread != self.thread:
            return ""
        ctx = self.context(record)
        if ctx is None or ctx.message is FAKED_MESSAGE:
            return ""
        self._busy = True
        try:
            return self._prefix(ctx)
        except Exception:  # noqa: BLE001 - as above
            return ""
        finally:
            self._busy = False


def route_name(ctx: RouteContext) -> str:
    """Return the route block of a context as ``[routes]`` names it: ``request_route``, ``failure_route:ksr_failure_manage``."""
    if not ctx.callback:
        return ""
    name = _ROUTES[ctx.kind]
    return name if ctx.kind & _NAMELESS else f"{name}:{ctx.callback}"


def _of_context(ctx: RouteContext) -> Mapping[str, Any]:
    fields: dict[str, Any] = {"route": route_name(ctx)}
    if ctx.message is FAKED_MESSAGE:
        return fields
    fields["src"] = ctx.flow.peer
    fields["status"] = ctx.reply_status
    for name, read in _READ.items():
        try:
            fields[name] = read(ctx)
        except SipError:  # a header that cannot be read
            continue
    return fields


_READ: Final[dict[str, Callable[[RouteContext], str]]] = {
    "call_id": lambda ctx: ctx.message.call_id,
    "from_user": lambda ctx: parse_uri(ctx.message.from_.uri).user,
    "method": lambda ctx: ctx.method,
}
