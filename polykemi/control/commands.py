"""Commands that belong to no module: ``stats``, ``cnt``, ``route`` and ``system``.

Names and shapes of ``stats``, ``cnt`` and ``system`` are Kamailio's.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from polykemi.config import unknown
from polykemi.errors import RpcError
from polykemi.kemi.route import ROUTE_NAMES
from polykemi.kemi.route_stats import RouteStats
from polykemi.kemi.rpc import Command, rpc
from polykemi.modules.statistics import chosen

_MICRO: Final = 1e6
_WHICH: Final = (400, "Please provide which stats to retrieve")


class Stats:
    """The statistics of all modules; of those with names that are made as they come, such as by status, those that have come."""

    def __init__(self, counters: Mapping[str, int]) -> None:
        """``counters``: ``group.name`` -> number."""
        self._counters = counters

    @rpc("stats.get_statistics", missing=_WHICH)
    def get_statistics(self, name: str, *names: str) -> list[str]:
        """Return counters as lines ``group:name = value``. A name is ``all``, ``group:``, ``group``, ``name`` or ``group.name``."""
        return [
            f"{key.replace('.', ':', 1)} = {value}" for key, value in chosen(self._counters, (name, *names)).items()
        ]

    @rpc("stats.fetch", missing=_WHICH)
    def fetch(self, name: str, *names: str) -> dict[str, str]:
        """Return counters as an object, values as texts. Names as for stats.get_statistics."""
        return {key: str(value) for key, value in chosen(self._counters, (name, *names)).items()}

    @rpc("stats.fetchn", missing=_WHICH)
    def fetchn(self, name: str, *names: str) -> dict[str, int]:
        """Return counters as an object, values as numbers. Names as for stats.get_statistics."""
        return chosen(self._counters, (name, *names))


class Counters:
    """The same, as Kamailio's module counters shows it."""

    def __init__(self, statistics: Mapping[str, int], counters: MutableMapping[str, int]) -> None:
        """``statistics``: ``group.name`` -> number; ``counters``: those of them that are counted, and can be set to 0."""
        self._counters, self._resettable = statistics, counters

    @rpc("cnt.list_groups")
    def list_groups(self) -> list[str]:
        """List the groups of counters."""
        return sorted({name.partition(".")[0] for name in self._counters})

    @rpc("cnt.grps_list")
    def groups_list(self) -> list[str]:
        """List the groups of counters."""
        return self.list_groups()

    @rpc("cnt.list_vars")
    def list_vars(self, group: str) -> list[str]:
        """List the counters of a group."""
        return list(self._of(group))

    @rpc("cnt.var_list")
    def var_list(self, group: str) -> list[str]:
        """List the counters of a group."""
        return list(self._of(group))

    @rpc("cnt.get_vars")
    def get_vars(self, group: str, name: str = "") -> dict[str, int]:
        """Return all counters of a group; the name is not looked at, as in Kamailio."""
        return self._of(group)

    @rpc("cnt.grp_get_all")
    def group_get_all(self, group: str) -> dict[str, int]:
        """Return all counters of a group."""
        return self._of(group)

    @rpc("cnt.get")
    def get(self, group: str, name: str = "") -> int | dict[str, int]:
        """Return a counter, or without a name all of a group."""
        return self._of(group) if not name else self._value(group, name)

    @rpc("cnt.get_raw")
    def get_raw(self, group: str, name: str) -> int:
        """Return a counter."""
        return self._value(group, name)

    @rpc("cnt.reset")
    def reset(self, group: str, name: str) -> dict[str, Any]:
        """Set a counter to 0; what is worked out when somebody asks stays what it is."""
        self._value(group, name)
        if f"{group}.{name}" in self._resettable:
            self._resettable[f"{group}.{name}"] = 0
        return {}

    @rpc("cnt.help")
    def help_(self, group: str, name: str) -> str:
        """Return what Kamailio returns for nearly all of them: that there is no description."""
        self._value(group, name)
        return "kamailio statistic (no description)"

    def _value(self, group: str, name: str) -> int:
        value = self._counters.get(f"{group}.{name}")
        if value is None:
            raise RpcError(400, f"non-existent counter {group}.{name}\n")
        return value

    def _of(self, group: str) -> dict[str, int]:
        beginning = f"{group}."
        return {name[len(beginning) :]: n for name, n in sorted(self._counters.items()) if name.startswith(beginning)}


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

    @rpc("system.groups")
    def groups(self) -> list[dict[str, Any]]:
        """List the groups of methods, each with how many there are and their names."""
        groups: dict[str, list[str]] = {}
        for name in self.list_methods():
            group, _, rest = name.partition(".")
            groups.setdefault(group, []).append(rest)
        return [{"group": one, "count": len(names), "methods": " ".join(names)} for one, names in groups.items()]

    @rpc("system.describe")
    def describe(self, beginning: str = "") -> list[dict[str, str]]:
        """List the methods that begin so, with their parameters and the first line of what they do."""
        found = [self._commands[name] for name in self.list_methods() if name.startswith(beginning)]
        if not found:
            raise RpcError(404, f"no method begins with {beginning}: {unknown(beginning, self._groups())}")
        return [
            {
                "method": one.name,
                "parameters": one.usage if one.signature.parameters else "",
                "does": one.doc.partition("\n")[0],
            }
            for one in found
        ]

    def _groups(self) -> set[str]:
        return {name.partition(".")[0] for name in self._commands}

    @rpc("system.methodHelp", missing=(400, "Method Name Expected"))
    def method_help(self, method: str) -> str:
        """Return what a method does, and its parameters."""
        command = self._commands.get(method)
        if command is None:
            raise RpcError(400, f"method {method}: {unknown(method, self._commands)}")
        return f"{command.name}: {command.usage}. {command.doc}"

    @rpc("system.methodSignature")
    def method_signature(self, method: str) -> str:
        """Return the parameters of a method, those in brackets may be left out. Kamailio has the name, and no answer."""
        command = self._commands.get(method)
        if command is None:
            raise RpcError(400, f"method {method}: {unknown(method, self._commands)}")
        return command.usage
