"""dispatcher: whom it probes, what it makes of the answers, and of how long they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from polykemi.errors import DataError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.dispatcher import Dispatcher
from polykemi.modules.dispatcher_sets import DISABLED, INACTIVE, PROBING, TRYING
from polykemi.modules.tm_local import LocalReply, LocalRequest
from polykemi.sip.flow import Flow
from polykemi.sip.message import Response, parse
from polykemi.storage.provisioned import Database
from tests.support import LISTENER, NOW, services

OnEnd = Callable[[LocalReply], Iterable[RouteContext] | None]


class FakeTm:
    """Keeps what it shall send; refuses what goes to a host named ``nowhere``."""

    name = "tm"
    Params = Dispatcher.Params

    def __init__(self, made: Services, params: Any = None) -> None:
        self.asked: list[tuple[LocalRequest, OnEnd]] = []

    def request(self, request: LocalRequest, now: float, on_end: OnEnd) -> int:
        if "nowhere" in request.uri:
            return -400
        self.asked.append((request, on_end))
        return 1

    def answer(self, status: int, now: float) -> list[RouteContext]:
        """End the oldest request; without a response for 408."""
        request, on_end = self.asked.pop(0)
        response = None
        if status != 408:
            data = (
                f"SIP/2.0 {status} Fine\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\nFrom: {request.from_};tag=a\r\n"
                f"To: <{request.to}>;tag=b\r\nCall-ID: c\r\nCSeq: 10 OPTIONS\r\nContent-Length: 0\r\n\r\n"
            )
            parsed = parse(data.encode())
            assert isinstance(parsed, Response)
            response = parsed
        flow = Flow(LISTENER, "192.0.2.20", 5060)
        return list(on_end(LocalReply(request, status, "Fine", response, flow, now)) or ())

    def pv_classes(self) -> dict[str, Any]:
        return {}

    transformations = pv_classes

    def start(self, now: float) -> None:
        pass


def server(*rows: tuple[Any, ...], **params: Any) -> tuple[Dispatcher, FakeTm]:
    """Rows are URI, flags and attributes."""
    database = Database()
    for uri, flags, attrs in rows:
        database.query(
            "INSERT INTO dispatcher (setid, destination, flags, attrs) VALUES (1, ?, ?, ?)", (uri, flags, attrs)
        )
    params = {"ds_ping_interval": 10, "event_callback": "ksr_ds", **params}
    made = services(FakeTm, Dispatcher, params={"dispatcher": params}, database=database)
    return made.modules["dispatcher"], made.modules["tm"]


def test_each_mode_probes_its_destinations_at_each_interval() -> None:
    rows = [
        (f"sip:192.0.2.{20 + flags}", flags, "")
        for flags in (0, INACTIVE, PROBING, PROBING | INACTIVE, DISABLED | PROBING)
    ]
    for mode, expected in ((0, {8, 9}), (1, {0, 1, 8, 9}), (2, {9}), (3, {8, 9})):
        dispatcher, tm = server(*rows, ds_probing_mode=mode)
        assert dispatcher.next_timeout() == NOW + 10
        dispatcher.handle_timer(NOW + 9)
        assert not tm.asked
        dispatcher.handle_timer(NOW + 10)
        assert {int(request.uri[-2:]) - 20 for request, _ in tm.asked} == expected
        assert dispatcher.next_timeout() == NOW + 20


def test_a_probe_says_whence_and_where_it_goes() -> None:
    rows = [
        ("sip:192.0.2.20", 0, ""),
        ("sip:192.0.2.21", 0, "ping_from=sip:me@x;obproxy=sip:192.0.2.30;socket=udp:192.0.2.1:5060"),
    ]
    _, tm = one = server(*rows, ds_probing_mode=1, outbound_proxy="sip:192.0.2.40", ds_ping_method="INFO")
    one[0].handle_timer(NOW + 10)
    requests = {request.uri: request for request, _ in tm.asked}
    first, second = requests["sip:192.0.2.20"], requests["sip:192.0.2.21"]
    assert (first.method, first.from_, first.to, first.dst_uri, first.listener) == (
        "INFO",
        "sip:dispatcher@localhost",
        "sip:192.0.2.20",
        "sip:192.0.2.40",
        None,
    )
    assert (second.from_, second.dst_uri, second.listener) == ("sip:me@x", "sip:192.0.2.30", LISTENER)


def test_answers_change_states_and_run_events() -> None:
    dispatcher, tm = server(("sip:192.0.2.20", PROBING, ""), ds_inactive_threshold=2)
    destination = dispatcher.sets[1].destinations[0]

    def probe(status: int) -> list[RouteContext]:
        dispatcher.handle_timer(dispatcher.next_timeout() or 0)
        return tm.answer(status, NOW + 12)

    assert [block.event for block in probe(500)] == ["dispatcher:dst-down"]
    assert destination.flags == INACTIVE
    destination.flags |= PROBING  # mode 0 probes only what has the flag
    assert probe(200) == []
    assert destination.flags == INACTIVE | PROBING
    (block,) = probe(200)
    assert (block.event, block.callback, block.ruri) == ("dispatcher:dst-up", "ksr_ds", "sip:192.0.2.20")
    assert (block.cache["dispatcher.cause"].code, block.cache["dispatcher.cause"].reason) == (200, "Fine")
    assert destination.flags == 0


def test_what_was_disabled_or_removed_meanwhile_stays_so() -> None:
    dispatcher, tm = server(("sip:192.0.2.20", 0, ""), ds_probing_mode=1)
    destination = dispatcher.sets[1].destinations[0]
    dispatcher.handle_timer(NOW + 10)
    destination.flags = DISABLED
    assert tm.answer(408, NOW + 11) == []
    assert destination.flags == DISABLED
    destination.flags = 0
    dispatcher.handle_timer(NOW + 20)
    dispatcher.services.database.query("DELETE FROM dispatcher")
    dispatcher.read()
    assert tm.answer(408, NOW + 21) == []
    dispatcher, tm = server(("sip:192.0.2.20", PROBING, ""), ds_probing_mode=3)
    dispatcher.handle_timer(NOW + 10)
    dispatcher.sets[1].destinations[0].flags = 0
    assert tm.answer(408, NOW + 11) == []
    assert dispatcher.sets[1].destinations[0].flags == 0


def test_a_probe_that_cannot_be_sent_counts_as_no_answer() -> None:
    dispatcher, _ = server(("sip:nowhere", 0, ""), ds_probing_mode=1, ds_probing_threshold=2)
    destination = dispatcher.sets[1].destinations[0]
    dispatcher.handle_timer(NOW + 10)
    assert destination.flags == TRYING | PROBING
    assert dispatcher.services.events == []
    dispatcher.handle_timer(NOW + 20)
    assert destination.flags == INACTIVE | PROBING
    (block,) = dispatcher.services.events
    assert block.event == "dispatcher:dst-down"
    assert block.cache["dispatcher.cause"].reason == "Sending keepalive failed"


def test_an_operator_stops_the_probes() -> None:
    dispatcher, tm = server(("sip:192.0.2.20", 0, ""), ds_probing_mode=1)
    assert dispatcher.set_pinging() == {"OldPingState": 1}
    assert dispatcher.set_pinging(0) == {"NewPingState": 0, "OldPingState": 1}
    dispatcher.handle_timer(NOW + 10)
    assert not tm.asked
    dispatcher.set_pinging(1)
    dispatcher.handle_timer(NOW + 20)
    assert len(tm.asked) == 1


def test_latency_is_measured_and_congestion_moves_weights() -> None:
    rows = [(f"sip:192.0.2.2{i}", 0, "cc=1;weight=50;rweight=50;latency=20") for i in (0, 1)]
    dispatcher, tm = server(*rows, ds_probing_mode=1, ds_ping_latency_stats=1, ds_latency_estimator_alpha=100)
    slow, quick = (dispatcher.sets[1].find(uri) for uri, _, _ in rows)
    assert slow is not None
    assert quick is not None
    slow.flags = quick.flags = PROBING

    def probe(milliseconds: dict[str, int]) -> None:
        now = dispatcher.next_timeout() or 0
        dispatcher.handle_timer(now)
        for _ in range(2):
            tm.answer(200, now + milliseconds[tm.asked[0][0].uri] / 1000 + 0.0005)

    probe({slow.uri: 65, quick.uri: 20})
    assert (slow.latency.count, slow.latency.maximum) == (10001, 65)
    assert slow.attrs.rweight == 50 - int(slow.latency.estimate - slow.latency.average) == 50 - 40
    assert quick.attrs.rweight == 50
    positions = [dispatcher.sets[1].destinations[i] for i in dispatcher.sets[1].rwlist]
    assert positions.count(slow) in range(16, 20)  # of 100: 10 to 50
    probe({slow.uri: 2000, quick.uri: 900})
    congestion = slow.latency.congestion + quick.latency.congestion
    assert slow.attrs.rweight == congestion * 16 // slow.latency.congestion
    assert quick.attrs.rweight == congestion * 16 // quick.latency.congestion
    dispatcher.handle_timer(dispatcher.next_timeout() or 0)
    for _ in range(2):
        tm.answer(408, NOW + 100)
    assert (slow.latency.timeouts, quick.latency.timeouts) == (1, 1)


def test_probing_needs_tm() -> None:
    with pytest.raises(DataError, match="probing needs the module tm"):
        services(Dispatcher, params={"dispatcher": {"ds_ping_interval": 10}})
