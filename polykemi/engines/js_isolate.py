"""One V8 isolate with KSR in it, which scripts are loaded into. It may be given up: then another one takes its place.

V8 has functions that nothing stops, and ends the process when its heap cannot grow. Its thread then never comes back into
code of ours: what it has left on its stack is lost, and the thread stays (``Gate``). Its heap is freed when that code has
come to its end after all.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn

from polykemi.engines.base import Host, Limits
from polykemi.engines.js_calls import Calls
from polykemi.engines.js_realm import Realm, Realms
from polykemi.engines.js_run import PATIENCE, Run
from polykemi.engines.js_script import JsScript, Loaded
from polykemi.engines.js_sources import Sources
from polykemi.engines.js_values import Values
from polykemi.engines.v8 import V8
from polykemi.engines.v8_native import Local, Native
from polykemi.errors import ScriptError, ScriptLoadError, ScriptMemory, ScriptTimeout
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.context import Current, RouteContext
from polykemi.kemi.registry import Xval

log = logging.getLogger("polykemi.script")

_CONSOLE: Final = {
    **dict.fromkeys(("log", "info"), logging.INFO),
    "debug": logging.DEBUG,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

_LYING: Final = 32 << 20  # octets of garbage, and as much again as lasts, that closed scripts may leave


class Gate:
    """Where V8's thread is held when it comes back from what it was given up in.

    In the functions of KSR it then stands in the place of ``current``, so that a call which begins is held as well.
    """

    def __init__(self, current: Current, leave: Callable[[], None]) -> None:
        """``leave`` is called on V8's thread when it is there and will stay."""
        self._current, self._leave = current, leave
        self._decided = threading.Event()
        self._decided.set()
        self.is_shut = False  # for good
        self.is_reached = False  # and V8's thread is there

    @property
    def ctx(self) -> RouteContext | None:
        """The context that runs, for who passes."""
        self.pass_()
        return self._current.ctx

    def pass_(self) -> None:
        """Go on, or stay for ever; wait while that is being decided."""
        self._decided.wait()
        if self.is_shut:
            self._stay()

    def _stay(self) -> NoReturn:
        self._leave()
        self.is_reached = True
        forever = threading.Event()
        while True:
            forever.wait()

    def shut(self, is_outside: Callable[[], bool]) -> bool:
        """Shut it, unless V8's thread is inside already; tell whether it is shut."""
        self._decided.clear()
        self.is_shut = is_outside()  # from here on it cannot come in unseen
        self._decided.set()
        return self.is_shut


class Isolate:
    """V8, the realms in it and what they call. Its scripts are called on its ``thread``."""

    def __init__(self, host: Host, sources: Sources) -> None:
        self._host, self._sources = host, sources
        self.v8 = v8 = V8(host.limits.memory)
        self._realms = Realms(v8)
        self.pending = self._realms.pending
        self.values = values = Values(self._realms.memory)
        self.thread = v8.thread
        self.gate = Gate(host.current, self._left)
        self._calls = calls = Calls(host, values, self.where)
        self.run = Run(v8, values, sources, host.limits.seconds, host.loading, calls.last, self.gate.pass_)
        self.result: Xval = None  # of the function that was called for another script
        self._names: list[str] = []  # of the functions of the script that was loaded last
        self.died = False  # V8 would have ended the process
        self.is_given_up = False
        self.on_death: Callable[[], None] = lambda: None
        v8.on_fatal = self._die
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
            v8.native.checkpoint,
        )
        self._realms.bind(rows, (*own, *exports))
        self._realms.wasm = "wasm" in host.limits.allow
        self._lasting = 0  # octets, when V8 was told last to collect garbage behind closed scripts

    def limit(self, limits: Limits) -> None:
        """Let these hold from now on."""
        self.run.limit(limits.seconds)
        self.v8.limit(limits.memory)
        self._realms.wasm = "wasm" in limits.allow

    # ---- scripts
    def load(self, file: str, text: str, seconds: float = 0.0) -> Loaded:
        """Load ``text``, name and source, into a new realm, on V8's thread; it has ``seconds`` at least. Raise ScriptLoadError."""
        with self.v8.native.scope():
            try:
                realm, thrown = self.run.load(file, lambda: self._fill(text), seconds)
            except ScriptError as error:
                raise ScriptLoadError(error.file, error.line, error.cause) from None
            failure, self.run.error = self.run.error, None
            if failure is not None:
                line = self.v8.native.line(thrown) if failure.line is None else failure.line
                self.free(realm)
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

    def free(self, realm: Realm) -> None:
        """Close a realm, on V8's thread. V8 by itself would let hundreds of them lie."""
        realm.close()
        native = self.v8.native
        if native.used() > 2 * self._lasting + _LYING:
            native.collect()
            self._lasting = native.used()

    def where(self) -> str:
        """Return ``file:line`` of the script's call that is running."""
        file, line = self._sources.innermost(self.v8.native.place(), self.run.file)
        return file if line is None else f"{file}:{line}"

    # ---- what JavaScript calls besides KSR
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

    # ---- its end
    def is_lost(self, patience: float = PATIENCE) -> bool:
        """Tell whether its thread will not come back, and see to it; called by the thread that waits, now and then.

        ``patience``: seconds that it has to stop.
        """
        if self.died:
            return True
        self.run.watch()
        if not self.run.is_overdue(patience):
            return False
        self._calls.take(self.gate)
        # asked once more, when nothing passes: it may have come back meanwhile, and be in the next block
        if self.gate.shut(lambda: self.run.is_overdue(patience) and self._is_in_v8()):
            return True
        self._calls.take(self._host.current)
        self.run.be_patient()
        return False

    def _is_in_v8(self) -> bool:
        """Tell whether its thread is in V8's own code. A call of KSR, which takes long, is none."""
        frame = sys._current_frames().get(self.thread)
        return frame is not None and frame.f_code in _IN_V8

    def what_runs(self) -> str:
        """Return the script that V8 is in, and its function where that is known."""
        frame = sys._current_frames().get(self.thread)
        function = frame.f_locals.get("function") if frame is not None else None
        return f"{self.run.file}: {function}" if isinstance(function, str) else self.run.file

    def loss(self) -> ScriptError:
        """Return the error of what ran when it was lost."""
        run = self.run
        if self.died:
            return ScriptMemory(run.file, None, "memory limit reached: V8 has none left and is started anew")
        error = run.overtime(run.file)
        cause = f"{error.cause}; V8 could not be stopped and is started anew"
        return ScriptTimeout(error.file, error.line, cause, call=error.call)

    def _die(self) -> None:
        """V8 is about to end the process: keep its thread from that. Another thread of V8's cannot be kept."""
        if threading.get_ident() != self.thread:
            return
        self.died = self.gate.is_shut = self.gate.is_reached = True
        self.on_death()
        forever = threading.Event()
        while True:
            forever.wait()

    def _left(self) -> None:
        """Free what can be freed; on V8's thread, which nothing else will be done on."""
        self._realms.close()
        self.v8.native.collect()

    def close(self) -> None:
        """End V8 and its thread; one that was lost stays as it is."""
        if self.gate.is_shut:
            self.v8.abandon()
            return
        self.values.close()
        self.v8.close()


# what calls V8 without knowing when it comes back; after it the thread comes to the gate before anything else
_IN_V8: Final = frozenset(
    function.__code__
    for function in (JsScript.call, Isolate._fill, Native.apply, Native.checkpoint, Native.context, Native.evaluate)
)
