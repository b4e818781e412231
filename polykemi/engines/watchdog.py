"""Ends Python code that runs too long: a thread that raises an exception in the thread of the script."""

from __future__ import annotations

import ctypes
import sys
import threading
from time import monotonic
from types import CodeType, FrameType
from typing import Final

from polykemi.kemi.binding import BOUND_CODE

_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in.argtypes = [ctypes.c_ulong, ctypes.py_object]

_INTERVALS: Final = 10  # looks per time limit; what swallows the exception meets it again at the next one
_AGAIN: Final = 0.002  # seconds until the next look when the script was inside of a KSR function


class TimeLimit(BaseException):
    """The script's time is over. ``except Exception`` does not catch it; nothing stops a single call of a C function."""


class Watchdog:
    """Watches the calls of one engine. Idle, it only looks at one attribute a few times a second.

    It never strikes outside of the script: the thread must stand above the frame of ``entry`` (the engine's function that
    is armed) and not inside of a KSR function, which would be left half done, or of the watchdog itself. A look and the exception are one step under
    the GIL as far as CPython lets Python code know; ``disarm`` takes back what came too late all the same.
    """

    def __init__(self, seconds: float, entry: CodeType) -> None:
        self._seconds = seconds
        self._entry = entry
        self._deadline = 0.0  # of the running call; 0: none runs
        self._thread_id = 0
        self._struck = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def arm(self, factor: float = 1.0) -> float:
        """Begin a call on this thread, with ``factor`` limits of time; return the deadline of the call around it."""
        outer = self._deadline
        if self._seconds:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="polykemi-watchdog", daemon=True)
                self._thread.start()
            self._thread_id = threading.get_ident()
            self._deadline = monotonic() + self._seconds * factor
        return outer

    def disarm(self, outer: float) -> None:
        """End a call; ``outer`` is what ``arm`` returned."""
        self._deadline = 0.0
        if self._struck:
            self._take_back()
        self._deadline = outer

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def _take_back(self) -> None:
        # Clearing the exception would leave CPython 3.11's interrupt flag set for ever: slow, and an endless loop under a
        # debugger or coverage. One that arrives here resets the flag, and replaces one that is still on its way.
        with self._lock:
            try:
                _raise_in(threading.get_ident(), TimeLimit)
                while True:
                    pass
            except TimeLimit:
                self._struck = False

    def _watch(self) -> None:
        wait = self._seconds / _INTERVALS
        while not self._closed.wait(wait):
            wait = self._seconds / _INTERVALS
            deadline = self._deadline
            if deadline and monotonic() >= deadline and not self._strike(deadline):
                wait = min(wait, _AGAIN)

    def _strike(self, deadline: float) -> bool:
        with self._lock:
            self._struck = True  # before the look: a call that ends from here on takes back what comes
            if self._deadline == deadline and self._in_script(sys._current_frames().get(self._thread_id)):
                _raise_in(self._thread_id, TimeLimit)
                return True
            return False

    def _in_script(self, frame: FrameType | None) -> bool:
        """Tell whether ``frame`` stands above the armed entry with no KSR function in between."""
        if frame is None or frame.f_code is self._entry:
            return False
        while frame is not None:
            code = frame.f_code
            if code.co_filename in (BOUND_CODE, __file__):
                return False
            if code is self._entry:
                return True
            frame = frame.f_back
        return False
