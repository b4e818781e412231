"""JavaScript in V8. Two ways of one engine: it hosts the event loop (``serve``), or it is called from it (``call``).

Nothing can call into V8 from inside an export. So when JavaScript is the only engine, the loop runs inside V8's thread:
JavaScript asks ``_next`` for a route block, which runs the loop until there is one. Otherwise the caller's thread hands a
block to V8's thread and waits; only one of the two ever runs. For the same reason an export that needs another route
block (a Process) is not driven from here: JavaScript runs the block and then resumes the Process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Generator
from importlib import resources
from pathlib import Path
from types import GeneratorType
from typing import Any, Final

from polykemi.engines.base import Host, Work
from polykemi.engines.js_values import BLOCK, ENTERED, EXIT, FAILED, NULL, STOP, WHERE, Values
from polykemi.engines.v8 import V8, Handle, Outcome
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.kemi.binding import Refused, bind, from_octets, to_octets
from polykemi.kemi.context import Exit, RouteContext
from polykemi.kemi.registry import Export
from polykemi.kemi.route import Route

log = logging.getLogger("polykemi.engines.js")

LOAD_SECONDS: Final = 10.0  # for the top level of a script
_MOST_ARGUMENTS: Final = 6  # as in Kamailio


class _Position(BaseException):
    """The script's line is needed: JavaScript is asked for it, then the call is made again."""


class JsConversion:
    """Kamailio's rules for app_jsdt. ``js_runtime.js`` has converted all arguments that were given."""

    unicode = True
    extra_arguments = False
    none_result = False

    def __init__(self) -> None:
        self.position = ""

    def to_int(self, value: Any) -> int:
        """Return ``value``, an integer already."""
        return int(value)

    def to_str(self, value: Any) -> str:
        """Return ``value``, a text already."""
        return str(value)

    def missing(self) -> Any:
        """Refuse the call: no arguments were given (when only some are missing, JavaScript throws a RangeError)."""
        raise Refused("is missing")

    def where(self) -> str:
        """Return ``file:line`` of the call, once JavaScript was asked for it."""
        if not self.position:
            raise _Position
        return self.position


