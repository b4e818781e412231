"""Parsing and building: what each message goes through."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from bench.node import NOW, PHONE, register
from polykemi.kemi.context import RouteContext
from polykemi.kemi.route import Route
from polykemi.pv.accessor import Environment
from polykemi.pv.compiler import Variables
from polykemi.sip import digest
from polykemi.sip.build import forward_request, response
from polykemi.sip.message import Edits, Request, parse
from polykemi.sip.uri import parse_uri

HA1 = digest.ha1("u00001", "bench.test", "pw-00001")
RESPONSE = digest.response(HA1, "0123456789abcdef", "REGISTER", "sip:bench.test")
AUTHORIZATION = (
    'Digest username="u00001",realm="bench.test",uri="sip:bench.test",nonce="0123456789abcdef"'
    f',response="{RESPONSE}",algorithm=MD5'
)
REGISTER = register(1, 2, f"Authorization: {AUTHORIZATION}")
SEVERAL = 20_000  # more than any cache of parsed texts holds


def request() -> Request:
    found = parse(REGISTER)
    assert isinstance(found, Request)
    return found


def test_parse_register(benchmark: Any) -> None:
    """The start line and where the headers are."""
    assert benchmark(parse, REGISTER).method == "REGISTER"


def test_parse_register_and_read_six_headers(benchmark: Any) -> None:
    """Top Via, From, To, Call-ID, CSeq and Contact: what a transaction and a registrar look at."""

    def read() -> Any:
        r = parse(REGISTER)
        return r.via.branch, r.from_.tag, r.to.uri, r.get("call-id"), r.cseq, r.get("contact")

    assert benchmark(read)[0] == "z9hG4bK-1-2"


def test_parse_uri_never_seen(benchmark: Any) -> None:
    texts = cycle([f"sip:u{i}@192.0.2.10:5060;transport=udp" for i in range(SEVERAL)])
    assert benchmark(lambda: parse_uri(next(texts))).host == "192.0.2.10"


def test_parse_uri_seen_before(benchmark: Any) -> None:
    assert benchmark(parse_uri, "sip:u1@192.0.2.10:5060;transport=udp").port == 5060


def test_digest_check(benchmark: Any) -> None:
    """From the header's value to yes or no, the HA1 made of a plain password."""

    def check() -> bool:
        credentials = digest.parse_credentials(AUTHORIZATION)
        return digest.check(credentials, digest.ha1(credentials.username, credentials.realm, "pw-00001"), "REGISTER")

    assert benchmark(check) is True


def test_pv_get_method(benchmark: Any) -> None:
    """A compiled variable that only reads the message."""
    getter, ctx = Variables(environment=Environment()).getters["$rm"], context()
    assert benchmark(getter, ctx) == "REGISTER"


def test_pv_get_from_user(benchmark: Any) -> None:
    getter, ctx = Variables(environment=Environment()).getters["$fU"], context()
    assert benchmark(getter, ctx) == "u00001"


def test_build_a_response(benchmark: Any) -> None:
    built = benchmark(
        response, request(), 200, "OK", to_tag="1.2", headers=("Contact: <sip:u1@192.0.2.10>;expires=60",)
    )
    assert built.startswith(b"SIP/2.0 200 OK\r\nVia: ")


def test_build_a_forwarded_request(benchmark: Any) -> None:
    via = "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK0123456789"
    built = benchmark(forward_request, request(), Edits(), uri="sip:u1@192.0.2.20:5060", via=via, received="192.0.2.10")
    assert built.startswith(b"REGISTER sip:u1@192.0.2.20:5060 SIP/2.0\r\nVia: " + via.encode())


def context() -> RouteContext:
    return RouteContext(Route.REQUEST, "ksr_request_route", request(), PHONE, NOW)
