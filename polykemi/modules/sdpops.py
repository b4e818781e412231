"""sdpops: session descriptions: what is in them, and what shall not be (Kamailio: modules/sdpops).

The script sees the description as it came; what is changed is seen by the next hop. Where a body is no SDP, or malformed,
each function answers -1.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.splice import splice_body
from polykemi.modules.base import Module, Services
from polykemi.modules.textopsx_iterators import LineIterators
from polykemi.pv.accessor import Accessor, Factory, Setter
from polykemi.pv.classes.factories import keyed, named
from polykemi.sip.grammar import LWS, to_port
from polykemi.sip.multipart import media_type
from polykemi.sip.sdp import Media, Sdp, line_start, parse_sdp

log = logging.getLogger("polykemi.script")

_MAX_NUMBERS: Final = 16  # payload numbers of one name
_MAX_LIST: Final = 128  # octets of a list of payload numbers

_STATIC: Final = {  # RFC 3551 section 6: the payload numbers that need no a=rtpmap
    "pcmu": ("0",),
    "gsm": ("3",),
    "g723": ("4",),
    "dvi4": ("5", "6", "16", "17"),
    "lpc": ("7",),
    "pcma": ("8",),
    "g722": ("9",),
    "l16": ("10", "11"),
    "qcelp": ("12",),
    "cn": ("13",),
    "mpa": ("14",),
    "g728": ("15",),
    "g729": ("18",),
}
_OF_PAYLOAD: Final = ("a=rtpmap:", "a=fmtp:", "a=rtcp-fb:")  # attributes that belong to one payload number


class Sdpops(Module):
    """Session descriptions."""

    name = "sdpops"

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._lines = LineIterators()

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $sdp(...) and $sdpitval(name)."""
        return {"sdp": keyed(_VARIABLES), "sdpitval": named(self.sdp_iterator_value)}

    # ---- codecs
    @export()
    def remove_codecs_by_name(self, ctx: RouteContext, codecs: str, media: str) -> int:
        """Remove codecs, a list like ``PCMU,opus``, from the media of one kind, of all for "". Answers 0 or -1."""
        sdp = _sdp(ctx)
        numbers = _numbers(sdp, codecs) if sdp is not None else None
        return self.remove_codecs_by_id(ctx, numbers, media) if numbers else -1

    @export()
    def remove_codecs_by_id(self, ctx: RouteContext, codecs: str, media: str) -> int:
        """Remove payload numbers, a list like ``0,96``, from the media of one kind, of all for "". Answers 0 or -1."""
        sdp = _sdp(ctx)
        if sdp is None:
            return -1
        for one in _of_kind(sdp, media):
            for number in _tokens(codecs):
                _remove_number(ctx, sdp, one, number)
        return 0

    @export()
    def keep_codecs_by_name(self, ctx: RouteContext, codecs: str, media: str) -> int:
        """Remove all other codecs than these from the media of one kind, of all for "". Answers 0 or -1."""
        sdp = _sdp(ctx)
        numbers = _numbers(sdp, codecs) if sdp is not None else None
        return self.keep_codecs_by_id(ctx, numbers, media) if numbers else -1

    @export()
    def keep_codecs_by_id(self, ctx: RouteContext, codecs: str, media: str) -> int:
        """Remove all other payload numbers than these from the media of one kind, of all for "". Answers 0 or -1."""
        sdp = _sdp(ctx)
        if sdp is None:
            return -1
        kept = codecs.split(",")
        for one in _of_kind(sdp, media):
            for number in one.payloads.split():
                if number not in kept:
                    _remove_number(ctx, sdp, one, number)
        return 0

    @export()
    def sdp_with_codecs_by_id(self, ctx: RouteContext, codecs: str) -> int:
        """Tell whether payload numbers are there: 1 all in all media, 2 some, 0 none, -1 no SDP."""
        sdp = _sdp(ctx)
        if sdp is None:
            return -1
        found = [number in one.payloads.split(" ") for one in sdp.media for number in _tokens(codecs)]
        return (1 if all(found) else 2) if any(found) else 0

    @export()
    def sdp_with_codecs_by_name(self, ctx: RouteContext, codecs: str) -> int:
        """Tell whether codecs are there: 1 all in all media, 2 some, -1 none, no such name or no SDP."""
        sdp = _sdp(ctx)
        numbers = _numbers(sdp, codecs) if sdp is not None else None
        return (self.sdp_with_codecs_by_id(ctx, numbers) or -1) if numbers else -1

    # ---- media
    @export()
    def sdp_with_media(self, ctx: RouteContext, media: str) -> int:
        """Tell whether there is a medium of this kind (audio, video, ...): 1 or 0."""
        sdp = _sdp(ctx)
        return int(sdp is not None and any(one.kind.lower() == media.lower() for one in sdp.media))

    @export()
    def sdp_with_active_media(self, ctx: RouteContext, media: str) -> int:
        """Tell whether there is a medium of this kind with a port and not inactive: 1 or 0."""
        sdp = _sdp(ctx)
        return int(
            sdp is not None
            and any(
                one.kind.lower() == media.lower()
                and one.port.lstrip("0")[:1].isdecimal()
                and one.direction != "inactive"
                for one in sdp.media
            )
        )

    @export()
    def remove_media(self, ctx: RouteContext, media: str) -> int:
        """Remove the media of one kind. Answers how many there were, or -1."""
        sdp = _sdp(ctx)
        found = [one for one in sdp.media if one.kind.lower() == media.lower()] if sdp is not None else []
        for one in found:
            splice_body(ctx.message, ctx.edits, (one.start, one.end, ""))
        return len(found)

    @export()
    def sdp_with_transport(self, ctx: RouteContext, transport: str) -> int:
        """Tell whether there is a medium with this transport (RTP/AVP, ...), whatever its case. Answers 1 or -1."""
        sdp = _sdp(ctx)
        return 1 if sdp is not None and any(one.transport.lower() == transport.lower() for one in sdp.media) else -1

    @export()
    def sdp_with_transport_like(self, ctx: RouteContext, transport: str) -> int:
        """Tell whether there is a medium with this text in its transport. Answers 1 or -1."""
        sdp = _sdp(ctx)
        return 1 if sdp is not None and any(transport in one.transport for one in sdp.media) else -1

    @export()
    def sdp_transport(self, ctx: RouteContext, avp: str) -> int:
        """Store the transport that all media have in ``$avp(name)``. Answers 1, -2 when they have not the same, or -1."""
        store = self._avp(avp)
        sdp = _sdp(ctx) if store is not None else None
        if store is None:
            return -1
        transports = [one.transport for one in sdp.media] if sdp is not None else []
        if any(transport.lower() != transports[0].lower() for transport in transports):
            return -2
        return 1 if not transports or store(ctx, transports[0]) else -1

    # ---- the description
    @export()
    def sdp_content(self, ctx: RouteContext) -> int:
        """Tell whether the body is SDP, or has a part that is. Answers 1 or -1."""
        return 1 if _sdp(ctx) is not None else -1

    @export()
    def sdp_content_flags(self, ctx: RouteContext, flags: int) -> int:
        """Tell whether the body is SDP: read it (``flags`` 0), or look at its type only (1). Answers 1 or -1."""
        if flags == 0:
            return self.sdp_content(ctx)
        body = ctx.message.body
        if not body:
            return -1
        kind = media_type(ctx.message.get("content-type") or "application/sdp")
        mixed = kind == "multipart/mixed" and b"application/sdp" in body.lower()
        return 1 if mixed or kind == "application/sdp" else -1

    @export()
    def sdp_with_ice(self, ctx: RouteContext) -> int:
        """Tell whether the body has ICE candidates. Answers 1 or -1."""
        return 1 if b"a=candidate" in ctx.message.body else -1

    @export()
    def sdp_get(self, ctx: RouteContext, avp: str) -> int:
        """Store the description in ``$avp(name)``. Answers 1, -2 without a body, or -1."""
        store = self._avp(avp)
        if store is None:
            return -1
        sdp = _sdp(ctx)
        if sdp is None:
            return -2
        return 1 if store(ctx, sdp.raw) else -1

    @export()
    def sdp_get_line_startswith(self, ctx: RouteContext, avp: str, start: str) -> int:
        """Store the first line that starts with ``start`` in ``$avp(name)``. Answers 1, -1 when there is none, -2 without a body."""
        if not start:
            log.error("sdpops.sdp_get_line_startswith: the start of a line is empty")
            return -1
        sdp = _sdp(ctx)
        if sdp is None:
            return -2
        store = self._avp(avp)
        if store is None:
            return -1
        for begin, end in _lines(sdp.text, start[0], sdp.start, len(sdp.text)):
            line = sdp.text[begin:end]
            if line.startswith(start):
                return 1 if store(ctx, line.removesuffix("\r\n")) else -1
        return -1

    @export()
    def remove_line_by_prefix(self, ctx: RouteContext, prefix: str, media: str) -> int:
        """Remove the lines that start with ``prefix``, of the media of one kind or anywhere for "". Answers how many, or -1."""
        sdp = _sdp(ctx)
        if sdp is None:
            return -1
        places = [(one.start, one.end) for one in _of_kind(sdp, media)] if media else [(sdp.start, sdp.end)]
        found = 0
        for start, stop in places:
            for begin, end in _lines(sdp.text, prefix[:1], start, stop):
                if sdp.text.startswith(prefix, begin, stop):
                    splice_body(ctx.message, ctx.edits, (begin, end, ""))
                    found += 1
        return found

    @export()
    def sdp_print(self, ctx: RouteContext, level: int) -> int:
        """Log what was read of the description, at debug. Answers 1."""
        log.debug("sdpops.sdp_print: %s", _sdp(ctx))
        return 1

    @export()
    def sdp_get_address_family(self, ctx: RouteContext) -> int:
        """Return 4 or 6: the family of the connection address of the session; -1 when it has none."""
        sdp = _sdp(ctx)
        return (sdp.sessions[-1].family if sdp is not None and sdp.sessions else 0) or -1

    def _avp(self, name: str) -> Setter | None:
        """Return what sets ``$avp(name)``, None when it is none."""
        put = self.services.variables.setter(name) if name.startswith(("$avp(", "$(avp(")) else None
        if put is None:
            log.error("sdpops: expected $avp(NAME), got %r", name)
        return put

    # ---- iterators
    @export()
    def sdp_iterator_start(self, ctx: RouteContext, iname: str) -> int:
        """Start an iterator before the first line of the description. Answers 1 or -1."""
        sdp = _sdp(ctx)
        return self._lines.start(iname, sdp.raw, sdp.start) if sdp is not None else -1

    @export()
    def sdp_iterator_end(self, ctx: RouteContext, iname: str) -> int:
        """End an iterator. Answers 1, or -1 when it was never started."""
        return self._lines.end(iname)

    @export()
    def sdp_iterator_next(self, ctx: RouteContext, iname: str) -> int:
        """Go to the next line. Answers 1, or -1 when there is none."""
        return self._lines.next(iname)

    @export()
    def sdp_iterator_rm(self, ctx: RouteContext, iname: str) -> int:
        """Remove the line. Answers 1, or -1 when the iterator is at none."""
        return self._lines.remove(ctx, iname)

    @export()
    def sdp_iterator_append(self, ctx: RouteContext, iname: str, text: str) -> int:
        """Add text behind the line; it carries its own line end. Answers 1, or -1 when the iterator is at none."""
        return self._lines.append(ctx, iname, text)

    @export()
    def sdp_iterator_insert(self, ctx: RouteContext, iname: str, text: str) -> int:
        """Add text before the line; it carries its own line end. Answers 1, or -1 when the iterator is at none."""
        return self._lines.insert(ctx, iname, text)

    @export()
    def sdp_iterator_value(self, ctx: RouteContext, iname: str) -> Xval:
        """Return the line with its end, null when the iterator is at none."""
        return self._lines.value(iname)


