"""xhttp: HTTP requests that come to the SIP ports, as event route blocks (Kamailio: xhttp)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from polykemi.kemi.context import RouteContext
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module, Services
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import plain
from polykemi.pv.transformations.shape import Step
from polykemi.sip.flow import Flow
from polykemi.sip.http import parse_request
from polykemi.sip.message import Request

log = logging.getLogger("polykemi.script")

EVENT: Final = "xhttp:request"


@dataclass(frozen=True, slots=True)
class XhttpParams:
    """Kamailio's names. Without ``event_callback``, the script's function, HTTP requests are dropped."""

    url_match: str = ""  # regular expression: requests for other URLs are not for this module
    url_skip: str = ""  # nor are requests for such URLs
    event_callback: str = ""

    def __post_init__(self) -> None:
        for name in ("url_match", "url_skip"):
            try:
                compile_posix(getattr(self, name))
            except BadPattern as error:
                raise ValueError(f"{name}: expected a regular expression: {error}") from None


class TakesHttp(Protocol):
    """What the router asks about what is no SIP message."""

    def take(self, data: bytes, flow: Flow, now: float) -> bool:
        """Take ``data``; False when it is not for this one."""


class HttpRequests:
    """HTTP requests of one module: those that its parameters want become event route blocks."""

    def __init__(self, services: Services, params: XhttpParams, event: str, methods: tuple[str, ...] = ()) -> None:
        """``methods``: which ones, all without."""
        self._services, self._event, self._methods = services, event, methods
        self._callback = params.event_callback
        self._match = compile_posix(params.url_match) if params.url_match else None
        self._skip = compile_posix(params.url_skip) if params.url_skip else None

    def take(self, data: bytes, flow: Flow, now: float) -> bool:
        """Take what is no SIP message; False when it is no HTTP request either, or nobody wants it."""
        request = parse_request(data, flow) if self._callback else None
        if request is None or (self._methods and request.method not in self._methods):
            return False
        if self._skip is not None and self._skip.matches(request.uri):
            return False
        if self._match is not None and not self._match.matches(request.uri):
            return False
        ctx = RouteContext(Route.EVENT, self._callback, request, flow, now)
        ctx.event = self._event
        ctx.ruri = ""  # the URL is no URI of SIP
        self._services.events.append(ctx)
        return True


class Xhttp(Module):
    """HTTP requests and replies to them."""

    name = "xhttp"
    Params = XhttpParams
    requires = ("sl",)
    events: ClassVar[Mapping[str, str]] = {
        EVENT: "an HTTP request has come to a SIP port; the block is to reply to it (xhttp_reply)"
    }

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.requests = HttpRequests(services, self.params, EVENT)

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $hu."""
        return {"hu": plain(_request_target)}

    def transformations(self) -> Mapping[str, Step]:
        """Return {url.path} and {url.querystring}."""
        return {
            "url.path": Step(lambda url: url.partition("?")[0]),
            "url.querystring": Step(lambda url: url.partition("?")[2]),
        }

    @export()
    def xhttp_reply(self, ctx: RouteContext, code: int, reason: str, ctype: str, body: str) -> int:
        """Reply with a body of the media type ``ctype`` ("": no Content-Type). Answers 0, or -1 (as of the second body)."""
        return 0 if self.reply(ctx, code, reason, ctype, body.encode("latin-1")) else -1

    def reply(self, ctx: RouteContext, code: int, reason: str, ctype: str, body: bytes) -> bool:
        """Reply for a module or the script; False when that has failed. What is set stays for further replies."""
        if "\r" in ctype or "\n" in ctype:
            log.error("xhttp.xhttp_reply: %r is no media type", ctype)
            return False
        if ctype:
            ctx.reply_headers.append("Content-Type: " + ctype)
        if body and ctx.cache.get("reply_body"):
            log.error("xhttp.xhttp_reply: the reply has a body already")
            return False
        if body:
            ctx.cache["reply_body"] = body
        return bool(self.services.modules["sl"].send_reply(ctx, code, reason) > 0)

    @export()
    def get_hu(self, ctx: RouteContext) -> Xval:
        """Return the URL that the request is for, as it came."""
        return _request_target(ctx)


def _request_target(ctx: RouteContext) -> Xval:
    return ctx.message.uri if isinstance(ctx.message, Request) else None
