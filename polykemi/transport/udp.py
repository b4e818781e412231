"""A UDP listener: drains the socket in one pass, sends at once, keeps what the kernel's buffer had no room for."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from polykemi.sip.flow import Flow, Listener
from polykemi.transport.icmp import ask_for_errors, read_errors
from polykemi.transport.mirror import Mirror

log = logging.getLogger("polykemi.transport")

_new = tuple.__new__  # what Flow() does as well, but one Python call later
BATCH = 64  # datagrams taken in one pass, so that timers and other sockets get their turn
BUFFER = 4 << 20  # octets asked of the kernel for received and for sent datagrams
BACKLOG = 4096  # datagrams kept when the kernel takes no more

_LONG: Final = 0.1  # seconds; the pass after one that took as long takes half as many
_SO_TIMESTAMP: Final = 29  # Linux; the module socket does not name them
_SO_MEMINFO: Final = 55
_DROPS: Final = 8  # its place among the numbers of SO_MEMINFO
_TIMEVAL: Final = struct.Struct("@ll")


class UdpListener:
    """One bound socket.

    ``receive(data, flow, now)`` is called for each datagram and ``done()`` once after each pass; ``now`` is seconds since
    the epoch, read once for a pass. ``failed(data, flow)`` is called for what the kernel refused to send.
    """

    def __init__(
        self,
        wanted: Listener,
        sock: socket.socket,
        receive: Callable[[bytes, Flow, float], None],
        done: Callable[[], None],
        failed: Callable[[bytes, Flow], None],
    ) -> None:
        """Take the socket that is bound to ``wanted``, whose port may be 0: any."""
        self._socket = sock
        self._socket.setblocking(False)  # noqa: FBT003
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        ask_for_errors(self._socket)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
        self.listener = wanted._replace(port=self._socket.getsockname()[1])
        self.ipv6 = sock.family == socket.AF_INET6
        self.mirror: Mirror | None = None
        self.received = 0  # datagrams, and those that were sent
        self.sent = 0
        self._receive, self._done, self._failed = receive, done, failed
        self._unsent: deque[tuple[bytes, Flow, tuple[str, int]]] = deque()
        self._batch = BATCH
        self._has_to_listen = False  # listen_anew is on its way
        self._lost = 0
        self.lost()  # what an inherited socket had no room for before is nobody's business any more
        self._loop: Any = None  # uvloop's: it does not return all that asyncio's types promise

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start reading."""
        self._loop = loop
        loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        recvfrom, receive, listener, mirror = self._socket.recvfrom, self._receive, self.listener, self.mirror
        now = time.time()
        taken = 0
        try:
            while taken < self._batch:
                data, address = recvfrom(65535)
                taken += 1
                flow = _new(Flow, (listener, address[0], address[1]))
                if mirror is not None:
                    mirror.received(data, flow)
                receive(data, flow, now)
        except BlockingIOError:
            pass
        except OSError as error:
            self._read_behind(error, now)
        self.received += taken
        self._done()
        if time.time() - now > _LONG:
            self._batch = max(1, self._batch // 2)
        elif self._batch < BATCH:
            self._batch *= 2

    @property
    def unsent(self) -> int:
        """How many datagrams wait until the kernel takes more."""
        return len(self._unsent)

    def waited(self, now: float) -> float:
        """Return the seconds that the first datagram which waits has waited, 0.0 when none does."""
        try:
            _, control, _, _ = self._socket.recvmsg(0, 64, socket.MSG_PEEK)
        except BlockingIOError:
            return 0.0
        except OSError:
            self._take_errors()
            return 0.0
        for _, kind, data in control:
            if kind == _SO_TIMESTAMP and len(data) == _TIMEVAL.size:
                seconds, micro = _TIMEVAL.unpack(data)
                return max(0.0, now - float(seconds) - float(micro) / 1e6)
        return 0.0

    def lost(self) -> int:
        """Return how many datagrams the kernel had no room for since the last call."""
        numbers = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_DROPS + 1))
        before, self._lost = self._lost, int.from_bytes(numbers[4 * _DROPS :], sys.byteorder)
        return (self._lost - before) % (1 << 32)

    def _read_behind(self, error: OSError, now: float) -> None:
        """Take an error and read on, so that those who cause many of them do not hold up others."""
        failed: OSError | None = error
        for _ in range(self._batch):
            if failed is not None and not self._take_errors():
                log.warning("udp:%s:%d: %s", self.listener.host, self.listener.port, failed.strerror)
                return
            failed = None
            try:
                data, address = self._socket.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError as other:
                failed = other
                continue
            flow = _new(Flow, (self.listener, address[0], address[1]))
            self.received += 1
            if self.mirror is not None:
                self.mirror.received(data, flow)
            self._receive(data, flow, now)

    def _take_errors(self) -> bool:
        """Take what ICMP says of what was sent: whoever sent it is told by ``failed``, with its beginning. False: nothing."""
        errors = read_errors(self._socket, BATCH)
        if self._loop is not None and not self._has_to_listen:
            self._has_to_listen = True
            self._loop.call_soon(self.listen_anew)
        for data, host, port in errors or ():
            self._failed(data, _new(Flow, (self.listener, host, port)))
        return errors is not None

    def listen_anew(self) -> None:
        """Register with the loop once more: uvloop's stops to watch a socket that has had an error, or whose reader is stuck."""
        self._has_to_listen = False
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.add_reader(self._socket, self._readable)
        if self._unsent:
            self._loop.remove_writer(self._socket)
            self._loop.add_writer(self._socket, self._writable)

    def send(self, data: bytes, flow: Flow, address: tuple[str, int]) -> None:
        """Send ``data`` to ``address``: an IP address and a port."""
        self.sent += 1
        if self.mirror is not None:
            self.mirror.sent(data, self.listener, address[0], address[1])
        if self._unsent:
            self._keep(data, flow, address)
            return
        try:
            self._socket.sendto(data, address)
        except BlockingIOError:
            self._keep(data, flow, address)
            if self._loop is not None:
                self._loop.add_writer(self._socket, self._writable)
        except (OSError, OverflowError) as error:
            self._send_again(data, flow, address, error)

    def _send_again(self, data: bytes, flow: Flow, address: tuple[str, int], error: Exception) -> None:
        """Try it once more: the error may be that of something sent before, which ICMP has told of in the meantime."""
        if isinstance(error, OSError):
            self._take_errors()
            try:
                self._socket.sendto(data, address)
                return
            except OSError as other:  # a BlockingIOError too: that is rare enough
                error = other
        log.info("cannot send to %s:%d: %s", address[0], address[1], error)
        self._failed(data, flow)

    def _keep(self, data: bytes, flow: Flow, address: tuple[str, int]) -> None:
        if len(self._unsent) >= BACKLOG:
            self._failed(data, flow)
        else:
            self._unsent.append((data, flow, address))

    def _writable(self) -> None:
        while self._unsent:
            data, flow, address = self._unsent[0]
            try:
                self._socket.sendto(data, address)
            except BlockingIOError:
                return
            except OSError as error:
                self._send_again(data, flow, address, error)
            self._unsent.popleft()
        if self._loop is not None:
            self._loop.remove_writer(self._socket)

    def close(self) -> None:
        """Stop reading and close the socket."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket.close()
