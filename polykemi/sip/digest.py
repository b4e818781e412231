"""Digest authentication as SIP uses it (RFC 3261 section 22, RFC 2617, RFC 7616, RFC 8760). Pure: nonces come from outside.

Values are text with one character per octet; hashes are lower-case hex. Algorithms: MD5, SHA-256 and their -sess forms.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.sip.grammar import LWS, is_token

_HEX: Final = "0123456789abcdefABCDEF"
_SPACES: Final = frozenset(LWS)
_FIELDS: Final = ("username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce", "opaque")
_REQUIRED: Final = _FIELDS[:5]


class Credentials:
    """What an Authorization or Proxy-Authorization value says; what is absent is "".

    Quoted values come without their quotes, escapes inside kept: the hashes are made of that text.
    """

    __slots__ = (*_FIELDS, "domain", "user")

    def __init__(
        self,
        username: str,
        realm: str,
        nonce: str,
        uri: str,
        response: str,
        algorithm: str = "",
        qop: str = "",
        nc: str = "",
        cnonce: str = "",
        opaque: str = "",
    ) -> None:
        """Raise ParseError when ``nc`` is not eight hex digits, as qop wants them."""
        self.username = username  # user, or user@domain
        self.realm = realm
        self.nonce = nonce
        self.uri = uri
        self.response = response
        self.algorithm = algorithm  # as written; "" means MD5
        self.qop = qop  # as written; "" is RFC 2069
        self.nc = nc
        self.cnonce = cnonce
        self.opaque = opaque
        if "@" in username:
            self.user, _, self.domain = username.rpartition("@")
        else:
            self.user, self.domain = username, ""
        if (nc or qop) and (len(nc) != 8 or nc.strip(_HEX)):
            raise ParseError("Bad nc in credentials")


def parse_credentials(value: str) -> Credentials:
    """Parse the value of an Authorization or Proxy-Authorization header. Raise ParseError.

    A scheme other than Digest, a parameter that stands twice, a missing username, realm, nonce, uri or response, and
    qop without cnonce and nc are errors; parameters that are not known are ignored.
    """
    pieces = value.split('"') if "\\" not in value else _split_escaped(value)
    if not len(pieces) & 1:
        raise ParseError("Unterminated quoted string in credentials")
    # what stands outside of the quotes and what stands inside take turns
    constants, pick = _shapes['"'.join(pieces[::2])]
    return Credentials(*pick(pieces[1::2] + constants))


Shape = tuple[list[str], Callable[[list[str]], tuple[str, ...]]]


class _Shapes(dict[str, Shape]):
    """Credentials without what stands inside of quotes, as ``Digest username=", realm=", algorithm=MD5, uri="``, to their plan.

    All phones of a kind send the same shape, so its parsing is kept; bounded, for it comes from the network. A plan is
    the values outside of quotes and a function that picks the fields out of all values, the quoted ones first.
    """

    def __missing__(self, shape: str) -> Shape:
        plan = _plan(shape)
        if len(shape) <= 256:
            if len(self) >= 1024:
                self.clear()
            self[shape] = plan
        return plan


_shapes = _Shapes()


def _plan(shape: str) -> Shape:
    if shape[:6].lower() != "digest" or shape[6:7] not in _SPACES:
        raise ParseError("No Digest credentials")
    leads = f",{shape[6:]},".split('"')  # now all begin with a comma and end with a name and "=", but for the last
    place: dict[str, int] = {}
    constants: list[str] = []
    for i, lead in enumerate(leads):
        first, *pairs, name = [item.strip(LWS) for item in lead.split(",")] if "," in lead else [lead, ""]
        if first or bool(name) != (i < len(leads) - 1):
            raise ParseError("Bad credentials")
        for pair in filter(None, pairs):
            constants.append(_put(place, pair, len(leads) - 1 + len(constants)))
        if name and _put(place, name, i):
            raise ParseError("Bad credentials")
    for field in _REQUIRED:
        if field not in place:
            raise ParseError(f"Missing {field} in credentials")
    if "qop" in place and "cnonce" not in place:
        raise ParseError("Missing cnonce in credentials")
    absent = len(leads) - 1 + len(constants)
    return [*constants, ""], itemgetter(*(place.get(field, absent) for field in _FIELDS))


def _put(place: dict[str, int], item: str, index: int) -> str:
    """Note where the value of ``name=value`` stands and return it."""
    name, equals, value = item.partition("=")
    name, value = name.rstrip(LWS).lower(), value.lstrip(LWS)
    if not equals or name in place or not is_token(name) or not _SPACES.isdisjoint(value):
        raise ParseError("Bad credentials")
    place[name] = index
    return value


# quoted-string; a missing end matches too, so that a search never starts twice over the same text
_QUOTED = re.compile(r'"((?:[^"\\]++|\\.)*+)("|\\?\Z)', re.DOTALL)


def _split_escaped(text: str) -> list[str]:
    """Split at the quotes as ``split('"')`` does, but at none behind a backslash."""
    pieces = _QUOTED.split(text)
    if '"' not in pieces[-2:-1]:
        raise ParseError("Bad credentials")
    del pieces[2::3]
    return pieces


# ---- hashes
try:
    from _md5 import md5 as _md5  # type: ignore[import-not-found]  # the built-in one: half the price of OpenSSL's
except ImportError:  # pragma: no cover
    _md5 = hashlib.md5

_HASHES: Final[dict[str, Callable[[bytes], Any]]] = {"": _md5, "MD5": _md5, "SHA-256": hashlib.sha256}


def is_supported(algorithm: str) -> bool:
    """Tell whether ``algorithm`` is one of MD5 ("" means it), SHA-256, MD5-sess and SHA-256-sess, in any case."""
    return _base(algorithm) in _HASHES


def _base(algorithm: str) -> str:
    return algorithm.upper().removesuffix("-SESS")


def _hash(algorithm: str, text: str) -> str:
    function = _HASHES.get(algorithm) or _HASHES.get(_base(algorithm))
    if function is None:
        raise ParseError("Unsupported digest algorithm")
    digest: str = function(text.encode("latin-1")).hexdigest()
    return digest


def ha1(username: str, realm: str, password: str, algorithm: str = "MD5") -> str:
    """Return H(username:realm:password), what a subscriber table may keep. It is the same for ALG and ALG-sess."""
    return _hash(algorithm, f"{username}:{realm}:{password}")


@lru_cache(maxsize=1024)
def _ha2(algorithm: str, text: str) -> str:
    return _hash(algorithm, text)


def response(
    ha1: str,
    nonce: str,
    method: str,
    uri: str,
    *,
    algorithm: str = "MD5",
    qop: str = "",
    nc: str = "",
    cnonce: str = "",
    body_hash: str = "",
) -> str:
    """Return the response that fits (RFC 7616 section 3.4.1); ``body_hash`` is H(body), needed for auth-int only.

    For -sess algorithms ``ha1`` is H(username:realm:password) still. Raise ParseError for an unknown algorithm.
    """
    if algorithm[-5:].lower() == "-sess":
        ha1 = _hash(algorithm, f"{ha1}:{nonce}:{cnonce}")
    a2 = f"{method}:{uri}" if qop.lower() != "auth-int" else f"{method}:{uri}:{body_hash}"
    ha2 = _ha2(algorithm, a2) if len(a2) <= 256 else _hash(algorithm, a2)
    if qop:
        return _hash(algorithm, f"{ha1}:{nonce}:{nc}:{cnonce}:{qop}:{ha2}")
    return _hash(algorithm, f"{ha1}:{nonce}:{ha2}")


def check(credentials: Credentials, ha1: str, method: str, body: bytes = b"") -> bool:
    """Tell whether the response in ``credentials`` is that of someone who knows ``ha1``; ``body`` is for auth-int.

    False too for an algorithm or a qop that is not supported. Nonce, realm and uri are the caller's to check.
    """
    algorithm, qop = credentials.algorithm, credentials.qop
    if qop not in ("auth", "") and qop.lower() not in ("auth", "auth-int"):
        return False
    if not is_supported(algorithm):
        return False
    expected = response(
        ha1,
        credentials.nonce,
        method,
        credentials.uri,
        algorithm=algorithm,
        qop=qop,
        nc=credentials.nc,
        cnonce=credentials.cnonce,
        body_hash=_hash(algorithm, body.decode("latin-1")) if qop.lower() == "auth-int" else "",
    )
    given = credentials.response
    return given.isascii() and hmac.compare_digest(expected, given.lower())


def challenge(
    realm: str, nonce: str, *, algorithm: str = "", qop: str = "auth", opaque: str = "", stale: bool = False
) -> str:
    """Build the value of a WWW-Authenticate or Proxy-Authenticate header; parameters that are "" are left out."""
    out = (
        f'Digest realm={quote(realm)}, nonce="{nonce}"'
        if nonce.isalnum()
        else f"Digest realm={quote(realm)}, nonce={quote(nonce)}"
    )
    if opaque:
        out += f", opaque={quote(opaque)}"
    if qop:
        out += f", qop={quote(qop)}"
    if algorithm:
        out += f", algorithm={algorithm}"
    return out + ", stale=true" if stale else out


def quote(text: str) -> str:
    """Return ``text`` as a quoted-string; a line break, which cannot stand in one, becomes a space."""
    if "\\" in text or '"' in text or "\r" in text or "\n" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")
    return f'"{text}"'
