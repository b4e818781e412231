"""Registrations and calls over TLS through each engine's sample script, with sipp."""

from __future__ import annotations

import pytest

from bench.ports import free_port
from tests.e2e.conftest import PhoneFactory, ServerProcess, wait_for_listener

pytestmark = pytest.mark.usefixtures("pki")


@pytest.mark.parametrize("transport", ["l1", "ln"])
def test_registers_over_tls(server: ServerProcess, phone: PhoneFactory, transport: str) -> None:
    phone(server, "register", user="alice", transport=transport, calls=5).done()
    phone(server, "register_wrong_password", user="alice", password="looking-glass", transport=transport).done()


@pytest.mark.parametrize(("caller", "callee"), [("l1", "u1"), ("u1", "l1"), ("ln", "l1"), ("t1", "l1")])
def test_a_call_between_transports(server: ServerProcess, phone: PhoneFactory, caller: str, callee: str) -> None:
    bob = free_port()
    transport = {"l1": "tls", "t1": "tcp"}.get(callee, "")
    phone(server, "register", user="bob", contact=bob, contact_transport=transport).done()
    answers = phone(server, "answer", port=bob, transport=callee, calls=2)
    if callee != "u1":
        wait_for_listener(answers.port)
    phone(server, "call", callee="bob", transport=caller, calls=2).done()
    answers.done()
    phone(server, "register_cycle", user="bob").done()
