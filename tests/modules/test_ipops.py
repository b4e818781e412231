"""ipops: what DNS answers, as the script sees it."""

from __future__ import annotations

from collections import Counter

import pytest

from polykemi.kemi.context import RouteContext
from polykemi.kemi.network import Offline
from polykemi.modules.ipops import Ipops
from polykemi.sip.locate import Naptr, Srv
from tests.support import message, request_context, services


class NameServer(Offline):
    """A name server that knows what the tests tell it."""

    def __init__(self) -> None:
        self.hosts = {"host.example.test": ["192.0.2.7", "2001:db8::7"], "localhost": ["127.0.0.1"]}
        self.services = [
            Srv(10, 0, 5060, "b.example.test"),
            Srv(5, 0, 5061, "a" * 70),
            Srv(20, 0, 5062, "c.example.test"),
        ]
        self.kept: list[int] = []

    def addresses(self, host: str, seconds: float) -> list[str]:
        """Answer from the table."""
        return self.hosts.get(host, [])

    def srv(self, name: str, seconds: float) -> list[Srv]:
        """Answer the table."""
        return self.services

    def naptr(self, name: str, seconds: float) -> list[Naptr]:
        """Answer two records in the wrong order."""
        return [Naptr(10, 20, "s", "SIP+D2T", "", "_sip._tcp.x"), Naptr(10, 10, "u", "E2U+sip", "!^.*$!sip:a@b!", "")]

    def ptr(self, name: str, seconds: float) -> list[str]:
        """Answer for one address."""
        return ["host.example.test"] if name == "7.2.0.192.in-addr.arpa" else []

    def keep(self, seconds: int) -> None:
        """Note the time."""
        self.kept.append(seconds)


@pytest.fixture
def ctx() -> RouteContext:
    return request_context(message("OPTIONS sip:example.test SIP/2.0"))


def made(dns: NameServer | None = None) -> Ipops:
    module: Ipops = services(Ipops, dns=dns or NameServer()).modules["ipops"]
    return module


def value(module: Ipops, ctx: RouteContext, name: str) -> object:
    return module.services.variables.getters[name](ctx)


def test_addresses_of_a_host(ctx: RouteContext) -> None:
    module = made()
    assert module.dns_query(ctx, "host.example.test", "h") == 1
    fields = ("addr[0]", "type[0]", "addr[1]", "type[-1]", "count", "ipv4", "ipv6", "hostname", "addr[2]")
    assert [value(module, ctx, f"$dns(h=>{field})") for field in fields] == [
        *("192.0.2.7", 4, "2001:db8::7", 6, 2, 1, 1, "host.example.test", None)
    ]
    assert module.dns_query(ctx, "unknown.example.test", "h") == -4
    assert value(module, ctx, "$dns(h=>count)") is None
    assert module.dns_sys_match_ip(ctx, "host.example.test", "[2001:db8::7]") == 1
    assert module.dns_int_match_ip(ctx, "host.example.test", "192.0.2.8") == -1


def test_services_by_priority(ctx: RouteContext) -> None:
    module = made()
    assert module.srv_query(ctx, "_sip._udp.example.test", "s") == 1
    assert value(module, ctx, "$srvquery(s=>count)") == 3
    assert [value(module, ctx, f"$srvquery(s=>port[{i}])") for i in range(4)] == [5061, 5060, 5062, None]
    assert value(module, ctx, "$srvquery(s=>target[0])") == "a" * 64
    assert value(module, ctx, "$srvquery( s => priority [ 1 ] )") == 10


def test_services_of_one_priority_take_turns_by_weight(ctx: RouteContext) -> None:
    dns = NameServer()
    dns.services = [Srv(1, 0, 1, "zero"), Srv(1, 10, 2, "ten"), Srv(1, 90, 3, "ninety")]
    module, first = made(dns), Counter[object]()
    for _ in range(1000):
        module.srv_query(ctx, "x", "s")
        first[value(module, ctx, "$srvquery(s=>target[0])")] += 1
    assert first["ninety"] > 800
    assert 50 < first["ten"] < 160


def test_name_authority_pointers_by_order_and_preference(ctx: RouteContext) -> None:
    module = made()
    assert module.naptr_query(ctx, "example.test", "n") == 1
    fields = ("count", "order[0]", "pref[0]", "flags[0]", "services[0]", "regex[0]", "replace[1]")
    assert [value(module, ctx, f"$naptrquery(n=>{field})") for field in fields] == [
        *(2, 10, 10, "u", "E2U+sip", "!^.*$!sip:a@b!", "_sip._tcp.x")
    ]


def test_the_name_of_an_address(ctx: RouteContext) -> None:
    module = made()
    assert module.ptr_query(ctx, "192.0.2.7", "p") == 1
    assert value(module, ctx, "$ptrquery(p=>hostname)") == "host.example.test"
    assert value(module, ctx, "$ptrquery(p=>ip)") == "192.0.2.7"
    assert module.ptr_query(ctx, "2001:db8::7", "p") == -6


def test_names_of_this_host(ctx: RouteContext) -> None:
    module = made()
    environment = module.services.variables.environment
    environment.hostname = "host.example.test"
    assert [value(module, ctx, f"$HN({x})") for x in "nfdi"] == [
        "host",
        "host.example.test",
        "example.test",
        "192.0.2.7",
    ]
    environment.hostname = "plain"
    assert [value(module, ctx, f"$HN({x})") for x in "nfd"] == ["plain", "plain", None]


def test_how_long_answers_are_kept(ctx: RouteContext) -> None:
    dns = NameServer()
    assert made(dns).dns_set_local_ttl(ctx, 30) == 1
    assert dns.kept == [30]


def test_names_of_answers_do_not_fill_the_memory(ctx: RouteContext) -> None:
    module = made()
    for i in range(1100):
        module.dns_query(ctx, "localhost", f"q{i}")
    assert value(module, ctx, "$dns(q99=>addr)") is None
    assert value(module, ctx, "$dns(q1099=>addr)") == "127.0.0.1"
