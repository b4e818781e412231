"""Ends Python code that runs too long: a thread that has an exception raised in the thread of the script.

Four means, by where the script is:

- In Python code: an exception that the interpreter raises there.
- In a system call that waits: a signal besides, whose handler is where the exception is raised (PEP 475). Python has signals on the
  main thread only, and with JavaScript the event loop runs on another.
- In a long loop in C that keeps the GIL, but looks at signals (``re``, integers): a signal of a timer of the kernel, which counts
  processor time and is wound up by this thread again and again, as long as it runs.
- In native code without the GIL that does not come back: the process ends (``stuck.py``).
- In native code that keeps the GIL and does not come back (``any(itertools.repeat(0))``): another such timer, whose signal ends the
  process, with the traceback.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import signal
import sys
import threading
import weakref
from time import monotonic
from types import CodeType, FrameType
from typing import Final

from polykemi.engines.stuck import GRACE, end_process
from polykemi.kemi.binding import BOUND_CODE

_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in.argtypes = [ctypes.c_ulong, ctypes.py_object]

_INTERVALS: Final = 10  # looks per time limit; what swallows the exception meets it again at the next one
_AGAIN: Final = 0.002  # seconds until the next look when the script was inside of a KSR function
_SIGNAL: Final = signal.SIGURG  # without a handler it does nothing, and hardly anybody uses it
_LATE: Final = signal.SIGVTALRM  # of the timer ITIMER_VIRTUAL: a thread has kept the GIL for the time limit
_STUCK: Final = signal.SIGPROF  # of the timer ITIMER_PROF: and has not come back
# seconds of processor time that it has at least to come back: all else stands still meanwhile
_STUCK_GRACE: Final = 1.0
_STDERR: Final = 2
OWN_SIGNALS: Final = frozenset({_SIGNAL, _LATE, _STUCK})


class TimeLimit(BaseException):
    """The script's time is over. ``except Exception`` does not catch it."""


