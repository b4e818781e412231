"""A name server for tests, with a zone as data: authoritative, on loopback, counts what it is asked, can be made silent."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

SOA = "ns.test. root.test. 1 3600 600 86400 7"  # the last number: seconds that "there is none" holds

Zone = Mapping[tuple[str, str], Iterable[str]]


class DnsServer:
    """Answers what ``zone`` says: (name without the last dot, kind) -> records as in a zone file.

    ``asked`` counts questions by (name, kind); names in ``silent`` get no answer, those in ``broken`` SERVFAIL; ``ttl`` is
    that of all records. What is in ``truncated`` comes over TCP alone.
    """

    def __init__(self, zone: Zone | None = None, host: str = "127.0.0.1") -> None:
        self.zone = {(name.lower(), kind): list(records) for (name, kind), records in (zone or {}).items()}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.truncated: set[str] = set()
        self.ttl = 300
        self._udp, self._tcp = _bind(host)
        self.host, self.port = self._udp.getsockname()
        self._threads = [threading.Thread(target=target) for target in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    def count(self, kind: str = "") -> int:
        """Return how many questions came, of one kind or all."""
        return sum(n for (_, k), n in self.asked.items() if kind in ("", k))

    def _serve_udp(self) -> None:
        while True:
            data, peer = self._udp.recvfrom(4096)
            if not data:
                return
            answer = self._answer(data, over_tcp=False)
            if answer:
                self._udp.sendto(answer, peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                peer, _ = self._tcp.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as stream:
                length = int.from_bytes(stream.read(2), "big")
                if not length:
                    return
                answer = self._answer(stream.read(length), over_tcp=True)
                peer.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, data: bytes, *, over_tcp: bool) -> bytes:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        if name in self.silent:
            return b""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        if name in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name in self.truncated and not over_tcp:
            response.flags |= dns.flags.TC
        else:
            self._fill(response, name, kind)
        return bytes(response.to_wire(max_size=65535))

    def _fill(self, response: Any, name: str, kind: str) -> None:
        for _ in range(8):  # along CNAMEs
            alias = self.zone.get((name, "CNAME"))
            if not alias:
                break
            response.answer.append(dns.rrset.from_text(name + ".", self.ttl, "IN", "CNAME", *alias))
            name = alias[0].rstrip(".").lower()
        records = self.zone.get((name, kind))
        if records:
            response.answer.append(dns.rrset.from_text(name + ".", self.ttl, "IN", kind, *records))
            return
        if not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.authority.append(dns.rrset.from_text("test.", 3600, "IN", "SOA", SOA))

    def close(self) -> None:
        """Stop."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", (self.host, self.port))
        with socket.create_connection((self.host, self.port)):
            pass
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()


def _bind(host: str) -> tuple[socket.socket, socket.socket]:
    """Return a socket for datagrams and one for connections, with the same port."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((host, 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:  # somebody has that port over TCP
            udp.close()
