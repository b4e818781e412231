"""JavaScript in V8, which has a thread of its own: there route blocks are called, also from inside of an export.

``serve`` runs the event loop on V8's thread, so that blocks are called as in every other engine. Without it ``call``
hands a block over to that thread and waits; only one of the two threads ever runs. The thread that waits watches the time.

Where V8 does not come back the isolate is given up (``js_isolate.py``), and another one takes its place with the same scripts;
while serving the event loop goes on on that one's thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Final, NoReturn, TypeVar

from polykemi.engines.base import Host, Limits
from polykemi.engines.js_isolate import Isolate
from polykemi.engines.js_loop import resumption
from polykemi.engines.js_run import PATIENCE
from polykemi.engines.js_script import JsScript
from polykemi.engines.js_sources import Sources, read
from polykemi.engines.stuck import end_process
from polykemi.engines.v8 import kept
from polykemi.errors import ScriptError, ScriptLoadError, ScriptMemory, ScriptTimeout
from polykemi.kemi.binding import to_octets

log = logging.getLogger("polykemi.script")

_MOST_LOST: Final = 32  # isolates that were given up: each keeps a thread and some MB
_MOST_RUNNING: Final = 4  # of these, that V8 has not come back from yet: each takes a processor
_ANEW: Final = 10.0  # seconds that a script may take to load which did so before
_LAST_PATIENCE: Final = 5.0  # seconds that V8 has to stop where the process ends otherwise

_T = TypeVar("_T")


class JsEngine:
    """All scripts of one V8 isolate (see ``engines/base.py``)."""

    name = "js"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._used = 0  # octets, at the last look
        self._scripts: list[JsScript] = []  # those that are not closed
        self._sources = Sources(everywhere="files" in host.limits.allow)
        self.isolate = Isolate(host, self._sources)
        self._lost: list[Isolate] = []  # that were given up
        # of the threads
        self._busy = False  # a call waits
        self._loop: asyncio.AbstractEventLoop | None = None  # while serving
        self._resume: Callable[[], None] | None = None  # what runs it on another thread, once it was stuck on one
        self._is_inside = False  # of ``enter``
        self._stopping = self._closed = False
        self._fatal: BaseException | None = None
        self._finished = threading.Event()

    # ---- scripts
    def load(self, path: Path) -> JsScript:
        """Load the script at ``path``. Raise ScriptLoadError; nothing changes then."""
        source = read(path)
        if get_ident() == self.isolate.thread:
            return self._load(path, source)
        return self.hand_over(str(path), lambda: self._load(path, source))

    def _load(self, path: Path, source: str) -> JsScript:
        """Load a script, on V8's thread."""
        file = str(path)
        isolate = self.isolate
        if isolate.run.outermost:
            raise ScriptLoadError(file, None, "a script cannot be loaded inside of a route block")
        name = self._sources.add(file)
        text = to_octets(f"{name}\n{source}")
        try:
            loaded = isolate.load(file, text)
        except BaseException:
            self._sources.forget(name)
            raise
        script = JsScript(self, path, name, text, isolate, loaded)
        self._scripts.append(script)
        return script

    def relieve(self, failed: JsScript) -> None:
        """Start scripts anew, ``failed`` first, while what they hold is more than half of the limit; on V8's thread."""
        isolate = self.isolate
        native, most = isolate.v8.native, isolate.v8.memory // 2
        if native.used() <= most:
            return
        for script in (failed, *(one for one in self._scripts if one is not failed)):
            native.collect()
            held = native.used()
            if held <= most:
                return
            log.error("%s: JavaScript holds %d octets: the script is started anew", script.path, held)
            before, isolate.v8.spare = script.realm, held
            try:
                script.take(isolate, isolate.load(str(script.path), script.text, _ANEW))
            except ScriptLoadError as error:
                log.error("%s: goes on with what it has", error)
            else:
                before.close()
            isolate.v8.spare = 0
        native.collect()
        isolate.v8.bound()

    def release(self, script: JsScript) -> None:
        """Let V8 free ``script``."""
        if self._closed:
            return
        self._scripts.remove(script)
        self._sources.forget(script.name)
        if self._loop is not None and get_ident() != self.isolate.thread:
            self._loop.call_soon_threadsafe(script.free)
        else:
            self.isolate.v8.on_thread(script.free)

    def limit(self, limits: Limits) -> None:
        """Let these hold (see ``engines/base.py``); how much memory there is, at once too."""
        self._host = replace(self._host, limits=limits)
        self._sources.everywhere = "files" in limits.allow
        self.isolate.limit(limits)

    def memory(self) -> int:
        """Return how many octets V8's heap holds for all scripts, garbage included, and outside of it for their buffers.

        While serving, another thread than the loop's is told what was so at the last look.
        """
        if self._loop is None or get_ident() == self.isolate.thread:
            v8 = self.isolate.v8
            self._used = v8.on_thread(v8.native.used)
        return self._used

    # ---- threads that wait for V8's
    def hand_over(self, file: str, errand: Callable[[], _T]) -> _T:
        """Do ``errand``, which ``file`` wants, on V8's thread and wait. Raise what it raises, and ScriptError."""
        if self._busy or self._loop is not None:
            raise ScriptError(file, None, "JavaScript runs on another thread")
        self._busy = True
        current = self._host.current
        ctx = current.ctx
        try:
            return self._done(errand)
        except (ScriptMemory, ScriptTimeout):
            if self.isolate.is_given_up:
                current.ctx = ctx  # what ran inside will not put it back
                self._replace()
            raise
        finally:
            self._busy = False

    def _done(self, errand: Callable[[], _T]) -> _T:
        """Return what ``errand`` gives on V8's thread. Raise what it raises, and ScriptError when the isolate was given up."""
        isolate, ended = self.isolate, threading.Event()
        isolate.on_death = ended.set
        run, outcome = kept(errand)
        isolate.v8.errand(run, ended.set)
        try:
            while not ended.wait(isolate.run.period) or isolate.died:
                if isolate.is_lost():
                    raise self._given_up()
        except ScriptError:
            raise
        except BaseException:  # a signal's handler raised
            while not ended.wait(isolate.run.period):
                isolate.run.stop(isolate.run.outermost)
            raise
        return outcome.result()

    # ---- isolates that are lost
    def _given_up(self) -> ScriptError:
        """Give up the isolate; return the error of what runs in it. When that was too often the process ends."""
        isolate = self.isolate
        self._lost.append(isolate)
        isolate.is_given_up = True
        isolate.close()
        running = sum(not one.gate.is_reached for one in self._lost)
        if len(self._lost) > _MOST_LOST or running > _MOST_RUNNING:
            self._end(isolate)
        error = isolate.loss()
        log.warning(
            "%s: V8 is given up and started anew; given up so far: %d, and still running: %d",
            isolate.run.file,
            len(self._lost),
            running,
        )
        return error

    def _end(self, isolate: Isolate) -> NoReturn:
        end_process(isolate.what_runs(), isolate.run.seconds_since())

    def _replace(self) -> None:
        """Make another isolate, with the scripts in it. One that does not load any more is left out; its calls fail."""
        broken: set[JsScript] = set()
        while self.isolate.is_given_up:
            self.isolate = isolate = Isolate(self._host, self._sources)
            for script in self._scripts:
                if script in broken or isolate.is_given_up:
                    continue
                try:
                    script.take(isolate, self._done(partial(isolate.load, str(script.path), script.text, _ANEW)))
                except (ScriptError, ScriptLoadError) as error:
                    log.error("%s: cannot be started anew: %s", script.path, error)
                    broken.add(script)

    # ---- serving
    def serve(self, loop: asyncio.AbstractEventLoop, lost: Callable[[ScriptError], None] | None = None) -> None:
        """Run ``loop`` on V8's thread until ``stop``. This thread takes the signals and watches the time.

        When V8 is given up inside of ``enter`` the loop goes on on another thread: ``lost`` is called there with the error of
        what ran. Anywhere else the process ends.
        """
        self._fatal = None
        self._finished.clear()
        self._loop, self._resume = loop, None
        self.isolate.on_death = self._finished.set
        try:
            self._start()
            while not self._finished.wait(self.isolate.run.period) or self.isolate.died:
                if self.isolate.is_lost(PATIENCE if self._is_inside else _LAST_PATIENCE):
                    self._move(loop, lost)
        finally:
            if not self._finished.is_set():  # a signal's handler raised, perhaps before V8 began: one more errand tells
                self._stopping = True
                self.stop()
                last = threading.Event()
                self.isolate.v8.errand(lambda: None, last.set)
                while not last.wait(self.isolate.run.period):
                    self.isolate.run.watch()
            self._loop = None
            self._stopping = False
        if self._fatal is not None:
            raise self._fatal

    def enter(self, work: Callable[[], None]) -> None:
        """Do ``work``, which calls scripts. Called by a reader of the loop, which ``lost`` has to add anew."""
        self._is_inside = True
        try:
            work()
        finally:
            self._is_inside = False

    def _move(self, loop: asyncio.AbstractEventLoop, lost: Callable[[ScriptError], None] | None) -> None:
        """Let ``loop`` go on on the thread of another isolate."""
        resume = resumption(loop)
        if not self._is_inside or resume is None or lost is None:
            self._end(self.isolate)
        error = self._given_up()
        self._finished.clear()
        self._is_inside = False
        self._resume = resume
        self._replace()
        self.isolate.on_death = self._finished.set
        loop.call_soon(lost, error)
        self._start()

    def stop(self) -> None:
        """Make ``serve`` return when the running block has ended. For any thread, and for signal handlers."""
        loop = self._loop
        if loop is None:
            self._stopping = True
        elif get_ident() == self.isolate.thread:
            self._stop()
        else:
            loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._loop is not None:
            self._stopping = True
            self._loop.stop()

    def _start(self) -> None:
        self.isolate.v8.errand(self._run_loop, self._ended)

    def _run_loop(self) -> None:
        loop = self._loop
        try:
            if loop is not None and not self._stopping:
                (self._resume or loop.run_forever)()
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
        self.isolate.close()
