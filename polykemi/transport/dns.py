"""Asks DNS from inside of a route block, and waits for the answer. ``resolver`` is what the transport itself uses."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, Final

from polykemi.sip.grammar import to_ip
from polykemi.sip.locate import Naptr, Srv
from polykemi.transport.hosts import Hosts

log = logging.getLogger("polykemi.dns")

_KEPT: Final = 1000  # answers in the cache, each for its time to live


class DnsClient:
    """The name servers of /etc/resolv.conf, or those given (address and port); answers are kept for as long as they say."""

    def __init__(self, nameservers: Iterable[tuple[str, int]] = ()) -> None:
        self._nameservers = list(nameservers)
        self._hosts = Hosts()
        self._keep = 0
        self._resolver: Any = None  # made when somebody asks: most servers never do

    def addresses(self, host: str, seconds: float) -> list[str]:
        """Return the addresses that the system's own resolver finds; it knows no time limit, so a thread waits for it.

        Of name servers that were given those are asked, behind /etc/hosts.
        """
        if self._nameservers and to_ip(host) is None:
            known = [self._hosts.addresses(host.lower(), family, time.time()) for family in (4, 6)]
            if known != [None, None]:
                return [address for found in known for address in found or ()]
            return [str(record.address) for kind in ("A", "AAAA") for record in self._ask(host, kind, seconds)]
        answers: SimpleQueue[list[str]] = SimpleQueue()
        threading.Thread(target=_system, args=(host, answers.put), name="polykemi-dns", daemon=True).start()
        try:
            return answers.get(timeout=seconds)
        except Empty:
            log.error("no answer about %s within %g s", host, seconds)
            return []

    def srv(self, name: str, seconds: float) -> list[Srv]:
        """Return SRV records."""
        return [Srv(r.priority, r.weight, r.port, _name(r.target)) for r in self._ask(name, "SRV", seconds)]

    def naptr(self, name: str, seconds: float) -> list[Naptr]:
        """Return NAPTR records."""
        return [
            Naptr(r.order, r.preference, _text(r.flags), _text(r.service), _text(r.regexp), _name(r.replacement))
            for r in self._ask(name, "NAPTR", seconds)
        ]

    def ptr(self, name: str, seconds: float) -> list[str]:
        """Return the names of PTR records."""
        return [_name(r.target) for r in self._ask(name, "PTR", seconds)]

    def txt(self, name: str, seconds: float) -> list[str]:
        """Return the first text of each TXT record."""
        return [str(r.strings[0], "latin-1") for r in self._ask(name, "TXT", seconds)]

    def raw(self, name: str, kind: int, seconds: float) -> list[bytes]:
        """Return the data of records whose type has no name."""
        return [r.data for r in self._ask(name, f"TYPE{kind}", seconds)]

    def keep(self, seconds: int) -> None:
        """Keep answers for ``seconds``, 0: for as long as they say."""
        self._keep = seconds

    def _ask(self, name: str, kind: str, seconds: float) -> list[Any]:
        import dns.exception
        import dns.resolver

        if self._resolver is None:
            self._resolver = _make_resolver(self._nameservers)
        try:
            # with the search list of resolv.conf, as the system's resolver does
            answer = self._resolver.resolve(name, kind, lifetime=seconds, search=True, raise_on_no_answer=False)
        except (dns.exception.DNSException, UnicodeError, OSError) as error:
            level = logging.DEBUG if isinstance(error, dns.resolver.NXDOMAIN) else logging.ERROR
            log.log(level, "%s of %s: %s", kind, name, error)
            return []
        if self._keep > 0 and "kept" not in vars(answer):  # it stands in the cache by now; hasattr is always true
            answer.kept, answer.expiration = True, time.time() + self._keep
        return list(answer.rrset or ())


def _make_resolver(nameservers: list[tuple[str, int]]) -> Any:
    import dns.nameserver
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver(configure=not nameservers)
    except dns.resolver.NoResolverConfiguration:  # what the system's resolver takes then
        resolver, nameservers = dns.resolver.Resolver(configure=False), [("127.0.0.1", 53)]
    if nameservers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in nameservers]
    resolver.cache = dns.resolver.LRUCache(_KEPT)
    return resolver


def _name(name: Any) -> str:
    """Return a name as text without the last dot, "" for the root."""
    return "" if len(name) == 1 else str(name.to_text(omit_final_dot=True))


def _system(host: str, answer: Callable[[list[str]], None]) -> None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        log.debug("%s: %s", host, error)
        answer([])
    else:
        answer([str(one[4][0]) for one in found])


def _text(octets: bytes) -> str:
    return octets.decode("latin-1")