_KEPT: Final = "sdpops"  # ctx.cache: the message and what was read of its body


def _sdp(ctx: RouteContext) -> Sdp | None:
    """Return the description in the body, None for an empty body. Raise ParseError."""
    kept = ctx.cache.get(_KEPT)
    if kept is not None and kept[0] is ctx.message:
        return kept[1]  # type: ignore[no-any-return]
    sdp = parse_sdp(str(ctx.message.body, "latin-1"), ctx.message.get("content-type"))
    ctx.cache[_KEPT] = ctx.message, sdp
    return sdp


def _of_kind(sdp: Sdp, media: str) -> list[Media]:
    return [one for one in sdp.media if not media or one.kind.lower() == media.lower()]


def _tokens(text: str) -> Iterator[str]:
    """Iterate over a list with commas, up to its first empty item."""
    for i, item in enumerate(text.split(",")):
        item = re.split("[\r\n]", item.lstrip(LWS))[0]
        if item:
            yield item
        elif i:
            return


def _numbers(sdp: Sdp, names: str) -> str | None:
    """Return the payload numbers of codecs as a list; None when no name is known or the list is too long."""
    found: list[str] = []
    for name in _tokens(names):
        numbers = _STATIC.get(name.lower())
        if numbers is None:
            numbers = tuple(n for one in sdp.media for n, encoding in one.encodings if encoding.lower() == name.lower())
            numbers = numbers if len(numbers) <= _MAX_NUMBERS else ()
        found += numbers
    numbers_list = ",".join(found)
    if len(numbers_list) >= _MAX_LIST:
        log.error("sdpops: too many codecs: %s", names[:200])
        return None
    return numbers_list or None


