"""SIP, SIPS and tel URIs (RFC 3261 section 19.1, RFC 3966): parsed, compared, changed."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from polykemi.errors import ParseError
from polykemi.sip.header import parse_params

_HEX: Final = frozenset("0123456789abcdefABCDEF")


class Uri:
    """A parsed URI; immutable by convention, so it can be shared. ``str()`` gives the text that it was made of."""

    __slots__ = ("_parsed", "headers", "host", "params", "password", "port", "scheme", "text", "user")

    def __init__(self, text: str, scheme: str, user: str, password: str, host: str, port: int, params: str, headers: str) -> None:
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

    def param(self, name: str) -> str | None:
        """Return the URI parameter ``name`` (lower case), "" when it stands without a value, None when absent."""
        if not self.params:
            return None
        if self._parsed is None:
            self._parsed = parse_params(self.params)
        if name not in self._parsed:
            return None
        return self._parsed[name] or ""

    @property
    def transport(self) -> str:
        """The transport parameter in lower case, "" when absent."""
        return (self.param("transport") or "").lower()

    @property
    def effective_port(self) -> int:
        """The port, or the default of the scheme and transport (RFC 3261 section 19.1.2)."""
        return self.port or (5061 if self.scheme == "sips" or self.transport == "tls" else 5060)

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


@lru_cache(maxsize=4096)
def _parse(text: str) -> Uri:
    scheme, colon, rest = text.partition(":")
    if not colon or not rest:
        raise ParseError("Bad URI")
    scheme = scheme.lower()
    if scheme in ("sip", "sips"):
        return _parse_sip(text, scheme, rest)
    if not scheme.isascii() or not scheme.replace("+", "a").replace("-", "a").replace(".", "a").isalnum():
        raise ParseError("Bad URI scheme")
    if scheme == "tel":
        number, _, params = rest.partition(";")
        return Uri(text, scheme, number, "", "", 0, params, "")
    return Uri(text, scheme, "", "", rest, 0, "", "")


def _parse_sip(text: str, scheme: str, rest: str) -> Uri:
    if " " in rest or "\t" in rest or "<" in rest or ">" in rest or '"' in rest:
        raise ParseError("Bad URI")
    # "?" and ";" may stand in the user part: the "@" is looked for first, behind it come host, parameters, headers
    userinfo, at, hostpart = rest.rpartition("@") if "@" in rest else ("", "", rest)
    if at and "?" in userinfo and "@" in text and _at_is_in_headers(rest):
        userinfo, at, hostpart = _split_before_headers(rest)
    hostpart, question, headers = hostpart.partition("?")
    hostport, _, params = hostpart.partition(";")
    if hostport[:1] == "[":
        host, bracket, port = hostport.partition("]")
        if not bracket or (port and port[0] != ":"):
            raise ParseError("Bad IPv6 reference in URI")
        host, port = host + "]", port[1:]
    else:
        host, colon, port = hostport.partition(":")
        if colon and not port:
            raise ParseError("Bad port in URI")
    if not host or (at and not userinfo):
        raise ParseError("Bad URI")
    if port and not (port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise ParseError("Bad port in URI")
    user, _, password = userinfo.partition(":")
    return Uri(text, scheme, user, password, host, int(port) if port else 0, params, headers)


def _at_is_in_headers(rest: str) -> bool:
    """Tell whether the last "@" belongs to the headers: a first "@" stands before the "?" then."""
    return rest.find("@") < rest.find("?")


def _split_before_headers(rest: str) -> tuple[str, str, str]:
    userinfo, at, hostpart = rest.partition("@")
    return userinfo, at, hostpart


def unescape(text: str) -> str:
    """Undo %-escapes (RFC 3261 section 19.1.2); wrong ones stay as they are."""
    if "%" not in text:
        return text
    head, *parts = text.split("%")
    return head + "".join(
        chr(int(p[:2], 16)) + p[2:] if len(p) >= 2 and p[0] in _HEX and p[1] in _HEX else "%" + p for p in parts
    )


def same_uri(one: str, other: str) -> bool:
    """Compare two URIs by the rules of RFC 3261 section 19.1.4; texts that do not parse are equal when the same."""
    if one == other:
        return True
    try:
        a, b = parse_uri(one), parse_uri(other)
    except ParseError:
        return False
    if a.scheme != b.scheme or unescape(a.user) != unescape(b.user) or unescape(a.password) != unescape(b.password):
        return False
    if a.host.lower() != b.host.lower() or a.port != b.port:
        return False
    return _same_params(a, b) and _same_headers(a.headers, b.headers)


def _same_params(a: Uri, b: Uri) -> bool:
    pa, pb = parse_params(a.params), parse_params(b.params)
    for name in ("user", "ttl", "method", "maddr", "transport"):  # these match only when both have them
        if (name in pa) != (name in pb):
            return False
    return all((pa[n] or "").lower() == (pb[n] or "").lower() for n in pa.keys() & pb.keys())


def _same_headers(a: str, b: str) -> bool:
    return sorted(unescape(a).lower().split("&")) == sorted(unescape(b).lower().split("&"))
