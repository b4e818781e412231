"""The tests, and one measurement: a server that runs, one load, the figures."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import sipp
from bench.procfs import Watch, memory
from bench.servers import CALLED, CALLERS, DOMAIN, MEMORY_DOMAIN, Server

GRACE = 6.0  # seconds after the last start at which sipp is stopped
FAILED = 0.001  # the share of calls that may fail where a server keeps up
KEPT = 0.95  # the share of the offered rate that it then reaches


@dataclass(frozen=True)
class Test:
    """A load. ``rate``: calls that sipp starts a second; ``seconds``: of load in a round."""

    name: str
    title: str
    unit: str  # what the figures are about
    units: int  # of them in one call of sipp's
    scenario: str
    rate: int
    seconds: float = 3.0
    domain: str = DOMAIN
    hold: int = 0  # milliseconds between ACK and BYE
    timed: bool = False  # Kamailio's time in the route is taken too, in a run of its own

    @property
    def called(self) -> bool:
        """Tell whether there is a called side."""
        return self.scenario == "caller"


TESTS = {
    test.name: test
    for test in (
        Test("options", "OPTIONS, answered statelessly", "request", 1, "options", 4000),
        Test("register", "REGISTER, password in the database", "message", 2, "register", 4000, timed=True),
        Test(
            "memory", "REGISTER, password in memory", "message", 2, "register", 4000, domain=MEMORY_DOMAIN, timed=True
        ),
        Test("call", "INVITE to BYE, relayed statefully", "call", 1, "caller", 1500, hold=100),
    )
}


@dataclass(frozen=True)
class Figures:
    """What one run gave. CPU in microseconds, rates per second, times in seconds, memory in kB, busy in cores."""

    n: int
    offered: float
    failed: int
    retransmissions: int
    achieved: float
    cpu: float  # per unit of the test
    server_busy: float
    sipp_busy: float
    others_busy: float  # processes that have nothing to do with it
    stolen: float  # what the machine's host gave to other guests
    rss: int
    pss: int
    route: float | None  # microseconds in the request route, average
    route_runs: int | None

    @property
    def kept_up(self) -> bool:
        """Tell whether hardly any call failed and no queue was left to work off."""
        return self.failed < FAILED * self.n and self.achieved >= KEPT * self.offered

    def as_json(self) -> dict[str, Any]:
        """Return all figures by name."""
        return asdict(self) | {"kept_up": self.kept_up}


def measure(server: Server, test: Test, n: int, rate: float, directory: Path) -> Figures:
    """Put one load on ``server``: ``n`` calls, ``rate`` a second. Raise ValueError when sipp could not do it."""
    callee = None
    try:
        users = CALLERS
        if test.called:
            users = CALLED
            callee, port = sipp.answer("callee", server.port, directory)
            _register_callees(server, port, directory)
        route = server.route_time()
        watch = Watch(server.pid)
        began = time.monotonic()
        load = sipp.call(
            test.scenario, server.port, directory, users=users, domain=test.domain, n=n, rate=rate, hold=test.hold
        )
        try:
            sipp_cpu = load.wait(n / rate + test.hold / 1000 + GRACE)
        finally:
            load.stop()
        wall = time.monotonic() - began
        watch.end()
        held = memory(watch.members)
        others = watch.others([os.getpid()] + ([callee.pid] if callee else []))
        if callee:
            sipp_cpu += watch.cpu([callee.pid])
    finally:
        if callee:
            callee.stop()
    after = server.route_time() if route is not None else None
    in_route = after.since(route) if after is not None and route is not None else None
    counted = load.statistics()
    cpu = watch.server_cpu
    return Figures(
        n=n,
        offered=rate,
        failed=n - counted.successful,  # failed, or not done in time
        retransmissions=counted.retransmissions,
        achieved=counted.successful / max(counted.seconds - test.hold / 1000, 1e-6),
        cpu=cpu * 1e6 / (n * test.units),
        server_busy=cpu / wall,
        sipp_busy=sipp_cpu / wall,
        others_busy=others / wall,
        stolen=watch.stolen / wall,
        rss=held.rss,
        pss=held.pss,
        route=in_route.average if in_route else None,
        route_runs=in_route.runs if in_route else None,
    )


def _register_callees(server: Server, port: int, directory: Path) -> None:
    """Register the called users at the port of the called side."""
    n = len(CALLED)
    phones = sipp.call("register", server.port, directory, users=CALLED, domain=DOMAIN, n=n, rate=400, contact=port)
    try:
        phones.wait(n / 400 + GRACE)
    finally:
        phones.stop()
    if (done := phones.statistics().successful) != n:
        raise ValueError(f"only {done} of {n} called users could be registered")
