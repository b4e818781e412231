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
from polykemi.engines.js_values import BLOCK, ENTERED, EXIT, FAILED, NULL, SIZE, STOP, WHERE, Values
from polykemi.engines.v8 import V8, Handle, Outcome
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.kemi.binding import Refused, bind, from_octets, to_octets
from polykemi.kemi.context import Exit, RouteContext
from polykemi.kemi.registry import Export
from polykemi.kemi.route import Route

log = logging.getLogger("polykemi.engines.js")

LOAD_SECONDS: Final = 10.0  # for the top level of a script
_SOURCE: Final = "ksr:script/"  # with the number of the load, V8's name for a script
_FRAME: Final = re.compile(_SOURCE + r"(\d{1,9}):(\d{1,9})")

_Process = Generator[RouteContext, None, Any]


class _Position(BaseException):
    """The script's line is needed: JavaScript is asked for it, then the call is made again."""


class JsConversion:
    """Kamailio's rules for app_jsdt. ``js_runtime.js`` has converted all arguments that were given."""

    unicode = True
    extra_arguments = False
    max_arguments = 6
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
        self._again_with: tuple[Export, Callable[..., Any], list[Any]] | None = None  # the call that asked for its line
        self._processes: list[tuple[Export, _Process, RouteContext | None]] = []  # those that wait for a block
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
        return v8.make(v8.eval(source), spec, v8.array([shared, v8.array(entries)]))

    # ---- calls from JavaScript; these run on V8's thread and never raise
    def _entry(self, export: Export, bound: Callable[..., Any], types: str) -> Callable[[], None]:
        """Return what JavaScript calls for ``export``: the whole way of one call."""
        values, words, put, arguments = self._values, self._values.words, self._values.put, self._values.arguments
        call = bound
        if types:  # read from the buffer as the common case has them: numbers, and texts that crossed before
            read = ", ".join(f"texts[words[{i}]]" if t == "s" else f"words[{i}]" for i, t in enumerate(types, 2))
            source = f"lambda: bound(*arguments(types)) if words[1] else bound({read})"
            scope = {"words": words, "texts": values.texts, "bound": bound, "arguments": arguments, "types": types}
            call = eval(source, scope)

        def enter() -> None:
            try:
                result = call()
                words[0] = self._begin(export, result) if type(result) is GeneratorType else put(result)
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
            words[0] = self._begin(export, result) if type(result) is GeneratorType else self._values.put(result)
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
        self._call_again(export, bound, [""] * given)

    def _failed(self) -> None:
        """A route block failed."""
        cause, stack = (text.encode("utf-8", "replace").decode() for text in self._values.two_texts())
        cause = cause.replace("\r", " ").replace("\n", " ")  # it goes into one line of the log
        error = ScriptError(self._file, self._line(stack), cause, self._readable(stack))
        if self._processes and self._current.ctx is not None:
            self._current.ctx.error = error
        elif self._running is not None:
            self._running.error = error
        else:
            self._error = error

    # ---- Processes: exports that need route blocks run
    def _begin(self, export: Export, process: _Process) -> int:
        self._processes.append((export, process, self._current.ctx))
        return self._step()

    def _resume(self) -> None:
        block = self._current.ctx
        export, _, self._current.ctx = self._processes[-1]
        try:
            if block is not None and block.error is not None and self._host.report is not None:
                self._host.report(block)
            self._values.words[0] = self._step()
        except BaseException as error:  # noqa: BLE001
            self._values.words[0] = self._raised(error, export, lambda: None, list)

    def _step(self) -> int:
        """Go on with the innermost Process until JavaScript has a block to run or the Process has ended."""
        _, process, outer = self._processes[-1]
        host = self._host
        try:
            while True:
                block = process.send(None)
                if host.run is not None and host.engine_of is not None and host.engine_of(block) != self.name:
                    host.run(block)
                    self._current.ctx = outer
                    if block.error is not None and host.report is not None:
                        host.report(block)
                elif (number := self._functions.get(block.callback)) is not None:
                    self._order(block, number)
                    return BLOCK
        except StopIteration as end:
            self._processes.pop()
            return self._values.put(end.value)
        except BaseException:
            self._processes.pop()
            raise

    def _order(self, block: RouteContext, number: int) -> None:
        """Tell JavaScript to run ``block``."""
        words = self._values.words
        words[3] = number
        words[4] = self._values.put(from_octets(block.event)) if block.kind == Route.EVENT else NULL
        self._current.ctx = block

    # ---- the engine
    def load(self, path: Path) -> None:
        """Load the script at ``path``. Raise ScriptLoadError; the running script stays then.

        While serving, from another thread than the loop's (``run_in_executor``); else from the one that calls.
        """
        if threading.get_ident() == self._v8.thread:
            raise RuntimeError("V8 waits for this thread: load the script from another one")
        source = _read(path)
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
        self._files.append(file)
        number = len(self._files) - 1
        text = self._v8.text(f"{_SOURCE}{number}\n{source}")
        try:
            outcome, expired = self._perform(self._load_script, LOAD_SECONDS, text)
        finally:
            self._v8.release(text)
        if outcome.failed:
            raise self._load_error(file, number, outcome, expired=expired)
        self._file = file
        self._functions = {}
        for i, name in enumerate(outcome.text.splitlines()):
            self._functions[name] = self._functions[to_octets(name)] = i

    def functions(self) -> frozenset[str]:
        """Return the names of the functions that the script defines."""
        return frozenset(self._functions)

    def has(self, function: str) -> bool:
        """Tell whether the script defines ``function``."""
        return function in self._functions

    def call(self, function: str, argument: str | None = None) -> None:
        """Call ``function`` on V8's thread and wait. Raise ScriptError; nothing happens when there is no such function."""
        number = self._functions.get(function)
        if number is None:
            return
        if self._busy or self._loop is not None:
            raise ScriptError(
                self._file, None, f"{function}: JavaScript is waiting for this call and cannot be entered"
            )
        self._busy = True
        try:
            self._call(number, argument)
        finally:
            self._busy = False
            self._values.end_run()
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
            if expired or self._processes or words[3] == ENTERED:
                self._error = self._stopped(outcome, expired=expired)
                return
            # V8 was stopped a moment too late, when the block before this one had ended

    def _perform(self, function: Handle, seconds: float, this: Handle = None) -> tuple[Outcome, bool]:
        """Run ``function`` on V8's thread and wait; tell whether it ran longer than ``seconds`` and was stopped."""
        ended = threading.Lock()
        ended.acquire()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
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
        self._running = self._current.ctx = None
        self._values.end_run()
        if self._expired is not None and self._expired.error is None:  # V8 stopped its promises only
            self._expired.error = self._overtime()
        try:
            block = self._pull()
        except BaseException as error:  # noqa: BLE001
            self._fatal = error
            block = None
        if block is None:
            self._values.words[3] = STOP

    def _pull(self) -> RouteContext | None:
        """Return the block that was ordered, None when JavaScript shall come back to V8's message pump."""
        work, loop = self._work, self._loop
        assert work is not None
        assert loop is not None
        while not (self._stopping or self._expired is not None or self._paused is not None):
            block, self._again = self._again or work.next(), None
            if block is None:
                loop.run_forever()
            elif (number := self._functions.get(block.callback)) is not None:
                self._order(block, number)
                self._started = time.monotonic()
                self._running = block
                return block
        return None

    def _ended(self, outcome: Outcome) -> None:
        """JavaScript has come back to the message pump: for a moment, to stop, or because it was stopped."""
        expired, running = self._expired is not None, self._running
        self._expired = self._running = None
        if outcome.failed and running is not None:
            if self._processes or self._values.words[3] == ENTERED:
                running.error = self._stopped(outcome, expired=expired)
            else:
                self._again = running
            self._current.ctx = None
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
            error = ScriptError(self._file, None, f"needs more memory than its {self._v8.memory} octets")
            self._v8.limit_memory()
        else:
            error = ScriptError(self._file, None, outcome.text.partition("\n")[0])
        while self._processes:
            export, process, outer = self._processes.pop()
            if self._current.ctx is not None:
                self._current.ctx.error = error
            self._current.ctx = outer
            try:
                process.close()
            except Exception:
                log.exception("%s: internal error", export.path)
        self._values.forget()
        return error

    def _overtime(self) -> ScriptTimeout:
        return ScriptTimeout(self._file, None, f"ran longer than {self._host.limits.seconds:g} s")

    def _load_error(self, file: str, number: int, outcome: Outcome, *, expired: bool) -> ScriptLoadError:
        self._values.forget()
        if expired:
            return ScriptLoadError(file, None, f"ran longer than {LOAD_SECONDS:g} s")
        if self._v8.out_of_memory():
            self._v8.limit_memory()
            return ScriptLoadError(file, None, f"needs more memory than its {self._v8.memory} octets")
        head, _, stack = outcome.text.partition("\n")  # "where:line: cause"; where is "undefined" for syntax errors
        message = re.match(r"(?s)(\S*?):(\d+): (.*)", head)
        if message is None:
            return ScriptLoadError(file, self._line(stack), head)
        where, line, cause = message.groups()
        if where in ("undefined", f"{_SOURCE}{number}"):
            return ScriptLoadError(file, int(line), cause)
        return ScriptLoadError(file, self._line(stack), cause)

    def _line(self, stack: str) -> int | None:
        frame = _FRAME.search(stack)
        return int(frame[2]) if frame else None

    def _position(self, stack: str) -> str:
        frame = _FRAME.search(stack)
        return self._named(frame) if frame else self._file

    def _named(self, frame: re.Match[str]) -> str:
        number = int(frame[1])  # a script may have made it up
        return f"{self._files[number]}:{frame[2]}" if number < len(self._files) else frame[0]

    def _readable(self, stack: str) -> str:
        """Return the stack of a script's error with the names of files, without the frames of the runtime."""
        lines = [line for line in stack.split("\n") if "(js_runtime.js" not in line]
        return _FRAME.sub(self._named, "\n".join(lines))

    def close(self) -> None:
        """End V8 and its thread."""
        self._values.close()
        self._v8.close()


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScriptLoadError(str(path), None, error.strerror or str(error)) from None
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScriptLoadError(str(path), data.count(b"\n", 0, error.start) + 1, "is not UTF-8") from None
    return "//" + source[2:] if source.startswith("#!") else source
