"""ipops: questions about IP addresses (Kamailio: ipops)."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module

log = logging.getLogger("polykemi.script")

Address = IPv4Address | IPv6Address

_IPV4_TYPES: Final = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
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
)
_IPV6_TYPES: Final = tuple(  # what is in none of them is reserved
    (IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "UNSPECIFIED"),
        ("::1/128", "LOOPBACK"),
        ("::ffff:0:0/96", "IPV4MAP"),
        ("100::/64", "DISCARD"),
        ("2001:2::/48", "BMWG"),
        ("2001::/32", "TEREDO"),
        ("2001:db8::/32", "DOCUMENTATION"),
        ("2001:10::/28", "ORCHID"),
        ("2002::/16", "6TO4"),
        ("fe80::/10", "LINK-LOCAL-UNICAST"),
        ("ff00::/8", "MULTICAST"),
        ("fc00::/7", "UNIQUE-LOCAL-UNICAST"),
        ("2000::/3", "GLOBAL-UNICAST"),
    )
)
_RFC1918: Final = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


def _pure(text: str) -> Address | None:
    """Return the address that ``text`` is, without brackets; None when it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if isinstance(address, IPv6Address) and address.scope_id is not None else address


def _reference(text: str) -> IPv6Address | None:
    """Return the IPv6 address in brackets that ``text`` is, None when it is none."""
    if text[:1] != "[" or text[-1:] != "]":
        return None
    address = _pure(text[1:-1])
    return address if isinstance(address, IPv6Address) else None


def _kind(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _IPV4_TYPES if address in network), "PUBLIC")
    return next((kind for network, kind in _IPV6_TYPES if address in network), "RESERVED")


class Ipops(Module):
    """Addresses, what they are for, and networks."""

    name = "ipops"

    @export()
    def is_ip(self, ctx: RouteContext, ip: str) -> int:
        """Tell whether ``ip`` is an IPv4 address, an IPv6 address or one in brackets: 1 or -1."""
        return 1 if _pure(ip) or _reference(ip) else -1

    @export()
    def is_pure_ip(self, ctx: RouteContext, ip: str) -> int:
        """Tell whether ``ip`` is an address without brackets: 1 or -1."""
        return 1 if _pure(ip) else -1

    @export()
    def is_ip4(self, ctx: RouteContext, ip: str) -> int:
        """Tell whether ``ip`` is an IPv4 address: 1 or -1."""
        return 1 if isinstance(_pure(ip), IPv4Address) else -1

    @export()
    def is_ip6(self, ctx: RouteContext, ip: str) -> int:
        """Tell whether ``ip`` is an IPv6 address without brackets: 1 or -1."""
        return 1 if isinstance(_pure(ip), IPv6Address) else -1

    @export()
    def is_ip6_reference(self, ctx: RouteContext, ip: str) -> int:
        """Tell whether ``ip`` is an IPv6 address in brackets: 1 or -1."""
        return 1 if _reference(ip) else -1

    @export()
    def ip_type(self, ctx: RouteContext, ip: str) -> int:
        """Tell what ``ip`` is: 1 IPv4, 2 IPv6, 3 IPv6 in brackets, -1 no address."""
        address = _pure(ip)
        if address is not None:
            return 1 if address.version == 4 else 2
        return 3 if _reference(ip) else -1

    @export()
    def detailed_ipv4_type(self, ctx: RouteContext, ip: str, result: str) -> int:
        """Put what the IPv4 address ``ip`` is for (PRIVATE, PUBLIC, ...) into the variable ``result``: 1, or -1 for no such."""
        return self._detailed(ctx, "detailed_ipv4_type", ip, result, IPv4Address)

    @export()
    def detailed_ipv6_type(self, ctx: RouteContext, ip: str, result: str) -> int:
        """Put what the IPv6 address ``ip`` is for (GLOBAL-UNICAST, ...) into the variable ``result``: 1, or -1 for no such."""
        return self._detailed(ctx, "detailed_ipv6_type", ip, result, IPv6Address)

    @export()
    def detailed_ip_type(self, ctx: RouteContext, ip: str, result: str) -> int:
        """Put what the address ``ip`` is for into the variable ``result``: 1, or -1 for what is no address."""
        return self._detailed(ctx, "detailed_ip_type", ip, result, (IPv4Address, IPv6Address))

    def _detailed(
        self,
        ctx: RouteContext,
        function: str,
        ip: str,
        result: str,
        version: type[Address] | tuple[type[Address], ...],
    ) -> int:
        variable = self.services.variables.compile(result)
        if variable is None or variable.set is None:
            log.error("ipops.%s: %r is no variable that can be written", function, result)
            return -1
        address = _pure(ip) or _reference(ip)
        if not isinstance(address, version):
            return -1
        variable.set(ctx, _kind(address))
        return 1

    @export()
    def compare_ips(self, ctx: RouteContext, one: str, other: str) -> int:
        """Tell whether two addresses, with or without brackets, are the same: 1 or -1."""
        a, b = _pure(one) or _reference(one), _pure(other) or _reference(other)
        return 1 if a is not None and a == b else -1

    @export()
    def compare_pure_ips(self, ctx: RouteContext, one: str, other: str) -> int:
        """Tell whether two addresses without brackets are the same: 1 or -1."""
        a = _pure(one)
        return 1 if a is not None and a == _pure(other) else -1

    @export()
    def ip_is_in_subnet(self, ctx: RouteContext, ip: str, subnet: str) -> int:
        """Tell whether ``ip`` is in one of the networks ``subnet`` (``192.0.2.0/24,2001:db8::/32``): 1 or -1."""
        address = _pure(ip)
        if address is None:
            return -1
        for part in subnet.split(","):
            try:
                network = ip_network(part.strip(" \t"), strict=False)
            except ValueError:
                continue
            if address in network:
                return 1
        return -1

    @export()
    def is_in_subnet(self, ctx: RouteContext, ip: str, subnet: str) -> int:
        """Tell the same as ``ip_is_in_subnet``."""
        return self.ip_is_in_subnet(ctx, ip, subnet)

    @export()
    def is_ip_rfc1918(self, ctx: RouteContext, ip: str) -> int:
        """Tell whether ``ip`` is a private IPv4 address (RFC 1918): 1 or -1."""
        address = _pure(ip)
        return 1 if isinstance(address, IPv4Address) and any(address in network for network in _RFC1918) else -1
