"""The four machines: every state with every event, two parties over a bad link, and exact timer lengths."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polykemi.sip.build import response
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import Request, Response, parse
from polykemi.transaction.layer import TransactionLayer, server_key
from polykemi.transaction.machine import ClientTransaction, Machine, ServerTransaction, Timings
from polykemi.transaction.tables import (
    ACK,
    CANCELED,
    COMPLETED,
    CONFIRMED,
    INVITE_CLIENT,
    INVITE_SERVER,
    NON_INVITE_CLIENT,
    NON_INVITE_SERVER,
    RECEIVE_1XX,
    RECEIVE_2XX,
    RECEIVE_3XX_6XX,
    RECEIVE_AGAIN,
    REQUEST,
    SEND_1XX,
    SEND_2XX,
    SEND_3XX_6XX,
    START_A,
    STATES,
    TERMINATED,
    TIMER_A,
    TIMER_B,
    TIMER_C,
    TIMER_D,
    TIMER_E,
    TIMER_F,
    TIMER_G,
    TIMER_H,
    TIMER_I,
    TIMER_J,
    TIMER_K,
    TIMER_L,
    TIMER_M,
    TRANSPORT_ERROR,
    Table,
)

CLIENT_FLOW = Flow(Listener("udp", "192.0.2.1", 5060), "192.0.2.2", 5060)
SERVER_FLOW = Flow(Listener("udp", "192.0.2.2", 5060), "192.0.2.1", 5060)
START = 1_800_000_000.0

_CLIENT = {RECEIVE_1XX, RECEIVE_2XX, RECEIVE_3XX_6XX, TRANSPORT_ERROR}
_SERVER = {REQUEST, SEND_1XX, SEND_2XX, SEND_3XX_6XX}
MACHINES: list[tuple[Table, set[int]]] = [
    (
        INVITE_CLIENT,
        _CLIENT | {CANCELED, RECEIVE_AGAIN, TIMER_A, TIMER_B, TIMER_C, TIMER_D, TIMER_M},
    ),
    (NON_INVITE_CLIENT, _CLIENT | {TIMER_E, TIMER_F, TIMER_K}),
    (
        INVITE_SERVER,
        _SERVER | {ACK, TRANSPORT_ERROR, TIMER_G, TIMER_H, TIMER_I, TIMER_L},
    ),
    (NON_INVITE_SERVER, _SERVER | {TIMER_J}),
]


def request(method: str, branch: str = "z9hG4bK1") -> bytes:
    """Return a request as a client transaction sends it: our Via first."""
    return (
        f"{method} sip:b@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch={branch}\r\n"
        f"From: <sip:a@example.test>;tag=a\r\nTo: <sip:b@example.test>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def parsed(data: bytes) -> Request:
    """Return the request in ``data``."""
    message = parse(data)
    assert isinstance(message, Request)
    return message


def final(invite: Request, status: int) -> bytes:
    """Return a response."""
    return response(invite, status, "Reason", to_tag="b")


# ---- the tables
@pytest.mark.parametrize(("table", "events"), MACHINES)
def test_each_step_leads_to_a_state_of_its_own_machine_by_an_event_that_concerns_it(
    table: Table, events: set[int]
) -> None:
    for row in table.values():
        for event, step in row.items():
            assert event in events
            assert step.state in table
            assert len(set(step.actions)) == len(step.actions)
    assert table[TERMINATED] == {}


@pytest.mark.parametrize(("table", "events"), MACHINES)
def test_every_timer_that_a_machine_starts_is_handled_where_it_can_fire(table: Table, events: set[int]) -> None:
    for row in table.values():
        for step in row.values():
            for action in step.actions:
                if action >= START_A and step.state != TERMINATED:
                    assert action in table[step.state], (step, action)


@pytest.mark.parametrize(("table", "events"), MACHINES)
def test_every_state_can_end(table: Table, events: set[int]) -> None:
    for state in table:
        seen, todo = {state}, [state]
        while todo:
            for step in table[todo.pop()].values():
                if step.state not in seen:
                    seen.add(step.state)
                    todo.append(step.state)
        assert TERMINATED in seen


def machine_for(
    method: str, is_client: bool
) -> tuple[TransactionLayer, ServerTransaction | ClientTransaction, list[bytes]]:
    """Return an open transaction in a layer of its own and what it sends."""
    sent: list[bytes] = []
    layer = TransactionLayer(lambda data, flow: sent.append(data))
    if is_client:
        client = ClientTransaction("z9hG4bK1", method, CLIENT_FLOW, layer.timings, request(method))
        layer.open_client(client, START)
        return layer, client, sent
    server = ServerTransaction(server_key(parsed(request(method))), method, SERVER_FLOW, layer.timings)
    layer.open_server(server)
    return layer, server, sent


def ends(layer: TransactionLayer, machine: Machine) -> float:
    """Let time pass, timer by timer, and return when ``machine`` has ended; nothing is left of it then."""
    now = 0.0
    while not machine.is_terminated:
        due = layer.next_timeout()
        assert due is not None
        assert due > now
        now = due
        layer.run_timers(now)
    assert len(layer) == 0
    assert layer.next_timeout() is None
    return now


@given(
    st.sampled_from(["INVITE", "OPTIONS"]),
    st.lists(st.sampled_from(["request", "ack", 100, 183, 200, 404, 603, "time"])),
)
def test_a_server_transaction_takes_anything_in_any_order_and_ends(method: str, events: list[str | int]) -> None:
    layer, server, _ = machine_for(method, is_client=False)
    assert isinstance(server, ServerTransaction)
    now = START
    req = parsed(request(method))
    for event in events:
        before = server.state
        if event == "request":
            layer.absorb(req, now)
            assert server.state == before
        elif event == "ack" and method == "INVITE":
            layer.absorb(parsed(request("ACK")), now)
            assert server.state == (CONFIRMED if before == COMPLETED else before)
        elif isinstance(event, int):
            took = layer.respond(server, event, final(req, event), now)
            assert took or server.state == before
        elif event == "time":
            due = layer.next_timeout()
            if due is not None:
                now = due
                assert layer.run_timers(now) is None
        assert 0 <= server.state < STATES
    layer.respond(server, 404, b"x", now)
    while (due := layer.next_timeout()) is not None:
        now = due
        layer.run_timers(now)
    assert server.is_terminated
    assert len(layer) == 0


@given(
    st.sampled_from(["INVITE", "OPTIONS"]),
    st.lists(st.sampled_from([100, 183, 200, 404, 603, "time", "error", "cancel"])),
)
def test_a_client_transaction_takes_anything_in_any_order_and_ends(method: str, events: list[str | int]) -> None:
    layer, client, _ = machine_for(method, is_client=True)
    assert isinstance(client, ClientTransaction)
    now = START
    req = parsed(request(method))
    finals = 0
    for event in events:
        if isinstance(event, int):
            reply = parse(final(req, event))
            assert isinstance(reply, Response)
            passed = layer.receive(client, reply, now)
            if passed and event >= 300:
                finals += 1
        elif event == "error":
            layer.transport_error(client, now)
        elif event == "cancel":
            layer.canceled(client, now)
        elif (due := layer.next_timeout()) is not None:
            now = due
            layer.run_timers(now)
        assert 0 <= client.state < STATES
    assert finals <= 1  # retransmitted finals are absorbed
    while (due := layer.next_timeout()) is not None:
        now = due
        layer.run_timers(now)
    assert client.is_terminated
    assert len(layer) == 0


# ---- two parties
class Link:
    """Two layers and a link that loses, duplicates and reorders what they send; one agenda of arrivals and timers."""

    def __init__(self, seed: int, method: str, answers: list[int]) -> None:
        self.random = random.Random(seed)
        self.now = START
        self.agenda: list[tuple[float, int, Callable[[bytes], None], bytes]] = []
        self.client_layer = TransactionLayer(lambda data, flow: self.carry(data, self.at_server))
        self.server_layer = TransactionLayer(lambda data, flow: self.carry(data, self.at_client))
        self.client = ClientTransaction("z9hG4bK1", method, CLIENT_FLOW, self.client_layer.timings, request(method))
        self.server: ServerTransaction | None = None
        self.answers = answers
        self.passed: list[int] = []  # what the client's user got
        self.failed = False

    def carry(self, data: bytes, arrive: Callable[[bytes], None]) -> None:
        """Take a datagram: lost, delayed, doubled."""
        for _ in range(self.random.choice([0, 1, 1, 1, 2])):
            self.agenda.append((self.now + self.random.uniform(0.01, 1.2), len(self.agenda), arrive, data))

    def at_server(self, data: bytes) -> None:
        """A request arrives; a new one is answered by the user with all of its answers, one a second."""
        message = parsed(data)
        if self.server_layer.absorb(message, self.now) or message.method == "ACK":
            return
        if self.server is not None:
            return  # after the end: a new transaction would begin
        self.server = ServerTransaction(server_key(message), message.method, SERVER_FLOW, self.server_layer.timings)
        self.server_layer.open_server(self.server)
        for i, status in enumerate(self.answers):
            self.agenda.append((self.now + i, -1, self.answer, final(message, status)))

    def answer(self, data: bytes) -> None:
        """The server's user sends a response."""
        assert self.server is not None
        self.server_layer.respond(self.server, int(data[8:11]), data, self.now)

    def at_client(self, data: bytes) -> None:
        """A response arrives."""
        message = parse(data)
        assert isinstance(message, Response)
        client = self.client_layer.client_of(message)
        if client is not None and self.client_layer.receive(client, message, self.now):
            self.passed.append(message.status)

    def run(self) -> None:
        """Run until nothing is left to happen."""
        self.client_layer.open_client(self.client, self.now)
        while True:
            timers = [t for t in (self.client_layer.next_timeout(), self.server_layer.next_timeout()) if t is not None]
            arrivals = [entry[0] for entry in self.agenda]
            if not timers and not arrivals:
                return
            self.now = min(timers + arrivals)
            for entry in sorted(e for e in self.agenda if e[0] <= self.now):
                self.agenda.remove(entry)
                entry[2](entry[3])
            while self.client_layer.run_timers(self.now) is not None:
                self.failed = True
            assert self.server_layer.run_timers(self.now) is None


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(
    ("method", "answers"),
    [
        ("INVITE", [100, 180, 486]),
        ("INVITE", [180, 200]),
        ("INVITE", [603]),
        ("OPTIONS", [200]),
        ("OPTIONS", [100, 404]),
    ],
)
def test_over_a_bad_link_both_sides_end_and_the_final_response_arrives_once(
    seed: int, method: str, answers: list[int]
) -> None:
    link = Link(seed, method, answers)
    link.run()
    assert link.client.is_terminated
    assert link.server is None or link.server.is_terminated
    assert len(link.client_layer) == len(link.server_layer) == 0
    finals = [status for status in link.passed if status >= 300]
    assert len(finals) <= 1
    if not link.failed and method == "OPTIONS":
        assert answers[-1] in link.passed
    if method == "INVITE" and answers[-1] >= 300 and link.server is not None and not link.failed:
        assert finals == [answers[-1]]


