"""Messages for the wire, spliced from the original's own lines (RFC 3261 sections 8.2.6, 16.6, 16.7, 9.1, 17.1.1.3)."""

from __future__ import annotations

from collections.abc import Iterable

from polykemi.errors import ParseError
from polykemi.sip.constants import MAX_FORWARDS
from polykemi.sip.grammar import LWS
from polykemi.sip.header import canonical_names, first_value, is_header_lines, split_exact, unfold
from polykemi.sip.message import Edits, Message, Request, Response, join_folded
from polykemi.sip.uri import without_headers


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
    """Build a response to ``request``; it may be as malformed as it likes.

    The top Via gets ``received`` and ``rport`` (RFC 3261 section 18.2.1, RFC 3581) when given; the To gets ``to_tag``
    when it has none and the status is not 100. ``headers`` are whole lines without CRLF.
    """
    shape, lines = request.shape, request.lines
    repeated = shape.in_early_reply if 100 < status < 300 else shape.in_reply
    out = [lines[i] for i in repeated.lines]
    via, to = repeated.via, repeated.to
    if (received or rport) and via >= 0:
        out[via] = mark_via(out[via], received, rport)
    if to_tag and status > 100 and to >= 0 and _lacks_tag(request):
        out[to] += ";tag=" + to_tag
    out.insert(0, f"SIP/2.0 {status} {reason}")
    out += headers
    if server:
        out.append("Server: " + server)
    out.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(out).encode("latin-1") + body


def _lacks_tag(request: Request) -> bool:
    try:
        return request.to.tag is None
    except ParseError:  # nobody can tell where a tag would belong: it goes back as it came
        return False


def mark_via(line: str, received: str, rport: int) -> str:
    """Return a Via header line whose first value carries ``received`` and, when not 0, ``rport``; the rest is kept."""
    name, colon, values = line.partition(":")
    value = first_value(values)
    rest = values[len(value) :]
    sent_by, *params = split_exact(value, ";")
    out = [sent_by]
    missing = rport
    for param in params:
        param_name = param.partition("=")[0].strip(LWS).lower()
        if param_name == "received":  # not to be believed
            continue
        if param_name == "rport" and rport:
            if not missing:
                continue
            param, missing = f"rport={rport}", 0
        out.append(param)
    if missing:
        out.append(f"rport={rport}")
    if received:
        out.append(f"received={received}")
    return f"{name}{colon}{';'.join(out)}{rest}"


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
    """Build the copy of ``request`` that goes downstream. Raise ParseError for a bad URI or Content-Length, or a missing Via.

    The headers part of ``uri`` stays behind: none may stand in a Request-URI (RFC 3261 section 19.1.1).
    ``via`` is the value of our own Via; ``routes`` are Route values put on top (Path, loose routes). Max-Forwards is
    in ``edits`` like every other change.
    """
    lines = request.lines
    if "?" in uri or "<" in uri or " " in uri or "\n" in uri or "\r" in uri:  # these make it no URI, but for the first
        uri = without_headers(uri)
    top = _top_via(request)
    _must_be_lines(edits)
    if "\n" in via or "\r" in via:
        raise ParseError("Line break in a Via")
    if received or rport:
        lines = lines.copy()
        lines[top] = mark_via(lines[top], received, rport)
    head = [f"{request.method} {uri} SIP/2.0\r\nVia: {via}"]
    if edits.inserts and min(edits.inserts)[0] <= top:  # as Kamailio: what goes before the first Via goes before ours
        head = [f"{request.method} {uri} SIP/2.0", *_texts_up_to(top, edits), f"Via: {via}"]
        edits = edits.copy()
        edits.inserts = [insert for insert in edits.inserts if insert[0] > top]
    for route in routes:
        head.append(f"Route: <{route}>" if route[:1] != "<" else "Route: " + route)  # mostly none
    return _joined(head, lines, request, edits)


def _texts_up_to(line: int, edits: Edits) -> list[str]:
    return [text for place, text in sorted(edits.inserts, key=lambda insert: insert[0]) if place <= line]


def forward_response(reply: Response, edits: Edits) -> bytes:
    """Build ``reply`` without its topmost Via, our own (RFC 3261 section 16.7 step 3).

    Raise ParseError for a bad Content-Length or a missing Via.
    """
    _must_be_lines(edits)
    top = _top_via(reply)
    line = reply.lines[top]
    rest = ""
    if "," in line:
        name, colon, values = line.partition(":")
        rest = values[len(first_value(values)) + 1 :].strip(LWS)
    if not rest and not edits:
        length = reply.content_length
        if length is not None and length <= reply.body_size:  # nearly always: what is left is copied as it is
            raw = reply.raw
            start = len(reply.start_line) + 2
            for above in reply.lines[:top]:
                start += len(above) + 2
            return raw[:start] + raw[start + len(line) + 2 : len(raw) - reply.body_size + length]
    lines = reply.lines
    if rest:
        lines = lines.copy()
        lines[top] = f"{name}{colon} {rest}"
    else:
        edits = edits.copy()
        edits.removed.add(top)
    return _joined([reply.start_line], lines, reply, edits)


