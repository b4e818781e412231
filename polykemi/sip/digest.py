"""Digest authentication as SIP uses it (RFC 3261 section 22, RFC 2617, RFC 7616, RFC 8760). Pure: nonces come from outside.

Values are text with one character per octet; hashes are lower-case hex. Algorithms: MD5, SHA-256 and their -sess forms.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from polykemi.errors import ParseError
from polykemi.sip.grammar import LWS, is_token

_HEX: Final = "0123456789abcdefABCDEF"
_SPACES: Final = frozenset(LWS)


class Credentials:
    """What an Authorization or Proxy-Authorization value says; what is absent is "". Quoted values come unquoted."""

    __slots__ = (
        "algorithm",
        "cnonce",
        "domain",
        "nc",
        "nonce",
        "opaque",
        "qop",
        "realm",
        "response",
        "uri",
        "user",
        "username",
    )

    def __init__(self, params: dict[str, str]) -> None:
        """Take the parameters by lower-case name. Raise ParseError when one that must be there is missing."""
        get = params.get
        try:
            self.username = username = params["username"]
            self.realm = params["realm"]
            self.nonce = params["nonce"]
            self.uri = params["uri"]
            self.response = params["response"]
        except KeyError as missing:
            raise ParseError(f"Missing {missing.args[0]} in credentials") from None
        self.algorithm = get("algorithm", "")  # as written
        self.qop = qop = get("qop", "")  # as written
        self.nc = nc = get("nc", "")  # eight hex digits, or "" without qop
        self.cnonce = get("cnonce", "")
        self.opaque = get("opaque", "")
        if "@" in username:
            self.user, _, self.domain = username.rpartition("@")
        else:
            self.user, self.domain = username, ""
        if qop and ("cnonce" not in params or not nc):
            raise ParseError("Missing cnonce or nc in credentials")
        if nc and (len(nc) != 8 or nc.strip(_HEX)):
            raise ParseError("Bad nc in credentials")


def parse_credentials(value: str) -> Credentials:
    """Parse the value of an Authorization or Proxy-Authorization header. Raise ParseError.

    A scheme other than Digest, a parameter that stands twice, a missing username, realm, nonce, uri or response, and
    qop without cnonce and nc are errors; parameters that are not known are ignored.
    """
    if value[:6].lower() != "digest" or value[6:7] not in _SPACES:
        raise ParseError("No Digest credentials")
    # even pieces stand outside of the quotes, odd ones inside
    pieces = value[6:].split('"') if "\\" not in value else _split_escaped(value[6:])
    if not len(pieces) & 1:
        raise ParseError("Unterminated quoted string in credentials")
    pieces[0] = "," + pieces[0]  # now each piece outside looks alike: a comma first, a name and "=" last
    pieces[-1] += ","
    params: dict[str, str] = {}
    inside = iter(pieces[1::2])
    for piece in pieces[::2]:
        plain, name = _outside[piece]
        for pair in plain:
            _put(params, *pair)
        if name:
            _put(params, name, next(inside, None))
    return Credentials(params)


def _add(params: dict[str, str], pairs: tuple[tuple[str, str], ...]) -> None:
    for name, value in pairs:
        if name in params:
            raise ParseError("Bad credentials")
        params[name] = value


class _Outside(dict[str, tuple[str, tuple[tuple[str, str], ...]]]):
    """Text between two quoted values, as ``, algorithm=MD5, cnonce=``: the name before the quote and the pairs before it.

    The same few texts come from all phones of a kind, so they are kept; bounded, for they come from the network.
    """

    def __missing__(self, text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        first, *middle, last = [item.strip(LWS) for item in text.split(",")] if "," in text else [text, ""]
        if first:  # nothing stands between a closing quote and the comma
            raise ParseError("Bad credentials")
        pairs = []
        for item in middle:
            if item:
                name, equals, value = item.partition("=")
                name, value = name.rstrip(LWS).lower(), value.lstrip(LWS)
                if not equals or not value or not is_token(name) or " " in value or "\t" in value:
                    raise ParseError("Bad credentials")
                pairs.append((name, value))
        name = last[:-1].rstrip(LWS).lower()
        if last and (last[-1] != "=" or not is_token(name)):
            raise ParseError("Bad credentials")
        if len(self) < 2048 and len(text) < 64:
            self[text] = name, tuple(pairs)
        return name, tuple(pairs)


_outside = _Outside()


# quoted-string; a missing end matches too, so that a search never starts twice over the same text
_QUOTED = re.compile(r'"((?:[^"\\]++|\\.)*+)("|\\?\Z)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _split_escaped(text: str) -> list[str]:
    """Split at the quotes as ``split('"')`` does, backslash escapes inside of them read (quoted-pair)."""
    pieces = _QUOTED.split(text)
    if '"' not in pieces[-2:-1]:
        raise ParseError("Unterminated quoted string in credentials")
    del pieces[2::3]
    pieces[1::2] = [_ESCAPED.sub(r"\1", piece) for piece in pieces[1::2]]
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
    return hmac.compare_digest(expected.encode(), credentials.response.lower().encode())


def challenge(
    realm: str, nonce: str, *, algorithm: str = "", qop: str = "auth", opaque: str = "", stale: bool = False
) -> str:
    """Build the value of a WWW-Authenticate or Proxy-Authenticate header; parameters that are "" are left out."""
    out = f"Digest realm={quote(realm)}, nonce={quote(nonce)}"
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
