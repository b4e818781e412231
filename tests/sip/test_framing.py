"""Streams: wherever they are cut, the same messages come out; what cannot be followed is said once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.sip.flow import Flow
from polykemi.sip.framing import PING, Framer, is_http
from polykemi.sip.http import parse_request, parse_upgraded
from tests.support import LISTENER

OPTIONS = b"OPTIONS sip:a@example.test SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n"
INVITE = b"INVITE sip:a@example.test SIP/2.0\r\nCall-ID: 2\r\nl : 5 \r\n\r\nv=0\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: example.test\r\n\r\n"
POST = b"POST /b HTTP/1.0\r\ncontent-length:2\r\n\r\n{}"
CHUNKED = (
    b"PUT /c HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nHost: a\r\n\r\n"
    b"3\r\nabc\r\n0A;ext=1\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
)
WHOLE = b"PUT /c HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\nabc0123456789"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
SENT = [OPTIONS, INVITE, GET, CHUNKED, PING, POST, SWITCH, PING, CHUNKED, OPTIONS]
ALL = [WHOLE if one is CHUNKED else one for one in SENT]


_CHUNKS = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@given(st.lists(st.integers(min_value=1, max_value=60), max_size=60))
def test_a_stream_cut_anywhere_gives_the_same_messages(cuts: list[int]) -> None:
    framer, found, data = Framer(), [], b"".join(SENT)
    for length in cuts:
        found += framer.feed(data[:length])
        data = data[length:]
    found += framer.feed(data)
    assert found == ALL
    assert framer.is_empty


def test_line_ends_between_messages_are_no_message() -> None:
    framer = Framer()
    assert framer.feed(b"\r\n" + OPTIONS + b"\r\n") == [OPTIONS]
    assert framer.feed(b"\r\n") == [PING]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\n\r\n", "no Content-Length"),
        (b"OPTIONS sip:a SIP/2.0\r\nContent-Length: x\r\n\r\n", "a Content-Length that is no number"),
        (b"OPTIONS sip:a SIP/2.0\r\nContent-Length: -1\r\n\r\n", "a Content-Length that is no number"),
        (b"OPTIONS sip:a SIP/2.0\r\nl: 1\r\nContent-Length: 2\r\n\r\n", "several values of Content-Length"),
        (b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 999\r\n\r\n", "a message of 1045 octets, at most 100 are taken"),
        (b"x" * 101, "headers of more than 100 octets"),
        (_CHUNKS + b"x\r\n", "a chunk without a length"),
        (_CHUNKS + b"\r\n", "a chunk without a length"),
        (_CHUNKS + b"-1\r\n", "a chunk without a length"),
        (_CHUNKS + b"2\r\nabc\r\n", "a chunk that is longer than it says"),
        (_CHUNKS + b"100\r\n", "a chunked body that is too long"),
        (_CHUNKS + b"FFFFFFFF\r\n", "a chunked body that is too long"),
        (_CHUNKS + b"1\r\na\r\n" * 30, "a chunked body that is too long"),
        (_CHUNKS + b"1;" + b"x" * 300, "a line of a chunked body that is too long"),
        (_CHUNKS + b"0\r\n" + b"a: b\r\n" * 30, "trailers that are too long"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "a Transfer-Encoding other than chunked"),
        (b"POST / HTTP/1.1\r\nl: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "Content-Length and Transfer-Encoding"),
    ],
)
def test_what_cannot_be_followed_is_told_and_ends_the_stream(data: bytes, says: str) -> None:
    framer = Framer(longest=100)
    assert framer.feed(data) == []
    assert framer.error == says
    assert framer.feed(OPTIONS) == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "400 Bad Request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400 Bad Request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", "413 Content Too Large"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "501 Not Implemented"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20, "431 Request Header Fields Too Large"),
        (_CHUNKS + b"x\r\n", "400 Bad Request"),
    ],
)
def test_who_speaks_http_is_told_what_is_wrong(data: bytes, status: str) -> None:
    framer = Framer(longest=100)
    assert framer.feed(data) == []
    assert framer.to_send == f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()


def test_who_speaks_sip_is_not_answered_in_http() -> None:
    framer = Framer(longest=100)
    framer.feed(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: x\r\n\r\n")
    assert (framer.error != "", framer.to_send) == (True, b"")


@pytest.mark.parametrize("length", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_who_waits_for_100_gets_it_when_the_body_has_not_come(length: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\n" + length + b"\r\n"
    body = b"5\r\nhello\r\n0\r\n\r\n" if b"chunked" in length else b"hello"
    framer = Framer()
    assert framer.feed(head) == []
    assert framer.to_send == b"HTTP/1.1 100 Continue\r\n\r\n"
    (message,) = framer.feed(body)
    assert message.endswith(b"\r\n\r\nhello")
    framer = Framer()
    assert len(framer.feed(head + body)) == 1
    assert framer.to_send == b""


def test_messages_before_the_fault_are_given() -> None:
    framer = Framer()
    assert framer.feed(OPTIONS + b"OPTIONS sip:a SIP/2.0\r\n\r\n" + OPTIONS) == [OPTIONS]


def test_the_rest_goes_to_another_protocol() -> None:
    framer = Framer()
    assert framer.feed(GET + b"\x81\x05") == [GET]
    assert framer.take_rest() == b"\x81\x05"
    assert framer.is_empty


def test_an_http_request_gets_the_via_of_its_sender() -> None:
    request = parse_request(POST.replace(b"content", b"Via: 1.1 proxy\r\ncontent"), Flow(LISTENER, "2001:db8::1", 4000))
    assert request is not None
    assert (request.method, request.uri, request.version, request.body) == ("POST", "/b", "HTTP/1.0", b"{}")
    assert request.all("via") == ["SIP/2.0/UDP [2001:db8::1]:4000"]
    assert request.raw.startswith(b"POST /b HTTP/1.0\r\nVia: SIP/2.0/UDP [2001:db8::1]:4000\r\n")


@pytest.mark.parametrize(
    "data", [OPTIONS, SWITCH, b"GET / HTTP/2\r\n\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n x\r\n\r\n"]
)
def test_what_is_no_http_request_is_none(data: bytes) -> None:
    assert parse_request(data, Flow(LISTENER, "192.0.2.1", 1)) is None


def test_the_answer_to_a_handshake_is_read() -> None:
    assert parse_upgraded(b"HTTP/1.1 101 x\r\nSEC-WebSocket-accept:  abc \r\n\r\n") == (101, "abc")
    assert parse_upgraded(b"HTTP/1.1 404 Not Found\r\n\r\n") == (404, "")
    assert parse_upgraded(b"HTTP/1.1\r\n\r\n") is None
    assert parse_upgraded(b"HTTP/1.1 " + b"1" * 5000 + b" x\r\n\r\n") is None
    assert is_http(SWITCH)
