"""SIP, SIPS and tel URIs (RFC 3261 section 19.1, RFC 3966): parsed, compared, changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from polykemi.errors import ParseError
from polykemi.sip.constants import PORT, TLS_PORT
from polykemi.sip.grammar import is_host, to_port
from polykemi.sip.header import parse_params


class Uri:
    """A parsed URI; immutable by convention, so it can be shared. ``str()`` gives the text that it was made of."""

    __slots__ = ("_parsed", "headers", "host", "params", "password", "port", "scheme", "text", "user")

    def __init__(
        self, text: str, scheme: str, user: str, password: str, host: str, port: int, params: str, headers: str
    ) -> None:
        self.text = text
        self.scheme = scheme  # lower case: sip, sips, tel, urn, ...
        self.user = user  # as written (escapes kept), "" when absent; the number of a tel URI
        self.password = password
        self.host = host  # as written; IPv6 with its brackets
        self.port = port  # 0 when absent
        self.params = params  # "transport=udp;lr" without the first ";"
        self.headers = headers  # without the "?"
        self._parsed: dict[str, str | None] | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def parsed_params(self) -> Mapping[str, str | None]:
        """The URI parameters: lower-case name -> value as written, None where there is no ``=``."""
        if self._parsed is None:
            self._parsed = parse_params(self.params)
        return self._parsed

    def param(self, name: str) -> str | None:
        """Return the URI parameter ``name`` (lower case), "" when it stands without a value, None when absent."""
        if not self.params:
            return None
        params = self.parsed_params
        return params[name] or "" if name in params else None

    @property
    def transport(self) -> str:
        """The transport parameter in lower case, "" when absent."""
        return (self.param("transport") or "").lower()

    @property
    def proto(self) -> str:
        """What a request to it goes over (RFC 3261 section 19.1.2): udp unless it says something else, always TLS for sips."""
        transport = self.transport
        if self.scheme == "sips":
            return "wss" if transport in ("ws", "wss") else "tls"
        return transport or "udp"

    @property
    def effective_port(self) -> int:
        """The port, or the default of the scheme and transport (RFC 3261 section 19.1.2)."""
        return self.port or (TLS_PORT if self.scheme == "sips" or self.transport == "tls" else PORT)

    def changed(
        self, *, user: str | None = None, host: str | None = None, port: int | None = None, params: str | None = None
    ) -> str:
        """Return this URI's text with some parts replaced; "" or 0 takes a part away. Raise ParseError when it is no SIP URI."""
        if self.scheme not in ("sip", "sips"):
            raise ParseError("Not a SIP URI")
        user = self.user if user is None else user
        host = self.host if host is None else host
        port = self.port if port is None else port
        params = self.params if params is None else params
        userinfo = (f"{user}:{self.password}@" if self.password else f"{user}@") if user else ""
        return (
            f"{self.scheme}:{userinfo}{host}"
            + (f":{port}" if port else "")
            + (f";{params}" if params else "")
            + (f"?{self.headers}" if self.headers else "")
        )

    @property
    def is_loose(self) -> bool:
        """Whether the ``lr`` parameter is there (RFC 3261 section 19.1.1)."""
        return self.param("lr") is not None


def parse_uri(text: str) -> Uri:
    """Parse ``text``. Raise ParseError (416 for a scheme that a SIP element cannot route is left to the caller)."""
    return _parse(text) if len(text) <= 256 else _parse.__wrapped__(text)


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_NOT_IN_URI = re.compile(r'[\x00-\x20"<>\x7f]')


@lru_cache(maxsize=16384)
def _parse(text: str) -> Uri:
    scheme, _, rest = text.partition(":")
    if not rest or _NOT_IN_URI.search(text):
        raise ParseError("Bad URI")
    if scheme in ("sip", "sips"):
        return _parse_sip(text, scheme, rest)
    if not _SCHEME.fullmatch(scheme):
        raise ParseError("Bad URI scheme")
    scheme = scheme.lower()
    if scheme in ("sip", "sips"):
        return _parse_sip(text, scheme, rest)
    if scheme == "tel":
        number, _, params = rest.partition(";")
        if not number:
            raise ParseError("Bad URI")
        return Uri(text, scheme, number, "", "", 0, params, "")
    return Uri(text, scheme, "", "", rest, 0, "", "")


