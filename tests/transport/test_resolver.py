"""Names without blocking: what is kept and for how long, what is asked once, what cannot be answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from polykemi.sip.locate import Destination, Naptr, Place, Srv
from polykemi.transport import resolver as resolver_module
from polykemi.transport.hosts import Hosts, parse_hosts
from polykemi.transport.name_servers import NameServers, parse_server, read_reply, servers_of
from polykemi.transport.resolver import DnsSettings, Reply, Resolver
from tests.dns_server import DnsServer
from tests.waiting import PATIENCE

UDP = {"udp": (4,)}
BOTH = {"udp": (4,), "tcp": (4,)}
START = 1_800_000_000.0
ZONE = {
    ("example.test", "NAPTR"): [
        '20 10 "s" "SIP+D2U" "" _sip._udp.example.test.',
        '10 10 "s" "SIP+D2T" "" _sip._tcp.example.test.',
    ],
    ("_sip._tcp.example.test", "SRV"): ["10 1 5070 a.example.test.", "20 1 5071 b.example.test."],
    ("_sip._udp.example.test", "SRV"): ["10 1 5080 a.example.test."],
    ("a.example.test", "A"): ["192.0.2.1"],
    ("b.example.test", "A"): ["192.0.2.2", "192.0.2.3"],
    ("alias.example.test", "CNAME"): ["b.example.test."],
}


class Names:
    """A resolver with a clock that stands still until it is moved, and a name server of the test's own."""

    def __init__(self, server: DnsServer, hosts: Path, **settings: Any) -> None:
        self.server = server
        self.now = START
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        given = {"retr_time": 3.0, "retr_no": 2, **settings}
        self.settings = DnsSettings(nameservers=((server.host, server.port),), **given)
        self.resolver = Resolver(
            NameServers(servers_of(self.settings), self.settings).ask,
            self.settings,
            hosts=Hosts(hosts),
            clock=lambda: self.now,
            random=lambda n: n,
        )
        self.resolver.loop = self.loop

    def known(self, host: str, port: int = 0, transport: str = "") -> list[Place] | None:
        """Return what is known without a question."""
        return self.resolver.locate(Destination(host, port, transport), BOTH, self.now)

    def find(self, *destinations: Destination) -> list[list[Place]]:
        """Ask for all at the same time and return the answers."""
        answers: list[list[Place]] = []
        for destination in destinations:
            self.resolver.ask(destination, BOTH, lambda places, now: answers.append(places))
        self.until(lambda: len(answers) == len(destinations))
        return answers

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop until ``condition`` holds."""
        end = self.loop.time() + PATIENCE
        while not condition():
            assert self.loop.time() < end
            self.loop.call_later(0.005, self.loop.stop)
            self.loop.run_forever()


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with contextlib.closing(DnsServer(ZONE)) as one:
        yield one


@pytest.fixture
def make(server: DnsServer, tmp_path: Path) -> Iterator[Callable[..., Names]]:
    """Make a resolver with the settings given."""
    made: list[Names] = []
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.9 Known known.test # a comment\n::9 known\nnonsense line\n", "ascii")

    def new(**settings: Any) -> Names:
        made.append(Names(server, hosts, **settings))
        return made[-1]

    yield new
    for one in made:
        one.resolver.close()
        one.loop.run_until_complete(asyncio.sleep(0))
        one.loop.close()


def test_naptr_then_srv_then_addresses_and_all_of_it_is_kept(make: Callable[..., Names], server: DnsServer) -> None:
    names = make()
    assert names.known("example.test") is None
    assert server.count() == 0  # to know is not to ask
    expected = [Place("tcp", "192.0.2.1", 5070), Place("tcp", "192.0.2.2", 5071), Place("tcp", "192.0.2.3", 5071)]
    (found,) = names.find(Destination("example.test"))
    assert sorted(found) == expected
    assert found[0] == expected[0]
    assert names.known("example.test") == found
    assert names.known("EXAMPLE.test.") == found
    assert (server.count("NAPTR"), server.count("SRV"), server.count("A")) == (1, 1, 2)


def test_many_who_want_to_know_the_same_are_one_question(make: Callable[..., Names], server: DnsServer) -> None:
    answers = make().find(*[Destination("b.example.test", 5060)] * 50, Destination("b.example.test", 5090))
    assert sorted(answers[0]) == [Place("udp", "192.0.2.2", 5060), Place("udp", "192.0.2.3", 5060)]
    assert {place.port for place in answers[-1]} == {5090}
    assert server.count() == 1


def test_an_answer_holds_for_its_time_to_live(make: Callable[..., Names], server: DnsServer) -> None:
    names = make()
    names.find(Destination("a.example.test", 5060))
    names.now += 299
    assert names.known("a.example.test", 5060) == [Place("udp", "192.0.2.1", 5060)]
    names.now += 2
    assert names.known("a.example.test", 5060) is None
    server.zone["a.example.test", "A"] = ["192.0.2.77"]
    assert names.find(Destination("a.example.test", 5060)) == [[Place("udp", "192.0.2.77", 5060)]]


@pytest.mark.parametrize(
    ("settings", "ttl", "kept"),
    [({"cache_min_ttl": 60.0}, 0, 60), ({"cache_max_ttl": 30.0}, 300, 30), ({}, 40, 40)],
)
def test_the_settings_bound_how_long_answers_hold(
    make: Callable[..., Names], server: DnsServer, settings: dict[str, float], ttl: int, kept: int
) -> None:
    server.ttl = ttl
    names = make(**settings)
    names.find(Destination("a.example.test", 5060))
    names.now += kept - 1
    assert names.known("a.example.test", 5060)
    names.now += 2
    assert names.known("a.example.test", 5060) is None


def test_answers_that_do_not_hold_at_all_are_used_once(make: Callable[..., Names], server: DnsServer) -> None:
    server.ttl = 0
    names = make()
    for asked in (1, 2):
        assert names.find(Destination("a.example.test", 5060)) == [[Place("udp", "192.0.2.1", 5060)]]
        assert server.count("A") == asked
    assert len(names.find(Destination("example.test"))[0]) == 3


@pytest.mark.parametrize(("settings", "kept"), [({}, 7), ({"cache_negative_ttl": 3.0}, 3)])
def test_what_does_not_exist_is_kept_as_the_zone_says_or_the_settings(
    make: Callable[..., Names], server: DnsServer, settings: dict[str, float], kept: int
) -> None:
    names = make(**settings)
    for _ in range(3):
        assert names.find(Destination("nobody.test", 5060)) == [[]]
    assert names.known("nobody.test", 5060) == []
    assert server.count() == 1
    names.now += kept + 1
    assert names.known("nobody.test", 5060) is None


def test_without_negative_caching_every_time_is_a_question(make: Callable[..., Names], server: DnsServer) -> None:
    names = make(cache_negative_ttl=0.0)
    for _ in range(2):
        assert names.find(Destination("nobody.test", 5060)) == [[]]
    assert server.count() == 2


@pytest.mark.parametrize("how", ["silent", "broken"])
def test_a_server_that_cannot_tell_is_asked_again_and_then_not_for_a_while(
    make: Callable[..., Names], server: DnsServer, how: str
) -> None:
    getattr(server, how).add("a.example.test")
    names = make(retr_time=0.1 if how == "silent" else 3.0)
    assert names.find(Destination("a.example.test", 5060)) == [[]]
    assert server.count() == 2  # retr_no
    assert names.known("a.example.test", 5060) == []
    names.now += 6
    getattr(server, how).clear()
    assert names.find(Destination("a.example.test", 5060)) == [[Place("udp", "192.0.2.1", 5060)]]


def test_no_naptr_answer_does_not_keep_from_srv(make: Callable[..., Names], server: DnsServer) -> None:
    server.silent.add("example.test")
    names = make(retr_time=0.5, retr_no=1)
    assert names.find(Destination("example.test"))[0][0] == Place("udp", "192.0.2.1", 5080)


def test_naptr_can_be_left_out(make: Callable[..., Names], server: DnsServer) -> None:
    assert make(try_naptr=False).find(Destination("example.test"))[0][0] == Place("udp", "192.0.2.1", 5080)
    assert server.count("NAPTR") == 0


def test_a_long_answer_comes_over_tcp(make: Callable[..., Names], server: DnsServer) -> None:
    server.truncated.add("big.test")
    server.zone["big.test", "A"] = [f"192.0.2.{i}" for i in range(1, 200)]
    assert len(make().find(Destination("big.test", 5060))[0]) == 16  # more are not looked at
    assert server.count() == 2


def test_an_alias_leads_to_the_addresses_of_another_name(make: Callable[..., Names]) -> None:
    (found,) = make().find(Destination("alias.example.test", 5060))
    assert {place.host for place in found} == {"192.0.2.2", "192.0.2.3"}


def test_the_hosts_file_comes_before_dns(make: Callable[..., Names], server: DnsServer) -> None:
    names = make()
    assert names.known("known.test", 5060) == [Place("udp", "127.0.0.9", 5060)]
    assert names.known("localhost", 5060) == [Place("udp", "127.0.0.1", 5060)]
    assert server.count() == 0


@pytest.mark.parametrize("name", ["phone.invalid", "x" * 64 + ".test", "a..b", ".", "x." * 130 + "test"])
def test_what_no_name_server_can_know_is_not_asked(make: Callable[..., Names], server: DnsServer, name: str) -> None:
    assert make().known(name, 5060) == []
    assert server.count() == 0


def test_no_server_at_all_is_an_answer(tmp_path: Path) -> None:
    server = DnsServer()
    server.close()  # nobody listens there now
    names = Names(server, tmp_path / "none")
    assert names.find(Destination("a.example.test", 5060)) == [[]]
    names.loop.close()


def test_the_second_server_answers_for_the_first(server: DnsServer, tmp_path: Path) -> None:
    dead = DnsServer()
    dead.close()
    names = Names(server, tmp_path / "none")
    settings = DnsSettings(nameservers=((dead.host, dead.port), (server.host, server.port)), retr_time=0.2)
    answer = names.loop.run_until_complete(NameServers(servers_of(settings), settings).ask("a.example.test", "A"))
    assert answer == Reply(("192.0.2.1",), 300.0)
    names.loop.close()


def test_records_of_every_kind(server: DnsServer, tmp_path: Path) -> None:
    names = Names(server, tmp_path / "none")
    ask = NameServers(servers_of(names.settings), names.settings).ask
    naptr = names.loop.run_until_complete(ask("example.test", "NAPTR"))
    srv = names.loop.run_until_complete(ask("_sip._udp.example.test", "SRV"))
    names.loop.close()
    assert naptr is not None
    assert sorted(naptr.records)[0] == Naptr(10, 10, "s", "SIP+D2T", "", "_sip._tcp.example.test")
    assert srv == Reply((Srv(10, 1, 5080, "a.example.test"),), 300.0)


def test_weights_are_drawn_for_each_request_unless_srv_lb_is_off(make: Callable[..., Names], server: DnsServer) -> None:
    server.zone["_sip._udp.w.test", "SRV"] = ["1 1 1 a.example.test.", "1 9 9 a.example.test."]
    names = make()
    names.find(Destination("w.test", 0, "udp"))
    draws = iter([1, 9, 5, 9])
    names.resolver._random = lambda n: next(draws)
    firsts = [(names.known("w.test", 0, "udp") or [])[0].port for _ in range(2)]
    assert firsts == [1, 9]
    other = make(srv_lb=False)
    other.find(Destination("w.test", 0, "udp"))
    assert [(other.known("w.test", 0, "udp") or [])[0].port for _ in range(3)] == [9, 9, 9]


@pytest.mark.pure
def test_what_is_kept_is_bounded(make: Callable[..., Names], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "MOST", 16)
    names = make()
    for i in range(100):
        names.resolver.put((f"h{i}.test", "A"), Reply(("192.0.2.1",), 300.0), names.now)
        names.known(f"h{i}.test", 5060)
    assert len(names.resolver) <= 16
    assert len(names.resolver._ways) <= 16


@pytest.mark.pure
def test_questions_on_their_way_are_bounded(
    make: Callable[..., Names], server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "_MOST_AT_ONCE", 3)
    names = make()
    answers = names.find(*(Destination(f"h{i}.test", 5060) for i in range(10)))
    assert answers == [[]] * 10
    assert server.count() == 3


# ---- what is read
def test_hosts_are_read_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = Hosts(path)
    assert hosts.addresses("one", 4, START) is None
    path.write_text("192.0.2.1 one\n", "ascii")
    assert hosts.addresses("one", 4, START + 1) is None  # not looked at with every question
    assert hosts.addresses("one", 4, START + 6) == ("192.0.2.1",)
    assert hosts.addresses("one", 6, START + 6) == ()
    path.unlink()
    assert hosts.addresses("one", 4, START + 12) is None


def test_a_hosts_file_may_hold_anything() -> None:
    text = "# c\n\n192.0.2.1\n192.0.2.1 a A b\n2001:DB8::1 a\n192.0.2.2 a\nfe80::1%lo c\n\xff\0 x\n"
    assert parse_hosts(text) == {
        "a": {4: ("192.0.2.1", "192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1",)},
        "b": {4: ("192.0.2.1",)},
        "c": {6: ("fe80::1%lo",)},
    }


def test_name_servers_of_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert servers_of(DnsSettings(), path) == [("127.0.0.1", 53)]
    path.write_text("search test\nnameserver 192.0.2.1\nnameserver\nnameserver ::1 x\nnameserver h\n", "ascii")
    assert servers_of(DnsSettings(), path) == [("192.0.2.1", 53), ("::1", 53)]
    assert servers_of(DnsSettings(nameservers=(("192.0.2.2", 54),)), path) == [("192.0.2.2", 54)]


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.2", ("192.0.2.2", 53)),
        ("192.0.2.2:54", ("192.0.2.2", 54)),
        ("::2", ("::2", 53)),
        ("[::2]:55", ("::2", 55)),
    ],
)
def test_a_name_server_is_an_address_with_or_without_a_port(text: str, server: tuple[str, int]) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize("text", ["", "host", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:70000", "[::1]:x", "1.2.3:53"])
def test_what_is_no_name_server(text: str) -> None:
    with pytest.raises(ValueError, match="expected ADDRESS"):
        parse_server(text)


# ---- hostile answers
_ANSWERS = [
    bytes(dns.message.from_text(text).to_wire())
    for text in (
        "id 1\nflags QR RD RA\n;QUESTION\na.test. IN SRV\n;ANSWER\na.test. 60 IN SRV 1 2 5060 b.test.\n",
        'id 1\nflags QR\n;QUESTION\na.test. IN NAPTR\n;ANSWER\na.test. 60 IN NAPTR 1 2 s SIP+D2U "" b.test.\n',
        "id 1\nflags QR\n;QUESTION\na.test. IN A\n;ANSWER\na.test. 60 IN CNAME b.test.\nb.test. 9 IN A 192.0.2.1\n",
        "id 1\nrcode NXDOMAIN\nflags QR\n;QUESTION\na.test. IN A\n;AUTHORITY\ntest. 9 IN SOA a. b. 1 2 3 4 5\n",
    )
]


def query_of(wire: bytes | bytearray) -> dns.message.Message:
    """Return the question to an answer."""
    (question,) = dns.message.from_wire(bytes(wire)).question
    query = dns.message.make_query(question.name, question.rdtype)
    query.id = 1
    return query


@given(st.data())
def test_an_answer_may_hold_anything(data: st.DataObject) -> None:
    """It is read, or refused with an error of dnspython's, which the one who asks takes for no answer."""
    wire = bytearray(data.draw(st.sampled_from(_ANSWERS)))
    query = query_of(wire)
    for _ in range(data.draw(st.integers(1, 6))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    del wire[data.draw(st.integers(1, len(wire))) :]
    try:
        reply = read_reply(query, dns.message.from_wire(bytes(wire)))
    except dns.exception.DNSException:
        return
    assert reply is None or reply.ttl >= 0


def test_nobody_is_left_waiting_when_asking_fails(tmp_path: Path) -> None:
    async def fails(name: str, kind: str) -> Reply | None:
        raise RuntimeError("a fault")

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    resolver = Resolver(fails, hosts=Hosts(tmp_path / "none"))
    resolver.loop = loop
    answers: list[list[Place]] = []

    def take(places: list[Place], now: float) -> None:
        answers.append(places)
        loop.call_soon(loop.stop)

    resolver.ask(Destination("a.test", 5060), UDP, take)
    loop.run_forever()
    loop.close()
    assert answers == [[]]
