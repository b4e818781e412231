"""uac: From and To are replaced on their way out, and are as they were on the way back. Part of uac.

What was replaced travels in a parameter of our Record-Route: both URIs, one XORed with the other, in the alphabet of base64.
Requests within the dialog bring it back in their Route.
"""

from __future__ import annotations

import base64
import binascii
import logging
from typing import Final

from polykemi.errors import ParseError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.modules.rr import Rr
from polykemi.modules.tm_relay import Relayer
from polykemi.modules.tm_watch import Watcher, watch
from polykemi.sip.header import parse_name_addr, parse_params
from polykemi.sip.message import Edits, Message, Request, Response
from polykemi.transaction.forking import Transaction

log = logging.getLogger("polykemi.uac")

NONE, MANUAL, AUTO = "none", "manual", "auto"
_LONGEST_URI: Final = 1024


class Side(Watcher):
    """One of the two headers. As a watcher of a transaction it puts the caller's own value back into responses."""

    keeps_request = True

    def __init__(self, header: str, param: str, avp: str) -> None:
        self.header = header  # "from" or "to"
        self.param = param  # of the Record-Route
        self.avp = avp  # name of the AVP that keeps the value, "" for none
        self.is_from = header == "from"

    def received(self, t: Transaction, response: Response, edits: Edits, now: float) -> None:
        """Put into ``response`` what the caller had written."""
        try:
            stored = t.shared.avps.get(self.avp) if self.avp else None
            original = str(stored[0]) if stored else address_of(t.request.get(self.header) or "")
            index, value = _current(response, edits, self.header)
            rest = value[len(address_of(value)) :]
        except (ParseError, LookupError):
            return
        edits.replaced[index] = f"{self.header.title()}: {original}{rest}"


class Replacer:
    """Replaces and restores."""

    def __init__(self, rr: Rr, relayer: Relayer, sides: tuple[Side, Side], mode: str, password: str) -> None:
        self._rr = rr
        self._relayer = relayer
        self.sender, self.receiver = sides
        self._mode = mode
        self._password = password.encode("latin-1")
        self._hooked = False

    def replace(self, ctx: RouteContext, side: Side, display: str | None, uri: str) -> int:
        """Replace display name (None: it stays, "": it goes) and URI ("": it stays). Answers 1 or -1."""
        message = ctx.message
        done = f"uac.{side.header}"
        if ctx.kind is Route.REQUEST and done in ctx.cache:
            log.error("uac_replace_%s: called a second time for the same request", side.header)
            return -1
        try:
            if self._mode == AUTO and uri and message.to.tag is not None:
                log.error("uac_replace_%s: not within a dialog: that is restored by itself", side.header)
                return -1
            old = parse_name_addr(message.get(side.header) or "").uri
            index, value = _current(message, ctx.edits, side.header)
        except (ParseError, LookupError):
            return -1
        if uri and self._mode != NONE and (not self._rr.params.append_fromtag or len(uri) > _LONGEST_URI):
            log.error("uac_replace_%s: append_fromtag of rr is off, or the URI too long", side.header)
            return -1
        if "\r" in uri + (display or "") or "\n" in uri + (display or ""):
            return -1
        self._keep(ctx, side, message)
        ctx.edits.replaced[index] = f"{side.header.title()}: {rewritten(value, display, uri)}"
        if not uri or self._mode == NONE:
            return 1
        if self._rr.add_rr_param(ctx, f";{side.param}={self._encoded(old, uri)}") < 0:
            return -1
        ctx.cache[done] = True
        self._restore_in_responses(ctx, side)
        return 1

    def restore(self, ctx: RouteContext, side: Side) -> int:
        """Put back, by what our Route says, what ``side`` was before it was replaced: 1, or -1 when it was not."""
        message = ctx.message
        if not isinstance(message, Request):
            return -1
        text = parse_params(ctx.shared.route_params).get(side.param)
        if not text:
            return -1
        upstream = self._rr.is_direction(ctx, "upstream") > 0
        target = self.receiver if side.is_from == upstream else self.sender
        try:
            there = parse_name_addr(message.get(target.header) or "").uri
            index, value = _current(message, ctx.edits, target.header)
        except (ParseError, LookupError):
            return -1
        self._rr.add_rr_param(ctx, f";{side.param}={text}")
        restored = self._decoded(text, there)
        if not restored:
            return -1
        self._keep(ctx, target, message)
        ctx.edits.replaced[index] = f"{target.header.title()}: {rewritten(value, None, restored)}"
        if self._mode == AUTO:
            self._restore_in_responses(ctx, target)
        return 1

    def routed(self, ctx: RouteContext, params: str) -> None:
        """Restore both by the parameters of our own Route (automatic mode)."""
        if self.sender.param in params or self.receiver.param in params:
            self.restore(ctx, self.sender)
            self.restore(ctx, self.receiver)

    def _keep(self, ctx: RouteContext, side: Side, message: Message) -> None:
        if side.avp:
            value = address_of(message.get(side.header) or "")
            ctx.shared.avps.setdefault(side.avp, []).insert(0, value)

    def _restore_in_responses(self, ctx: RouteContext, side: Side) -> None:
        if ctx.transaction is not None:
            watch(ctx.transaction, side)
            return
        ctx.cache.setdefault("uac.sides", []).append(side)
        if not self._hooked:  # from now on, transactions ask what was replaced before they were made
            self._hooked = True
            self._relayer.on_request_in.append(_watch_sides)

    # ---- the parameter
    def _encoded(self, old: str, new: str) -> str:
        mixed = self._keyed(_xor(old.encode("latin-1"), new.encode("latin-1")))
        return base64.b64encode(mixed).decode("ascii").replace("=", "-")

    def _decoded(self, text: str, there: str) -> str:
        """Return the URI that ``there`` stands for, "" when ``text`` does not tell."""
        try:
            mixed = self._keyed(base64.b64decode(text.replace("-", "="), validate=True))
        except binascii.Error:
            return ""
        if len(mixed) < len(there):
            log.error("uac: the URI in our Route is shorter than the one in the header")
            return ""
        restored = _xor(mixed, there.encode("latin-1")).partition(b"\0")[0].decode("latin-1")
        if not all(" " <= c <= "~" for c in restored):  # the peer has another URI there than the one that we gave it
            log.warning("uac: the URI in the header is not the one that was written there")
            return ""
        return restored

    def _keyed(self, octets: bytes) -> bytes:
        key = self._password
        return bytes(o ^ key[i % len(key)] for i, o in enumerate(octets)) if key else octets


