"""Kamailio as the next proxy: calls from our users reach its phones, calls that come through it reach our users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.e2e.conftest import PhoneFactory, ServerProcess
from tests.e2e.kamailio_peer import Kamailio, proxy

NOBODY = "sip:127.0.0.1:9"
Starts = Callable[..., Kamailio]


@pytest.fixture
def kamailio(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Starts]:
    """Start a proxy for a transport."""
    with ExitStack() as stack:

        def start(transport: str, *, phone: str = NOBODY, server: str = NOBODY) -> Kamailio:
            pki = request.getfixturevalue("pki") if transport == "tls" else None
            made = proxy(tmp_path / "kamailio", phone=phone, server=server, pki=pki)
            stack.callback(made.stop)
            return made

        yield start


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_calls_to_a_phone_of_kamailio(
    server: ServerProcess, phone: PhoneFactory, kamailio: Starts, transport: str
) -> None:
    callee = free_port()
    other = kamailio(transport, phone=f"sip:bob@127.0.0.1:{callee}")
    contact = other.tls_port if transport == "tls" else other.port
    phone(server, "register", user="bob", contact=contact, contact_transport=transport).done()
    answers = phone(server, "answer", port=callee, calls=3)
    phone(server, "call", callee="bob", calls=3).done()
    answers.done()
    phone(server, "register_cycle", user="bob").done()


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_calls_that_come_through_kamailio(
    server: ServerProcess, phone: PhoneFactory, kamailio: Starts, transport: str
) -> None:
    bob, port = free_port(), server.tls_port if transport == "tls" else server.port
    other = kamailio(transport, server=f"sip:127.0.0.1:{port};transport={transport}")
    phone(server, "register", user="bob", contact=bob).done()
    answers = phone(server, "answer", port=bob, calls=3)
    phone(other, "call", callee="bob", calls=3).done()
    answers.done()
    phone(server, "register_cycle", user="bob").done()
