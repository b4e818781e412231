"""Sockets: what is sent arrives, names are resolved without blocking, what cannot be sent is told."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from polykemi.errors import UsageError
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.locate import Srv
from polykemi.transport.manager import Transports, local_addresses, local_addresses_6
from polykemi.transport.resolver import Reply
from tests.waiting import PATIENCE


def _ignore(*_: object) -> None:
    pass


_CALLS: Any = (_ignore, _ignore, _ignore)


class Network:
    """Transports on loopback, and what they reported."""

    def __init__(self) -> None:
        # as the server: it treats errors of sockets in its own way
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.received: list[tuple[bytes, Flow]] = []
        self.failed: list[tuple[bytes, Flow]] = []
        self.passes = 0
        self.transports = Transports(
            [Listener("udp", "127.0.0.1", 0), Listener("udp", "127.0.0.1", 0)], self._receive, self._done, self._failed
        )
        self.transports.open(self.loop)

    def _receive(self, data: bytes, flow: Flow, now: float) -> None:
        assert now > 1_600_000_000
        self.received.append((data, flow))

    def _failed(self, data: bytes, flow: Flow) -> None:
        self.failed.append((data, flow))

    def _done(self) -> None:
        self.passes += 1

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop until ``condition`` holds."""

        end = self.loop.time() + PATIENCE
        while not condition():
            assert self.loop.time() < end
            self.loop.call_later(0.01, self.loop.stop)  # a pass of the loop, also when nothing happens
            self.loop.run_forever()


@pytest.fixture
def network() -> Iterator[Network]:
    """Two listeners of one server, on loopback."""
    one = Network()
    yield one
    one.transports.close()
    one.loop.close()


def test_a_datagram_carries_its_flow_and_a_pass_takes_all_that_is_there(network: Network) -> None:
    one, two = network.transports.listeners
    network.transports.send([(b"%d" % i, Flow(one, "127.0.0.1", two.port)) for i in range(40)])
    network.until(lambda: len(network.received) == 40)
    assert network.received[39] == (b"39", Flow(two, "127.0.0.1", one.port))
    assert network.passes < 40


def test_a_host_name_is_resolved(network: Network) -> None:
    one, two = network.transports.listeners
    network.transports.send(
        [(b"first", Flow(one, "localhost", two.port)), (b"second", Flow(one, "localhost", two.port))]
    )
    network.until(lambda: len(network.received) == 2)
    assert [data for data, _ in network.received] == [b"first", b"second"]


def test_what_has_no_address_is_reported(network: Network) -> None:
    one, _ = network.transports.listeners
    nowhere = [Flow(one, "no.such.name.invalid", 5060), Flow(one, "::1", 5060), Flow(one, "256.1.1.1.", 5060)]
    network.transports.send([(b"lost", flow) for flow in nowhere])
    network.until(lambda: len(network.failed) == 3)
    assert sorted(flow.host for _, flow in network.failed) == sorted(flow.host for flow in nowhere)


def test_a_port_that_cannot_be_sent_to_is_reported(network: Network) -> None:
    one, _ = network.transports.listeners
    network.transports.send([(b"x", Flow(one, "127.0.0.1", 70_000))])
    assert len(network.failed) == 1


def test_a_taken_port_is_one_line_and_leaves_nothing_open() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on udp:127.0.0.1:{port}: Address already in use"):
            Transports([Listener("udp", "127.0.0.1", 0), Listener("udp", "127.0.0.1", port)], _ignore, _ignore, _ignore)


def test_the_wildcard_address_means_every_address_of_the_machine() -> None:
    assert "127.0.0.1" in local_addresses()
    transports = Transports([Listener("udp", "0.0.0.0", 0)], _ignore, _ignore, _ignore)
    assert [listener.host for listener in transports.listeners] == local_addresses()
    transports.close()


