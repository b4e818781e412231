"""sanity: which malformed requests are refused, and with what."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.route import Route
from polykemi.modules.sanity import Sanity
from polykemi.modules.sl import Sl
from tests.support import headers, message, replies, request_context, services

INVITE = "INVITE sip:bob@example.test SIP/2.0"
DIGEST = 'Digest username="a", realm="x", nonce="n", uri="sip:x", response="0123456789abcdef0123456789abcdef"'
ALL = 0xFFE7


def check(
    checks: int, start_line: str = INVITE, *lines: str, uris: int = 15, raw: bytes = b"", **fields: str
) -> tuple[int, str]:
    """Return the result and the status line of the reply, "" when there was none."""
    made = services(Sl, Sanity)
    ctx = request_context(raw or message(start_line, *lines, **fields))
    result: int = made.modules["sanity"].sanity_check(ctx, checks, uris)
    return result, "".join(reply.partition("\r\n")[0] for reply in replies(made))


def test_a_good_request_passes_every_check() -> None:
    lines = ["Contact: <sip:a@b>", "Expires: 60", f"Authorization: {DIGEST}", "Route: <sip:a;lr>"]
    assert check(ALL, INVITE, *lines) == (1, "")
    assert check(17895) == (1, "")


@pytest.mark.parametrize("uri", ["tel:+4930123", "urn:service:sos", "sips:bob@example.test"])
def test_schemes_that_can_be_routed_pass(uri: str) -> None:
    assert check(2, f"INVITE {uri} SIP/2.0") == (1, "")


@pytest.mark.parametrize(
    ("bit", "start_line", "lines", "fields", "reply"),
    [
        (2, "INVITE http://x/y SIP/2.0", [], {}, "416 Unsupported URI Scheme"),
        (2, "INVITE nothing SIP/2.0", [], {}, "400 Bad URI"),
        (32, INVITE, [], {"cseq": "1 BYE"}, "400 CSeq Method Does Not Match"),
        (64, INVITE, [], {"cseq": "99999999999 INVITE"}, "400 Bad CSeq"),
        (64, INVITE, [], {"cseq": "x INVITE"}, "400 Bad CSeq"),
        (256, INVITE, ["Expires: abc"], {}, "400 Expires value is illegal"),
        (256, INVITE, ["Expires: 4294967296"], {}, "400 Expires value is illegal"),
        (256, INVITE, ["Expires: "], {}, "400 Expires value is illegal"),
        (512, INVITE, ["Proxy-Require: foo, bar"], {}, "420 Bad Proxy Require Extension"),
        (1024, "INVITE sip:@@@ SIP/2.0", [], {}, "400 Bad Request URI"),
        (1024, INVITE, [], {"from_": "<sip:>;tag=1"}, "400 Invalid From Header"),
        (1024, INVITE, [], {"to": "<xx>"}, "400 Invalid To Header"),
        (1024, INVITE, ["Contact: <sip:>"], {}, "400 Bad Contact URI"),
        (2048, INVITE, ['Authorization: Digest username="a"'], {}, "400 Missing realm in credentials"),
        (2048, INVITE, ["Proxy-Authorization: Basic abc"], {}, "400 No Digest credentials"),
        (8192, INVITE, ['Authorization: Digest username="a"'], {}, "400 Missing realm in credentials"),
        (4096, INVITE, [], {"from_": "<sip:a@x>;tag=1;tag=2"}, "400 More Than One From Tag"),
        (4096, INVITE, [], {"to": "<sip:a@x>;tag=1;tag=2"}, "400 More Than One To Tag"),
        (16384, INVITE, [], {"via": "SIP/2.0/UDP 192.0.2.10"}, "400 Missing Via Branch"),
        (32768, INVITE, [], {"via": "SIP/2.0/UDP 192.0.2.10;branch=1"}, "400 Bad Via Branch"),
        (32768, INVITE, ["Route: <sip:a>"], {}, "400 Missing lr In Route"),
        (32768, INVITE, ["Record-Route: <sip:a>"], {}, "400 Missing lr In Record-Route"),
    ],
)
def test_each_check_refuses_its_fault_and_nothing_without_it(
    bit: int, start_line: str, lines: list[str], fields: dict[str, Any], reply: str
) -> None:
    assert check(bit, start_line, *lines, **fields) == (-1, f"SIP/2.0 {reply}")
    assert check(1, start_line, *lines, **fields) == (1, "")


def test_a_scheme_that_is_not_digest_passes_the_lenient_check() -> None:
    assert check(8192, INVITE, "Authorization: Basic abc") == (1, "")


@pytest.mark.parametrize("header", ["From", "To", "Call-ID", "CSeq"])
def test_a_missing_header_is_refused(header: str) -> None:
    lines = message(INVITE).decode().split("\r\n")
    raw = "\r\n".join(line for line in lines if not line.lower().startswith(header.lower() + ":")).encode()
    result, _ = check(4, raw=raw)
    assert result == -1


@pytest.mark.parametrize(("length", "result"), [(5, 1), (4, -1), (6, -1)])
def test_the_body_is_as_long_as_content_length_says(length: int, result: int) -> None:
    raw = message(INVITE, body="hello").replace(b"Content-Length: 5", b"Content-Length: %d" % length)
    assert check(128, raw=raw)[0] == result


def test_options_that_we_have_may_be_required_and_the_others_are_named() -> None:
    made = services(Sl, Sanity, params={"sanity": {"proxy_require": "foo, Bar"}})
    sanity = made.modules["sanity"]
    assert sanity.sanity_check(request_context(message(INVITE, "Proxy-Require: bar,foo")), 512, 0) == 1
    assert sanity.sanity_check(request_context(message(INVITE, "Proxy-Require: foo, baz")), 512, 0) == -1
    [reply] = replies(made)
    assert headers(reply, "Unsupported") == ["baz"]


def test_an_ack_and_a_reply_are_refused_without_an_answer() -> None:
    assert check(256, "ACK sip:bob@example.test SIP/2.0", "Expires: x") == (-1, "")
    made = services(Sl, Sanity)
    reply = request_context(message("SIP/2.0 200 OK", "Expires: x", cseq="1 INVITE"), kind=Route.REPLY)
    assert made.modules["sanity"].sanity_check(reply, 256, 0) == -1
    assert replies(made) == []


def test_the_script_may_reply_itself() -> None:
    made = services(Sl, Sanity, params={"sanity": {"noreply": 1}})
    sanity, ctx = made.modules["sanity"], request_context(message(INVITE, "Expires: x"))
    assert sanity.sanity_reply(ctx) == 1
    assert replies(made)[0].startswith("SIP/2.0 500 ")  # nothing was checked
    assert (sanity.sanity_check(ctx, 256, 0), replies(made)) == (-1, [])
    assert sanity.sanity_reply(ctx) == 1
    assert replies(made)[0].startswith("SIP/2.0 400 Expires value is illegal\r\n")
    replying = services(Sl, Sanity)
    replying.modules["sanity"].sanity_check(ctx, 256, 0)
    assert replying.modules["sanity"].sanity_reply(ctx) == 1  # the check has replied already
    assert len(replies(replying)) == 1


def test_defaults_are_parameters() -> None:
    ctx = request_context(message(INVITE, "Expires: x"))
    for checks, result in ((256, -1), (1, 1)):
        made = services(Sl, Sanity, params={"sanity": {"default_checks": checks}})
        assert made.modules["sanity"].sanity_check_defaults(ctx) == result


@pytest.mark.parametrize(
    ("limit", "lines"),
    [
        ("size_message", []),
        ("size_headers", []),
        ("size_header", []),
        ("size_method", []),
        ("size_ruri", []),
        ("size_from_uri", []),
        ("size_to_uri", []),
        ("size_contact_uri", ["Contact: <sip:alice@192.0.2.10>"]),
        ("size_route_uri", ["Route: <sip:192.0.2.10;lr>"]),
    ],
)
def test_sizes_are_checked_by_bit_or_by_parameter(limit: str, lines: list[str]) -> None:
    ctx = request_context(message(INVITE, *lines))
    small = services(Sl, Sanity, params={"sanity": {limit: 5}})
    always = services(Sl, Sanity, params={"sanity": {limit: 5, "size_checks": 1}})
    off = services(Sl, Sanity, params={"sanity": {limit: 0}})
    assert small.modules["sanity"].sanity_check(ctx, 65536, 0) == -1
    assert small.modules["sanity"].sanity_check(ctx, 1, 0) == 1
    assert always.modules["sanity"].sanity_check(ctx, 1, 0) == -1
    assert off.modules["sanity"].sanity_check(ctx, 65536, 0) == 1
