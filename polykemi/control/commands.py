"""The commands that belong to no module: ``core``, ``stats``, ``route`` and ``system``.

Names and shapes of ``core``, ``stats`` and ``system`` are Kamailio's.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from polykemi.config import unknown
from polykemi.errors import RpcError
from polykemi.kemi.route import ROUTE_NAMES
from polykemi.kemi.route_stats import RouteStats
from polykemi.kemi.rpc import Command, rpc
from polykemi.modules.statistics import chosen

_MICRO: Final = 1e6


class Core:
    """What the server is."""

    def __init__(
        self,
        version: str,
        started: float,
        kill: Callable[[int], None] = lambda number: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``started`` and what ``clock`` shows are seconds since the epoch; ``kill`` sends the server a signal."""
        self._version, self._started, self._kill, self._clock = version, started, kill, clock

    @rpc("core.version")
    def version(self) -> str:
        """Return name and version."""
        return f"polykemi {self._version}"

    @rpc("core.uptime")
    def uptime(self) -> dict[str, Any]:
        """Return the time now, the time of the start, and the seconds between them."""
        now = self._clock()
        return {"now": time.ctime(now), "up_since": time.ctime(self._started), "uptime": int(now - self._started)}

    @rpc("core.kill")
    def kill(self, number: int = signal.SIGTERM) -> dict[str, Any]:
        """Send the server a signal: 15 (the default) ends it when open transactions have ended, 1 reloads its scripts."""
        try:
            self._kill(signal.Signals(number))
        except ValueError:
            raise RpcError(400, f"number: expected a signal such as {signal.SIGTERM:d}, got {number}") from None
        return {}


class Stats:
    """The counters of all modules; one that has counted nothing yet is not there."""

    def __init__(self, counters: Mapping[str, int]) -> None:
        """``counters``: ``group.name`` -> number."""
        self._counters = counters

    @rpc("stats.get_statistics")
    def get_statistics(self, name: str, *names: str) -> list[str]:
        """Return counters as lines ``group:name = value``. A name is ``all``, ``group:``, ``group``, ``name`` or ``group.name``."""
        return [
            f"{key.replace('.', ':', 1)} = {value}" for key, value in chosen(self._counters, (name, *names)).items()
        ]

    @rpc("stats.fetch")
    def fetch(self, name: str, *names: str) -> dict[str, str]:
        """Return counters as an object, values as texts. Names as for stats.get_statistics."""
        return {key: str(value) for key, value in chosen(self._counters, (name, *names)).items()}

    @rpc("stats.fetchn")
    def fetchn(self, name: str, *names: str) -> dict[str, int]:
        """Return counters as an object, values as numbers. Names as for stats.get_statistics."""
        return chosen(self._counters, (name, *names))


class Routes:
    """What the route blocks cost."""

    def __init__(self, stats: RouteStats) -> None:
        self._stats = stats

    @rpc("route.stats")
    def stats(self) -> list[dict[str, Any]]:
        """Return for each route block that has run: how often, and its wall time in microseconds, inner blocks included."""
        return [
            {
                "kind": ROUTE_NAMES[block.kind],
                "block": block.callback,
                "engine": block.engine,
                "cnt": block.cnt,
                "sum_us": round(block.sum * _MICRO, 1),
                "min_us": round(block.min * _MICRO, 1),
                "max_us": round(block.max * _MICRO, 1),
                "avg_us": round(block.sum * _MICRO / block.cnt, 1),
            }
            for block in self._stats
        ]

    @rpc("route.reset")
    def reset(self) -> dict[str, Any]:
        """Set the counters of all route blocks to zero."""
        self._stats.reset()
        return {}


class System:
    """What can be asked."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands

    @rpc("system.listMethods")
    def list_methods(self) -> list[str]:
        """Return the names of all methods, sorted."""
        return sorted(self._commands)

    @rpc("system.methodHelp")
    def method_help(self, method: str) -> str:
        """Return what a method does, and its parameters."""
        command = self._commands.get(method)
        if command is None:
            raise RpcError(400, f"method {method}: {unknown(method, self._commands)}")
        return f"{command.name}: {command.usage}. {command.doc}"
