"""Kamailio as the next proxy: calls from our users reach its phones, calls that come through it reach our users."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import PhoneFactory, ServerProcess, free_port
from tests.e2e.kamailio_peer import proxy

TRANSPORTS = ["udp", "tcp"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_call_to_a_phone_of_kamailio(
    server: ServerProcess, phone: PhoneFactory, transport: str, tmp_path: Path
) -> None:
    callee = free_port()
    with ExitStack() as stack:
        kamailio = proxy(tmp_path / "kamailio", phone=f"sip:bob@127.0.0.1:{callee}", server="sip:127.0.0.1:9")
        stack.callback(kamailio.stop)
        phone(server, "register", user="bob", contact=kamailio.port, contact_transport=transport).done()
        answers = phone(server, "answer", port=callee, calls=5)
        phone(server, "call", callee="bob", calls=5).done()
        answers.done()
        phone(server, "register_cycle", user="bob").done()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_call_that_comes_through_kamailio(
    server: ServerProcess, phone: PhoneFactory, transport: str, tmp_path: Path
) -> None:
    bob = free_port()
    with ExitStack() as stack:
        next_hop = f"sip:127.0.0.1:{server.port};transport={transport}"
        kamailio = proxy(tmp_path / "kamailio", phone="sip:127.0.0.1:9", server=next_hop)
        stack.callback(kamailio.stop)
        phone(server, "register", user="bob", contact=bob).done()
        answers = phone(server, "answer", port=bob, calls=5)
        phone(kamailio, "call", callee="bob", calls=5).done()
        answers.done()
        phone(server, "register_cycle", user="bob").done()
