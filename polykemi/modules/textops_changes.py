"""What textops finds in headers and bodies, and how it is changed there. Part of textops.

Everything is looked for in the message as it came; a change stands at its place in that, as Kamailio's lumps do.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import TypeVar

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.pattern import Match
from polykemi.kemi.posix import FLAGS, BadPattern, compile_posix
from polykemi.kemi.splice import Splice, line_of, splice_body, splice_line
from polykemi.sip.header import is_header_lines

T = TypeVar("T")

# text, how often at most (0: any) -> what to change in it
Finder = Callable[[str, int], list[Splice]]


def replacer(pattern: str, text: str, flags: int = FLAGS) -> Finder:
    """Return what replaces matches of ``pattern`` by ``text``."""
    return _expression(pattern, flags, lambda match: (match.start(), match.end(), text))


def appender(pattern: str, text: str) -> Finder:
    """Return what puts ``text`` behind matches of ``pattern``."""
    return _expression(pattern, FLAGS, lambda match: (match.end(), match.end(), text))


def _expression(pattern: str, flags: int, splice: Callable[[Match], Splice]) -> Finder:
    try:
        compiled = compile_posix(pattern, flags)
    except BadPattern:
        return lambda text, most: []

    def find(text: str, most: int) -> list[Splice]:
        found: list[Splice] = []

        def take(match: Match) -> str:
            if most or match.start() < match.end():  # of many, an empty one is none
                found.append(splice(match))
            return ""

        compiled.subn(take, text, count=most)
        return found

    return find


def string_replacer(old: str, new: str) -> Finder:
    """Return what replaces the string ``old``."""

    def find(text: str, most: int) -> list[Splice]:
        found: list[Splice] = []
        at = text.find(old) if old else -1
        while at >= 0 and not (most and len(found) == most):
            found.append((at, at + len(old), new))
            at = text.find(old, at + len(old))
        return found

    return find


def change_message(ctx: RouteContext, find: Finder, most: int) -> int:
    """Change headers and body, at most ``most`` times in all (0: any number); return 1, or -1 when nothing is found."""
    found = change_headers(ctx, find, most)
    if not found or not most:
        found += change_body(ctx, find, most)
    return 1 if found else -1


def change_headers(ctx: RouteContext, find: Finder, most: int) -> int:
    """Change the headers, which are one text to ``find``; return how many places were found."""
    message, edits = ctx.message, ctx.edits
    lines = [line_of(message, edits, i) for i in range(len(message.lines))]
    starts = list(accumulate([len(line) + 2 for line in lines], initial=0))
    splices = find("".join([line + "\r\n" for line in lines]), most)
    for start, end, text in splices:
        first = bisect_right(starts, start) - 1
        if first == len(lines):  # behind the last line
            if not is_header_lines(text.rstrip("\r\n")):
                raise ParseError("Text that is no header line")
            edits.inserts.append((first, text.rstrip("\r\n")))
            continue
        last = max(first, bisect_left(starts, end) - 1)
        _change_lines(ctx, lines, first, start - starts[first], last, end - starts[last], text)
    return len(splices)


def _change_lines(ctx: RouteContext, lines: list[str], first: int, start: int, last: int, end: int, text: str) -> None:
    """Change what stands from ``start`` in line ``first`` to ``end`` in line ``last``, its CRLF counting as two more."""
    if end == len(lines[last]) + 2:  # the line break goes too
        if text.endswith("\n"):
            text = text[:-1].removesuffix("\r")
        elif not text and not start:
            ctx.edits.removed.update(range(first, last + 1))
            return
        elif last + 1 < len(lines):
            last, end = last + 1, 0
    if last > first:
        text += lines[last][end:]
        ctx.edits.removed.update(range(first + 1, last + 1))
        end = len(lines[first])
    length = len(lines[first])
    splice_line(ctx.message, ctx.edits, first, (min(start, length), min(end, length), text))


def change_value(ctx: RouteContext, index: int, find: Finder) -> int:
    """Change the value of header line ``index``; return how many places were found."""
    line = line_of(ctx.message, ctx.edits, index)
    start = len(line) - len(line.partition(":")[2].lstrip(" \t\r\n"))
    splices = [(start + begin, start + end, text) for begin, end, text in find(line[start:], 0)]
    if any("\r" in text or "\n" in text for _, _, text in splices):
        raise ParseError("Line break in a value")
    if splices:
        splice_line(ctx.message, ctx.edits, index, *splices)
    return len(splices)


def change_body(ctx: RouteContext, find: Finder, most: int) -> int:
    """Change the body; return how many places were found."""
    body = ctx.message.body
    splices = find(str(body, "latin-1"), most) if body else []
    if splices:
        splice_body(ctx.message, ctx.edits, *splices)
    return len(splices)


def chosen(items: list[T], flags: str) -> list[T]:
    """Return the first ("f"), the last ("l") or all of ``items``."""
    return items[:1] if flags[:1] == "f" else items[-1:] if flags[:1] == "l" else items


def set_content_type(ctx: RouteContext, media_type: str) -> None:
    """Give the message another Content-Type, behind all headers; the same stays where it is."""
    message, edits = ctx.message, ctx.edits
    found = message.indexes("content-type")
    if found and message.value(found[0]) == media_type:
        return
    edits.removed.update(found[:1])
    edits.inserts = [insert for insert in edits.inserts if not insert[1].startswith("Content-Type: ")]
    edits.inserts.append((len(message.lines), f"Content-Type: {media_type}"))
