"""What is an address, and what is a port."""

from __future__ import annotations

import pytest

from polykemi.sip.grammar import ip4_octets, to_ip, to_port


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("example.test", None),
        ("", None),
        ("192.0.2", None),
    ],
)
def test_an_address_is_told_from_a_name(host: str, address: str | None) -> None:
    found = to_ip(host)
    assert (str(found) if found is not None else None) == address


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("192.0.2.1", [192, 0, 2, 1]),
        ("010.000.2.001", [10, 0, 2, 1]),
        ("192.0.2.256", []),
        ("192.0.2", []),
        ("192.0.2.", []),
        ("192.0.2.0001", []),
        ("example.test", []),
    ],
)
def test_an_ipv4_address_has_four_octets(text: str, octets: list[int]) -> None:
    assert ip4_octets(text) == octets


@pytest.mark.parametrize(
    ("text", "port"), [("0", 0), ("65535", 65535), ("65536", -1), ("", -1), ("-1", -1), ("5060 ", -1)]
)
def test_a_port_has_sixteen_bits(text: str, port: int) -> None:
    assert to_port(text) == port
