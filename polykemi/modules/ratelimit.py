"""ratelimit: a fixed set of pipes, each of which lets so many messages pass (Kamailio: ratelimit)."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.modules.ratelimit_pipe import ALGORITHMS, CpuLoad, Feedback, Pipe

log = logging.getLogger("polykemi.script")

MAX_PIPES: Final = 16
MAX_QUEUES: Final = 10
_PIPE: Final = re.compile(r"([0-9]+):([^: ]+):([0-9]+)")
_QUEUE: Final = re.compile(r"([0-9]+):([^: ]+)")
_BAD_REQUEST: Final = 400


@dataclass(frozen=True, slots=True)
class RatelimitParams:
    """``pipe``: ``number:ALGORITHM:messages a second``; ``queue``: ``number of a pipe:METHOD``, * for all others."""

    timer_interval: int = 10  # seconds
    queue: tuple[str, ...] = ()
    pipe: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.timer_interval < 1:
            raise ValueError("timer_interval: expected a positive number of seconds")
        if len(self.queue) > MAX_QUEUES:
            raise ValueError(f"queue: expected at most {MAX_QUEUES}")
        for text in self.queue:
            match = _QUEUE.fullmatch(text)
            if match is None or int(match[1]) >= MAX_PIPES:
                raise ValueError(f"queue: expected number:METHOD with a number below {MAX_PIPES}, got {text!r}")
        pipes = parse_pipes(self.pipe)
        if len({p.limit for p in pipes.values() if p.algorithm == "FEEDBACK"}) > 1:
            raise ValueError("pipe: all FEEDBACK pipes have one load")


def parse_pipes(texts: tuple[str, ...]) -> dict[int, Pipe]:
    """Return the pipes by number. Raise ValueError."""
    pipes: dict[int, Pipe] = {}
    for text in texts:
        match = _PIPE.fullmatch(text)
        if match is None or int(match[1]) >= MAX_PIPES or match[2] not in ALGORITHMS:
            raise ValueError(f"pipe: expected number:ALGORITHM:limit ({', '.join(ALGORITHMS)}), got {text!r}")
        if match[2] == "FEEDBACK" and int(match[3]) > 100:
            raise ValueError("pipe: the limit of FEEDBACK is a load in percent")
        pipes[int(match[1])] = Pipe(match[2], int(match[3]))
    return pipes


class Ratelimit(Module):
    """The pipes and queues of one server."""

    name = "ratelimit"
    Params = RatelimitParams
    params: RatelimitParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._pipes = parse_pipes(self.params.pipe)
        self._queues: list[tuple[str, int]] = []
        for text in self.params.queue:
            number, _, method = text.partition(":")
            self._queues.append((method.upper(), int(number)))
        loads = [p.limit for p in self._pipes.values() if p.algorithm == "FEEDBACK"]
        self._feedback = Feedback(loads[0] / 100 if loads else 0.0)
        self._cpu = CpuLoad()
        self._due: float | None = None

    def start(self, now: float) -> None:
        """Begin the first interval, when there is a pipe."""
        if self._pipes:
            self._due = now + self.params.timer_interval

    @export()
    def rl_check(self, ctx: RouteContext) -> int:
        """Count the message in the pipe of its method's queue: 1 when it may pass, -1 when not and without a queue."""
        number, method = None, ctx.method.upper()
        for name, pipe in self._queues:
            if name == method:
                number = pipe
                break
            if name == "*":
                number = pipe
        if number is None:
            log.info("ratelimit.rl_check: no queue takes %s", method)
            return -1
        pipe_of_queue = self._pipes.get(number)
        if pipe_of_queue is None or pipe_of_queue.algorithm == "NOP":
            log.error("ratelimit.rl_check: no algorithm defined for pipe %d", number)
            return 1
        return self._push(pipe_of_queue)

    @export()
    def rl_check_pipe(self, ctx: RouteContext, pipe: int) -> int:
        """Count the message in a pipe: 1 when it may pass, -1 when not; a negative number means as ``rl_check``."""
        if pipe < 0:
            return self.rl_check(ctx)
        found = self._pipes.get(pipe)
        if found is None or found.algorithm == "NOP":
            log.error("ratelimit.rl_check_pipe: pipe %d out of range or not defined", pipe)
            return -1
        return self._push(found)

    def _push(self, pipe: Pipe) -> int:
        return pipe.push(pipe.limit * self.params.timer_interval, self._feedback.drop_rate)

    # ---- intervals
    def next_timeout(self) -> float | None:
        """Return when the interval ends."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Begin another interval."""
        if self._due is None or now < self._due:
            return
        self._due = now + self.params.timer_interval
        self._feedback.update(self._cpu.read())
        for pipe in self._pipes.values():
            pipe.next_interval(pipe.limit * self.params.timer_interval, 0)

    # ---- commands
    @rpc("rl.get_pipes")
    def get_pipes(self) -> Any:
        """Show the pipes: algorithm, messages in the interval before, limit, drop rate and messages so far."""
        return [
            f"PIPE[{n}]: {ALGORITHMS.index(p.algorithm)}:{p.algorithm} {p.last_counter}/{p.limit} "
            f"(drop rate: {p.load}) [{p.counter}]"
            for n, p in sorted(self._pipes.items())
        ]

    @rpc("rl.set_pipe")
    def set_pipe(self, pipe: int, algorithm: str, limit: int) -> Any:
        """Give a pipe an algorithm and a limit."""
        algorithm = algorithm.upper()
        if algorithm not in ALGORITHMS:
            raise RpcError(_BAD_REQUEST, "Unknown algorithm")
        if not 0 <= pipe < MAX_PIPES:
            raise RpcError(_BAD_REQUEST, "Unknown pipe")
        self._pipes[pipe] = Pipe(algorithm, limit)
        if algorithm == "FEEDBACK":
            self._feedback.setpoint = limit / 100
        return {}

    @rpc("rl.stats")
    def stats(self) -> list[str]:
        """Show the pipes: messages in the interval before, limit, drop rate."""
        return [f"PIPE[{n}]: {p.last_counter}/{p.limit} (drop rate: {p.load})" for n, p in sorted(self._pipes.items())]

    @rpc("rl.get_queues")
    def get_queues(self) -> list[str]:
        """Show which pipe each method is counted in."""
        return [f"QUEUE[{n}]: {pipe}:{method}" for n, (method, pipe) in enumerate(self._queues)]

    @rpc("rl.set_queue")
    def set_queue(self, queue: int, method: str, pipe: int) -> dict[str, Any]:
        """Give a queue of the parameter ``queue`` another method and pipe."""
        if not 0 <= pipe < MAX_PIPES:
            raise RpcError(_BAD_REQUEST, "Invalid pipe number")
        if not 0 <= queue < len(self._queues):
            raise RpcError(_BAD_REQUEST, "MAX_QUEUES reached")
        self._queues[queue] = (method.upper(), pipe)
        return {}

    @rpc("rl.get_pid")
    def get_pid(self) -> str:
        """Show the constants of the controller behind FEEDBACK."""
        return self._feedback.described()

    @rpc("rl.set_pid")
    def set_pid(self, ki: float, kp: float, kd: float) -> dict[str, Any]:
        """Set the constants of the controller behind FEEDBACK."""
        self._feedback.set_constants(ki, kp, kd)
        return {}

    @rpc("rl.push_load")
    def push_load(self, load: float) -> dict[str, Any]:
        """Tell the load of the machine, 0 to 1, as if it had been measured."""
        self._feedback.push(load)
        return {}
