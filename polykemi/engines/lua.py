"""The Lua engine: LuaJIT through lupa, as Kamailio's app_lua.

A script sees Lua's pure libraries, ``KSR`` and, through ``require``, ``cjson`` and the Lua files of its own directory and of
the configured ``path``; ``sandbox.lua`` keeps that law. Text needs no conversion: Lua strings are octets, lupa's Latin-1 makes one character of each.

The time limit is a hook that a thread brings about at the next line or loop of the script (``lua_watch.py``). It stops all Lua code,
also inside of ``pcall``, but no single call of a C function: ``bounded.lua`` sees to it that none takes long. What ``allow`` opens
may (``os.execute``): then the thread ends the process.

The memory limit is kept by a hook that counts instructions. The allocator's own limit stands far above: it is there for the one string that
is too large, for lupa ends the process when a heap is full to the last octet. A script that still holds too much when its
call was stopped is started anew from the same text.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

from lupa.luajit21 import LuaError, LuaMemoryError, lua_type

from polykemi.engines.base import Host, Limits
from polykemi.engines.lua_state import Bound, State
from polykemi.engines.lua_watch import IDLE, Pace, Watch
from polykemi.errors import ScriptError, ScriptLoadError, ScriptMemory, ScriptTimeout
from polykemi.kemi.binding import bind
from polykemi.kemi.context import Exit
from polykemi.kemi.registry import Xval

log = logging.getLogger("polykemi.script")

EXIT: Final = "~~ksr~exit~~"
_ENDING_MODULE: Final = "x"  # its functions end the route
_AGAIN: Final = 0.05  # seconds until a call that has not ended is stopped again
_LUA_TYPES: Final[dict[type, str]] = {type(None): "nil", bool: "boolean", int: "number", float: "number", str: "string"}


class LuaConversion:
    """How values come from Lua and go there."""

    checked = False
    unicode = False
    extra_arguments = False
    none_result = False

    state: State | None = None  # that runs, of all those that the functions of KSR are called from

    def where(self) -> str:
        """Return ``file:line`` of the call that is running."""
        return self.state.where() if self.state is not None else ""

    def type_name(self, value: Any) -> str:
        """Return Lua's word for the type of ``value``."""
        return _LUA_TYPES.get(type(value)) or str(lua_type(value))

    def to_data(self, value: Any) -> Any:
        """Return tables of lists (from 1) and dictionaries."""
        assert self.state is not None
        if type(value) is list:
            return self.state.table([self.to_data(one) for one in value])
        if type(value) is dict:
            return self.state.table({key: self.to_data(one) for key, one in value.items()})
        return value


