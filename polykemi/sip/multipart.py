"""The parts of a multipart body (RFC 2046 section 5.1) and where they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from polykemi.sip.grammar import LWS
from polykemi.sip.header import parse_params, unquote

_EMPTY_LINE = re.compile(r"\r?\n\r?\n")


def media_type(content_type: str) -> str:
    """Return ``type/subtype`` of a Content-Type, in lower case."""
    kind, _, subtype = content_type.partition(";")[0].partition("/")
    return f"{kind.strip(LWS)}/{subtype.strip(LWS)}".lower()


def boundary_of(content_type: str) -> str:
    """Return the boundary that a Content-Type names, "" when it names none."""
    return unquote(parse_params(content_type.partition(";")[2]).get("boundary") or "")


class Part(NamedTuple):
    """One part. All numbers are places in the text of the whole body."""

    start: int  # of its delimiter line
    head: int  # of its headers
    body: int  # of what is behind its headers
    end: int  # of the delimiter line behind it, or of the text
    content_type: str  # "" when it has none


def parts_of(text: str, boundary: str) -> Iterator[Part]:
    """Iterate over the parts of a body; what stands before the first delimiter and behind the last is none."""
    marks = [
        m for m in re.finditer(rf"^--{re.escape(boundary)}(--)?[ \t]*\r?(?:\n|\Z)", text, re.MULTILINE) if boundary
    ]
    for i, mark in enumerate(marks):
        if mark[1]:
            return
        end = marks[i + 1].start() if i + 1 < len(marks) else len(text)
        head = mark.end()
        if text.startswith(("\r\n", "\n"), head):  # no headers
            yield Part(mark.start(), head, text.index("\n", head) + 1, end, "")
            continue
        empty = _EMPTY_LINE.search(text, head, end)
        body = empty.end() if empty else end
        yield Part(mark.start(), head, body, end, _content_type(text[head:body]))


def _content_type(head: str) -> str:
    for line in re.sub(r"\r?\n[ \t]+", " ", head).split("\n"):
        name, _, value = line.partition(":")
        if name.strip(LWS).lower() in ("content-type", "c"):
            return value.strip(LWS)
    return ""