class Watchdog:
    """Watches the calls of one engine. Idle, it only looks at one attribute a few times a second.

    It never strikes outside of the script: the thread must stand above the frame of ``entry`` (the engine's function that
    is armed) and not inside of a KSR function, which would be left half done, or of the watchdog itself. A look and the exception are one step under
    the GIL as far as CPython lets Python code know; ``disarm`` takes back what came too late all the same.
    """

    def __init__(self, seconds: float, entry: CodeType) -> None:
        self.seconds = seconds
        self._grace = max(GRACE, seconds)
        self._entry = entry
        self._deadline = 0.0  # of the running call; 0: none runs
        self._thread_id = 0
        self._struck = False
        self._strikes = 0  # of the running call
        # the KSR function in which the time of the last call that was late was over; "": in the script
        self.late_in = ""
        self._late = 0.0  # the deadline of that call
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._by_signal = bool(seconds) and threading.current_thread() is threading.main_thread()
        if self._by_signal:
            signal.signal(_SIGNAL, _on_signal)
            signal.signal(_LATE, _on_timer)
        _watchdogs.add(self)

    def arm(self, factor: float = 1.0) -> float:
        """Begin a call on this thread, with ``factor`` limits of time; return the deadline of the call around it."""
        outer = self._deadline
        if self.seconds:
            if self._thread is None:
                self._begin(factor)
            self._thread_id = threading.get_ident()
            self._deadline = monotonic() + self.seconds * factor
        return outer

    def disarm(self, outer: float) -> None:
        """End a call; ``outer`` is what ``arm`` returned."""
        self._deadline = 0.0
        self._strikes = 0
        if self._struck:
            self._take_back()
        self._deadline = outer

    def limit(self, seconds: float) -> None:
        """Let calls that begin from now on run so long; the next one starts the thread anew."""
        if seconds != self.seconds:
            self._end_thread()
            self._closed.clear()
            self.seconds = seconds
            self._grace = max(GRACE, seconds)

    def close(self) -> None:
        """End the thread."""
        _watchdogs.discard(self)
        self._end_thread()

    def _end_thread(self) -> None:
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

    def _begin(self, factor: float) -> None:
        """Start the thread. The first call may not let it run, so the timers begin here."""
        faulthandler.register(_STUCK, _STDERR, all_threads=True, chain=True)  # chain: then it ends the process
        self._wind_up(factor)
        self._thread = threading.Thread(target=self._watch, name="polykemi-watchdog", daemon=True)
        self._thread.start()

    def _wind_up(self, factor: float = 1.0) -> None:
        """Have the timers begin anew: what keeps the GIL does not let this be called."""
        seconds = self.seconds * factor
        if self._by_signal:
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds, self.seconds / _INTERVALS)
        signal.setitimer(signal.ITIMER_PROF, seconds + max(_STUCK_GRACE, self.seconds))

    def _watch(self) -> None:
        wait = interval = self.seconds / _INTERVALS
        deadline, stuck, looked = 0.0, 0.0, monotonic()  # for how long the call with this deadline has not come back
        while not self._closed.wait(wait):
            self._wind_up()
            now = monotonic()
            passed, looked = min(now - looked, 2 * wait), now  # a look that is late itself proves little
            wait = interval
            if self._deadline != deadline:
                deadline, stuck = self._deadline, 0.0
            if not deadline or now < deadline:
                continue
            if not self._strike(deadline):
                wait = min(wait, _AGAIN)
            elif stuck > self._grace:
                end_process(self._place(), self.seconds + stuck)
            else:
                stuck += passed
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _strike(self, deadline: float) -> bool:
        """Have TimeLimit raised in the script; tell whether it stands where it can be."""
        with self._lock:
            on_main = self._by_signal and self._thread_id == threading.main_thread().ident
            by_signal_alone = on_main and self._strikes % 2 == 1  # in turns: see ``_on_signal``
            if not by_signal_alone:
                self._struck = True  # before the look: a call that ends from here on takes back what comes
            frame = sys._current_frames().get(self._thread_id)
            if deadline != self._late:
                self._late, self.late_in = deadline, self._ksr_function(frame)
            if self._deadline != deadline or not self._in_script(frame):
                return False
            self._strikes += 1
            if not by_signal_alone:
                _raise_in(self._thread_id, TimeLimit)
            if on_main:
                signal.pthread_kill(self._thread_id, _SIGNAL)
            return True

    def is_over(self, frame: FrameType | None) -> bool:
        """Tell whether ``frame`` is a script's whose time is over."""
        return 0.0 < self._deadline <= monotonic() and self._in_script(frame)

    def persists(self) -> bool:
        """Tell whether the script on this thread has swallowed TimeLimit and goes on."""
        return self._strikes > 1 and 0.0 < self._deadline <= monotonic()

    def is_running(self, frame: FrameType | None) -> bool:
        """Tell whether ``frame``, of the thread that asks, is a script's."""
        return self._deadline > 0.0 and self._thread_id == threading.get_ident() and self._in_script(frame)

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

    def _ksr_function(self, frame: FrameType | None) -> str:
        """Return the KSR function that stands above the armed entry, as ``KSR.pv.get``; "" when none does."""
        while frame is not None and frame.f_code is not self._entry:
            if frame.f_code.co_filename == BOUND_CODE:
                return str(frame.f_globals["PATH"])
            frame = frame.f_back
        return ""

    def _place(self) -> str:
        frame = sys._current_frames().get(self._thread_id)
        return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "a script"


_watchdogs: Final[weakref.WeakSet[Watchdog]] = weakref.WeakSet()


# each step has the signal come again, and no bytecode that looks at signals runs meanwhile, as it would with a call
_AGAIN_AT_ONCE: Final = map(ctypes.pythonapi.PyErr_SetInterruptEx, itertools.repeat(int(_SIGNAL)))


def _on_signal(_number: int, frame: FrameType | None) -> None:
    """Run on the main thread, which was interrupted in ``frame``.

    The first TimeLimit is raised by the interpreter, as soon as this runs or before. Whoever takes that meets it at each look of the
    interpreter at signals from now on, and so inside of what takes it, too.
    """
    persisting = [watchdog for watchdog in tuple(_watchdogs) if watchdog.persists()]
    if not persisting:
        return
    is_script = any(watchdog._in_script(frame) for watchdog in persisting)
    for _ in _AGAIN_AT_ONCE:
        if is_script:
            raise TimeLimit
        return


def _on_timer(_number: int, frame: FrameType | None) -> None:
    """Run on the main thread, in C code that has kept the GIL too long."""
    if over := [watchdog for watchdog in tuple(_watchdogs) if watchdog.is_over(frame)]:
        for watchdog in over:
            watchdog.late_in = ""
        raise TimeLimit


def in_script(frame: FrameType | None) -> bool:
    """Tell whether ``frame``, of this thread, is a Python script's (or of what it calls) whose route block runs."""
    return any(watchdog.is_running(frame) for watchdog in tuple(_watchdogs))
