"""A phone that speaks SIP over a connection that it has opened, TCP, TLS or WebSocket: what is sent and seen is in the test."""

from __future__ import annotations

import hashlib
import itertools
import re
import socket
import ssl
import time
from collections.abc import Iterable

from wsproto.frame_protocol import FrameProtocol, Opcode

from polykemi.sip.flow import bracketed
from polykemi.sip.framing import Framer
from tests.e2e.conftest import DOMAIN, PASSWORDS
from tests.waiting import PATIENCE

_numbers = itertools.count(time.time_ns())
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: {domain}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
)


def values(message: str, name: str) -> list[str]:
    """Return the values of the headers ``name``, one for each line."""
    return re.findall(rf"^{name}:[ \t]*(.*?)\r$", message, re.M | re.I)


class StreamPhone:
    """One user's phone. ``contact`` is what it registers and writes into its dialogs."""

    transport = "TCP"

    def __init__(
        self,
        user: str,
        port: int,
        host: str = "127.0.0.1",
        source: str = "",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.user = user
        self.socket = socket.create_connection((host, port), PATIENCE, source_address=(source, 0))
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        self.socket.settimeout(PATIENCE)
        own, own_port, *_ = self.socket.getsockname()
        self.sent_by = f"{bracketed(own)}:{own_port}"
        self.contact = f"<sip:{user}@{self.sent_by};transport={self.transport.lower()}>"
        self._framer, self._waiting = Framer(), list[bytes]()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    # ---- messages
    def send(self, message: str) -> None:
        """Send one message."""
        self.socket.sendall(message.encode())

    def receive(self) -> str:
        """Return the next message."""
        while not self._waiting:
            data = self.socket.recv(65536)
            assert data, "the server has closed the connection"
            self._waiting += self._read(data)
        return self._waiting.pop(0).decode()

    def _read(self, data: bytes) -> Iterable[bytes]:
        return self._framer.feed(data)

    def expect(self, start: str) -> str:
        """Return the next message but 100, which must begin with ``start``."""
        message = self.receive()
        while message.startswith("SIP/2.0 100 "):
            message = self.receive()
        assert message.startswith(start), message
        return message

    # ---- requests
    def request(self, method: str, uri: str, to: str, *headers: str, call_id: str = "", cseq: int = 1) -> str:
        """Send a request and return it."""
        lines = [f"{method} {uri} SIP/2.0"]
        lines.append(f"Via: SIP/2.0/{self.transport} {self.sent_by};branch=z9hG4bK{self.user}{next(_numbers)}")
        lines += ["Max-Forwards: 70", f"From: <sip:{self.user}@{DOMAIN}>;tag={self.user}1", f"To: {to}"]
        lines += [f"Call-ID: {call_id or f'{self.user}-{next(_numbers)}'}", f"CSeq: {cseq} {method}"]
        lines += [f"Contact: {self.contact}", *headers, "Content-Length: 0", "", ""]
        message = "\r\n".join(lines)
        self.send(message)
        return message

    def authorized(self, method: str, uri: str, to: str, *headers: str) -> str:
        """Send a request, and again with credentials; return the call's Call-ID."""
        call_id = values(self.request(method, uri, to, *headers), "Call-ID")[0]
        challenge = self.expect("SIP/2.0 40")
        proxy = challenge.startswith("SIP/2.0 407")
        if method == "INVITE":
            self.acknowledge(challenge, uri)
        realm, nonce = (re.findall(rf'{name}="([^"]*)"', challenge)[0] for name in ("realm", "nonce"))
        a1, a2 = (
            hashlib.md5(text.encode()).hexdigest()
            for text in (f"{self.user}:{realm}:{PASSWORDS[self.user]}", f"{method}:{uri}")
        )
        response = hashlib.md5(f"{a1}:{nonce}:{a2}".encode()).hexdigest()
        credentials = (
            f'Digest username="{self.user}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{response}"'
        )
        name = "Proxy-Authorization" if proxy else "Authorization"
        self.request(method, uri, to, *headers, f"{name}: {credentials}", call_id=call_id, cseq=2)
        return call_id

    def register(self) -> str:
        """Register and return the 200."""
        self.authorized("REGISTER", f"sip:{DOMAIN}", f"<sip:{self.user}@{DOMAIN}>", "Expires: 600")
        return self.expect("SIP/2.0 200")

    def acknowledge(self, response: str, uri: str) -> None:
        """Send the ACK to a response of 300 or above."""
        lines = [f"ACK {uri} SIP/2.0", f"Via: {re.sub(';(rport|received)[^;]*', '', values(response, 'Via')[0])}"]
        lines += [f"{name}: {values(response, name)[0]}" for name in ("From", "To", "Call-ID")]
        lines += [
            f"CSeq: {values(response, 'CSeq')[0].split()[0]} ACK",
            "Max-Forwards: 70",
            "Content-Length: 0",
            "",
            "",
        ]
        self.send("\r\n".join(lines))

    def in_dialog(self, method: str, other: str, *, cseq: int, caller: bool) -> str:
        """Send a request in the dialog that ``other`` (the 200 for a caller, the INVITE for a callee) has made."""
        target = values(other, "Contact")[0].strip("<>")
        routes = [one.strip() for line in values(other, "Record-Route") for one in line.split(",")]
        own, peer = ("From", "To") if caller else ("To", "From")
        lines = [f"{method} {target} SIP/2.0", "Max-Forwards: 70"]
        lines.append(f"Via: SIP/2.0/{self.transport} {self.sent_by};branch=z9hG4bK{self.user}{next(_numbers)}")
        lines += [f"Route: {route}" for route in (routes[::-1] if caller else routes)]
        tag = "" if caller else f";tag={self.user}2"
        lines += [f"From: {values(other, own)[0]}{tag}", f"To: {values(other, peer)[0]}"]
        lines += [f"Call-ID: {values(other, 'Call-ID')[0]}", f"CSeq: {cseq} {method}", "Content-Length: 0", "", ""]
        message = "\r\n".join(lines)
        self.send(message)
        return message

    def answer(self, request: str, status: str) -> None:
        """Answer a request."""
        lines = [f"SIP/2.0 {status}"]
        for name in ("Via", "Record-Route", "From", "Call-ID", "CSeq"):
            lines += [f"{name}: {value}" for value in values(request, name)]
        to = values(request, "To")[0]
        lines.append(f"To: {to}" if ";tag=" in to else f"To: {to};tag={self.user}2")
        lines += [f"Contact: {self.contact}", "Content-Length: 0", "", ""]
        self.send("\r\n".join(lines))


class SecurePhone(StreamPhone):
    """A phone whose connection is encrypted; ``context`` says whom it trusts."""

    transport = "TLS"


class Browser(StreamPhone):
    """A phone in a web browser: SIP over WebSocket, no address of its own (RFC 7118)."""

    transport = "WS"

    def __init__(self, user: str, port: int, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        super().__init__(user, port, host, context=context)
        self.sent_by = f"{user}.invalid"
        self.contact = f"<sip:{user}@{user}.invalid;transport=ws>"
        self.frames = FrameProtocol(True, [])
        self.controls: list[tuple[Opcode, object]] = []  # frames that are no messages
        self.socket.sendall(HANDSHAKE.format(domain=DOMAIN).encode())
        reply = b""
        while not reply.endswith(b"\r\n\r\n"):
            reply += self.socket.recv(1)
        self.handshake = reply.decode()

    def send(self, message: str) -> None:
        """Send one message in a frame."""
        self.socket.sendall(self.frames.send_data(message))

    def _read(self, data: bytes) -> Iterable[bytes]:
        self.frames.receive_bytes(data)
        text = b""
        for frame in self.frames.received_frames():
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION):
                text += frame.payload.encode() if isinstance(frame.payload, str) else bytes(frame.payload)  # type: ignore[arg-type]
                if frame.message_finished:
                    yield text
                    text = b""
            else:
                self.controls.append((frame.opcode, frame.payload))

    def control(self) -> tuple[Opcode, object]:
        """Return the next frame that is no message."""
        while not self.controls:
            self._waiting += self._read(self.socket.recv(65536))
        return self.controls.pop(0)


class SecureBrowser(Browser):
    """A phone in a web browser whose page has come over HTTPS. Its URIs name ws all the same (RFC 7118 section 5.2)."""

    transport = "WSS"
