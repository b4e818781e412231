"""SIP messages with lazy headers over the raw bytes (RFC 3261 section 7), and the edits that a route makes to one.

Parsing finds the header lines and their names; values are read when asked for. What is malformed raises ParseError
at every access alike. A message never changes: what a script changes is kept in an ``Edits`` and applied when the
message is built for the wire (``sip/build.py``), as in Kamailio, where changes are seen by the next hop only.
"""

from __future__ import annotations

import re
from typing import Final

from polykemi.errors import ParseError
from polykemi.sip.constants import METHODS, REASONS, SIP_VERSION
from polykemi.sip.grammar import LWS, is_token
from polykemi.sip.header import (
    FOLDED,
    NameAddr,
    Via,
    canonical_names,
    first_value,
    parse_name_addr,
    split_quoted,
    unfold,
)
from polykemi.sip.uri import Uri, parse_uri

MAX_HEADERS: Final = 4096


class ReplyLines:
    """The lines of a request that a reply repeats, by number, and where among them the first Via and To stand (-1: nowhere)."""

    __slots__ = ("lines", "to", "via")

    def __init__(self, names: tuple[str, ...], wanted: frozenset[str]) -> None:
        self.lines = [i for i, name in enumerate(names) if name in wanted]
        picked = [names[i] for i in self.lines]
        self.via = picked.index("via") if "via" in picked else -1
        self.to = picked.index("to") if "to" in picked else -1


_IN_ALL: Final = frozenset(("via", "to", "from", "call-id", "cseq"))  # RFC 3261 section 8.2.6.2
_IN_EARLY: Final = _IN_ALL | {"record-route"}  # replies that make a dialog, early or not: section 12.1.1
_MANDATORY: Final = ("via", "from", "to", "call-id", "cseq")
_SINGLE: Final = (
    "from",
    "to",
    "call-id",
    "cseq",
    "max-forwards",
)  # section 7.3.1: twice they mean two different things


class Shape:
    """What the names of header lines, in their order, mean. Messages of one kind of phone share one.

    ``names``: long and in lower case, ``first``: name -> the number of its first line, ``starts``: where in each line the
    value begins, ``repeated``: the names that stand there more than once, ``missing``: the first header that every message
    must have and this has not, "" for none, ``fault``: why a request with these headers is none, "" for nothing,
    ``length``: the number of the only Content-Length, -1 where there is none, -2 for several.
    """

    __slots__ = (
        "fault",
        "first",
        "in_early_reply",
        "in_reply",
        "is_folded",
        "length",
        "missing",
        "names",
        "repeated",
        "starts",
        "written",
    )

    def __init__(self, written: tuple[str, ...]) -> None:
        names = tuple([canonical_names[name] for name in written])
        self.names = names
        self.is_folded = FOLDED in names
        self.written = [name + ":" for name in written]
        self.starts = [len(name) + 1 for name in written]
        self.first: dict[str, int] = {}
        for i, name in enumerate(names):
            self.first.setdefault(name, i)
        self.repeated = frozenset([name for i, name in enumerate(names) if self.first[name] != i])
        self.length = -2 if "content-length" in self.repeated else self.first.get("content-length", -1)
        self.missing = next((name for name in _MANDATORY if name not in self.first), "")
        self.fault = f"Missing {self.missing.title()}" if self.missing else ""
        for name in _SINGLE:
            if name in self.repeated and not self.fault:
                self.fault = f"More Than One {name.title()}"
        self.in_reply = ReplyLines(names, _IN_ALL)
        self.in_early_reply = ReplyLines(names, _IN_EARLY)


class _Shapes(dict[tuple[str, ...], Shape]):
    """Header names as written -> shape. Fills itself; bounded, for names come from the network."""

    def __missing__(self, written: tuple[str, ...]) -> Shape:
        shape = Shape(written)
        if len(written) <= 64 and sum(map(len, written)) <= 1024:
            if len(self) >= 1024:
                self.clear()
            self[written] = shape
        return shape


_shapes: Final = _Shapes()
_likely: Final[dict[int, Shape]] = {}  # number of lines -> the shape that the last message with so many had


