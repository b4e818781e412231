"""The functions by which Python code ends, or takes over, its process: called by a script they end the route, or do nothing.

They are told from the server's own calls, and from those of a process that a script has forked, when they are called.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from polykemi.engines.watchdog import OWN_SIGNALS, in_script

log = logging.getLogger("polykemi.script")

_HARMLESS: Final = frozenset({0, signal.SIGHUP, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH})
_SERVERS: Final = OWN_SIGNALS | {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
}  # whose handlers are not a script's to change
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
    os.execv = _ending(os.execv, lambda *_: os.getpid() == server)
    os.execve = _ending(os.execve, lambda *_: os.getpid() == server)
    os.kill = _ending(os.kill, lambda pid, number: pid in ours and number not in _HARMLESS)
    os.killpg = _ending(os.killpg, lambda group, number: -group in ours and number not in _HARMLESS)
    signal.raise_signal = _ending(signal.raise_signal, lambda number: number not in _HARMLESS)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        signal.signal(signal.SIGALRM, lambda *_: None)  # by default a script's alarm() would end the process, later
    set_handler = signal.signal
    signal.signal = _refusing(set_handler, lambda number, _: number in _SERVERS, signal.getsignal)
    sys.settrace = _refusing(sys.settrace, lambda function: function is not None)
    sys.setprofile = _refusing(sys.setprofile, lambda function: function is not None)
    sys.setswitchinterval = _refusing(sys.setswitchinterval, lambda _: True)
    set_limit = sys.setrecursionlimit
    sys.setrecursionlimit = lambda depth: set_limit(min(depth, _DEEPEST) if in_script(sys._getframe(1)) else depth)


def _ending(function: Callable[..., Any], ends: Callable[..., bool]) -> Callable[..., Any]:
    """Return what ends the route in place of the process."""

    def guarded(*args: Any, **named: Any) -> Any:
        caller = sys._getframe(1)
        if in_script(caller) and ends(*args, *named.values()):
            where = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            log.error("%s: %s ends the route, not the server", where, function.__name__)
            raise SystemExit
        return function(*args, **named)

    return _like(function, guarded)


def _refusing(
    function: Callable[..., Any], refused: Callable[..., bool], instead: Callable[..., Any] = lambda *_: None
) -> Callable[..., Any]:
    """Return what does nothing in place of a change to the process; ``instead`` gives its result from the first argument."""

    def guarded(*args: Any, **named: Any) -> Any:
        caller = sys._getframe(1)
        if in_script(caller) and refused(*args, *named.values()):
            where = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            log.error("%s: %s is the server's to call, not a script's: nothing is changed", where, function.__name__)
            return instead(args[0])
        return function(*args, **named)

    return _like(function, guarded)


def _like(function: Callable[..., Any], guarded: Callable[..., Any]) -> Callable[..., Any]:
    guarded.__name__, guarded.__doc__ = function.__name__, function.__doc__
    return guarded
