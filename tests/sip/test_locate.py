"""Where requests and replies go by DNS: the rules and examples of RFC 3263, and the weights of RFC 2782."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.sip.locate import (
    Candidate,
    Destination,
    Naptr,
    Place,
    Question,
    Srv,
    by_weight,
    in_order,
    locate,
    protos,
)

ALL = {"udp": (4,), "tcp": (4,), "tls": (4,)}

# RFC 3263 section 4.1
NAPTR = [
    Naptr(50, 50, "s", "SIPS+D2T", "", "_sips._tcp.example.com"),
    Naptr(90, 50, "s", "SIP+D2T", "", "_sip._tcp.example.com"),
    Naptr(100, 50, "s", "SIP+D2U", "", "_sip._udp.example.com"),
]
# RFC 3263 section 4.2
SRV = [Srv(0, 1, 5060, "server1.example.com"), Srv(0, 2, 5060, "server2.example.com")]
ADDRESSES = {("server1.example.com", "A"): ["192.0.2.1"], ("server2.example.com", "A"): ["192.0.2.2", "192.0.2.3"]}


class Zone:
    """Records that are known; all else does not exist. ``asked`` are the questions in order, each once."""

    def __init__(self, records: dict[Question, Sequence[Any]]) -> None:
        self.zone = records
        self.known: dict[Question, Sequence[Any]] = {}
        self.asked: list[Question] = []

    def places(self, destination: Destination, usable: dict[str, tuple[int, ...]] | None = None) -> list[Place]:
        """Go the whole way: ask what is missing until there is an answer."""
        for _ in range(10):
            candidates, missing = locate(destination, usable or ALL, lambda name, kind: self.known.get((name, kind)))
            if not missing:
                return in_order(candidates, lambda n: n)
            assert not candidates
            for question in missing:
                if question not in self.known:
                    self.asked.append(question)
                self.known[question] = self.zone.get(question, [])
        raise AssertionError(f"asks for ever: {self.asked}")


def example(**more: Sequence[Any]) -> Zone:
    return Zone(
        {
            ("example.com", "NAPTR"): NAPTR,
            ("_sip._tcp.example.com", "SRV"): SRV,
            ("_sips._tcp.example.com", "SRV"): [Srv(0, 1, 5061, "server1.example.com")],
            ("_sip._udp.example.com", "SRV"): [Srv(0, 1, 5070, "server1.example.com")],
            **ADDRESSES,
            **more,  # type: ignore[dict-item]
        }
    )


# ---- section 4.1: the transport
def test_the_example_of_section_4_1_a_client_with_tcp_and_udp_takes_tcp() -> None:
    zone = example()
    found = zone.places(Destination("example.com"), {"udp": (4,), "tcp": (4,)})
    assert [place.proto for place in found] == ["tcp", "tcp", "tcp"]
    assert zone.asked[:2] == [("example.com", "NAPTR"), ("_sip._tcp.example.com", "SRV")]


def test_the_order_of_naptr_is_the_order_of_the_zone_not_ours() -> None:
    assert example().places(Destination("example.com"))[0] == Place("tls", "192.0.2.1", 5061)


def test_a_client_with_udp_alone_takes_udp() -> None:
    assert example().places(Destination("example.com"), {"udp": (4,)}) == [Place("udp", "192.0.2.1", 5070)]


def test_sips_takes_services_of_sips_alone() -> None:
    zone = Zone({("example.com", "NAPTR"): NAPTR[1:], ("example.com", "A"): ["192.0.2.9"]})
    assert zone.places(Destination("example.com", secure=True)) == [Place("tls", "192.0.2.9", 5061)]
    assert ("_sips._tcp.example.com", "SRV") in zone.asked
    assert ("_sip._tcp.example.com", "SRV") not in zone.asked


@pytest.mark.parametrize(
    ("destination", "place"),
    [
        (Destination("192.0.2.4"), Place("udp", "192.0.2.4", 5060)),
        (Destination("192.0.2.4", secure=True), Place("tls", "192.0.2.4", 5061)),
        (Destination("192.0.2.4", transport="tcp"), Place("tcp", "192.0.2.4", 5060)),
        (Destination("192.0.2.4", 5070, "tls"), Place("tls", "192.0.2.4", 5070)),
        (Destination("192.0.2.4", 5070, "tcp", secure=True), Place("tls", "192.0.2.4", 5070)),
        (Destination("server1.example.com", 5080), Place("udp", "192.0.2.1", 5080)),
        (Destination("server1.example.com", 5080, secure=True), Place("tls", "192.0.2.1", 5080)),
        (Destination("server1.example.com", 5080, "tcp"), Place("tcp", "192.0.2.1", 5080)),
    ],
)
def test_an_address_or_a_port_needs_neither_naptr_nor_srv(destination: Destination, place: Place) -> None:
    zone = example()
    assert zone.places(destination) == [place]
    assert {kind for _, kind in zone.asked} <= {"A"}


def test_a_transport_in_the_uri_is_the_one_and_its_srv_records_are_asked() -> None:
    zone = example()
    assert zone.places(Destination("example.com", transport="udp")) == [Place("udp", "192.0.2.1", 5070)]
    assert zone.asked[0] == ("_sip._udp.example.com", "SRV")


def test_without_naptr_the_srv_records_of_all_our_transports_are_asked_at_once() -> None:
    zone = example()
    zone.zone["example.com", "NAPTR"] = []
    found = zone.places(Destination("example.com"))
    assert [place.proto for place in found] == ["udp", "tcp", "tcp", "tcp"]
    assert zone.asked[1:3] == [("_sip._udp.example.com", "SRV"), ("_sip._tcp.example.com", "SRV")]


def test_without_srv_the_addresses_of_the_name_and_udp() -> None:
    zone = Zone({("example.org", "A"): ["192.0.2.7"]})
    assert zone.places(Destination("example.org")) == [Place("udp", "192.0.2.7", 5060)]
    assert Zone(zone.zone).places(Destination("example.org"), {"tcp": (4,)}) == [Place("tcp", "192.0.2.7", 5060)]


def test_naptr_records_for_something_else_do_not_count() -> None:
    strange = [
        Naptr(10, 1, "u", "E2U+sip", "!.*!sip:a@b!", ""),
        Naptr(10, 2, "a", "SIP+D2U", "", "example.org"),
        Naptr(10, 3, "s", "SIP+D2W", "", "_sip._ws.example.org"),
        Naptr(10, 4, "s", "SIP+D2U", "", ""),
    ]
    zone = Zone({("example.org", "NAPTR"): strange, ("example.org", "A"): ["192.0.2.7"]})
    assert zone.places(Destination("example.org")) == [Place("udp", "192.0.2.7", 5060)]


def test_naptr_of_equal_order_are_all_tried_by_preference_those_of_another_order_are_not() -> None:
    records = [
        Naptr(10, 20, "S", "sip+d2u", "", "u.example.org"),
        Naptr(10, 10, "s", "SIP+D2T", "", "t.example.org"),
        Naptr(20, 1, "s", "SIPS+D2T", "", "s.example.org"),
    ]
    zone = Zone(
        {
            ("example.org", "NAPTR"): records,
            ("u.example.org", "SRV"): [Srv(1, 1, 1, "server1.example.com")],
            ("t.example.org", "SRV"): [Srv(1, 1, 2, "server1.example.com")],
            **ADDRESSES,
        }
    )
    assert zone.places(Destination("example.org")) == [
        Place("tcp", "192.0.2.1", 2),
        Place("udp", "192.0.2.1", 1),
    ]


# ---- section 4.2: port and address
def test_the_example_of_section_4_2_both_servers_with_all_addresses() -> None:
    found = example().places(Destination("example.com", transport="tcp"))
    assert sorted(found) == [Place("tcp", f"192.0.2.{i}", 5060) for i in (1, 2, 3)]
    assert [p.host for p in found if p.host != "192.0.2.1"] == ["192.0.2.2", "192.0.2.3"]


def test_priorities_are_tried_in_order() -> None:
    zone = example()
    zone.zone["_sip._tcp.example.com", "SRV"] = [
        Srv(30, 9, 3, "server1.example.com"),
        Srv(10, 1, 1, "server1.example.com"),
        Srv(20, 5, 2, "server1.example.com"),
    ]
    assert [p.port for p in zone.places(Destination("example.com", transport="tcp"))] == [1, 2, 3]


def test_a_service_that_is_decidedly_not_there_has_no_place() -> None:
    zone = Zone({("_sip._tcp.example.org", "SRV"): [Srv(0, 0, 0, "")], ("example.org", "A"): ["192.0.2.7"]})
    assert zone.places(Destination("example.org", transport="tcp")) == []


def test_a_server_without_addresses_is_left_out() -> None:
    zone = example()
    del zone.zone["server1.example.com", "A"]
    assert {p.host for p in zone.places(Destination("example.com", transport="tcp"))} == {"192.0.2.2", "192.0.2.3"}


@pytest.mark.parametrize(
    ("families", "hosts", "kinds"),
    [
        ((4,), ["192.0.2.1"], ["A"]),
        ((6,), ["2001:db8::1"], ["AAAA"]),
        ((6, 4), ["2001:db8::1", "192.0.2.1"], ["AAAA", "A"]),
        ((4, 6), ["192.0.2.1", "2001:db8::1"], ["A", "AAAA"]),
    ],
)
def test_the_families_of_our_listeners_decide(families: tuple[int, ...], hosts: list[str], kinds: list[str]) -> None:
    zone = Zone({("h.example", "A"): ["192.0.2.1"], ("h.example", "AAAA"): ["2001:db8::1"]})
    assert [p.host for p in zone.places(Destination("h.example", 5060), {"udp": families})] == hosts
    assert [kind for _, kind in zone.asked] == kinds


@pytest.mark.parametrize(
    "destination",
    [
        Destination("192.0.2.1", transport="sctp"),
        Destination("example.com", transport="ws", secure=True),
        Destination("2001:db8::1"),
        Destination("example.com", transport="x"),
    ],
)
def test_what_we_cannot_send_has_no_place_and_no_question(destination: Destination) -> None:
    zone = example()
    assert zone.places(destination) == []
    assert zone.asked == []


def test_a_transport_that_nobody_listens_on_is_known_before_any_question() -> None:
    assert protos(Destination("example.com", transport="tls"), {"udp": (4,)}) == []
    assert protos(Destination("example.com", secure=True), {"udp": (4,), "tls": (4,)}) == ["tls"]


# ---- section 5: replies
def test_a_reply_to_a_name_without_a_port_goes_by_srv_with_the_transport_of_the_request() -> None:
    assert example().places(Destination("example.com", 0, "udp"), {"udp": (4,)}) == [Place("udp", "192.0.2.1", 5070)]


def test_a_reply_to_a_name_with_a_port_goes_to_its_address() -> None:
    zone = example()
    assert zone.places(Destination("server1.example.com", 5090, "udp")) == [Place("udp", "192.0.2.1", 5090)]
    assert zone.asked == [("server1.example.com", "A")]


# ---- hostile zones
def test_a_zone_cannot_make_us_look_at_thousands_of_servers() -> None:
    zone = Zone({("_sip._udp.big.example", "SRV"): [Srv(1, 1, 5060, f"h{i}.big.example") for i in range(5000)]})
    assert zone.places(Destination("big.example", transport="udp")) == []
    assert len(zone.asked) < 50


# ---- weights (RFC 2782)
def candidates(*weights: int) -> list[Candidate]:
    return [Candidate(0, weight, "udp", (f"192.0.2.{i}",), 5060) for i, weight in enumerate(weights)]


@given(st.lists(st.integers(0, 65535), max_size=6), st.randoms(use_true_random=False))
def test_every_server_is_drawn_once(weights: list[int], source: random.Random) -> None:
    given_ = candidates(*weights)
    drawn = by_weight(given_, lambda n: source.randint(0, n))
    assert sorted(drawn) == sorted(given_)


def test_weights_share_the_load() -> None:
    source = random.Random(3263)
    servers = candidates(60, 30, 10, 0)
    draws = 20_000
    first = Counter(by_weight(servers, lambda n: source.randint(0, n))[0].weight for _ in range(draws))
    for weight in (60, 30, 10):
        assert first[weight] / draws == pytest.approx(weight / 100, abs=0.015)
    assert 0 < first[0] / draws < 0.02


def test_the_number_decides_which_is_first() -> None:
    first = []
    for mark in range(7):
        at = partial(min, mark)
        first.append(by_weight(candidates(1, 2, 3), at)[0].weight)
    assert first == [1, 1, 2, 2, 3, 3, 3]


def test_without_a_number_the_highest_weight_is_first() -> None:
    assert [p.host for p in in_order(candidates(1, 3, 2), None)] == ["192.0.2.1", "192.0.2.2", "192.0.2.0"]
