"""Matching and timers of the transaction layer (RFC 3261 sections 17.1.3, 17.2.3), and the choice of the best response."""

from __future__ import annotations

import random

import pytest

from polykemi.errors import ParseError
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Request, Response, parse
from polykemi.transaction.forking import Branch, Transaction, preference
from polykemi.transaction.layer import TransactionLayer, dialog_key, server_key
from polykemi.transaction.machine import Machine, ServerTransaction, Timings
from polykemi.transaction.tables import ACCEPTED, COMPLETED, TIMER_A, TIMER_B
from polykemi.transaction.target import Shared, Target
from polykemi.transaction.timers import LAP, Timers

FLOW = Flow(Listener("udp", "192.0.2.1", 5060), "192.0.2.10", 5060)
START = 1_800_000_000.0


def message(
    method: str, via: str = "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKa", cseq: int = 1, uri: str = "sip:b@x"
) -> Request:
    """Return a request with this Via."""
    text = (
        f"{method} {uri} SIP/2.0\r\nVia: {via}\r\nFrom: <sip:a@x>;tag=a\r\nTo: <sip:b@x>\r\nCall-ID: c\r\n"
        f"CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
    )
    parsed = parse(text.encode())
    assert isinstance(parsed, Request)
    return parsed


def reply(status: int, branch: str, method: str) -> Response:
    """Return a response to a request of ours."""
    text = (
        f"SIP/2.0 {status} R\r\nVia: SIP/2.0/UDP 192.0.2.1;branch={branch}\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKa\r\n"
        f"From: <sip:a@x>;tag=a\r\nTo: <sip:b@x>;tag=b\r\nCall-ID: c\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )
    parsed = parse(text.encode())
    assert isinstance(parsed, Response)
    return parsed


def transaction(request: Request, layer: TransactionLayer) -> Transaction:
    """Return the open transaction of ``request``."""
    t = Transaction(server_key(request), request, FLOW, ("", 0, FLOW), layer.timings, Shared(), START)
    layer.open_server(t)
    return t


def layer_and_sent() -> tuple[TransactionLayer, list[bytes]]:
    sent: list[bytes] = []
    return TransactionLayer(lambda data, flow: sent.append(data)), sent


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (message("INVITE"), True),
        (message("INVITE", uri="sip:changed@x"), True),  # the branch alone counts
        (message("ACK"), True),
        (message("CANCEL"), False),
        (message("INVITE", "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKb"), False),
        (message("INVITE", "SIP/2.0/UDP 192.0.2.99;branch=z9hG4bKa"), False),  # somebody else's branch
        (message("INVITE", "SIP/2.0/UDP 192.0.2.10:5070;branch=z9hG4bKa"), False),
    ],
)
def test_requests_with_one_branch_sent_by_and_method_are_one_transaction(other: Request, same: bool) -> None:
    assert (server_key(other) == server_key(message("INVITE"))) is same


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (message("INVITE", "SIP/2.0/UDP 192.0.2.10;branch=1"), True),
        (message("ACK", "SIP/2.0/UDP 192.0.2.10;branch=1"), True),
        (message("INVITE", "SIP/2.0/UDP 192.0.2.10;branch=1", uri="sip:changed@x"), False),
        (message("INVITE", "SIP/2.0/UDP 192.0.2.10;branch=1", cseq=2), False),
        (message("INVITE", "SIP/2.0/UDP 192.0.2.10;branch=2"), False),
    ],
)
def test_requests_of_rfc_2543_clients_are_told_apart_by_their_headers(other: Request, same: bool) -> None:
    assert (server_key(other) == server_key(message("INVITE", "SIP/2.0/UDP 192.0.2.10;branch=1"))) is same


def test_a_bare_magic_cookie_is_no_branch() -> None:
    via = "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK"
    assert server_key(message("INVITE", via)) != server_key(message("INVITE", via, cseq=2))


def test_a_request_without_via_is_refused() -> None:
    layer, _ = layer_and_sent()
    bad = parse(b"OPTIONS sip:b@x SIP/2.0\r\nCall-ID: c\r\n\r\n")
    assert isinstance(bad, Request)
    with pytest.raises(ParseError):
        layer.absorb(bad, START)


@pytest.mark.parametrize("is_idle", [True, False])
@pytest.mark.parametrize("branch", ["1", "z9hG4bK"])
def test_what_is_refused_does_not_depend_on_the_transactions_that_are_there(is_idle: bool, branch: str) -> None:
    layer, _ = layer_and_sent()
    if not is_idle:
        transaction(message("INVITE"), layer)
    text = f"OPTIONS sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch={branch}\r\nFrom: <\r\nCall-ID: c\r\n\r\n"
    bad = parse(text.encode())
    assert isinstance(bad, Request)
    with pytest.raises(ParseError):
        layer.absorb(bad, START)


