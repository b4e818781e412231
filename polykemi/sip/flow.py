"""Where a message comes from and goes to: a listener of ours and an address of the peer (RFC 5626 calls it a flow)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from polykemi.live import live
from polykemi.sip.grammar import canonical_host, ip4_octets, is_host, to_port

TRANSPORT_NUMBERS: Final = {"udp": 1, "tcp": 2, "tls": 3, "sctp": 4, "ws": 5, "wss": 6}  # Kamailio's, on the wire too
SECURE: Final = ("tls", "wss")
WEBSOCKETS: Final = {"tcp": "ws", "tls": "wss"}  # what is spoken over a connection once it has become a WebSocket
TRANSPORTS: Final = {number: transport for transport, number in TRANSPORT_NUMBERS.items()}

_SOCKET: Final = re.compile(r"(?:(udp|tcp|tls|sctp|wss?):)?(\[[^\]]+\]|[^:]+)(?::([0-9]+))?", re.IGNORECASE)


def bracketed(host: str) -> str:
    """Return ``host`` as it stands in a URI: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


class Listener(NamedTuple):
    """A socket that the server listens on, and how its peers know it (Kamailio: ``listen=... advertise ... name``)."""

    proto: str  # lower case: udp
    host: str  # IPv6 without brackets
    port: int
    advertised_host: str = ""  # "": as ``host``
    advertised_port: int = 0  # 0: as ``port``
    name: str = ""

    @property
    def advertised(self) -> tuple[str, int]:
        """Host and port that messages of ours name."""
        return self.advertised_host or self.host, self.advertised_port or self.port

    @property
    def sent_by(self) -> str:
        """``host:port`` of the advertised address as Via writes it, the port left out when it is 5060 and that is meant then."""
        host, port = self.advertised
        return bracketed(host) if port == 5060 and self.proto not in SECURE else f"{bracketed(host)}:{port}"

    @property
    def transport(self) -> str:
        """The transport as URIs name it: that of secure WebSocket is ws (RFC 7118 section 5.2)."""
        return "ws" if self.proto == "wss" else self.proto

    @property
    def route(self) -> str:
        """``host:port;transport=`` as Record-Route and Path write it, the transport left out when it is UDP."""
        return self.sent_by + ("" if self.proto == "udp" else f";transport={self.transport}")

    def __str__(self) -> str:
        return f"{self.proto}:{bracketed(self.host)}:{self.port}"


class Flow(NamedTuple):
    """One of our listeners and the peer's address: what came from ``host:port``, or what shall go there.

    As a source ``host`` is an IP address; as a destination it may be a host name, which the transport resolves.
    """

    listener: Listener
    host: str
    port: int

    @property
    def peer(self) -> str:
        """The peer's address with its transport: ``udp:192.0.2.1:5060``."""
        return f"{self.listener.proto}:{bracketed(self.host)}:{self.port}"


@mypyc_attr(native_class=False)  # mypyc compiles no class with a tuple as its base
class NamedFlow(Flow):
    """A flow to an IP address that was found for a name: over TLS the peer has to prove that it is ``name``, "" for none."""

    name: str = ""

    @classmethod
    def to(cls, flow: Flow, name: str) -> NamedFlow:
        """Return ``flow``, to be taken for one to ``name``."""
        named = cls(*flow)
        named.name = name
        return named


@mypyc_attr(native_class=False)
class OpenFlow(NamedFlow):
    """A flow for what is to be sent over the connection that there is, and not at all once that is gone."""


@mypyc_attr(native_class=False)
class TokenFlow(OpenFlow):
    """The flow that a flow token names: what cannot be sent over it has failed with 430 (RFC 5626 section 5.3.1)."""


@mypyc_attr(native_class=False)
class LastFlow(NamedFlow):
    """A flow for the last that is sent over its connection."""


def onward(kind: Callable[[Listener, str, int], Flow], flow: Flow) -> Flow:
    """Return ``flow`` as a flow of another kind, which still has to prove the name that it was found for."""
    made = kind(*flow)
    if isinstance(flow, NamedFlow) and isinstance(made, NamedFlow):
        made.name = flow.name
    return made


def moved(flow: Flow, listener: Listener) -> Flow:
    """Return ``flow``, of its kind and to its name, from another listener."""
    made = flow._replace(listener=listener)
    if isinstance(flow, NamedFlow) and isinstance(made, NamedFlow):
        made.name = flow.name
    return made


@dataclass(frozen=True, slots=True)
class UdpSettings:
    """Kamailio's core parameters without ``udp_``: requests of more than ``mtu`` octets go over ``mtu_try_proto``, 0: none."""

    mtu: int = live(0, "requests of more octets go over udp_mtu_try_proto; 0: none", name="udp_mtu")
    # no Literal, which is lost when this file is compiled
    mtu_try_proto: str = live(
        "tcp", "what requests that are too long for UDP go over: tcp or tls", name="udp_mtu_try_proto"
    )

    def __post_init__(self) -> None:
        if self.mtu < 0:
            raise ValueError(f"mtu: expected 0 or more octets, got {self.mtu}")
        if self.mtu_try_proto not in ("tcp", "tls"):
            raise ValueError(f"mtu_try_proto: expected tcp or tls, got {self.mtu_try_proto}")


def parse_socket(text: str) -> tuple[str, str, int]:
    """Split ``[proto:]host[:port]``, IPv6 in brackets: proto in lower case, host without brackets.

    "" and 0 stand for what is missing, and a host of "" for what cannot be read.
    """
    match = _SOCKET.fullmatch(text)
    proto, host, digits = match.groups("") if match is not None else ("", "", "")
    port = to_port(digits or "0")
    return (proto.lower(), host.strip("[]"), port) if is_host(host) and port >= 0 else ("", "", 0)


def find_listener(text: str, listeners: Iterable[Listener], default_port: int = 0) -> Listener | None:
    """Return the listener ``[proto:]host[:port]``, by its own address or the advertised one; None when there is none.

    A port of 0 is any.
    """
    proto, host, port = parse_socket(text)
    host, port = canonical_host(host), port or default_port
    for listener in listeners:
        if proto in ("", listener.proto) and is_at(listener, host, port):
            return listener
    return None


def named(name: str, listeners: Iterable[Listener]) -> Listener | None:
    """Return the first listener that the configuration gives ``name``, None when there is none."""
    for listener in listeners:
        if name and name == listener.name:
            return listener
    return None


def reaches(listener: Listener, host: str) -> bool:
    """Tell whether ``host`` is no IP address, or one of the family of ``listener``."""
    if ":" in listener.host:
        return not ip4_octets(host)
    return ":" not in host


def listener_for(proto: str, host: str, listener: Listener, others: Iterable[Listener]) -> Listener | None:
    """Return what ``host`` is sent to from over ``proto``: ``listener`` when it will do, else the first other that does.

    ``ws``, as URIs name it, is secure WebSocket too.
    """
    if (proto == listener.proto or (proto == "ws" and listener.proto == "wss")) and reaches(listener, host):
        return listener
    for other in others:
        if proto == other.proto and reaches(other, host):
            return other
    return listener_for("wss", host, listener, others) if proto == "ws" else None


def is_at(listener: Listener, host: str, port: int) -> bool:
    """Tell whether ``host``, in canonical form, and ``port`` (0: any) are those of ``listener``.

    As in Kamailio an advertised host goes with the port of the socket too.
    """
    if host == listener.host:
        return port in (0, listener.port)
    return host != "" and host == listener.advertised_host and port in (0, listener.advertised_port, listener.port)
