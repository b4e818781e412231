"""pipelimit: limits traffic by pipes with names, from the database or made by the script (Kamailio: pipelimit)."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import DataError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.pipes import ALGORITHMS, Pipe, Pipes, setpoint_error

log = logging.getLogger("polykemi.script")

_NO_PIPE: Final = -2
_NOP: Final = 2
_ON_REQUESTS: Final = Route.REQUEST | Route.BRANCH | Route.FAILURE | Route.ONSEND


@dataclass(frozen=True, slots=True)
class PipelimitParams:
    """Kamailio's names and defaults."""

    timer_interval: int = 10  # seconds; limits are for one interval
    plp_table_name: str = "pl_pipes"
    plp_pipeid_column: str = "pipeid"
    plp_limit_column: str = "plimit"
    plp_algorithm_column: str = "algorithm"
    reply_code: int = 503
    reply_reason: str = "Server Unavailable"
    clean_unused: int = 0  # intervals without a request after which a pipe is forgotten, 0: never

    def __post_init__(self) -> None:
        if self.timer_interval < 1:
            raise ValueError("timer_interval: expected 1 or more seconds")
        if not 300 <= self.reply_code <= 699:
            raise ValueError("reply_code: expected a final status from 300 to 699")


class Pipelimit(Module):
    """Pipes by name."""

    name = "pipelimit"
    Params = PipelimitParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._pipes = Pipes(self.params.timer_interval, per=1, clean_unused=self.params.clean_unused)

    def start(self, now: float) -> None:
        """Read the table of pipes. Raise DataError."""
        p = self.params
        columns = ", ".join(f'"{c}"' for c in (p.plp_pipeid_column, p.plp_algorithm_column, p.plp_limit_column))
        for name, algorithm, limit in self.services.database.query(f'SELECT {columns} FROM "{p.plp_table_name}"'):
            if algorithm.upper() not in ALGORITHMS:
                raise DataError(f"{p.plp_table_name}: pipe {name}: there is no algorithm {algorithm!r}")
            self._pipes.pipes[str(name)] = Pipe(algorithm.upper(), int(limit))
        if reason := setpoint_error(self._pipes.pipes.values()):
            raise DataError(f"{p.plp_table_name}: {reason}")

    @export()
    def pl_check(self, ctx: RouteContext, name: str) -> int:
        """Count the message in a pipe: 1 when it may pass, -1 over the limit, -2 without such a pipe, 2 with NOP."""
        pipe = self._pipes.pipes.get(name)
        if pipe is None:
            log.error("pipelimit.pl_check: there is no pipe %r", name)
            return _NO_PIPE
        if pipe.algorithm == "NOP":
            pipe.counter += 1
            log.error("pipelimit.pl_check: no algorithm for pipe %r", name)
            return _NOP
        return self._pipes.push(pipe, ctx.now)

    @export()
    def pl_check_limit(self, ctx: RouteContext, name: str, algorithm: str, limit: int) -> int:
        """Count like ``pl_check``; make the pipe when it is missing, else give it ``limit`` when that is above 0."""
        pipe = self._pipes.pipes.get(name)
        if pipe is None:
            if algorithm.upper() not in ALGORITHMS:
                log.error("pipelimit.pl_check_limit: there is no algorithm %r", algorithm)
                return _NO_PIPE
            self._pipes.pipes[name] = Pipe(algorithm.upper(), limit)
        elif limit > 0:
            pipe.limit = limit
        return self.pl_check(ctx, name)

    @export()
    def pl_active(self, ctx: RouteContext, name: str) -> int:
        """Tell whether there is such a pipe: 1 or -1."""
        return 1 if name in self._pipes.pipes else -1

    @export(routes=_ON_REQUESTS)
    def pl_drop(self, ctx: RouteContext) -> int:
        """Reply with reply_code and reply_reason. Answers as ``sl.send_reply``."""
        return self.pl_drop_range(ctx, 0, 0)

    @export(routes=_ON_REQUESTS)
    def pl_drop_retry(self, ctx: RouteContext, rafter: int) -> int:
        """Reply like ``pl_drop``, with ``rafter`` seconds in Retry-After."""
        return self.pl_drop_range(ctx, rafter, rafter)

    @export(routes=_ON_REQUESTS)
    def pl_drop_range(self, ctx: RouteContext, rmin: int, rmax: int) -> int:
        """Reply like ``pl_drop``, with a Retry-After of ``rmin`` to ``rmax`` seconds by chance; without it when one is 0."""
        if rmin > 0 and rmax > 0:
            seconds = random.randint(rmin, rmax) if rmin < rmax else rmin
            ctx.reply_headers.append(f"Retry-After: {seconds}")
        return int(self.services.modules["sl"].send_reply(ctx, self.params.reply_code, self.params.reply_reason))

    # ---- commands
    @rpc("pl.list")
    def list_pipes(self, name: str = "") -> Any:
        """List all pipes, or the one with this name."""
        shown = self._pipes.shown()
        if not name:
            return shown
        for pipe in shown:
            if pipe["name"] == name:
                return pipe
        raise RpcError(400, f"Unknown pipe id {name}")

    @rpc("pl.stats")
    def stats(self) -> dict[str, Any]:
        """Tell the load of the pipes, the CPU load that was measured last (0 to 1) and how many of 100 FEEDBACK refuses."""
        controller = self._pipes.controller
        return {"pipes": self._pipes.shown(), "load": controller.load, "drop_rate": controller.drop_rate}

    @rpc("pl.set_pipe")
    def set_pipe(self, name: str, algorithm: str, limit: int) -> None:
        """Give a pipe another algorithm and limit."""
        self._pipes.set(name, algorithm, limit)

    @rpc("pl.get_pid")
    def get_pid(self) -> dict[str, float]:
        """Tell the parameters of the controller of FEEDBACK."""
        return self._pipes.controller.gains

    @rpc("pl.set_pid")
    def set_pid(self, ki: float, kp: float, kd: float) -> None:
        """Set the parameters of the controller of FEEDBACK."""
        controller = self._pipes.controller
        controller.ki, controller.kp, controller.kd = ki, kp, kd

    @rpc("pl.push_load")
    def push_load(self, load: float) -> None:
        """Take ``load`` (0 to 1) as the CPU load, to try FEEDBACK."""
        self._pipes.push_load(load)
