"""ipops: IP addresses: what kind they are, whether they are the same, and what DNS says (Kamailio: ipops).

A question to DNS blocks the server until the answer is there, at most ``SECONDS``, as it blocks a worker of Kamailio.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import groupby
from typing import Any, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import leading_number
from polykemi.kemi.registry import Xval, export
from polykemi.modules.base import Module, Services
from polykemi.modules.ipops_answers import Answers, Field, answer_class
from polykemi.modules.ipops_ranges import range_of
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import keyed
from polykemi.sip.locate import Naptr, Srv, by_weight

log = logging.getLogger("polykemi.script")

SECONDS: Final = 5.0  # waited for an answer of DNS
_MOST: Final = 32  # records of an answer that are kept
_LONGEST: Final = 64  # octets of a text in an SRV or NAPTR record
_RFC1918: Final = [ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]

Address = IPv4Address | IPv6Address


def address_of(text: str) -> tuple[int, Address] | None:
    """Return the type (1 IPv4, 2 IPv6, 3 IPv6 in brackets) of an address and the address, None for another text."""
    in_brackets = text[:1] == "[" and text[-1:] == "]"
    bare = text[1:-1] if in_brackets else text
    try:
        if ":" not in bare:
            return None if in_brackets else (1, IPv4Address(bare))
        return None if "%" in bare else (3 if in_brackets else 2, IPv6Address(bare))
    except ValueError:
        return None


class Ipops(Module):
    """Addresses and names."""

    name = "ipops"

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._random = random.Random(services.ids.unique())
        self._dns, self._ptr, self._srv, self._naptr = Answers(), Answers(), Answers(), Answers()
        self._own_address: str | None = None

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $dns, $ptrquery, $srvquery and $naptrquery, which hold answers by name, and $HN, about this host."""
        return {
            "dns": answer_class(self._dns, {"addr", "type", "ipv4", "ipv6", "count", "hostname"}, set()),
            "ptrquery": answer_class(self._ptr, {"hostname", "ip"}, set()),
            "srvquery": answer_class(self._srv, {"count"}, {"port", "priority", "target", "weight"}),
            "naptrquery": answer_class(
                self._naptr, {"count"}, {"order", "pref", "flags", "services", "regex", "replace"}
            ),
            "HN": keyed({"n": self._short_name, "f": self._full_name, "d": self._domain, "i": self._address}),
        }

    # ---- what an address is
    @export()
    def is_ip(self, ctx: RouteContext, sval: str) -> int:
        """Tell whether a text is an IP address, IPv6 also in brackets. Answers 1 or -1."""
        return 1 if address_of(sval) else -1

    @export()
    def is_pure_ip(self, ctx: RouteContext, sval: str) -> int:
        """Tell whether a text is an IP address without brackets. Answers 1 or -1."""
        return 1 if self.ip_type(ctx, sval) in (1, 2) else -1

    @export()
    def is_ip4(self, ctx: RouteContext, sval: str) -> int:
        """Tell whether a text is an IPv4 address. Answers 1 or -1."""
        return 1 if self.ip_type(ctx, sval) == 1 else -1

    @export()
    def is_ip6(self, ctx: RouteContext, sval: str) -> int:
        """Tell whether a text is an IPv6 address without brackets. Answers 1 or -1."""
        return 1 if self.ip_type(ctx, sval) == 2 else -1

    @export()
    def is_ip6_reference(self, ctx: RouteContext, sval: str) -> int:
        """Tell whether a text is an IPv6 address in brackets. Answers 1 or -1."""
        return 1 if self.ip_type(ctx, sval) == 3 else -1

    @export()
    def ip_type(self, ctx: RouteContext, sval: str) -> int:
        """Return the type of an address: 1 IPv4, 2 IPv6, 3 IPv6 in brackets, -1 none."""
        found = address_of(sval)
        return found[0] if found else -1

    @export()
    def detailed_ipv4_type(self, ctx: RouteContext, sval: str, dpv: str) -> int:
        """Write what an IPv4 address is for (PUBLIC, PRIVATE, LOOPBACK, ...) into variable ``dpv``. Answers 1 or -1."""
        return self._detailed(ctx, sval, dpv, (1,))

    @export()
    def detailed_ipv6_type(self, ctx: RouteContext, sval: str, dpv: str) -> int:
        """Write what an IPv6 address is for (GLOBAL-UNICAST, LOOPBACK, ...) into variable ``dpv``. Answers 1 or -1."""
        return self._detailed(ctx, sval, dpv, (2, 3))

    @export()
    def detailed_ip_type(self, ctx: RouteContext, sval: str, dpv: str) -> int:
        """Write what an address is for into variable ``dpv``. Answers 1 or -1."""
        return self._detailed(ctx, sval, dpv, (1, 2, 3)) if address_of(sval) else -1

    def _detailed(self, ctx: RouteContext, text: str, variable: str, types: tuple[int, ...]) -> int:
        put = self.services.variables.setter(variable)
        if put is None:
            return -1
        found = address_of(text.strip(" \t\r\n"))
        if found is None or found[0] not in types:
            log.error("ipops: detailed type: %r is no address of this kind", text)
            return -1
        put(ctx, range_of(found[1]))
        return 1

    @export()
    def is_ip_rfc1918(self, ctx: RouteContext, sval: str) -> int:
        """Tell whether a text is an IPv4 address of RFC 1918: 10/8, 172.16/12, 192.168/16. Answers 1 or -1."""
        found = address_of(sval)
        return 1 if found is not None and any(found[1] in net for net in _RFC1918) else -1

    # ---- two of them
    @export()
    def compare_ips(self, ctx: RouteContext, sval1: str, sval2: str) -> int:
        """Tell whether two addresses are the same, in brackets or not. Answers 1 or -1."""
        first, second = address_of(sval1), address_of(sval2)
        return 1 if first and second and first[1] == second[1] else -1

    @export()
    def compare_pure_ips(self, ctx: RouteContext, sval1: str, sval2: str) -> int:
        """Tell whether two addresses without brackets are the same. Answers 1 or -1."""
        return self.compare_ips(ctx, sval1, sval2) if "[" not in sval1 + sval2 else -1

    @export()
    def is_in_subnet(self, ctx: RouteContext, sval1: str, sval2: str) -> int:
        """Tell whether an address is in one of the subnets of a list: ``10.0.0.0/8, 2001:db8::/32, 192.0.2.1``. Answers 1 or -1."""
        found = address_of(sval1)
        if found is None or found[0] == 3:
            return -1
        return 1 if any(_is_in(found[1], one.strip(" ")) for one in sval2.split(",")) else -1

    @export()
    def ip_is_in_subnet(self, ctx: RouteContext, sval1: str, sval2: str) -> int:
        """Tell whether an address is in one of the subnets of a list, as ``is_in_subnet``. Answers 1 or -1."""
        return self.is_in_subnet(ctx, sval1, sval2)

    # ---- names
    @export()
    def dns_sys_match_ip(self, ctx: RouteContext, vhn: str, vip: str) -> int:
        """Tell whether ``vip`` is an address of the host ``vhn``: 1, -1 when not, -3 no address, -4 unknown name."""
        wanted = address_of(vip)
        if wanted is None:
            log.error("ipops.dns_sys_match_ip: %r is no IP address", vip)
            return -3
        found = [a for text in self.services.dns.addresses(vhn, SECONDS) if (a := address_of(text))]
        if not found:
            return -4
        return 1 if any(wanted[1] == address for _, address in found) else -1

    @export()
    def dns_int_match_ip(self, ctx: RouteContext, vhn: str, vip: str) -> int:
        """Tell whether ``vip`` is an address of the host ``vhn``, as ``dns_sys_match_ip``."""
        return self.dns_sys_match_ip(ctx, vhn, vip)

    @export()
    def dns_query(self, ctx: RouteContext, hostname: str, pvid: str) -> int:
        """Look for the addresses of a host: ``$dns(pvid=>addr[0])``. Answers 1, -2 the name is too long, -4 nothing found."""
        if len(hostname) > 255:
            return -2
        found = [a for text in self.services.dns.addresses(hostname, SECONDS)[:_MOST] if (a := address_of(text))]
        has = {f"ipv{v}": int(any(address.version == v for _, address in found)) for v in (4, 6)}
        rows: list[dict[str, Field]] = [
            {"addr": str(a), "type": a.version, "count": len(found), "hostname": hostname, **has} for _, a in found
        ]
        self._dns.put(pvid, rows)
        if not found:
            log.error("ipops.dns_query: no address of %r", hostname)
        return 1 if found else -4

    @export()
    def ptr_query(self, ctx: RouteContext, ip: str, pvid: str) -> int:
        """Look for the name of an address: ``$ptrquery(pvid=>hostname)``. Answers 1, -2 too long, -4 no address, -6 not found."""
        self._ptr.put(pvid, [])
        found = address_of(ip)
        if len(ip) > 46 or found is None:
            return -2 if len(ip) > 46 else -4
        names = self.services.dns.ptr(found[1].reverse_pointer, SECONDS)
        if not names:
            return -6
        self._ptr.put(pvid, [{"hostname": names[0], "ip": ip}])
        return 1

    @export()
    def srv_query(self, ctx: RouteContext, srvcname: str, pvid: str) -> int:
        """Look for SRV records: ``$srvquery(pvid=>target[0])``, by priority and weight. Answers 1, -2 without a name."""
        if not srvcname:
            return -2
        records = self._in_order(self.services.dns.srv(srvcname, SECONDS)[:_MOST])
        rows: list[dict[str, Field]] = [
            {"priority": r.priority, "weight": r.weight, "port": r.port, "target": r.target[:_LONGEST]} for r in records
        ]
        self._srv.put(pvid, rows)
        return 1

    @export()
    def naptr_query(self, ctx: RouteContext, naptrname: str, pvid: str) -> int:
        """Look for NAPTR records: ``$naptrquery(pvid=>replace[0])``, by order and preference. Answers 1, -2 without a name."""
        if not naptrname:
            return -2
        records: list[Naptr] = self.services.dns.naptr(naptrname, SECONDS)[:_MOST]
        rows: list[dict[str, Field]] = [
            {"order": r.order, "pref": r.preference}
            | dict(zip(("flags", "services", "regex", "replace"), (text[:_LONGEST] for text in r[2:]), strict=True))
            for r in sorted(records, key=lambda r: (r.order, r.preference))
        ]
        self._naptr.put(pvid, rows)
        return 1

    @export()
    def dns_set_local_ttl(self, ctx: RouteContext, vttl: int) -> int:
        """Keep answers of DNS for ``vttl`` seconds, whatever they say; 0: for as long as they say. Answers 1."""
        self.services.dns.keep(vttl)
        return 1

    def _in_order(self, records: list[Srv]) -> list[Srv]:
        """Return records in the order in which they are to be tried (RFC 2782)."""
        out: list[Srv] = []
        records = sorted(records, key=lambda r: (r.priority, r.weight))
        for _, group in groupby(records, key=lambda r: r.priority):
            out += by_weight(list(group), lambda most: self._random.randint(0, most))
        return out

    # ---- this host
    def _full_name(self, ctx: RouteContext) -> Xval:
        return self.services.variables.environment.hostname or None

    def _short_name(self, ctx: RouteContext) -> Xval:
        return self.services.variables.environment.hostname.partition(".")[0] or None

    def _domain(self, ctx: RouteContext) -> Xval:
        return self.services.variables.environment.hostname.partition(".")[2] or None

    def _address(self, ctx: RouteContext) -> Xval:
        if self._own_address is None:
            found = self.services.dns.addresses(self.services.variables.environment.hostname, SECONDS)
            self._own_address = found[0] if found else ""
        return self._own_address or None


def _is_in(address: Address, subnet: str) -> bool:
    """Tell whether ``address`` is in ``subnet``, ``address/bits``; bits that are no number are 0, as in Kamailio."""
    net, slash, bits = subnet.rpartition("/")
    found = address_of(net if slash else subnet)
    if found is None or found[0] == 3 or found[1].version != address.version:
        return False
    size = leading_number(bits) if slash else -1
    if size == -1:
        return found[1] == address
    return 0 <= size <= address.max_prefixlen and address in ip_network(f"{found[1]}/{size}", strict=False)