@pytest.mark.skipif("::1" not in local_addresses_6(), reason="this machine has no IPv6")
def test_several_listeners_of_all_kinds_are_bound_with_what_is_said_of_them() -> None:
    shown = Listener("udp", "::", 0, "2001:db8::5", 5070, "outside")
    transports = Transports(
        [Listener("udp", "127.0.0.1", 0), shown, Listener("tcp", "::1", 0)], _ignore, _ignore, _ignore
    )
    first, *six, tcp, ws = transports.listeners
    assert (first.host, tcp[:2], ws) == ("127.0.0.1", ("tcp", "::1"), tcp._replace(proto="ws"))
    assert [one.host for one in six] == local_addresses_6()
    assert {one._replace(host="::", port=0) for one in six} == {shown}
    assert all(one.port for one in transports.listeners)
    transports.close()


def test_a_name_stands_for_its_address_and_is_what_peers_are_told() -> None:
    transports = Transports([Listener("udp", "localhost", 0), Listener("tcp", "localhost", 0, "sip.test")], *_CALLS)
    udp, tcp, _ = transports.listeners
    transports.close()
    assert (udp.host, udp.advertised) == (tcp.host, ("localhost", udp.port))
    assert udp.host in ("127.0.0.1", "::1")
    assert tcp.advertised_host == "sip.test"


def test_a_name_without_an_address_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on udp:no\.\.host:5060: "):
        Transports([Listener("udp", "no..host", 5060)], *_CALLS)


@pytest.mark.pure
def test_what_is_known_of_flows_is_forgotten_rather_than_grows(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polykemi.transport.manager.MAX_WAYS", 3)
    one, two = network.transports.listeners
    for i in range(1, 11):
        network.transports.send([(b"x", Flow(one, f"127.0.0.{i}", two.port))] * 2)
        assert len(network.transports._ways) <= 3


def test_nobody_listens_there_is_told_at_once_and_the_socket_goes_on(network: Network) -> None:
    one, two = network.transports.listeners
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        closed = other.getsockname()[1]
    request = b"OPTIONS sip:bob@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKgone\r\n"
    for _ in range(3):
        network.transports.send([(request, Flow(one, "127.0.0.1", closed))])
        network.until(lambda: len(network.failed) == 1)
        assert network.failed.pop() == (request, Flow(one, "127.0.0.1", closed))
        network.transports.send([(b"still here", Flow(two, "127.0.0.1", one.port))])
        network.until(lambda: len(network.received) == 1)
        assert network.received.pop()[0] == b"still here"


def test_an_error_of_something_else_does_not_keep_a_datagram_from_leaving(network: Network) -> None:
    one, two = network.transports.listeners
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        closed = other.getsockname()[1]
    nobody, there = Flow(one, "127.0.0.1", closed), Flow(one, "127.0.0.1", two.port)
    network.transports.send([(b"in vain", nobody), (b"first", there), (b"second", there)])
    network.until(lambda: len(network.received) == 2 and len(network.failed) == 1)
    assert [data for data, _ in network.received] == [b"first", b"second"]
    assert network.failed == [(b"in vain", nobody)]
    network.transports.send([(b"third", there)])
    network.until(lambda: len(network.received) == 3)


def test_a_reply_goes_by_dns_where_the_name_of_its_via_leads(network: Network) -> None:
    one, two = network.transports.listeners
    resolver = network.transports.resolver
    resolver.put(("_sip._udp.via.test", "SRV"), Reply((Srv(1, 1, two.port, "localhost"),), 60.0), time.time())
    network.transports.send([(b"SIP/2.0 200 OK", Flow(one, "via.test", 0))])
    network.until(lambda: len(network.received) == 1)


def test_a_reply_never_goes_to_many_whatever_dns_says(network: Network) -> None:
    one, _ = network.transports.listeners
    network.transports.resolver.put(("many.test", "A"), Reply(("255.255.255.255",), 60.0), time.time())
    network.transports.send([(b"SIP/2.0 200 OK", Flow(one, "many.test", 5060))])
    network.until(lambda: len(network.failed) == 1)


def test_many_errors_do_not_hold_up_what_comes_in(network: Network) -> None:
    one, two = network.transports.listeners
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        closed = other.getsockname()[1]
    for i in range(30):
        network.transports.send([(b"in vain", Flow(one, "127.0.0.1", closed))])
        network.transports.send([(b"%d" % i, Flow(two, "127.0.0.1", one.port))])
    network.until(lambda: len(network.received) == 30 and len(network.failed) == 30)
    assert [data for data, _ in network.received] == [b"%d" % i for i in range(30)]
    assert network.passes < 15
