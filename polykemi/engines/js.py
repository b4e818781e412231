"""JavaScript in V8, which has a thread of its own: there route blocks are called, also from inside of an export.

``serve`` runs the event loop on V8's thread, so that blocks are called as in every other engine. Without it ``call``
hands a block over to that thread and waits; only one of the two threads ever runs. The thread that waits watches the time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from typing import Any, Final, TypeVar

from polykemi.engines.base import Host, Limits
from polykemi.engines.js_calls import Calls
from polykemi.engines.js_realm import Realm, Realms
from polykemi.engines.js_run import Run
from polykemi.engines.js_script import JsScript, Loaded
from polykemi.engines.js_sources import Sources, read
from polykemi.engines.js_values import Values
from polykemi.engines.v8 import V8, kept
from polykemi.engines.v8_native import Local
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

_LYING: Final = 32 << 20  # octets of garbage, and as much again as lasts, that closed scripts may leave

_T = TypeVar("_T")


class JsEngine:
    """All scripts of one V8 isolate (see ``engines/base.py``)."""

    name = "js"

    def __init__(self, host: Host) -> None:
        self._host = host
        self.result: Xval = None  # of the function that was called for another script
        self._used = 0  # octets, at the last look
        self._lasting = 0  # octets, when V8 was told last to collect garbage behind closed scripts
        self._scripts: list[JsScript] = []  # those that are not closed
        self._names: list[str] = []  # of the functions of the script that was loaded last
        # of the threads
        self._busy = False  # a call waits
        self._loop: asyncio.AbstractEventLoop | None = None  # while serving
        self._stopping = self._closed = False
        self._fatal: BaseException | None = None
        self._finished = threading.Event()

        self._v8 = v8 = V8(host.limits.memory)
        self._realms = Realms(v8)
        self.pending = self._realms.pending
        self.values = Values(self._realms.memory)
        self.thread = v8.thread
        self._sources = Sources(everywhere="files" in host.limits.allow)
        self.run = Run(v8, self.values, self._sources, host.limits.seconds, host.loading)
        self._bind()

    def _bind(self) -> None:
        """Let JavaScript call the registry, and what js_runtime.js needs."""
        values = self.values
        calls = Calls(self._host, values, self.where)
        rows, exports = calls.bind()
        own = (
            self._failed,
            values.piece,
            values.rest,
            calls.method,
            calls.misfit,
            self._returned,
            self._module,
            self._say,
            self._loaded,
            self._v8.native.checkpoint,
        )
        self._realms.bind(rows, (*own, *exports))
        self._realms.wasm = "wasm" in self._host.limits.allow

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
        text = to_octets(f"{name}\n{source}")
        script = JsScript(self, path, name, text, self._loaded_from(file, text))
        self._scripts.append(script)
        return script

    def _loaded_from(self, file: str, text: str) -> Loaded:
        """Load ``text``, name and source, into a new realm. Raise ScriptLoadError."""
        with self._v8.native.scope():
            try:
                realm, thrown = self.run.load(file, lambda: self._fill(text))
            except ScriptError as error:
                raise ScriptLoadError(error.file, error.line, error.cause) from None
            failure, self.run.error = self.run.error, None
            if failure is not None:
                line = self._v8.native.line(thrown) if failure.line is None else failure.line
                realm.close()
                raise ScriptLoadError(failure.file, line, failure.cause)
            return realm, self._names

    def _fill(self, text: str) -> tuple[Realm, Local] | None:
        """Load ``text`` into a new realm; return that and what was thrown, None when JavaScript was stopped."""
        realm = self._realms.new()
        if realm is None:
            return None
        self.run.words[4] = self.values.put(text)
        thrown = realm.load()
        if thrown is None:
            realm.close()
            return None
        return realm, thrown

    def relieve(self, failed: JsScript) -> None:
        """Start scripts anew, ``failed`` first, while what they hold is more than half of the limit; on V8's thread."""
        native, most = self._v8.native, self._v8.memory // 2
        if native.used() <= most:
            return
        for script in (failed, *(one for one in self._scripts if one is not failed)):
            native.collect()
            held = native.used()
            if held <= most:
                return
            log.error("%s: JavaScript holds %d octets: the script is started anew", script.path, held)
            before, self._v8.spare = script.realm, held
            try:
                script.take(self._loaded_from(str(script.path), script.text))
            except ScriptLoadError as error:
                log.error("%s: goes on with what it has", error)
            else:
                before.close()
            self._v8.spare = 0
        native.collect()

    def release(self, script: JsScript) -> None:
        """Let V8 free ``script``."""
        if self._closed:
            return
        self._scripts.remove(script)
        self._sources.forget(script.name)
        if self._loop is not None and get_ident() != self.thread:
            self._loop.call_soon_threadsafe(self._free, script)
        else:
            self._v8.on_thread(lambda: self._free(script))

    def _free(self, script: JsScript) -> None:
        """Close the realm of ``script``. V8 by itself would let hundreds of them lie."""
        script.realm.close()
        native = self._v8.native
        if native.used() > 2 * self._lasting + _LYING:
            native.collect()
            self._lasting = native.used()

    def limit(self, limits: Limits) -> None:
        """Let these hold (see ``engines/base.py``); how much memory there is, at once too."""
        self.run.limit(limits.seconds)
        self._v8.limit(limits.memory)
        self._sources.everywhere = "files" in limits.allow
        self._realms.wasm = "wasm" in limits.allow

    def memory(self) -> int:
        """Return how many octets V8's heap holds for all scripts, garbage included, and outside of it for their buffers.

        While serving, another thread than the loop's is told what was so at the last look.
        """
        if self._loop is None or get_ident() == self.thread:
            self._used = self._v8.on_thread(self._v8.native.used)
        return self._used

    def where(self) -> str:
        """Return ``file:line`` of the script's call that is running."""
        file, line = self._sources.innermost(self._v8.native.place(), self.run.file)
        return file if line is None else f"{file}:{line}"

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
        run, outcome = kept(errand)
        self._busy = True
        try:
            self._v8.errand(run, ended.set)
            while not ended.wait(self.run.period):
                self.run.watch()
        finally:
            while not ended.wait(self.run.period):  # a signal's handler raised
                self.run.stop(self.run.outermost)
            self._busy = False
        return outcome.result()

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
                self._v8.errand(lambda: None, last.set)
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

    def _ended(self) -> None:
        """V8's message pump has had its turn, between two errands: for a moment, or to stop."""
        if self._stopping or self._fatal is not None:
            self._finished.set()
        else:
            self._start()

    def pause(self) -> None:
        """Let V8's message pump have its turn, soon, and what calls have left behind go."""
        if self._loop is not None and self._loop.is_running():
            self._loop.stop()

    def close(self) -> None:
        """End V8 and its thread."""
        self._closed = True
        self.values.close()
        self._v8.close()
