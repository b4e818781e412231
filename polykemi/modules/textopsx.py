"""textopsx: changes made now, not when the message is sent; values of headers; iterators (Kamailio: modules/textopsx).

The functions on values are in ``textopsx_headers.py``, the iterators in ``textopsx_iterators.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi import glob
from polykemi.kemi.context import RouteContext
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.kemi.splice import splice_body
from polykemi.modules.textops_parts import MULTIPART, closing
from polykemi.modules.textopsx_headers import HeaderValues
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import named
from polykemi.sip.build import with_edits
from polykemi.sip.message import Edits, Request, Response, parse

log = logging.getLogger("polykemi.script")

_MAX_MESSAGE: Final = 65535  # octets of a message (Kamailio: BUF_SIZE)
_HERE: Final = Route.REQUEST | Route.REPLY | Route.ONREPLY  # where the message may be made anew
_REPLIES: Final = Route.REPLY | Route.ONREPLY
# what a message needs on its way: keep_hf leaves it
_KEPT: Final = frozenset(
    ("from", "to", "call-id", "cseq", "via", "contact", "content-length", "content-type", "route", "record-route")
) | {"max-forwards"}


class TextOpsX(HeaderValues):
    """More text operations on messages."""

    name = "textopsx"

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $hfitname, $hfitbody and $blitval: what an iterator is at."""
        return {
            "hfitname": named(self.hf_iterator_hname),
            "hfitbody": named(self.hf_iterator_hbody),
            "blitval": named(self.bl_iterator_value),
        }

    # ---- the message made anew
    @export(routes=_HERE, renews=True)
    def msg_apply_changes(self, ctx: RouteContext) -> int:
        """Apply what was changed now: from here on the script sees the new message. Answers 1.

        Answers -1 behind record_route, elsewhere than in request and reply routes, and when the message cannot be
        built. What was to go into replies (append_to_reply, set_reply_body) is forgotten.
        """
        message = ctx.message
        if any(text in ctx.shared.record_routes for _, text in ctx.edits.inserts):
            log.error(
                "textopsx.msg_apply_changes: not possible behind record_route, which waits for where the message goes"
            )
            return -1
        start_line = message.start_line
        if isinstance(message, Request):
            start_line = f"{message.method} {ctx.ruri} {message.version}"
        return _renew(ctx, with_edits(message, ctx.edits, start_line))

    @export(routes=_HERE, renews=True)
    def msg_set_buffer(self, ctx: RouteContext, text: str) -> int:
        """Put another message in the place of this one. Answers 1, -1 when there is none or it is too long, 0 for none of SIP."""
        if not text:
            return -1
        return _renew(ctx, text.encode("latin-1"))

    @export()
    def remove_body(self, ctx: RouteContext) -> int:
        """Remove the body; its Content-Type stays. Answers 1."""
        if ctx.message.body:
            ctx.edits.body = b""
        return 1

    # ---- replies
    @export(routes=_REPLIES, renews=True)
    def change_reply_status(self, ctx: RouteContext, code: int, reason: str) -> int:
        """Change status and reason phrase of the reply within its class; a negative one may become any negative one.

        Answers 1 or -1. The script sees the new status, and the old reason.
        """
        return _restate(ctx, code, reason) if reason else -1

    @export(routes=_REPLIES, renews=True)
    def change_reply_status_code(self, ctx: RouteContext, code: int) -> int:
        """Change the status of the reply and leave its reason phrase. Answers like ``change_reply_status``."""
        message = ctx.message
        return _restate(ctx, code, message.start_line[12:].lstrip(" ")) if isinstance(message, Response) else -1

    # ---- headers
    @export()
    def keep_hf(self, ctx: RouteContext) -> int:
        """Remove all headers but those that a message needs (Via, From, Route, Contact, ...). Answers -1, as Kamailio."""
        return _keep(ctx, "")

    @export()
    def keep_hf_re(self, ctx: RouteContext, pattern: str) -> int:
        """Remove all headers but those that a message needs and whose name matches. Answers -1, as Kamailio."""
        return _keep(ctx, pattern)

    # ---- strings
    @export()
    def fnmatch(self, ctx: RouteContext, text: str, pattern: str) -> int:
        """Match ``text`` with a pattern of file names (``*``, ``?``, ``[a-z]``). Answers 0, as Kamailio, or -1."""
        return 0 if glob.matches(text, pattern) else -1

    @export()
    def fnmatch_ex(self, ctx: RouteContext, text: str, pattern: str, flags: str) -> int:
        """Match as ``fnmatch`` does, with ``flags`` "i" without case. Answers 0, as Kamailio, or -1."""
        return 0 if glob.matches(text, pattern, ignore_case=flags[:1] in ("i", "I")) else -1


def _renew(ctx: RouteContext, data: bytes) -> int:
    """Let ``data`` be the message of this run; answer 1, -1 when it is too long, 0 when it cannot be."""
    if len(data) >= _MAX_MESSAGE:
        log.error("textopsx: the new message is too long: %d octets", len(data))
        return -1
    try:
        message = parse(data)
    except ParseError as error:
        log.error("textopsx: the new message is malformed, the old one stays: %s", error)
        return 0
    if message.is_request != ctx.message.is_request:
        log.error(
            "textopsx: the new message is no %s, the old one stays", "request" if ctx.message.is_request else "reply"
        )
        return 0
    ctx.message = message
    ctx.edits = Edits()
    ctx.reply_headers = []
    if ctx.cache.pop(MULTIPART, False) and (finish := closing(message.get("content-type") or "")):
        splice_body(message, ctx.edits, finish=finish)
    for derived in ("reply_body", "auth.authorized", "pv.credentials", "maxfwd"):
        ctx.cache.pop(derived, None)
    if isinstance(message, Request):
        ctx.ruri = message.uri
        if ctx.transaction is not None:
            ctx.transaction.renew(message)
    else:
        ctx.reply_status = message.status
    return 1


def _restate(ctx: RouteContext, code: int, reason: str) -> int:
    message = ctx.message
    if not isinstance(message, Response):
        return -1
    status = message.status
    if not 100 <= code <= 699 or ((code < 300 or status < 300) and code // 100 != status // 100):
        log.error("textopsx.change_reply_status: a reply %d cannot become %d", status, code)
        return -1
    if "\r" in reason or "\n" in reason:
        log.error("textopsx.change_reply_status: a reason phrase is one line")
        return -1
    start_line = f"SIP/2.0 {code} {reason}"
    changed = Response(
        start_line.encode("latin-1") + message.raw[len(message.start_line) :],
        start_line,
        message.lines,
        len(start_line) + len(message.raw) - len(message.start_line) - message.body_size,
    )
    changed.reason = message.reason  # the new one is seen by the next hop
    ctx.message = changed
    ctx.reply_status = code
    return 1


def _keep(ctx: RouteContext, pattern: str) -> int:
    try:
        compiled = compile_posix(pattern) if pattern else None
    except BadPattern as error:
        log.error("textopsx.keep_hf: %s", error)
        return -1
    message = ctx.message
    for i, name in enumerate(message.names):
        if name not in _KEPT and not (compiled and compiled.matches(message.shape.written[i][:-1])):
            ctx.edits.removed.add(i)
    return -1
