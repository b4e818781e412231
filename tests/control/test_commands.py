"""Counters, route blocks, methods: names and shapes as in Kamailio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polykemi.control import commands
from polykemi.control.jsonrpc import JsonRpc
from polykemi.errors import RpcError
from polykemi.kemi.figures import Counted
from polykemi.kemi.route import Route
from polykemi.kemi.route_stats import RouteStats
from polykemi.testing import ServerUnderTest

COUNTERS = {"sl.sent_replies": 3, "sl.200_replies": 2, "core.rcv_requests": 5, "usrloc.location_expires": 1}


@pytest.fixture
def stats() -> RouteStats:
    return RouteStats()


@pytest.fixture
def server(stats: RouteStats) -> JsonRpc:
    server = JsonRpc()
    server.add(commands.Stats(COUNTERS), commands.Counters(COUNTERS, {}), commands.Routes(stats))
    server.add(commands.System(server.commands))
    return server


def call(server: JsonRpc, method: str, *params: Any) -> Any:
    return server.commands[method].run(params, 0.0)


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        (
            ["all"],
            ["core:rcv_requests = 5", "sl:200_replies = 2", "sl:sent_replies = 3", "usrloc:location_expires = 1"],
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
    with pytest.raises(RpcError, match="Please provide which stats to retrieve"):
        call(server, "stats.get_statistics")


def test_route_stats_are_in_microseconds(server: JsonRpc, stats: RouteStats) -> None:
    block = stats.of(Route.FAILURE, "ksr_failure_manage", "lua")
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
    stats.of(Route.REQUEST, "main", "lua").add(1.0)
    assert call(server, "route.reset") == {}
    assert call(server, "route.stats") == []


def test_the_methods_are_listed_and_explained(server: JsonRpc) -> None:
    names = call(server, "system.listMethods")
    assert names == sorted(server.commands)
    for name in names:
        assert call(server, "system.methodHelp", name).startswith(f"{name}: ")
    with pytest.raises(RpcError, match=r"did you mean route\.stats"):
        call(server, "system.methodHelp", "route.stat")
    assert call(server, "system.methodSignature", "stats.fetch") == "name [names...]"
    with pytest.raises(RpcError, match=r"did you mean route\.stats"):
        call(server, "system.methodSignature", "route.stat")


def test_counters_by_group(server: JsonRpc) -> None:
    assert call(server, "cnt.list_groups") == call(server, "cnt.grps_list") == ["core", "sl", "usrloc"]
    assert call(server, "cnt.list_vars", "sl") == call(server, "cnt.var_list", "sl") == ["200_replies", "sent_replies"]
    values = {"200_replies": 2, "sent_replies": 3}
    assert call(server, "cnt.grp_get_all", "sl") == call(server, "cnt.get_vars", "sl", "x") == values
    assert call(server, "cnt.get", "sl", "sent_replies") == 3
    assert call(server, "cnt.get_raw", "sl", "sent_replies") == 3
    assert call(server, "cnt.get", "sl") == values
    assert call(server, "cnt.help", "sl", "sent_replies") == "kamailio statistic (no description)"
    for method in ("cnt.get", "cnt.get_raw", "cnt.help", "cnt.reset"):
        with pytest.raises(RpcError, match=r"non-existent counter sl\.nothing"):
            call(server, method, "sl", "nothing")


def test_counters_are_reset_one_by_one_and_what_is_worked_out_stays() -> None:
    counters, figures = {"sl.sent_replies": 3, "sl.200_replies": 2}, {"usrloc.location_users": lambda: 7}
    server = JsonRpc()
    server.add(commands.Counters(Counted(counters, figures), counters))
    for name in ("sl.sent_replies", "usrloc.location_users"):
        assert call(server, "cnt.reset", *name.split(".")) == {}
    assert call(server, "cnt.get", "usrloc", "location_users") == 7
    assert call(server, "cnt.get", "sl") == {"200_replies": 2, "sent_replies": 0}


def test_methods_are_described_by_group(server: JsonRpc) -> None:
    groups = {row["group"]: row for row in call(server, "system.groups")}
    assert groups["stats"] == {"group": "stats", "count": 3, "methods": "fetch fetchn get_statistics"}
    assert sum(row["count"] for row in groups.values()) == len(server.commands)
    (row,) = call(server, "system.describe", "cnt.get_v")
    assert row == {
        "method": "cnt.get_vars",
        "parameters": "group [name]",
        "does": "Return all counters of a group; the name is not looked at, as in Kamailio.",
    }
    assert len(call(server, "system.describe")) == len(server.commands)
    with pytest.raises(RpcError, match="no method begins with stat5: unknown, did you mean stats"):
        call(server, "system.describe", "stat5")


def test_what_a_method_does_is_a_whole_sentence_for_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "a.lua").write_text("function ksr_request_route() end\n")
    with ServerUnderTest({"lua": str(tmp_path / "a.lua")}) as made:
        rows = call(made.node.rpc, "system.describe")
    assert {"app.reload", "log.level", "trace.attach"} <= {row["method"] for row in rows}
    assert [row["method"] for row in rows if not row["does"].endswith(".") or "``" in row["does"]] == []
