"""KSR.hdr: headers read, and edits that the next hop sees (Kamailio: core/kemi.c, sr_kemi_hdr).

As in Kamailio all reading is of the message as it came; edits are applied when the message is built.
"""

from __future__ import annotations

import logging

from polykemi.kemi.context import RouteContext
from polykemi.kemi.limits import check_header
from polykemi.kemi.posix import BadPattern, compile_posix
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module
from polykemi.pv.classes.factories import at_value
from polykemi.pv.classes.message import header_values
from polykemi.sip.header import canonical_names, is_header_lines

log = logging.getLogger("polykemi.script")


def header_lines(text: str) -> str | None:
    """Return one or more header lines without the last line end; None when ``text`` is not made of header lines."""
    lines = text.rstrip("\r\n")
    if is_header_lines(lines):
        return lines
    log.error("hdr: %r is no header line", text[:200])
    return None


def matches(content: str, operator: str, value: str) -> bool:
    """Compare without case: eq, ne, sw (starts with), in (contains), re (expression)."""
    if operator == "re":
        try:
            return compile_posix(value).matches(content)
        except BadPattern as error:
            log.error("hdr.match_content: %s", error)
            return False
    content, value = content.lower(), value.lower()
    if operator == "eq":
        return content == value
    if operator == "ne":
        return content != value
    if operator == "sw":
        return content.startswith(value)
    if operator == "in":
        return value in content
    log.error("hdr.match_content: %r is none of eq, ne, sw, in, re", operator)
    return False


class Hdr(Module):
    """Headers of the current message."""

    name = "hdr"

    # ---- edits
    def _insert(self, ctx: RouteContext, place: int, text: str) -> int:
        lines = header_lines(text)
        if lines is None:
            return -1
        check_header(lines, len(ctx.edits.inserts), self.services.limits)
        ctx.edits.inserts.append((place, lines))
        return 1

    @export()
    def append(self, ctx: RouteContext, text: str) -> int:
        """Add header lines behind the last header. The text carries its own CRLF."""
        return self._insert(ctx, len(ctx.message.lines), text)

    @export()
    def append_after(self, ctx: RouteContext, text: str, name: str) -> int:
        """Add header lines behind the first header ``name``; behind the last header when there is none."""
        places = ctx.message.indexes(canonical_names[name])
        return self._insert(ctx, places[0] + 1 if places else len(ctx.message.lines), text)

    @export()
    def insert(self, ctx: RouteContext, text: str) -> int:
        """Add header lines before the first header."""
        return self._insert(ctx, 0, text)

    @export()
    def insert_before(self, ctx: RouteContext, text: str, name: str) -> int:
        """Add header lines before the first header ``name``; before the first header when there is none."""
        places = ctx.message.indexes(canonical_names[name])
        return self._insert(ctx, places[0] if places else 0, text)

    @export()
    def remove(self, ctx: RouteContext, name: str) -> int:
        """Remove all headers ``name``, whatever their case, compact forms included; -1 for an empty name."""
        if not name:
            return -1
        ctx.edits.removed.update(ctx.message.indexes(canonical_names[name]))
        return 1

    @export()
    def rmappend(self, ctx: RouteContext, name: str, text: str) -> int:
        """Remove all headers ``name`` and add header lines behind the last header."""
        return self.append(ctx, text) if self.remove(ctx, name) > 0 else -1

    @export()
    def rminsert(self, ctx: RouteContext, name: str, text: str) -> int:
        """Remove all headers ``name`` and add header lines before the first header."""
        return self.insert(ctx, text) if self.remove(ctx, name) > 0 else -1

    @export(routes=Route.ANY & ~(Route.REPLY | Route.ONREPLY))
    def append_to_reply(self, ctx: RouteContext, text: str) -> int:
        """Add header lines to the replies that this server sends to the request."""
        lines = header_lines(text)
        if lines is None:
            return -1
        check_header(lines, len(ctx.reply_headers), self.services.limits)
        ctx.reply_headers.append(lines)
        return 1

    # ---- reading
    @export()
    def is_present(self, ctx: RouteContext, name: str) -> int:
        """Tell whether the message has a header ``name``: 1 or -1."""
        return 1 if canonical_names[name] in ctx.message.names else -1

    @export()
    def get(self, ctx: RouteContext, name: str) -> Xval:
        """Return the value of the first header ``name``; null when there is none."""
        return ctx.message.get(canonical_names[name])

    @export()
    def gete(self, ctx: RouteContext, name: str) -> Xval:
        """Return the value of the first header ``name``; empty when there is none."""
        return ctx.message.get(canonical_names[name]) or ""

    @export()
    def getw(self, ctx: RouteContext, name: str) -> Xval:
        """Return the value of the first header ``name``; ``<null>`` when there is none."""
        value = ctx.message.get(canonical_names[name])
        return "<null>" if value is None else value

    @export()
    def get_idx(self, ctx: RouteContext, name: str, index: int) -> Xval:
        """Return the value of a header ``name`` by position, negative from the end; null when there is none."""
        return at_value(header_values(ctx.message, name), index)

    @export()
    def gete_idx(self, ctx: RouteContext, name: str, index: int) -> Xval:
        """Return the value of a header ``name`` by position, negative from the end; empty when there is none."""
        return self.get_idx(ctx, name, index) or ""

    @export()
    def getw_idx(self, ctx: RouteContext, name: str, index: int) -> Xval:
        """Return the value of a header ``name`` by position, negative from the end; ``<null>`` when there is none."""
        value = self.get_idx(ctx, name, index)
        return "<null>" if value is None else value

    @export()
    def match_content(self, ctx: RouteContext, name: str, operator: str, value: str, which: str) -> bool:
        """Compare headers ``name`` with ``value``, without case.

        ``operator``: eq, ne, sw (starts with), in (contains), re (expression); ``which``: f the first, l the last,
        a all, o at least one.
        """
        values = header_values(ctx.message, name)
        choice = which[:1]
        if choice in ("f", "l"):
            values = values[:1] if choice == "f" else values[-1:]
        elif choice not in ("a", "o"):
            log.error("hdr.match_content: %r is none of f, l, a, o", which)
            return False
        results = [matches(content, operator, value) for content in values]
        return bool(results) and (any(results) if choice == "o" else all(results))
