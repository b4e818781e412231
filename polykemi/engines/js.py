"""JavaScript in V8, which has a thread of its own: there route blocks are called, also from inside of an export.

``serve`` runs the event loop on V8's thread, so that blocks are called as in every other engine. Without it ``call``
hands a block over to that thread and waits; only one of the two threads ever runs. The thread that waits watches the time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from threading import get_ident
from typing import Any, Final

from polykemi.engines.base import Host
from polykemi.engines.js_calls import Calls
from polykemi.engines.js_sources import Sources, read
from polykemi.engines.js_values import ENTERED, SIZE, Values
from polykemi.engines.v8 import V8, Handle, Outcome
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.registry import Xval

log = logging.getLogger("polykemi.script")

LOAD_SECONDS: Final = 10.0  # for the top level of a script

_CONSOLE: Final = {
    **dict.fromkeys(("log", "info"), logging.INFO),
    "debug": logging.DEBUG,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_INVOKED: Final = "\0"  # in front of the name of a function that is called for another script; alone: a text is run
_APART: Final = "\0"  # a text is run apart from the script
_FIRST_INVOKED: Final = -2  # words[3] of the function 0 when it is called for another script; less for the others
_DEEPEST: Final = 16  # route blocks inside of one
_PAUSES: Final = (1 << 14) - 1  # V8's message pump has its turn when a block's number has none of these bits


class JsEngine:
    """A script in V8 (see ``engines/base.py``)."""

    name = "js"

    def __init__(self, host: Host) -> None:
        self._host = host
        seconds = host.limits.seconds
        # seconds between two looks of a thread that waits
        self._period = min(max(seconds / 8, 0.005), 0.25) if seconds > 0 else 0.25
        self._names: frozenset[str] = frozenset()
        self._functions: dict[str, int] = {}  # the script's, with their numbers in JavaScript
        # of the route blocks that run now
        self._block = 0  # number of the last that began
        self._run = 0  # number of the outermost, 0: none
        self._nested = 0  # how many run inside of it
        self._struck = 0  # number of the outermost that is being stopped as its time is over
        self._strike = threading.Lock()
        self._seen = (0, 0.0)  # the outermost at the last look, and when it was seen first
        self._result: Xval = None  # of the function that was called for another script
        self._error: ScriptError | None = None  # of the block that has just failed
        # of the threads
        self._busy = False  # a call waits
        self._loop: asyncio.AbstractEventLoop | None = None  # while serving
        self._stopping = False
        self._fatal: BaseException | None = None
        self._finished = threading.Event()
        self._paused: threading.Event | None = None  # a load waits for the loop to pause
        self._loading = threading.Lock()

        self._v8 = v8 = V8(host.limits.memory)
        shared = v8.eval(f"new SharedArrayBuffer({SIZE})")
        self._values = Values(v8.memoryview(shared))
        self._words = self._values.words
        self._thread = v8.thread
        self._sources = Sources()
        runtime = self._boot(shared)
        self._load_script = v8.item(runtime, "load")
        self._run_block, self._drain, self._tell_stack = v8.callers(
            [v8.item(runtime, name) for name in ("runBlock", "drain", "tellStack")]
        )

    def _boot(self, shared: Handle) -> Handle:
        """Bind the registry and return what ``js_runtime.js`` gives: its functions."""
        v8, values = self._v8, self._values
        calls = Calls(self._host, values, self._where)
        rows, exports = calls.bind()
        entries = v8.entries(
            (
                self._failed,
                values.piece,
                values.rest,
                calls.method,
                calls.misfit,
                self._returned,
                self._module,
                self._say,
                *exports,
            )
        )
        files = resources.files("polykemi.engines")
        _, sources, runtime = (
            v8.eval(files.joinpath(name).read_text("utf-8"))
            for name in ("js_library.js", "js_sources.js", "js_runtime.js")
        )
        spec = json.dumps({"exports": rows})
        return v8.make(runtime, spec, v8.array([shared, entries, sources]))

    # ---- the script
    def load(self, path: Path) -> None:
        """Load the script at ``path``. Raise ScriptLoadError; the running script stays then.

        While serving, from another thread than the loop's (``run_in_executor``); else from the one that calls.
        """
        if get_ident() == self._thread:
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
            outcome, expired = self._perform(self._load_script, text)
        finally:
            self._v8.release(text)
        if outcome.failed:
            if expired:
                raise ScriptLoadError(file, None, f"ran longer than {LOAD_SECONDS:g} s")
            if self._v8.out_of_memory():
                raise ScriptLoadError(file, None, self._v8.lift_memory_limit())
            raise self._sources.load_error(file, name, outcome.text)
        self._sources.live = file
        names = outcome.text.split("\n")[:-1]
        self._names = frozenset(names)
        numbers = {to_octets(name): i for i, name in enumerate(names)} | {n: i for i, n in enumerate(names)}
        invoked = numbers | {"": len(names), _APART: len(names) + 1}
        self._functions = numbers | {_INVOKED + name: _FIRST_INVOKED - i for name, i in invoked.items()}

    def _perform(self, function: Handle, this: Handle) -> tuple[Outcome, bool]:
        """Run ``function`` as a task and wait; tell whether it ran longer than LOAD_SECONDS and was stopped."""
        ended = threading.Event()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            if outcome.failed:  # here, on V8's thread: what it left to do may run when this has returned
                self._values.stopped(0, nested=False)
            outcomes.append(outcome)
            ended.set()

        task = self._v8.start(function, done, this)
        expired = False
        try:
            expired = not ended.wait(LOAD_SECONDS)
        finally:
            if not outcomes:  # too long, or a signal's handler raised
                self._v8.cancel(task)
                ended.wait()
        return outcomes[0], expired

    def functions(self) -> frozenset[str]:
        """Return the names of the functions that the script defines."""
        return self._names

    def has(self, function: str) -> bool:
        """Tell whether the script defines ``function``."""
        return function in self._functions

    # ---- route blocks
    def call(self, function: str, argument: str | None = None) -> None:
        """Call ``function``. Raise ScriptError; nothing happens when there is no such function."""
        number = self._functions.get(function)
        if number is None:
            return
        if get_ident() != self._thread:
            self._hand_over(function, argument)
            return
        words = self._words
        outermost = not self._run
        if not outermost:
            self._may_nest(function)
        words[3] = number
        if argument is not None:
            words[4] = self._values.put(argument)
        self._block = block = self._block + 1
        if outermost:
            self._run = block
            ended = self._run_block()
            self._run = 0
        else:
            self._nested += 1
            ended = self._run_block()
            self._nested -= 1
        if ended is None or self._struck or self._error is not None:
            error = self._failure(block, stopped=ended is None, nested=not outermost)
            if error is not None:
                raise error
            if words[3] == number:  # stopped before it began
                self.call(function, argument)
        if not block & _PAUSES and self._loop is not None:
            self._loop.stop()

    def invoke(self, function: str, arguments: Sequence[str]) -> Xval:
        """Call ``function`` for a script. Raise ScriptError."""
        if function not in self._functions:
            raise ScriptError(self._sources.live, None, f"no function {function}")
        self._result = None
        self.call(_INVOKED + function, json.dumps([from_octets(one) for one in arguments]))
        return self._result

    def evaluate(self, text: str, *, apart: bool) -> None:
        """Run ``text`` with the script's globals, or with those of V8 alone. Raise ScriptError."""
        self.call(_INVOKED + (_APART if apart else ""), json.dumps([from_octets(text)]))

    def where(self) -> str:
        """Return ``file:line`` of the call that is running."""
        return self._where() if self._run else ""

    def _returned(self) -> None:
        """JavaScript tells what a function gave that it has called for another script."""
        text, kind = self._values.two_texts()
        self._result = to_octets(text) if kind == "string" else int(float(text))

    def _module(self) -> None:
        """JavaScript wants a module: give its path, V8's name for it and its source, or what is wrong."""
        name, source = self._values.two_texts()
        try:
            found: Any = [to_octets(text) for text in self._sources.module(name, source)]
        except ScriptLoadError as error:
            found = to_octets(str(error))
        self._words[0] = self._values.put(found)

    def _say(self) -> None:
        """JavaScript's console."""
        text, level = self._values.two_texts()
        log.log(_CONSOLE[level], "%s", to_octets(text))

    def _may_nest(self, function: str) -> None:
        """Raise ScriptError when no block may begin inside of the one that runs."""
        if self._struck == self._run:
            raise self._overtime()
        if self._nested == _DEEPEST:
            cause = f"{function}: more than {_DEEPEST} route blocks inside each other"
            raise ScriptError(self._sources.live, None, cause)

    def _failure(self, block: int, *, stopped: bool, nested: bool) -> ScriptError | None:
        """Return the error of the route block that has just ended, and clear up behind it."""
        error, self._error = self._error, None
        struck = self._struck == self._run if nested else self._end_strike(block)
        if stopped:
            error = self._stopped(struck=struck, nested=nested)
            self._values.stopped(block, nested=nested)
            if not nested:
                self._drop_promises(block)
        elif struck and not nested and error is None:  # V8 has stopped its promises only
            error = self._overtime()
        return error

    def _stopped(self, *, struck: bool, nested: bool) -> ScriptError | None:
        """Let V8 go on after it has stopped a block; return why it has, None when the block had not begun."""
        v8 = self._v8
        if struck:
            if nested:
                v8.stop()  # the blocks around it have no time left either
            return self._overtime()
        if not v8.out_of_memory():
            return ScriptError(self._sources.live, None, "ran out of stack")
        v8.go_on()
        cause = v8.lift_memory_limit()
        if self._words[3] != ENTERED and not nested:  # the block before it has used the memory, in its last breath
            return None
        return ScriptError(self._sources.live, None, cause)

    def _drop_promises(self, block: int) -> None:
        """Let what a stopped block has left to its promises run now, when KSR is closed; V8 drops it when it is stopped."""
        self._run = block
        self._drain()
        self._run = 0
        self._end_strike(block)

    def _end_strike(self, block: int) -> bool:
        """Let V8 go on after a block was stopped, or was about to be; tell whether it was this one."""
        if not self._struck:
            return False
        with self._strike:
            struck, self._struck = self._struck == block, 0
            self._v8.go_on()
        return struck

    def _overtime(self) -> ScriptTimeout:
        return ScriptTimeout(self._sources.live, None, f"ran longer than {self._host.limits.seconds:g} s")

    def _failed(self) -> None:
        """JavaScript tells why a route block failed."""
        self._error = self._sources.error(*self._values.two_texts())

    def _where(self) -> str:
        """Return ``file:line`` of the script's call that is running."""
        if self._struck or self._tell_stack() is None:
            return self._sources.live
        return self._sources.position(self._values.two_texts()[1])

    # ---- threads that wait for V8's
    def _hand_over(self, function: str, argument: str | None) -> None:
        """Call ``function`` on V8's thread and wait."""
        if self._busy or self._loop is not None:
            raise ScriptError(self._sources.live, None, f"{function}: JavaScript runs on another thread")
        ended = threading.Event()
        errors: list[BaseException] = []

        def errand() -> None:
            try:
                self.call(function, argument)
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        self._busy = True
        try:
            self._v8.errand(errand, lambda _: ended.set())
            while not ended.wait(self._period):
                self._watch()
        finally:
            while not ended.wait(self._period):  # a signal's handler raised
                self._stop_block(self._run)
            self._busy = False
        if errors:
            raise errors[0]

    def _watch(self) -> None:
        """Stop a block that runs too long: that was seen so long ago."""
        run, now, seconds = self._run, time.monotonic(), self._host.limits.seconds
        seen, since = self._seen
        if run != seen:
            self._seen = run, now
        elif seconds > 0 and now - since > seconds:
            self._stop_block(run)

    def _stop_block(self, run: int) -> None:
        if run and not self._struck:
            with self._strike:  # a block that ends meanwhile waits for it: the next one shall not be hit
                self._struck = run
                if self._run == run:
                    self._v8.stop()

    # ---- serving
    def serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run ``loop`` on V8's thread until ``stop``. This thread takes the signals and watches the time."""
        self._fatal = None
        self._finished.clear()
        self._loop = loop
        try:
            self._start()
            while not self._finished.wait(self._period):
                self._watch()
        finally:
            if not self._finished.is_set():  # a signal's handler raised, perhaps before V8 began: one more errand tells
                self._stopping = True
                self.stop()
                last = threading.Event()
                self._v8.errand(lambda: None, lambda _: last.set())
                while not last.wait(self._period):
                    self._watch()
            self._loop = None
            self._stopping = False
        if self._fatal is not None:
            raise self._fatal

    def stop(self) -> None:
        """Make ``serve`` return when the running block has ended. For any thread, and for signal handlers."""
        loop = self._loop
        if loop is None:
            self._stopping = True
        elif get_ident() == self._thread:
            self._stop()
        else:
            loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._loop is not None:
            self._stopping = True
            self._loop.stop()

    def _start(self) -> None:
        self._v8.errand(self._run_loop, self._ended)

    def _run_loop(self) -> None:
        loop = self._loop
        try:
            if loop is not None and not self._stopping and self._paused is None:
                loop.run_forever()
        except BaseException as error:  # noqa: BLE001
            self._fatal = error

    def _ended(self, _: Outcome) -> None:
        """V8's message pump has had its turn, between two errands: for a moment, to load a script, or to stop."""
        if self._stopping or self._fatal is not None:
            self._finished.set()
        if self._paused is not None:
            self._paused.set()
        elif not self._finished.is_set():
            self._start()

    def close(self) -> None:
        """End V8 and its thread."""
        self._values.close()
        self._v8.close()
