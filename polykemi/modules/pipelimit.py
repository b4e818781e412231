"""pipelimit: pipes by name, made when they are needed, each of which lets so many messages pass (Kamailio: pipelimit)."""

from __future__ import annotations

import logging
import random
import re
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import DataError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.route import Route
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.ratelimit_pipe import ALGORITHMS, CpuLoad, Feedback, Pipe

log = logging.getLogger("polykemi.script")

MOST_PIPES: Final = 100_000  # their names come from scripts, which may make them of what phones send

_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_BAD_REQUEST: Final = 400
_REPLYING: Final = Route.REQUEST | Route.BRANCH | Route.FAILURE | Route.ONSEND


@dataclass(frozen=True, slots=True)
class PipelimitParams:
    """Kamailio's names and defaults; the table of pipes is read at the start, ``db_url`` or not."""

    timer_interval: int = 10  # seconds, one interval
    timer_mode: int = 0  # without effect
    reply_code: int = 503
    reply_reason: str = "Server Unavailable"
    db_url: str = ""
    plp_table_name: str = "pl_pipes"
    plp_pipeid_column: str = "pipeid"
    plp_limit_column: str = "plimit"
    plp_algorithm_column: str = "algorithm"
    hash_size: int = 6
    load_fetch: int = 1  # 0: the load of the machine is not asked for
    clean_unused: int = 0  # intervals after which an unused pipe goes; 0: never

    def __post_init__(self) -> None:
        if self.timer_interval < 1:
            raise ValueError("timer_interval: expected a positive number of seconds")
        if not 300 <= self.reply_code <= 699:
            raise ValueError("reply_code: expected a status from 300 to 699")
        for key in ("plp_table_name", "plp_pipeid_column", "plp_limit_column", "plp_algorithm_column"):
            if not _NAME.fullmatch(getattr(self, key)):
                raise ValueError(f"{key}: {getattr(self, key)!r} is no name of a table or column")


