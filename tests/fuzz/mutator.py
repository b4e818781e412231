"""Changes valid messages so that they are nearly valid: what parsers, transactions and scripts go wrong on.

All randomness comes from the ``Random`` that is given: the same seed makes the same messages.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

ODD: Final = (
    *(
        b"",
        b" ",
        b"\t",
        b",",
        b";",
        b":",
        b"=",
        b'"',
        b"<",
        b">",
        b"@",
        b"%",
        b"\\",
        b"*",
        b"?",
        b"&",
        b"/",
        b"[",
        b"]",
    ),
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n ",
        b"\r\n\r\n",
        b"\0",
        b"\x01",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc3\xa9",
        b"\xf0\x9f\x98\x80",
    ),
    *(
        b"\xed\xa0\x80",
        b"\xef\xbf\xbf",
        b"\xe2\x80\xa8",
        b"%00",
        b"%0d%0a",
        b"%0D%0AX-Injected:%201",
        b"%",
        b"%4",
        b"%zz",
        b"%ff",
    ),
    *(
        b"-1",
        b"0",
        b"00",
        b"4294967295",
        b"4294967296",
        b"18446744073709551616",
        b"9" * 400,
        b"1e9",
        b"0x10",
        b"+1",
        b"1.5",
    ),
    *(
        b"sip:",
        b"sip:@",
        b"sips:a@",
        b"<sip:a@h",
        b"sip:a@[::1",
        b"sip:a@127.0.16.2:99999",
        b"tel:",
        b"<>",
        b'"" <sip:a@h>;tag',
    ),
    *(
        b";tag=",
        b";branch=",
        b";branch=z9hG4bK",
        b";lr",
        b";lr=",
        b";rport=x",
        b";received=",
        b";q=2",
        b";expires=-1",
        b";ob",
    ),
    *(
        b"SIP/2.0",
        b"SIP/2.0/",
        b"SIP/3.0/UDP h",
        b"z9hG4bK",
        b"Digest",
        b'Digest a="',
        b"multipart/mixed;boundary=",
        b"$ru",
        b"%s%n",
    ),
)
NAMES: Final = (
    *(b"Via", b"v", b"From", b"f", b"To", b"t", b"Call-ID", b"i", b"CSeq", b"Contact", b"m", b"Content-Length", b"l"),
    *(
        b"Max-Forwards",
        b"Route",
        b"Record-Route",
        b"Expires",
        b"Content-Type",
        b"c",
        b"Require",
        b"Proxy-Require",
        b"Path",
    ),
    *(
        b"Authorization",
        b"Proxy-Authorization",
        b"Supported",
        b"k",
        b"Event",
        b"o",
        b"Date",
        b"Identity",
        b"Transfer-Encoding",
    ),
    *(b"X-Long", b"x y", b"", b" ", b":", b"\xff", b"Via ", b"VIA\t", b"Subject"),
)
METHODS: Final = (
    b"INVITE",
    b"ACK",
    b"BYE",
    b"CANCEL",
    b"REGISTER",
    b"OPTIONS",
    b"PRACK",
    b"invite",
    b"X-.!%*_+`'~",
    b"",
    b"\xff",
    b"SIP/2.0",
)
REPEATED: Final = (
    b",",
    b";",
    b'"',
    b"<",
    b"(",
    b"\\",
    b" ",
    b"\r\n ",
    b"a",
    b";a=b",
    b"a,",
    b"<sip:a@h>,",
    b"%41",
    b"[",
    b"\t",
    b"\xff",
)


class Mutator:
    """Makes one changed message after the other. ``longest``: octets that a message may have."""

    def __init__(self, random: Random, longest: int = 8192) -> None:
        self._random = random
        self._longest = longest
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            *(self._octets, self._cut, self._numbers, self._start_line, self._body, self._line_ends),
            *(self._duplicate, self._remove, self._reorder, self._oversize, self._name, self._value, self._length),
            *(self._fold, self._many, self._insert, self._unbalance, self._escape),
        )

    def change(self, data: bytes, times: int = 0) -> bytes:
        """Return ``data`` with one to four changes, or ``times``."""
        for _ in range(times or self._random.choice((1, 1, 1, 2, 2, 3, 4))):
            data = self._random.choice(self._changes)(data)
        return data[: self._longest]

    def value(self, text: bytes) -> bytes:
        """Return what is no message, changed: only what does not depend on lines."""
        for _ in range(self._random.choice((1, 1, 2, 3))):
            text = self._random.choice((self._octets, self._cut, self._numbers, self._unbalance, self._escape))(text)
        return text[: self._longest]

    # ---- of octets
    def _place(self, data: bytes) -> int:
        return self._random.randrange(len(data) + 1)

    def _octets(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._random.choice(ODD) + data[at + self._random.choice((0, 0, 1, 2, 5)) :]

    def _cut(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] if self._random.random() < 0.3 else data[:at] + data[at + self._random.randrange(1, 30) :]

    def _numbers(self, data: bytes) -> bytes:
        digits = [i for i, octet in enumerate(data) if 48 <= octet <= 57]
        if not digits:
            return data
        start = end = self._random.choice(digits)
        while end < len(data) and 48 <= data[end] <= 57:
            end += 1
        number = self._random.choice(
            (b"0", b"-1", b"65536", b"4294967296", b"9" * 30, b"00000000001", b"", b"1" * 5000)
        )
        return data[:start] + number + data[end:]

    def _unbalance(self, data: bytes) -> bytes:
        at, what = self._place(data), self._random.choice(REPEATED)
        return data[:at] + what * self._random.choice((1, 2, 7, 64, 1000)) + data[at:]

    def _escape(self, data: bytes) -> bytes:
        at = self._place(data)
        octets = self._random.choice((b"%00", b"%0d%0a", b"%25", b"%u0041", b"%", b"\\", b"%C3%28", b"%0aVia:%20x"))
        return data[:at] + octets + data[at:]

    # ---- of lines
    def _split(self, data: bytes) -> tuple[list[bytes], bytes]:
        head, end, body = data.partition(b"\r\n\r\n")
        return head.split(b"\r\n"), end + body

    def _with_lines(self, data: bytes, change: Callable[[list[bytes], int], None]) -> bytes:
        lines, rest = self._split(data)
        if len(lines) > 1:
            change(lines, self._random.randrange(1, len(lines)))
        return b"\r\n".join(lines) + rest

    def _duplicate(self, data: bytes) -> bytes:
        times = self._random.choice((1, 1, 2, 50))
        return self._with_lines(data, lambda lines, i: lines.__setitem__(slice(i, i), [lines[i]] * times))

    def _remove(self, data: bytes) -> bytes:
        return self._with_lines(data, lambda lines, i: lines.__delitem__(i))

    def _reorder(self, data: bytes) -> bytes:
        lines, rest = self._split(data)
        start, *lines = lines
        self._random.shuffle(lines)
        return b"\r\n".join([start, *lines]) + rest

    def _oversize(self, data: bytes) -> bytes:
        what = self._random.choice(REPEATED) * self._random.choice((10, 300, 3000))
        return self._with_lines(data, lambda lines, i: lines.__setitem__(i, lines[i] + what[: self._longest]))

    def _name(self, data: bytes) -> bytes:
        name = self._random.choice(NAMES)
        return self._with_lines(data, lambda lines, i: lines.__setitem__(i, name + b":" + lines[i].partition(b":")[2]))

    def _value(self, data: bytes) -> bytes:
        value = self._random.choice(ODD)
        return self._with_lines(
            data, lambda lines, i: lines.__setitem__(i, lines[i].partition(b":")[0] + b": " + value)
        )

    def _insert(self, data: bytes) -> bytes:
        line = self._random.choice(NAMES) + b": " + self._random.choice(ODD)
        return self._with_lines(data, lambda lines, i: lines.insert(i, line))

    def _length(self, data: bytes) -> bytes:
        value = self._random.choice(
            (b"0", b"1", b"-1", b"99999", b"1 2", b"x", b"", b" 00", b"4294967296", b"0x10", b"9" * 30)
        )
        lines, rest = self._split(data)
        kept = [line for line in lines if not line.lower().startswith((b"content-length", b"l:"))]
        kept += [self._random.choice((b"Content-Length: ", b"l:", b"Content-Length :", b"CONTENT-LENGTH:\t")) + value]
        return b"\r\n".join(kept if self._random.random() < 0.8 else [*lines, kept[-1]]) + rest

    def _fold(self, data: bytes) -> bytes:
        def fold(lines: list[bytes], i: int) -> None:
            at = self._random.randrange(len(lines[i]) + 1)
            lines[i] = (
                lines[i][:at]
                + self._random.choice((b"\r\n ", b"\r\n\t", b"\n ", b"\r ", b"\r\n \r\n "))
                + lines[i][at:]
            )

        return self._with_lines(data, fold)

    def _many(self, data: bytes) -> bytes:
        line = self._random.choice(
            (
                b"Via: SIP/2.0/UDP 127.0.16.2;branch=z9hG4bKm",
                b"Route: <sip:127.0.16.1;lr>",
                b"Contact: <sip:m@127.0.16.2>;q=0.1",
                b"Record-Route: <sip:127.0.16.1;lr=on;ftag=1>",
                b"X: y",
            )
        )
        times = self._random.choice((2, 20, 70))
        return self._with_lines(data, lambda lines, i: lines.__setitem__(slice(i, i), [line] * times))

    def _start_line(self, data: bytes) -> bytes:
        lines, rest = self._split(data)
        parts = lines[0].split(b" ")
        which = self._random.randrange(len(parts))
        parts[which] = self._random.choice(METHODS if which == 0 else ODD)
        return b"\r\n".join([self._random.choice((b" ", b" ", b" ", b"  ", b"\t")).join(parts), *lines[1:]]) + rest

    def _line_ends(self, data: bytes) -> bytes:
        return self._random.choice(
            (
                lambda: data.replace(b"\r\n", b"\n"),
                lambda: data.replace(b"\r\n", b"\r"),
                lambda: b"\r\n" * 3 + data,
                lambda: data + b"\r\n\r\n",
                lambda: data.replace(b"\r\n", b"\n", self._random.randrange(1, 9)),
            )
        )()

    def _body(self, data: bytes) -> bytes:
        head, end, body = data.partition(b"\r\n\r\n")
        return head + end + self._octets(self._unbalance(body))
