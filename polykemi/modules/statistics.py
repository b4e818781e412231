"""statistics: counters of scripts, and changes to those of the server (Kamailio: modules/statistics)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services

log = logging.getLogger("polykemi.script")

_GROUP: Final = "script."
_NO_RESET: Final = "no_reset"
_NO_NAME: Final = (400, "Please provide stats name")


def parse_variable(text: str) -> tuple[str, bool]:
    """Return name and whether it is never reset of ``name`` or ``name/no_reset``. Raise ValueError."""
    name, slash, flag = text.partition("/")
    if not name or (slash and flag.lower() != _NO_RESET):
        raise ValueError(f"variable: expected name or name/{_NO_RESET}, got {text!r}")
    return name, bool(slash)


def chosen(counters: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """Return the counters that are meant, in the order of ``names`` and sorted for each of them.

    A name is ``all``, ``group:``, ``group``, ``name`` or ``group.name``.
    """
    found: dict[str, int] = {}
    for name in names:
        for key in sorted(counters):
            group, _, own = key.partition(".")
            if name in ("all", key, group, own, f"{group}:", f"{group}:{own}"):
                found[key] = counters[key]
    return found


@dataclass(frozen=True, slots=True)
class StatisticsParams:
    """``variable``: the script's own counters, ``name`` or ``name/no_reset``."""

    variable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [parse_variable(text)[0] for text in self.variable]
        if len(names) != len(set(names)):
            raise ValueError(f"variable: a name stands twice: {', '.join(names)}")


class Statistics(Module):
    """Counters by name: $stat(name)."""

    name = "statistics"
    Params = StatisticsParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self._kept: set[str] = set()
        for text in self.params.variable:
            name, kept = parse_variable(text)
            services.counters.setdefault(_GROUP + name, 0)
            if kept:
                self._kept.add(_GROUP + name)

    def _key(self, name: str) -> str | None:
        """Return the key of a counter: the script's own first, then one of any module."""
        counters = self.services.counters
        if _GROUP + name in counters:
            return _GROUP + name
        key = next((key for key in counters if key.partition(".")[2] == name), None)
        if key is None:
            log.error(
                "statistics: there is no counter %r; the script's own are in statistics' parameter variable", name
            )
        return key

    @export()
    def update_stat(self, ctx: RouteContext, name: str, value: int) -> int:
        """Add ``value``, which may be negative, to a counter. Answers 1, or -1 when there is none."""
        key = self._key(name)
        if key is None:
            return -1
        self.services.counters[key] += value
        return 1

    @export()
    def reset_stat(self, ctx: RouteContext, name: str) -> int:
        """Set a counter to 0, unless it is never reset. Answers 1, or -1 when there is none."""
        key = self._key(name)
        if key is None:
            return -1
        self._reset(key)
        return 1

    def _reset(self, key: str) -> None:
        if key not in self._kept:
            self.services.counters[key] = 0

    @rpc("stats.reset_statistics", _NO_NAME)
    def reset_statistics(self, name: str, *names: str) -> None:
        """Set counters to 0. Names as for stats.get_statistics."""
        for key in chosen(self.services.counters, (name, *names)):
            self._reset(key)

    @rpc("stats.clear_statistics", _NO_NAME)
    def clear_statistics(self, name: str, *names: str) -> list[str]:
        """Set counters to 0 and return them as lines ``group:name = now (before)``. Names as for stats.get_statistics."""
        lines = []
        for key, before in chosen(self.services.counters, (name, *names)).items():
            self._reset(key)
            now = self.services.counters[key]
            lines.append(f"{key.replace('.', ':', 1)} = {now}" + (f" ({before})" if before != now else ""))
        return lines
