"""Registrations and calls with sipp through each engine's sample script."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.e2e.conftest import SCRIPTS, PhoneFactory, ServerProcess, make_data


def register(phone: PhoneFactory, server: ServerProcess, user: str, contact: int) -> None:
    """Register ``user`` at the port ``contact``."""
    phone(server, "register", user=user, contact=contact).done()


def unregister(phone: PhoneFactory, server: ServerProcess, user: str) -> None:
    """Remove all contacts of ``user``."""
    phone(server, "register_cycle", user=user).done()


def test_registers_with_the_right_password(server: ServerProcess, phone: PhoneFactory) -> None:
    phone(server, "register", user="alice").done()


def test_a_wrong_password_is_challenged_again(server: ServerProcess, phone: PhoneFactory) -> None:
    phone(server, "register_wrong_password", user="alice", password="looking-glass").done()


def test_an_unknown_user_is_challenged_again(server: ServerProcess, phone: PhoneFactory) -> None:
    phone(server, "register_wrong_password", user="mallory", password="x").done()


def test_registers_refreshes_and_unregisters(server: ServerProcess, phone: PhoneFactory) -> None:
    unregister(phone, server, "carol")
    phone(server, "call_not_found", callee="carol").done()


def test_a_call_from_invite_to_bye(server: ServerProcess, phone: PhoneFactory) -> None:
    bob = free_port()
    register(phone, server, "bob", bob)
    callee = phone(server, "answer", port=bob)
    phone(server, "call", callee="bob").done()
    callee.done()
    unregister(phone, server, "bob")


def test_a_call_to_nobody_gets_404(server: ServerProcess, phone: PhoneFactory) -> None:
    phone(server, "call_not_found", callee="nobody").done()


def test_a_busy_callee(server: ServerProcess, phone: PhoneFactory) -> None:
    bob = free_port()
    register(phone, server, "bob", bob)
    callee = phone(server, "busy", port=bob)
    phone(server, "call_busy", callee="bob").done()
    callee.done()
    unregister(phone, server, "bob")


def test_the_caller_cancels(server: ServerProcess, phone: PhoneFactory) -> None:
    bob = free_port()
    register(phone, server, "bob", bob)
    callee = phone(server, "ring_until_cancel", port=bob)
    phone(server, "call_cancel", callee="bob").done()
    callee.done()
    unregister(phone, server, "bob")


def test_nobody_answers(server: ServerProcess, phone: PhoneFactory) -> None:
    bob = free_port()
    register(phone, server, "bob", bob)
    callee = phone(server, "ring_until_cancel", port=bob)
    phone(server, "call_no_answer", callee="bob").done()
    callee.done()
    unregister(phone, server, "bob")


def test_a_callee_with_two_phones_one_answers_and_the_other_stops_ringing(
    server: ServerProcess, phone: PhoneFactory
) -> None:
    desk, mobile = free_port(), free_port()
    register(phone, server, "bob", desk)
    register(phone, server, "bob", mobile)
    rings = phone(server, "ring_until_cancel", port=desk)
    answers = phone(server, "answer", port=mobile)
    phone(server, "call", callee="bob").done()
    answers.done()
    rings.done()
    unregister(phone, server, "bob")


def test_registrations_and_calls_survive_five_percent_loss(server: ServerProcess, phone: PhoneFactory) -> None:
    bob = free_port()
    register(phone, server, "bob", bob)
    phone(server, "register", user="alice", calls=40, rate=40, lost=5).done()
    callee = phone(server, "answer", port=bob, calls=20)
    caller = phone(server, "call", callee="bob", calls=20, rate=20, lost=5)
    caller.done()
    callee.kill()
    unregister(phone, server, "bob")


@pytest.mark.parametrize("engine", SCRIPTS)
def test_a_contact_that_was_answered_200_survives_kill_9(engine: str, tmp_path: Path, phone: PhoneFactory) -> None:
    server = ServerProcess(make_data(tmp_path / "data"), ["--engine", engine, SCRIPTS[engine]])
    try:
        bob = free_port()
        register(phone, server, "bob", bob)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        server.start()
        callee = phone(server, "answer", port=bob)
        phone(server, "call", callee="bob").done()
        callee.done()
    finally:
        assert server.stop(signal.SIGINT) == 0
