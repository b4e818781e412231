"""Addresses of sockets as scripts and parameters write them."""

from __future__ import annotations

import pytest

from polykemi.sip.flow import (
    Flow,
    LastFlow,
    Listener,
    NamedFlow,
    OpenFlow,
    find_listener,
    listener_for,
    moved,
    named,
    parse_socket,
)

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


SHOWN = Listener("udp", "192.0.2.3", 5080, "203.0.113.5", 5070, "edge")
BARE = Listener("tcp", "2001:db8::3", 5081, "edge.example.net")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("udp:203.0.113.5:5070", SHOWN),
        ("udp:203.0.113.5:5080", SHOWN),  # as in Kamailio: the port of the socket goes with both
        ("udp:192.0.2.3:5080", SHOWN),
        ("udp:192.0.2.3:5070", None),
        ("udp:203.0.113.5:5060", None),
        ("tcp:Edge.example.net:5081", BARE),
        ("tcp:[2001:db8:0::3]", BARE),
        ("tcp:203.0.113.5:5070", None),
    ],
)
def test_a_listener_is_found_by_its_advertised_address_too(text: str, expected: Listener | None) -> None:
    assert find_listener(text, (UDP, SHOWN, BARE)) == expected


def test_messages_name_the_advertised_address_and_logs_the_real_one() -> None:
    assert (SHOWN.sent_by, SHOWN.route, str(SHOWN)) == ("203.0.113.5:5070", "203.0.113.5:5070", "udp:192.0.2.3:5080")
    assert (BARE.sent_by, BARE.route) == ("edge.example.net:5081", "edge.example.net:5081;transport=tcp")


def test_a_listener_has_the_name_that_it_was_given() -> None:
    assert named("edge", (UDP, SHOWN)) is SHOWN
    assert named("", (UDP, SHOWN)) is None
    assert named("other", (UDP, SHOWN)) is None


@pytest.mark.parametrize(
    ("proto", "host", "expected"),
    [
        ("udp", "192.0.2.9", UDP),
        ("udp", "phone.example.net", UDP),
        ("udp", "2001:db8::9", SIX),
        ("udp", "[2001:db8::9]", SIX),
        ("tcp", "192.0.2.9", TCP),
        ("tcp", "2001:db8::9", None),
        ("tls", "192.0.2.9", None),
    ],
)
def test_the_way_to_a_host_begins_at_a_listener_of_its_family(proto: str, host: str, expected: Listener | None) -> None:
    assert listener_for(proto, host, UDP, (UDP, TCP, SIX)) == expected


def test_a_listener_of_ipv6_gives_way_to_one_that_reaches_ipv4() -> None:
    assert listener_for("udp", "192.0.2.9", SIX, (SIX, TCP, UDP)) is UDP
    assert listener_for("udp", "phone.example.net", SIX, (UDP, SIX)) is SIX


def test_a_listener_stands_in_a_route_with_its_transport_unless_that_is_udp() -> None:
    assert (UDP.route, TCP.route, SIX.route) == ("192.0.2.1", "192.0.2.1:5070;transport=tcp", "[2001:db8::1]")


@pytest.mark.parametrize("kind", [NamedFlow, OpenFlow, LastFlow])
def test_a_flow_from_another_listener_keeps_its_kind_and_the_name_to_be_proved(kind: type[NamedFlow]) -> None:
    flow = kind(UDP, "192.0.2.9", 5061)
    flow.name = "sip.example.net"
    other = moved(flow, TCP)
    assert (type(other), other) == (kind, Flow(TCP, "192.0.2.9", 5061))
    assert isinstance(other, NamedFlow)
    assert other.name == "sip.example.net"
    assert type(moved(Flow(UDP, "192.0.2.9", 5061), TCP)) is Flow
