"""Mirroring to Homer: each SIP message that comes or leaves goes to a capture server as well, in packets of HEPv3.

A mirror holds up nothing: what the capture server, or the way to it, does not take at once is dropped and counted. Its packets
leave through sockets of its own, so it does not see them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from polykemi.errors import UsageError
from polykemi.sip.flow import Flow, Listener, bracketed
from polykemi.sip.hep import Hep

log = logging.getLogger("polykemi.hep")

BACKLOG: Final = 1 << 20  # octets that wait for a capture server which is reached over a connection
_CONNECT: Final = 5.0  # seconds that one may take

_START: Final = re.compile(rb"(?:\r\n)*(?:SIP/2\.0 |([!#-~]+) [!-~]+ SIP/2\.0\r?\n)")
_CALL_ID: Final = re.compile(rb"\n(?:call-id|i)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_CSEQ: Final = re.compile(rb"\ncseq[ \t]*:[ \t]*[0-9]+[ \t]+([!-~]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HepSettings:
    """The table ``[hep]``: the capture server, and what it is sent."""

    proto: str  # udp, tcp or tls
    host: str
    port: int
    capture_id: int = 1
    auth_key: str = field(default="", repr=False)
    node: str = ""  # "": the name of the machine
    methods: frozenset[str] = frozenset()  # requests with these and responses to them; empty: all
    sample: float = 1.0  # the part of all calls that is mirrored, whole ones
    again: float = 5.0  # seconds between two attempts to connect, over TCP and TLS
    ca: Path | None = None  # of the authorities that a capture server is believed by over TLS; None: the system's

    def __str__(self) -> str:
        return f"{self.proto}:{bracketed(self.host)}:{self.port}"


class Mirror:
    """The way to one capture server."""

    def __init__(self, settings: HepSettings) -> None:
        """Find the capture server, and for UDP its socket. Raise UsageError."""
        self.counters: dict[str, int] = {"hep.sent": 0, "hep.dropped": 0}
        self._settings = settings
        node = settings.node or socket.gethostname()
        self._hep = Hep(settings.capture_id, settings.auth_key.encode("latin-1"), node.encode("latin-1", "replace"))
        self._methods = frozenset(one.encode("latin-1") for one in settings.methods)
        self._below = int(settings.sample * (1 << 32))  # checksums of the Call-IDs that are mirrored
        self._socket: socket.socket | None = None
        self._link: _Link | None = None
        kind = socket.SOCK_DGRAM if settings.proto == "udp" else socket.SOCK_STREAM
        try:
            family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=kind)[0]
            self.address = str(address[0]), settings.port
            if settings.proto == "udp":
                self._socket = socket.socket(family, kind)
                self._socket.setblocking(False)  # noqa: FBT003
                self._socket.connect(address)
            else:
                self._link = _Link(settings, self.address[0])
        except (OSError, UnicodeError) as error:
            self.close()
            cause = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f"[hep] cannot mirror to {settings}: {cause}") from None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to connect, where there is something to connect to."""
        if self._link is not None:
            self._link.open(loop)

    def close(self) -> None:
        """End it."""
        if self._socket is not None:
            self._socket.close()
        if self._link is not None:
            self._link.close()

    @property
    def waiting(self) -> int:
        """Octets that wait for the capture server."""
        return 0 if self._link is None else self._link.waiting()

    def describe(self) -> str:
        """Return the line that tells where messages are mirrored to."""
        settings = self._settings
        what = f", methods {', '.join(sorted(settings.methods))}" if settings.methods else ""
        part = f", {settings.sample:g} of all calls" if settings.sample < 1 else ""
        return f"mirrored to {settings} (HEPv3, capture ID {settings.capture_id}{what}{part})"

    # ---- what the transports tell
    def received(self, data: bytes, flow: Flow) -> None:
        """Mirror what has come from ``flow``."""
        listener = flow.listener
        self._take(data, listener.proto, (flow.host, flow.port), (listener.host, listener.port))

    def sent(self, data: bytes, listener: Listener, host: str, port: int) -> None:
        """Mirror what leaves from ``listener`` for an IP address."""
        self._take(data, listener.proto, (listener.host, listener.port), (host, port))

    def _take(self, data: bytes, proto: str, source: tuple[str, int], destination: tuple[str, int]) -> None:
        start = _START.match(data)
        if start is None:
            return  # a keep-alive, STUN, HTTP
        end = data.find(b"\r\n\r\n")
        if end < 0:
            end = len(data)
        found = _CALL_ID.search(data, 0, end)
        call_id = b"" if found is None else found[1].rstrip()
        if zlib.crc32(call_id) >= self._below:
            return
        if self._methods:
            named = start if start[1] is not None else _CSEQ.search(data, 0, end)
            if named is None or named[1] not in self._methods:
                return
        self._put(self._hep.packet(data, proto, source, destination, time.time(), call_id))

    def _put(self, packet: bytes) -> None:
        name = "hep.dropped"
        if packet and self._socket is not None:
            try:
                self._socket.send(packet)
                name = "hep.sent"
            except OSError:  # no room, nobody there, or longer than a datagram may be
                pass
        elif packet and self._link is not None and self._link.put(packet):
            name = "hep.sent"
        self.counters[name] += 1


