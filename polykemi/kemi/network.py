"""What exports may ask of the network while a route block waits: other servers, and DNS. The transport implements it.

The loop is blocked for as long as the answer takes, at most the given time: as Kamailio's workers are.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from polykemi.sip.constants import PORT, TLS_PORT
from polykemi.sip.flow import Flow
from polykemi.sip.locate import Destination, Draw, Naptr, Place, Srv, Usable, protos


class Peers(Protocol):
    """Other servers that answer one datagram with one datagram: media relays and their like."""

    def ask(self, address: str, data: bytes, seconds: float, accept: Callable[[bytes], bool]) -> bytes | None:
        """Send ``data`` to ``address`` and return the first answer that ``accept`` takes, None when ``seconds`` are over.

        ``address``: ``udp:host:port``, ``udp6:host:port`` or ``unix:path`` (a stream, one connection a question). Raise
        OSError when the peer cannot be reached at all: nobody listens there, an unknown name.
        """


class Dns(Protocol):
    """The domain name system. What is not there, or does not come within ``seconds``, is an empty list."""

    def addresses(self, host: str, seconds: float) -> list[str]:
        """Return the IP addresses of ``host`` as the system finds them (its hosts file, DNS), in the order to be tried."""

    def srv(self, name: str, seconds: float) -> list[Srv]:
        """Return the SRV records of ``name``, in no order."""

    def naptr(self, name: str, seconds: float) -> list[Naptr]:
        """Return the NAPTR records of ``name``, in no order."""

    def ptr(self, name: str, seconds: float) -> list[str]:
        """Return the names that the PTR records of ``name`` (``1.2.0.192.in-addr.arpa``) give."""

    def txt(self, name: str, seconds: float) -> list[str]:
        """Return the first text of each TXT record of ``name``."""

    def raw(self, name: str, kind: int, seconds: float) -> list[bytes]:
        """Return the data of the records of type ``kind``, a number, at ``name``: for types that nobody has a name for."""

    def keep(self, seconds: int) -> None:
        """Keep answers that come from now on for ``seconds``, whatever they say; 0: for as long as they say."""


class Offline:
    """No network: what a server without sockets has. No peer can be reached, no name is known, but an address is one."""

    def ask(self, address: str, data: bytes, seconds: float, accept: Callable[[bytes], bool]) -> bytes | None:
        """Raise OSError."""
        raise OSError("there is no network")

    def addresses(self, host: str, seconds: float) -> list[str]:
        """Return ``host`` when it is an address."""
        try:
            return [str(ip_address(host))]
        except ValueError:
            return []

    def srv(self, name: str, seconds: float) -> list[Srv]:
        """Return nothing."""
        return []

    def naptr(self, name: str, seconds: float) -> list[Naptr]:
        """Return nothing."""
        return []

    def ptr(self, name: str, seconds: float) -> list[str]:
        """Return nothing."""
        return []

    def txt(self, name: str, seconds: float) -> list[str]:
        """Return nothing."""
        return []

    def raw(self, name: str, kind: int, seconds: float) -> list[bytes]:
        """Return nothing."""
        return []

    def keep(self, seconds: int) -> None:
        """Keep nothing."""


class Locator(Protocol):
    """Where requests go by DNS (RFC 3263): what is known is there at once, the rest is asked for without waiting."""

    def locate(
        self, destination: Destination, usable: Usable, now: float, draw: Draw | None = None
    ) -> list[Place] | None:
        """Return the places in the order in which they are to be tried, [] when there are none, None when DNS has to be asked.

        ``now``: seconds since the epoch; ``draw``: where the numbers for weights come from, None: chance.
        """

    def ask(self, destination: Destination, usable: Usable, answer: Callable[[list[Place], float], None]) -> None:
        """Ask DNS; ``answer`` gets the places and the time then, later."""


class Unlocated:
    """No DNS: a name is a place by itself, as in a server without sockets."""

    def locate(
        self, destination: Destination, usable: Usable, now: float, draw: Draw | None = None
    ) -> list[Place] | None:
        """Return the host as it is, by the first transport that can be used."""
        return [
            Place(proto, destination.host, destination.port or (TLS_PORT if proto in ("tls", "wss") else PORT))
            for proto in protos(destination, usable)[:1]
        ]

    def ask(self, destination: Destination, usable: Usable, answer: Callable[[list[Place], float], None]) -> None:
        """Never called: ``locate`` knows everything."""


class Connections(Protocol):
    """The connections of a server with its peers, over TCP. ``ident`` is the number of one, as scripts see it."""

    def ident(self, flow: Flow) -> int:
        """Return the number of the connection of ``flow``, -1 when there is none."""

    def flow_of(self, ident: int) -> Flow | None:
        """Return the flow of a connection, None when it is gone."""

    def alias(self, flow: Flow, port: int) -> bool:
        """Let what goes to ``port`` of the peer go over the connection of ``flow``; False when there is none."""

    def close_after_reply(self, flow: Flow) -> None:
        """Close the connection of ``flow`` as soon as the next thing has been sent over it."""

    def upgrade(self, flow: Flow, *, client: bool = False) -> bool:
        """Take what comes from now on as WebSocket frames; False when there is no connection. ``client``: we have called."""

    def last_used(self, ident: int) -> float | None:
        """Return when something has come over a WebSocket last (seconds since the epoch), None when it is not there."""

    def end_websocket(self, ident: int, code: int, reason: str) -> bool:
        """Send a Close frame; the peer's ends the connection. False when there is no such WebSocket."""

    def ping(self, ident: int, data: bytes, *, pong: bool = False) -> bool:
        """Send a Ping, or a Pong that nobody has asked for; False when there is no such WebSocket."""

    def abort(self, ident: int) -> None:
        """Drop a connection."""


