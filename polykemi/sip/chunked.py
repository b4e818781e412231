"""The chunked transfer coding of HTTP (RFC 9112 section 7.1): chunks in, a body out. No sockets here."""

from __future__ import annotations

from typing import Final

_LONGEST_LINE: Final = 256  # octets of a line with the length of a chunk, its extensions and all
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class Chunks:
    """Takes the chunks of one body as they come; extensions and trailers are read over.

    ``error`` says what is wrong, "" until then.
    """

    __slots__ = ("_data", "_in_trailer", "_left", "_longest", "body", "error", "is_complete")

    def __init__(self, longest: int) -> None:
        """``longest``: octets of the body, and of what stands around it."""
        self.body = bytearray()
        self.is_complete = False
        self.error = ""
        self._data = b""  # the beginning of a line
        self._left = 0  # octets of the chunk that has begun, and of the line end behind it
        self._in_trailer = False
        self._longest = longest

    def feed(self, data: bytes) -> bytes:
        """Take octets and return those behind the body, which is complete then."""
        data, self._data = self._data + data, b""
        while data and not self.is_complete and not self.error:
            if self._left > 2:
                part = data[: self._left - 2]
                self.body += part
                self._left -= len(part)
                data = data[len(part) :]
            else:
                end = data.find(b"\r\n")
                if end < 0 or end > _LONGEST_LINE:
                    if len(data) > _LONGEST_LINE:
                        self.error = "a line of a chunked body that is too long"
                    self._data = data
                    return b""
                self._line(data[:end])
                data = data[end + 2 :]
        return b"" if self.error else data

    def _line(self, line: bytes) -> None:
        if self._left:  # the end of a chunk
            self._left = 0
            if line:
                self.error = "a chunk that is longer than it says"
        elif self._in_trailer:
            self._longest -= len(line)
            self.is_complete = not line
            if self._longest < len(self.body):
                self.error = "trailers that are too long"
        else:
            digits = line.partition(b";")[0].rstrip(b" \t")
            if not 0 < len(digits) <= 8 or not _HEX.issuperset(digits):
                self.error = "a chunk without a length"
                return
            length = int(digits, 16)
            if length:
                self._left = length + 2
                self._longest -= len(line)  # chunks of one octet each are no way around the limit
            self._in_trailer = not length
            if len(self.body) + length > self._longest:
                self.error = "a chunked body that is too long"
