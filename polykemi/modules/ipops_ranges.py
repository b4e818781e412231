"""ipops: what addresses are for, by the ranges that Kamailio knows (IANA's special-purpose registries, as they were)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final

_IPV4: Final = [  # the first that holds
    (ip_network(net), kind)
    for net, kind in (
        ("255.255.255.255/32", "BROADCAST"),
        ("203.0.113.0/24", "TEST-NET"),
        ("198.51.100.0/24", "TEST-NET"),
        ("192.88.99.0/24", "6TO4-RELAY"),
        ("192.0.2.0/24", "TEST-NET"),
        ("192.0.0.0/24", "RESERVED"),
        ("192.168.0.0/16", "PRIVATE"),
        ("169.254.0.0/16", "LINK-LOCAL"),
        ("198.18.0.0/15", "RESERVED"),
        ("172.16.0.0/12", "PRIVATE"),
        ("100.64.0.0/10", "SHARED"),
        ("127.0.0.0/8", "LOOPBACK"),
        ("10.0.0.0/8", "PRIVATE"),
        ("0.0.0.0/8", "PRIVATE"),
        ("240.0.0.0/4", "RESERVED"),
        ("224.0.0.0/4", "MULTICAST"),
    )
]
_IPV6: Final = [
    (ip_network(net), kind)
    for net, kind in (
        ("::/128", "UNSPECIFIED"),
        ("::1/128", "LOOPBACK"),
        ("::ffff:0:0/96", "IPV4MAP"),
        ("100::/64", "DISCARD"),
        ("2001:2::/48", "BMWG"),
        ("2001::/32", "TEREDO"),
        ("2001:db8::/32", "DOCUMENTATION"),
        ("2001:10::/28", "ORCHID"),
        ("2002::/16", "6TO4"),
        ("fec0::/10", "RESERVED"),
        ("fe80::/10", "LINK-LOCAL-UNICAST"),
        ("ff00::/8", "MULTICAST"),
        ("fc00::/7", "UNIQUE-LOCAL-UNICAST"),
        ("2000::/3", "GLOBAL-UNICAST"),
    )
]


def range_of(address: IPv4Address | IPv6Address) -> str:
    """Return what an address is for: PUBLIC or GLOBAL-UNICAST, PRIVATE, LOOPBACK, ..."""
    ranges, otherwise = (_IPV4, "PUBLIC") if isinstance(address, IPv4Address) else (_IPV6, "RESERVED")
    return next((kind for net, kind in ranges if address in net), otherwise)