def _watch_sides(ctx: RouteContext, t: Transaction) -> None:
    for side in ctx.cache.get("uac.sides", ()):
        watch(t, side)


def _xor(a: bytes, b: bytes) -> bytes:
    """XOR two texts; what one has more is as it is."""
    size = max(len(a), len(b))
    return bytes(x ^ y for x, y in zip(a.ljust(size, b"\0"), b.ljust(size, b"\0"), strict=True))


def _current(message: Message, edits: Edits, header: str) -> tuple[int, str]:
    """Return the number of the header's line and its value as it is now. Raise KeyError."""
    index = message.shape.first[header]
    line = edits.replaced.get(index)
    return index, message.value(index) if line is None else line.partition(":")[2].strip(" \t")


def address_of(value: str) -> str:
    """Return a From or To value without its parameters: up to and with the ``>``, or the bare URI. Raise ParseError."""
    parsed = parse_name_addr(value)
    start = _bracket(value)
    if start < 0:
        return value[: value.index(parsed.uri) + len(parsed.uri)]
    return value[: value.index(">", start) + 1]


def rewritten(value: str, display: str | None, uri: str) -> str:
    """Return a From or To value with another display name and URI, as ``Replacer.replace`` says. Raise ParseError."""
    parsed = parse_name_addr(value)
    start = _bracket(value)
    if start < 0:
        at = value.index(parsed.uri)
        rest = value[at + len(parsed.uri) :]
        return f"{display} <{uri or parsed.uri}>{rest}" if display else f"{uri or parsed.uri}{rest}"
    end = value.index(">", start)
    lead = value[:start]
    if display is not None and parsed.display:
        lead = lead.replace(parsed.display, display, 1)
    elif display:
        lead += display + " "
    return f"{lead}<{uri or value[start + 1 : end]}{value[end:]}"


def _bracket(value: str) -> int:
    """Return where the ``<`` of the URI stands, -1 when there is none; quoted strings are passed over."""
    quoted = escaped = False
    for i, c in enumerate(value):
        if escaped:
            escaped = False
        elif c == "\\" and quoted:
            escaped = True
        elif c == '"':
            quoted = not quoted
        elif c == "<" and not quoted:
            return i
        elif c == ";" and not quoted:
            return -1
    return -1
