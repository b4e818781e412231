"""Where a request or reply goes, by DNS (RFC 3263): a pure choice over records. Who asks for them is ``transport/resolver``.

``locate`` is called with what is known, and says either where to go or what has to be asked first; then it is called again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from polykemi.sip.constants import PORT, TLS_PORT
from polykemi.sip.grammar import to_ip

_MOST_SRV: Final = 32  # records of a name that are looked at: whoever owns the zone decides how many there are
_MOST_ADDRESSES: Final = 16

_SERVICES: Final = {"udp": "_sip._udp.", "tcp": "_sip._tcp.", "tls": "_sips._tcp.", "sctp": "_sip._sctp."}
_NAPTR_SERVICES: Final = {
    "SIP+D2U": "udp",
    "SIP+D2T": "tcp",
    "SIPS+D2T": "tls",
    "SIP+D2S": "sctp",
}  # not D2W: none is called
_PREFERRED: Final = ("udp", "tcp")  # of a sip URI that leaves it open, when DNS does not say


class Srv(NamedTuple):
    """An SRV record (RFC 2782); ``target`` without the last dot."""

    priority: int
    weight: int
    port: int
    target: str


class Naptr(NamedTuple):
    """A NAPTR record (RFC 3403); ``replacement`` without the last dot."""

    order: int
    preference: int
    flags: str
    services: str
    regexp: str
    replacement: str


class Destination(NamedTuple):
    """What a URI, or a Via, says of where to go."""

    host: str  # a name, or an IP address without brackets
    port: int = 0  # 0: it names none
    transport: str = ""  # lower case, "": it names none
    secure: bool = False  # a sips URI


class Place(NamedTuple):
    """Where to send something to."""

    proto: str
    host: str  # an IP address
    port: int


class Candidate(NamedTuple):
    """A server with its addresses: all of one ``rank`` are tried, in an order by weight, before those of the next."""

    rank: int
    weight: int
    proto: str
    addresses: tuple[str, ...]
    port: int


# proto -> the address families (4, 6) that our listeners of it have, the preferred one first
Usable = Mapping[str, tuple[int, ...]]
# name, "NAPTR", "SRV", "A" or "AAAA" -> Naptr, Srv or addresses; None when that has not been asked yet
Records = Callable[[str, str], Sequence[Any] | None]
Question = tuple[str, str]
Draw = Callable[[int], int]  # n -> a number from 0 to n
Weighted = TypeVar("Weighted", Candidate, Srv)


def protos(destination: Destination, usable: Usable) -> list[str]:
    """Return the transports that may be used, by the URI and by what we listen on; the first one when DNS says nothing."""
    transport = destination.transport
    if destination.secure:
        wanted: Sequence[str] = ("wss" if transport in ("ws", "wss") else "tls",)  # as Uri.proto
    elif transport:
        wanted = (transport,)
    elif destination.port or to_ip(destination.host) is not None:
        wanted = _PREFERRED[:1]
    else:
        wanted = _PREFERRED
    return [proto for proto in wanted if proto in usable]


def locate(
    destination: Destination, usable: Usable, records: Records, *, naptr: bool = True
) -> tuple[list[Candidate], list[Question]]:
    """Return the servers to be tried, by rank, and what has to be asked before that is the answer (RFC 3263 sections 4, 5).

    Without questions and candidates there is nowhere to go. ``naptr`` off: NAPTR records are not looked for.
    """
    return _Search(destination, usable, records).run(naptr)


class _Search:
    """One pass over what is known."""

    def __init__(self, destination: Destination, usable: Usable, records: Records) -> None:
        self.host, self.port, self.transport, self.secure = destination
        self.usable = usable
        self.records = records
        self.protos = protos(destination, usable)
        self.missing: list[Question] = []
        self.found: list[Candidate] = []
        self.rank = 0

    def run(self, naptr: bool) -> tuple[list[Candidate], list[Question]]:
        if not self.transport and not self.port and naptr and to_ip(self.host) is None:
            services = self._services()  # may name transports that the URI does not
        else:
            services = []
        if not services and not self.missing:
            services = [(proto, _SERVICES.get(proto, "") + self.host) for proto in self.protos]
        if not self.missing:
            self._choose(services)
        return ([], self.missing) if self.missing else (self.found, [])

    def ask(self, name: str, kind: str) -> Sequence[Any]:
        known = self.records(name, kind)
        if known is None:
            self.missing.append((name, kind))
            return ()
        return known

    def _services(self) -> list[tuple[str, str]]:
        """Return the transports that NAPTR records offer with the names of their SRV records (section 4.1).

        As soon as one order has a usable record, no other order counts (RFC 3403 section 4.1).
        """
        out: list[tuple[str, str]] = []
        chosen = -1
        for record in sorted(self.ask(self.host, "NAPTR"), key=lambda r: (r.order, r.preference)):
            proto = _NAPTR_SERVICES.get(record.services.upper(), "")
            if proto not in self.usable or (self.secure and proto != "tls"):
                continue
            if record.flags.lower() != "s" or not record.replacement or chosen not in (-1, record.order):
                continue
            chosen = record.order
            out.append((proto, record.replacement))
        return out

    def _choose(self, services: list[tuple[str, str]]) -> None:
        """Find the servers by SRV records, without any those of the name itself (section 4.2)."""
        if self.port or to_ip(self.host) is not None:
            services = [(proto, "") for proto, _ in services]
        any_srv = False
        for proto, name in services:
            servers = self.ask(name, "SRV") if name and proto in _SERVICES else ()
            any_srv = any_srv or bool(servers)
            priority = -1
            for server in sorted(servers)[:_MOST_SRV]:  # by priority
                if server.priority != priority:
                    self.rank += 1
                    priority = server.priority
                if server.target:  # "": the service is decidedly not available there
                    self.add(proto, server.target, server.port, server.weight)
        if any_srv or self.missing:
            return
        for proto, _ in services[:1]:
            default = TLS_PORT if proto in ("tls", "wss") else PORT
            self.add(proto, self.host, self.port or default, 0)

    def add(self, proto: str, host: str, port: int, weight: int) -> None:
        """Take a server when it has an address of a family that we can send from."""
        families = self.usable[proto]
        ip = to_ip(host)
        if ip is not None:
            addresses: list[str] = [str(ip)] if ip.version in families else []
        else:
            addresses = []
            for family in families:
                addresses += self.ask(host, "A" if family == 4 else "AAAA")[:_MOST_ADDRESSES]
        if addresses:
            self.found.append(Candidate(self.rank, weight, proto, tuple(addresses), port))


def in_order(candidates: Sequence[Candidate], draw: Draw | None) -> list[Place]:
    """Return the places in the order in which they are to be tried (RFC 2782).

    Without ``draw`` the highest weight of a rank comes first, always.
    """
    if len(candidates) == 1:
        (_, _, proto, addresses, port) = candidates[0]
        return [Place(proto, address, port) for address in addresses]
    out: list[Place] = []
    at = 0
    while at < len(candidates):
        end = at
        while end < len(candidates) and candidates[end].rank == candidates[at].rank:
            end += 1
        for chosen in by_weight(list(candidates[at:end]), draw):
            out += [Place(chosen.proto, address, chosen.port) for address in chosen.addresses]
        at = end
    return out


def by_weight(left: list[Weighted], draw: Draw | None) -> list[Weighted]:
    """Return servers of equal priority, each drawn with a chance by its weight from those that are left (RFC 2782)."""
    if draw is None:
        return sorted(left, key=lambda one: -one.weight)
    left = sorted(left, key=lambda one: one.weight > 0)  # those of weight 0 stand first: that is their small chance
    out: list[Weighted] = []
    while left:
        mark = draw(sum(one.weight for one in left))
        for one in left:
            mark -= one.weight
            if mark <= 0:
                break
        left.remove(one)
        out.append(one)
    return out
