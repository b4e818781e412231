"""The configuration is read anew while the server runs: all of it is checked, then what can change changes, or nothing does.

What has to be read is read first: the file, TLS certificates, lists and tables of modules. A mistake in any of them leaves the
server as it was. What stands elsewhere in the configuration and cannot change is named: it needs a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final

from polykemi.config import EngineSettings, ModuleSettings, RouteSettings, Settings, typed_params
from polykemi.control.logs import warn_of_unknown
from polykemi.engines.base import Engine, Limits
from polykemi.errors import ConfigError, RpcError, UsageError
from polykemi.kemi.log_levels import LEVELS
from polykemi.kemi.rpc import rpc
from polykemi.live import differing, mark_of
from polykemi.logs import LogSettings
from polykemi.modules import MODULES
from polykemi.modules.base import Module, Services

log = logging.getLogger("polykemi.server")

ALWAYS_LOADED: Final = ("core", "pv", "hdr", "x")  # as in Kamailio

_FAILED: Final = 500
_LEVELS: Final = ("level", "levels")  # what changes of [log]
_KEYS: Final = {"seconds": "timeout", "memory": "max_memory"}  # of limits of engines
_PLACES: Final = {"strict": "[ksr] strict", "metrics": "[metrics] listen", "hep": "[hep]"}  # of fields
_ELSEWHERE: Final = (
    "domains",
    "log",
    "engines",
    "routes",
    "modules",
    "tls",
    "file",
    "again",
)  # fields with a way of their own


def loaded_modules(settings: ModuleSettings) -> list[str]:
    """Return the modules that the configuration loads, in their order; without a list all that are loaded by default."""
    if settings.load is not None:
        wanted = {*settings.load, *ALWAYS_LOADED}
    else:
        wanted = {name for name, one in MODULES.items() if one.by_default or name in settings.params}
    return [name for name in MODULES if name in wanted]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. ``changed`` and ``needs_restart`` are places in the configuration, ``read_anew`` modules and ``tls``."""

    changed: tuple[str, ...]
    read_anew: tuple[str, ...]
    needs_restart: tuple[str, ...]