def shape_of(lines: list[str]) -> Shape:
    """Return the shape of header lines: mostly that of the last message with as many."""
    shape = _likely.get(len(lines))
    if shape is not None:
        written = shape.written
        for i, line in enumerate(lines):
            if not line.startswith(written[i]):
                break
        else:
            return shape
    shape = _shapes[tuple([line.partition(":")[0] for line in lines])]
    if len(lines) <= 64:
        _likely[len(lines)] = shape
    return shape


class Message:
    """What requests and responses share. Never changed once it is made.

    ``raw`` are all octets, ``lines`` the header lines as they came (without CRLF; a folded header is one of them, its
    line breaks kept), ``names`` their long lower-case names, "" for a line that is no header,
    ``shape`` what these mean.
    """

    __slots__ = ("_body_at", "_cseq", "_from", "_to", "_via", "lines", "names", "raw", "shape", "start_line")

    is_request = False

    def __init__(self, raw: bytes, start_line: str, lines: list[str], body_at: int) -> None:
        shape = shape_of(lines)
        if shape.is_folded:
            lines = join_folded(lines)
            shape = shape_of(lines)
        self.raw = raw
        self.start_line = start_line
        self.lines = lines
        self.shape = shape
        self.names = shape.names
        self._body_at = body_at
        self._via: Via | None = None
        self._from: NameAddr | None = None
        self._to: NameAddr | None = None
        self._cseq: tuple[int, str] | None = None

    # ---- header access
    def value(self, index: int) -> str:
        """Return the value of header line ``index``, trimmed and unfolded."""
        value = self.lines[index][self.shape.starts[index] :].strip(LWS)
        return unfold(value) if "\n" in value else value

    def has(self, name: str) -> bool:
        """Tell whether there is a header ``name`` (long, lower case)."""
        return name in self.shape.first

    def get(self, name: str) -> str | None:
        """Return the value of the first header ``name`` (long, lower case), None when there is none."""
        index = self.shape.first.get(name)
        if index is None:
            return None
        value = self.lines[index][self.shape.starts[index] :].strip(LWS)
        return unfold(value) if "\n" in value else value

    def indexes(self, name: str) -> list[int]:
        """Return the line numbers of the headers ``name``."""
        index = self.shape.first.get(name)
        if index is None:
            return []
        return [i for i, n in enumerate(self.names) if n == name] if name in self.shape.repeated else [index]

    def all(self, name: str) -> list[str]:
        """Return the value of each header line ``name``."""
        return [self.value(i) for i in self.indexes(name)]

    def list(self, name: str) -> list[str]:
        """Return the values of a comma-separated header (Via, Route, Contact, ...) over all of its lines, in order."""
        out: list[str] = []
        for value in self.all(name):
            if "," in value:
                out += [part for part in split_quoted(value, ",") if part]
            elif value:
                out.append(value)
        return out

    # ---- parsed headers
    @property
    def via(self) -> Via:
        """The topmost Via. Raise ParseError when it is missing or malformed."""
        via = self._via
        if via is None:
            value = self.get("via")
            if not value:
                raise ParseError("Missing Via")
            if "," in value:
                value, *others = split_quoted(value, ",")
                if "" in others:
                    raise ParseError("Bad Via")
            via = self._via = Via(value)
        return via

    def believe_first_via(self) -> None:
        """Let ``via`` be good whatever stands behind the first value of its line: that is answered. Raise ParseError."""
        self._via = Via(first_value(self.get("via") or "").rstrip(LWS))

    @property
    def from_(self) -> NameAddr:
        """The From header. Raise ParseError when it is missing or malformed."""
        if self._from is None:
            self._from = self._name_addr("from")
        return self._from

    @property
    def to(self) -> NameAddr:
        """The To header. Raise ParseError when it is missing or malformed."""
        if self._to is None:
            self._to = self._name_addr("to")
        return self._to

    def _name_addr(self, name: str) -> NameAddr:
        value = self.get(name)
        if not value:
            raise ParseError(f"Missing {name.title()}")
        return parse_name_addr(value)

    @property
    def cseq(self) -> tuple[int, str]:
        """CSeq number and method. Raise ParseError when it is missing, malformed or over 2**32-1."""
        cseq = self._cseq
        if cseq is None:
            number, _, method = (self.get("cseq") or "").partition(" ")
            if method not in METHODS or len(number) > 9 or not number.isdecimal():
                number, method = _cseq(f"{number} {method}")
            cseq = self._cseq = int(number), method
        return cseq

    @property
    def call_id(self) -> str:
        """The Call-ID. Raise ParseError when it is missing."""
        value = self.get("call-id")
        if not value:
            raise ParseError("Missing Call-ID")
        return value

    @property
    def content_length(self) -> int | None:
        """The Content-Length, None when absent. Raise ParseError when it is no number, or stands twice and differs."""
        value = self.get("content-length")
        if value is None:
            return None
        if not value.isdecimal() or len(value) > 10:
            raise ParseError("Bad Content-Length")
        if self.shape.length == -2 and any(v != value for v in self.all("content-length")):
            raise ParseError("Bad Content-Length")
        return int(value)

    @property
    def body(self) -> bytes:
        """The body; over UDP bytes behind Content-Length are not part of it (RFC 3261 section 18.3)."""
        length = self.content_length
        body = self.raw[self._body_at :]
        return body if length is None else body[:length]

    @property
    def body_size(self) -> int:
        """How many octets arrived behind the headers, whatever Content-Length says."""
        return len(self.raw) - self._body_at

    @property
    def has_whole_body(self) -> bool:
        """Whether all of the Content-Length arrived. Raise ParseError when there is no telling."""
        at = self.shape.length
        if at == -1 or (at >= 0 and self.lines[at].endswith(" 0")):  # nearly always
            return True
        return (self.content_length or 0) <= len(self.raw) - self._body_at


