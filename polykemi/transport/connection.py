"""One connection of ``stream``: octets to messages and back, over TCP or in the frames of WebSocket; what waits is bounded."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from polykemi.sip.flow import Flow, Listener
from polykemi.sip.framing import PING, PONG, Framer, is_http
from polykemi.transport.websocket import WebSocket

if TYPE_CHECKING:
    from polykemi.transport.stream import Streams

log = logging.getLogger("polykemi.transport")

MOST_UNSENT: Final = 1 << 20  # octets that wait for a peer to take them
MOST_UNSENT_IN_ALL: Final = 64 << 20  # for all peers; those that let others wait share it
_PAUSE: Final = 1 << 16  # octets that wait before a peer counts as one that lets others wait
_LINGER: Final = 5.0  # seconds that a peer has to take the last octets
_PASS: Final = 1 << 14  # octets that one connection gets in at a time


class Connection:
    """One connection: the protocol (asyncio's word) of a transport. ``flow`` has no peer until it is made."""

    def __init__(self, streams: Streams, listener: Listener) -> None:
        self._streams = streams
        self._transport: Any = None  # uvloop's transports are not derived from asyncio's
        self._framer = Framer(streams.limits.longest_message)
        self._waiting: deque[tuple[bytes, Flow]] = deque()  # until the connection is made
        self._unsent = 0  # octets of these
        self._unread = bytearray()  # what has come and is for the next passes
        self._now = 0.0
        self.flow = Flow(listener, "", 0)
        self.names: list[Flow] = []  # what it is known by: its flow, that as a WebSocket, aliases
        self.carried: set[Flow] = set()  # what else was sent to over it
        self.ident = 0
        self.is_accepted = False  # the peer has made it
        self._is_waited_for = False
        self.used = time.time()
        self.is_last = False  # close when something has been sent
        self.websocket: WebSocket | None = None

    # ---- called by the loop
    def connection_made(self, transport: Any) -> None:
        """Take a peer, or the peer that was called."""
        self._transport = transport
        transport.set_write_buffer_limits(_PAUSE)
        if self.ident:
            self._streams.count("connect_success")
        else:
            peer = transport.get_extra_info("peername")  # None: it has gone already
            if peer is None or not self._streams.admit(self, *peer[:2]):
                transport.abort()
                return
        self._streams.count("established")
        while self._waiting:
            self.send(*self._waiting.popleft())
        self._unsent = 0

    def data_received(self, data: bytes) -> None:
        """Take octets; more than one pass takes wait, and no more are read meanwhile: other connections have their turn."""
        if self._transport.is_closing():
            return
        if self._unread or len(data) > _PASS:
            if not self._unread:
                self._transport.pause_reading()
            self._unread += data
            self._next_pass()
        else:
            self._pass(data)

    def _next_pass(self) -> None:
        if self._transport.is_closing():
            self._unread.clear()
            return
        data = bytes(self._unread[:_PASS])
        del self._unread[:_PASS]
        self._pass(data)
        if self._unread:
            self._streams.loop.call_soon(self._next_pass)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def _pass(self, data: bytes) -> None:
        """Take octets; all messages that are complete with them are one pass."""
        self._now = time.time()
        websocket = self.websocket  # were the attribute itself tested, mypyc would take it for None further down
        if websocket is not None:
            self._frames_received(data)
            return
        found, pings = self._framer.feed(data), 0
        for i, message in enumerate(found):
            if message == PING:
                pings += 1
                continue
            self._streams.receive(message, self.flow, self._now)
            if is_http(message):
                self._streams.done()  # it may have been the last in this protocol
                if self.websocket is not None:
                    self._frames_received(b"".join(found[i + 1 :]) + self._framer.take_rest())
                    return
        if found:
            self.used = self._now
            self._streams.done()
        if pings:
            self.write(PONG * pings)
        if self._framer.error:
            self._streams.count("unreadable")
            log.info("closed tcp:%s:%d: %s", self.flow.host, self.flow.port, self._framer.error)
            self.end()

    def eof_received(self) -> bool:
        """Close as the peer has."""
        return False

    def pause_writing(self) -> None:
        """Count it among those that let others wait; ``write`` bounds what waits."""
        self._is_waited_for = True
        self._streams.waiting += 1

    def resume_writing(self) -> None:
        """Count it no more."""
        if self._is_waited_for:
            self._is_waited_for = False
            self._streams.waiting -= 1

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the peer."""
        self.resume_writing()
        if self.ident == 0:
            return
        if error is not None:
            self._streams.count("con_reset")
        self._streams.remove(self)
        ident, self.ident = self.ident, 0
        while self._waiting:
            self._streams.failed(*self._waiting.popleft())
        now = time.time()
        for flow in (self.flow, *self.carried):
            self._streams.lost(flow, now)
        if self.websocket is not None:
            self._streams.closed(as_websocket(self.flow), ident, now)
        self._streams.done()

    # ---- what comes
    def _frames_received(self, data: bytes) -> None:
        websocket = self.websocket
        if websocket is None or not data:
            return
        self.used = self._now
        flow = as_websocket(self.flow)
        for message in websocket.receive(data):
            if message in (PING, PONG):  # RFC 7118 section 6; answered as Kamailio does
                self.write(websocket.frame(PONG))
            else:
                self._streams.receive(message, flow, self._now)
        self._streams.done()
        if websocket.to_send:
            self.write(websocket.to_send)
            websocket.to_send = b""
        if websocket.code:
            self.end()

    # ---- what goes
    def send(self, data: bytes, flow: Flow) -> None:
        """Send one message to ``flow``, which says in which protocol."""
        if self._transport is None:
            self._unsent += len(data)
            if self._unsent > MOST_UNSENT:
                self._streams.failed(data, flow)
            else:
                self._waiting.append((data, flow))
            return
        if self._transport.is_closing():
            self._streams.failed(data, flow)
            return
        self.used = time.time()
        if flow.listener.proto == "ws" and self.websocket is not None:
            data = self.websocket.frame(data)
        self.write(data)
        if self.is_last:
            self.end()

    def write(self, data: bytes) -> None:
        """Send octets; a peer that takes none for too long loses its connection."""
        if self._transport.is_closing():
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent and unsent + len(data) > min(MOST_UNSENT, MOST_UNSENT_IN_ALL // (self._streams.waiting or 1)):
            self._streams.count("sendq_full")
            log.warning("dropped tcp:%s:%d: it does not take what it is sent", self.flow.host, self.flow.port)
            self.abort()
        else:
            self._transport.write(data)

    def end(self) -> None:
        """Close when the peer has taken what is there; in a few seconds, if it does not."""
        self._transport.close()
        self.end_soon()

    def end_soon(self) -> None:
        """Drop the connection in a few seconds, unless the peer closes it before."""
        self._streams.loop.call_later(_LINGER, self._transport.abort)

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


def as_websocket(flow: Flow) -> Flow:
    """Return the flow of a connection as it is named once it carries WebSocket frames."""
    return Flow(flow.listener._replace(proto="ws"), flow.host, flow.port)
