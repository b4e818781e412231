"""The commands about names and places: ``dns`` (what is known of DNS) and ``dst_blocklist`` (what is passed over).

Names and shapes are Kamailio's.
"""

from __future__ import annotations

from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.rpc import rpc
from polykemi.sip.flow import TRANSPORTS
from polykemi.sip.grammar import to_ip
from polykemi.sip.locate import Naptr, Question, Srv
from polykemi.transaction.blocklist import Blocked, Blocklist
from polykemi.transport.resolver import MOST, PERMANENT, Answer, Resolver

_KINDS: Final = ("A", "AAAA", "SRV", "NAPTR")
_NEGATIVE, _FOR_EVER = 1, 2  # flags of records that are entered
_NOT_ADDED: Final = (400, "Failed to add the entry to the cache")


class Dns:
    """What is known of DNS."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    @rpc("dns.lookup")
    def lookup(self, kind: str, name: str, *, now: float) -> dict[str, Any]:
        """Return what is known about a name; kind: A, AAAA, SRV, NAPTR. What is not known is asked for: call again then."""
        kind = kind.upper().removeprefix("T_")
        if kind not in _KINDS:
            raise RpcError(400, f"expected {', '.join(_KINDS)}, got {kind}")
        answer = self._resolver.known(name, kind, now)
        if answer is None:
            raise RpcError(404, f"{kind} {name} is not known yet, DNS is asked: call again")
        return _entry((name, kind), answer, now)

    @rpc("dns.view")
    def view(self, *, now: float) -> list[dict[str, Any]]:
        """List all answers that are kept."""
        return [_entry(question, answer, now) for question, answer in self._resolver.view(now)]

    @rpc("dns.mem_info")
    def mem_info(self) -> dict[str, int]:
        """Return how many answers are kept, and how many may be."""
        return {"used": len(self._resolver), "max": MOST}

    # ---- what is entered by hand
    @rpc("dns.add_a")
    def add_a(self, name: str, ttl: int, ip: str, flags: int, *, now: float) -> dict[str, Any]:
        """Enter an address as if DNS had given it, in place of what is known; flags: 2 for ever, 1 there is none."""
        return self._add(name, "A", _address(ip, 4), ttl, flags, now)

    @rpc("dns.add_aaaa")
    def add_aaaa(self, name: str, ttl: int, ip: str, flags: int, *, now: float) -> dict[str, Any]:
        """Enter an IPv6 address, as dns.add_a does."""
        return self._add(name, "AAAA", _address(ip, 6), ttl, flags, now)

    @rpc("dns.add_srv")
    def add_srv(
        self, name: str, ttl: int, priority: int, weight: int, port: int, rr_name: str, flags: int, *, now: float
    ) -> dict[str, Any]:
        """Enter an SRV record, as dns.add_a does an address."""
        if not all(0 <= number < 65536 for number in (priority, weight, port)):
            raise RpcError(*_NOT_ADDED)
        return self._add(name, "SRV", Srv(priority, weight, port, rr_name), ttl, flags, now)

    def _add(self, name: str, kind: str, record: Srv | str, ttl: int, flags: int, now: float) -> dict[str, Any]:
        records = () if flags & _NEGATIVE else (record,)
        until = PERMANENT if flags & _FOR_EVER else now + ttl
        self._resolver.enter(name, kind, Answer(records, until), now)
        return {}

    # ---- what is forgotten
    @rpc("dns.delete_a")
    def delete_a(self, name: str) -> dict[str, Any]:
        """Forget the addresses of a name."""
        return self._delete(name, "A")

    @rpc("dns.delete_aaaa")
    def delete_aaaa(self, name: str) -> dict[str, Any]:
        """Forget the IPv6 addresses of a name."""
        return self._delete(name, "AAAA")

    @rpc("dns.delete_srv")
    def delete_srv(self, name: str) -> dict[str, Any]:
        """Forget the SRV records of a name."""
        return self._delete(name, "SRV")

    @rpc("dns.delete_naptr")
    def delete_naptr(self, name: str) -> dict[str, Any]:
        """Forget the NAPTR records of a name."""
        return self._delete(name, "NAPTR")

    def _delete(self, name: str, kind: str) -> dict[str, Any]:
        answer = self._resolver.forget(name, kind)
        if answer is None:
            raise RpcError(400, "Not found")
        if answer.until == PERMANENT:
            raise RpcError(400, "Permanent entries cannot be deleted")
        return {}

    @rpc("dns.delete_all")
    def delete_all(self) -> dict[str, str]:
        """Forget all answers but those that were entered for ever."""
        self._resolver.clear()
        return {"status": "ok"}

    @rpc("dns.delete_all_force")
    def delete_all_force(self) -> dict[str, str]:
        """Forget all answers, those that were entered for ever too."""
        self._resolver.clear(permanent=True)
        return {"status": "ok"}


def _address(ip: str, version: int) -> str:
    address = to_ip(ip)
    if address is None or address.version != version:
        raise RpcError(*_NOT_ADDED)
    return str(address)


def _entry(question: Question, answer: Answer, now: float) -> dict[str, Any]:
    permanent = answer.until == PERMANENT
    expires = 0 if permanent else int(answer.until - now)
    of_each = {"rr_permanent": "yes" if permanent else "no", "rr_expires": expires}
    out: dict[str, Any] = {
        "name": question[0],
        "type": question[1],
        "permanent": "yes" if permanent else "no",
        "expires": expires,
        "negative_entry": "no" if answer.records else "yes",
    }
    if answer.records:
        out["records"] = [{"rr_idx": i} | _record(record) | of_each for i, record in enumerate(answer.records)]
    return out


def _record(record: Naptr | Srv | str) -> dict[str, Any]:
    if isinstance(record, Srv):
        priority, weight, port, target = record
        return {"rr_name": target, "rr_port": port, "rr_priority": priority, "rr_weight": weight}
    if isinstance(record, Naptr):
        names = ("rr_order", "rr_preference", "rr_flags", "rr_service", "rr_regexp", "rr_replacement")
        return dict(zip(names, record, strict=True))
    return {"rr_ip": record}


class DstBlocklist:
    """What is passed over, because it has not answered."""

    def __init__(self, blocklist: Blocklist) -> None:
        self._blocklist = blocklist

    @rpc("dst_blocklist.view")
    def view(self, *, now: float) -> list[dict[str, Any]]:
        """List the places that are passed over. Flags, a sum: 2 not sent, 16 no answer, 32 503, 64 by hand."""
        names = ("protocol", "ip", "port", "expires in (s)", "flags")
        return [dict(zip(names, _shown(place, now), strict=True)) for place in self._list().view(now)]

    @rpc("dst_blocklist.debug")
    def debug(self, *, now: float) -> list[Any]:
        """List protocol, address, port, seconds and flags of each place, one after the other."""
        return [value for place in self._list().view(now) for value in _shown(place, now)]

    @rpc("dst_blocklist.mem_info")
    def mem_info(self) -> dict[str, int]:
        """Return how many places are kept."""
        return {"used": len(self._list())}

    @rpc("dst_blocklist.delete_all")
    def delete_all(self) -> dict[str, Any]:
        """Forget all places."""
        self._list().clear()
        return {}

    @rpc("dst_blocklist.add")
    def add(self, ip: str, port: int, proto: int, flags: int, *, now: float) -> dict[str, Any]:
        """Pass over a place from now on; proto: 1 udp, 2 tcp, 3 tls, 4 sctp."""
        address = to_ip(ip)
        if address is None:
            raise RpcError(400, "Malformed ip address")
        if proto not in TRANSPORTS:
            raise RpcError(400, "Unknown protocol")
        if not 0 < port < 65536:
            raise RpcError(400, f"expected a port, got {port}")
        self._list().put(TRANSPORTS[proto], str(address), port, flags & 0xFF, now)
        return {}

    def _list(self) -> Blocklist:
        if not self._blocklist.enabled:
            raise RpcError(500, "dst blocklist support disabled ([dns] use_dst_blocklist)")
        return self._blocklist


def _shown(place: Blocked, now: float) -> tuple[str, str, int, int, int]:
    return place.proto, place.host, place.port, int(place.until - now), place.flags