class _Link:
    """A connection to a capture server, made again when it has ended: the protocol (asyncio's word) of a transport."""

    def __init__(self, settings: HepSettings, address: str) -> None:
        """Raise OSError for authorities that cannot be read."""
        self._settings, self._address = settings, address
        self._tls: ssl.SSLContext | None = None
        if settings.proto == "tls":
            self._tls = ssl.create_default_context(cafile=None if settings.ca is None else str(settings.ca))
        self._loop: Any = None
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_missed = False  # the log says that it is not there

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect as soon as ``loop`` runs."""
        self._loop = loop
        self._timer = loop.call_later(0, self._connect)

    def _connect(self) -> None:
        self._task = self._loop.create_task(self._connecting())

    async def _connecting(self) -> None:
        settings = self._settings
        name = settings.host if self._tls is not None else None
        try:
            async with asyncio.timeout(_CONNECT):
                await self._loop.create_connection(
                    lambda: self, self._address, settings.port, ssl=self._tls, server_hostname=name
                )
        except OSError as error:  # a TimeoutError and errors of TLS too
            self._missed(str(error) or "no answer")

    def _missed(self, cause: str) -> None:
        if not self._is_missed:
            log.warning("cannot mirror to %s: %s; trying again every %g s", self._settings, cause, self._settings.again)
        self._is_missed = True
        self._timer = self._loop.call_later(self._settings.again, self._connect)

    def put(self, packet: bytes) -> bool:
        """Send ``packet``, or tell that it cannot be sent at once."""
        transport = self._transport
        if transport is None or self.waiting() + len(packet) > BACKLOG:
            return False
        transport.write(packet)
        return True

    def waiting(self) -> int:
        """Return how many octets the peer has not taken yet."""
        return 0 if self._transport is None else int(self._transport.get_write_buffer_size())

    def close(self) -> None:
        """Drop the connection."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    # ---- called by the loop
    def connection_made(self, transport: Any) -> None:
        """Take the connection."""
        self._transport = transport
        if self._is_missed:
            log.info("mirroring to %s again", self._settings)
        self._is_missed = False

    def data_received(self, data: bytes) -> None:
        """Capture servers say nothing."""

    def eof_received(self) -> bool:
        """Close as the peer has."""
        return False

    def pause_writing(self) -> None:
        """Go on: ``put`` looks at what waits."""

    def resume_writing(self) -> None:
        """Go on."""

    def connection_lost(self, error: Exception | None) -> None:
        """Try again in a while, unless the mirror was closed."""
        if self._transport is not None:
            self._transport = None
            self._missed(str(error) if error is not None else "it has closed the connection")
