"""The frames of one WebSocket connection (RFC 6455): octets to messages and back. No sockets here."""

from __future__ import annotations

from typing import Final

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

LONGEST: Final = 0x10000  # octets of a message, of all its fragments


class WebSocket:
    """What has to be known of a connection after its handshake.

    ``to_send`` are octets that the protocol wants sent: pongs, the answer to a close. ``code`` and ``reason`` are those of
    the peer's Close frame, or of ours when the peer has broken the rules; code 0: the connection is open. ``is_whole``: no
    message has begun that is not complete, as far as can be told.
    """

    __slots__ = ("_frames", "_is_closing", "_longest", "_message", "code", "is_whole", "pongs", "reason", "to_send")

    def __init__(self, *, client: bool = False, longest: int = LONGEST) -> None:
        self._frames = FrameProtocol(client, [])
        self._longest = longest
        self._message = bytearray()
        self._is_closing = False  # we have sent a Close frame
        self.to_send = b""
        self.pongs = 0  # how many have come
        self.is_whole = True
        self.code = 0
        self.reason = ""

    def receive(self, data: bytes) -> list[bytes]:
        """Take octets; return the messages that are complete with them, texts and binary ones alike."""
        messages: list[bytes] = []
        to_send: list[bytes] = []
        has_frame = False  # a frame's header alone gives none
        try:
            self._frames.receive_bytes(data)
            for frame in self._frames.received_frames():
                has_frame, opcode, payload = True, frame.opcode, frame.payload
                if isinstance(payload, tuple):  # of a Close frame
                    self._fail(int(payload[0]), payload[1] or "")
                    break
                octets = payload.encode() if isinstance(payload, str) else bytes(payload)
                if opcode is Opcode.PING:
                    to_send.append(bytes(self._frames.pong(octets)))
                elif opcode is Opcode.PONG:
                    self.pongs += 1
                else:
                    self._message += octets
                    if len(self._message) > self._longest:
                        self._fail(int(CloseReason.MESSAGE_TOO_BIG), "Message too big")
                        break
                    if frame.message_finished:
                        messages.append(bytes(self._message))
                        self._message.clear()
        except ParseFailed as error:
            self._fail(int(error.code), str(error))
        self.to_send = b"".join(to_send) + self.to_send
        self.is_whole = has_frame and not self._message
        return messages

    def _fail(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        if not self._is_closing:
            self.to_send += self.close(code, reason)

    def frame(self, message: bytes) -> bytes:
        """Return ``message`` as one frame: a text when it is UTF-8, else a binary one."""
        try:
            return bytes(self._frames.send_data(message.decode(), fin=True))
        except UnicodeDecodeError:
            return bytes(self._frames.send_data(message, fin=True))

    def ping(self, data: bytes) -> bytes:
        """Return a Ping frame."""
        return bytes(self._frames.ping(data))

    def pong(self, data: bytes) -> bytes:
        """Return a Pong frame that nobody has asked for."""
        return bytes(self._frames.pong(data))

    def close(self, code: int, reason: str) -> bytes:
        """Return a Close frame."""
        self._is_closing = True
        return bytes(self._frames.close(code, reason))