# ---- timers
@pytest.mark.parametrize(
    ("method", "sent_at"),
    [
        ("INVITE", [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]),
        ("OPTIONS", [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]),
    ],
)
def test_a_request_without_any_response_is_sent_at_the_rfcs_times_and_fails_after_64_t1(
    method: str, sent_at: list[float]
) -> None:
    times: list[float] = []
    failed: list[float] = []
    now = START
    layer = TransactionLayer(lambda data, flow: times.append(now - START))
    client = ClientTransaction("z9hG4bK1", method, CLIENT_FLOW, layer.timings, request(method))
    layer.open_client(client, now)
    while (due := layer.next_timeout()) is not None:
        now = due
        if layer.run_timers(now) is client:
            failed.append(now - START)
    assert times == sent_at
    assert failed == [32]
    assert now - START == (64 if method == "INVITE" else 37)  # what comes late is awaited
    assert client.is_terminated


def test_a_non_invite_in_proceeding_is_sent_every_t2() -> None:
    layer, client, sent = machine_for("OPTIONS", is_client=True)
    assert isinstance(client, ClientTransaction)
    reply = parse(final(parsed(request("OPTIONS")), 100))
    assert isinstance(reply, Response)
    layer.receive(client, reply, START)
    times = []
    while (due := layer.next_timeout()) is not None:
        before = len(sent)
        layer.run_timers(due)
        times += [due - START] * (len(sent) - before)
    assert times == [0.5, 4.5, 8.5, 12.5, 16.5, 20.5, 24.5, 28.5]
    assert client.is_terminated


