"""One pipe: how many messages may pass, and by which rule (Kamailio: ratelimit and pipelimit have the same algorithms)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from polykemi.errors import RpcError

ALGORITHMS: Final = ("NOP", "RED", "TAILDROP", "FEEDBACK", "NETWORK")  # by Kamailio's numbers

_STEPS: Final = 100
_SPREAD: Final = tuple(i * 37 % _STEPS for i in range(_STEPS))  # each of 0 to 99 once, so that drops are spread evenly


class Pipe:
    """Counts messages of one interval. ``limit`` is messages, for FEEDBACK the load in percent that is not to be passed."""

    __slots__ = ("algorithm", "counter", "last_counter", "limit", "load", "unused")

    def __init__(self, algorithm: str, limit: int) -> None:
        self.algorithm = algorithm
        self.limit = limit
        self.counter = 0
        self.last_counter = 0  # of the interval before
        self.load = 0  # RED: one in how many passes; NETWORK: 1 when there is too much
        self.unused = 0  # intervals without a message

    def push(self, allowed: int, drop_rate: int) -> int:
        """Count a message; 1 when it may pass, -1 when not. ``allowed``: messages an interval; ``drop_rate``: percent."""
        self.counter += 1
        if self.algorithm == "TAILDROP":
            return 1 if self.counter <= allowed else -1
        if self.algorithm == "RED":
            return 1 if self.load == 0 or self.counter % self.load == 0 else -1
        if self.algorithm == "FEEDBACK":
            return -1 if _SPREAD[self.counter % _STEPS] < drop_rate else 1
        return -self.load  # NETWORK

    def next_interval(self, allowed: int, waiting: int) -> None:
        """Begin another interval. ``waiting``: octets that wait at the sockets."""
        if self.algorithm == "NETWORK":
            self.load = 1 if waiting > self.limit else -1
        elif allowed:
            self.load = self.counter // allowed
        self.unused = 0 if self.counter else self.unused + 1
        self.last_counter, self.counter = self.counter, 0


class Feedback:
    """Keeps the load of the machine below a set point by dropping more or less (a PID controller)."""

    def __init__(self, setpoint: float) -> None:
        self.setpoint = setpoint
        self.kp, self.ki, self.kd = 0.0, -25.0, 0.0
        self.load = 0.0  # 0 to 1
        self.drop_rate = 0  # percent
        self._sum = 0.0
        self._last = 0.0

    def update(self, load: float) -> None:
        """Take the load of the interval before."""
        self.load = load
        error = self.setpoint - load
        if self._sum < 0 or error < 0:  # low loads over a long time are not made up for
            self._sum += error
        output = self.kp * error + self.ki * self._sum + self.kd * (error - self._last)
        self._last = error
        self.drop_rate = int(output) if output > 0 else 0

    def described(self) -> str:
        """Return the constants as Kamailio shows them."""
        return f"ki[{self.ki:.6f}] kp[{self.kp:.6f}] kd[{self.kd:.6f}] "

    def set_constants(self, ki: float, kp: float, kd: float) -> None:
        """Set the constants."""
        self.ki, self.kp, self.kd = ki, kp, kd

    def push(self, load: float) -> None:
        """Take a load that somebody else has measured. Raise RpcError for what is none."""
        if not 0 <= load <= 1:
            raise RpcError(400, f"expected a load from 0 to 1, got {load:g}")
        self.update(load)


class CpuLoad:
    """The load of the machine's processors between two questions (Linux: /proc/stat)."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def read(self) -> float:
        """Return the share of time in which the processors were busy since the last call, 0 at first and without figures."""
        try:
            line, _, _ = Path("/proc/stat").read_text("ascii").partition("\n")
            times = [int(word) for word in line.split()[1:9]]
        except (OSError, ValueError):
            return 0.0
        total, idle = sum(times), times[3] if len(times) > 3 else 0
        before, self._last = self._last, (total, idle)
        if before is None or total <= before[0]:
            return 0.0
        return min(max(1.0 - (idle - before[1]) / (total - before[0]), 0.0), 1.0)