def _parse_sip(text: str, scheme: str, rest: str) -> Uri:
    # "?" and ";" may stand in the user part, "@" nowhere but behind it: so the "@" is looked for first
    userinfo, at, hostpart = rest.partition("@")
    if not at:
        userinfo, hostpart = "", rest
    elif not userinfo or "@" in hostpart:
        raise ParseError("Bad URI")
    hostpart, _, headers = hostpart.partition("?")
    hostport, _, params = hostpart.partition(";")
    if hostport[:1] == "[":
        host, bracket, port = hostport.partition("]")
        host, colon, port = host + bracket, port[:1], port[1:]
    else:
        host, colon, port = hostport.partition(":")
    if not is_host(host):
        raise ParseError("Bad host in URI")
    number = to_port(port) if colon == ":" else 0
    if number < 0 or (colon and colon != ":"):
        raise ParseError("Bad port in URI")
    user, _, password = userinfo.partition(":")
    return Uri(text, scheme, user, password, host, number, params, headers)


def without_headers(text: str) -> str:
    """Return a SIP URI without its headers part, another URI as it is. Raise ParseError."""
    uri = parse_uri(text)
    return text[: len(text) - len(uri.headers)].removesuffix("?") if uri.scheme in ("sip", "sips") else text


def unescape(text: str) -> str:
    """Undo %-escapes (RFC 3261 section 19.1.2); wrong ones stay as they are."""
    return _ESCAPE.sub(_decoded, text) if "%" in text else text


_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_KEPT_ESCAPED: Final = frozenset(";/?:@&=+$,%")  # "reserved", and "%" lest it start an escape


def _decoded(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


def _decoded_unless_reserved(match: re.Match[str]) -> str:
    char = chr(int(match[1], 16))
    return match[0].upper() if char in _KEPT_ESCAPED else char


def _comparable(text: str) -> str:
    """Return ``text`` so that equivalent texts are equal: a reserved character is not the same as its escape."""
    return _ESCAPE.sub(_decoded_unless_reserved, text) if "%" in text else text


def same_uri(one: str, other: str) -> bool:
    """Compare two URIs by the rules of RFC 3261 section 19.1.4, tel URIs by those of RFC 3966 section 4.

    Texts that do not parse, and URIs of other schemes, are equal when they are the same text.
    """
    if one == other:
        return True
    try:
        a, b = parse_uri(one), parse_uri(other)
    except ParseError:
        return False
    if a.scheme != b.scheme:
        return False
    if a.scheme == "tel":
        return _digits(a.user) == _digits(b.user) and _comparable_params(a) == _comparable_params(b)
    if a.scheme not in ("sip", "sips"):
        return False
    return (
        _comparable(a.user) == _comparable(b.user)
        and _comparable(a.password) == _comparable(b.password)
        and a.host.lower() == b.host.lower()
        and a.port == b.port
        and _same_params(a, b)
        and _same_headers(a.headers, b.headers)
    )


_VISUAL_SEPARATORS: Final = str.maketrans("", "", "-.()")


def _digits(number: str) -> str:
    return number.translate(_VISUAL_SEPARATORS).lower()


def _comparable_params(uri: Uri) -> dict[str, str]:
    return {_comparable(name).lower(): _comparable(value or "").lower() for name, value in uri.parsed_params.items()}


def _same_params(a: Uri, b: Uri) -> bool:
    if a.params == b.params:
        return True
    pa, pb = _comparable_params(a), _comparable_params(b)
    for name in ("user", "ttl", "method", "maddr", "transport"):  # standing in one URI only, these make a difference
        if (name in pa) != (name in pb):
            return False
    return all(pa[name] == pb[name] for name in pa.keys() & pb.keys())


def _same_headers(a: str, b: str) -> bool:
    return a == b or _comparable_headers(a) == _comparable_headers(b)


def _comparable_headers(headers: str) -> list[tuple[str, str]]:
    pairs = [header.partition("=") for header in headers.split("&")]
    return sorted((_comparable(name).lower(), _comparable(value)) for name, _, value in pairs)