class JsEngine:
    """A script in V8 (see ``engines/base.py``)."""

    name = "js"
    hosts_loop = True

    def __init__(self, host: Host) -> None:
        self._host = host
        self._current = host.current
        self._conversion = JsConversion()
        self._files: list[str] = []  # of every load; stacks name them by number
        self._file = self.name  # of the script that is live
        self._functions: dict[str, int] = {}
        self._bound: list[tuple[Export, Callable[..., Any]]] = []
        self._again_with: tuple[Export, Callable[..., Any], list[Any]] | None = None
        self._processes: list[tuple[Generator[RouteContext, None, Any], RouteContext | None]] = []
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
        self._v8 = v8 = V8(host.limits.memory)
        shared = v8.eval(f"new SharedArrayBuffer({SIZE})")
        self._values = Values(v8.memoryview(shared))
        runtime = self._boot(shared)
        self._main, self._run_block, self._load_script = (v8.item(runtime, n) for n in ("main", "runBlock", "load"))

    def _boot(self, shared: Handle) -> Handle:
        """Bind the registry and return what ``js_runtime.js`` gives: its functions."""
        v8, host, values = self._v8, self._host, self._values
        own = (self._next, self._failed, self._resume, self._told, values.piece, values.rest, self._misfit)
        entries = [v8.entry(function) for function in own]
        rows = []
        for export, function in host.registry:
            types = "".join(p.type[0] for p in export.params)
            bound = bind(export, function, host.current, self._conversion, trace=host.trace)
            self._bound.append((export, bound))
            rows.append([export.module, export.name, types, export.constant])
            entries.append(v8.entry(self._entry(export, bound, types)))
        source = resources.files("polykemi.engines").joinpath("js_runtime.js").read_text("utf-8")
        spec = json.dumps({"cache": host.trace is None, "exports": rows})
        return v8.make(v8.eval(source), spec, v8.array([shared, *entries]))

    # ---- calls from JavaScript; these run on V8's thread and never raise
    def _entry(self, export: Export, bound: Callable[..., Any], types: str) -> Callable[[], None]:
        """Return what JavaScript calls for ``export``: the whole way of one call."""
        values, words, texts = self._values, self._values.words, self._values.texts
        put, arguments = values.put, values.arguments
        if types == "":
            call = bound
        elif types == "s":

            def call() -> Any:
                return bound(*arguments(types)) if words[1] else bound(texts[words[2]])
        else:

            def call() -> Any:
                return bound(*arguments(types))

        def enter() -> None:
            try:
                result = call()
                words[0] = self._begin(result) if type(result) is GeneratorType else put(result)
            except BaseException as error:  # noqa: BLE001
                words[0] = self._raised(error, export, bound, lambda: arguments(types))

        return enter

    def _raised(
        self, error: BaseException, export: Export, bound: Callable[..., Any], arguments: Callable[[], list[Any]]
    ) -> int:
        """Return what JavaScript shall do after ``error``."""
        if isinstance(error, Exit):
            return EXIT
        if isinstance(error, _Position):
            self._again_with = export, bound, arguments()
            return WHERE
        log.error("%s: internal error", export.path, exc_info=error)
        self._values.words[4] = self._values.put(f"{export.path}: {type(error).__name__}: {error}")
        return FAILED

    def _call_again(self, export: Export, bound: Callable[..., Any], arguments: list[Any]) -> None:
        words = self._values.words
        try:
            result = bound(*arguments)
            words[0] = self._begin(result) if type(result) is GeneratorType else self._values.put(result)
        except BaseException as error:  # noqa: BLE001
            words[0] = self._raised(error, export, bound, lambda: arguments)

    def _told(self) -> None:
        """The script's position is known now."""
        self._conversion.position = self._position(self._values.two_texts()[1])
        try:
            if self._again_with is not None:
                self._call_again(*self._again_with)
        finally:
            self._conversion.position = ""

    def _misfit(self) -> None:
        """The number of arguments is wrong: none to a function that takes some, some to one that takes none, too many."""
        words = self._values.words
        (export, bound), given = self._bound[words[1]], words[2]
        if given > _MOST_ARGUMENTS and self._current.ctx is not None:
            self._call_again(export, self._too_many(export), [given])
        else:
            self._call_again(export, bound, [""] * given if not export.params else [])

    def _too_many(self, export: Export) -> Callable[[int], bool]:
        def refuse(given: int) -> bool:
            where = self._conversion.where()
            log.error("%s: takes %d arguments at most, %d given at %s", export.path, _MOST_ARGUMENTS, given, where)
            return False

        return refuse

    def _failed(self) -> None:
        """A route block failed."""
        cause, stack = self._values.two_texts()
        line, traceback = self._line(stack), self._readable(stack)
        error = ScriptError(self._file, line, cause, traceback)
        if self._processes and self._current.ctx is not None:
            self._current.ctx.error = error
        elif self._running is not None:
            self._running.error = error
        else:
            self._error = error

    # ---- Processes: exports that need route blocks run
    def _begin(self, process: Generator[RouteContext, None, Any]) -> int:
        self._processes.append((process, self._current.ctx))
        return self._step()

    def _resume(self) -> None:
        self._current.ctx = self._processes[-1][1]
        try:
            self._values.words[0] = self._step()
        except BaseException as error:  # noqa: BLE001
            self._values.words[0] = self._raised_in_process(error)

    def _step(self) -> int:
        """Go on with the innermost Process until JavaScript has a block to run or the Process has ended."""
        process, outer = self._processes[-1]
        host = self._host
        while True:
            try:
                block = process.send(None)
            except StopIteration as end:
                self._processes.pop()
                return self._values.put(end.value)
            except BaseException:
                self._processes.pop()
                raise
            if host.run is not None and host.engine_of is not None and host.engine_of(block) != self.name:
                host.run(block)
                self._current.ctx = outer
            elif self._order(block):
                return BLOCK

