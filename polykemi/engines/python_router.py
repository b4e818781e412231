"""Kamailio's module ``Router``, as app_python3 has it beside KSR: ``Router.Logger``, ``Router.Ranks`` and an empty ``Router.Core``.

Scripts from before KEMI, and the samples that came with it for years, write their log by ``Router.Logger``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Final

_LEVELS: Final = {  # Kamailio's levels, and the function of KSR that writes a line of each
    "L_ALERT": (-5, "crit"),
    "L_BUG": (-4, "crit"),
    "L_CRIT2": (-3, "crit"),
    "L_CRIT": (-2, "crit"),
    "L_ERR": (-1, "err"),
    "L_WARN": (0, "warn"),
    "L_NOTICE": (1, "notice"),
    "L_INFO": (2, "info"),
    "L_DBG": (3, "dbg"),
}
_NAMED: Final = ("ALERT", "CRIT", "ERR", "WARN", "NOTICE", "INFO", "DBG")  # those with a function LM_...
_RANKS: Final = {
    "PROC_MAIN": 0,
    "PROC_TIMER": -1,
    "PROC_RPC": -2,
    "PROC_FIFO": -2,
    "PROC_TCP_MAIN": -4,
    "PROC_UNIXSOCK": -5,
    "PROC_ATTENDANT": -10,
    "PROC_INIT": -127,
    "PROC_NOCHLDINIT": -128,
    "PROC_MIN": -128,
    "PROC_SIPINIT": 1,
    "PROC_SIPRPC": 127,
}


def router_modules(ksr: ModuleType) -> dict[str, ModuleType]:
    """Return ``Router`` and its modules by their full names; what they log goes to ``ksr``."""
    modules = {name: ModuleType(name) for name in ("Router", "Router.Core", "Router.Logger", "Router.Ranks")}
    router, core, logger, ranks = modules.values()
    router.__dict__.update(__path__=[], Core=core, Logger=logger, Ranks=ranks)
    ranks.__dict__.update(_RANKS)
    logger.__dict__.update({name: level for name, (level, _) in _LEVELS.items()}, DEFAULT_FACILITY=0)

    def writes(function: str) -> Callable[[str], None]:
        def write(text: str) -> None:
            getattr(ksr, function)(text)

        return write

    by_level = {level: writes(function) for level, function in _LEVELS.values()}

    def log(level: int, text: str) -> None:
        """Write a line of ``level``."""
        by_level[max(-5, min(3, level))](text)

    def log_to(facility: int, level: int, text: str) -> None:
        """Write a line of ``level``; where it goes is a matter of [log]."""
        log(level, text)

    logger.__dict__.update({f"LM_{name}": by_level[_LEVELS[f"L_{name}"][0]] for name in _NAMED})
    logger.__dict__.update(LM_GEN1=log, LM_GEN2=log_to)
    return modules
