"""All listeners of the server: opens them, sends from the one that a flow names, finds the addresses of this machine."""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import socket
import struct
import time
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from polykemi.errors import UsageError
from polykemi.sip.flow import WEBSOCKETS, Flow, Listener
from polykemi.sip.grammar import to_ip
from polykemi.sip.locate import Destination, Place
from polykemi.sip.reply_path import is_for_many
from polykemi.sip.tally import MessageTally
from polykemi.systemd import Inherited
from polykemi.transport.limits import StreamLimits
from polykemi.transport.mirror import Mirror
from polykemi.transport.resolver import Reply, Resolver
from polykemi.transport.stream import BACKLOG, Streams
from polykemi.transport.tls_profiles import TlsSettings
from polykemi.transport.udp import UdpListener

MAX_WAYS: Final = 10_000


class Transports:
    """The listeners, and the way out."""

    def __init__(
        self,
        wanted: Iterable[Listener],
        receive: Callable[[bytes, Flow, float], None],
        done: Callable[[], None],
        failed: Callable[[bytes, Flow], None],
        closed: Callable[[Flow, int, float], None] = lambda *_: None,
        limits: StreamLimits | None = None,
        tls: TlsSettings | None = None,
        lost: Callable[[Flow, float], None] = lambda *_: None,
        resolver: Resolver | None = None,
        inherited: Inherited | None = None,
        soon: Callable[[], None] | None = None,
    ) -> None:
        """Bind all that is ``wanted``, or nothing: raises UsageError for the first that cannot be bound.

        What is among the ``inherited`` sockets is bound already.

        The hosts 0.0.0.0 and :: stand for all addresses of this machine, each a listener of its own. ``closed``, ``limits``,
        ``tls`` and ``lost`` are about connections: ``transport/stream.py``. Without a ``resolver`` the names of
        /etc/hosts are known. ``soon``: called in the place of ``done`` by connections.
        """
        self.bound: list[Listener] = []
        self.streams = Streams(receive, soon or done, failed, closed, limits, tls, lost)
        self.sent = MessageTally()  # messages of all transports
        self._by_listener: dict[Listener, UdpListener] = {}
        self._ways: dict[Flow, tuple[UdpListener, tuple[str, int]]] = {}  # flows to IP addresses
        self.resolver = Resolver(_ask_nobody) if resolver is None else resolver
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls = receive, done, failed
        self._inherited = inherited or Inherited()
        self.made: list[socket.socket] = []  # bound here, not inherited
        self._failed, self._done = failed, done
        try:
            for listener in wanted:
                for one in addresses_of(listener):
                    self._bind(one)
        except Exception:
            self.close()
            raise

    def _bind(self, wanted: Listener) -> None:
        given = self._inherited.find(wanted.proto, wanted.host, wanted.port)
        sock = _bound(wanted) if given is None else given
        if wanted.proto != "udp":
            listener = self.streams.listen(wanted, sock)
        else:
            udp = UdpListener(wanted, sock, *self._calls)
            self._by_listener[udp.listener] = udp
            listener = udp.listener
        self.bound.append(listener)
        if given is None:
            self.made.append(sock)

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The listeners in the order of the configuration, then what some of them are once WebSocket is spoken there."""
        return (
            *self.bound,
            *(one._replace(proto=WEBSOCKETS[one.proto]) for one in self.bound if one.proto in WEBSOCKETS),
        )

    def listen_anew(self) -> None:
        """Take the readers of UDP sockets for new: the callback of one of them is stuck (``engines/js_loop.py``)."""
        for udp in self._by_listener.values():
            udp.listen_anew()

    def mirror_to(self, mirror: Mirror) -> None:
        """Let ``mirror`` see what comes and leaves."""
        self.streams.mirror = mirror
        for udp in self._by_listener.values():
            udp.mirror = mirror

    def messages(self) -> dict[str, tuple[int, int]]:
        """Return transport -> how many messages have come over it and were sent, keep-alives among them."""
        found = {one.proto: (0, 0) for one in self.listeners}
        for proto, number in self.streams.messages_in.items():
            found[proto] = (number, 0)
        for proto, number in self.streams.messages_out.items():
            found[proto] = (found.get(proto, (0, 0))[0], number)
        for udp in self._by_listener.values():
            come, gone = found["udp"]
            found["udp"] = (come + udp.received, gone + udp.sent)
        return found

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start reading from all sockets as soon as ``loop`` runs."""
        self._loop = loop
        self.resolver.loop = loop
        self.streams.open(loop)  # which runs the loop for a moment: nothing is to come in before it is to
        for udp in self._by_listener.values():
            udp.open(loop)

    def send(self, items: list[tuple[bytes, Flow]]) -> None:
        """Send each (data, flow); host names are resolved first, what cannot be sent goes to ``failed``."""
        ways, tally = self._ways, self.sent
        for data, flow in items:
            tally.count(data)
            way = ways.get(flow)
            if way is not None:
                way[0].send(data, flow, way[1])
            else:
                self._find_way(data, flow)

    def _find_way(self, data: bytes, flow: Flow) -> None:
        """Send to a flow that is new, or to a host name: requests are located before, but a Via may name one."""
        udp, loop = self._by_listener.get(flow.listener), self._loop
        if (udp is None and flow.listener.proto == "udp") or loop is None:
            self._failed(data, flow)
            return
        family = 6 if ":" in flow.listener.host else 4
        ip = to_ip(flow.host)
        if ip is None:
            self._locate(data, flow, udp, family)
        elif ip.version != family:
            self._failed(data, flow)
        else:
            address = str(ip)
            if udp is not None:
                if len(self._ways) >= MAX_WAYS:
                    self._ways.clear()
                self._ways[flow] = udp, (address, flow.port)
            self._to(address, data, flow, udp)

    def _locate(self, data: bytes, flow: Flow, udp: UdpListener | None, family: int) -> None:
        """Send to a host name; its port is 0 when DNS is to say it (RFC 3263 section 5)."""
        destination = Destination(flow.host.lower(), flow.port, flow.listener.proto)
        usable = {flow.listener.proto: (family,)}
        places = self.resolver.locate(destination, usable, time.time())
        if places is None:
            self.resolver.ask(destination, usable, partial(self._located, data, flow, udp))
        else:
            self._located(data, flow, udp, places, 0.0)

    def _located(self, data: bytes, flow: Flow, udp: UdpListener | None, places: list[Place], _now: float) -> None:
        if not places or (data[:8] == b"SIP/2.0 " and is_for_many(places[0].host)):
            self._failed(data, flow)
            return
        _, address, port = places[0]
        self._to(address, data, flow if flow.port else type(flow)(flow.listener, flow.host, port), udp)

    def _to(self, address: str, data: bytes, flow: Flow, udp: UdpListener | None) -> None:
        if udp is None:
            self.streams.send(data, flow, address)
        else:
            udp.send(data, flow, (address, flow.port))

    def backlog(self, now: float) -> tuple[float, int]:
        """Return the seconds that the oldest datagram has waited, and how many were lost since the last call."""
        waited, lost = 0.0, 0
        for udp in self._by_listener.values():
            waited = max(waited, udp.waited(now))
            lost += udp.lost()
        return waited, lost

    def unsent(self) -> tuple[int, int]:
        """Return how many datagrams wait for their sockets, and how many octets for the peers of connections."""
        connections = self.streams.known.by_ident.values()
        return sum(udp.unsent for udp in self._by_listener.values()), sum(one.unsent() for one in connections)

    def close(self) -> None:
        """Close all sockets."""
        self.streams.close()
        for udp in self._by_listener.values():
            udp.close()


