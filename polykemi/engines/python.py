"""The Python engine: scripts of app_python3 (an object with methods) and of app_python3s (plain functions).

A script runs in this interpreter: it can import and change everything, there is no sandbox and no memory limit. Run only
scripts that you would run as the server itself.

The time limit is an exception that a watchdog has raised in the script (``watchdog.py``). What would end the process ends the
route (``python_exits.py``).
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ClassVar, Final

from polykemi.engines.base import Host, Limits
from polykemi.engines.python_errors import bare_error, is_interrupt, load_error, script_error
from polykemi.engines.python_exits import guard
from polykemi.engines.python_memory import held
from polykemi.engines.python_message import ScriptMessage
from polykemi.engines.python_router import router_modules
from polykemi.engines.python_source import Handler, Source
from polykemi.engines.watchdog import TimeLimit, Watchdog
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.kemi.binding import bind, from_octets, to_octets
from polykemi.kemi.context import Exit
from polykemi.kemi.documents import with_unicode
from polykemi.kemi.faked import event_context
from polykemi.kemi.registry import Xval
from polykemi.sip.flow import Listener

log = logging.getLogger("polykemi.script")

KSR_VERSION: Final = 1002  # KSR.__version__, as app_python3 has it
_LISTENER: Final = Listener("udp", "127.0.0.1", 5060)  # of the message while a script loads


class PythonConversion:
    """How values come from Python and go there."""

    checked = False
    unicode = True
    extra_arguments = True
    none_result = 0

    def __init__(self, is_script: Callable[[CodeType], bool]) -> None:
        self._is_script = is_script

    def type_name(self, value: Any) -> str:
        """Return the name of the type of ``value``."""
        return type(value).__name__

    def to_data(self, value: Any) -> Any:
        """Return lists and dictionaries with their texts as Unicode."""
        return with_unicode(value)

    def where(self) -> str:
        """Return the line of the innermost frame that is the script's."""
        frame = sys._getframe(1)
        while frame is not None:
            if self._is_script(frame.f_code):
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return "a script"


class PythonScript:
    """One load of a Python script (see ``engines/base.py``).

    Python's table of modules is one for all. So the script whose code runs has the stage: the modules that it has brought from
    its own directory, and ``KSR`` and ``Router`` as its engine made them, stand in that table, and its directory in the path.
    """

    _on_stage: ClassVar[PythonScript | None] = None

    def __init__(
        self, path: Path, host: Host, given: dict[str, ModuleType], conversion: PythonConversion, watchdog: Watchdog
    ) -> None:
        """Load the script at ``path``; ``given`` are the modules that it may import besides Python's. Raise ScriptLoadError."""
        self.path = path
        self._current = host.current
        self._loading = host.loading
        self._given = given
        self._conversion = conversion
        self._watchdog = watchdog
        self._source = Source(path)
        self._modules: dict[str, ModuleType] = {}  # that it has brought
        self._others: set[str] = set()  # the modules that were there when it took the stage
        self._load()
        self._handlers = self._source.handlers
        self._functions = frozenset(self._handlers)

    def _load(self) -> None:
        """Run the file. ``KSR`` functions work: as in Kamailio on a made-up OPTIONS request, here in an event route block."""
        before = PythonScript._on_stage
        importlib.invalidate_caches()
        try:
            with self._faked_context():
                self._run(self._source.run, factor=self._loading.factor(self._watchdog.seconds))
        except BaseException as error:  # put back what was, whatever it is
            failure = error if is_interrupt(error) else self._load_error(error)
            self._leave()
            if before is not None:
                before._enter()
            raise failure from error

    # ---- the stage
    def _enter(self) -> None:
        """Take the stage."""
        if PythonScript._on_stage is not None:
            PythonScript._on_stage._leave()
        PythonScript._on_stage = self
        self._others = set(sys.modules)
        sys.modules.update(self._modules, **self._given)
        sys.path.insert(0, self._source.directory)

    def _leave(self) -> None:
        """Give the stage up."""
        self._modules = self.modules()
        PythonScript._on_stage = None
        for name in (*self._modules, *self._given):
            sys.modules.pop(name, None)
        if self._source.directory in sys.path:
            sys.path.remove(self._source.directory)

    def modules(self) -> dict[str, ModuleType]:
        """Return the modules that the script has brought, by name."""
        if PythonScript._on_stage is not self:
            return self._modules
        new = {name: sys.modules[name] for name in sys.modules.keys() - self._others}
        return {n: m for n, m in new.items() if self.is_ours(_place(m))}

    def is_ours(self, filename: str) -> bool:
        """Tell whether code of ``filename`` belongs to the script."""
        return self._source.is_ours(filename)

    def functions(self) -> frozenset[str]:
        """Return the names of the functions or methods that the script defines."""
        return self._functions

    def has(self, function: str) -> bool:
        """Tell whether the script defines ``function``."""
        return function in self._functions

    def call(self, function: str, argument: str | None = None) -> None:
        """Call ``function`` with as many of (msg, evname) as it takes. Raise ScriptError.

        A plain function that takes one argument gets the event name in event route blocks, as in app_python3s.
        """
        handler = self._handlers.get(function)
        if handler is None:
            log.error("%s: no function %s", self.path, function)
            return
        try:
            self._run_handler(handler, argument)
        except SystemExit:
            pass

    def _run_handler(self, handler: Handler, argument: str | None) -> Any:
        target, arity, event_first = handler
        try:
            if arity == 0:
                return self._run(target)
            if argument is not None and arity == 1 and event_first:
                return self._run(target, argument)
            message = ScriptMessage(self._current.ctx)
            try:
                if arity == 1 or argument is None:
                    return self._run(target, message)
                return self._run(target, message, argument)
            finally:
                message.end()
        except Exit:
            return None
        except TimeLimit as error:
            raise self._error(error) from None
        except SystemExit:
            raise
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise self._error(error) from error

    def invoke(self, function: str, arguments: Sequence[str]) -> Xval:
        """Call ``function`` with as many of (msg, argument) as it takes. Raise ScriptError.

        As in Kamailio a function that gives neither a number nor a text has failed (-1), and so has one that exits.
        """
        handler = self._handlers.get(from_octets(function))
        if handler is None:
            raise ScriptError(str(self.path), None, f"no function {function}")
        try:
            result = self._run_handler(handler, from_octets(arguments[0]) if arguments else None)
        except SystemExit:
            return -1
        return _xval(result)

    def evaluate(self, text: str, *, apart: bool) -> None:
        """Kamailio has no such function for Python."""
        raise ScriptError(str(self.path), None, "Python runs functions only")

    def where(self) -> str:
        """Return ``file:line`` of the call that is running."""
        return self._conversion.where()

    def close(self) -> None:
        """Take the script out of this interpreter's tables."""
        if PythonScript._on_stage is self:
            self._leave()
        self._source.handlers.clear()
        self._modules, self._handlers, self._functions = {}, {}, frozenset()

    def _run(self, function: Callable[..., Any], *args: Any, factor: float = 1.0) -> Any:
        """Call ``function`` of the script, watched. The watchdog strikes only above this frame."""
        before = PythonScript._on_stage
        if before is not self:
            self._enter()
        watchdog = self._watchdog
        outer = watchdog.arm(factor)
        try:
            return function(*args)
        finally:
            watchdog.disarm(outer)
            if outer and before is not None and before is not self:  # whose block this one runs in
                before._enter()

    @contextmanager
    def _faked_context(self) -> Iterator[None]:
        outer = self._current.ctx
        self._current.ctx = event_context("mod_init", "", _LISTENER, time.time())
        try:
            yield
        finally:
            self._current.ctx = outer

    # ---- errors
    def _error(self, error: BaseException) -> ScriptError:
        """Return the error of a route block. The text of an exception is code of the script, and watched like that."""
        late_in = self._watchdog.late_in
        try:
            made: ScriptError = self._run(script_error, error, self._source, late_in)
        except BaseException:  # noqa: BLE001  # the text raises, or has no end
            kind = ScriptTimeout if isinstance(error, TimeLimit) else ScriptError
            return kind(*bare_error(error, self._source))
        return made

    def _load_error(self, error: BaseException) -> ScriptLoadError:
        """Return why the script does not load; watched as well."""
        try:
            made: ScriptLoadError = self._run(load_error, error, self._source)
        except BaseException:  # noqa: BLE001
            return ScriptLoadError(*bare_error(error, self._source))
        return made


