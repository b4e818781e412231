"""Arguments and results on their way between JavaScript and Python: the shared buffer (layout: js_values.js).

Texts are Unicode in JavaScript and octets in Python. Those that come again cross once: each side numbers what it has sent
twice, later only the number crosses, once the other side is known to have it: JavaScript may have run out of stack, or been
stopped, before it had. Both tables are bounded and start again when they are full. What came only once waits in a set that is
bounded as well.
"""

from __future__ import annotations

import json
from typing import Any, Final

from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.documents import with_unicode

# what came of a call: a code for most values; CPython keeps integers below 257 ready
NULL, FALSE, TRUE, INT, DOUBLE, OCTETS, UNITS, PIECES, EXIT, FAILED = range(10)
DATA: Final = -1  # a list or a dictionary: words[4] is the code of its JSON
ZERO: Final = 128  # for integers of less than SMALL, above and below
SMALL: Final = 100
TEXTS: Final = 256  # and above: texts that JavaScript has numbered
ENTERED: Final = -1  # words[3] when JavaScript has begun a route block

SIZE: Final = 1 << 20  # of the buffer, octets
_STATE: Final = 14  # words[14]: whether JavaScript may call
_CLOSED, _OPEN = 0, 1
RUN: Final = 15  # words[15]: the number of the route block that runs
_TEXT: Final = 128  # octet where texts begin
_SHORT: Final = 64  # characters of a text that is numbered
_KEPT: Final = 4096
_SEEN: Final = 1024
_INTEGERS: Final = {value: ZERO + value for value in range(1 - SMALL, SMALL)}
_PIECE: Final = 1 << 16  # characters; longer texts cross in several pieces


class Values:
    """Reads and writes the buffer. ``words`` is public, as the engine's fast paths read it themselves."""

    def __init__(self, shared: memoryview) -> None:
        self.words = shared[:64].cast("i")
        self.texts = [""] * _KEPT  # those that JavaScript has numbered
        self._double = shared[64:72].cast("d")
        self.last = shared[72:76].cast("i")  # the number of the export that was called last, -1: none
        self._noted = shared[76:80].cast("i")  # the number that JavaScript has kept a text under, -1: it is still to
        self._offered: str | None = None  # that text, until its number is known to be JavaScript's
        self._area = shared[_TEXT:]
        self.codes: dict[Any, int] = dict(_INTEGERS)  # of small integers and of the texts that Python has numbered
        self._seen: set[str] = set()
        self._pieces: dict[int, list[bytes]] = {}
        # of a long result: cut as bytes each of its pieces would be copied with all that follow
        self._rest = memoryview(b"")

    def put(self, value: Any) -> int:
        """Write a result and return the code of it. Large integers become doubles, as all numbers in JavaScript."""
        kind = type(value)
        if kind is str:
            code = self.codes.get(value)
            return self._put_text(value) if code is None else code
        if kind is int:
            if -SMALL < value < SMALL:
                return ZERO + value  # type: ignore[no-any-return]
            if -0x80000000 <= value <= 0x7FFFFFFF:
                self.words[1] = value
                return INT
            self._double[0] = float(max(min(value, 1 << 64), -1 << 64))
            return DOUBLE
        if kind is bool:
            return TRUE if value else FALSE
        if value is None:
            return NULL
        if kind is list or kind is dict:
            self.words[4] = self.put(json.dumps(with_unicode(value)))
            return DATA
        raise TypeError(f"no value of KEMI: {value!r}")

    def _put_text(self, octets: str) -> int:
        if self._offered is not None:
            if self._noted[0] >= 0:
                self.codes[self._offered] = TEXTS + self._noted[0]
            self._offered = None
            if octets in self.codes:
                return self.codes[octets]
        text = octets if octets.isascii() else from_octets(octets)
        size = len(text)
        if size > _PIECE:
            self._rest = memoryview(text.encode("utf-16-le", "surrogatepass"))
            self.rest()
            return PIECES
        words = self.words
        words[2] = self._number(octets) if size <= _SHORT else -1
        try:
            data, kind = text.encode("latin-1"), OCTETS
        except UnicodeEncodeError:
            data, kind = text.encode("utf-16-le", "surrogatepass"), UNITS
            size = len(data) >> 1
        words[1] = size
        self._area[: len(data)] = data
        return kind

    def _number(self, text: str) -> int:
        """Return the number that JavaScript shall keep ``text`` under, -1 when it comes for the first time."""
        seen, codes = self._seen, self.codes
        if text not in seen:
            if len(seen) >= _SEEN:
                seen.clear()
            seen.add(text)
            return -1
        number = len(codes) - len(_INTEGERS)
        if number == _KEPT:
            codes.clear()
            codes.update(_INTEGERS)
            number = 0
        self._offered, self._noted[0] = text, -1
        return number

    def rest(self) -> None:
        """Write the next piece of a long result, of length 0 when there is none."""
        piece = self._rest[: 2 * _PIECE]
        self._area[: len(piece)] = piece
        self.words[1] = len(piece) >> 1
        self._rest = self._rest[2 * _PIECE :] if piece else memoryview(b"")

    def piece(self) -> None:
        """Take one piece of a long argument, which goes ahead of the call."""
        words = self.words
        if words[9] == 0:
            self._pieces[words[8]] = []
        self._pieces[words[8]].append(self._text(words[1], 0, words[2]).encode("utf-16-le", "surrogatepass"))

    def arguments(self, types: str) -> list[Any]:
        """Read the arguments of a call, ``types`` being one of ``i`` and ``s`` for each."""
        words, out, at = self.words, list[Any](), 0
        shape = words[1]
        for i, kind in enumerate(types):
            word = words[2 + i]
            form = shape >> 4 * i & 3
            if form == 0:
                out.append(word if kind == "i" else self.texts[word])
            elif form == 3:
                out.append(to_octets(str(b"".join(self._pieces.pop(i)), "utf-16-le", "surrogatepass")))
            else:
                text = to_octets(self._text(form, at, word))
                at = (at + word * form + 1) & ~1
                if words[8 + i] >= 0:
                    self.texts[words[8 + i]] = text
                out.append(text)
        return out

    def two_texts(self) -> list[str]:
        """Read two short texts that JavaScript tells of itself: a cause and a stack."""
        words = self.words
        first, second = words[1] & 3, words[1] >> 4 & 3
        return [
            self._text(first, 0, words[2]),
            self._text(second, (words[2] * first + 1) & ~1, words[3]),
        ]

    def _text(self, form: int, at: int, length: int) -> str:
        if form == 1:
            return str(self._area[at : at + length], "latin-1")
        return str(self._area[at : at + 2 * length], "utf-16-le", "surrogatepass")

    def stopped(self, block: int, *, nested: bool) -> None:
        """JavaScript was stopped: it may have left marks of ``block``, or half of a text."""
        if nested:
            self.words[3] = ENTERED  # of the block around it
        self.words[_STATE] = _OPEN if nested else _CLOSED
        self.words[RUN] = -(block & 0x3FFFFFFF) if nested else 0  # one that no block has had
        self.words[4] = NULL  # else the next block would take what a load was to take for its argument
        self._rest = memoryview(b"")
        self._pieces.clear()

    def close(self) -> None:
        """Let go of the buffer before its memory goes."""
        self.words.release()
        self._double.release()
        self.last.release()
        self._noted.release()
        self._area.release()
