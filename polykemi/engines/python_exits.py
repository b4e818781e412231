"""The functions by which Python code ends its process: called by a script in a route block they end the route.

They are told from the server's own calls, and from those of a process that a script has forked, when they are called.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from polykemi.engines.watchdog import in_script

log = logging.getLogger("polykemi.script")

_HARMLESS: Final = frozenset(
    {0, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH}
)
_DEEPEST: Final = 10_000  # of recursion: more frames of C code than that do not fit on the stack

_guarded = False


def guard() -> None:
    """Put what looks at its caller in the place of these functions; done once in a process."""
    global _guarded
    if _guarded:
        return
    _guarded = True
    server = os.getpid()
    ours = {server, 0, -1, -os.getpgrp()}
    os._exit = _ending(os._exit, lambda *_: os.getpid() == server)
    os.abort = _ending(os.abort, lambda *_: os.getpid() == server)
    os.kill = _ending(os.kill, lambda pid, number: pid in ours and number not in _HARMLESS)
    os.killpg = _ending(os.killpg, lambda group, number: -group in ours and number not in _HARMLESS)
    signal.raise_signal = _ending(signal.raise_signal, lambda number: number not in _HARMLESS)
    set_limit = sys.setrecursionlimit
    sys.setrecursionlimit = lambda depth: set_limit(min(depth, _DEEPEST) if in_script(sys._getframe(1)) else depth)


def _ending(function: Callable[..., Any], ends: Callable[..., bool]) -> Callable[..., Any]:
    def guarded(*args: Any, **named: Any) -> Any:
        caller = sys._getframe(1)
        if in_script(caller) and ends(*args, *named.values()):
            where = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            log.error("%s: %s ends the route, not the server", where, function.__name__)
            raise SystemExit
        return function(*args, **named)

    guarded.__name__, guarded.__doc__ = function.__name__, function.__doc__
    return guarded