def test_the_ack_to_a_2xx_is_not_absorbed_even_with_the_invites_branch() -> None:
    layer, _ = layer_and_sent()
    t = transaction(message("INVITE"), layer)
    assert not layer.absorb(message("ACK"), START)
    layer.respond(t, 200, b"200", START)
    assert not layer.absorb(message("ACK"), START)
    layer.add_alias(t, dialog_key(message("INVITE")))
    other_branch = message("ACK", "SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKother")
    assert layer.by_alias(dialog_key(other_branch)) is t
    layer.run_timers(START + 32)
    assert layer.by_alias(dialog_key(other_branch)) is None


def test_a_response_belongs_to_the_client_with_its_branch_and_method() -> None:
    layer, _ = layer_and_sent()
    t = transaction(message("INVITE"), layer)
    branch = Branch(t, "z9hG4bKours", "INVITE", FLOW, layer.timings, Target("sip:b@192.0.2.20"))
    branch.data = b"INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKours\r\nCSeq: 1 INVITE\r\n\r\n"
    layer.open_client(branch, START)
    assert layer.client_of(reply(180, "z9hG4bKours", "INVITE")) is branch
    assert layer.client_of(reply(180, "z9hG4bKours", "OPTIONS")) is None
    assert layer.client_of(reply(200, "z9hG4bKours", "CANCEL")) is None
    assert layer.client_of(reply(180, "z9hG4bKother", "INVITE")) is None
    assert layer.client_of_request("z9hG4bKours", "ACK") is branch
    layer.close(branch)
    assert layer.client_of(reply(180, "z9hG4bKours", "INVITE")) is None
    assert layer.run_timers(START + 3600) is None
    assert layer.next_timeout() is None


def test_changed_timings_count_from_now() -> None:
    layer, _ = layer_and_sent()
    t = transaction(message("OPTIONS"), layer)
    branch = Branch(t, "z9hG4bKours", "OPTIONS", FLOW, layer.timings, Target("sip:b@192.0.2.20"))
    branch.data = b"x"
    layer.restart_timeouts(branch, START)  # not sent yet: nothing runs
    assert layer.next_timeout() is None
    layer.open_client(branch, START)
    branch.expires = START + 10
    layer.restart_timeouts(branch, START + 1)
    assert layer.run_timers(START + 9.9) is None
    assert layer.run_timers(START + 10) is branch
    layer.restart_timeouts(branch, START + 11)
    assert layer.run_timers(START + 11) is None
    assert layer.run_timers(START + 15) is None  # Timer K
    assert layer.next_timeout() is None


def test_an_expired_limit_fails_at_once() -> None:
    layer, _ = layer_and_sent()
    t = transaction(message("INVITE"), layer)
    blind = Branch(t, "z9hG4bKours", "INVITE", FLOW, layer.timings, Target("sip:b@x"))
    blind.expires = START - 5
    layer.wait(blind, START)
    assert layer.run_timers(START) is blind


CONNECTION = Flow(Listener("tcp", "192.0.2.1", 5060), "192.0.2.20", 5060)
SOCKET = Flow(Listener("ws", "192.0.2.1", 80), "192.0.2.20", 49152)


@pytest.mark.parametrize(
    ("method", "flow", "statuses", "fails"),
    [
        ("INVITE", CONNECTION, (), True),
        ("INVITE", CONNECTION, (180,), False),  # its peer may call us to answer
        ("INVITE", CONNECTION, (486,), False),
        ("MESSAGE", CONNECTION, (), True),
        ("MESSAGE", CONNECTION, (100,), True),
        ("MESSAGE", CONNECTION, (200,), False),
        ("INVITE", SOCKET, (180,), True),  # a browser cannot
        ("INVITE", SOCKET, (180, 200), False),
    ],
)
def test_clients_fail_with_their_connection(method: str, flow: Flow, statuses: tuple[int, ...], fails: bool) -> None:
    layer, _ = layer_and_sent()
    t = transaction(message(method), layer)
    branch = Branch(t, "z9hG4bKx", method, flow, layer.timings, Target("sip:b@x"))
    branch.data = message(method, "SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKx").raw
    layer.open_client(branch, START)
    for status in statuses:
        layer.receive(branch, reply(status, "z9hG4bKx", method), START)
    other = Flow(flow.listener, flow.host, flow.port + 1)
    assert layer.lost(other, START) == []
    assert layer.lost(flow, START) == ([branch] if fails else [])
    assert branch.is_terminated or not fails
    assert layer.lost(flow, START) == []


def test_nothing_is_kept_of_connections_whose_clients_have_ended() -> None:
    layer, _ = layer_and_sent()
    t = transaction(message("MESSAGE"), layer)
    for n in range(3):
        branch = Branch(t, f"z9hG4bK{n}", "MESSAGE", CONNECTION, layer.timings, Target("sip:b@x"))
        layer.open_client(branch, START)
        layer.close(branch)
    assert not layer._connected


