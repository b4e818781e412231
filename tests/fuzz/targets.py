"""What is fuzzed: each target takes any octets, and either reads them or raises what it declares. Used by hypothesis and atheris."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any, Final

import dns.exception
import dns.message
import dns.rdataclass
import dns.rdatatype

from polykemi.errors import ParseError
from polykemi.kemi import numbers
from polykemi.kemi.glob import matches
from polykemi.kemi.pattern import BadPattern
from polykemi.kemi.pcre import compile_pcre
from polykemi.kemi.posix import compile_posix
from polykemi.modules import rtpengine_bencode
from polykemi.pv.compiler import Variables
from polykemi.sip import build, multipart
from polykemi.sip.digest import challenge, check, parse_credentials
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.framing import Framer
from polykemi.sip.header import (
    Via,
    first_value,
    parse_name_addr,
    parse_params,
    split_exact,
    split_quoted,
    unfold,
    unquote,
)
from polykemi.sip.http import parse_request, parse_upgraded
from polykemi.sip.message import Edits, Request, parse
from polykemi.sip.reply_path import reply_path, response_target
from polykemi.sip.rewrite import rewrite_uris
from polykemi.sip.sdp import parse_sdp
from polykemi.sip.uri import parse_uri, same_uri, unescape, without_headers
from polykemi.transport.websocket import WebSocket
from tests.fuzz import seeds
from tests.support import message, request_context

FLOW: Final = Flow(Listener("udp", "127.0.16.1", 5060), "127.0.16.2", 5060)
refused = contextlib.suppress(ParseError)


def parsed(read: Callable[..., Any], *arguments: Any) -> Any:
    """Return what ``read`` gives, None when it refuses."""
    with refused:
        return read(*arguments)
    return None


def of_message(data: bytes) -> None:
    """Read all there is of a message, and build what can be built of it."""
    one = parsed(parse, data)
    if one is None:
        return
    for name in ("via", "from_", "to", "cseq", "call_id", "content_length", "body", "has_whole_body", "parsed_uri"):
        if hasattr(type(one), name):
            parsed(getattr, one, name)
    for name in dict.fromkeys(one.names[:40]):
        assert one.get(name) == one.all(name)[0]
        one.list(name)
    parsed(rewrite_uris, one, Edits(), "contact", lambda value: value.uri)
    if isinstance(one, Request):
        with refused:
            received, rport, _ = reply_path(one, FLOW)
            for status in (100, 200, 404):
                answer = build.response(one, status, "x", to_tag="t", received=received, rport=rport)
                assert parse(answer).has_whole_body
        with refused:
            forwarded = build.forward_request(one, Edits(), uri=one.uri, via="SIP/2.0/UDP h", received="::1", rport=9)
            again = parse(forwarded)
            assert again.has_whole_body
            assert again.body == one.body
        build.cancel(one.lines, "sip:h", "SIP/2.0/UDP h")
        build.ack(one.lines, "sip:h", "SIP/2.0/UDP h", "x")
    else:
        response_target(one, FLOW.listener)
        parsed(build.forward_response, one, Edits())


def of_framing(data: bytes) -> None:
    """Cut a stream into messages; the first octets say where the stream is split."""
    split, stream = [1 + octet for octet in data[:4]], data[4:]
    pieces, whole = Framer(4096), Framer(4096)
    messages, at = [], 0
    for length in split:
        messages += pieces.feed(stream[at : at + length])
        at += length
    messages += pieces.feed(stream[at:])
    if not pieces.error:
        assert messages == whole.feed(stream)
    assert sum(map(len, messages)) <= len(stream)


def of_websocket(data: bytes) -> None:
    """Take frames, in two pieces; what is to be sent is bounded by what came."""
    socket = WebSocket(longest=4096)
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        if not socket.code:
            assert sum(map(len, socket.receive(piece))) <= len(data)
    assert len(socket.to_send) <= len(data) + 200


def of_http(data: bytes) -> None:
    """Read an HTTP request or the answer to a handshake."""
    parse_request(data, FLOW)
    parse_upgraded(data)


def of_sdp(data: bytes) -> None:
    """Read a session description."""
    text = data.decode("latin-1")
    sdp = parsed(parse_sdp, text, "application/sdp")
    if sdp is not None:
        assert all(0 <= m.start < m.end <= len(text) for m in sdp.media)


def of_multipart(data: bytes) -> None:
    """Read the parts of a body; the first line is its Content-Type."""
    kind, _, text = data.decode("latin-1").partition("\n")
    end = 0
    for part in multipart.parts_of(text, multipart.boundary_of(kind)):
        assert end <= part.start <= part.head <= part.body <= part.end <= len(text)
        end = part.end
    parsed(parse_sdp, text, kind)


def of_uri(data: bytes) -> None:
    """Read, compare and change a URI."""
    text = data.decode("latin-1")
    unescape(text)
    same_uri(text, text[::-1])
    parsed(without_headers, text)
    uri = parsed(parse_uri, text)
    if uri is not None:
        assert str(uri) == text
        parsed(lambda: parse_uri(uri.changed(port=5070)))
        _ = uri.transport, uri.effective_port, uri.is_loose


def of_name_addr(data: bytes) -> None:
    """Read a From, Contact or Route."""
    value = parsed(parse_name_addr, data.decode("latin-1"))
    if value is not None:
        _ = value.tag, value.param("q")
        parsed(parse_uri, value.uri)


def of_via(data: bytes) -> None:
    """Read a Via, and write what it says of the source into it."""
    text = data.decode("latin-1")
    marked = build.mark_via("Via: " + text, "127.0.16.2", 5070)
    if parsed(Via, first_value(text).rstrip(" \t\r\n")) is not None and "\n" not in text:
        via = Via(first_value(marked[5:]).rstrip(" \t\r\n"))
        assert (via.param("received"), via.param("rport")) == ("127.0.16.2", "5070")


def of_credentials(data: bytes) -> None:
    """Read credentials and check them."""
    credentials = parsed(parse_credentials, data.decode("latin-1"))
    if credentials is not None:
        assert not check(credentials, "0" * 32, "INVITE", b"body")
        challenge(credentials.realm, credentials.nonce)


def of_list(data: bytes) -> None:
    """Split lists and parameters; joined they are the same."""
    text = data.decode("latin-1")
    for separator in ",;":
        assert separator.join(split_exact(text, separator)) == text
        split_quoted(text, separator)
    parse_params(text)
    unquote(text)
    unfold(text)
    numbers.is_number(text)
    numbers.leading_number(text)


_variables: Final = Variables(limit=64, action=1)
_context: Final = request_context(message("INVITE sip:bob@fuzz.test SIP/2.0"))


def of_pv(data: bytes) -> None:
    """Compile a variable and a text with variables, and read them."""
    text = data.decode("latin-1")
    accessor = _variables.compile(text)
    if accessor is not None:
        accessor.get(_context)
    with contextlib.suppress(ValueError):
        assert isinstance(_variables.text(text)(_context), str)


def of_pattern(data: bytes) -> None:
    """Compile a regular expression of either syntax, and match something; they come from scripts, so none is very long."""
    text = data[:100].decode("latin-1")
    for compiler in (compile_posix, compile_pcre):
        with contextlib.suppress(BadPattern):
            compiler(text).search("sip:alice@fuzz.test")
    matches("sip:alice", text)


def of_dns(data: bytes) -> None:
    """Read an answer of DNS, as dnspython does for ``transport/dns.py``, which expects these errors."""
    with contextlib.suppress(dns.exception.DNSException, UnicodeError, OSError):
        answer = dns.message.from_wire(data)
        for rrset in answer.answer:
            for record in rrset:
                if rrset.rdclass == dns.rdataclass.IN and rrset.rdtype in (dns.rdatatype.SRV, dns.rdatatype.PTR):
                    record.target.to_text(omit_final_dot=True)


def of_bencode(data: bytes) -> None:
    """Read what a media relay answers; ValueError is what is declared."""
    with contextlib.suppress(ValueError):
        rtpengine_bencode.encode(rtpengine_bencode.decode(data))


def _values(name: str) -> list[bytes]:
    return [text.encode("latin-1") for text in seeds.VALUES[name]]


# name -> target, and what the mutations start from
TARGETS: Final[dict[str, tuple[Callable[[bytes], None], list[bytes]]]] = {
    "message": (of_message, [*seeds.MESSAGES, *seeds.TORTURE]),
    "framing": (of_framing, [b"\x01\x20\x40\x80" + a + b for a, b in zip(seeds.MESSAGES, seeds.TORTURE, strict=False)]),
    "websocket": (
        of_websocket,
        [b"\x81\x85abcd\t\x07\x0f\x08\x0e", b"\x82\xfe\x01\x00abcd" + b"x" * 256, b"\x89\x80abcd", b"\x88\x82abcdbb"],
    ),
    "http": (of_http, list(seeds.HTTP)),
    "sdp": (of_sdp, [seeds.SDP]),
    "multipart": (of_multipart, [b"multipart/mixed;boundary=b1\n" + seeds.MULTIPART]),
    "uri": (of_uri, _values("uri")),
    "name_addr": (of_name_addr, _values("name_addr")),
    "via": (of_via, _values("via")),
    "credentials": (of_credentials, _values("credentials")),
    "list": (of_list, _values("list")),
    "pv": (of_pv, _values("pv")),
    "pattern": (of_pattern, [*_values("pcre"), *_values("substitution")]),
    "dns": (of_dns, list(seeds.DNS)),
    "bencode": (of_bencode, [b"d6:result2:ok3:sdp5:v=0\r\n1:ai-42e1:ble4:listl1:a1:bee", json.dumps([1]).encode()]),
}

OF_LINES: Final = frozenset(("message", "framing", "http", "multipart", "sdp"))  # whose octets have lines to be changed


def be_quiet() -> None:
    """Let what is fuzzed write no lines: a wrong variable name is one each time."""
    logging.getLogger("polykemi").setLevel(logging.CRITICAL)
