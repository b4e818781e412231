"""JavaScript in V8, which has a thread of its own: there route blocks are called, also from inside of an export.

``serve`` runs the event loop on V8's thread, so that blocks are called as in every other engine. Without it ``call``
hands a block over to that thread and waits; only one of the two threads ever runs. The thread that waits watches the time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from threading import get_ident
from typing import Any, Final, TypeVar

from polykemi.engines.base import Host
from polykemi.engines.js_calls import Calls
from polykemi.engines.js_run import Run
from polykemi.engines.js_script import JsScript
from polykemi.engines.js_sources import Sources, read
from polykemi.engines.js_values import SIZE, Values
from polykemi.engines.v8 import V8, Handle, Outcome
from polykemi.errors import ScriptError, ScriptLoadError
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.registry import Xval

log = logging.getLogger("polykemi.script")

_CONSOLE: Final = {
    **dict.fromkeys(("log", "info"), logging.INFO),
    "debug": logging.DEBUG,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

_T = TypeVar("_T")


class JsEngine:
    """All scripts of one V8 isolate (see ``engines/base.py``)."""

    name = "js"

    def __init__(self, host: Host) -> None:
        self._host = host
        self.result: Xval = None  # of the function that was called for another script
        self._names: list[str] = []  # of the functions of the script that was loaded last
        # of the threads
        self._busy = False  # a call waits
        self._loop: asyncio.AbstractEventLoop | None = None  # while serving
        self._stopping = self._closed = False
        self._fatal: BaseException | None = None
        self._finished = threading.Event()

        self._v8 = v8 = V8(host.limits.memory)
        shared = v8.eval(f"new SharedArrayBuffer({SIZE})")
        self.values = Values(v8.memoryview(shared))
        self.thread = v8.thread
        self._sources = Sources()
        self.run = Run(v8, self.values, host.limits.seconds)
        runtime = self._boot(shared)
        self._load_script, self.run.drain, self._tell_stack = v8.callers(
            [v8.item(runtime, name) for name in ("load", "drain", "tellStack")]
        )

    def _boot(self, shared: Handle) -> Handle:
        """Bind the registry and return what ``js_runtime.js`` gives: its functions."""
        v8, values = self._v8, self.values
        calls = Calls(self._host, values, self.where)
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
                self._loaded,
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

    # ---- scripts
    def load(self, path: Path) -> JsScript:
        """Load the script at ``path``. Raise ScriptLoadError; nothing changes then."""
        source = read(path)
        if get_ident() == self.thread:
            return self._load(path, source)
        return self.hand_over(str(path), lambda: self._load(path, source))

    def _load(self, path: Path, source: str) -> JsScript:
        """Load a script, on V8's thread."""
        file = str(path)
        if self.run.outermost:
            raise ScriptLoadError(file, None, "a script cannot be loaded inside of a route block")
        name = self._sources.add(file)
        self.run.words[4] = self.values.put(to_octets(f"{name}\n{source}"))
        try:
            given = self.run.load(file, self._load_script)
        except ScriptError as error:
            raise ScriptLoadError(file, None, error.cause) from None
        failure, self.run.error = self.run.error, None
        if failure is not None:
            line = self._v8.line(given) if failure.line is None else failure.line
            raise ScriptLoadError(failure.file, line, failure.cause)
        return JsScript(self, path, self._names, self._v8.caller(given))

    def release(self, run_block: Callable[[], object]) -> None:
        """Let V8 free a script, whose function ``run_block`` is not called any more."""
        if not self._closed:
            self._v8.on_thread(lambda: self._v8.drop(run_block))

    def memory(self) -> int:
        """Return how many octets V8's heap holds for all scripts, and outside of it for their buffers."""
        return self._v8.used()

    def where(self) -> str:
        """Return ``file:line`` of the script's call that is running."""
        run = self.run
        if run.struck or self._tell_stack() is None:
            return run.file
        return self._sources.position(self.values.two_texts()[1], run.file)

    # ---- what js_runtime.js calls
    def _loaded(self) -> None:
        """A script is loaded: its functions, a line each."""
        self._names = from_octets(self.values.arguments("s")[0]).split("\n")[:-1]

    def _failed(self) -> None:
        """A route block failed, or a load."""
        cause, stack = self.values.two_texts()
        self.run.error = self._sources.error(cause, stack, self.run.file)

    def _returned(self) -> None:
        """JavaScript tells what a function gave that it has called for another script."""
        text, kind = self.values.two_texts()
        self.result = to_octets(text) if kind == "string" else int(float(text))

    def _module(self) -> None:
        """JavaScript wants a module: give its path, V8's name for it and its source, or what is wrong."""
        name, source = self.values.two_texts()
        try:
            found: Any = [to_octets(text) for text in self._sources.module(name, source)]
        except ScriptLoadError as error:
            found = to_octets(str(error))
        self.run.words[0] = self.values.put(found)

    def _say(self) -> None:
        """JavaScript's console."""
        text, level = self.values.two_texts()
        log.log(_CONSOLE[level], "%s", to_octets(text))

    # ---- threads that wait for V8's
    def hand_over(self, file: str, errand: Callable[[], _T]) -> _T:
        """Do ``errand``, which ``file`` wants, on V8's thread and wait."""
        if self._busy or self._loop is not None:
            raise ScriptError(file, None, "JavaScript runs on another thread")
        ended = threading.Event()
        results: list[_T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(errand())
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        self._busy = True
        try:
            self._v8.errand(run, lambda _: ended.set())
            while not ended.wait(self.run.period):
                self.run.watch()
        finally:
            while not ended.wait(self.run.period):  # a signal's handler raised
                self.run.stop(self.run.outermost)
            self._busy = False
        if errors:
            raise errors[0]
        return results[0]

    # ---- serving
    def serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run ``loop`` on V8's thread until ``stop``. This thread takes the signals and watches the time."""
        self._fatal = None
        self._finished.clear()
        self._loop = loop
        try:
            self._start()
            while not self._finished.wait(self.run.period):
                self.run.watch()
        finally:
            if not self._finished.is_set():  # a signal's handler raised, perhaps before V8 began: one more errand tells
                self._stopping = True
                self.stop()
                last = threading.Event()
                self._v8.errand(lambda: None, lambda _: last.set())
                while not last.wait(self.run.period):
                    self.run.watch()
            self._loop = None
            self._stopping = False
        if self._fatal is not None:
            raise self._fatal

    def stop(self) -> None:
        """Make ``serve`` return when the running block has ended. For any thread, and for signal handlers."""
        loop = self._loop
        if loop is None:
            self._stopping = True
        elif get_ident() == self.thread:
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
            if loop is not None and not self._stopping:
                loop.run_forever()
        except BaseException as error:  # noqa: BLE001
            self._fatal = error

    def _ended(self, _: Outcome) -> None:
        """V8's message pump has had its turn, between two errands: for a moment, or to stop."""
        if self._stopping or self._fatal is not None:
            self._finished.set()
        else:
            self._start()

    def pause(self) -> None:
        """Let V8's message pump have its turn, soon."""
        if self._loop is not None:
            self._loop.stop()

    def close(self) -> None:
        """End V8 and its thread."""
        self._closed = True
        self.values.close()
        self._v8.close()
