"""Registrations and calls over IPv6, and between IPv6 and IPv4, through the sample script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from bench.ports import free_port
from polykemi.transport.manager import local_addresses_6
from tests.e2e.conftest import DOMAIN, SCRIPTS, PhoneFactory, ServerProcess, make_data, wait_for_listener
from tests.e2e.stream_phone import StreamPhone, values

HERE, THERE = "::1", "127.0.0.1"

pytestmark = pytest.mark.skipif(HERE not in local_addresses_6(), reason="this machine has no IPv6")


class Side(NamedTuple):
    """The server as one side sees it."""

    port: int


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Side]]:
    """One server, by the address that it has on each side."""
    data = make_data(tmp_path_factory.mktemp("data"))
    port = free_port(THERE)
    listen = [part for proto in ("udp", "tcp") for part in ("--listen", f"{proto}:{THERE}:{port}")]
    process = ServerProcess(data, ["--engine", "lua", SCRIPTS["lua"], *listen], HERE)
    yield {HERE: Side(process.port), THERE: Side(port)}
    assert process.stop() == 0
    assert "Traceback" not in process.log()


@pytest.mark.parametrize(
    ("caller", "callee"),
    [
        ((HERE, "u1"), (HERE, "u1")),
        ((HERE, "t1"), (HERE, "t1")),
        ((HERE, "t1"), (HERE, "u1")),
        ((HERE, "u1"), (THERE, "u1")),
        ((THERE, "u1"), (HERE, "t1")),
    ],
    ids=lambda side: f"{side[1]}@{side[0]}",
)
def test_a_call(sides: dict[str, Side], phone: PhoneFactory, caller: tuple[str, str], callee: tuple[str, str]) -> None:
    host, transport = callee
    bob = free_port(host)
    contact_transport = "tcp" if transport == "t1" else ""
    phone(sides[host], "register", user="bob", contact=bob, contact_transport=contact_transport, host=host).done()
    answers = phone(sides[host], "answer", port=bob, transport=transport, host=host)
    if transport == "t1":
        wait_for_listener(bob)
    phone(sides[caller[0]], "call", callee="bob", transport=caller[1], host=caller[0]).done()
    answers.done()
    phone(sides[host], "register_cycle", user="bob", host=host).done()


def test_a_wrong_password_is_refused(sides: dict[str, Side], phone: PhoneFactory) -> None:
    phone(sides[HERE], "register_wrong_password", user="alice", password="x", host=HERE).done()


def test_a_phone_is_reached_over_the_connection_that_it_has_opened(sides: dict[str, Side]) -> None:
    port = sides[HERE].port
    with closing(StreamPhone("carol", port, HERE)) as carol:
        carol.register()
        carol.authorized("MESSAGE", f"sip:carol@{DOMAIN}", f"<sip:carol@{DOMAIN}>")
        message = carol.expect("MESSAGE ")
        assert f"@{carol.sent_by};transport=tcp SIP/2.0" in message.partition("\r\n")[0]
        assert values(message, "Via")[0].startswith(f"SIP/2.0/TCP [::1]:{port};branch=z9hG4bK")
        assert values(message, "Via")[1].startswith(f"SIP/2.0/TCP {carol.sent_by};")
        carol.answer(message, "200 OK")
        carol.expect("SIP/2.0 200")
