"""Asks name servers without blocking the loop: over UDP, over TCP when the answer is too long for that (RFC 1035, RFC 7766)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from polykemi.sip.grammar import to_ip
from polykemi.sip.locate import Naptr, Srv
from polykemi.transport.resolver import DnsSettings, Reply

log = logging.getLogger("polykemi.dns")

RESOLV_CONF: Final = Path("/etc/resolv.conf")
_PORT: Final = 53
_EDNS_PAYLOAD: Final = 1232  # octets that an answer over UDP may have (DNS flag day 2020)
_LONGEST: Final = 65535

Server = tuple[str, int]


class NameServers:
    """The servers of /etc/resolv.conf, or those given, asked one after the other."""

    def __init__(self, servers: Sequence[Server], settings: DnsSettings) -> None:
        self._servers = list(servers)
        self._settings = settings

    async def ask(self, name: str, kind: str) -> Reply | None:
        """Return what the first server with a usable answer says about ``name``; None when none has one.

        That a name or such records do not exist is an answer: no records.
        """
        import dns.exception
        import dns.flags
        import dns.message

        try:
            query = dns.message.make_query(name + ".", kind, use_edns=0, payload=_EDNS_PAYLOAD)
            wire = query.to_wire()
        except (dns.exception.DNSException, UnicodeError):
            return None
        settings = self._settings
        for _ in range(settings.retr_no):
            for server in self._servers[: settings.servers_no]:
                try:
                    async with asyncio.timeout(settings.retr_time):
                        response = await _over_udp(server, query, wire)
                        if response.flags & dns.flags.TC:
                            response = await _over_tcp(server, query, wire)
                except (
                    OSError,
                    dns.exception.DNSException,
                    asyncio.IncompleteReadError,
                ) as error:  # a TimeoutError too
                    log.debug("%s %s: %s:%d: %r", kind, name, *server, error)
                    continue
                reply = read_reply(query, response)
                if reply is not None:
                    return reply
        return None


async def _over_udp(server: Server, query: Any, wire: bytes) -> Any:
    """Send the question and return the answer to it; all else that comes is passed over, the time limit is the caller's."""
    import dns.exception
    import dns.message

    loop = asyncio.get_running_loop()
    # one socket a question: its port is random, and connected it takes from this server alone, and errors of ICMP at once
    with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)  # noqa: FBT003
        sock.connect(server)
        await loop.sock_sendall(sock, wire)
        while True:
            try:
                response = dns.message.from_wire(await loop.sock_recv(sock, _LONGEST))
            except dns.message.Truncated as cut:
                response = cut.message()  # type: ignore[no-untyped-call]
            except dns.exception.DNSException:
                continue
            if query.is_response(response):
                return response


async def _over_tcp(server: Server, query: Any, wire: bytes) -> Any:
    import dns.exception
    import dns.message

    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(wire).to_bytes(2, "big") + wire)
        length = int.from_bytes(await reader.readexactly(2), "big")
        response = dns.message.from_wire(await reader.readexactly(length))
        if not query.is_response(response):
            raise dns.exception.FormError
        return response
    finally:
        writer.close()


def read_reply(query: Any, response: Any) -> Reply | None:
    """Return the records of an answer, along its CNAMEs; None when the server could not tell."""
    import dns.exception
    import dns.rcode

    if not query.is_response(response) or response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return None
    try:
        chain = response.resolve_chaining()
    except dns.exception.DNSException:
        return None
    records = tuple(_record(one) for one in chain.answer or ())
    return Reply(records, float(chain.minimum_ttl))


def _record(data: Any) -> Naptr | Srv | str:
    import dns.rdatatype

    if data.rdtype == dns.rdatatype.SRV:
        return Srv(data.priority, data.weight, data.port, _name(data.target))
    if data.rdtype == dns.rdatatype.NAPTR:
        flags, services, regexp = (str(text, "latin-1") for text in (data.flags, data.service, data.regexp))
        return Naptr(data.order, data.preference, flags, services, regexp, _name(data.replacement))
    return str(data.address)


def _name(name: Any) -> str:
    """Return a name as text without the last dot, "" for the root."""
    return "" if len(name) == 1 else str(name.to_text(omit_final_dot=True)).lower()


def servers_of(settings: DnsSettings, resolv_conf: Path = RESOLV_CONF) -> list[Server]:
    """Return the name servers that the settings name, else those of resolv.conf, else that of this machine."""
    if settings.nameservers:
        return list(settings.nameservers)
    try:
        lines = resolv_conf.read_text("latin-1").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    hosts = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver" and to_ip(word[1]) is not None]
    return [(host, _PORT) for host in hosts] or [("127.0.0.1", _PORT)]


def parse_server(text: str) -> Server:
    """Return address and port of ``ADDRESS[:PORT]``, IPv6 in brackets when there is a port. Raise ValueError."""
    if to_ip(text) is not None:
        return text.strip("[]"), _PORT
    host, _, port = text.rpartition(":")
    if to_ip(host) is None or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise ValueError(f"expected ADDRESS or ADDRESS:PORT of a name server, got {text!r}")
    return host.strip("[]"), int(port)
