"""baresip registers and calls another baresip through each engine's sample script; media flow between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.e2e.baresip import Baresip
from tests.e2e.conftest import DOMAIN, ServerProcess

TRANSPORTS = [("udp", "udp"), ("tcp", "tcp"), ("tcp", "udp")]


@pytest.fixture(params=TRANSPORTS, ids="-".join)
def phones(request: pytest.FixtureRequest, server: ServerProcess, tmp_path: Path) -> Iterator[tuple[Baresip, Baresip]]:
    """Alice's and Bob's phones, registered."""
    with ExitStack() as stack:
        alice, bob = (
            stack.enter_context(closing(Baresip(user, tmp_path / user, server.port, transport)))
            for user, transport in zip(("alice", "bob"), request.param, strict=True)
        )
        for phone in (alice, bob):
            phone.registered()
        yield alice, bob


def test_calls(phones: tuple[Baresip, Baresip]) -> None:
    alice, bob = phones
    alice.tell("dial", f"sip:bob@{DOMAIN}")
    bob.until("CALL_INCOMING")
    alice.until("CALL_RINGING")
    bob.tell("accept")
    for phone in (alice, bob):
        phone.until("CALL_ESTABLISHED")
    for phone in (alice, bob):
        phone.until("CALL_RTPESTAB")
    bob.tell("hangup")
    for phone in (alice, bob):
        phone.until("CALL_CLOSED")

    bob.tell("dial", f"sip:alice@{DOMAIN}")
    alice.until("CALL_INCOMING")
    alice.tell("hangup")
    assert bob.until("CALL_CLOSED").startswith("486")
