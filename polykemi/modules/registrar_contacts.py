"""The headers of a REGISTER and of its 200: Contact, Expires, q, Allow, Path (RFC 3261 section 20, RFC 3327). Part of registrar."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from polykemi.errors import ParseError, SipError
from polykemi.sip.digest import quote
from polykemi.sip.header import NameAddr, parse_name_addr, split_quoted, unquote
from polykemi.sip.message import Request
from polykemi.sip.uri import parse_uri
from polykemi.storage.location import Binding

MOST_CONTACTS: Final = 100  # in one REGISTER: each is looked for among those that are there

_MAX_SECONDS: Final = 0xFFFFFFFF  # RFC 3261 section 20.19: delta-seconds up to 2**32 - 1
_LOWER: Final = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}

# the bits of Kamailio's methods column
_METHODS: Final = {
    name: 1 << bit
    for bit, name in enumerate(
        [
            "INVITE",
            "CANCEL",
            "ACK",
            "BYE",
            "INFO",
            "OPTIONS",
            "UPDATE",
            "REGISTER",
            "MESSAGE",
            "SUBSCRIBE",
            "NOTIFY",
            "PRACK",
            "REFER",
            "PUBLISH",
        ]
    )
}
_OTHER_METHODS: Final = 1 << 14
ALL_METHODS: Final = 0xFFFFFFFF  # of a phone that does not say

# what nearly all contacts look like: needs no closer look to be a SIP URI
_PLAIN: Final = re.compile(r"sip:[A-Za-z0-9._+\-]+@[A-Za-z0-9.\-]+(?::[1-5]?[0-9]{1,4})?(?:;[A-Za-z0-9.\-=;]+)?")


class Rejected(SipError):
    """A REGISTER that is answered with an error; ``detail`` tells the phone's engineer why."""

    def __init__(self, status: int, reason: str, detail: str = "", more: list[str] | None = None) -> None:
        super().__init__(status, reason)
        self.detail = detail or reason
        self.contacts: list[str] = []  # the Contact line, when the AoR was looked at
        self._more = more or []

    def headers(self) -> list[str]:
        """Return the header lines of the reply, in Kamailio's order."""
        error = f"P-Registrar-Error: {self.detail}"
        after = [line for line in self._more if line.startswith("Retry-After")]
        return [*self.contacts, *(line for line in self._more if line not in after), error, *after]


def lower(text: str) -> str:
    """Return ``text`` with A to Z in lower case and all other octets as they are."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def contacts_of(request: Request, max_size: int) -> list[NameAddr] | None:
    """Return the contacts of a REGISTER, an empty list for a query, None for "*". Raise Rejected, ParseError."""
    value = request.get("contact")
    if value is None:
        return []
    is_one = value and "," not in value and "contact" not in request.shape.repeated
    values = [value] if is_one else _reversed_lists(request)
    if "*" in values:
        if len(values) > 1:
            raise Rejected(400, "Bad Request", "* used in contact and more than 1 contact")
        if (request.get("expires") or "").strip("0") or not request.get("expires"):
            raise Rejected(400, "Bad Request", "* used in contact and expires is not zero")
        return None
    if not values:
        raise Rejected(400, "Bad Request", "Contact parse error")
    if len(values) > MOST_CONTACTS:
        raise Rejected(400, "Bad Request", "Too many contacts")
    contacts = []
    for value in values:
        try:
            contact = parse_name_addr(value)
            if _PLAIN.fullmatch(contact.uri) is None:
                parse_uri(contact.uri)
        except ParseError:
            raise Rejected(400, "Bad Request", "Contact parse error") from None
        if len(contact.uri) > max_size:
            raise Rejected(400, "Bad Request", "Contact/received too long")
        contacts.append(contact)
    return contacts


def _reversed_lists(request: Request) -> list[str]:
    """Return the values of all Contact headers, those of one header the last first, as Kamailio takes them."""
    values: list[str] = []
    for line in request.all("contact"):
        values += [value for value in reversed(split_quoted(line, ",")) if value]
    return values


def parse_expires(text: str | None, default: int) -> int | None:
    """Return the seconds in ``text``, None for no text; a malformed number is ``default`` (RFC 3261 section 20.10)."""
    if text is None:
        return None
    if text[:1] == '"':
        text = unquote(text)
    if not text.isdecimal() or len(text) > 10:
        return default
    return min(int(text), _MAX_SECONDS)


def parse_q(text: str | None, default: int) -> int:
    """Return a qvalue in thousandths (RFC 3261 section 25.1). Raise Rejected."""
    if not text:
        return default
    whole, _, digits = text.partition(".")
    if whole not in ("0", "1", "") or not (digits or whole) or len(digits) > 3 or (digits and not digits.isdecimal()):
        raise Rejected(400, "Bad Request", "Invalid q param in contact")
    q = int(whole or "0") * 1000 + int((digits + "000")[:3])
    if q > 1000:
        raise Rejected(400, "Bad Request", "Invalid q param in contact")
    return q


def render_q(q: int) -> str:
    """Return thousandths as a qvalue: 500 is ``0.5``."""
    return "1" if q >= 1000 else f"0.{q:03d}".rstrip("0").rstrip(".")


def methods_of(allow: str) -> int:
    """Return the bits of the methods in an Allow value."""
    return _methods_of(allow) if len(allow) <= 512 else _methods_of.__wrapped__(allow)


@lru_cache(maxsize=512)
def _methods_of(allow: str) -> int:
    bits = 0
    for method in allow.split(","):
        bits |= _METHODS.get(method.strip(" \t").upper(), _OTHER_METHODS)
    return bits


def supports(request: Request, option: str, header: str = "supported") -> bool:
    """Tell whether ``option`` is one of the option tags in Supported, or in another ``header``."""
    return any(tag.lower() == option for tag in request.list(header))


def path_of(request: Request, mode: int) -> tuple[str, list[str]]:
    """Return the Path values to be stored, comma-separated, and the lines of the 200 (path_mode). Raise Rejected."""
    path = ",".join(request.all("path"))
    try:
        is_loose = parse_uri(first_uri(path)).is_loose
    except ParseError:
        is_loose = False
    if not is_loose:
        raise Rejected(400, "Bad Request", "Path parse error")
    if mode == 0:
        return path, []
    supported = supports(request, "path")
    line = f"Path: {path}"
    if mode == 1:
        return path, [line] if supported else []
    if not supported:
        raise Rejected(420, "Bad Extension", "No support for found Path indicated", ["Unsupported: path", line])
    return path, [line]


def render_contacts(
    bindings: list[Binding], now: float, received_param: str, gruus: Callable[[Binding], str] | None = None
) -> str:
    """Return the Contact line that lists ``bindings``, with the seconds that are left of each.

    ``gruus`` gives the parameters that tell the GRUUs of one that has an instance.
    """
    out = []
    for b in bindings:
        text = f"<{b.uri}>"
        if b.q >= 0:
            text += f";q={render_q(b.q)}"
        text += f";expires={max(int(b.expires - now + 0.5), 1) if b.expires else 0}"
        if b.received and received_param:
            text += f';{received_param}="{b.received}"'
        if b.instance:
            if gruus is not None:
                text += gruus(b)
            text += f";+sip.instance={quote(b.instance)}"
        if b.reg_id:
            text += f";reg-id={b.reg_id}"
        out.append(text)
    return "Contact: " + ", ".join(out)


def first_uri(values: str) -> str:
    """Return the URI of the first of comma-separated name-addr values (Path, Route). Raise ParseError."""
    return parse_name_addr(split_quoted(values, ",")[0]).uri
