"""STUN keep-alives: what is answered, with what, and what is not STUN."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.modules.stun import Stun
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.stun import binding_response
from tests.support import LISTENER, services

# RFC 5769 section 2: the transaction and addresses of its test vectors
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")


def request(*attributes: bytes, kind: int = 1, cookie: int = 0x2112A442) -> bytes:
    body = b"".join(attributes)
    return struct.pack("!HHI", kind, len(body), cookie) + TRANSACTION + body


@pytest.mark.parametrize(
    ("host", "port", "value"),
    [
        ("192.0.2.1", 32853, "0001a147e112a643"),
        ("2001:db8:1234:5678:11:2233:4455:6677", 32853, "0002a1470113a9faa5d3f179bc25f4b5bed2b9d9"),
    ],
)
def test_a_binding_request_is_told_where_it_came_from(host: str, port: int, value: str) -> None:
    attribute = struct.pack("!HH", 0x0020, len(value) // 2) + bytes.fromhex(value)
    expected = struct.pack("!HHI", 0x0101, len(attribute), 0x2112A442) + TRANSACTION + attribute
    assert binding_response(request(), host, port) == expected
    software = b"\x80\x22\x00\x05phone\0\0\0"  # may be ignored
    assert binding_response(request(software), host, port) == expected


def test_who_wants_more_is_refused() -> None:
    change_request = b"\x00\x03\x00\x04\x00\x00\x00\x06"  # another address is to answer: RFC 5780
    answer = binding_response(request(*[change_request] * 99), "192.0.2.1", 1)
    assert answer[:2] == b"\x01\x11"
    assert b"\x00\x09\x00\x15\x00\x00\x04\x14Unknown Attribute" in answer
    assert answer.endswith(b"\x00\x0a\x00\x10" + b"\x00\x03" * 8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        request()[:-1],
        request() + b"x",
        request(kind=0x0101),
        request(cookie=0),
        request(b"\x80\x22\x00\x09phone\0\0\0"),  # longer than what is there
        request(b"\x80\x22\x00\x05"),
        b"OPTIONS sip:x SIP/2.0\r\n\r\n",
    ],
)
def test_what_is_no_binding_request_has_no_answer(data: bytes) -> None:
    assert binding_response(data, "192.0.2.1", 1) == b""


@given(st.binary(max_size=64))
def test_any_body_is_answered_or_dropped(body: bytes) -> None:
    answer = binding_response(request(body), "192.0.2.1", 1)
    assert len(answer) <= 2 * (20 + len(body)) + 32


def test_it_is_answered_over_udp_alone() -> None:
    made = services(Stun)
    stun: Stun = made.modules["stun"]
    flow = Flow(LISTENER, "192.0.2.10", 5060)
    assert stun.take(request(), flow, 0)
    assert [to for _, to in made.outbox.items] == [flow]
    assert not stun.take(request(), Flow(Listener("tcp", "192.0.2.1", 5060), "192.0.2.10", 5060), 0)
    assert not stun.take(b"\0\0\0\0", flow, 0)
    assert made.counters["stun.binding_requests"] == 1
