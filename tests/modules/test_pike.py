"""pike: sources that send too much are told from the others."""

from __future__ import annotations

import pytest

from polykemi.modules import pike
from polykemi.modules.base import Services
from polykemi.modules.pike import Pike
from tests.support import NOW, message, request_context, services


def server(**params: int) -> Services:
    return services(Pike, params={"pike": {"reqs_density_per_unit": 5, **params}})


def send(made: Services, times: int, now: float = NOW, host: str = "192.0.2.10") -> list[int]:
    data = message("OPTIONS sip:example.test SIP/2.0")
    return [
        made.modules["pike"].pike_check_req(request_context(data, now=now, source=(host, 5060))) for _ in range(times)
    ]


def test_a_source_is_blocked_when_it_sends_more_than_allowed_in_a_unit() -> None:
    made = server()
    assert send(made, 8) == [1, 1, 1, 1, 1, -2, -1, -1]
    assert send(made, 1, host="192.0.2.11") == [1]
    assert made.counters["pike.blocked_ips"] == 1


def test_a_source_stays_blocked_while_it_goes_on_and_is_free_one_quiet_unit_later() -> None:
    made = server()
    send(made, 8)
    assert send(made, 8, NOW + 2) == [-1] * 8
    assert send(made, 3, NOW + 4) == [-1] * 3
    assert send(made, 6, NOW + 6) == [1, 1, 1, 1, 1, -2]
    assert send(made, 1, NOW + 60) == [1]


def test_a_steady_rate_below_the_limit_is_never_blocked() -> None:
    made = server()
    assert [send(made, 5, NOW + 2 * n) for n in range(20)] == [[1] * 5] * 20


def test_an_address_can_be_given() -> None:
    made = server()
    ctx = request_context(message("OPTIONS sip:example.test SIP/2.0"))
    check = made.modules["pike"].pike_check_ip
    assert [check(ctx, "2001:db8::1") for _ in range(3)] + [check(ctx, "[2001:DB8:0::1]") for _ in range(3)] == [
        1
    ] * 5 + [-2]
    assert check(ctx, "bogus") == -1
    assert send(made, 1) == [1]


def test_sources_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pike, "_MAX_SOURCES", 100)
    made = server()
    for n in range(300):
        send(made, 1, host=f"198.51.{n // 256}.{n % 256}")
    assert len(made.modules["pike"]) == 100
    for n in range(200):
        send(made, 1, NOW + 1000, host=f"203.0.{n // 256}.{n % 256}")
    assert len(made.modules["pike"]) == 100


def test_sources_that_are_silent_for_long_are_forgotten() -> None:
    made = server(remove_latency=10)
    for n in range(50):
        send(made, 1, host=f"198.51.100.{n}")
    for n in range(50):
        send(made, 1, NOW + 20, host=f"203.0.113.{n}")
    assert len(made.modules["pike"]) == 50


def test_blocking_is_logged_once_and_only_when_wanted(caplog: pytest.LogCaptureFixture) -> None:
    send(server(), 20)
    assert [record.getMessage() for record in caplog.records] == ["blocked 192.0.2.10"]
    caplog.clear()
    send(server(pike_log_level=-1), 20)
    assert caplog.records == []


def test_a_unit_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling_time_unit"):
        Pike.Params(sampling_time_unit=0)