def _remove_number(ctx: RouteContext, sdp: Sdp, media: Media, number: str) -> None:
    """Remove a payload number, with the blank before it, and its attributes."""
    found = re.search(rf"(?:^| )({re.escape(number)})(?= |$)", media.payloads)
    if found is not None:
        at = media.payloads_at + found.start(1)
        splice_body(ctx.message, ctx.edits, (at - 1, at + len(number), ""))
    for begin, end in _lines(sdp.text, "a", media.start, media.end):
        line = sdp.text[begin:end].lower()
        if any(line.startswith(f"{start}{number.lower()} ") for start in _OF_PAYLOAD):
            splice_body(ctx.message, ctx.edits, (begin, end, ""))


def _lines(text: str, letter: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Iterate over the lines ``letter=`` between two places: where each begins, and where it ends with its line break."""
    at = line_start(text, letter, start, stop) if letter else -1
    while at >= 0:
        end = text.find("\n", at) + 1 or len(text)
        yield at, end
        at = line_start(text, letter, end, stop)


# ---- $sdp
def _read(get: Callable[[Sdp], Xval]) -> Callable[[RouteContext], Xval]:
    def read(ctx: RouteContext) -> Xval:
        try:
            sdp = _sdp(ctx)
        except ParseError as error:
            log.info("$sdp: %s", error)
            return None
        return get(sdp) if sdp is not None else None

    return read


def _of_first(get: Callable[[Media], Xval]) -> Callable[[RouteContext], Xval]:
    return _read(lambda sdp: get(sdp.media[0]) if sdp.media else None)


def _version(sdp: Sdp) -> int | None:
    version = sdp.sessions[-1].version if sdp.sessions else ""
    return int(version) if version.isdecimal() and len(version) < 19 else None


def _set_version(ctx: RouteContext, value: Xval) -> bool:
    """Set the version of the session in o=; -1 stands for one more than it is."""
    sdp = _sdp(ctx)
    old = _version(sdp) if sdp is not None else None
    if not isinstance(value, int) or sdp is None or old is None:
        return False
    session = sdp.sessions[-1]
    at = session.version_at
    splice_body(ctx.message, ctx.edits, (at, at + len(session.version), str(old + 1 if value == -1 else value)))
    return True


def _connection(sdp: Sdp) -> tuple[str, int]:
    session = sdp.sessions[0] if sdp.sessions else None
    if session is None:
        return "", 0
    first = session.media[0]
    return (first.address, first.family) if first.address else (session.address, session.family)


def _rtcp_port(media: Media) -> str | None:
    if media.rtcp_port:
        return media.rtcp_port
    port = to_port(media.port)
    return str(port + 1) if 0 <= port < 65535 else None


def _bandwidth(kind: str) -> Callable[[RouteContext], Xval]:
    def get(sdp: Sdp) -> Xval:
        lines = sdp.text[sdp.media[0].start : sdp.media[0].end] if sdp.media else ""
        found = re.search(rf"^b={kind}:([^\r\n]*)", lines, re.MULTILINE)
        return found[1] if found else None

    return _read(get)


_FAMILIES: Final = {4: 2, 6: 10}  # as the C library numbers them

_VARIABLES: Final[Mapping[str, Callable[[RouteContext], Xval] | Accessor]] = {
    "body": _read(lambda sdp: sdp.raw),
    "raw": _read(lambda sdp: sdp.raw),
    "sess_version": Accessor(_read(_version), _set_version),
    "c:ip": _read(lambda sdp: _connection(sdp)[0] or None),
    "c:af": _read(lambda sdp: _FAMILIES.get(_connection(sdp)[1])),
    "o:ip": _read(lambda sdp: sdp.sessions[0].origin if sdp.sessions else None),
    "m0:raw": _read(lambda sdp: sdp.text[sdp.media[0].start : sdp.media[0].end] if sdp.media else None),
    "m0:rtp:port": _of_first(lambda media: media.port),
    "m0:rtcp:port": _of_first(_rtcp_port),
    "m0:b:AS": _bandwidth("AS"),
    "m0:b:RR": _bandwidth("RR"),
    "m0:b:RS": _bandwidth("RS"),
}
