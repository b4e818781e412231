"""Messages in a stream of octets: where one ends and the next begins (RFC 3261 section 18.3, RFC 5626 section 3.5.1).

HTTP requests (RFC 9112) come in between SIP messages, as in Kamailio; they may come without Content-Length, or in chunks:
these are put together, so that what is given out has Content-Length again.
"""

from __future__ import annotations

import re
from typing import Final

from polykemi.sip.chunked import Chunks

PING: Final = b"\r\n\r\n"  # a keep-alive, answered with PONG
PONG: Final = b"\r\n"
LONGEST: Final = 0x10000  # octets of a message, body and all

_LENGTH: Final = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_CODING: Final = re.compile(rb"\r\ntransfer-encoding[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_EXPECTS: Final = re.compile(rb"\r\nexpect[ \t]*:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_HTTP: Final = re.compile(rb"[^\r\n ]+ [^\r\n ]+ HTTP/1\.\d\r\n|HTTP/1\.\d ")


def is_http(data: bytes) -> bool:
    """Tell whether ``data`` begins like a message of HTTP/1."""
    return _HTTP.match(data) is not None


class Framer:
    """Cuts what one connection brings into messages.

    ``error`` says what is wrong once the stream cannot be followed any more, "" until then. ``to_send`` are octets that HTTP
    wants sent: 100 (Continue), and the answer to what is wrong.
    """

    __slots__ = ("_chunks", "_data", "_head", "_searched", "_wanted", "error", "longest", "to_send")

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest
        self.error = ""
        self.to_send = b""
        self._head = b""  # of the message whose chunks come
        self._chunks: Chunks | None = None
        self._data = b""
        self._searched = 0  # no end of headers begins before
        self._wanted = 0  # octets of the message that has begun, 0: not known yet

    @property
    def is_empty(self) -> bool:
        """Whether no message has begun."""
        return not self._data and self._chunks is None

    def feed(self, data: bytes) -> list[bytes]:
        """Take more octets; return the messages that are complete with them, PING for each keep-alive."""
        if self.error:
            return []
        self._data += data
        found: list[bytes] = []
        while self._data and not self.error:
            message = self._next()
            if message is None:
                break
            if message:
                found.append(message)
        return found

    def take_rest(self) -> bytes:
        """Return what has come and is no whole message, and forget it: another protocol goes on."""
        rest, self._data = self._data, b""
        self._searched = self._wanted = 0
        return rest

    def _next(self) -> bytes | None:
        """Return the next message, b"" for what is no message and goes away, None when more has to come."""
        if self._chunks is not None:
            return self._next_in_chunks(self._chunks)
        data = self._data
        if data[:2] == PONG:
            if data[:4] == PING:
                self._data = data[4:]
                return PING
            if len(data) < 4 and PING.startswith(data):
                return None
            self._data = data[2:]
            return b""
        if not self._wanted:
            end = data.find(b"\r\n\r\n", self._searched)
            if end < 0:
                self._searched = max(0, len(data) - 3)
                if len(data) > self.longest:
                    self._fail(f"headers of more than {self.longest} octets", "431 Request Header Fields Too Large")
                return None
            length = self._body_length(data[: end + 2])
            if self.error:
                return None
            if length < 0:
                self._chunks, self._head, self._data = Chunks(self.longest - end), data[:end], data[end + 4 :]
                self._continue(self._head, has_come=bool(self._data))
                return b""
            self._wanted = end + 4 + length
            if self._wanted > self.longest:
                text = f"a message of {self._wanted} octets, at most {self.longest} are taken"
                self._fail(text, "413 Content Too Large")
                return None
            if length:
                self._continue(data[: end + 2], has_come=len(data) > end + 4)
        if len(data) < self._wanted:
            return None
        message, self._data = data[: self._wanted], data[self._wanted :]
        self._searched = self._wanted = 0
        return message

    def _next_in_chunks(self, chunks: Chunks) -> bytes | None:
        """Return the message whose chunks are complete; None when more have to come."""
        self._data = chunks.feed(self._data)
        if chunks.error:
            self._fail(chunks.error, "400 Bad Request")
        if not chunks.is_complete:
            return None
        head, body = _CODING.sub(b"", self._head + b"\r\n")[:-2], bytes(chunks.body)
        self._chunks, self._head, self._searched = None, b"", 0
        return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)

    def _continue(self, head: bytes, *, has_come: bool) -> None:
        """Ask for the body of a request whose sender waits for that (RFC 9110 section 10.1.1)."""
        if not has_come and b"100-" in head and is_http(head) and _EXPECTS.search(head + b"\r\n"):
            self.to_send += CONTINUE

    def _fail(self, error: str, status: str) -> None:
        """Give up, with an answer to who speaks HTTP."""
        self.error = error
        if is_http(self._head or self._data):
            self.to_send += f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()

    def _body_length(self, head: bytes) -> int:
        """Return the length of the body that ``head`` announces, -1 for chunks; ``error`` is set when there is no telling."""
        lengths = {value.strip(b" \t") for value in _LENGTH.findall(head)}
        http = is_http(head)
        codings = _CODING.findall(head) if http else []
        if codings and lengths:
            self._fail(
                "Content-Length and Transfer-Encoding", "400 Bad Request"
            )  # RFC 9112 section 6.3: perhaps an attack
        elif codings:
            if [coding.strip(b" \t").lower() for coding in codings] == [b"chunked"]:
                return -1
            self._fail("a Transfer-Encoding other than chunked", "501 Not Implemented")
        elif len(lengths) > 1:
            self._fail("several values of Content-Length", "400 Bad Request")
        elif lengths:
            (length,) = lengths
            if length.isdigit() and len(length) <= 10:
                return int(length)
            self._fail("a Content-Length that is no number", "400 Bad Request")
        elif not http:
            self.error = "no Content-Length"
        return 0
