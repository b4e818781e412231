"""The commands about the log: its level, that of single loggers (Kamailio: debugger), and the watches."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from polykemi.config.table import unknown
from polykemi.errors import RpcError
from polykemi.kemi.log_levels import LEVELS, TOP, Levels, level_of, name_of, number_of
from polykemi.kemi.rpc import INVALID_PARAMS, rpc
from polykemi.log_watches import KINDS, SECONDS, Watches

log = logging.getLogger("polykemi.control")

_DEFAULT: Final = "default"
# what Kamailio's names of parts that are no modules stand for
_PARTS: Final = {"core": ("kemi", "router", "server", "transport"), "all": ("",), "xlog": ("script",)}


class Logs:
    """What is logged."""

    def __init__(self, levels: Levels, watches: Watches) -> None:
        self._levels, self._watches = levels, watches

    # ---- levels
    @rpc("log.level")
    def level(self, first: str = "", second: str = "") -> dict[str, Any]:
        """Return or set the level: ``log.level``, ``log.level LEVEL``, ``log.level LOGGER``, ``log.level LOGGER LEVEL``.

        LEVEL is debug, info, notice, warning, error or critical, or Kamailio's number of one; ``default`` lets a logger
        follow the server's level again.
        """
        if second:
            return self._change(_logger(first), _level(second, _DEFAULT))
        if not first:
            return {
                "level": name_of(self._levels.of()),
                "loggers": {n: name_of(v) for n, v in self._levels.own().items()},
            }
        if _is_level(first):
            return self._change("", _level(first))
        return {"level": name_of(self._levels.of(_logger(first)))}

    def _change(self, logger: str, level: int) -> dict[str, Any]:
        old = self._levels.of(logger)
        self._levels.set(level, logger)
        return {"old": name_of(old), "new": name_of(self._levels.of(logger))}

    @rpc("dbg.get_mod_level")
    def get_mod_level(self, module: str) -> int:
        """Return the level of a module as Kamailio's number: 3 debug, 2 info, 1 notice, 0 warnings, -1 errors."""
        return number_of(self._levels.of(_PARTS.get(module, (module,))[0]))

    @rpc("dbg.set_mod_level")
    def set_mod_level(self, module: str, level: int) -> str:
        """Set the level of a module, as Kamailio's number."""
        for name in _PARTS.get(module, (module,)):
            self._levels.set(level_of(level), name)
        return "200 ok"

    # ---- watches
    @rpc("log.watch")
    def watch(self, kind: str, value: str, seconds: float = SECONDS, *, now: float) -> dict[str, Any]:
        """Log all about one caller at level debug: KIND is call_id, source (address or network) or user.

        Ends by itself after so many seconds, 600 by default.
        """
        _known_kind(kind)
        try:
            self._watches.add(kind, value, seconds, now)
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, f"log.watch: {error}") from None
        return {"kind": kind, "value": value, "seconds": seconds}

    @rpc("log.unwatch")
    def unwatch(self, kind: str, value: str = "") -> dict[str, int]:
        """End a watch, ``log.unwatch KIND VALUE``, or all: ``log.unwatch all``."""
        if kind != "all":
            _known_kind(kind)
            if not self._watches.remove(kind, value):
                raise RpcError(404, f"log.unwatch: nobody watches {kind} {value}")
            return {"ended": 1}
        return {"ended": self._watches.remove()}

    @rpc("log.watches")
    def watches(self, *, now: float) -> list[dict[str, Any]]:
        """Return the watches: the seconds that each has left, and how many messages were logged because of it."""
        return [
            {"kind": one.kind, "value": one.value, "seconds": round(one.ends - now, 1), "messages": one.messages}
            for one in self._watches.all(now)
        ]


def _is_level(text: str) -> bool:
    return text in LEVELS or text.removeprefix("-").isdecimal()


def _level(text: str, *more: str) -> int:
    """Return the level of a name or of Kamailio's number. Raise RpcError."""
    if text in LEVELS:
        return LEVELS[text]
    if text in more:
        return logging.NOTSET
    try:
        return level_of(int(text))
    except ValueError:
        raise RpcError(INVALID_PARAMS, f"log.level: {text} is {unknown(text, (*LEVELS, *more))}") from None


def _logger(text: str) -> str:
    """Return the name of a logger that there is. Raise RpcError."""
    name, loggers = text.removeprefix(f"{TOP}."), _loggers()
    if name not in loggers:
        raise RpcError(INVALID_PARAMS, f"log.level: {text} is no level, and as a logger {unknown(name, loggers)}")
    return name


def _loggers() -> list[str]:
    return sorted(one.removeprefix(f"{TOP}.") for one in logging.root.manager.loggerDict if one.startswith(f"{TOP}."))


def warn_of_unknown(levels: Iterable[str]) -> None:
    """Warn of names in ``[log] levels`` that are no loggers: what is mistyped changes nothing.

    It is no error: loggers of parts that this server does without are not there.
    """
    loggers = _loggers()
    for text in levels:
        if (name := text.removeprefix(f"{TOP}.")) not in loggers:
            log.warning("[log] levels: %s is %s", text, unknown(name, loggers))


def _known_kind(kind: str) -> None:
    if kind not in KINDS:
        raise RpcError(INVALID_PARAMS, f"log.watch: {kind} is {unknown(kind, KINDS)}")
