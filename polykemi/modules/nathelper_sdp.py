"""Addresses in session descriptions, for senders behind NAT. Part of nathelper."""

from __future__ import annotations

import logging
import re
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.splice import Splice, splice_body
from polykemi.sip.multipart import boundary_of, media_type, parts_of

log = logging.getLogger("polykemi.nathelper")

ACTIVE: Final = 1  # add a=direction:active to each medium
MEDIA_ADDRESS: Final = 2  # change c=
NO_RTPPROXY: Final = 4  # add a=nortpproxy:yes
ORIGIN_ADDRESS: Final = 8  # change o=

_OLD: Final = {"4": "a=oldmediaip:", "6": "a=oldmediaip6:"}
_UNSPECIFIED: Final = re.compile(r"0+\.0+\.0+\.0+|[0:]+")


def fix_sdp(ctx: RouteContext, flags: int, address: str, no_rtpproxy: str, *, keep_old: bool) -> int:
    """Change the description as ``flags`` say, and put ``address`` into its lines.

    ``no_rtpproxy``: the line of NO_RTPPROXY; ``keep_old``: name replaced addresses in lines at the end. Answer 1 when an
    address was replaced, 2 when none was, -1 when there is no description. Addresses of holds and equal ones stay.
    """
    span = _span(ctx)
    if span is None or any(c in address for c in "\r\n "):
        return -1
    text, start, end = span
    splices: list[Splice] = []
    if flags & ACTIVE:
        media = [m.start() for m in re.finditer(r"\r\nm=", text[start:end])]
        splices += [
            (start + at, start + at, "\r\na=direction:active") for at in [*media[1:], end - start][: len(media)]
        ]
    if flags & NO_RTPPROXY and no_rtpproxy:
        splices.append((end, end, "\r\n" + no_rtpproxy))
    kinds = ["a=rtcp"] * bool(flags & (MEDIA_ADDRESS | ORIGIN_ADDRESS))
    kinds += ["c="] * bool(flags & MEDIA_ADDRESS) + ["o="] * bool(flags & ORIGIN_ADDRESS)
    count = 0
    for kind in kinds:
        families = set()
        for line in re.finditer(rf"(?<=\n){kind}([^\r\n]*)", text[start:end]):
            match = re.search(r"(?:^|[ \t])IP([46])[ \t]+([^ \t\r\n]+)", line[1])
            if match is None and kind == "a=rtcp":
                continue
            families.add(match[1] if match else "")
            if match is None or len(families) > 1:
                log.error("fix_nated_sdp: no address in a line %s, or of different families", kind)
                splice_body(ctx.message, ctx.edits, *splices)
                return -1
            old, at = match[2], start + line.start(1) + match.start(2)
            if _UNSPECIFIED.fullmatch(old) or old == address:
                continue
            if keep_old:
                splices.append((end, end, f"\r\n{_OLD[match[1]]}{old}"))
            splices.append((at, at + len(old), address))
            count += 1
    if splices:
        splice_body(ctx.message, ctx.edits, *splices)
    return 1 if count else 2


def _span(ctx: RouteContext) -> tuple[str, int, int] | None:
    """Return the body, and where the description in it begins and ends, line breaks at its end left out."""
    text = str(ctx.message.body, "latin-1")
    content_type = ctx.message.get("content-type") or "application/sdp"
    start, end = 0, len(text)
    if media_type(content_type) == "multipart/mixed":
        parts = parts_of(text, boundary_of(content_type))
        part = next((one for one in parts if media_type(one.content_type) == "application/sdp"), None)
        if part is None:
            return None
        start, end = part.body, part.end
    elif media_type(content_type) != "application/sdp":
        return None
    end = start + len(text[start:end].rstrip("\r\n"))
    return (text, start, end) if end > start else None
