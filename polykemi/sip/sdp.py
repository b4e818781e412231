"""Session descriptions (RFC 4566) in bodies: what is read from one, with its place in the body's text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from polykemi.errors import ParseError
from polykemi.sip.grammar import LWS
from polykemi.sip.multipart import boundary_of, media_type, parts_of

IPV4: Final = 4
IPV6: Final = 6

_MEDIA_LINE: Final = re.compile(r"([^ \r\n]+) +([^ \r\n]+) +([^ \r\n]+) *([^\r\n]*)")
_ADDRESS: Final = re.compile(r"[^\r\n]* IP([46]) +([^ \r\n]+)")
_HELD: Final = frozenset(("sendonly", "inactive"))
_DIRECTION: Final = re.compile(r"^a=(sendrecv|recvonly|sendonly|inactive)", re.MULTILINE | re.IGNORECASE)
_RTPMAP: Final = re.compile(r"^a=rtpmap:([^ \r\n]+) ++([^/\r\n]+)/", re.MULTILINE | re.IGNORECASE)
_TRICKLE: Final = re.compile(r"^a=ice-options:(?:[^\r\n]* )?trickle\b", re.MULTILINE)
_RTCP: Final = re.compile(r"^a=rtcp:([0-9]+)", re.MULTILINE | re.IGNORECASE)
_ORIGIN: Final = re.compile(r"[^ \r\n]* [^ \r\n]* ([^ \r\n]+)")


@dataclass(slots=True)
class Media:
    """One media description. ``start`` and ``end``: where its lines are, ``payloads_at``: where its formats begin."""

    start: int
    end: int
    kind: str  # audio, video, ...
    port: str
    transport: str  # RTP/AVP, ...
    payloads: str  # as written
    payloads_at: int
    address: str = ""  # of its own c=
    family: int = 0
    direction: str = ""  # of its own a=, the last one
    on_hold: bool = False  # one of them is sendonly or inactive
    trickles: bool = False  # ICE candidates come later (RFC 8840)
    rtcp_port: str = ""
    encodings: list[tuple[str, str]] = field(default_factory=list)  # payload number, name: of a=rtpmap


@dataclass(slots=True)
class Session:
    """One session description."""

    start: int
    end: int
    version: str  # of o=
    version_at: int
    origin: str  # the address of o=
    address: str = ""  # of the c= before all media
    family: int = 0
    on_hold: bool = False  # the first direction before all media is sendonly or inactive
    media: list[Media] = field(default_factory=list)


@dataclass(slots=True)
class Sdp:
    """The sessions of a body; more than one in a multipart body. ``start`` and ``end``: where the last one is."""

    text: str  # the whole body
    sessions: list[Session]
    start: int
    end: int

    @property
    def raw(self) -> str:
        """The text of the (last) session."""
        return self.text[self.start : self.end]

    @property
    def media(self) -> list[Media]:
        """All media of all sessions."""
        return [media for session in self.sessions for media in session.media]


def line_start(text: str, letter: str, start: int, end: int) -> int:
    """Return where the first line ``letter=`` between ``start`` and ``end`` begins, -1 for nowhere."""
    at = start
    while (at := text.find(f"{letter}=", at, end)) >= 0:
        if at == 0 or text[at - 1] in "\r\n":
            return at
        at += 2
    return -1


def parse_sdp(text: str, content_type: str | None) -> Sdp | None:
    """Read the session descriptions of a body: all of it, or parts of multipart/mixed. None for an empty body.

    Raise ParseError for another type, for none, and for a description that is malformed.
    """
    if not text:
        return None
    kind = media_type(content_type or "")
    if kind == "application/sdp":
        return Sdp(text, [_session(text, 0, len(text))], 0, len(text))
    boundary = boundary_of(content_type or "")
    if kind != "multipart/mixed" or not boundary:
        raise ParseError("The body is no SDP")
    sdp = Sdp(text, [], 0, 0)
    for part in parts_of(text, boundary):
        if media_type(part.content_type) == "application/sdp":
            sdp.start, sdp.end = part.body, part.end
            sdp.sessions.append(_session(text, part.body, part.end))
    return sdp


def _session(text: str, start: int, end: int) -> Session:
    version = line_start(text, "v", start, end)
    origin = line_start(text, "o", version, end) if version >= 0 else -1
    first = line_start(text, "m", origin, end) if origin >= 0 else -1
    if first < 0:
        raise ParseError("Bad SDP")
    match = _ORIGIN.match(text, origin + 2)
    address = _ADDRESS.match(text, origin + 2)
    if match is None or address is None:
        raise ParseError("Bad SDP origin")
    session = Session(start, end, match[1], match.start(1), address[2])
    session.address, session.family = _connection(text, origin, first)
    directions = _DIRECTION.findall(text[origin:first])
    session.on_hold = bool(directions) and directions[0].lower() in _HELD
    at = first
    while at >= 0:
        following = line_start(text, "m", at + 2, end)
        session.media.append(_media(text, at, end if following < 0 else following))
        at = following
    if not session.address and not all(media.address for media in session.media):
        raise ParseError("SDP without address")
    return session


def _connection(text: str, start: int, end: int) -> tuple[str, int]:
    """Return address and family of the first c= line, "" and 0 without one."""
    at = line_start(text, "c", start, end)
    if at < 0:
        return "", 0
    match = _ADDRESS.match(text, at + 2)
    if match is None:
        raise ParseError("Bad SDP connection")
    return match[2], int(match[1])


def _media(text: str, start: int, end: int) -> Media:
    match = _MEDIA_LINE.match(text, start + 2, end)
    if match is None:
        raise ParseError("Bad SDP media")
    kind, port, transport, payloads = match.groups()
    media = Media(start, end, kind, port, transport, payloads.rstrip(LWS), match.start(4))
    media.address, media.family = _connection(text, start, end)
    lines = text[start:end]
    if media.payloads:
        directions = [found.lower() for found in _DIRECTION.findall(lines)]
        media.direction = directions[-1] if directions else ""
        media.on_hold = not _HELD.isdisjoint(directions)
        media.trickles = _TRICKLE.search(lines) is not None
        media.encodings = _RTPMAP.findall(lines)
    if rtcp := _RTCP.search(lines):
        media.rtcp_port = rtcp[1]
    return media
