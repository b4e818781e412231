"""The levels of the log: their names, Kamailio's names and numbers for them, and which is in force where.

Loggers are ``polykemi.NAME``; what scripts write comes from ``script``, a module's news from the module's name. A level is
asked of Python's loggers, which keep the answer: what is switched off costs that one question.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from polykemi.live import live

NOTICE: Final = 25  # between INFO and WARNING; Python has no level of that name
TOP: Final = "polykemi"

# names in polykemi.toml and in RPC commands
LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": NOTICE,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

# Kamailio's names of levels, without L_
KAMAILIO_LEVELS: Final[Mapping[str, int]] = {
    "ALERT": logging.CRITICAL,
    "BUG": logging.CRITICAL,
    "CRIT": logging.CRITICAL,
    "ERR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "NOTICE": NOTICE,
    "INFO": logging.INFO,
    "DBG": logging.DEBUG,
    "DEBUG": logging.DEBUG,
}

# the numbers of Kamailio's ``debug`` parameter
_NUMBERS: Final = {
    3: logging.DEBUG,
    2: logging.INFO,
    1: NOTICE,
    0: logging.WARNING,
    -1: logging.ERROR,
    -2: logging.CRITICAL,
}


def level_of(number: int) -> int:
    """Return the level of one of Kamailio's numbers: more than 3 is debug, less than -2 (alert) critical."""
    return _NUMBERS[min(max(number, -2), 3)]


def number_of(level: int) -> int:
    """Return Kamailio's number of a level: 3 debug, 2 info, 1 notice, 0 warnings, -1 errors, -2 critical."""
    return max((number for number, one in _NUMBERS.items() if level <= one), default=-2)


def name_of(level: int) -> str:
    """Return the name of a level, the next higher one for a level between two."""
    return next((name for name, one in LEVELS.items() if level <= one), "critical")


def logger_of(name: str) -> str:
    """Return the whole name of a logger: ``tm`` and ``polykemi.tm`` are the same, "" is that of all."""
    if not name or name == TOP:
        return TOP
    return name if name.startswith(f"{TOP}.") else f"{TOP}.{name}"


@dataclass(frozen=True, slots=True)
class DebugLevel:
    """Kamailio's ``debug`` parameter."""

    debug: int = live(2, "level of the log: 3 debug, 2 info, 1 notice, 0 warnings, -1 errors, -2 critical")


class Levels:
    """Which levels are in force: that of the server, those of single loggers, and what is lowered for a while."""

    def __init__(self, *, apart: bool = False) -> None:
        """``apart``: those of a server that is only tried: nothing is set."""
        self._apart = apart
        self.on_change: Callable[[], None] = lambda: None  # called when what is in force has changed
        self._levels: dict[str, int] = {TOP: logging.getLogger(TOP).level}
        self._override: int | None = None  # of setdebug: in place of the server's level
        self._lowered = 0

    def of(self, name: str = "") -> int:
        """Return the level that holds for a logger, "" for the server's."""
        return logging.getLogger(logger_of(name)).getEffectiveLevel()

    def set(self, level: int, name: str = "") -> None:
        """Set the level of a logger, "" for the server's; NOTSET lets a logger follow the server's."""
        name = logger_of(name)
        if level == logging.NOTSET and name != TOP:
            self._levels.pop(name, None)
            logging.getLogger(name).setLevel(logging.NOTSET)
        else:
            self._levels[name] = level
        self._apply()

    def own(self) -> dict[str, int]:
        """Return the levels of the loggers that have one of their own."""
        return {name.removeprefix(f"{TOP}."): level for name, level in self._levels.items() if name != TOP}

    def debug(self) -> int:
        """Return the server's level as Kamailio's ``debug`` parameter counts (``number_of``)."""
        return number_of(self.of())

    def set_debug(self, number: int) -> int:
        """Set the server's level as Kamailio's ``debug`` parameter; return what it was."""
        before = self.debug()
        self.set(level_of(number))
        return before

    def override(self, level: int | None) -> None:
        """Put ``level`` in place of the server's until None is given (kex.setdebug)."""
        self._override = level
        self._apply()

    # ---- for one message
    @property
    def is_lowered(self) -> bool:
        """Whether everything is let through now."""
        return self._lowered > 0

    def lower(self) -> None:
        """Let everything through, until ``restore`` is called as often."""
        self._lowered += 1
        if self._lowered == 1:
            self._write()

    def restore(self) -> None:
        """Undo one ``lower``."""
        self._lowered -= 1
        if not self._lowered:
            self._write()

    def _apply(self) -> None:
        self._write()
        self.on_change()

    def _write(self) -> None:
        if self._apart:
            return
        for name, level in self._levels.items():
            if self._lowered:
                level = logging.DEBUG
            elif name == TOP and self._override is not None:
                level = self._override
            logging.getLogger(name).setLevel(level)
