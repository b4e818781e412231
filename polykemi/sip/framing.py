"""Messages in a stream of octets: where one ends and the next begins (RFC 3261 section 18.3, RFC 5626 section 3.5.1).

HTTP requests (RFC 9112) come in between SIP messages, as in Kamailio; they may come without Content-Length.
"""

from __future__ import annotations

import re
from typing import Final

PING: Final = b"\r\n\r\n"  # a keep-alive, answered with PONG
PONG: Final = b"\r\n"
LONGEST: Final = 0x10000  # octets of a message, body and all

_LENGTH: Final = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_HTTP: Final = re.compile(rb"[^\r\n ]+ [^\r\n ]+ HTTP/1\.\d\r\n|HTTP/1\.\d ")


def is_http(data: bytes) -> bool:
    """Tell whether ``data`` begins like a message of HTTP/1."""
    return _HTTP.match(data) is not None


class Framer:
    """Cuts what one connection brings into messages.

    ``error`` says what is wrong once the stream cannot be followed any more, "" until then.
    """

    __slots__ = ("_data", "_searched", "_wanted", "error", "longest")

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest
        self.error = ""
        self._data = b""
        self._searched = 0  # no end of headers begins before
        self._wanted = 0  # octets of the message that has begun, 0: not known yet

    @property
    def is_empty(self) -> bool:
        """Whether no message has begun."""
        return not self._data

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
                    self.error = f"headers of more than {self.longest} octets"
                return None
            length = self._body_length(data[: end + 2])
            if self.error:
                return None
            self._wanted = end + 4 + length
            if self._wanted > self.longest:
                self.error = f"a message of {self._wanted} octets, at most {self.longest} are taken"
                return None
        if len(data) < self._wanted:
            return None
        message, self._data = data[: self._wanted], data[self._wanted :]
        self._searched = self._wanted = 0
        return message

    def _body_length(self, head: bytes) -> int:
        """Return the length of the body that ``head`` announces; set ``error`` when there is no telling."""
        lengths = {value.strip(b" \t") for value in _LENGTH.findall(head)}
        http = is_http(head)
        if http and _CHUNKED.search(head):
            self.error = "Transfer-Encoding is not supported"
        elif len(lengths) > 1:
            self.error = "several values of Content-Length"
        elif lengths:
            (length,) = lengths
            if length.isdigit() and len(length) <= 10:
                return int(length)
            self.error = "a Content-Length that is no number"
        elif not http:
            self.error = "no Content-Length"
        return 0