class PythonEngine:
    """Runs Python scripts, all in this interpreter."""

    name = "python"

    def __init__(self, host: Host) -> None:
        self._host = host
        guard()
        self._watchdog = Watchdog(host.limits.seconds, PythonScript._run.__code__)
        self._scripts: weakref.WeakSet[PythonScript] = weakref.WeakSet()
        self._conversion = PythonConversion(_is_on_stage)
        self._bound: list[tuple[str, Callable[..., Any]]] = []  # module and function
        for export, method in host.registry:
            bound = bind(
                export, method, host.current, self._conversion, drive=host.drive, probes=host.probes, strict=host.strict
            )
            bound.__name__, bound.__doc__ = export.name, export.doc
            self._bound.append((export.module, bound))

    def _ksr(self) -> ModuleType:
        """Make the module KSR of one script: what that changes in it is its own."""
        ksr = ModuleType("KSR", "The functions of polykemi, as KEMI names them.")
        ksr.__dict__["__version__"] = KSR_VERSION
        modules = {"": ksr}
        for name, bound in self._bound:
            module = modules.get(name)
            if module is None:
                module = modules[name] = ksr.__dict__[name] = ModuleType(f"KSR.{name}")
            module.__dict__[bound.__name__] = bound
        return ksr

    def load(self, path: Path) -> PythonScript:
        """Load the script at ``path``. Raise ScriptLoadError."""
        ksr = self._ksr()
        given = {"KSR": ksr, **router_modules(ksr)}
        script = PythonScript(path, self._host, given, self._conversion, self._watchdog)
        self._scripts.add(script)
        return script

    def limit(self, limits: Limits) -> None:
        """Let these hold (see ``engines/base.py``)."""
        self._watchdog.limit(limits.seconds)

    def memory(self) -> int:
        """Return how many octets the values of all scripts take, at least (``python_memory.held``)."""
        return held(module for script in self._scripts for module in script.modules().values())

    def close(self) -> None:
        """End the watchdog and all scripts."""
        self._watchdog.close()
        for script in self._scripts:
            script.close()


def _is_on_stage(code: CodeType) -> bool:
    """Tell whether ``code`` belongs to the script that runs."""
    script = PythonScript._on_stage
    return script is not None and script.is_ours(code.co_filename)


def _place(module: ModuleType) -> str:
    """Return the file of a module, the directory of a package without ``__init__.py``; "" for what has neither."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")


def _xval(result: Any) -> Xval:
    """Return what a function gave as the caller has it; no code of the script runs here."""
    kind = type(result)
    if issubclass(kind, str):
        return to_octets(str.__str__(result))
    try:
        if issubclass(kind, int):
            return int.__int__(result)
        if issubclass(kind, float):
            return int(float.__float__(result))
    except (ValueError, OverflowError):  # no number, or endless
        pass
    return -1
