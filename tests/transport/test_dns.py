"""Questions to DNS from inside of a route block, with a name server on loopback that the test feeds."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from polykemi.sip.locate import Naptr, Srv
from polykemi.transport.dns import DnsClient
from polykemi.transport.hosts import Hosts

ZONE = {
    ("_sip._udp.example.test.", "SRV"): ["10 60 5060 a.example.test.", "20 0 5070 ."],
    ("4.3.2.1.e164.arpa.", "NAPTR"): [
        '100 10 "u" "E2U+sip" "!^(.*)$!sip:\\\\1@example.test!" .',
        '50 10 "s" "SIP+D2U" "" _sip._udp.example.test.',
    ],
    ("1.2.0.192.in-addr.arpa.", "PTR"): ["a.example.test."],
    ("example.test.", "TXT"): ['"one" "more"', '"\\255"'],
    ("ebl.example.test.", "TYPE65300"): ["\\# 3 010261"],
    ("empty.example.test.", "TXT"): [],
    ("a.example.test.", "A"): ["192.0.2.1"],
    ("a.example.test.", "AAAA"): ["2001:db8::1"],
}


class NameServer:
    """Answers what the zone has; ``silent`` names get no answer, ``refused`` ones a refusal."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            (question,) = query.question
            name = question.name.to_text()
            self.asked.append(name)
            if name.startswith("silent."):
                continue
            self._socket.sendto(self._answer(query, name, dns.rdatatype.to_text(question.rdtype)).to_wire(), peer)

    def _answer(self, query: dns.message.Message, name: str, kind: str) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        records = ZONE.get((name, kind))
        if name.startswith("refused."):
            response.set_rcode(dns.rcode.REFUSED)
        elif records is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif records:
            response.answer.append(dns.rrset.from_text(name, 300, "IN", kind, *records))
        return response

    def close(self) -> None:
        """Stop."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    one = NameServer()
    yield one
    one.close()


@pytest.fixture
def client(server: NameServer) -> DnsClient:
    return DnsClient([("127.0.0.1", server.port)])


def test_records_of_every_kind(client: DnsClient) -> None:
    found = client.srv("_sip._udp.example.test", 2)
    assert sorted(found) == [Srv(10, 60, 5060, "a.example.test"), Srv(20, 0, 5070, "")]
    assert sorted(client.naptr("4.3.2.1.e164.arpa.", 2)) == [
        Naptr(50, 10, "s", "SIP+D2U", "", "_sip._udp.example.test"),
        Naptr(100, 10, "u", "E2U+sip", "!^(.*)$!sip:\\1@example.test!", ""),
    ]
    assert client.ptr("1.2.0.192.in-addr.arpa", 2) == ["a.example.test"]
    assert sorted(client.txt("example.test", 2)) == ["one", "\xff"]
    assert client.raw("ebl.example.test", 65300, 2) == [b"\x01\x02a"]


def test_what_is_not_there_is_nothing_and_no_line_in_the_log(
    client: DnsClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert client.srv("_sip._tcp.example.test.", 2) == []
        assert client.txt("empty.example.test.", 2) == []
    assert not caplog.records


@pytest.mark.parametrize(
    "name", ["silent.example.test.", "refused.example.test.", "a..b", "x" * 64 + ".test.", "\xff\0"]
)
def test_what_cannot_be_answered_is_one_line(name: str, client: DnsClient, caplog: pytest.LogCaptureFixture) -> None:
    assert client.txt(name, 0.2) == []
    assert len(caplog.records) <= 1
    assert all(record.message.startswith(f"TXT of {name}: ") for record in caplog.records)


def test_answers_are_kept(client: DnsClient, server: NameServer) -> None:
    server.asked.clear()
    for _ in range(3):
        assert client.ptr("1.2.0.192.in-addr.arpa.", 2) == ["a.example.test"]
    assert server.asked == ["1.2.0.192.in-addr.arpa."]


def test_answers_are_kept_for_as_long_as_the_script_says(client: DnsClient, server: NameServer) -> None:
    client.keep(0)
    client.ptr("1.2.0.192.in-addr.arpa.", 2)
    client.keep(1000)
    client.srv("_sip._udp.example.test.", 2)
    kept = {str(key[0]): answer.expiration for key, answer in _cache(client).items()}
    assert kept["_sip._udp.example.test."] - kept["1.2.0.192.in-addr.arpa."] == pytest.approx(700, abs=5)


def _cache(client: DnsClient) -> dict[Any, Any]:
    return {key: node.value for key, node in client._resolver.cache.data.items()}


def test_the_system_s_own_resolver_finds_addresses() -> None:
    client = DnsClient()
    assert client.addresses("127.0.0.1", 2) == ["127.0.0.1"]
    assert "127.0.0.1" in client.addresses("localhost", 2)
    assert client.addresses("no.such.host.invalid", 5) == []
    assert client.addresses("x" * 300, 2) == []


def test_name_servers_that_were_given_find_addresses_behind_the_hosts_file(
    client: DnsClient, server: NameServer
) -> None:
    server.asked.clear()
    assert client.addresses("127.0.0.1", 2) == ["127.0.0.1"]
    if Hosts().addresses("localhost", 4, 1.0):
        assert "127.0.0.1" in client.addresses("localhost", 2)
    assert server.asked == []
    assert client.addresses("a.example.test.", 2) == ["192.0.2.1", "2001:db8::1"]
    assert client.addresses("no.such.host.invalid", 2) == []


def test_nobody_answers_is_a_bounded_wait(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert DnsClient([("127.0.0.1", sock.getsockname()[1])]).txt("example.test.", 0.1) == []
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