class Pipelimit(Module):
    """The pipes of one server."""

    name = "pipelimit"
    requires = ("sl",)
    Params = PipelimitParams
    params: PipelimitParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._pipes: dict[str, Pipe] = {}
        self._feedback = Feedback(0.0)
        self._cpu = CpuLoad()
        self._is_full = False  # and the log says so
        self._due: float | None = None

    def start(self, now: float) -> None:
        """Read the pipes of the database. Raise DataError."""
        p = self.params
        sql = f"SELECT [{p.plp_pipeid_column}], [{p.plp_limit_column}], [{p.plp_algorithm_column}] FROM [{p.plp_table_name}]"
        for name, limit, algorithm in self.services.database.query(sql):
            if algorithm not in ALGORITHMS:
                raise DataError(f"pipelimit: pipe {name}: expected one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
            self._add(str(name), algorithm, int(limit))
        if self._pipes:
            self._due = now + p.timer_interval

    def _add(self, name: str, algorithm: str, limit: int) -> Pipe:
        pipe = self._pipes[name] = Pipe(algorithm, limit)
        if algorithm == "FEEDBACK":
            self._feedback.setpoint = limit / 100
        return pipe

    @export()
    def pl_check(self, ctx: RouteContext, pipeid: str) -> int:
        """Count the message in a pipe: 1 when it may pass, 2 when the pipe has no algorithm, -1 when not, -2 without it."""
        pipe = self._pipes.get(pipeid)
        if pipe is None:
            log.error("pipelimit.pl_check: pipe not found [%s]", pipeid)
            return -2
        if pipe.algorithm == "NOP":
            log.error("pipelimit.pl_check: no algorithm defined for pipe %s", pipeid)
            pipe.counter += 1
            return 2
        return pipe.push(pipe.limit, self._feedback.drop_rate)

    @export()
    def pl_check_limit(self, ctx: RouteContext, pipeid: str, alg: str, limit: int) -> int:
        """Count like ``pl_check`` in a pipe that is made when there is none; a limit above 0 is its new one."""
        pipe = self._pipes.get(pipeid)
        if pipe is not None:
            if limit > 0:
                pipe.limit = limit
        elif (alg := alg.upper()) not in ALGORITHMS:
            log.error("pipelimit.pl_check_limit: cannot find algorithm [%s]", alg)
            return -2
        elif len(self._pipes) >= MOST_PIPES and not self._make_room():
            return -2
        else:
            self._add(pipeid, alg, limit)
            if self._due is None:
                self._due = ctx.now + self.params.timer_interval
        return self.pl_check(ctx, pipeid)

    def _make_room(self) -> bool:
        """Remove the pipes that were not used in the last interval; tell whether there were any."""
        unused = [name for name, pipe in self._pipes.items() if pipe.unused and not pipe.counter]
        for name in unused:
            del self._pipes[name]
        if not unused and not self._is_full:
            log.error("pipelimit.pl_check_limit: there are %d pipes, all in use", len(self._pipes))
        self._is_full = not unused
        return bool(unused)

    @export()
    def pl_active(self, ctx: RouteContext, pipeid: str) -> int:
        """Tell whether there is a pipe of this name: 1 or -1."""
        return 1 if pipeid in self._pipes else -1

    # ---- refusals
    @export(routes=_REPLYING)
    def pl_drop(self, ctx: RouteContext) -> int:
        """Reply with ``reply_code`` and ``reply_reason``; what sl.send_reply answers."""
        return self._drop(ctx, 0, 0)

    @export(routes=_REPLYING)
    def pl_drop_retry(self, ctx: RouteContext, rafter: int) -> int:
        """Reply like ``pl_drop``, with ``Retry-After: rafter``, unless that is 0."""
        return self._drop(ctx, rafter, rafter)

    @export(routes=_REPLYING)
    def pl_drop_range(self, ctx: RouteContext, rmin: int, rmax: int) -> int:
        """Reply like ``pl_drop``, with a Retry-After between ``rmin`` and ``rmax``, unless one of them is 0."""
        return self._drop(ctx, rmin, rmax)

    def _drop(self, ctx: RouteContext, low: int, high: int) -> int:
        if low and high:
            seconds = random.randint(min(low, high), max(low, high))
            ctx.reply_headers = [*ctx.reply_headers, f"Retry-After: {seconds}"]
        sent: int = self.services.modules["sl"].send_reply(ctx, self.params.reply_code, self.params.reply_reason)
        return sent

    # ---- intervals
    def next_timeout(self) -> float | None:
        """Return when the interval ends."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Begin another interval; pipes that nobody uses go when clean_unused says so."""
        if self._due is None or now < self._due:
            return
        p = self.params
        self._due = now + p.timer_interval
        if p.load_fetch:
            self._feedback.update(self._cpu.read())
        for name, pipe in list(self._pipes.items()):
            if p.clean_unused and not pipe.counter and pipe.unused >= p.clean_unused:
                del self._pipes[name]
            else:
                pipe.next_interval(pipe.limit, 0)

    # ---- commands
    @rpc("pl.list")
    def list_pipes(self, pipe: str = "") -> Any:
        """List all pipes, or one."""
        if pipe and pipe not in self._pipes:
            raise RpcError(_BAD_REQUEST, f"Unknown pipe id {pipe}")
        return [
            {
                "name": name,
                "algorithm": p.algorithm,
                "limit": p.limit,
                "counter": p.counter,
                "last_counter": p.last_counter,
                "unused_intervals": p.unused,
            }
            for name, p in self._pipes.items()
            if pipe in ("", name)
        ]

    @rpc("pl.set_pipe")
    def set_pipe(self, pipe: str, algorithm: str, limit: int) -> Any:
        """Give a pipe an algorithm and a limit."""
        algorithm = algorithm.upper()
        if pipe not in self._pipes:
            raise RpcError(_BAD_REQUEST, f"Unknown pipe id {pipe}")
        if algorithm not in ALGORITHMS:
            raise RpcError(_BAD_REQUEST, "Unknown algorithm")
        self._add(pipe, algorithm, limit)
        return {}

    @rpc("pl.get_pipes")
    def get_pipes(self) -> list[str]:
        """List all pipes in lines."""
        return [
            f"PIPE: id={name} algorithm={p.algorithm} limit={p.limit} counter={p.counter}"
            for name, p in self._pipes.items()
        ]

    @rpc("pl.stats")
    def stats(self) -> list[str]:
        """List all pipes in lines: load, and messages of the interval before."""
        return [f"PIPE: id={name} load={p.load} counter={p.last_counter}" for name, p in self._pipes.items()]

    @rpc("pl.get_pid")
    def get_pid(self) -> str:
        """Show the constants of the controller behind FEEDBACK."""
        return self._feedback.described()

    @rpc("pl.set_pid")
    def set_pid(self, ki: float, kp: float, kd: float) -> dict[str, Any]:
        """Set the constants of the controller behind FEEDBACK."""
        self._feedback.set_constants(ki, kp, kd)
        return {}

    @rpc("pl.push_load")
    def push_load(self, load: float) -> dict[str, Any]:
        """Tell the load of the machine, 0 to 1, as if it had been measured."""
        self._feedback.push(load)
        return {}
