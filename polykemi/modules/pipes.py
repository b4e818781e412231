"""Pipes that limit traffic: what the modules ratelimit and pipelimit share, and the load that two algorithms look at."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from polykemi.errors import RpcError

log = logging.getLogger("polykemi.script")

PASS: Final = 1
LIMITED: Final = -1

ALGORITHMS: Final = ("NOP", "RED", "TAILDROP", "FEEDBACK", "NETWORK")

_PROC: Final = Path("/proc")
_SPREAD: Final = 37  # has no factor in common with 100: the requests that FEEDBACK refuses are spread over each hundred


class Pipe:
    """A limit, and what has come in this interval."""

    __slots__ = ("algorithm", "counter", "last_counter", "limit", "load", "unused")

    def __init__(self, algorithm: str, limit: int) -> None:
        self.algorithm = algorithm
        self.limit = limit  # requests; FEEDBACK: per cent of CPU; NETWORK: octets that wait in sockets
        self.counter = 0
        self.last_counter = 0  # of the interval before
        self.load = 0  # how often the interval before was over its limit; NETWORK: 1 or -1
        self.unused = 0  # intervals in a row without a request


class Controller:
    """The PID controller of FEEDBACK: how many requests of 100 to refuse, so that the CPU load drifts towards the limit."""

    def __init__(self, proc: Path = _PROC) -> None:
        self.kp, self.ki, self.kd = 0.0, -25.0, 0.0
        self.load = 0.0  # 0 to 1
        self.drop_rate = 0.0  # of 100
        self._stat = proc / "stat"
        self._times: tuple[int, int] | None = None  # busy, all
        self._integral = self._last_error = 0.0

    def measure(self, setpoint: float) -> None:
        """Read the CPU load since the last time, and go on to the next drop rate; ``setpoint``: the load wanted, 0 to 1."""
        try:
            fields = [int(field) for field in self._stat.read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return
        times = (sum(fields) - fields[3] - fields[4], sum(fields))  # idle and waiting for a disk are not busy
        if self._times is not None and times[1] > self._times[1]:
            self.push((times[0] - self._times[0]) / (times[1] - self._times[1]), setpoint)
        self._times = times

    def push(self, load: float, setpoint: float) -> None:
        """Take ``load`` as what was measured."""
        self.load = load
        error = setpoint - load
        if self._integral < 0 or error < 0:  # a long time without load must not count against one with
            self._integral += error
        output = self.kp * error + self.ki * self._integral + self.kd * (error - self._last_error)
        self._last_error = error
        self.drop_rate = max(output, 0.0)

    @property
    def gains(self) -> dict[str, float]:
        """The three parameters."""
        return {"ki": self.ki, "kp": self.kp, "kd": self.kd}


class Pipes:
    """The pipes of a module by name, and the interval in which they count. Limits are for ``per`` intervals' worth."""

    def __init__(self, interval: int, per: int, clean_unused: int = 0, proc: Path = _PROC) -> None:
        self.pipes: dict[str, Pipe] = {}
        self.controller = Controller(proc)
        self._interval = interval
        self._per = per
        self._clean_unused = clean_unused
        self._net = proc / "net"
        self._began: float | None = None  # when this interval began

    def push(self, pipe: Pipe, now: float) -> int:
        """Count a request and tell whether it may pass: 1 or -1; 0 from NETWORK before its first interval has ended."""
        if self._began is None:
            self._began = now
        elif now - self._began >= self._interval:
            self._roll(now)
        pipe.counter += 1
        if pipe.algorithm == "TAILDROP":
            return PASS if pipe.counter <= pipe.limit * self._per else LIMITED
        if pipe.algorithm == "RED":
            return PASS if not pipe.load or pipe.counter % pipe.load == 0 else LIMITED
        if pipe.algorithm == "FEEDBACK":
            return LIMITED if pipe.counter * _SPREAD % 100 < self.controller.drop_rate else PASS
        return -pipe.load  # NETWORK

    def _roll(self, now: float) -> None:
        """Begin a new interval: what was counted in the last one decides what RED, FEEDBACK and NETWORK let pass."""
        assert self._began is not None
        intervals = int((now - self._began) // self._interval)
        self._began += intervals * self._interval
        used = {pipe.algorithm for pipe in self.pipes.values()}
        if "FEEDBACK" in used:
            self.controller.measure(self.setpoint)
        waiting = self._octets_waiting() if "NETWORK" in used else 0
        for name, pipe in list(self.pipes.items()):
            pipe.unused = 0 if pipe.counter and intervals == 1 else pipe.unused + intervals
            if self._clean_unused and pipe.unused > self._clean_unused and not pipe.counter:
                del self.pipes[name]
                continue
            pipe.last_counter = pipe.counter if intervals == 1 else 0
            pipe.counter = 0
            if pipe.algorithm == "NETWORK":
                pipe.load = 1 if waiting > pipe.limit else -1
            elif pipe.limit:
                pipe.load = pipe.last_counter // (pipe.limit * self._per)

    @property
    def setpoint(self) -> float:
        """The CPU load that FEEDBACK aims at, 0 to 1: the limit of the pipes with it, which is the same for all."""
        return next((pipe.limit for pipe in self.pipes.values() if pipe.algorithm == "FEEDBACK"), 0) / 100

    def _octets_waiting(self) -> int:
        """Return how many octets wait in the receive queues of all UDP and TCP sockets of the machine."""
        total = 0
        for name in ("udp", "udp6", "tcp", "tcp6"):
            try:
                lines = (self._net / name).read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                total += int(line.split()[4].partition(":")[2], 16)
        return total

    # ---- commands
    def set(self, name: str, algorithm: str, limit: int) -> None:
        """Change a pipe. Raise RpcError."""
        algorithm = algorithm.upper()
        if algorithm not in ALGORITHMS:
            raise RpcError(400, "Unknown algorithm")
        pipe = self.pipes.get(name)
        if pipe is None:
            raise RpcError(400, f"Unknown pipe id {name}")
        if reason := setpoint_error([*self.pipes.values(), Pipe(algorithm, limit)], without=pipe):
            raise RpcError(400, reason)
        pipe.algorithm, pipe.limit = algorithm, limit

    def push_load(self, load: float) -> None:
        """Take ``load`` as the CPU load that was measured last. Raise RpcError."""
        if not 0 <= load <= 1:
            raise RpcError(400, "Value out of range")
        self.controller.push(load, self.setpoint)

    def shown(self) -> list[dict[str, Any]]:
        """List the pipes."""
        return [
            {
                "name": name,
                "algorithm": pipe.algorithm,
                "limit": pipe.limit,
                "counter": pipe.counter,
                "last_counter": pipe.last_counter,
                "load": pipe.load,
            }
            for name, pipe in self.pipes.items()
        ]


def setpoint_error(pipes: Iterable[Pipe], without: Pipe | None = None) -> str:
    """Return why FEEDBACK cannot work with these pipes, empty when it can: there is one controller for all of them."""
    limits = {pipe.limit for pipe in pipes if pipe.algorithm == "FEEDBACK" and pipe is not without}
    if any(not 0 <= limit <= 100 for limit in limits):
        return "the limit of FEEDBACK is a CPU load from 0 to 100"
    return "all pipes with FEEDBACK need the same limit" if len(limits) > 1 else ""