def test_a_final_response_to_invite_is_sent_until_timer_h() -> None:
    layer, server, sent = machine_for("INVITE", is_client=False)
    assert isinstance(server, ServerTransaction)
    layer.respond(server, 486, b"486", START)
    times = [0.0]
    while (due := layer.next_timeout()) is not None:
        before = len(sent)
        layer.run_timers(due)
        times += [due - START] * (len(sent) - before)
    assert times == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert server.is_terminated


@pytest.mark.parametrize(
    ("method", "is_client", "status", "length"),
    [
        ("INVITE", True, 486, 32),  # D
        ("INVITE", True, 200, 32),  # M
        ("OPTIONS", True, 200, 5),  # K
        ("INVITE", False, 200, 32),  # L
        ("OPTIONS", False, 200, 32),  # J
    ],
)
def test_an_ended_transaction_waits_for_stray_messages_as_long_as_the_rfc_says(
    method: str, is_client: bool, status: int, length: float
) -> None:
    layer, machine, _ = machine_for(method, is_client)
    req = parsed(request(method))
    if isinstance(machine, ClientTransaction):
        reply = parse(final(req, status))
        assert isinstance(reply, Response)
        layer.receive(machine, reply, START)
    else:
        layer.respond(machine, status, final(req, status), START)
    assert ends(layer, machine) == START + length


def test_timer_i_ends_an_acked_invite_after_t4() -> None:
    layer, server, _ = machine_for("INVITE", is_client=False)
    assert isinstance(server, ServerTransaction)
    layer.respond(server, 486, b"486", START)
    assert layer.absorb(parsed(request("ACK")), START + 1)
    assert ends(layer, server) == START + 6


def test_t1_of_a_transaction_rules_all_of_its_timers() -> None:
    timings = Timings(t1=0.1, t2=0.4, fr=6.4)
    layer = TransactionLayer(lambda data, flow: None, timings)
    client = ClientTransaction("z9hG4bK1", "OPTIONS", CLIENT_FLOW, timings, request("OPTIONS"))
    layer.open_client(client, START)
    times = []
    while (due := layer.next_timeout()) is not None:
        layer.run_timers(due)
        times.append(round(due - START, 6))
    assert times[:4] == [0.1, 0.3, 0.7, 1.1]
    assert client.is_terminated
    assert 6.4 in times
    assert times[-1] == 11.4  # Timer K