def _cseq(value: str) -> tuple[str, str]:
    """Return number and method of a CSeq that does not look like most of them. Raise ParseError."""
    number, _, method = value.replace("\t", " ").partition(" ")
    method = method.strip(LWS)
    if not number.isdecimal() or len(number) > 20 or int(number) >= 1 << 32:
        raise ParseError("Bad CSeq")
    if method not in METHODS and not is_token(method):
        raise ParseError("Bad CSeq")
    return number, method


class Request(Message):
    """A request. ``uri`` is the Request-URI as it came."""

    __slots__ = ("method", "uri", "version")

    is_request = True

    def __init__(self, raw: bytes, start_line: str, lines: list[str], body_at: int) -> None:
        method, _, rest = start_line.partition(" ")
        uri, _, version = rest.partition(" ")
        if not uri or version != SIP_VERSION or (method not in METHODS and not is_token(method)):
            _check_request_line(method, uri, version)
        super().__init__(raw, start_line, lines, body_at)
        self.method = method
        self.uri = uri
        self.version = version

    @property
    def parsed_uri(self) -> Uri:
        """The Request-URI, parsed. Raise ParseError."""
        return parse_uri(self.uri)


def _check_request_line(method: str, uri: str, version: str) -> None:
    """Raise ParseError for what is not ``Method SP Request-URI SP SIP/2.0``, the version in any case (section 7.1)."""
    version = version.upper()
    if not is_token(method) or not uri:
        raise ParseError("Bad Request-Line")
    if version != SIP_VERSION:
        if version[:4] == "SIP/" and version[4:].replace(".", "", 1).isdecimal():
            raise ParseError(REASONS[505], 505)
        raise ParseError("Bad Request-Line")


class Response(Message):
    """A response."""

    __slots__ = ("reason", "status")

    def __init__(self, raw: bytes, start_line: str, lines: list[str], body_at: int) -> None:
        status, _, self.reason = start_line[8:].partition(" ")
        if len(status) != 3 or not status.isdecimal() or not "100" <= status <= "699":
            raise ParseError("Bad Status-Line")
        super().__init__(raw, start_line, lines, body_at)
        self.status = int(status)


