"""One Lua state with one script in it, as Python sees it: what ``prelude.lua`` gives.

lupa ends the process when it finds no memory for what it puts into the state by itself: for a new thread, an argument, a table.
``is_full`` tells when that may be; Lua code and the results of KSR functions need no such look.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import traceback
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from lupa.luajit21 import LuaMemoryError, LuaRuntime

from polykemi.engines.base import Host, read_script
from polykemi.engines.lua_watch import Pace, publish
from polykemi.errors import ScriptError, ScriptLoadError, ScriptMemory, ScriptTimeout
from polykemi.kemi.binding import Misuse
from polykemi.kemi.context import Exit
from polykemi.kemi.registry import Xval

log = logging.getLogger("polykemi.script")

_HOOK_INSTRUCTIONS: Final = 10_000  # between two looks at the memory: under a tenth of a millisecond of Lua
_ALLOCATOR: Final = 3  # memory limits that the allocator gives in all: for what is taken between two looks
_ROOM: Final = 64 << 10  # octets that are enough for what lupa allocates by itself
_SOURCES: Final = ("prelude", "sandbox", "bounded", "patterns", "cjson")
_OWN_FRAMES: Final = ("\tpolykemi:", "\t[C]: in function 'native_xpcall'", "\t[C]: in function 'error'")


class Bound(NamedTuple):
    """A function of KSR as Lua calls it; one whose result may be EXIT ``ends`` the route."""

    module: str
    name: str
    function: Callable[..., Any]
    ends: bool


class State:
    """One Lua state with one script in it."""

    def __init__(
        self,
        path: Path,
        host: Host,
        functions: Sequence[Bound],
        expired: Callable[[], bool],
        late_in: Callable[[], str],
        texts: dict[Path, str],
    ) -> None:
        """``expired`` tells whether the time is over, ``late_in`` in which KSR function it was ("": in none)."""
        self.path = path
        self._late_in = late_in
        self.texts = texts  # of the files that were read
        self.entries: dict[str, list[Any]] = {}  # function -> its idle entries in Lua
        places = [os.fsdecode(one.partition("?")[0].encode("latin-1")) for one in host.limits.path]
        self._most = _ALLOCATOR * host.limits.memory - _ROOM if host.limits.memory else math.inf
        self._roots = [path.parent.resolve(), *(Path(place).resolve() for place in places)]
        limits = host.limits
        self._lua = LuaRuntime(
            encoding="latin-1",
            register_eval="python" in host.limits.allow,
            register_builtins="python" in host.limits.allow,
            unpack_returned_tuples=True,
            attribute_filter=None if "python" in host.limits.allow else _refuse_attribute,
            max_memory=_ALLOCATOR * limits.memory or None,
        )
        files = resources.files("polykemi.engines")
        sources = {name: files.joinpath(f"{name}.lua").read_text("latin-1") for name in _SOURCES}
        parts = {
            "classify": _classify,
            "expired": expired,
            "read": self._read,
            "say": _say,
            "has_gil": _address(ctypes.pythonapi.PyGILState_Check),
            "release_gil": _address(ctypes.pythonapi.PyEval_SaveThread),
            **sources,
            "allow": self._lua.table_from(dict.fromkeys(host.limits.allow, True)),
            "path": ";".join(host.limits.path),
        }
        self._prelude = self._lua.compile(sources["prelude"], name=b"=polykemi")(
            self._lua.table_from(parts), _lua_name(path.parent)
        )
        self._heap, self._where = self._prelude.heap, self._prelude.where
        for bound in functions:
            self._prelude.export(*bound)
        if "package" in host.limits.allow:
            publish()
        self.pace: Pace | None = Pace(self._prelude.address, _HOOK_INSTRUCTIONS, self._lua)
        if limits.seconds or limits.memory:
            self._prelude.watch(_HOOK_INSTRUCTIONS, limits.memory)

    def table(self, content: Any) -> Any:
        """Return a Lua table with the content of a list or a dictionary. Raise LuaMemoryError."""
        if self.is_full():
            raise LuaMemoryError("not enough memory")
        return self._lua.table_from(content)

    def load(self) -> None:
        """Run the script's file. Raise ScriptError, and ScriptLoadError when it cannot be read."""
        failure = self._prelude.loader(self._text(self.path), _lua_name(self.path)).coroutine().send(None)
        if failure is not None:
            raise self.error(failure)

    def _text(self, path: Path) -> str:
        text = self.texts.get(path)
        if text is None:
            text = self.texts[path] = read_script(path).decode("latin-1")
        return text

    def heap(self) -> int:
        """Return how many octets the script holds on to."""
        return int(self._heap())

    def drop(self) -> None:
        """Free what the script holds, and the Lua state; it is not called afterwards."""
        self._prelude.drop()
        self.entries.clear()
        # a circle, else, as Lua knows functions of this object
        self._lua = self._prelude = self._heap = self._where = self.pace = None

    def used(self) -> int:
        """Return how many octets are taken, garbage included; 0 where nothing counts them."""
        return int(self._lua.get_memory_used() or 0)

    def is_full(self) -> bool:
        """Tell whether there may be no memory for what lupa allocates by itself."""
        return self.used() > self._most

    def functions(self) -> frozenset[str]:
        """Return the names of the global functions that the script has set."""
        return frozenset(self._prelude.functions().values())

    def entry(self, function: str) -> Any:
        """Return a new entry into ``function``, to be called with its argument; None when there is no such function."""
        try:
            handler = self._prelude.handler(function)
        except UnicodeEncodeError:
            return None
        if handler is None:
            return None
        self.entries.setdefault(function, [])
        entry = handler.coroutine().send
        entry(None)
        return entry

    def invoke(self, function: str, arguments: Sequence[str]) -> Xval:
        """Call a function and return its number or text. Raise ScriptError."""
        runner = self._prelude.invoker(function, *arguments)
        if runner is None:
            raise ScriptError(str(self.path), None, f"no function {function}")
        return self._run(runner)

    def evaluate(self, text: str, *, apart: bool) -> None:
        """Run ``text``. Raise ScriptError."""
        chunk, problem = self._prelude.compiled(text, apart)
        if chunk is None:
            raise ScriptError(str(self.path), None, problem)
        self._run(self._prelude.runner(chunk))

    def _run(self, runner: Any) -> Xval:
        ended = runner.coroutine().send(None)
        if ended is None:
            return None
        if ended[0] == "result":
            value = ended[1]
            return value if type(value) is int else int(value) if type(value) is float else str(value)
        raise self.error(ended)

    def where(self) -> str:
        """Return ``file:line`` of the call that is running."""
        return str(self._where())

    def error(self, failure: tuple[Any, ...]) -> BaseException:
        """Return the exception for what an entry returned (``outcome`` in prelude.lua)."""
        kind, message, file, line, stack, exception = (*failure, None, None, None, None, None)[:6]
        if kind == "fatal":
            error: BaseException = exception
            return error
        file = os.fsdecode(file.encode("latin-1")) if file else str(self.path)
        stack = _script_frames(stack or "")
        if kind == "timeout":
            return ScriptTimeout.within(file, line, stack, self._late_in())
        if kind == "memory" or isinstance(exception, LuaMemoryError):
            return ScriptMemory(file, line, "memory limit reached", stack)
        if exception is not None:
            stack = "\n".join([*(line.rstrip("\n") for line in traceback.format_exception(exception)), stack])
        error = ScriptError(file, line, str(message), stack)
        error.__cause__ = exception
        return error

    def _read(self, name: Any) -> tuple[str, str] | None:
        """Return text and path of the Lua file ``name`` in the script's directory or one of ``path``, None without one."""
        if type(name) is not str or "\0" in name:
            return None
        path = self.path.parent / os.fsdecode(name.encode("latin-1"))
        try:
            if path in self.texts:
                return self.texts[path], _lua_name(path)
            real = path.resolve()
            if any(real.is_relative_to(root) for root in self._roots) and path.is_file():
                return self._text(path), _lua_name(path)
        except (OSError, ScriptLoadError):
            pass
        return None


