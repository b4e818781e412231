"""The commands of the server itself: names and shapes as in Kamailio."""

from __future__ import annotations

import time
from typing import Any

import pytest

from polykemi.control import commands
from polykemi.control.jsonrpc import JsonRpc
from polykemi.errors import RpcError
from polykemi.kemi.route import Route
from polykemi.kemi.route_stats import RouteStats

STARTED = 1_800_000_000.0
COUNTERS = {"sl.sent_replies": 3, "sl.200_replies": 2, "core.rcv_requests": 5, "usrloc.location-expires": 1}


@pytest.fixture
def stats() -> RouteStats:
    return RouteStats(lambda kind, callback: "lua")


@pytest.fixture
def server(stats: RouteStats) -> JsonRpc:
    server = JsonRpc()
    server.add(
        commands.Core("9.9.9", STARTED, clock=lambda: STARTED + 61.7), commands.Stats(COUNTERS), commands.Routes(stats)
    )
    server.add(commands.System(server.commands))
    return server


def call(server: JsonRpc, method: str, *params: Any) -> Any:
    return server.commands[method].run(params)


def test_version_and_uptime(server: JsonRpc) -> None:
    assert call(server, "core.version") == "polykemi 9.9.9"
    up, now = time.ctime(STARTED), time.ctime(STARTED + 61)
    assert call(server, "core.uptime") == {"now": now, "up_since": up, "uptime": 61}


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        (
            ["all"],
            ["core:rcv_requests = 5", "sl:200_replies = 2", "sl:sent_replies = 3", "usrloc:location-expires = 1"],
        ),
        (["sl:"], ["sl:200_replies = 2", "sl:sent_replies = 3"]),
        (["sl"], ["sl:200_replies = 2", "sl:sent_replies = 3"]),
        (["rcv_requests"], ["core:rcv_requests = 5"]),
        (["sl.sent_replies"], ["sl:sent_replies = 3"]),
        (["sl:sent_replies", "core:"], ["sl:sent_replies = 3", "core:rcv_requests = 5"]),
        (["sent_replies", "sl.sent_replies"], ["sl:sent_replies = 3"]),
        (["nothing"], []),
    ],
)
def test_statistics_are_chosen_by_group_and_name(server: JsonRpc, names: list[str], lines: list[str]) -> None:
    assert call(server, "stats.get_statistics", *names) == lines


def test_statistics_as_an_object_of_texts_or_numbers(server: JsonRpc) -> None:
    assert call(server, "stats.fetch", "sl:") == {"sl.200_replies": "2", "sl.sent_replies": "3"}
    assert call(server, "stats.fetchn", "sl:") == {"sl.200_replies": 2, "sl.sent_replies": 3}


def test_statistics_want_to_be_named(server: JsonRpc) -> None:
    with pytest.raises(RpcError, match=r"expected name \[names\.\.\.\]"):
        call(server, "stats.get_statistics")


def test_route_stats_are_in_microseconds(server: JsonRpc, stats: RouteStats) -> None:
    block = stats.of(Route.FAILURE, "ksr_failure_manage")
    for seconds in (0.000_001, 0.000_002_5):
        block.add(seconds)
    assert call(server, "route.stats") == [
        {
            "kind": "failure_route",
            "block": "ksr_failure_manage",
            "engine": "lua",
            "cnt": 2,
            "sum_us": 3.5,
            "min_us": 1.0,
            "max_us": 2.5,
            "avg_us": 1.8,
        }
    ]


def test_route_reset_begins_anew(server: JsonRpc, stats: RouteStats) -> None:
    stats.of(Route.REQUEST, "main").add(1.0)
    assert call(server, "route.reset") == {}
    assert call(server, "route.stats") == []


def test_the_methods_are_listed_and_explained(server: JsonRpc) -> None:
    names = call(server, "system.listMethods")
    assert names == sorted(server.commands)
    for name in names:
        assert call(server, "system.methodHelp", name).startswith(f"{name}: ")
    with pytest.raises(RpcError, match=r"did you mean route\.stats"):
        call(server, "system.methodHelp", "route.stat")
