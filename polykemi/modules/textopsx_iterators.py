"""KSR.textopsx: iterators over the headers and over the lines of the body."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.limits import check_header
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.splice import splice_body
from polykemi.modules.base import Module, Services
from polykemi.modules.hdr import header_lines
from polykemi.sip.grammar import LWS
from polykemi.sip.message import Message

log = logging.getLogger("polykemi.script")

_MAX_ITERATORS: Final = 4  # names that iterators may have while the server runs, as in Kamailio
_MAX_NAME: Final = 31


@dataclass(slots=True)
class HeaderIterator:
    """Where an iterator is. ``at`` and ``before``: line numbers, -1 for none."""

    message: Message | None = None
    at: int = -1
    before: int = -1
    ended: bool = False


@dataclass(slots=True)
class LineIterator:
    """Where an iterator over the lines of a text is: the line between ``start`` and ``end``, none when both are the same."""

    text: str = ""
    base: int = 0  # where the text begins in the body
    start: int = 0
    end: int = 0
    ended: bool = False

    def next(self) -> bool:
        """Go to the next line; tell whether there is one."""
        if self.ended or self.end >= len(self.text):
            self.ended, self.start, self.end = True, 0, 0
            return False
        self.start, line_end = self.end, self.text.find("\n", self.end)
        self.end = line_end + 1 or len(self.text)
        return True


def may_start(iterators: dict[str, Any], name: str) -> bool:
    """Tell whether ``name`` has an iterator or can get one."""
    if name in iterators:
        return True
    if not 0 < len(name) <= _MAX_NAME:
        log.error("textopsx: %r is no name of an iterator: 1 to %d characters", name[:100], _MAX_NAME)
        return False
    if len(iterators) >= _MAX_ITERATORS:
        log.error("textopsx: no iterator %r: there are %s already", name, ", ".join(iterators))
        return False
    return True


class LineIterators:
    """Iterators over the lines of bodies, by name. What they change is seen by the next hop."""

    def __init__(self) -> None:
        self._named: dict[str, LineIterator] = {}

    def start(self, name: str, text: str, base: int = 0) -> int:
        """Start one before the first line of ``text``, which begins at ``base`` in the body. Answer 1 or -1."""
        if not may_start(self._named, name):
            return -1
        self._named[name] = LineIterator(text, base)
        return 1

    def end(self, name: str) -> int:
        """End one. Answer 1, or -1 when it was never started."""
        if name not in self._named:
            return -1
        self._named[name] = LineIterator()
        return 1

    def next(self, name: str) -> int:
        """Go to the next line. Answer 1, or -1 when there is none."""
        it = self._get(name)
        return 1 if it is not None and it.next() else -1

    def value(self, name: str) -> str | None:
        """Return the line with its end, None when the iterator is at none."""
        it = self._get(name)
        return it.text[it.start : it.end] or None if it is not None else None

    def remove(self, ctx: RouteContext, name: str) -> int:
        """Remove the line. Answer 1, or -1 when the iterator is at none."""
        it = self._get(name)
        return self._splice(ctx, it, it.start, it.end, "") if it is not None else -1

    def append(self, ctx: RouteContext, name: str, text: str) -> int:
        """Add text behind the line. Answer 1, or -1 when the iterator is at none."""
        it = self._get(name)
        return self._splice(ctx, it, it.end, it.end, text) if it is not None else -1

    def insert(self, ctx: RouteContext, name: str, text: str) -> int:
        """Add text before the line. Answer 1, or -1 when the iterator is at none."""
        it = self._get(name)
        return self._splice(ctx, it, it.start, it.start, text) if it is not None else -1

    @staticmethod
    def _splice(ctx: RouteContext, it: LineIterator, start: int, end: int, text: str) -> int:
        if it.start == it.end:
            return -1
        splice_body(ctx.message, ctx.edits, (it.base + start, it.base + end, text))
        return 1

    def _get(self, name: str) -> LineIterator | None:
        it = self._named.get(name)
        if it is None:
            log.error("textopsx: no iterator %r was started", name)
        return it


class Iterators(Module):
    """Iterators have names, up to four in all. They see the message as it came; what they change is seen by the next hop."""

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._headers: dict[str, HeaderIterator] = {}
        self._lines = LineIterators()

    # ---- headers
    @export()
    def hf_iterator_start(self, ctx: RouteContext, iname: str) -> int:
        """Start an iterator before the first header. Answers 1 or -1."""
        if not may_start(self._headers, iname):
            return -1
        self._headers[iname] = HeaderIterator(ctx.message)
        return 1

    @export()
    def hf_iterator_end(self, ctx: RouteContext, iname: str) -> int:
        """End an iterator. Answers 1, or -1 when it was never started."""
        if iname not in self._headers:
            return -1
        self._headers[iname] = HeaderIterator()
        return 1

    @export()
    def hf_iterator_next(self, ctx: RouteContext, iname: str) -> int:
        """Go to the next header. Answers 1, or -1 when there is none."""
        it = self._header_iterator(ctx, iname)
        if it is None or it.ended:
            return -1
        if it.at >= 0:
            it.before = it.at
        it.at += 1
        if it.at >= len(ctx.message.lines):
            it.at, it.ended = -1, True
            return -1
        return 1

    @export()
    def hf_iterator_prev(self, ctx: RouteContext, iname: str) -> int:
        """Go to the header before; from the first one before it. Answers 1, or -1 behind the last."""
        it = self._header_iterator(ctx, iname)
        if it is None or it.ended:
            return -1
        if it.before < 0:
            it.at = -1
        elif it.before != it.at:
            it.at = it.before
        elif it.at >= 2:
            it.at, it.before = it.at - 1, it.at - 2
        else:
            it.at, it.before = (0 if it.at == 1 and len(ctx.message.lines) == 2 else -1), -1
        return 1

    @export()
    def hf_iterator_rm(self, ctx: RouteContext, iname: str) -> int:
        """Remove the header. Answers 1, or -1 when the iterator is at none."""
        it = self._header_iterator(ctx, iname)
        if it is None or it.at < 0:
            return -1
        ctx.edits.removed.add(it.at)
        return 1

    @export()
    def hf_iterator_append(self, ctx: RouteContext, iname: str, text: str) -> int:
        """Add header lines behind the header. Answers 1 or -1."""
        return self._add(ctx, iname, 1, text)

    @export()
    def hf_iterator_insert(self, ctx: RouteContext, iname: str, text: str) -> int:
        """Add header lines before the header. Answers 1 or -1."""
        return self._add(ctx, iname, 0, text)

    def _add(self, ctx: RouteContext, iname: str, behind: int, text: str) -> int:
        it = self._header_iterator(ctx, iname)
        lines = header_lines(text) if it is not None and it.at >= 0 else None
        if it is None or lines is None:
            return -1
        check_header(lines, len(ctx.edits.inserts), self.services.limits)
        ctx.edits.inserts.append((it.at + behind, lines))
        return 1

    @export()
    def hf_iterator_hname(self, ctx: RouteContext, iname: str) -> Xval:
        """Return the name of the header as written, null when the iterator is at none."""
        it = self._header_iterator(ctx, iname)
        return None if it is None or it.at < 0 else ctx.message.lines[it.at].partition(":")[0].rstrip(LWS)

    @export()
    def hf_iterator_hbody(self, ctx: RouteContext, iname: str) -> Xval:
        """Return the value of the header, null when the iterator is at none."""
        it = self._header_iterator(ctx, iname)
        return None if it is None or it.at < 0 else ctx.message.value(it.at)

    def _header_iterator(self, ctx: RouteContext, iname: str) -> HeaderIterator | None:
        """Return the iterator, at no header when it was started on another message; None when it was never started."""
        it = self._headers.get(iname)
        if it is None:
            log.error("textopsx: no iterator %r was started", iname)
        elif it.message is not ctx.message:
            it = self._headers[iname] = HeaderIterator(ctx.message)
        return it

    # ---- lines of the body
    @export()
    def bl_iterator_start(self, ctx: RouteContext, iname: str) -> int:
        """Start an iterator before the first line of the body. Answers 1 or -1."""
        return self._lines.start(iname, str(ctx.message.body, "latin-1"))

    @export()
    def bl_iterator_end(self, ctx: RouteContext, iname: str) -> int:
        """End an iterator. Answers 1, or -1 when it was never started."""
        return self._lines.end(iname)

    @export()
    def bl_iterator_next(self, ctx: RouteContext, iname: str) -> int:
        """Go to the next line. Answers 1, or -1 when there is none."""
        return self._lines.next(iname)

    @export()
    def bl_iterator_rm(self, ctx: RouteContext, iname: str) -> int:
        """Remove the line. Answers 1, or -1 when the iterator is at none."""
        return self._lines.remove(ctx, iname)

    @export()
    def bl_iterator_append(self, ctx: RouteContext, iname: str, text: str) -> int:
        """Add text behind the line; it carries its own line end. Answers 1, or -1 when the iterator is at none."""
        return self._lines.append(ctx, iname, text)

    @export()
    def bl_iterator_insert(self, ctx: RouteContext, iname: str, text: str) -> int:
        """Add text before the line; it carries its own line end. Answers 1, or -1 when the iterator is at none."""
        return self._lines.insert(ctx, iname, text)

    @export()
    def bl_iterator_value(self, ctx: RouteContext, iname: str) -> Xval:
        """Return the line with its end, null when the iterator is at none."""
        return self._lines.value(iname)
