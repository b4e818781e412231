"""baresip registers and calls another baresip through each engine's sample script; media flow between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.e2e.baresip import Baresip
from tests.e2e.conftest import DOMAIN, ServerProcess

TRANSPORTS = [("udp", "udp"), ("tcp", "tcp"), ("tls", "tls"), ("tls", "udp"), ("tcp", "tls")]


@pytest.fixture(params=TRANSPORTS, ids="-".join)
def phones(request: pytest.FixtureRequest, server: ServerProcess, tmp_path: Path) -> Iterator[tuple[Baresip, Baresip]]:
    """Alice's and Bob's phones, registered."""
    with ExitStack() as stack:
        made = []
        for user, transport in zip(("alice", "bob"), request.param, strict=True):
            pki = request.getfixturevalue("pki") if transport == "tls" else None
            made.append(stack.enter_context(closing(Baresip(user, tmp_path / user, server, transport, pki))))
        for phone in made:
            phone.registered()
        yield made[0], made[1]


def test_calls(phones: tuple[Baresip, Baresip]) -> None:
    alice, bob = phones
    alice.tell("dial", f"sip:bob@{DOMAIN}")
    bob.called()
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
    alice.called()
    alice.tell("hangup")
    assert bob.until("CALL_CLOSED").startswith("486")
