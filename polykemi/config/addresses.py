"""Addresses as the configuration writes them: of listeners, domains, profiles of TLS."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from polykemi.sip.flow import Listener
from polykemi.sip.grammar import canonical_host, is_token

_PROTOCOLS: Final = {  # as written -> what is listened on, default port
    "udp": ("udp", 5060),
    "tcp": ("tcp", 5060),
    "tls": ("tls", 5061),
    "ws": ("tcp", 80),
    "wss": ("tls", 443),
    "sctp": ("sctp", 5060),
}


_LISTEN: Final = "udp:HOST:PORT (or tcp:, tls:, ws:, wss:)"
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)


def parse_listen(text: str) -> Listener:
    """Parse ``PROTO:HOST:PORT [advertise HOST:PORT] [name NAME]``; udp when there is no protocol. Raise ValueError.

    The default port is 5060, that of tls 5061. WebSocket is spoken on connections of tcp and tls, on each of them: ``ws``
    (default port 80) is another word for tcp, ``wss`` (443) for tls.
    """
    address, *words = text.split() or [""]
    head, colon, rest = address.partition(":")
    proto, rest = (head.lower(), rest) if colon and head.lower() in _PROTOCOLS else ("udp", address)
    if proto == "sctp":
        raise ValueError(f"sctp is not supported, expected {_LISTEN}, got {text!r}")
    given = dict(zip(words[::2], words[1::2], strict=False))
    if 2 * len(given) != len(words) or not given.keys() <= {"advertise", "name"}:
        raise ValueError(f"expected {_LISTEN} [advertise HOST:PORT] [name NAME], got {text!r}")
    proto, default = _PROTOCOLS[proto]
    host, port = host_and_port(rest, default, f"expected {_LISTEN}, got {text!r}")
    listener = Listener(proto, canonical_host(host), port)
    if "advertise" in given:
        expected = f"expected advertise HOST:PORT, got {text!r}"
        shown, shown_port = host_and_port(given["advertise"].strip('"'), 0, expected)
        listener = listener._replace(advertised_host=canonical_host(shown), advertised_port=shown_port)
    name = given.get("name", "").strip('"')
    if "name" in given and not is_token(name):
        raise ValueError(f"expected name and a word, got {text!r}")
    return listener._replace(name=name)


def host_and_port(text: str, default: int | None, expected: str) -> tuple[str, int]:
    """Split ``HOST:PORT``, or ``HOST`` where there is a default port. Raise ValueError that begins with ``expected``."""
    if text[:1] == "[":
        host, bracket, port = text[1:].partition("]")
        valid = bool(bracket) and _is_ip6(host) and port[:1] in ("", ":")
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = text.partition(":")
        valid = _is_host(host)
    if not valid or not (colon or default is not None):
        raise ValueError(f"{expected}{' (an IPv6 address stands in brackets)' if _is_ip6(text) else ''}")
    if not colon:
        assert default is not None
        return host, default
    if ":" in port or "." in port:  # upd:192.0.2.1
        raise ValueError(expected)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"expected a port from 0 to 65535, got {port!r}")
    return host, int(port)


def address_of(text: str) -> str | None:
    """Return ``HOST:PORT`` without the brackets of IPv6, None for what is none."""
    try:
        host, port = host_and_port(text, None, "")
    except ValueError:
        return None
    return f"{host}:{port}"


def parse_domain(text: str) -> str:
    """Return a domain in lower case, an IPv6 address without its brackets. Raise ValueError."""
    host = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    if not (_is_host(host) or _is_ip6(host)):
        raise ValueError(f"expected a host name or an IP address, got {text!r}")
    return canonical_host(host)


def _is_host(text: str) -> bool:
    """Tell whether ``text`` is a host name or an IPv4 address; digits and dots alone are no name (RFC 1123 section 2.1)."""
    if text.replace(".", "").isdecimal():
        try:
            return bool(ipaddress.IPv4Address(text))
        except ValueError:
            return False
    return bool(_HOST.fullmatch(text))


def _is_ip6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False
