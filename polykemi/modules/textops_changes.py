"""What textops finds in headers and bodies, and how it is changed there. Part of textops.

Everything is looked for in the message as it came; a change stands at its place in that, as Kamailio's lumps do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from polykemi.kemi.context import RouteContext
from polykemi.kemi.pattern import Match
from polykemi.kemi.posix import FLAGS, BadPattern, compile_posix
from polykemi.kemi.splice import Splice, line_of, splice_body, splice_line

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
    """Change header lines; return how many places were found."""
    message, edits, found = ctx.message, ctx.edits, 0
    for i in range(len(message.lines)):
        if i in edits.removed:
            continue
        line = line_of(message, edits, i)
        # as Kamailio, which looks at all headers as one text: no "$" before the CR, which "." takes along
        splices = [(start, min(end, len(line)), text) for start, end, text in find(line + "\r\n", most)]
        if splices:
            splice_line(message, edits, i, *splices)
            found += len(splices)
            if most:
                break
    return found


def change_value(ctx: RouteContext, index: int, find: Finder) -> int:
    """Change the value of header line ``index``; return how many places were found."""
    line = line_of(ctx.message, ctx.edits, index)
    start = len(line) - len(line.partition(":")[2].lstrip(" \t\r\n"))
    splices = [(start + begin, start + end, text) for begin, end, text in find(line[start:], 0)]
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