class NoConnections:
    """A server without connections."""

    def ident(self, flow: Flow) -> int:
        """Return -1."""
        return -1

    def flow_of(self, ident: int) -> Flow | None:
        """Return None."""
        return None

    def alias(self, flow: Flow, port: int) -> bool:
        """Return False."""
        return False

    def close_after_reply(self, flow: Flow) -> None:
        """Do nothing."""

    def upgrade(self, flow: Flow, *, client: bool = False) -> bool:
        """Return False."""
        return False

    def last_used(self, ident: int) -> float | None:
        """Return None."""
        return None

    def end_websocket(self, ident: int, code: int, reason: str) -> bool:
        """Return False."""
        return False

    def ping(self, ident: int, data: bytes, *, pong: bool = False) -> bool:
        """Return False."""
        return False

    def abort(self, ident: int) -> None:
        """Do nothing."""


class TlsState(NamedTuple):
    """What is known of a connection over TLS; certificates are DER, empty where there is none."""

    version: str  # as OpenSSL names it: TLSv1.3
    cipher: str
    bits: int
    description: str  # of the cipher, one line of OpenSSL
    server_name: str  # that the client has asked for, "" for none
    own: bytes
    peer: bytes
    is_verified: bool  # the peer has a certificate, and it was checked


class TlsConnection(NamedTuple):
    """One connection over TLS, for lists; ``state`` is None until its handshake is over."""

    ident: int
    flow: Flow
    left: int  # seconds until it is dropped, when nothing comes
    unsent: int  # octets that wait for the peer to take them
    is_accepted: bool  # the peer has made it
    state: TlsState | None


class Tls(Protocol):
    """The connections of a server over TLS."""

    def tls_state(self, flow: Flow) -> TlsState | None:
        """Return what is known of the connection of ``flow``, None when it is gone or is none over TLS."""

    def tls_connections(self, now: float) -> list[TlsConnection]:
        """Return all, those too that are WebSockets."""

    def most_connections(self) -> int:
        """Return how many connections there may be, those without TLS included."""

    def use_server_id(self, server_id: str) -> None:
        """Make connections from now on with the client profile that has ``server_id``, "": with that of their address."""

    def reread_tls(self) -> Callable[[], None] | None:
        """Read profiles and certificates anew; return what makes connections that come use them. Raise ConfigError.

        None: there is no listener for TLS.
        """


class NoTls:
    """A server without TLS."""

    def tls_state(self, flow: Flow) -> TlsState | None:
        """Return None."""
        return None

    def tls_connections(self, now: float) -> list[TlsConnection]:
        """Return nothing."""
        return []

    def most_connections(self) -> int:
        """Return 0."""
        return 0

    def use_server_id(self, server_id: str) -> None:
        """Do nothing."""

    def reread_tls(self) -> Callable[[], None] | None:
        """Return None."""
        return None
