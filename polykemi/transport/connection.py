"""One connection of ``stream``: octets to messages and back, over TCP or TLS, by themselves or in the frames of WebSocket.

What waits is bounded.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from polykemi.sip.flow import WEBSOCKETS, Flow, Listener, bracketed
from polykemi.sip.framing import PING, PONG, Framer, is_http
from polykemi.transport.tls import Tls
from polykemi.transport.websocket import WebSocket

if TYPE_CHECKING:
    from polykemi.transport.stream import Streams

log = logging.getLogger("polykemi.transport")

_PAUSE: Final = 1 << 16  # octets that wait before a peer counts as one that lets others wait
_LINGER: Final = 5.0  # seconds that a peer has to take the last octets
_PASS: Final = 1 << 14  # octets that one connection gets in at a time


class Connection:
    """One connection: the protocol (asyncio's word) of a transport. ``flow`` has no peer until it is made."""

    def __init__(self, streams: Streams, listener: Listener, tls: Tls | None = None) -> None:
        self._streams = streams
        self.tls = tls
        self._handshake: Any = None  # the timer that ends one which takes too long
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
        self.is_silent = False  # and has brought nothing yet
        self.stuck_at = 0.0  # when the peer stopped taking what it is sent, 0.0: it takes it
        self.due = 0.0  # when the message that has begun is to be complete, 0.0: none has begun
        self.used = time.time()
        self.is_last = False  # close when something has been sent
        self.websocket: WebSocket | None = None
        self.sought = ""  # the name of the server that was called over TLS, which it has proved; "" when it has none

    # ---- called by the loop
    def connection_made(self, transport: Any) -> None:
        """Take a peer, or the peer that was called."""
        self._transport = transport
        transport.set_write_buffer_limits(_PAUSE)
        if self.ident:
            if transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
                # nobody listens there, and the kernel has chosen that very port for our side: we would talk to ourselves
                self._streams.count("connect_failed")
                transport.abort()
                return
            self._streams.count("connect_success")
        else:
            peer = transport.get_extra_info("peername")  # None: it has gone already
            if peer is None or not self._streams.admit(self, *peer[:2]):
                transport.abort()
                return
        self._streams.count("established")
        if self.tls is None:
            self._send_waiting()
            return
        self._handshake = self._streams.loop.call_later(self._streams.limits.connect_timeout, self._too_slow)
        self._flush(self.tls)

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._unsent = 0
        for data, flow in waiting:
            self.send(data, flow)

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
        tls = self.tls
        if tls is not None:
            data = self._decrypted(tls, data)
            if not data:
                return
        websocket = self.websocket  # were the attribute itself tested, mypyc would take it for None further down
        if websocket is not None:
            self._frames_received(data)
            return
        found, pings = self._framer.feed(data), 0
        if found and self.is_silent:
            self._streams.heard(self)
        for i, message in enumerate(found):
            if message == PING:
                pings += 1
                continue
            self._streams.take(message, self.flow, self._now)
            if is_http(message):
                self._streams.done()  # it may have been the last in this protocol
                if self.websocket is not None:
                    self._frames_received(b"".join(found[i + 1 :]) + self._framer.take_rest())
                    return
        self._wait_for_rest(is_whole=self._framer.is_empty, has_come=bool(found))
        if found:
            self.used = self._now
            self._streams.done()
        if pings:
            self.write(PONG * pings)
        if self._framer.to_send:
            self.write(self._framer.to_send)
            self._framer.to_send = b""
        if self._framer.error:
            self._streams.count("unreadable")
            self._streams.told.of_closed("closed", self.flow, self._framer.error)
            self.end()

    def _wait_for_rest(self, *, is_whole: bool, has_come: bool) -> None:
        """Note until when the rest of a message has to come, unless what has come was whole; ``has_come``: one was complete."""
        if is_whole:
            self.due = 0.0
        elif has_come or not self.due:
            self.due = self._now + self._streams.limits.msg_read_timeout

    def _decrypted(self, tls: Tls, data: bytes) -> bytes:
        """Return what the peer has encrypted; see to what the protocol wants done besides."""
        was_open, was_waiting = tls.is_open, tls.is_waiting
        plain = tls.receive(data)
        if tls.is_waiting and not was_waiting:
            self._streams.wait_for_turn(self)
        self._see_to(tls, was_open=was_open)
        return plain

    def shake_hands(self) -> None:
        """Answer the peer's ClientHello: it is this connection's turn."""
        tls = self.tls
        if tls is not None and not self._transport.is_closing():
            tls.proceed()
            self._see_to(tls, was_open=False)

    def _see_to(self, tls: Tls, *, was_open: bool) -> None:
        self._flush(tls)
        if tls.is_open and not was_open:
            self._open(tls)
        if tls.error:
            self._streams.count("tls_not_spoken" if tls.is_plain else "tls_failed" if not tls.is_open else "con_reset")
            self._streams.told.of_closed("closed", self.flow, tls.error)
            self._transport.close()  # behind the alert that says why
            self.end_soon()
        elif tls.is_closed:
            self.end()

    def _open(self, tls: Tls) -> None:
        """Let go out what has waited for the handshake."""
        self._handshake.cancel()
        self._handshake = None
        self._streams.count("tls_opened")
        self._send_waiting()

    def _too_slow(self) -> None:
        self._streams.count("tls_timeout")
        self._streams.told.of_closed("dropped", self.flow, "its handshake is not over")
        self.abort()

    def _flush(self, tls: Tls) -> None:
        """Send what the protocol wants sent."""
        if tls.to_send:
            data, tls.to_send = tls.to_send, b""
            self._put(data)

    def eof_received(self) -> bool:
        """Close as the peer has."""
        return False

    def pause_writing(self) -> None:
        """Count it among those that let others wait; ``write`` bounds what waits."""
        self.stuck_at = time.time()
        self._streams.waiting += 1

    def resume_writing(self) -> None:
        """Count it no more."""
        if self.stuck_at:
            self.stuck_at = 0.0
            self._streams.waiting -= 1

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the peer."""
        self.resume_writing()
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
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
        messages = websocket.receive(data)
        self._wait_for_rest(is_whole=websocket.is_whole, has_come=bool(messages))
        for message in messages:
            if message in (PING, PONG):  # RFC 7118 section 6; answered as Kamailio does
                self.write(websocket.frame(PONG))
            else:
                self._streams.take(message, flow, self._now)
        self._streams.done()
        if websocket.to_send:
            self.write(websocket.to_send)
            websocket.to_send = b""
        if websocket.code:
            self.end()

    # ---- what goes
    def send(self, data: bytes, flow: Flow) -> None:
        """Send one message to ``flow``, which says in which protocol."""
        tls = self.tls
        if self._transport is None or (tls is not None and not tls.is_open and not self._transport.is_closing()):
            self._unsent += len(data)
            if self._unsent > self._streams.limits.conn_wq_max:
                self._streams.failed(data, flow)
            else:
                self._waiting.append((data, flow))
            return
        if self._transport.is_closing():
            self._streams.failed(data, flow)
            return
        self.used = time.time()
        self._streams.leaves(data, flow.listener, self.flow)
        if self.websocket is not None and flow.listener.proto in ("ws", "wss"):
            data = self.websocket.frame(data)
        self.write(data)
        if self.is_last:
            self.end()

    def write(self, data: bytes) -> None:
        """Send octets, encrypted where that is what is spoken."""
        tls = self.tls
        if tls is None:
            self._put(data)
        elif tls.is_open:
            self._put(tls.send(data))

    def _put(self, data: bytes) -> None:
        """Send octets as they are; a peer that takes none for too long loses its connection."""
        if self._transport.is_closing():
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent and unsent + len(data) > self._streams.share:
            self._streams.count("sendq_full")
            proto, host = self.flow.listener.proto, bracketed(self.flow.host)
            log.warning("dropped %s:%s:%d: it does not take what it is sent", proto, host, self.flow.port)
            self.abort()
        else:
            self._transport.write(data)

    def unsent(self) -> int:
        """Return how many octets wait for the peer to take them."""
        return self._unsent + (0 if self._transport is None else int(self._transport.get_write_buffer_size()))

    def end(self) -> None:
        """Close when the peer has taken what is there; in a few seconds, if it does not."""
        if self.tls is not None:
            self._put(self.tls.close())
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
    listener = flow.listener
    if listener.proto in WEBSOCKETS:
        listener = listener._replace(proto=WEBSOCKETS[listener.proto])
    return Flow(listener, flow.host, flow.port)
