"""The productions of RFC 3261 section 25.1 that several parts check. Text is one character per octet."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

# LWS  =  [*WSP CRLF] 1*WSP ; what may stand around a value, a line break of a folded one included
LWS: Final = " \t\r\n"

# token  =  1*(alphanum / "-" / "." / "!" / "%" / "*" / "_" / "+" / "`" / "'" / "~" )
_TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")

# host  =  hostname / IPv4address / IPv6reference ; "_" as DNS has it in use
_HOST = re.compile(r"[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]")


def is_token(text: str) -> bool:
    """Tell whether ``text`` is a token."""
    return _TOKEN.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Tell whether ``text`` looks like a host name, an IPv4 address or an IPv6 address in brackets."""
    return _is_host(text) if len(text) <= 64 else _HOST.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def to_ip(host: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that ``host`` is, IPv6 with brackets or without, None for a name.

    ``::`` may be ``:::`` before an IPv4 address, as the grammar of RFC 3261 has it (RFC 5118 section 4.10).
    """
    host = host.strip("[]")
    if ":::" in host and "." in host:
        host = host.replace(":::", "::")
    try:
        return ip_address(host)
    except ValueError:
        return None


def canonical_host(host: str) -> str:
    """Return ``host`` in the one spelling that it is compared in: lower case, IPv6 without brackets and as RFC 5952 has it."""
    return _canonical_ip6(host) if ":" in host and len(host) <= 64 else host.lower()


@lru_cache(maxsize=4096)
def _canonical_ip6(host: str) -> str:
    host = host.strip("[]")
    try:
        return str(IPv6Address(host))
    except ValueError:
        return host.lower()


def ip4_octets(text: str) -> list[int]:
    """Return the four octets of an IPv4 address, leading zeros taken, [] for another text."""
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isdecimal() and len(part) <= 3 for part in parts):
        return []
    octets = [int(part) for part in parts]
    return octets if max(octets) <= 255 else []


def to_port(text: str) -> int:
    """Return the port number in ``text`` (0..65535), -1 when it is none."""
    if len(text) <= 5 and text.isdecimal():
        port = int(text)
        return port if port <= 65535 else -1
    return -1