def test_the_order_of_preference_among_final_responses() -> None:
    statuses = [503, 500, 487, 404, 407, 302, 603, 408]
    assert sorted(statuses, key=preference) == [603, 302, 407, 404, 487, 408, 500, 503]


def test_a_transaction_let_go_keeps_its_request_only_where_more_2xx_may_come() -> None:
    layer, _ = layer_and_sent()
    t = transaction(message("INVITE"), layer)
    branch = Branch(t, "z9hG4bKours", "INVITE", FLOW, layer.timings, Target("sip:b@x"))
    branch.state = ACCEPTED
    branch.on_reply = "REPLY"
    t.branches.append(branch)
    t.let_go()
    assert t.request.method == "INVITE"
    assert branch.transaction is t
    branch.state = COMPLETED
    t.branches.append(branch)
    t.let_go()
    assert branch.transaction is None
    with pytest.raises(LookupError):
        _ = t.request


# ---- timers
def owner(number: int = 0) -> Machine:
    """Return something that has timers."""
    return ServerTransaction(str(number), "OPTIONS", FLOW, Timings())


def test_timers_fire_in_order_whatever_their_lengths() -> None:
    rng = random.Random(1)
    timers = Timers({0.5, 1.0, 32.0})
    owners = [owner(i) for i in range(300)]
    resends = [rng.choice([0.5, 1.0, 16.0, rng.uniform(0, 20)]) for _ in owners]
    limits = [rng.choice([0.5, 1.0, 32.0, 120.0, rng.uniform(0, 200)]) for _ in owners]
    for machine, resend, limit in zip(owners, resends, limits, strict=True):
        timers.start_resend(machine, TIMER_A, resend, START)
        timers.start_limit(machine, TIMER_B, limit, START)
    stopped = set(rng.sample(range(300), 100))
    for i in stopped:
        owners[i].resend_at = owners[i].limit_at = 0.0
    fired: list[tuple[int, int]] = []
    now = START
    while (due := timers.next_timeout()) is not None:
        assert due > now
        now = due
        while (found := timers.pop(now)) is not None:
            machine, event = found
            i = int(machine.key)
            assert START + (resends if event == TIMER_A else limits)[i] == now
            fired.append((i, event))
    running = set(range(300)) - stopped
    assert sorted(fired) == sorted([(i, event) for i in running for event in (TIMER_A, TIMER_B)])
    assert len(timers) == 0


def test_nothing_is_due_before_its_time() -> None:
    timers, machine = Timers({1.0}), owner()
    timers.start_resend(machine, 7, 1.0, START)
    assert timers.pop(START + 0.999) is None
    assert timers.pop(START + 1.0) == (machine, 7)
    assert timers.pop(START + 100) is None


def test_a_timer_that_is_started_again_fires_once_and_at_its_last_time() -> None:
    timers, machine = Timers({5.0, 32.0}), owner()
    timers.start_limit(machine, 1, 32.0, START)
    timers.start_limit(machine, 2, 5.0, START + 1)  # earlier
    timers.start_limit(machine, 3, 120.0, START + 2)  # later
    timers.start_resend(machine, 4, 5.0, START)
    timers.start_resend(machine, 5, 5.0, START + 3)
    fired = []
    while (due := timers.next_timeout()) is not None:
        while (found := timers.pop(due)) is not None:
            fired.append((due - START, found[1]))
    assert fired == [(8.0, 5), (122.0, 3)]


def test_stopped_timers_do_not_pile_up() -> None:
    timers = Timers({0.5, 30.0})
    for i in range(20_000):
        now = START + i
        machine = owner(i)
        timers.start_resend(machine, 1, 0.5, now)
        timers.start_limit(machine, 2, 30.0 if i % 2 else 3600.0, now)
        machine.resend_at = machine.limit_at = 0.0
        assert timers.pop(now) is None
        assert len(timers) <= 2 * (LAP + 1)
    assert timers.pop(START + 30_000) is None
    assert timers.next_timeout() is None
    assert len(timers) == 0


def test_a_timer_that_is_moved_costs_no_entry() -> None:
    timers, machine = Timers({30.0, 120.0}), owner()
    for i in range(1000):
        timers.start_limit(machine, 1, 120.0, START + i / 100)
    assert len(timers) == 1


def test_a_clock_that_is_set_back_does_not_hold_timers_up() -> None:
    timers, late, early = Timers({10.0}), owner(), owner()
    timers.start_limit(late, 1, 10.0, START)
    timers.start_limit(early, 2, 10.0, START - 3600)
    assert timers.next_timeout() == START - 3590
    assert timers.pop(START - 3590) == (early, 2)
