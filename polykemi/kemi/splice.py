"""Changes inside of a header line or a body, each at its place in the original (Kamailio: core/data_lump.c).

As many may be made as a script likes, also of one line: all of them see it as it came, and none shifts another.
"""

from __future__ import annotations

from collections.abc import Callable

from polykemi.errors import ParseError
from polykemi.sip.header import is_header_lines
from polykemi.sip.message import Edits, Message

Splice = tuple[int, int, str]  # where a piece begins and ends, and what comes in its place


def spliced(original: str, splices: list[Splice]) -> str:
    """Return ``original`` with ``splices`` applied by place, those of one place in their order; overlaps are cut once."""
    out, at = [], 0
    for start, end, text in sorted(splices, key=lambda splice: splice[0]):
        start = max(start, at)
        out += [original[at:start], text]
        at = max(end, start)
    return "".join([*out, original[at:]])


class SplicedLine(str):
    """A header line that was changed: it knows what it was."""

    __slots__ = ("original", "splices")
    original: str
    splices: list[Splice]

    @classmethod
    def of(cls, original: str, splices: list[Splice]) -> SplicedLine:
        """Return the line that ``splices`` make of ``original``."""
        line = cls(spliced(original, splices))
        line.original, line.splices = original, splices
        return line


class SplicedBody(bytes):
    """A body that was changed: it knows what it was, and what is done with all of it in the end."""

    original: str
    splices: list[Splice]
    finish: Callable[[str], str] | None

    @classmethod
    def of(cls, original: str, splices: list[Splice], finish: Callable[[str], str] | None = None) -> SplicedBody:
        """Return the body that ``splices``, and then ``finish``, make of ``original``."""
        text = spliced(original, splices)
        body = cls((text if finish is None else finish(text)).encode("latin-1"))
        body.original, body.splices, body.finish = original, splices, finish
        return body


def line_of(message: Message, edits: Edits, index: int) -> str:
    """Return header line ``index`` as splices see it: as it came, or what an edit of all of it made of it."""
    line = edits.replaced.get(index)
    if line is None:
        return message.lines[index]
    return line.original if isinstance(line, SplicedLine) else line


def splice_line(message: Message, edits: Edits, index: int, *splices: Splice) -> None:
    """Change header line ``index`` at places in ``line_of``. Raise ParseError when that would break it in a wrong place.

    A CRLF in what comes in parts whole header lines, or folds one; anything else would be read as what it is not.
    """
    line = edits.replaced.get(index)
    before = line.splices if isinstance(line, SplicedLine) else []
    new = SplicedLine.of(line_of(message, edits, index), [*before, *splices])
    if any("\n" in text or "\r" in text for _, _, text in splices) and not is_header_lines(new):
        raise ParseError("Line break in a header")
    edits.replaced[index] = new


def splice_body(message: Message, edits: Edits, *splices: Splice, finish: Callable[[str], str] | None = None) -> None:
    """Change the body at places in the one that came; one that was set in its place stays. Raise ParseError.

    ``finish`` is applied to the whole then, also after further changes.
    """
    body, original = edits.body, str(message.body, "latin-1")
    if isinstance(body, SplicedBody):
        before, finish = body.splices, finish or body.finish
    else:
        before = [] if body is None else [(0, len(original), str(body, "latin-1"))]
    edits.body = SplicedBody.of(original, [*before, *splices], finish)
