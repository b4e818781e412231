"""pike: tells sources that send too many requests (Kamailio: pike)."""

from __future__ import annotations

import heapq
import logging
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import rpc
from polykemi.live import live
from polykemi.modules.base import Module, Services
from polykemi.sip.grammar import to_ip

log = logging.getLogger("polykemi.pike")

ALLOWED: Final = 1
BLOCKED: Final = -1
NEWLY_BLOCKED: Final = -2

_MOST_LISTED: Final = 1000
_MAX_SOURCES: Final = 65536  # when there are more, those that were seen first are forgotten


@dataclass(frozen=True, slots=True)
class PikeParams:
    """Kamailio's names and defaults; times in seconds."""

    sampling_time_unit: int = live(2, "the unit of time in which requests are counted")
    reqs_density_per_unit: int = live(30, "requests that an address may send in one unit")
    remove_latency: int = live(120, "how long an address is known that sends nothing")
    pike_log_level: int = live(1, "blocked and unblocked sources are logged as warnings; -1 and less: not at all")

    def __post_init__(self) -> None:
        if self.sampling_time_unit < 1:
            raise ValueError("sampling_time_unit: expected 1 or more seconds")


class _Source:
    """How often one address was seen in this sampling unit and in the one before."""

    __slots__ = ("blocked", "hits", "hits_before", "unit")

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.hits = 0
        self.hits_before = 0
        self.blocked = False


class Pike(Module):
    """Counts requests by source address in sampling units of time.

    An address is blocked when it sends more than reqs_density_per_unit in one unit, and as long as it goes on so in the
    next ones. Kamailio needs up to three times (IPv6: eight) as many until it blocks an address that it has not seen.
    """

    name = "pike"
    Params = PikeParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._sources: dict[str, _Source] = {}

    @export(routes=Route.REQUEST | Route.ONREPLY | Route.REPLY)
    def pike_check_req(self, ctx: RouteContext) -> int:
        """Count the source of this message. Answers 1, -2 when it is blocked from now on, -1 when it was before."""
        return self._check(ctx.flow.host, ctx.now)

    @export()
    def pike_check_ip(self, ctx: RouteContext, ipaddr: str) -> int:
        """Count ``ipaddr``. Answers as ``pike_check_req``, -1 too for what is no address."""
        address = to_ip(ipaddr)
        return BLOCKED if address is None else self._check(str(address), ctx.now)

    def _check(self, address: str, now: float) -> int:
        unit = int(now // self.params.sampling_time_unit)
        source = self._sources.get(address)
        if source is None:
            self._make_room(unit)
            source = self._sources[address] = _Source(unit)
        limit = self.params.reqs_density_per_unit
        if source.unit != unit:
            source.hits_before = source.hits if unit == source.unit + 1 else 0
            source.hits = 0
            source.unit = unit
            self._sources[address] = self._sources.pop(address)  # those seen last stand last
            if source.blocked and source.hits_before <= limit:
                source.blocked = False
                self._log("unblocked", address)
        source.hits += 1
        if source.blocked:
            return BLOCKED
        if source.hits <= limit:
            return ALLOWED
        source.blocked = True
        self.services.count("pike.blocked_ips")
        self._log("blocked", address)
        return NEWLY_BLOCKED

    def _make_room(self, unit: int) -> None:
        """Forget sources that were not seen for remove_latency, one or two for each new one, and the first when all is full."""
        sources = self._sources
        oldest = unit - self.params.remove_latency // self.params.sampling_time_unit - 1
        for _ in range(2):
            first = next(iter(sources), None)
            if first is None:
                return
            source = sources[first]
            if source.unit < oldest or len(sources) >= _MAX_SOURCES:
                del sources[first]
            else:
                return

    def _log(self, what: str, address: str) -> None:
        if self.params.pike_log_level >= 0:
            log.warning("%s %s", what, address)

    # ---- commands
    @rpc("pike.list")
    def list_blocked(self, *, now: float) -> dict[str, Any]:
        """List the blocked sources, up to 1,000, with the requests of this sampling unit and of the one before."""
        return self._listed(now, hot=True, warm=False)

    @rpc("pike.top")
    def top(self, which: str = "HOT", *, now: float) -> dict[str, Any]:
        """List sources, up to 1,000, those with the most requests first: HOT are blocked, WARM are not, or ALL."""
        which = which.upper()
        if which not in ("ALL", "HOT", "WARM"):
            raise RpcError(500, "Bad argument. Select: ALL, HOT or WARM")
        return self._listed(now, hot=which != "WARM", warm=which != "HOT")

    def _listed(self, now: float, *, hot: bool, warm: bool) -> dict[str, Any]:
        unit, seconds = int(now // self.params.sampling_time_unit), self.params.sampling_time_unit
        rows = []
        for address, source in self._sources.items():
            left = self.params.remove_latency - (unit - source.unit) * seconds
            if left <= 0 or not (hot if source.blocked else warm):
                continue
            age = unit - source.unit  # units since it was seen
            before, current = (source.hits_before, source.hits) if age == 0 else (source.hits * (age == 1), 0)
            rows.append(
                {
                    "ip_addr": address,
                    "leaf_hits_prev": before,
                    "leaf_hits_curr": current,
                    "expires": left,
                    "status": "HOT" if source.blocked else "WARM",
                }
            )
        rows = heapq.nlargest(_MOST_LISTED, rows, key=lambda row: (row["leaf_hits_curr"], row["leaf_hits_prev"]))
        return {"max_hits": self.params.reqs_density_per_unit, "list": rows, "number_of_rows": len(rows)}

    # ---- for tests and statistics
    def __len__(self) -> int:
        return len(self._sources)
