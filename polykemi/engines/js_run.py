"""What runs in an isolate now, a route block or the load of a script, and how it is stopped when its time is over."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from polykemi.engines.base import Loading
from polykemi.engines.js_sources import Sources
from polykemi.engines.js_values import RUN, Values
from polykemi.engines.v8 import V8
from polykemi.errors import ScriptError, ScriptMemory, ScriptTimeout
from polykemi.kemi.binding import running_call
from polykemi.kemi.limits import DEEPEST

_GRACE: Final = 0.05  # seconds in which JavaScript may say where it is before it is stopped
PATIENCE: Final = 0.25  # more seconds in which it may stop: a garbage collection takes long, but ends

_T = TypeVar("_T")


class Run:
    """The state of an isolate between its own thread, where blocks run, and the one that watches the time.

    ``JsScript.call`` writes ``block``, ``outermost`` and ``nested`` itself, as that is the hot path.
    """

    def __init__(
        self,
        v8: V8,
        values: Values,
        sources: Sources,
        seconds: float,
        loading: Loading,
        last_call: Callable[[], str],
        gate: Callable[[], None],
    ) -> None:
        """``last_call`` tells which call of KSR a script has made last; who comes back from V8 late passes the ``gate``."""
        self.words = values.words
        self.block = 0  # number of the last that began
        self.outermost = 0  # number of the outermost, 0: none
        self.nested = 0  # how many run inside of it
        self.struck = 0  # number of the outermost that is being stopped as its time is over
        self.error: ScriptError | None = None  # of what has just failed
        self.file = "js"  # the script that runs
        self._loading = loading
        self.limit(seconds)
        self._v8, self._values, self._sources = v8, values, sources
        self._last_call, self._gate = last_call, gate
        self._call = ""  # of KSR that ran when the time was over
        self._stop_anyway = 0.0  # when the block that is struck may no longer say where it is
        self._place: tuple[str, int | None] | None = None  # where the block was stopped
        v8.on_interrupt = self._interrupted
        self._strike = threading.Lock()
        self._seen = (0, 0.0)  # the outermost at the last look, and when it was seen first

    def limit(self, seconds: float) -> None:
        """Let a block run so long (0: without a limit); not called while one runs."""
        self.seconds = seconds
        self._allowed = seconds  # to what runs now
        # seconds between two looks of a thread that waits
        self.period = min(max(seconds / 8, 0.005), 0.25) if seconds > 0 else 0.25

    # ---- the isolate's thread
    def load(self, file: str, function: Callable[[], _T | None], seconds: float) -> _T:
        """Call ``function``, which loads ``file``; return what it gives. Raise ScriptError when it was stopped.

        It has as long as scripts have to load, and ``seconds`` at least.
        """
        self.block = self.outermost = block = self.block + 1
        before, self.file = self.file, file
        self._allowed = max(self.seconds * self._loading.factor(self.seconds), seconds if self.seconds else 0.0)
        try:
            try:
                given = function()
            finally:
                self.outermost = 0
                self.file = before
            self._gate()
            struck = self._end_strike(block)  # which says nothing of what has ended all the same
            if given is None:
                self.error = None
                raise self._stopped(block, file, struck=struck, nested=False)
        finally:
            self._allowed = self.seconds
        return given

    def may_nest(self, file: str, function: str) -> None:
        """Raise ScriptError when no block may begin inside of the one that runs."""
        if self.struck == self.outermost:
            raise self.overtime(file)
        if self.nested == DEEPEST:
            raise ScriptError(file, None, f"{function}: more than {DEEPEST} route blocks inside each other")

    def failure(self, block: int, file: str, *, stopped: bool, nested: bool, begun: bool = False) -> ScriptError | None:
        """Return the error of the block that has just ended, and clear up behind it.

        ``begun``: it has certainly begun. None when there is no error, or the block was ``stopped`` before it began.
        """
        self._gate()
        error, self.error = self.error, None
        struck = self.struck == self.outermost if nested else self._end_strike(block)
        if stopped:
            begun = begun or nested or self.words[RUN] != 0
            error = self._stopped(block, file, struck=struck, nested=nested)
            if not begun:  # the block before it has used the time or the memory, in its last breath
                error = None
        elif struck and not nested and error is None:  # V8 has stopped its promises only
            error = self.overtime(file)
        return error

    def _stopped(self, block: int, file: str, *, struck: bool, nested: bool) -> ScriptError:
        """Let V8 go on after it has stopped ``block``, and clear up behind that; return why it has."""
        error = self._reason(file, struck=struck, nested=nested)
        self._values.stopped(block, nested=nested)
        if not nested:
            self._drop_promises(block)
        return error

    def _reason(self, file: str, *, struck: bool, nested: bool) -> ScriptError:
        """Let V8 go on; return why it has stopped a block."""
        v8 = self._v8
        exhausted = v8.take_up()
        if struck and nested:
            v8.native.stop()  # the blocks around it have no time left either
        if exhausted:
            self._place = None
            return ScriptMemory(file, None, f"memory limit reached: more than {v8.memory} octets")
        return self.overtime(file) if struck else ScriptError(file, None, "ran out of stack")

    def _drop_promises(self, block: int) -> None:
        """Let what a stopped block has left to its promises run now, when KSR is closed; V8 drops it when it is stopped."""
        self.outermost = block
        self._v8.native.checkpoint()
        self.outermost = 0
        self._end_strike(block)

    def _end_strike(self, block: int) -> bool:
        """Let V8 go on after a block was stopped, or was about to be; tell whether it was this one."""
        if not self.struck:
            return False
        self._gate()
        with self._strike:
            struck, self.struck = self.struck == block, 0
            self._v8.native.go_on()
        return struck

    def overtime(self, file: str) -> ScriptTimeout:
        """Return the error of a block whose time is over: where it was, and in or after which call of KSR."""
        place, line = self._place or (file, None)
        self._place = None
        call = self._call or self._last_call()
        near = f", {'in' if self._call else 'after'} {call}" if call else ""
        cause = f"time limit reached: ran longer than {self._allowed:g} s{near}"
        return ScriptTimeout(place, line, cause, call=call)

    def _interrupted(self) -> None:
        """JavaScript looks up, as it was asked to: note where it is, and stop it."""
        if self.struck and self.struck == self.outermost:
            self._place = self._sources.innermost(self._v8.native.place(), self.file)
            self._v8.native.stop()

    # ---- the thread that waits
    def watch(self) -> None:
        """Stop a block that runs too long: that was seen so long ago."""
        block, now = self.outermost, time.monotonic()
        seen, since = self._seen
        if block != seen or not block:
            self._seen = block, now
        elif self._allowed > 0 and now - since > self._allowed:
            self.stop(block)

    def stop(self, block: int) -> None:
        """Stop ``block`` when it is the outermost that runs: where it looks up first, then wherever it can be."""
        if not block:
            return
        if self.struck != block:
            self._place = None  # of a block before, which has failed by itself after all
            self._call = running_call(sys._current_frames().get(self._v8.thread))
            self._stop_anyway = time.monotonic() + _GRACE
            self.struck = block
            self._v8.native.interrupt()
        elif time.monotonic() >= self._stop_anyway:
            with self._strike:  # a block that ends meanwhile waits for it: the next one shall not be hit
                if self.outermost == block:
                    self._v8.native.stop()

    def seconds_since(self) -> float:
        """Return how long the block has run that was seen last."""
        return time.monotonic() - self._seen[1]

    def be_patient(self) -> None:
        """Let the block that is being stopped have its time to stop anew: it was in a call of KSR, where nothing stops it."""
        self._stop_anyway = time.monotonic()

    def is_overdue(self, patience: float) -> bool:
        """Tell whether a block still runs that was to stop so many seconds ago."""
        block = self.struck
        return block != 0 and block == self.outermost and time.monotonic() >= self._stop_anyway + patience