def _bound(wanted: Listener) -> socket.socket:
    """Return a socket that is bound to ``wanted``, whose port may be 0: any. Raise UsageError."""
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if wanted.proto == "udp" else socket.SOCK_STREAM)
    try:
        if wanted.proto == "udp":
            sock.bind((wanted.host, wanted.port))
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((wanted.host, wanted.port))
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        hint = " (ports below 1024 need root, or CAP_NET_BIND_SERVICE)" if error.errno == errno.EACCES else ""
        raise UsageError(f"cannot listen on {wanted}: {error.strerror}{hint}") from None
    return sock


async def _ask_nobody(name: str, kind: str) -> Reply | None:
    return None


def addresses_of(wanted: Listener) -> list[Listener]:
    """Return the listeners that ``wanted`` stands for, each with an IP address of this machine. Raise UsageError.

    That of a name is advertised by its name, unless something else is.
    """
    host = wanted.host
    if host == "0.0.0.0":
        return [wanted._replace(host=one) for one in local_addresses()]
    if host == "::":
        return [wanted._replace(host=one) for one in local_addresses_6()]
    if to_ip(host) is not None:
        return [wanted]
    try:
        address = str(socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on {wanted}: {error}") from None
    return [wanted._replace(host=address, advertised_host=wanted.advertised_host or host)]


def local_addresses() -> list[str]:
    """Return the IPv4 addresses of this machine's interfaces, loopback first: what Kamailio listens on by default."""
    size, record = 8192, 40
    buffer = array.array("B", bytes(size))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("iP", size, buffer.buffer_info()[0])
        used = struct.unpack("iP", fcntl.ioctl(sock, 0x8912, request))[0]  # SIOCGIFCONF
    data = buffer.tobytes()
    found = {socket.inet_ntoa(data[i + 20 : i + 24]) for i in range(0, used, record)}
    return sorted(found, key=lambda a: (not a.startswith("127."), a)) or ["127.0.0.1"]


def local_addresses_6() -> list[str]:
    """Return the IPv6 addresses of this machine's interfaces, loopback first, without those that hold on one link alone."""
    try:
        lines = Path("/proc/net/if_inet6").read_text("ascii").splitlines()
    except OSError:
        lines = []
    found = {IPv6Address(bytes.fromhex(line[:32])) for line in lines}
    return [str(one) for one in sorted(found, key=lambda a: (not a.is_loopback, a)) if not one.is_link_local] or ["::1"]