def parse(data: bytes) -> Request | Response:
    """Parse one whole message, as a datagram brings it. Raise ParseError.

    Lines that end in a bare LF are taken too, none with a bare CR in it; empty lines before the start line are skipped (section 7.5), and the
    empty line behind the headers may be missing when there is no body.
    """
    end = len(data) - 4
    if data[end:] != b"\r\n\r\n":
        end = data.find(b"\r\n\r\n")
    if end < 0 or data[0] in b"\r\n":
        data, end = _tidy(data)
    head = str(data[:end], "latin-1")
    lines = head.split("\r\n")
    if "" in lines:  # a body that ends like headers
        end = data.find(b"\r\n\r\n")
        head = str(data[:end], "latin-1")
        lines = head.split("\r\n")
    text = "".join(lines)
    if "\n" in text:  # there is a bare LF
        data, end = _tidy(data)
        lines = str(data[:end], "latin-1").split("\r\n")
        text = "".join(lines)
    if "\r" in text:  # some would take it for the end of a line
        raise ParseError("CR without LF")
    start_line = lines.pop(0)
    if len(lines) > MAX_HEADERS:
        raise ParseError("Too many headers", 513)
    if start_line[3:4] == "/" and start_line[:8].upper() == "SIP/2.0 ":
        return Response(data, start_line, lines, end + 4)
    return Request(data, start_line, lines, end + 4)


_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")


def _tidy(data: bytes) -> tuple[bytes, int]:
    """Bring a message with empty lines before its start line, bare LFs, or no empty line at its end into the RFC's form.

    Return it and where the empty line behind its headers starts.
    """
    data = data.lstrip(b"\r\n")
    empty_line = _EMPTY_LINE.search(data)
    if empty_line is not None:
        head, body = data[: empty_line.start()], data[empty_line.end() :]
    elif data[-1:] == b"\n":
        head, body = data.removesuffix(b"\n").removesuffix(b"\r"), b""
    else:
        raise ParseError("No end of headers")
    head = head.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return head + b"\r\n\r\n" + body, len(head)


def join_folded(lines: list[str]) -> list[str]:
    """Give each folded header one entry, its line breaks kept. Raise ParseError when there is nothing to continue."""
    if lines[0][:1] in (" ", "\t"):  # behind our own Via it would become a part of that
        raise ParseError("White space before the first header")
    starts = [i for i, line in enumerate(lines) if line[:1] not in (" ", "\t")]
    return ["\r\n".join(lines[i:j]) for i, j in zip(starts, [*starts[1:], len(lines)], strict=True)]


class Edits:
    """What a route has changed in a message: Kamailio's lumps. Line numbers are those of ``Message.lines``.

    ``inserts`` holds (line number, text): the text goes before that line, after the last one for ``len(lines)``;
    texts for one place keep their order. A text is one or more whole header lines without the last CRLF.
    """

    __slots__ = ("body", "inserts", "removed", "replaced")

    def __init__(self) -> None:
        self.removed: set[int] = set()
        self.replaced: dict[int, str] = {}  # line number -> the whole new line
        self.inserts: list[tuple[int, str]] = []
        self.body: bytes | None = None

    def copy(self) -> Edits:
        """Return an independent copy: a branch starts with the edits of the request route."""
        new = Edits()
        new.removed = self.removed.copy()
        new.replaced = self.replaced.copy()
        new.inserts = self.inserts.copy()
        new.body = self.body
        return new

    def __bool__(self) -> bool:
        return bool(self.removed or self.replaced or self.inserts or self.body is not None)

    def apply(self, lines: list[str]) -> list[str]:
        """Return the header lines after the edits (Content-Length is not adjusted here)."""
        out = lines.copy()
        for i, line in self.replaced.items():
            out[i] = line
        if not self.inserts and not self.removed:
            return out
        places: dict[int, list[str]] = {}
        for place, text in self.inserts:
            places.setdefault(place, []).append(text)
        changed, out, removed = out, [], self.removed
        for i, line in enumerate(changed):
            if i in places:
                out += places[i]
            if i not in removed:
                out.append(line)
        out += places.get(len(lines), ())
        return out