def with_edits(message: Message, edits: Edits, start_line: str) -> bytes:
    """Build ``message`` as ``edits`` change it, with another start-line. Raise ParseError for a bad Content-Length."""
    _must_be_lines(edits)
    return _joined([start_line], message.lines, message, edits)


def with_via(data: bytes, via: str) -> bytes:
    """Return a request of ours, as it was sent, with another value of our Via, which is the first one."""
    start = data.index(b"\r\nVia: ") + 7
    return data[:start] + via.encode("latin-1") + data[data.index(b"\r\n", start) :]


def _top_via(message: Message) -> int:
    top = message.shape.first.get("via", -1)
    if top < 0:
        raise ParseError("Missing Via")
    return top


def _must_be_lines(edits: Edits) -> None:
    """Raise ParseError when an edit would end the header, or be a line that is no header: exports see to it before."""
    for _, text in edits.inserts:
        if ("\n" in text or "\r" in text) and not is_header_lines(text):
            raise ParseError("Line break in a header")
    for text in edits.replaced.values():
        if ("\n" in text or "\r" in text) and not is_header_lines(text):
            raise ParseError("Line break in a header")


def _joined(head: list[str], lines: list[str], message: Message, edits: Edits) -> bytes:
    """Join ``head``, the header ``lines`` of ``message`` after the edits, and the body."""
    body = edits.body
    if body is not None:
        _with_length(head, edits.apply(lines), len(body))
    else:
        length, raw = message.content_length, message.raw
        start = len(raw) - message.body_size
        body = raw[start:] if length is None else raw[start : start + length]
        size = len(body)
        if length is None:
            head += _spliced(lines, edits)
            head.append(f"Content-Length: {size}")
        elif length != size or (edits.removed and edits.removed.issuperset(message.indexes("content-length"))):
            _with_length(head, edits.apply(lines), size)
        else:
            head += _spliced(lines, edits)
    head.append("\r\n")
    return "\r\n".join(head).encode("latin-1") + body


def _with_length(head: list[str], lines: list[str], size: int) -> None:
    """Add ``lines`` to ``head``, with one Content-Length of ``size`` octets in place of the first and of all others.

    On a connection a wrong one, or none, would make the next messages of others a part of this one's body.
    """
    length = f"Content-Length: {size}"
    for line in filter(None, lines):
        if canonical_names[line.partition(":")[0]] != "content-length":
            head.append(line)
        elif length:
            head.append(length)
            length = ""
    if length:
        head.append(length)


def _spliced(lines: list[str], edits: Edits) -> list[str]:
    """Return what ``Edits.apply`` does, inserted texts and the line behind them in one entry."""
    out = [*lines, ""]  # the place behind the last line
    for i, line in edits.replaced.items():
        out[i] = line
    for i in edits.removed:
        out[i] = ""
    for place, text in reversed(edits.inserts):
        behind = out[place]
        out[place] = f"{text}\r\n{behind}" if behind else text
    return [line for line in out if line]


def cancel(request_lines: Iterable[str], uri: str, via: str) -> bytes:
    """Build the CANCEL of a forwarded INVITE, of its header lines as sent (RFC 3261 section 9.1).

    Of a folded header, ``request_lines`` may hold each line by itself.
    """
    return _hop_request("CANCEL", request_lines, uri, via, to=None)


def ack(request_lines: Iterable[str], uri: str, via: str, to: str) -> bytes:
    """Build the ACK to a final response of 300 and above; ``to`` is the response's To value (section 17.1.1.3).

    Of a folded header, ``request_lines`` may hold each line by itself.
    """
    return _hop_request("ACK", request_lines, uri, via, to=to)


def _hop_request(method: str, lines: Iterable[str], uri: str, via: str, to: str | None) -> bytes:
    out = [f"{method} {uri} SIP/2.0", "Via: " + via]
    for line in join_folded("\r\n".join(lines).split("\r\n")):  # given apart or together
        start, _, value = line.partition(":")
        name = canonical_names[start]
        if name == "to" and to is not None:
            out.append("To: " + to)
        elif name == "cseq":
            number = unfold(value).strip(LWS).replace("\t", " ").partition(" ")[0]
            out.append(f"CSeq: {number} {method}")
        elif name in ("from", "to", "call-id", "route"):
            out.append(line)
    out.append(f"Max-Forwards: {MAX_FORWARDS}\r\nContent-Length: 0\r\n\r\n")
    return "\r\n".join(out).encode("latin-1")
