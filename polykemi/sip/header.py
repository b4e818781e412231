"""Header values: lists, parameters, name-addr, Via (RFC 3261 sections 7.3, 20, 25.1).

Every function here is linear in the length of its text, whatever the text is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from polykemi.errors import ParseError
from polykemi.sip.grammar import LWS as LWS  # noqa: PLC0414  # others import it from here
from polykemi.sip.grammar import is_host, is_token, to_port

_COMPACT: Final = {
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

FOLDED: Final = " "  # the "name" of a line that continues the one before it


class _Names(dict[str, str]):
    """Header name as written -> lower-case long name, "" for what cannot be one, FOLDED for the start of a folded line.

    Fills itself; bounded, for names come from the network.
    """

    def __missing__(self, written: str) -> str:
        if written[:1] in (" ", "\t"):
            return FOLDED
        name = written.rstrip(LWS).lower()
        name = _COMPACT.get(name, name) if is_token(name) else ""
        if len(written) < 64:
            if len(self) >= 2048:
                self.clear()
            self[written] = name
        return name


canonical_names: Final = _Names()


# one or more whole header lines, folded ones included, parted by CRLF; there is nothing to try again
_HEADER_LINES: Final = re.compile(
    r"(?:[!-9;-~]++(?:[ \t]|\r\n(?=[ \t]))*+:[^\r\n]*+(?:\r\n[ \t]++[^\r\n]*+)*+(?:\r\n(?=[!-~])|\Z))++", re.DOTALL
)


def is_header_lines(text: str) -> bool:
    """Tell whether ``text`` is made of whole header lines, without the last CRLF: no empty line, no lone CR or LF."""
    return _HEADER_LINES.fullmatch(text) is not None


def unfold(value: str) -> str:
    """Return ``value`` with header folding (CRLF and white space) read as one space (RFC 3261 section 7.3.1)."""
    if "\n" not in value:
        return value
    return " ".join([part for line in value.split("\n") if (part := line.strip(LWS))])


# A list element: no separator outside of quoted-strings and angle brackets. It matches at each place of each text: what
# is not closed reaches to the end. With possessive quantifiers there is nothing to try again.
_ELEMENT: Final = r'(?:[^"<{0}]++|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|<[^>]*+(?:>|\Z))*+'


@lru_cache(maxsize=32)
def _element(separator: str) -> re.Pattern[str]:
    return re.compile(f"({_ELEMENT.format(re.escape(separator))})({re.escape(separator)}|\\Z)", re.DOTALL)


_COMMA: Final = _element(",")


def split_quoted(text: str, separator: str) -> list[str]:
    """Split at ``separator`` outside of quoted strings and angle brackets; parts are trimmed, empty ones kept."""
    return [part.strip(LWS) for part in split_exact(text, separator)]


def split_exact(text: str, separator: str) -> list[str]:
    """Split as ``split_quoted`` does, white space kept: joined again the parts give ``text``."""
    if '"' not in text and "<" not in text:
        return text.split(separator)
    parts = _element(separator).findall(text)
    if len(parts) > 1 and not parts[-2][1]:  # the part before reached the end: there is no empty one behind it
        parts.pop()
    return [part for part, _ in parts]


def first_value(text: str) -> str:
    """Return what stands before the first comma outside of quoted strings and angle brackets, white space kept."""
    return _COMMA.match(text)[1] if "," in text else text  # type: ignore[index]  # it always matches


def unquote(text: str) -> str:
    """Return the content of a quoted-string, or ``text`` when it is none."""
    if len(text) >= 2 and text[0] == '"' and text[-1] == '"':
        text = text[1:-1]
        if "\\" in text:
            text = re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
    return text


def parse_params(text: str) -> dict[str, str | None]:
    """Parse ``;a=b;c`` (leading ``;`` optional) to lower-case name -> value as written, None where there is no ``=``.

    Of parameters that stand twice the last counts, as in Kamailio.
    """
    out: dict[str, str | None] = {}
    for part in split_exact(text, ";"):
        name, equals, value = part.partition("=")
        name = name.strip(LWS).lower()
        if name:
            out[name] = value.strip(LWS) if equals else None
    return out


class NameAddr:
    """A From, To, Contact, Route or Record-Route value: ``display <uri>;params`` or ``uri;params`` (RFC 3261 section 25.1).

    Immutable by convention, so it can be shared.
    """

    __slots__ = ("_parsed", "display", "params", "uri")

    def __init__(self, display: str, uri: str, params: str) -> None:
        self.display = display  # as written, quotes included
        self.uri = uri  # text inside of the brackets; "*" of a Contact
        self.params = params  # text after the first ";" of the header parameters, "" when there are none
        self._parsed: dict[str, str | None] | None = None

    def param(self, name: str) -> str | None:
        """Return the header parameter ``name`` (lower case), "" when it stands without a value, None when absent."""
        if not self.params:
            return None
        if self._parsed is None:
            self._parsed = parse_params(self.params)
        if name not in self._parsed:
            return None
        return self._parsed[name] or ""

    @property
    def tag(self) -> str | None:
        """The tag parameter, None when absent or empty."""
        params = self.params
        if params[:4] == "tag=" and ";" not in params:  # what nearly every From and To look like
            return params[4:].lstrip(LWS) or None
        return self.param("tag") or None


# display name with quoted strings in it, "<", the rest
_QUOTED_NAME_ADDR = re.compile(r'([^"<]*+(?:"(?:[^"\\]++|\\.)*+"[^"<]*+)*+)(<)(.*)', re.DOTALL)
_NOT_IN_ADDR_SPEC = frozenset(LWS + '"<>?,')  # "?" and "," because such a URI must stand in brackets (section 20)


def parse_name_addr(text: str) -> NameAddr:
    """Parse one name-addr or addr-spec with its header parameters, or the ``*`` of a Contact. Raise ParseError."""
    display, bracket, rest = text.partition("<")
    if (
        '"' in display
    ):  # a "<" may stand inside of the quotes: those of the display name, or of an addr-spec's parameter
        match = _QUOTED_NAME_ADDR.fullmatch(text)
        bracket = ""
        if match is not None:
            display, bracket, rest = match.groups()
    if bracket:
        uri, bracket, params = rest.partition(">")
        if not bracket:
            raise ParseError("Bad name-addr")
    else:
        uri, semicolon, params = text.partition(";")
        display, uri, params = "", uri.strip(LWS), semicolon + params
        if not _NOT_IN_ADDR_SPEC.isdisjoint(uri):
            raise ParseError("Bad addr-spec")
    uri, params = uri.strip(LWS), params.strip(LWS)
    if not uri or (params and params[0] != ";"):
        raise ParseError("Bad name-addr")
    return NameAddr(display.strip(LWS) if display else "", uri, params[1:].lstrip(LWS))


_SENT_PROTOCOLS: Final = {f"SIP/2.0/{transport}": transport for transport in ("UDP", "TCP", "TLS", "SCTP", "WS", "WSS")}
_WHITE_SPACE = re.compile(r"[ \t\r\n]+")


class _Senders(dict[str, tuple[str, str, int]]):
    """``SIP/2.0/UDP host:port`` -> transport, host, port. Fills itself; bounded, for it comes from the network."""

    def __missing__(self, head: str) -> tuple[str, str, int]:
        sender = _sender(head)
        if len(head) <= 96:
            if len(self) >= 16384:
                self.clear()
            self[head] = sender
        return sender


def _sender(head: str) -> tuple[str, str, int]:
    protocol, _, sent_by = head.partition(" ")
    transport = _SENT_PROTOCOLS.get(protocol)
    if transport is None:
        transport, sent_by = _sent_protocol(head)
    host, colon, port = sent_by.partition(":")
    if not is_host(host) or (colon and to_port(port) < 0):
        host, colon, port = _sent_by(sent_by)
    return transport, host, int(port) if colon else 0


_senders: Final = _Senders()


class Via:
    """One Via value (RFC 3261 section 20.42). Raise ParseError when it is malformed."""

    __slots__ = ("_parsed", "branch", "host", "params", "port", "text", "transport")

    transport: str  # upper case
    host: str  # as written; IPv6 with its brackets
    port: int  # 0 when absent

    def __init__(self, text: str) -> None:
        head, _, params = text.partition(";")
        self.transport, self.host, self.port = _senders[head]
        self.text = text
        self.params = params  # "branch=z9hG4bK1;rport" without the first ";"
        self._parsed: dict[str, str | None] | None = None
        if ('"' in params or "<" in params) and split_exact(params + ";", ";")[-1]:
            raise ParseError("Bad Via")  # it is not closed, and would hide the received that is written behind it
        if params[:7] == "branch=" and ";" not in params:  # nothing else to be found
            self.branch = params[7:].strip(LWS)
        else:
            self.branch = self.param("branch") or ""

    def param(self, name: str) -> str | None:
        """Return the parameter ``name`` (lower case), "" when it stands without a value, None when absent."""
        if self._parsed is None:
            self._parsed = parse_params(self.params)
        if name not in self._parsed:
            return None
        return self._parsed[name] or ""


def _sent_protocol(head: str) -> tuple[str, str]:
    """Read ``SIP / 2.0 / UDP sent-by``, as it is seldom written, to transport and sent-by."""
    name, _, rest = head.partition("/")
    version, _, rest = rest.partition("/")
    if name.strip(LWS).upper() != "SIP" or not is_token(version.strip(LWS)):  # of another version too: a 505 goes there
        raise ParseError("Bad Via")
    transport, *sent_by = _WHITE_SPACE.split(rest.strip(LWS), maxsplit=1)
    if not sent_by or not is_token(transport):
        raise ParseError("Bad Via")
    return transport.upper(), sent_by[0]


def _sent_by(text: str) -> tuple[str, str, str]:
    """Read host and port with an IPv6 address or white space in them."""
    text = text.strip(LWS)
    if text[:1] == "[":
        host, bracket, port = text.partition("]")
        host, port = host + bracket, port.lstrip(LWS)
        if port and port[0] != ":":
            raise ParseError("Bad Via sent-by")
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = text.partition(":")
    host, port = host.rstrip(LWS), port.strip(LWS)
    if not is_host(host) or (colon and to_port(port) < 0):
        raise ParseError("Bad Via sent-by")
    return host, colon, port
