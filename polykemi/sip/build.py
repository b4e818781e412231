"""Messages for the wire, spliced from the original's own lines (RFC 3261 sections 8.2.6, 16.6, 16.7, 9.1, 17.1.1.3)."""

from __future__ import annotations

from collections.abc import Iterable

from polykemi.sip.header import split_quoted
from polykemi.sip.message import Edits, Message, Request, Response


def response(
    request: Request,
    status: int,
    reason: str,
    *,
    to_tag: str,
    received: str = "",
    rport: int = 0,
    headers: Iterable[str] = (),
    body: bytes = b"",
    server: str = "",
) -> bytes:
    """Build a response to ``request``.

    The top Via gets ``received`` and ``rport`` (RFC 3261 section 18.2.1, RFC 3581) when given; the To gets ``to_tag``
    when it has none and the status is not 100. ``headers`` are whole lines without CRLF.
    """
    out = [f"SIP/2.0 {status} {reason}"]
    record_route = 100 < status < 300
    first_via = True
    for name, line in zip(request.names, request.lines, strict=True):
        if name == "via":
            if first_via:
                first_via = False
                if received or rport:
                    line = mark_via(line, received, rport)
            out.append(line)
        elif name == "to":
            if status > 100 and to_tag and request.to.tag is None:
                line = f"{line};tag={to_tag}"
            out.append(line)
        elif name in ("from", "call-id", "cseq") or (name == "record-route" and record_route):
            out.append(line)
    out += headers
    if server:
        out.append("Server: " + server)
    out.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(out).encode("latin-1") + body


def mark_via(line: str, received: str, rport: int) -> str:
    """Return a Via header line whose first value carries ``received`` and, when not 0, ``rport``."""
    name, colon, value = line.partition(":")
    first, comma, rest = value, "", ""
    if "," in value:
        first = split_quoted(value, ",")[0]
        rest = value[value.index(first) + len(first) :]
    params = [p for p in first.split(";") if not p.strip(" \t").lower().startswith(("received=", "received ="))]
    if rport:
        params = [p for p in params if p.strip(" \t").lower().partition("=")[0].rstrip(" \t") != "rport"]
        params.append(f"rport={rport}")
    if received:
        params.append(f"received={received}")
    return name + colon + ";".join(params) + comma + rest


def forward_request(
    request: Request,
    edits: Edits,
    *,
    uri: str,
    via: str,
    received: str = "",
    rport: int = 0,
    routes: Iterable[str] = (),
) -> bytes:
    """Build the copy of ``request`` that goes downstream.

    ``via`` is the value of our own Via; ``routes`` are Route values put on top (Path, loose routes). Max-Forwards is
    in ``edits`` like every other change.
    """
    lines = edits.apply(_marked(request, edits, received, rport)) if edits else _marked(request, edits, received, rport)
    top = [f"{request.method} {uri} SIP/2.0", "Via: " + via]
    head = [*top, *(f"Route: <{r}>" if r[:1] != "<" else "Route: " + r for r in routes), *lines]
    return _finish(head, request, edits)


def _marked(message: Message, edits: Edits, received: str, rport: int) -> list[str]:
    if not (received or rport):
        return message.lines
    lines = message.lines.copy()
    top = message.names.index("via")
    lines[top] = mark_via(lines[top], received, rport)
    return lines


def forward_response(reply: Response, edits: Edits) -> bytes:
    """Build ``reply`` without its topmost Via, our own (RFC 3261 section 16.7 step 3)."""
    lines = reply.lines.copy()
    top = reply.names.index("via")
    value = reply.value(top)
    rest = split_quoted(value, ",")[1:] if "," in value else []
    if rest:
        lines[top] = "Via: " + ", ".join(rest)
        lines = edits.apply(lines) if edits else lines
    elif edits:
        without_top = edits.copy()
        without_top.removed.add(top)
        lines = without_top.apply(lines)
    else:
        del lines[top]
    return _finish([reply.start_line, *lines], reply, edits)


def _finish(head: list[str], message: Message, edits: Edits) -> bytes:
    """Join head and body; a new body gets its Content-Length."""
    body = edits.body
    if body is None:
        body = message.body
        if message.content_length is None:
            head.append(f"Content-Length: {len(body)}")
    else:
        head = [line for line in head if line.partition(":")[0].strip(" \t").lower() not in ("content-length", "l")]
        head.append(f"Content-Length: {len(body)}")
    head.append("\r\n")
    return "\r\n".join(head).encode("latin-1") + body


def cancel(request_lines: list[str], uri: str, via: str) -> bytes:
    """Build the CANCEL of a forwarded INVITE, of its header lines as sent (RFC 3261 section 9.1)."""
    return _hop_request("CANCEL", request_lines, uri, via, to=None)


def ack(request_lines: list[str], uri: str, via: str, to: str) -> bytes:
    """Build the ACK to a final response of 300 and above; ``to`` is the response's To value (section 17.1.1.3)."""
    return _hop_request("ACK", request_lines, uri, via, to=to)


def _hop_request(method: str, lines: list[str], uri: str, via: str, to: str | None) -> bytes:
    out = [f"{method} {uri} SIP/2.0", "Via: " + via]
    for line in lines:
        name, _, value = line.partition(":")
        name = name.rstrip(" \t").lower()
        if name in ("from", "f", "call-id", "i", "route"):
            out.append(line)
        elif name in ("to", "t"):
            out.append(line if to is None else "To: " + to)
        elif name == "cseq":
            out.append(f"CSeq: {value.split()[0]} {method}")
        elif name == "max-forwards":
            out.append("Max-Forwards: 70")
    out.append("Content-Length: 0\r\n\r\n")
    return "\r\n".join(out).encode("latin-1")
