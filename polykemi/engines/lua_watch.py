"""The time of Lua scripts, seen from outside: when it is over the hook comes at once; a process that is stuck ends.

A hook that counts instructions would come too late where each instruction takes long (a loop that copies a large string). LuaJIT lets
the hook be set at any time (``lua_sethook`` is safe in a signal handler), and lupa runs Lua without the GIL: so a thread does that.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Final, Protocol

from lupa import luajit21

from polykemi.engines.stuck import GRACE, end_process
from polykemi.kemi.binding import BOUND_CODE, running_call

IDLE: Final = math.inf  # the deadline of a script that does not run

_INTERVALS: Final = 10  # looks per time limit
_MASK_COUNT: Final = 8  # LUA_MASKCOUNT
_MASK_LINE: Final = 4  # LUA_MASKLINE

_lua: Final = ctypes.PyDLL(luajit21.__file__)
_lua.lua_gethook.argtypes, _lua.lua_gethook.restype = [ctypes.c_void_p], ctypes.c_void_p
_lua.lua_sethook.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]


def publish() -> None:
    """Let shared libraries that are loaded from now on (Lua modules written in C) find LuaJIT's functions."""
    ctypes.PyDLL(luajit21.__file__, mode=ctypes.RTLD_GLOBAL)


class Pace:
    """When the hook of one Lua state comes. ``address``: what Lua's tostring gives for a thread of it that lives as long."""

    def __init__(self, address: str, instructions: int, state: object) -> None:
        """``state`` is not freed while this is there: the watch may be about to set the hook."""
        self._kept = state
        self._state = int(address.partition("0x")[2], 16)
        self._instructions = instructions

    def hurry(self) -> None:
        """Let the hook come at the next line or loop as well; called on any thread."""
        self._set(_MASK_COUNT | _MASK_LINE)

    def relax(self) -> None:
        """Let it come every so many instructions only; called by the hook."""
        self._set(_MASK_COUNT)

    def _set(self, mask: int) -> None:
        _lua.lua_sethook(self._state, _lua.lua_gethook(self._state), mask, self._instructions)


class Watched(Protocol):
    """A script as the watch sees it."""

    loading: bool  # its file is run
    deadline: float  # of the running call, on the monotonic clock; 0: not set yet, IDLE: none runs
    late_in: str  # the KSR function that it was in when it was seen to be late; "": in code of its own

    @property
    def pace(self) -> Pace | None:
        """The hook of its Lua state."""

    @property
    def path(self) -> object:
        """Its file."""


class Watch:
    """Looks a few times per time limit at the scripts of one engine."""

    def __init__(self, seconds: float, nesting: Callable[[], int]) -> None:
        """``nesting``: how many route blocks, of all engines, run inside of each other now."""
        self._seconds = seconds
        self._nesting = nesting
        self._interval = seconds / _INTERVALS
        self._looked = 0.0  # when, on the monotonic clock
        # that were stopped: their deadline, seconds seen since then
        self._late: dict[Watched, tuple[float, float]] = {}
        self._scripts: tuple[Watched, ...] = ()
        # held until ``close``; to wait for it takes a tenth of what waiting for an Event takes
        self._open = threading.Lock()
        self._open.acquire()
        self._thread: threading.Thread | None = None
        self._begin()

    def _begin(self) -> None:
        if self._seconds:
            self._thread = threading.Thread(target=self._run, name="polykemi-lua-watch", daemon=True)
            self._thread.start()

    def add(self, script: Watched) -> None:
        """Look at ``script`` too."""
        self._scripts = (*self._scripts, script)

    def remove(self, script: Watched) -> None:
        """Look at ``script`` no more; its Lua state may go."""
        self._scripts = tuple(one for one in self._scripts if one is not script)

    def limit(self, seconds: float) -> None:
        """Let calls run so long from now on."""
        if seconds != self._seconds:
            self.close()
            self._open.acquire(blocking=False)  # the thread has taken it when it ended
            self._seconds = seconds
            self._begin()

    def close(self) -> None:
        """End the thread."""
        if self._open.locked():
            self._open.release()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def _run(self) -> None:
        wait = self._interval
        while not self._open.acquire(timeout=wait):
            wait = self.look(monotonic())

    def look(self, now: float) -> float:
        """Look at the scripts, ``now`` on the monotonic clock; return in how many seconds to look again."""
        seen = min(now - self._looked, 2 * self._interval)  # in a pause of the whole process no script could come back
        self._looked = now
        before, self._late = self._late, {}
        wait = self._interval
        for script in self._scripts:
            deadline = script.deadline
            if deadline == 0.0:
                script.deadline = now + self._seconds
            elif now < deadline:
                wait = min(wait, deadline - now)
            elif (pace := script.pace) is not None:
                since, seconds = before.get(script, (IDLE, 0.0))
                if since != deadline:
                    script.late_in = self._running_call()
                pace.hurry()
                seconds = seconds + seen if since == deadline else 0.0
                self._late[script] = (deadline, seconds)
                if seconds > max(GRACE, self._seconds) and (script.loading or running_calls() < self._nesting()):
                    end_process(str(script.path), self._seconds + seconds)
        return wait

    def _running_call(self) -> str:
        """Return the KSR function that the innermost route block is in; "" when it is in code of its own."""
        if running_calls() < self._nesting():
            return ""
        return next(filter(None, map(running_call, sys._current_frames().values())), "")


def running_calls() -> int:
    """Return how many KSR functions scripts wait for: as many as route blocks run where the innermost waits for one as well.

    Their frames are those of generated code, which there are in the compiled form too.
    """
    count = 0
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            count += frame.f_code.co_filename == BOUND_CODE
            frame = frame.f_back
    return count
