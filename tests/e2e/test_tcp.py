"""Registrations and calls over TCP through each engine's sample script: with sipp, and with phones that keep a connection."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from bench.ports import free_port
from tests.e2e.conftest import DOMAIN, PhoneFactory, ServerProcess, wait_for_listener
from tests.e2e.stream_phone import StreamPhone, values

BOB = f"<sip:bob@{DOMAIN}>"


@pytest.mark.parametrize("transport", ["t1", "tn"])
def test_registers_over_tcp(server: ServerProcess, phone: PhoneFactory, transport: str) -> None:
    phone(server, "register", user="alice", transport=transport, calls=5).done()
    phone(server, "register_wrong_password", user="alice", password="looking-glass", transport=transport).done()


@pytest.mark.parametrize(("caller", "callee"), [("t1", "u1"), ("u1", "t1"), ("tn", "t1")], ids="-".join)
def test_a_call_between_transports(server: ServerProcess, phone: PhoneFactory, caller: str, callee: str) -> None:
    bob = free_port()
    phone(server, "register", user="bob", contact=bob, contact_transport="tcp" if callee == "t1" else "").done()
    answers = phone(server, "answer", port=bob, transport=callee)
    if callee == "t1":
        wait_for_listener(bob)
    phone(server, "call", callee="bob", transport=caller).done()
    answers.done()
    phone(server, "register_cycle", user="bob").done()


@pytest.fixture
def phones(server: ServerProcess) -> Iterator[tuple[StreamPhone, StreamPhone]]:
    """Alice's and Bob's phones, both registered."""
    with ExitStack() as stack:
        alice, bob = (stack.enter_context(closing(StreamPhone(user, server.port))) for user in ("alice", "bob"))
        for phone in (alice, bob):
            phone.register()
        yield alice, bob
        for phone in (alice, bob):
            phone.contact = "*"
            phone.authorized("REGISTER", f"sip:{DOMAIN}", f"<sip:{phone.user}@{DOMAIN}>", "Expires: 0")
            phone.expect("SIP/2.0 200")


def test_a_call_over_the_connections_that_the_phones_have_opened(
    server: ServerProcess, phones: tuple[StreamPhone, StreamPhone]
) -> None:
    alice, bob = phones
    alice.authorized("INVITE", f"sip:bob@{DOMAIN}", BOB)
    invite = bob.expect(f"INVITE sip:bob@{bob.sent_by};transport=tcp SIP/2.0")
    us = f"127.0.0.1:{server.port}"
    assert values(invite, "Via")[0].startswith(f"SIP/2.0/TCP {us};branch=z9hG4bK")
    (route,) = values(invite, "Record-Route")
    assert re.fullmatch(rf"<sip:{us};transport=tcp;lr;ftag=alice1;ticket=[0-9a-f]{{24}}>", route)
    bob.answer(invite, "180 Ringing")
    alice.expect("SIP/2.0 180")
    bob.answer(invite, "200 OK")
    ok = alice.expect("SIP/2.0 200")
    alice.in_dialog("ACK", ok, cseq=2, caller=True)
    bob.expect("ACK ")
    bob.in_dialog("BYE", invite, cseq=1, caller=False)
    bye = alice.expect("BYE ")
    assert not values(bye, "Route")
    alice.answer(bye, "200 OK")
    bob.expect("SIP/2.0 200")


def test_the_caller_cancels_over_tcp(phones: tuple[StreamPhone, StreamPhone]) -> None:
    alice, bob = phones
    call_id = alice.authorized("INVITE", f"sip:bob@{DOMAIN}", BOB)
    invite = bob.expect("INVITE ")
    bob.answer(invite, "180 Ringing")
    ringing = alice.expect("SIP/2.0 180")
    via = values(ringing, "Via")[0].partition(";rport")[0]
    alice.send(
        f"CANCEL sip:bob@{DOMAIN} SIP/2.0\r\nVia: {via}\r\nFrom: {values(ringing, 'From')[0]}\r\nTo: {BOB}\r\n"
        f"Call-ID: {call_id}\r\nCSeq: 2 CANCEL\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    alice.expect("SIP/2.0 200")
    cancel = bob.expect("CANCEL ")
    bob.answer(cancel, "200 OK")
    bob.answer(invite, "487 Request Terminated")
    bob.expect("ACK ")
    alice.acknowledge(alice.expect("SIP/2.0 487"), f"sip:bob@{DOMAIN}")


def test_a_phone_whose_connection_is_gone_is_not_reached(server: ServerProcess) -> None:
    with closing(StreamPhone("carol", server.port)) as carol:
        carol.register()
    with closing(StreamPhone("alice", server.port)) as alice:
        alice.authorized("INVITE", f"sip:carol@{DOMAIN}", f"<sip:carol@{DOMAIN}>")
        failed = alice.expect("SIP/2.0 ")
        assert failed.startswith(("SIP/2.0 503", "SIP/2.0 500", "SIP/2.0 408")), failed
        alice.acknowledge(failed, f"sip:carol@{DOMAIN}")


def test_a_phone_whose_connection_ends_while_it_is_called_is_given_up_at_once(
    server: ServerProcess, phones: tuple[StreamPhone, StreamPhone]
) -> None:
    alice, _ = phones
    with closing(StreamPhone("carol", server.port)) as carol:
        carol.register()
        call_id = alice.authorized("INVITE", f"sip:carol@{DOMAIN}", f"<sip:carol@{DOMAIN}>")
        carol.expect("INVITE ")
    failed = alice.expect("SIP/2.0 5")  # Timer B would take half a minute
    assert values(failed, "Call-ID") == [call_id]
    alice.acknowledge(failed, f"sip:carol@{DOMAIN}")
