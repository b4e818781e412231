"""Addresses of sockets as scripts and parameters write them."""

from __future__ import annotations

import pytest

from polykemi.sip.flow import Listener, find_listener, parse_socket

UDP, TCP, SIX = (
    Listener("udp", "192.0.2.1", 5060),
    Listener("tcp", "192.0.2.1", 5070),
    Listener("udp", "2001:db8::1", 5060),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.7", ("", "192.0.2.7", 0)),
        ("192.0.2.7:5070", ("", "192.0.2.7", 5070)),
        ("udp:192.0.2.7:5070", ("udp", "192.0.2.7", 5070)),
        ("TCP:phone.example.net", ("tcp", "phone.example.net", 0)),
        ("udp:[2001:db8::1]:5070", ("udp", "2001:db8::1", 5070)),
        ("[2001:db8::1]", ("", "2001:db8::1", 0)),
        ("", ("", "", 0)),
        ("2001:db8::1", ("", "", 0)),
        ("192.0.2.7:nonsense", ("", "", 0)),
        ("192.0.2.7:65536", ("", "", 0)),
        ("quic:192.0.2.7:5070", ("", "", 0)),
        ("a host", ("", "", 0)),
    ],
)
def test_a_socket_is_written_as_proto_host_and_port(text: str, expected: tuple[str, str, int]) -> None:
    assert parse_socket(text) == expected


@pytest.mark.parametrize(
    ("text", "default_port", "expected"),
    [
        ("192.0.2.1", 0, UDP),
        ("192.0.2.1:5070", 0, TCP),
        ("tcp:192.0.2.1", 0, TCP),
        ("tcp:192.0.2.1", 5060, None),
        ("UDP:192.0.2.1", 5060, UDP),
        ("[2001:DB8::1]:5060", 0, SIX),
        ("192.0.2.2", 0, None),
        ("nonsense:192.0.2.1", 0, None),
        ("", 0, None),
    ],
)
def test_a_listener_is_found_by_what_is_given_of_its_address(
    text: str, default_port: int, expected: Listener | None
) -> None:
    assert find_listener(text, (UDP, TCP, SIX), default_port) == expected


def test_a_listener_stands_in_a_route_with_its_transport_unless_that_is_udp() -> None:
    assert (UDP.route, TCP.route, SIX.route) == ("192.0.2.1", "192.0.2.1:5070;transport=tcp", "[2001:db8::1]")
