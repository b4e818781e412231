"""Header values: lists, parameters, name-addr, Via (RFC 3261 sections 7.3, 20, 25.1)."""

from __future__ import annotations

import re
from functools import lru_cache

from polykemi.errors import ParseError

LWS = " \t\r\n"

_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}


class _Names(dict[str, str]):
    """Header name as written -> lower-case long name. Fills itself; bounded, for names come from the network."""

    def __missing__(self, written: str) -> str:
        name = written.rstrip(LWS).lower()
        name = _COMPACT.get(name, name)
        if len(self) < 2048 and len(written) < 64:
            self[written] = name
        return name


canonical_names = _Names()


def unfold(value: str) -> str:
    """Return ``value`` with header folding (CRLF and white space) read as one space (RFC 3261 section 7.3.1)."""
    return re.sub(r"[ \t]*\r?\n[ \t]+", " ", value) if "\n" in value else value


def split_quoted(text: str, separator: str) -> list[str]:
    """Split at ``separator`` outside of quoted strings and angle brackets; parts are trimmed, empty ones kept."""
    if '"' not in text and "<" not in text:
        return [part.strip(LWS) for part in text.split(separator)]
    parts, start, i, n, quoted, angle = [], 0, 0, len(text), False, False
    while i < n:
        c = text[i]
        if quoted:
            if c == "\\":
                i += 1
            elif c == '"':
                quoted = False
        elif c == '"':
            quoted = True
        elif c == "<":
            angle = True
        elif c == ">":
            angle = False
        elif c == separator and not angle:
            parts.append(text[start:i].strip(LWS))
            start = i + 1
        i += 1
    parts.append(text[start:].strip(LWS))
    return parts


def unquote(text: str) -> str:
    """Return the content of a quoted-string, or ``text`` when it is none."""
    if len(text) >= 2 and text[0] == '"' and text[-1] == '"':
        text = text[1:-1]
        if "\\" in text:
            text = re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
    return text


def parse_params(text: str) -> dict[str, str | None]:
    """Parse ``;a=b;c`` (leading ``;`` optional) to lower-case name -> value as written, None where there is no ``=``."""
    out: dict[str, str | None] = {}
    for part in split_quoted(text, ";"):
        if part:
            name, equals, value = part.partition("=")
            out[name.rstrip(LWS).lower()] = value.lstrip(LWS) if equals else None
    return out


class NameAddr:
    """A From, To, Contact, Route or Record-Route value: ``display <uri>;params`` or ``uri;params`` (RFC 3261 section 25.1)."""

    __slots__ = ("_parsed", "display", "params", "uri")

    def __init__(self, display: str, uri: str, params: str) -> None:
        self.display = display  # as written, quotes included
        self.uri = uri  # text inside of the brackets
        self.params = params  # text after the first ";" of the header parameters, "" when there are none
        self._parsed: dict[str, str | None] | None = None

    def param(self, name: str) -> str | None:
        """Return the header parameter ``name`` (lower case), "" when it stands without a value, None when absent."""
        if not self.params:
            return None
        if self._parsed is None:
            self._parsed = parse_params(self.params)
        value = self._parsed.get(name, self)
        return None if value is self else (value or "")  # type: ignore[return-value]

    @property
    def tag(self) -> str | None:
        """The tag parameter, None when absent or empty."""
        params = self.params
        if params[:4] == "tag=" and ";" not in params:  # what nearly every From and To look like
            return params[4:] or None
        return self.param("tag") or None


@lru_cache(maxsize=2048)
def _name_addr(text: str) -> NameAddr:
    start = text.find("<")
    if start < 0:
        uri, _, params = text.partition(";")
        return NameAddr("", uri.strip(LWS), params.strip(LWS))
    if '"' in text[:start]:  # a "<" inside of the quoted display name does not count
        end_quote = _end_of_quoted(text, text.index('"'))
        start = text.find("<", end_quote)
        if start < 0:
            raise ParseError("Bad name-addr")
    end = text.find(">", start)
    if end < 0:
        raise ParseError("Bad name-addr")
    params = text[end + 1 :].strip(LWS)
    if params and params[0] != ";":
        raise ParseError("Bad name-addr")
    return NameAddr(text[:start].strip(LWS), text[start + 1 : end].strip(LWS), params[1:].strip(LWS))


def _end_of_quoted(text: str, start: int) -> int:
    i = start + 1
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == '"':
            return i
        i += 1
    raise ParseError("Unterminated quoted string")


def parse_name_addr(text: str) -> NameAddr:
    """Parse one name-addr or addr-spec with its header parameters. Raise ParseError."""
    if not text:
        raise ParseError("Empty name-addr")
    return _name_addr(text) if len(text) <= 256 else _name_addr.__wrapped__(text)


_VIA = re.compile(r"SIP[ \t]*/[ \t]*2\.0[ \t]*/[ \t]*([^ \t/]+)[ \t]+([^;]+?)[ \t]*(?:;(.*))?$", re.IGNORECASE | re.DOTALL)
_PORT = re.compile(r"[ \t]*:[ \t]*(\d{1,5})$")


class Via:
    """One Via value (RFC 3261 section 20.42)."""

    __slots__ = ("_parsed", "branch", "host", "params", "port", "text", "transport")

    def __init__(self, text: str) -> None:
        match = _VIA.match(text)
        if match is None:
            raise ParseError("Bad Via")
        self.text = text
        self.transport = match[1].upper()
        host = match[2]
        port = _PORT.search(host) if ":" in host else None
        if port is not None and (host[0] != "[" or host.rfind("]", 0, port.start() + 1) > 0):
            self.host, self.port = host[: port.start()], int(port[1])
        else:
            self.host, self.port = host, 0
        if " " in self.host or self.port > 65535:
            raise ParseError("Bad Via sent-by")
        self.params = match[3] or ""
        self._parsed: dict[str, str | None] | None = None
        self.branch = self.param("branch") or ""

    def param(self, name: str) -> str | None:
        """Return the parameter ``name`` (lower case), "" when it stands without a value, None when absent."""
        if self._parsed is None:
            self._parsed = parse_params(self.params)
        if name not in self._parsed:
            return None
        return self._parsed[name] or ""
