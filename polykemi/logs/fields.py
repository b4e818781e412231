"""What a log line carries besides its text: which message, route block and line of a script it is about.

The context is the one that the record names (``extra={"about": ctx}``), else that of the route block that runs, or has just
run for the message that is still worked on. Nothing of this is worked out before a line is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final

from polykemi.errors import ScriptError, SipError
from polykemi.kemi.binding import BOUND_CODE
from polykemi.kemi.context import RouteContext
from polykemi.kemi.faked import FAKED_MESSAGE
from polykemi.kemi.route import ONSEND_ROUTE, REPLY_ROUTE, REQUEST_ROUTE, ROUTE_NAMES
from polykemi.sip.uri import parse_uri

FIELDS: Final = ("call_id", "from_user", "method", "status", "src", "route", "at", "version", "call")  # in this order

_NAMELESS: Final = (REQUEST_ROUTE, REPLY_ROUTE, ONSEND_ROUTE)


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
            found: dict[str, str | int | None] = record.__dict__.get("fields") or (
                {} if ctx is None else _of_context(ctx)
            )
            found |= self._place(record)
            return {name: value for name in self._names if (value := found.get(name)) not in (None, "", 0)}
        except Exception:  # noqa: BLE001 - a line that says less is better than none
            return {}
        finally:
            self._busy = False

    def _place(self, record: logging.LogRecord) -> dict[str, str]:
        """Return where in the script, and in which KSR call, a record was caused."""
        error = record.__dict__.get("error")
        if isinstance(error, ScriptError):
            return {"at": f"{error.file}:{error.line}" if error.line else error.file, "call": _call_of(error)}
        if "at" in record.__dict__ or record.thread != self.thread:
            return {"at": record.__dict__.get("at", "")}
        return {"at": self._where()}

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
    name = ROUTE_NAMES[ctx.kind]
    return name if ctx.callback in _NAMELESS else f"{name}:{ctx.callback}"


def _of_context(ctx: RouteContext) -> dict[str, Any]:
    version = ctx.shared.version
    fields: dict[str, Any] = {"route": route_name(ctx), "version": None if version is None else version.number}
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


def _call_of(error: ScriptError) -> str:
    """Return the KSR function that an error came out of, as ``KSR.sl.send_reply``; "" when it came from the script."""
    if error.call:
        return error.call
    cause = error.__cause__ or error.__context__
    call, frames = "", cause.__traceback__ if cause is not None else None
    while frames is not None:
        if frames.tb_frame.f_code.co_filename == BOUND_CODE:
            call = str(frames.tb_frame.f_globals["PATH"])
        frames = frames.tb_next
    return call


_READ: Final[dict[str, Callable[[RouteContext], str]]] = {
    "call_id": lambda ctx: ctx.message.call_id,
    "from_user": lambda ctx: parse_uri(ctx.message.from_.uri).user,
    "method": lambda ctx: ctx.method,
}
