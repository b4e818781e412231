"""Where a message comes from and goes to: a listener of ours and an address of the peer (RFC 5626 calls it a flow)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from polykemi.sip.grammar import is_host, to_port

TRANSPORT_NUMBERS: Final = {"udp": 1, "tcp": 2, "tls": 3, "sctp": 4, "ws": 5, "wss": 6}  # Kamailio's, on the wire too
SECURE: Final = ("tls", "wss")
WEBSOCKETS: Final = {"tcp": "ws", "tls": "wss"}  # what is spoken over a connection once it has become a WebSocket
TRANSPORTS: Final = {number: transport for transport, number in TRANSPORT_NUMBERS.items()}

_SOCKET: Final = re.compile(r"(?:(udp|tcp|tls|sctp|wss?):)?(\[[^\]]+\]|[^:]+)(?::([0-9]+))?", re.IGNORECASE)


def bracketed(host: str) -> str:
    """Return ``host`` as it stands in a URI: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


class Listener(NamedTuple):
    """A socket that the server listens on."""

    proto: str  # lower case: udp
    host: str  # IPv6 without brackets
    port: int

    @property
    def sent_by(self) -> str:
        """``host:port`` as Via writes it, the port left out when it is 5060; for TLS that is not what is meant without."""
        host = bracketed(self.host)
        return host if self.port == 5060 and self.proto not in SECURE else f"{host}:{self.port}"

    @property
    def route(self) -> str:
        """``host:port;transport=`` as Record-Route and Path write it, the transport left out when it is UDP."""
        return self.sent_by + ("" if self.proto == "udp" else f";transport={self.proto}")

    def __str__(self) -> str:
        return f"{self.proto}:{bracketed(self.host)}:{self.port}"


class Flow(NamedTuple):
    """One of our listeners and the peer's address: what came from ``host:port``, or what shall go there.

    As a source ``host`` is an IP address; as a destination it may be a host name, which the transport resolves.
    """

    listener: Listener
    host: str
    port: int


@mypyc_attr(native_class=False)  # mypyc compiles no class with a tuple as its base
class OpenFlow(Flow):
    """A flow for what is to be sent over the connection that there is, and not at all once that is gone."""

    __slots__ = ()


@mypyc_attr(native_class=False)
class TokenFlow(OpenFlow):
    """The flow that a flow token names: what cannot be sent over it has failed with 430 (RFC 5626 section 5.3.1)."""

    __slots__ = ()


@mypyc_attr(native_class=False)
class LastFlow(Flow):
    """A flow for the last that is sent over its connection."""

    __slots__ = ()


@mypyc_attr(native_class=False)
class NamedFlow(Flow):
    """A flow to an IP address that was found for a name: over TLS the peer has to prove that it is ``name``."""

    name: str = ""

    @classmethod
    def to(cls, flow: Flow, name: str) -> NamedFlow:
        """Return ``flow``, to be taken for one to ``name``."""
        named = cls(*flow)
        named.name = name
        return named


def parse_socket(text: str) -> tuple[str, str, int]:
    """Split ``[proto:]host[:port]``, IPv6 in brackets: proto in lower case, host without brackets.

    "" and 0 stand for what is missing, and a host of "" for what cannot be read.
    """
    match = _SOCKET.fullmatch(text)
    proto, host, digits = match.groups("") if match is not None else ("", "", "")
    port = to_port(digits or "0")
    return (proto.lower(), host.strip("[]"), port) if is_host(host) and port >= 0 else ("", "", 0)


def find_listener(text: str, listeners: Iterable[Listener], default_port: int = 0) -> Listener | None:
    """Return the listener ``[proto:]host[:port]``, None when there is none; a port of 0 is any."""
    proto, host, port = parse_socket(text)
    host, port = host.lower(), port or default_port
    for listener in listeners:
        if host == listener.host.lower() and port in (0, listener.port) and proto in ("", listener.proto):
            return listener
    return None