def _ending(bound: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``bound`` with Exit as a result, which Lua raises again: cheaper than an exception through lupa."""

    def ending(*args: Any) -> Any:
        try:
            return bound(*args)
        except Exit:
            return EXIT

    return ending


class LuaScript:
    """One load of a Lua script, in a Lua state of its own (see ``engines/base.py``)."""

    def __init__(self, path: Path, host: Host, bound: Sequence[Bound], conversion: LuaConversion, watch: Watch) -> None:
        """Load the script at ``path``. Raise ScriptLoadError."""
        self.path = path
        self._host = host
        self._bound = bound
        self._conversion = conversion
        self.loading = False  # no KSR function that it calls then takes long
        self.deadline = IDLE  # of the running call, on the monotonic clock; 0: the watch sets it at its next look
        self.late_in = ""  # the KSR function in which its time was over
        self.pace: Pace | None = None  # of the state that runs
        self._state: State | None = None
        self._entries: dict[str, list[Any]] = {}
        self._functions: frozenset[str] = frozenset()
        self._watch = watch
        watch.add(self)
        try:
            self._start({})
        except BaseException:
            self.close()
            raise

    def _start(self, texts: dict[Path, str]) -> None:
        """Run the script in a new state. Raise ScriptLoadError; the running one stays then."""
        seconds = self._host.limits.seconds
        outer, self.deadline = (
            self.deadline,
            monotonic() + (seconds or math.inf) * self._host.loading.factor(seconds),
        )
        self.loading = True
        current = self._host.current
        ctx, current.ctx = current.ctx, None
        try:
            state, functions = self._loaded(texts)
        except ScriptError as error:
            raise ScriptLoadError(error.file, error.line, error.cause) from error.__cause__
        except LuaError as error:
            raise ScriptLoadError(str(self.path), None, f"memory limit reached {error}".rstrip(" ")) from None
        finally:
            self.loading = False
            self.deadline = outer
            self.pace = self._state.pace if self._state is not None else None
            current.ctx = ctx
        self.pace = state.pace
        self._state, self._entries, self._functions = state, state.entries, functions

    def _loaded(self, texts: dict[Path, str]) -> tuple[State, frozenset[str]]:
        """Return a new state in which the script has run, and its functions. Nothing is left of one in which it has failed."""
        state = State(self.path, self._host, self._bound, self._expired, lambda: self.late_in, texts)
        self._conversion.state = state
        self.pace = state.pace
        try:
            state.load()
            return state, state.functions()
        except BaseException:
            self._conversion.state = self._state
            with contextlib.suppress(LuaError):
                state.drop()
            raise

    def functions(self) -> frozenset[str]:
        """Return the names of the functions that the script defines."""
        return self._functions

    def has(self, function: str) -> bool:
        """Tell whether the script defines ``function``."""
        return function in self._functions

    def call(self, function: str, argument: str | None = None) -> None:
        """Call ``function``. Raise ScriptError; what ends a route ends the call normally."""
        state = self._state
        if state is None:
            raise ScriptError(str(self.path), None, "the script is closed")
        idle = self._entries.get(function)
        if not idle or argument is not None:
            self._make_room(state)
        entry = idle.pop() if idle else state.entry(function)
        if entry is None:
            log.error("%s: no function %s", self.path, function)
            return
        conversion = self._conversion
        if conversion.state is not state:
            conversion.state = state
        outer, self.deadline = self.deadline, 0.0  # a route block may run inside of another one's export
        try:
            failure = entry(argument)
        except LuaError as died:  # this entry: there was no memory for as much as the report
            failure = ("memory",) if isinstance(died, LuaMemoryError) else ("error", str(died))
        else:
            state.entries[function].append(entry)
        finally:
            self.deadline = outer
        if failure is not None:
            error = state.error(failure)
            if isinstance(error, (ScriptMemory, ScriptTimeout)):
                self._relieve(state)
            raise error

    def invoke(self, function: str, arguments: Sequence[str]) -> Xval:
        """Call ``function`` for a script. Raise ScriptError."""
        return self._enter(lambda state: state.invoke(function, arguments))

    def evaluate(self, text: str, *, apart: bool) -> None:
        """Run ``text`` with the script's globals, or with those of Lua alone. Raise ScriptError."""
        self._enter(lambda state: state.evaluate(text, apart=apart))

    def _enter(self, work: Callable[[State], Xval]) -> Xval:
        if self._state is None:
            raise ScriptError(str(self.path), None, "the script is closed")
        self._make_room(self._state)
        self._conversion.state = self._state
        outer, self.deadline = self.deadline, 0.0
        try:
            return work(self._state)
        except (ScriptMemory, ScriptTimeout):
            self._relieve(self._state)
            raise
        except (LuaError, UnicodeEncodeError) as error:
            raise ScriptError(str(self.path), None, str(error)) from None
        finally:
            self.deadline = outer

    def where(self) -> str:
        """Return ``file:line`` of the call that is running."""
        return self._state.where() if self._state is not None else ""

    def memory(self) -> int:
        """Return how many octets the Lua state has, garbage included; 0 without a limit, as nothing is counted then."""
        return self._state.used() if self._state is not None else 0

    def _make_room(self, state: State) -> None:
        """Raise ScriptMemory when what the script holds leaves lupa no memory for a thread or an argument."""
        if state.is_full() and state.heap() > self._host.limits.memory:
            self._relieve(state)
            raise ScriptMemory(str(self.path), None, "memory limit reached")

    def _relieve(self, state: State) -> None:
        """Let go of what a call that was stopped has left, and start the script anew when what it holds is above its limit."""
        limit = self._host.limits.memory
        if self._state is state and limit and state.used() > limit // 2 and (held := state.heap()) > limit:
            log.error("%s: holds %d octets: started anew", self.path, held)
            try:
                self._start(state.texts)
            except ScriptLoadError as error:
                log.error("%s: goes on with what it has", error)
            else:
                self._drop(state)

    def _drop(self, state: State) -> None:
        """Free what ``state`` holds, unless a block still runs in it."""
        if self.deadline == IDLE:
            state.drop()

    def close(self) -> None:
        """Drop the Lua state."""
        self._watch.remove(self)
        if self._state is not None:
            self._drop(self._state)
        if self._conversion.state is self._state:
            self._conversion.state = None
        self._state, self.pace, self._entries, self._functions = None, None, {}, frozenset()

    def _expired(self) -> bool:
        """Tell whether the running call has used up its time; called by the hook when the watch has hurried it."""
        if self.pace is not None:
            self.pace.relax()
        if not 0.0 < self.deadline <= monotonic():  # another call runs by now
            return False
        self.deadline = monotonic() + _AGAIN  # nothing in a script catches it, but a stack that is full may lose it
        return True


class LuaEngine:
    """Runs Lua scripts, each in a Lua state of its own."""

    name = "lua"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._scripts: set[LuaScript] = set()
        self._conversion = LuaConversion()
        self._bound: list[Bound] = []
        for export, method in host.registry:
            function = bind(
                export, method, host.current, self._conversion, drive=host.drive, probes=host.probes, strict=host.strict
            )
            ends = export.module == _ENDING_MODULE
            self._bound.append(Bound(export.module, export.name, _ending(function) if ends else function, ends))
        self._watch = Watch(host.limits.seconds, host.nesting)

    def load(self, path: Path) -> LuaScript:
        """Load the script at ``path``. Raise ScriptLoadError."""
        script = LuaScript(path, self._host, self._bound, self._conversion, self._watch)
        self._scripts = {one for one in self._scripts if one._state is not None} | {script}
        return script

    def limit(self, limits: Limits) -> None:
        """Let these hold (see ``engines/base.py``)."""
        self._host = replace(self._host, limits=limits)
        self._watch.limit(limits.seconds)

    def memory(self) -> int:
        """Return how many octets the Lua states of all scripts have; see ``LuaScript.memory``."""
        return sum(script.memory() for script in self._scripts)

    def close(self) -> None:
        """Drop all Lua states."""
        self._watch.close()
        for script in self._scripts:
            script.close()
        self._scripts = set()