class Reconfiguration:
    """Reads the configuration of one server anew, as often as it is asked to."""

    def __init__(self, settings: Settings, services: Services) -> None:
        """``settings``: those that the server runs with."""
        self.settings = settings
        self.engines: Mapping[str, Engine] = {}  # that hear of their limits
        self._services = services

    def apply(self, now: float) -> Outcome:
        """Read everything anew and let it take effect. Raise UsageError: nothing has changed then."""
        if self.settings.again is None:
            raise ConfigError("this server was made without a configuration that could be read anew")
        new = self.settings.again()
        wanted, restart = self._compare(new)
        swaps = self._read(now)
        return self._use(new, wanted, swaps, restart)

    @rpc("cfg.reload")
    def reload(self, *, now: float) -> dict[str, list[str]]:
        """Read the configuration, and the tables, lists and certificates that it names, anew. All takes effect, or nothing.

        Tells what has changed, which modules have read something anew, and what needs a restart.
        """
        try:
            outcome = self.apply(now)
        except UsageError as error:
            log.error("the configuration stays as it was: %s", error)
            raise RpcError(_FAILED, str(error)) from None
        return {
            "changed": list(outcome.changed),
            "read anew": list(outcome.read_anew),
            "needs restart": list(outcome.needs_restart),
        }

    # ---- what is different
    def _compare(self, new: Settings) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
        """Return what may change, by table, as it is and as it is to be; and the places that need a restart."""
        old = self.settings
        wanted: dict[str, tuple[Any, Any]] = {}
        restart: list[str] = []
        for one in fields(Settings):
            if one.name in _ELSEWHERE:
                continue
            before, after = getattr(old, one.name), getattr(new, one.name)
            if is_dataclass(before) and any(mark_of(f.metadata) for f in fields(before)):
                wanted[f"[{one.name}]"] = before, after
                restart += [f"[{one.name}] {key}" for key in differing(before, after)]
            elif before != after:
                restart.append(_PLACES.get(one.name, f"[{one.name}]" if is_dataclass(before) else one.name))
        restart += self._compare_modules(new, wanted)
        restart += _compare_engines(old, new)
        restart += _compare_log(old.log, new.log)
        return wanted, restart

    def _compare_modules(self, new: Settings, wanted: dict[str, tuple[Any, Any]]) -> list[str]:
        restart: list[str] = []
        loaded = loaded_modules(new.modules)
        modules: Mapping[str, Module] = self._services.modules
        if set(loaded) != set(modules):
            restart.append("[modules] load")
        for name in loaded:
            if name in modules:
                after = typed_params(MODULES[name], new.modules.params.get(name, {}), new.file)
                before = modules[name].params
                wanted[f"[modules.{name}]"] = before, after
                restart += [f"[modules.{name}] {key}" for key in differing(before, after)]
        return restart

    # ---- reading, and taking effect
    def _read(self, now: float) -> dict[str, Callable[[], None]]:
        """Read what the configuration names; return what puts it in place. Raise UsageError."""
        read = {name: module.reread(now) for name, module in self._services.modules.items()}
        read["tls"] = self._services.tls.reread_tls()
        return {name: use for name, use in read.items() if use is not None}

    def _use(
        self,
        new: Settings,
        wanted: Mapping[str, tuple[Any, Any]],
        swaps: Mapping[str, Callable[[], None]],
        restart: Iterable[str],
    ) -> Outcome:
        changed: list[str] = []
        for place, (before, after) in wanted.items():
            settings = self._services.live.settings_of(before)
            if settings is not None:
                changed += [f"{place} {key}" for key in settings.begin_with(after)]
        old = self.settings
        if new.domains != old.domains:
            self._services.serve(configured=frozenset(new.domains))
            changed.append("domains")
        changed += self._use_levels(new.log)
        for use in swaps.values():
            use()
        engines, routes, changes = _scripts(old, new)
        for one in engines:
            self.engines[one.name].limit(one.limits)
        changed += changes
        log_settings = replace(old.log, level=new.log.level, levels=new.log.levels)
        self.settings = replace(
            old, domains=new.domains, log=log_settings, tls=new.tls, engines=engines, routes=routes, again=new.again
        )
        outcome = Outcome(tuple(changed), tuple(swaps), tuple(restart))
        log.info("the configuration was read anew: %s", ", ".join(outcome.changed) or "nothing in it has changed")
        if outcome.needs_restart:
            log.warning("the configuration needs a restart: %s", ", ".join(outcome.needs_restart))
        return outcome

    def _use_levels(self, new: LogSettings) -> list[str]:
        old, levels = self.settings.log, self._services.levels
        if new.level != old.level:
            levels.set(LEVELS[new.level])
        if new.levels != old.levels:
            warn_of_unknown(new.levels)
            for name in old.levels.keys() | new.levels.keys():
                levels.set(LEVELS[new.levels[name]] if name in new.levels else logging.NOTSET, name)
        return [f"[log] {key}" for key in _LEVELS if getattr(new, key) != getattr(old, key)]


def _compare_log(old: LogSettings, new: LogSettings) -> list[str]:
    names = [one.name for one in fields(LogSettings) if one.name not in _LEVELS]
    return [f"[log] {name}" for name in names if getattr(old, name) != getattr(new, name)]


def _compare_engines(old: Settings, new: Settings) -> list[str]:
    if {one.name for one in old.engines} == {one.name for one in new.engines}:
        return []
    return ["[engines]", *(["[routes]"] if old.routes != new.routes else [])]


def _scripts(old: Settings, new: Settings) -> tuple[tuple[EngineSettings, ...], RouteSettings, list[str]]:
    """Return the engines that there are with the scripts and limits that ``new`` gives them, which blocks they run, and the
    places that differ. The next version of the scripts is made of them.
    """
    given = {one.name: one for one in new.engines}
    engines = tuple(given.get(one.name, one) for one in old.engines)
    changed = []
    for before, after in zip(old.engines, engines, strict=True):
        changed += [f"[engines.{before.name}] script"] if before.script != after.script else []
        keys = [one for one in fields(Limits) if getattr(before.limits, one.name) != getattr(after.limits, one.name)]
        changed += [f"[engines.{before.name}] {_KEYS.get(one.name, one.name)}" for one in keys]
    if given.keys() != {one.name for one in engines} or new.routes == old.routes:
        return engines, old.routes, changed
    return engines, new.routes, [*changed, "[routes]"]
