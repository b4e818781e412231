"""Flows, and where replies go."""

from __future__ import annotations

import pytest

from polykemi.errors import ParseError
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Request, Response, parse
from polykemi.sip.reply_path import reply_path, response_target

UDP = Listener("udp", "192.0.2.1", 5060)
UDP6 = Listener("udp", "2001:db8::1", 5070)
TCP = Listener("tcp", "192.0.2.1", 5060)


def request(via: str) -> Request:
    message = parse(f"OPTIONS sip:h SIP/2.0\r\nVia: {via}\r\n\r\n".encode())
    assert isinstance(message, Request)
    return message


def test_a_listener_writes_itself_with_brackets_and_without_the_usual_port() -> None:
    assert (UDP.sent_by, str(UDP)) == ("192.0.2.1", "udp:192.0.2.1:5060")
    assert (UDP6.sent_by, str(UDP6)) == ("[2001:db8::1]:5070", "udp:[2001:db8::1]:5070")


@pytest.mark.parametrize(
    ("via", "received", "rport", "host", "port"),
    [
        ("SIP/2.0/UDP 10.0.0.9;branch=b", "", 0, "10.0.0.9", 5060),
        ("SIP/2.0/UDP 10.0.0.9:4000;branch=b", "", 0, "10.0.0.9", 4000),
        ("SIP/2.0/UDP 10.0.0.9:4242;branch=b", "", 0, "10.0.0.9", 4242),
        ("SIP/2.0/UDP phone.example.com:4000", "10.0.0.9", 0, "10.0.0.9", 4000),
        ("SIP/2.0/UDP 10.0.0.9;received=8.8.8.8", "10.0.0.9", 0, "10.0.0.9", 5060),
        ("SIP/2.0/UDP 10.0.0.9;rport;branch=b", "10.0.0.9", 4242, "10.0.0.9", 4242),
        ("SIP/2.0/UDP 10.0.0.9;rport=7;branch=b", "", 0, "10.0.0.9", 5060),
        ("SIP/2.0/UDP 10.0.0.9;maddr=224.2.0.1", "", 0, "224.2.0.1", 5060),
        ("SIP/2.0/UDP 10.0.0.9;maddr=8.8.8.8", "", 0, "10.0.0.9", 5060),
        ("SIP/2.0/UDP 10.0.0.9;maddr=224.2.0.256", "", 0, "10.0.0.9", 5060),
        ("SIP/2.0/UDP 10.0.0.9;maddr=224.2.1", "", 0, "10.0.0.9", 5060),
        ("SIP/2.0/UDP 10.0.0.9;maddr=x.2.0.1", "", 0, "10.0.0.9", 5060),
    ],
)
def test_replies_go_where_the_top_via_and_the_source_say(
    via: str, received: str, rport: int, host: str, port: int
) -> None:
    assert reply_path(request(via), Flow(UDP, "10.0.0.9", 4242)) == (received, rport, Flow(UDP, host, port))


def test_rport_can_be_forced() -> None:
    flow = Flow(UDP, "10.0.0.9", 4242)
    assert reply_path(request("SIP/2.0/UDP x;branch=b"), flow, True) == ("10.0.0.9", 4242, flow)


def test_an_ipv6_source_is_compared_without_brackets() -> None:
    flow = Flow(UDP6, "2001:db8::9", 5060)
    assert reply_path(request("SIP/2.0/UDP [2001:db8::9]"), flow) == ("", 0, flow)


def test_replies_to_a_connection_go_back_on_it() -> None:
    flow = Flow(TCP, "10.0.0.9", 4242)
    assert reply_path(request("SIP/2.0/TCP 10.0.0.9:5060"), flow) == ("", 0, flow)


def test_a_request_without_via_has_no_reply_path() -> None:
    with pytest.raises(ParseError):
        reply_path(request(""), Flow(UDP, "10.0.0.9", 4242))


@pytest.mark.parametrize(
    ("second", "target"),
    [
        (", SIP/2.0/UDP 10.0.0.9;rport=4242;received=10.0.0.8", ("10.0.0.8", 4242)),
        ("\r\nv: SIP/2.0/UDP 10.0.0.9:4000", ("10.0.0.9", 4000)),
        (", SIP/2.0/UDP [2001:db8::9]", ("2001:db8::9", 5060)),
        (", SIP/2.0/UDP h;rport=65536", ("h", 0)),  # DNS says the port
        (", SIP/2.0/UDP h:4000;rport=x", ("h", 4000)),
        ("", None),
        (", broken", None),
    ],
)
def test_a_response_goes_on_by_its_second_via(second: str, target: tuple[str, int] | None) -> None:
    message = parse(f"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1{second}\r\n\r\n".encode())
    assert isinstance(message, Response)
    assert response_target(message, UDP) == (Flow(UDP, *target) if target else None)


SIX, SECURE = Listener("udp", "2001:db8::1", 5060), Listener("tls", "192.0.2.1", 5061)


@pytest.mark.parametrize(
    ("second", "target"),
    [
        ("SIP/2.0/TCP 10.0.0.9:4000", Flow(TCP, "10.0.0.9", 4000)),
        ("SIP/2.0/TCP 10.0.0.9;received=10.0.0.8;rport=4242", Flow(TCP, "10.0.0.8", 4242)),
        ("SIP/2.0/TLS 10.0.0.9", Flow(SECURE, "10.0.0.9", 5061)),
        ("SIP/2.0/UDP [2001:db8::9]:4000", Flow(SIX, "2001:db8::9", 4000)),
        ("SIP/2.0/UDP 10.0.0.9", Flow(UDP, "10.0.0.9", 5060)),
        ("SIP/2.0/SCTP 10.0.0.9", Flow(UDP, "10.0.0.9", 5060)),  # we have none
    ],
)
def test_a_response_goes_on_over_the_transport_of_its_second_via(second: str, target: Flow) -> None:
    message = parse(f"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1, {second}\r\n\r\n".encode())
    assert isinstance(message, Response)
    assert response_target(message, UDP, (UDP, TCP, SIX, SECURE)) == target
