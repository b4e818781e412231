"""The counters of route blocks: what they hold, how many there can be, and what is counted in which engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.config import RouteSettings
from polykemi.errors import ScriptError
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.route import Route
from polykemi.kemi.route_stats import OTHERS, BlockStats, RouteStats
from polykemi.router import Router
from polykemi.testing import ServerUnderTest
from polykemi.versions import Version
from tests import support


def counts(stats: RouteStats) -> dict[tuple[str, str], int]:
    return {(block.callback, block.engine): block.cnt for block in stats}


# ---- the record


def test_a_block_keeps_count_sum_least_and_most() -> None:
    block = BlockStats(Route.REQUEST, "ksr_request_route", "lua")
    for seconds in (3.0, 1.0, 2.0):
        block.add(seconds)
    assert (block.cnt, block.sum, block.min, block.max) == (3, 6.0, 1.0, 3.0)


def test_after_a_reset_a_block_counts_anew() -> None:
    stats = RouteStats()
    block = stats.of(Route.REQUEST, "main", "lua")
    block.add(5.0)
    stats.reset()
    assert list(stats) == []
    block.add(0.5)
    assert stats.of(Route.REQUEST, "main", "lua") is block
    assert (block.cnt, block.sum, block.min, block.max) == (1, 0.5, 0.5, 0.5)


def test_one_name_as_two_kinds_of_block_is_two_blocks_each_with_its_engine() -> None:
    stats = RouteStats()
    assert stats.of(Route.REPLY, "x", "js").engine == "js"
    assert stats.of(Route.FAILURE, "x", "lua").engine == "lua"
    assert (
        len({stats.of(Route.FAILURE, "x", "lua"), stats.of(Route.REPLY, "x", "lua"), stats.of(Route.REPLY, "x", "js")})
        == 3
    )


def test_a_block_that_has_not_run_is_not_listed() -> None:
    stats = RouteStats()
    stats.of(Route.REQUEST, "main", "lua")
    assert list(stats) == []


def test_a_script_that_makes_up_names_makes_no_more_than_a_bounded_number_of_records() -> None:
    stats = RouteStats()
    for n in range(5000):
        stats.of(Route.FAILURE, f"made_{n}", "lua").add(1.0)
    found = list(stats)
    assert len(found) == 1025
    assert found[-1].callback == OTHERS
    assert sum(block.cnt for block in found) == 5000


# ---- the router


class Clock:
    """Shows what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedEngine:
    """An engine whose blocks take as long as their name says; "outer" runs a "2" in its middle, "fail" fails after 1 s."""

    name = "lua"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.router: Any = None

    def call(self, function: str, argument: str | None = None) -> None:
        """Let the time pass."""
        if function == "fail":
            self.clock.now += 1.0
            raise ScriptError("x.lua", 1, "no")
        if function == "outer":
            self.clock.now += 1.0
            self.router.drive(self._inner())
            self.clock.now += 1.0
        else:
            self.clock.now += float(function)

    def _inner(self) -> Process[None]:
        yield block("2")


def block(name: str) -> RouteContext:
    """Return a context for a branch route of that name."""
    ctx = support.request_context(support.message("OPTIONS sip:example.test SIP/2.0"), kind=Route.BRANCH)
    ctx.callback = name
    return ctx


@pytest.fixture
def router() -> Router:
    """A router whose clock stands still but for what its engine takes."""
    clock = Clock()
    router = Router(support.services(), send=lambda items: None, clock=clock)
    engine: Any = TimedEngine(clock)
    engine.router = router
    router.start()
    router.take(Version(1, {"lua": engine}, RouteSettings("lua"), 0.0))
    return router


def test_a_run_is_timed_from_call_to_return(router: Router) -> None:
    for _ in range(2):
        router.run(block("0.25"))
    (found,) = router.stats
    assert (found.kind, found.callback, found.engine) == (Route.BRANCH, "0.25", "lua")
    assert (found.cnt, found.sum, found.min, found.max) == (2, 0.5, 0.25, 0.25)


def test_a_block_that_fails_is_counted_too(router: Router) -> None:
    ctx = block("fail")
    router.run(ctx)
    assert ctx.error is not None
    assert [(b.cnt, b.sum) for b in router.stats] == [(1, 1.0)]


def test_the_time_of_a_block_includes_those_that_run_inside_of_it(router: Router) -> None:
    router.run(block("outer"))
    assert {b.callback: b.sum for b in router.stats} == {"outer": 4.0, "2": 2.0}


# ---- the engines

SCRIPTS = {
    "lua": """
function ksr_request_route()
  KSR.tm.t_on_branch("ksr_branch_manage")
  KSR.pv.sets("$du", "sip:192.0.2.20:5060")
  KSR.tm.t_relay()
end
function ksr_branch_manage() end
function ksr_reply_route() end
""",
    "js": """
function ksr_request_route() {
  KSR.tm.t_on_branch("ksr_branch_manage");
  KSR.pv.sets("$du", "sip:192.0.2.20:5060");
  KSR.tm.t_relay();
}
function ksr_branch_manage() {}
function ksr_reply_route() {}
""",
    "python": """
import KSR
def ksr_request_route():
    KSR.tm.t_on_branch("ksr_branch_manage")
    KSR.pv.sets("$du", "sip:192.0.2.20:5060")
    KSR.tm.t_relay()
def ksr_branch_manage(): pass
def ksr_reply_route(): pass
""",
}
REQUEST = support.message("MESSAGE sip:bob@example.test SIP/2.0", "Max-Forwards: 70")


@pytest.fixture(params=SCRIPTS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server that relays, by a branch route."""
    script = tmp_path / f"relay.{request.param}"
    script.write_text(SCRIPTS[request.param])
    with ServerUnderTest({request.param: script}, domains=["example.test"]) as under_test:
        yield under_test


def test_each_engine_counts_its_blocks_those_inside_of_others_too(server: ServerUnderTest) -> None:
    (engine,) = server.node.engines
    server.receive(REQUEST, "192.0.2.10:5060")
    found = {b.callback: b for b in server.node.router.stats}
    assert counts(server.node.router.stats) == {("ksr_request_route", engine): 1, ("ksr_branch_manage", engine): 1}
    assert 0 < found["ksr_branch_manage"].sum < found["ksr_request_route"].sum


@pytest.mark.parametrize("engine", SCRIPTS)
def test_a_block_inside_of_one_of_another_language_is_counted_in_its_own(engine: str, tmp_path: Path) -> None:
    other = "lua" if engine != "lua" else "js"
    scripts = {engine: tmp_path / "outer", other: tmp_path / "inner"}
    for name, path in scripts.items():
        path.write_text(SCRIPTS[name])
    routes = RouteSettings(default=engine, by_kind={Route.BRANCH: other})
    with ServerUnderTest(scripts, routes=routes, domains=["example.test"]) as server:
        server.receive(REQUEST, "192.0.2.10:5060")
        assert counts(server.node.router.stats) == {("ksr_request_route", engine): 1, ("ksr_branch_manage", other): 1}
