"""HTTP requests that come to the SIP ports (RFC 9112), as SIP requests: so scripts read their headers and reply to them.

As in Kamailio, the request gets a Via of its sender, and the response repeats that as ``Sia``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from polykemi.errors import ParseError
from polykemi.sip.flow import Flow, bracketed
from polykemi.sip.framing import is_http
from polykemi.sip.message import Message, Request


class HttpRequest(Request):
    """An HTTP request; ``uri`` is its request target."""

    __slots__ = ()

    def __init__(self, raw: bytes, start_line: str, lines: list[str], body_at: int) -> None:
        Message.__init__(self, raw, start_line, lines, body_at)
        self.method, self.uri, self.version = start_line.split(" ")


def parse_request(data: bytes, flow: Flow) -> HttpRequest | None:
    """Return an HTTP request that came on ``flow``; None for what is none, or is malformed."""
    end = data.find(b"\r\n\r\n")
    if end < 0 or not is_http(data) or data[:5] == b"HTTP/":
        return None
    start_line, *lines = str(data[:end], "latin-1").split("\r\n")
    if lines and lines[0][:1] in (" ", "\t"):
        return None  # it would become a part of the Via
    via = f"Via: SIP/2.0/{flow.listener.proto.upper()} {bracketed(flow.host)}:{flow.port}"
    raw = b"\r\n".join((start_line.encode("latin-1"), via.encode("latin-1"), data[len(start_line) + 2 :]))
    lines = [via, *[line for line in lines if line[:4].lower() != "via:"]]  # HTTP's own has another form
    try:
        return HttpRequest(raw, start_line, lines, len(raw) - len(data) + end + 4)
    except ParseError:
        return None


def refusal(data: bytes, flow: Flow) -> bytes:
    """Return the answer to an HTTP request over a connection that is malformed; b"" for what is none."""
    if (
        flow.listener.proto not in ("tcp", "tls")
        or not is_http(data)
        or data[:5] == b"HTTP/"
        or parse_request(data, flow)
    ):
        return b""
    return b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def is_last(request: HttpRequest, status: int, headers: Iterable[str]) -> bool:
    """Tell whether the connection ends behind the response to ``request`` (RFC 9112 section 9.3)."""
    options = _options(request.all("connection"))
    if status < 200 or "close" in options:
        return status >= 200
    if "close" in _options(line[11:] for line in headers if line[:11].lower() == "connection:"):
        return True
    return request.version == "HTTP/1.0" and "keep-alive" not in options


def _options(values: Iterable[str]) -> list[str]:
    return [option.strip(" \t").lower() for option in ",".join(values).split(",")]


def response(
    request: HttpRequest, status: int, reason: str, *, headers: Iterable[str] = (), body: bytes = b"", server: str = ""
) -> bytes:
    """Build a response; ``headers`` are whole lines without CRLF."""
    out = [f"{request.version} {status} {reason}", "Sia: " + (request.get("via") or ""), *headers]
    if server:
        out.append("Server: " + server)
    out.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(out).encode("latin-1") + body


class Upgraded(NamedTuple):
    """What counts of the response to a WebSocket handshake: status and Sec-WebSocket-Accept."""

    status: int
    accept: str


def parse_upgraded(data: bytes) -> Upgraded | None:
    """Return what an HTTP response says of a WebSocket handshake, None for what is no response."""
    head = str(data.partition(b"\r\n\r\n")[0], "latin-1").split("\r\n")
    status = head[0].split(" ")[1:2]
    if not status or len(status[0]) != 3 or not status[0].isdecimal():
        return None
    headers = {
        name.strip(" \t").lower(): value.strip(" \t") for name, _, value in (line.partition(":") for line in head[1:])
    }
    return Upgraded(int(status[0]), headers.get("sec-websocket-accept", ""))
