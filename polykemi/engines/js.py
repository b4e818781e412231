"""JavaScript in V8. Two ways of one engine: it hosts the event loop (``serve``), or it is called from it (``call``).

Nothing can call into V8 from inside an export. So when JavaScript is the only engine, the loop runs inside V8's thread:
JavaScript asks ``_next`` for a route block, which runs the loop until there is one. Otherwise the caller's thread hands a
block to V8's thread and waits; only one of the two ever runs.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Final

from polykemi.engines.base import Host, Work
from polykemi.engines.js_calls import Calls
from polykemi.engines.js_sources import Sources, read
from polykemi.engines.js_values import ENTERED, NULL, SIZE, STOP, Values
from polykemi.engines.v8 import V8, Handle, Outcome
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.context import RouteContext

LOAD_SECONDS: Final = 10.0  # for the top level of a script


class JsEngine:
    """A script in V8 (see ``engines/base.py``)."""

    name = "js"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._current = host.current
        self._names: frozenset[str] = frozenset()
        self._error: ScriptError | None = None  # of the block that was called
        self._busy = False  # a call waits
        self._loop: asyncio.AbstractEventLoop | None = None  # while serving
        self._work: Work | None = None
        self._running: RouteContext | None = None
        self._started = 0.0  # of the running block, time.monotonic()
        self._expired: RouteContext | None = None
        self._again: RouteContext | None = None  # was to run when V8 was stopped
        self._stopping = False
        self._fatal: BaseException | None = None
        self._finished = threading.Event()
        self._paused: threading.Event | None = None  # a load waits for the loop to pause
        self._task = 0
        self._loading = threading.Lock()
        self._v8 = v8 = V8(host.limits.memory)
        shared = v8.eval(f"new SharedArrayBuffer({SIZE})")
        self._values = Values(v8.memoryview(shared))
        self._sources = Sources()
        self._calls = Calls(host, self._values, self._sources, self.name)
        runtime = self._boot(shared)
        self._main, self._run_block, self._load_script = (v8.item(runtime, n) for n in ("main", "runBlock", "load"))

    def _boot(self, shared: Handle) -> Handle:
        """Bind the registry and return what ``js_runtime.js`` gives: its functions."""
        v8, values, calls = self._v8, self._values, self._calls
        rows, exports = calls.bind()
        own = (self._next, self._failed, calls.resume, calls.told, values.piece, values.rest, calls.misfit)
        entries = v8.entries((*own, *exports))
        source = resources.files("polykemi.engines").joinpath("js_runtime.js").read_text("utf-8")
        spec = json.dumps({"cache": self._host.trace is None, "exports": rows})
        return v8.make(v8.eval(source), spec, v8.array([shared, entries]))

    def _failed(self) -> None:
        """A route block failed."""
        error = self._calls.failure()
        if error is None:
            return
        if self._running is not None:
            self._running.error = error
        else:
            self._error = error

    # ---- the engine
    def load(self, path: Path) -> None:
        """Load the script at ``path``. Raise ScriptLoadError; the running script stays then.

        While serving, from another thread than the loop's (``run_in_executor``); else from the one that calls.
        """
        if threading.get_ident() == self._v8.thread:
            raise RuntimeError("V8 waits for this thread: load the script from another one")
        source = read(path)
        with self._loading:
            if self._loop is None:
                self._load(str(path), source)
                return
            self._paused = paused = threading.Event()
            self._loop.call_soon_threadsafe(self._loop.stop)
            paused.wait()
            try:
                self._load(str(path), source)
            finally:
                self._paused = None
                if not self._finished.is_set():
                    self._start()

    def _load(self, file: str, source: str) -> None:
        name = self._sources.add(file)
        text = self._v8.text(f"{name}\n{source}")
        try:
            outcome, expired = self._perform(self._load_script, LOAD_SECONDS, text)
        finally:
            self._v8.release(text)
        if outcome.failed:
            self._values.forget()
            if expired:
                raise ScriptLoadError(file, None, f"ran longer than {LOAD_SECONDS:g} s")
            if self._v8.out_of_memory():
                raise ScriptLoadError(file, None, self._v8.lift_memory_limit())
            raise self._sources.load_error(file, name, outcome.text)
        self._sources.live = file
        names = outcome.text.split("\n")[:-1]
        self._names = frozenset(names)
        self._calls.functions = {to_octets(name): i for i, name in enumerate(names)} | {
            name: i for i, name in enumerate(names)
        }

    def functions(self) -> frozenset[str]:
        """Return the names of the functions that the script defines."""
        return self._names

    def has(self, function: str) -> bool:
        """Tell whether the script defines ``function``."""
        return function in self._calls.functions

    def call(self, function: str, argument: str | None = None) -> None:
        """Call ``function`` on V8's thread and wait. Raise ScriptError; nothing happens when there is no such function."""
        number = self._calls.functions.get(function)
        if number is None:
            return
        if self._busy or self._loop is not None:
            raise ScriptError(
                self._sources.live, None, f"{function}: JavaScript is waiting for this call and cannot be entered"
            )
        self._busy = True
        try:
            self._call(number, argument)
        finally:
            self._busy = False
            self._end_run()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _call(self, number: int, argument: str | None) -> None:
        words = self._values.words
        while True:
            words[3] = number
            words[4] = NULL if argument is None else self._values.put(from_octets(argument))
            outcome, expired = self._perform(self._run_block, self._host.limits.seconds)
            if not outcome.failed:
                return
            if expired or self._calls.processes or words[3] == ENTERED:
                self._error = self._stopped(outcome, expired=expired)
                return
            # V8 was stopped a moment too late, when the block before this one had ended

    def _perform(self, function: Handle, seconds: float, this: Handle = None) -> tuple[Outcome, bool]:
        """Run ``function`` on V8's thread and wait; tell whether it ran longer than ``seconds`` and was stopped."""
        ended = threading.Lock()
        ended.acquire()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            try:
                if (
                    outcome.failed
                ):  # here, on V8's thread: what a stopped block left to do may run when this has returned
                    self._values.forget()
            finally:
                outcomes.append(outcome)
                ended.release()

        task = self._v8.start(function, done, this)
        expired = False
        try:
            expired = not ended.acquire(timeout=seconds if seconds > 0 else -1)
        finally:
            if not outcomes:  # too long, or a signal's handler raised
                self._v8.cancel(task)
                ended.acquire()
        return outcomes[0], expired

    # ---- serving: V8's thread runs the event loop
    def serve(self, loop: asyncio.AbstractEventLoop, work: Work) -> None:
        """Run ``loop`` in V8's thread and pull ``work``, until ``stop``. This thread takes the signals and watches the time."""
        seconds = self._host.limits.seconds
        period = min(max(seconds / 8, 0.005), 0.25) if seconds > 0 else 0.25  # also how late a signal may be seen
        self._fatal = None
        self._finished.clear()
        self._work, self._loop = work, loop
        try:
            self._start()
            while not self._finished.wait(period):
                self._watch(seconds)
        finally:
            if not self._finished.is_set():  # a signal's handler raised, perhaps before V8 began: one more task tells
                self._stopping = True
                self.stop()
                last = threading.Event()
                self._v8.start(self._main, lambda _: last.set())
                while not last.wait(period):
                    self._watch(seconds)
            self._loop = self._work = None
            self._stopping = False
        if self._fatal is not None:
            raise self._fatal

    def stop(self) -> None:
        """Make ``serve`` return when the running block has ended. For any thread, and for signal handlers."""
        if self._loop is None:
            self._stopping = True
        loop = self._loop
        if threading.get_ident() == self._v8.thread:
            self._stop()
        elif loop is not None:
            loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._loop is not None:
            self._stopping = True
            self._loop.stop()

    def _start(self) -> None:
        self._task = self._v8.start(self._main, self._ended)

    def _watch(self, seconds: float) -> None:
        """End a block that runs too long. ``_next`` gives out none once ``_expired`` is set, so that only this one is hit."""
        running = self._running
        if running is not None and seconds > 0 and self._expired is None and time.monotonic() - self._started > seconds:
            self._expired = running
            if self._running is running:
                self._v8.cancel(self._task)

    def _next(self) -> None:
        """Give JavaScript the next block to run, waiting for it in the event loop."""
        self._running = None
        self._end_run()
        self._current.ctx = None
        if self._expired is not None and self._expired.error is None:  # V8 stopped its promises only
            self._expired.error = self._overtime()
        try:
            block = self._pull()
        except BaseException as error:  # noqa: BLE001
            self._fatal = error
            block = None
        if block is None:
            self._values.words[3] = STOP

    def _end_run(self) -> None:
        self._values.end_run()
        if self._calls.processes:  # JavaScript ran out of stack before it could resume one
            self._calls.unwind(ScriptError(self._sources.live, None, "ran out of stack"))

    def _pull(self) -> RouteContext | None:
        """Return the block that was ordered, None when JavaScript shall come back to V8's message pump."""
        work, loop = self._work, self._loop
        assert work is not None
        assert loop is not None
        while not (self._stopping or self._expired is not None or self._paused is not None):
            block, self._again = self._again or work.next(), None
            if block is None:
                loop.run_forever()
            elif (number := self._calls.functions.get(block.callback)) is not None:
                self._calls.order(block, number)
                self._started = time.monotonic()
                self._running = block
                return block
        return None

    def _ended(self, outcome: Outcome) -> None:
        """JavaScript has come back to the message pump: for a moment, to stop, or because it was stopped."""
        expired, running = self._expired is not None, self._running
        self._expired = self._running = None
        if outcome.failed and running is not None:
            if self._calls.processes or self._values.words[3] == ENTERED:
                running.error = self._stopped(outcome, expired=expired)
            else:  # V8 was stopped a moment too late, or between two blocks
                self._again = running
            self._current.ctx = None
        if outcome.failed and self._v8.out_of_memory():
            self._v8.lift_memory_limit()
        if self._stopping or self._fatal is not None:
            self._finished.set()
        if self._paused is not None:
            self._paused.set()
        elif not self._finished.is_set():
            self._start()

    # ---- failures
    def _stopped(self, outcome: Outcome, *, expired: bool) -> ScriptError:
        """V8 stopped a block: undo what is half done and return the error."""
        error: ScriptError
        if expired:
            error = self._overtime()
        elif self._v8.out_of_memory():
            error = ScriptError(self._sources.live, None, self._v8.lift_memory_limit())
        else:
            error = ScriptError(self._sources.live, None, outcome.text.partition("\n")[0])
        self._calls.unwind(error)
        self._values.forget()
        return error

    def _overtime(self) -> ScriptTimeout:
        return ScriptTimeout(self._sources.live, None, f"ran longer than {self._host.limits.seconds:g} s")

    def close(self) -> None:
        """End V8 and its thread."""
        self._values.close()
        self._v8.close()
