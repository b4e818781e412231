"""Calls from JavaScript to the exports: binding, the way of one call, and Processes.

All of this runs on V8's thread, in the middle of JavaScript, and nothing can call back into V8 from here: what JavaScript
shall do next is an answer in ``words[0]`` (see js_runtime.js). For the same reason a Process is not driven from here:
JavaScript runs the route block that it wants and then resumes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any, Final

from polykemi.engines.base import Host
from polykemi.engines.js_sources import Sources
from polykemi.engines.js_values import BLOCK, EXIT, FAILED, NULL, WHERE, Values
from polykemi.errors import ScriptError
from polykemi.kemi.binding import Refused, bind, from_octets
from polykemi.kemi.context import Exit, RouteContext
from polykemi.kemi.registry import Export
from polykemi.kemi.route import Route

log = logging.getLogger("polykemi.engines.js")

_DEEPEST: Final = 16  # Processes that wait for each other's blocks

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


class Calls:
    """The exports as JavaScript calls them. ``functions`` are the script's, by name, with their numbers."""

    def __init__(self, host: Host, values: Values, sources: Sources, engine: str) -> None:
        self.host, self.values, self.sources, self.engine = host, values, sources, engine
        self.functions: dict[str, int] = {}
        self.processes: list[tuple[Export, _Process, RouteContext | None]] = []  # those that wait for a block
        self._conversion = JsConversion()
        self._bound: list[tuple[Export, Callable[..., Any]]] = []
        self._again: tuple[Export, Callable[..., Any], list[Any]] | None = None  # the call that asked for its line

    def bind(self) -> tuple[list[list[Any]], list[Callable[[], None]]]:
        """Bind the registry: return what JavaScript needs to know of each export, and what it calls."""
        rows: list[list[Any]] = []
        entries: list[Callable[[], None]] = []
        for export, function in self.host.registry:
            types = "".join(p.type[0] for p in export.params)
            bound = bind(export, function, self.host.current, self._conversion, trace=self.host.trace)
            self._bound.append((export, bound))
            rows.append([export.module, export.name, types, export.constant])
            entries.append(self._entry(export, bound, types))
        return rows, entries

    def _entry(self, export: Export, bound: Callable[..., Any], types: str) -> Callable[[], None]:
        """Return what JavaScript calls for ``export``: the whole way of one call."""
        values, words, put, arguments = self.values, self.values.words, self.values.put, self.values.arguments
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
            self._again = export, bound, arguments()
            return WHERE
        log.error("%s: internal error", export.path, exc_info=error)
        self.values.words[4] = self.values.put(f"{export.path}: {type(error).__name__}: {error}")
        return FAILED

    def _call_again(self, export: Export, bound: Callable[..., Any], arguments: list[Any]) -> None:
        words = self.values.words
        try:
            result = bound(*arguments)
            words[0] = self._begin(export, result) if type(result) is GeneratorType else self.values.put(result)
        except BaseException as error:  # noqa: BLE001
            words[0] = self._raised(error, export, bound, lambda: arguments)

    def told(self) -> None:
        """The script's position is known now."""
        self._conversion.position = self.sources.position(self.values.two_texts()[1])
        again, self._again = self._again, None
        if again is not None:
            self._call_again(*again)
        self._conversion.position = ""

    def misfit(self) -> None:
        """The number of arguments is wrong: none to a function that takes some, some to one that takes none, too many."""
        words = self.values.words
        (export, bound), given = self._bound[words[1]], words[2]
        self._call_again(export, bound, [""] * given)

    def failure(self) -> ScriptError | None:
        """Return the error of the block that just failed, None when it belongs to a block that a Process wanted."""
        error = self.sources.error(*self.values.two_texts())
        if self.processes and self.host.current.ctx is not None:
            self.host.current.ctx.error = error
            return None
        return error

    # ---- Processes: exports that need route blocks run
    def _begin(self, export: Export, process: _Process) -> int:
        if len(self.processes) >= _DEEPEST:
            raise RecursionError(f"more than {_DEEPEST} route blocks inside each other")
        self.processes.append((export, process, self.host.current.ctx))
        return self._step()

    def resume(self) -> None:
        """The block that the innermost Process wanted has run."""
        block = self.host.current.ctx
        export, _, self.host.current.ctx = self.processes[-1]
        try:
            self._ended(block)
            self.values.words[0] = self._step()
        except BaseException as error:  # noqa: BLE001
            self.values.words[0] = self._raised(error, export, lambda: None, list)

    def _step(self) -> int:
        """Go on with the innermost Process until JavaScript has a block to run or the Process has ended."""
        _, process, outer = self.processes[-1]
        host = self.host
        try:
            while True:
                block = process.send(None)
                if host.run is not None and host.engine_of is not None and host.engine_of(block) != self.engine:
                    host.run(block)
                    host.current.ctx = outer
                    self._report(block)
                elif (number := self.functions.get(block.callback)) is not None:
                    self.order(block, number)
                    return BLOCK
        except StopIteration as end:
            self.processes.pop()
            return self.values.put(end.value)
        except BaseException:
            self.processes.pop()
            raise

    def _report(self, block: RouteContext | None) -> None:
        if block is not None and block.error is not None and self.host.report is not None:
            self.host.report(block)

    def _ended(self, block: RouteContext | None) -> None:
        """A block that a Process wanted has run."""
        if block is not None:
            self.host.ran(block, time.monotonic() - block.started)
        self._report(block)

    def order(self, block: RouteContext, number: int) -> None:
        """Tell JavaScript to run ``block``, whose function has this number."""
        words = self.values.words
        words[3] = number
        words[4] = self.values.put(from_octets(block.event)) if block.kind == Route.EVENT else NULL
        self.host.current.ctx = block
        block.started = time.monotonic()

    def unwind(self, error: ScriptError) -> None:
        """JavaScript will not come back: end the Processes that wait."""
        current = self.host.current
        while self.processes:
            export, process, outer = self.processes.pop()
            if current.ctx is not None:
                current.ctx.error = error
                self._ended(current.ctx)
            current.ctx = outer
            try:
                process.close()
            except Exception:
                log.exception("%s: internal error", export.path)
