"""rtpproxy: session descriptions: what a relay is told of each media, and what is written in the place of its addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from polykemi.kemi.splice import Splice
from polykemi.sip.sdp import Media, Sdp, Session, line_start

_ADDRESS: Final = re.compile(r"[^\r\n]*? IP([46]) +([^ \r\n]+)")
_PORT: Final = re.compile(r"m=[^ \r\n]+ +([0-9]+)")
_RTCP: Final = re.compile(r"^a=rtcp:([0-9]+)", re.MULTILINE | re.IGNORECASE)


class Place(NamedTuple):
    """An address and where it stands; ``family_at``: where the 4 or 6 of IP4 or IP6 is."""

    text: str
    family: int
    start: int
    family_at: int

    @property
    def is_null(self) -> bool:
        """Whether it is the address of no host: on hold."""
        return self.text == "0.0.0.0" if self.family == 4 else not self.text.strip("0:")


class Answer(NamedTuple):
    """Where a relay wants the media."""

    port: int
    address: str
    family: int


def place_of(text: str, letter: str, start: int, end: int) -> Place | None:
    """Return the address of the first line ``letter=`` between ``start`` and ``end``."""
    at = line_start(text, letter, start, end)
    match = _ADDRESS.match(text, at + 2, end) if at >= 0 else None
    return Place(match[2], int(match[1]), match.start(2), match.start(1)) if match else None


@dataclass
class Stream:
    """One media of a description."""

    session: Session
    media: Media
    port: str
    port_at: int
    own: Place | None  # its c=
    common: Place | None  # the session's

    @property
    def old(self) -> Place | None:
        """The address that counts for it."""
        return self.own or self.common


def streams_of(sdp: Sdp) -> Iterator[Stream]:
    """Iterate over all media of all sessions."""
    for session in sdp.sessions:
        first = session.media[0].start if session.media else session.end
        common = place_of(sdp.text, "c", session.start, first)
        for media in session.media:
            match = _PORT.match(sdp.text, media.start, media.end)
            port, at = (match[1], match.start(1)) if match else ("0", media.start)
            yield Stream(session, media, port, at, place_of(sdp.text, "c", media.start, media.end), common)


@dataclass
class Rewriting:
    """The changes of one description; what is common to several media is changed once."""

    sdp: Sdp
    common: bool  # the address of the session too where media have their own
    candidates: int = 0  # priority of ICE candidates, 0 for none
    splices: list[Splice] = field(default_factory=list)
    _done: set[int] = field(default_factory=set)  # places

    def rewrite(self, stream: Stream, new: Answer) -> None:
        """Write where the relay wants this media."""
        if stream.port not in ("0", str(new.port)):
            self._put(stream.port_at, len(stream.port), str(new.port))
        rtcp = _RTCP.search(self.sdp.text, stream.media.start, stream.media.end)
        if rtcp is not None:
            self._put(rtcp.start(1), len(rtcp[1]), str(new.port + 1))
        if self.candidates:
            self._candidates(stream, new)
        if stream.own is not None:
            self._address(stream.own, new)
        if stream.common is not None and (stream.own is None or self.common):
            self._address(stream.common, new)
        origin = place_of(self.sdp.text, "o", stream.session.start, stream.session.end)
        if origin is not None:
            self._address(origin, new)

    def _address(self, old: Place, new: Answer) -> None:
        if old.start in self._done:
            return
        self._done.add(old.start)
        if old.family == new.family:
            if not old.is_null:
                self._put(old.start, len(old.text), new.address)
        elif old.text != new.address:
            self._put(old.family_at, old.start + len(old.text) - old.family_at, f"{new.family} {new.address}")

    def _candidates(self, stream: Stream, new: Answer) -> None:
        at = self.sdp.text.find("\na=candidate:", stream.media.start, stream.media.end)
        if at >= 0:
            digits = "".join(c for c in new.address if c in "0123456789")
            priority = 16777214 if self.candidates == 2 else 2197815294
            self._put(at + 1, 0, f"a=candidate:{digits} 2 UDP {priority} {new.address} {new.port + 1} typ relay\r\n")
            self._put(at + 1, 0, f"a=candidate:{digits} 1 UDP {priority + 1} {new.address} {new.port} typ relay\r\n")

    def _put(self, start: int, length: int, text: str) -> None:
        self.splices.append((start, start + length, text))
