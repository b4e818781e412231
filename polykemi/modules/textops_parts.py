"""The part of KSR.textops that works on multipart bodies (RFC 2046). Parts are found as Kamailio finds them: by lines."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.splice import SplicedBody, splice_body
from polykemi.modules.textops_changes import set_content_type
from polykemi.modules.textops_strings import StringFunctions
from polykemi.sip.multipart import boundary_of, media_type

log = logging.getLogger("polykemi.script")

# ctx.cache: the message becomes multipart with its next form (msg_apply_changes)
MULTIPART: Final = "textops.multipart"

_TYPE_LINE: Final = re.compile(r"^(?:Content-Type|c)[ \t]*:[ \t]*", re.MULTILINE | re.IGNORECASE)
_MAX_CONTENT_TYPE: Final = 126  # octets of the header line


class BodyParts(StringFunctions):
    """Parts of bodies: read, added, removed. The script sees the body as it came."""

    # ---- reading
    @export()
    def get_body_part(self, ctx: RouteContext, media: str, variable: str) -> int:
        """Store what stands behind the Content-Type ``media`` of a part, its empty line included, in ``variable``.

        A body without parts is stored as a whole. Answers 1 or -1.
        """
        return self._get(ctx, media, variable, raw=False)

    @export()
    def get_body_part_raw(self, ctx: RouteContext, media: str, variable: str) -> int:
        """Store a part from its Content-Type ``media`` through the delimiter behind it. Answers like ``get_body_part``."""
        return self._get(ctx, media, variable, raw=True)

    def _get(self, ctx: RouteContext, media: str, variable: str, *, raw: bool) -> int:
        body = str(ctx.message.body, "latin-1")
        put = self.services.variables.setter(variable)
        if not body or put is None:
            return -1
        boundary = _boundary(ctx)
        if not boundary:
            return 1 if put(ctx, body) else -1
        found = _part(body, boundary, media)
        if found is None:
            return -1
        start, content, delimiter, end = found
        return 1 if put(ctx, body[start:end] if raw else body[content:delimiter]) else -1

    # ---- changing
    @export()
    def filter_body(self, ctx: RouteContext, media: str) -> int:
        """Leave only the content of the part with the Content-Type ``media``; the header of the body stays. Answers 1 or -1."""
        body = str(ctx.message.body, "latin-1")
        if not body or not _is_multipart(ctx):
            return -1
        found = _part(body, _boundary(ctx), media)
        if found is None:
            return -1
        _, content, delimiter, _ = found
        content += len(body[content:delimiter]) - len(body[content:delimiter].lstrip("\r\n"))
        splice_body(ctx.message, ctx.edits, (0, content, ""), (delimiter - 2, len(body), ""))
        return 1

    @export()
    def remove_body_part(self, ctx: RouteContext, media: str) -> int:
        """Remove the part with the Content-Type ``media``. Answers 1 or -1."""
        body, boundary = str(ctx.message.body, "latin-1"), _boundary(ctx)
        found = _part(body, boundary, media) if body and boundary else None
        if found is None:
            return -1
        splice_body(ctx.message, ctx.edits, (found[0], found[3], ""), finish=partial(delimited, boundary))
        return 1

    @export()
    def append_body_part(self, ctx: RouteContext, text: str, media: str) -> int:
        """Add a part with the Content-Type ``media`` behind the others. Answers 1 or -1."""
        return self.append_body_part_cd(ctx, text, media, "")

    @export()
    def append_body_part_cd(self, ctx: RouteContext, text: str, media: str, disposition: str) -> int:
        """Add a part with Content-Type and Content-Disposition behind the others. Answers 1 or -1."""
        boundary = _boundary(ctx)
        body = ctx.message.body
        part = _as_part(text, media, disposition, boundary)
        if part is None or not body:
            return -1
        splice_body(ctx.message, ctx.edits, (len(body), len(body), part), finish=partial(delimited, boundary))
        return 1

    @export()
    def append_body_part_hex(self, ctx: RouteContext, digits: str, media: str) -> int:
        """Add a part like ``append_body_part``; it is given as hex digits. Answers 1 or -1."""
        return self.append_body_part_hex_cd(ctx, digits, media, "")

    @export()
    def append_body_part_hex_cd(self, ctx: RouteContext, digits: str, media: str, disposition: str) -> int:
        """Add a part like ``append_body_part_cd``; it is given as hex digits. Answers 1 or -1."""
        try:
            text = str(bytes.fromhex(digits), "latin-1")
        except ValueError:
            log.error("textops.append_body_part: %r are no hex digits", digits[:100])
            return -1
        return self.append_body_part_cd(ctx, text, media, disposition)

    @export()
    def set_body_multipart_mode(self, ctx: RouteContext) -> int:
        """Make the body the first part of a multipart one. Answers 1, also when it is multipart already, or -1."""
        return self.set_body_multipart(ctx, "", "", "")

    @export()
    def set_body_multipart_boundary(self, ctx: RouteContext, boundary: str) -> int:
        """Do what ``set_body_multipart_mode`` does, with this delimiter. Answers 1 or -1."""
        return self.set_body_multipart(ctx, "", "", boundary)

    @export()
    def set_body_multipart_content(self, ctx: RouteContext, text: str, media: str) -> int:
        """Replace the body by a multipart one with this first part. Answers 1 or -1."""
        return self.set_body_multipart(ctx, text, media, "")

    @export()
    def set_body_multipart(self, ctx: RouteContext, text: str, media: str, boundary: str) -> int:
        """Replace the body by a multipart one with this first part, the old body for "". Answers 1 or -1.

        Further parts can be added once the changes are applied (textopsx.msg_apply_changes).
        """
        message, edits = ctx.message, ctx.edits
        is_multipart = _is_multipart(ctx)
        if is_multipart and not text:
            return 1
        boundary = boundary or "unique-boundary-1"
        body = str(message.body, "latin-1")
        if not text:
            text, media = body, message.get("content-type") or media
        part = _as_part(text, media or "text/plain", "", boundary)
        new_type = f'multipart/mixed;boundary="{boundary}"'
        if part is None or len(f"Content-Type: {new_type}\r\n") > _MAX_CONTENT_TYPE:
            return -1
        whole = [(0, len(body), f"--{boundary}\r\n{part}")]
        if is_multipart:
            edits.body = SplicedBody.of(body, whole, partial(delimited, _boundary(ctx)))
            return 1
        edits.body = SplicedBody.of(body, whole)
        set_content_type(ctx, new_type)
        edits.inserts.append((len(message.lines), "Mime-Version: 1.0"))
        ctx.cache[MULTIPART] = True
        return 1


def closing(content_type: str) -> Callable[[str], str] | None:
    """Return what puts the delimiters of a body of this type in order; None when it is not multipart."""
    boundary = boundary_of(content_type)
    return partial(delimited, boundary) if boundary else None


def delimited(boundary: str, text: str) -> str:
    """Return a multipart body with its delimiters in order: the last is ``--boundary--`` and nothing stands behind it."""
    marks = [m.start() for m in re.finditer(rf"^--{re.escape(boundary)}", text, re.MULTILINE)]
    if len(marks) < 2:
        return text
    out = []
    for mark, following in pairwise(marks):
        line_end = text.find("\n", mark, following) + 1 or following
        out += [f"--{boundary}\r\n", text[line_end:following]]
    return "".join([*out, f"--{boundary}--\r\n"])


def _is_multipart(ctx: RouteContext) -> bool:
    return media_type(ctx.message.get("content-type") or "") == "multipart/mixed"


def _boundary(ctx: RouteContext) -> str:
    return boundary_of(ctx.message.get("content-type") or "")


def _part(body: str, boundary: str, media: str) -> tuple[int, int, int, int] | None:
    """Return where the part with the Content-Type ``media`` is.

    The beginning of that line, what is behind it, the delimiter behind the part, and what is behind that.
    """
    for match in _TYPE_LINE.finditer(body):
        end = match.end() + len(media)
        if body[match.end() : end].lower() != media.lower():
            continue
        if not body.startswith("\r\n", end):
            log.error("textops: there is more in the Content-Type of a part than %r", media)
            return None
        content = end + 2
        delimiter = body.find(f"\n--{boundary}", content - 1) + 1
        if not delimiter:
            log.error("textops: no delimiter behind the part with Content-Type %s", media)
            return None
        return match.start(), content, delimiter, body.find("\n", delimiter) + 1 or len(body)
    return None


def _as_part(text: str, media: str, disposition: str, boundary: str) -> str | None:
    """Return a part with its headers, and the delimiter behind it."""
    if not text or not media or not boundary or boundary.startswith("-"):
        log.error("textops: a part of a body needs a text, a type and a delimiter that does not begin with -")
        return None
    if any(c in media + disposition + boundary for c in "\r\n"):
        log.error("textops: a header of a part is one line")
        return None
    headers = f"Content-Type: {media}\r\n" + (f"Content-Disposition: {disposition}\r\n" if disposition else "")
    gap = "" if text.endswith("\r\n\r\n") else "\r\n"
    return f"{headers}\r\n{text}{gap}--{boundary}\r\n"
