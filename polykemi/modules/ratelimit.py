"""ratelimit: limits the traffic of each method (Kamailio: ratelimit)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.pipes import ALGORITHMS, LIMITED, Pipe, Pipes, setpoint_error
from polykemi.sip.message import Request

log = logging.getLogger("polykemi.script")

_MAX_PIPES: Final = 32


@dataclass(frozen=True, slots=True)
class RatelimitParams:
    """Kamailio's names and defaults."""

    timer_interval: int = 10  # seconds
    pipe: tuple[str, ...] = ()  # "number:algorithm:limit", the limit of TAILDROP and RED a second
    queue: tuple[str, ...] = ()  # "pipe number:METHOD"; * for all methods that have none

    def __post_init__(self) -> None:
        if self.timer_interval < 1:
            raise ValueError("timer_interval: expected 1 or more seconds")
        if reason := setpoint_error(dict(map(_pipe, self.pipe)).values()):
            raise ValueError(f"pipe: {reason}")
        for text in self.queue:
            number, colon, method = text.partition(":")
            if not colon or not _is_number(number) or not method:
                raise ValueError(f"queue: expected pipe number:METHOD, got {text!r}")


def _pipe(text: str) -> tuple[str, Pipe]:
    number, _, rest = text.partition(":")
    algorithm, _, limit = rest.partition(":")
    if not _is_number(number) or algorithm.upper() not in ALGORITHMS or not limit.isdecimal():
        raise ValueError(f"pipe: expected number (0 to 31):{'|'.join(ALGORITHMS)}:limit, got {text!r}")
    return str(int(number)), Pipe(algorithm.upper(), int(limit))


def _is_number(text: str) -> bool:
    return text.isdecimal() and int(text) < _MAX_PIPES


class Ratelimit(Module):
    """Numbered pipes, and queues that say which method goes through which."""

    name = "ratelimit"
    Params = RatelimitParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        interval = self.params.timer_interval
        self._pipes = Pipes(interval, per=interval)
        self._pipes.pipes.update(map(_pipe, self.params.pipe))
        self._queues: list[tuple[str, str]] = []  # method, pipe
        for text in self.params.queue:
            number, _, method = text.partition(":")
            self._queues.append((method.upper(), str(int(number))))

    @export()
    def rl_check(self, ctx: RouteContext) -> int:
        """Count the message in the pipe of its method (a reply: that of its CSeq): 1 when it may pass, else -1."""
        message = ctx.message
        method = message.method if isinstance(message, Request) else message.cseq[1]
        pipe = ""
        for queue, number in self._queues:
            if queue == method.upper():
                pipe = number
                break
            if queue == "*":
                pipe = number
        if not pipe:
            log.info("ratelimit.rl_check: no queue for %s", method)
            return LIMITED
        return self._push(pipe, ctx.now)

    @export()
    def rl_check_pipe(self, ctx: RouteContext, pipe: int) -> int:
        """Count the message in the pipe with this number: 1 when it may pass, -1 when not or when there is no such pipe."""
        if pipe < 0:
            return self.rl_check(ctx)
        found = self._pipes.pipes.get(str(pipe))
        if found is None or found.algorithm == "NOP":
            log.error("ratelimit.rl_check_pipe: there is no pipe %d", pipe)
            return LIMITED
        return self._pipes.push(found, ctx.now)

    def _push(self, number: str, now: float) -> int:
        pipe = self._pipes.pipes.get(number)
        if pipe is None or pipe.algorithm == "NOP":
            log.error("ratelimit: no algorithm for pipe %s", number)
            return 1
        return self._pipes.push(pipe, now)

    # ---- commands
    @rpc("rl.get_pipes")
    def get_pipes(self) -> list[dict[str, Any]]:
        """List the pipes with their limits and what they have counted in this interval and in the one before."""
        return self._pipes.shown()

    @rpc("rl.stats")
    def stats(self) -> dict[str, Any]:
        """Tell the load of the pipes, the CPU load that was measured last (0 to 1) and how many of 100 FEEDBACK refuses."""
        controller = self._pipes.controller
        return {"pipes": self._pipes.shown(), "load": controller.load, "drop_rate": controller.drop_rate}

    @rpc("rl.set_pipe")
    def set_pipe(self, pipe: int, algorithm: str, limit: int) -> None:
        """Give a pipe another algorithm and limit."""
        self._pipes.set(str(pipe), algorithm, limit)

    @rpc("rl.get_queues")
    def get_queues(self) -> list[dict[str, Any]]:
        """List the queues: which method goes through which pipe."""
        return [{"queue": i, "pipe": int(pipe), "method": method} for i, (method, pipe) in enumerate(self._queues)]

    @rpc("rl.set_queue")
    def set_queue(self, queue: int, method: str, pipe: int) -> None:
        """Let a queue be for ``method`` and go through ``pipe``; the number behind the last one makes a new queue."""
        if not 0 <= pipe < _MAX_PIPES:
            raise RpcError(400, "Invalid pipe number")
        if not 0 <= queue <= len(self._queues) or queue >= _MAX_PIPES:
            raise RpcError(400, "Invalid queue number")
        self._queues[queue : queue + 1] = [(method.upper(), str(pipe))]

    @rpc("rl.get_pid")
    def get_pid(self) -> dict[str, float]:
        """Tell the parameters of the controller of FEEDBACK."""
        return self._pipes.controller.gains

    @rpc("rl.set_pid")
    def set_pid(self, ki: float, kp: float, kd: float) -> None:
        """Set the parameters of the controller of FEEDBACK."""
        controller = self._pipes.controller
        controller.ki, controller.kp, controller.kd = ki, kp, kd

    @rpc("rl.push_load")
    def push_load(self, load: float) -> None:
        """Take ``load`` (0 to 1) as the CPU load, to try FEEDBACK."""
        self._pipes.push_load(load)