def _script_frames(stack: str) -> str:
    """Return a Lua traceback without the engine's own frames."""
    lines = stack.strip("\n").split("\n")
    return "\n".join(line for line in lines if not line.startswith(_OWN_FRAMES))


def _lua_name(path: Path) -> str:
    return os.fsencode(path).decode("latin-1")


def _address(function: Any) -> int:
    """Return where a function of a C library is."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _refuse_attribute(_object: Any, name: Any, _setting: bool) -> NoReturn:
    raise AttributeError(f"no attribute {name!r} here")


def _classify(exception: Any) -> tuple[str, str]:
    """Tell Lua what the Python exception that came through a KSR function means."""
    forget_arguments(exception)
    if isinstance(exception, Exit):
        return "exit", ""
    if not isinstance(exception, Exception):
        return "fatal", ""
    if isinstance(exception, Misuse):
        return "error", str(exception)
    return "error", f"{type(exception).__name__}: {exception}".encode("latin-1", "replace").decode("latin-1")


def forget_arguments(exception: BaseException | None) -> None:
    """Empty the frames that the traceback keeps: lupa's objects must not outlive the call that they are arguments of.

    Each remembers the Lua thread that made the call, and uses it to let go of what it stands for, also when Lua has freed the thread.
    """
    while exception is not None:
        traceback.clear_frames(exception.__traceback__)
        exception = exception.__context__


def _say(text: str) -> None:
    """Lua's print."""
    log.info("%s", text)
