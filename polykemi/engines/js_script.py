"""One load of a script in V8, and how its functions are called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Final

from polykemi.engines.js_realm import Realm
from polykemi.engines.js_values import NULL
from polykemi.errors import ScriptError, ScriptMemory, ScriptTimeout
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.registry import Xval

if TYPE_CHECKING:
    from polykemi.engines.js import JsEngine
    from polykemi.engines.js_isolate import Isolate

_INVOKED: Final = "\0"  # in front of the name of a function that is called for another script; alone: a text is run
_APART: Final = "\0"  # a text is run apart from the script
_FIRST_INVOKED: Final = -2  # words[3] of the function 0 when it is called for another script; less for the others
_PAUSES: Final = (1 << 14) - 1  # V8's message pump has its turn when a block's number has none of these bits


Loaded = tuple[Realm, list[str]]  # the names of the functions, in the order of their numbers


class JsScript:
    """See ``engines/base.py``."""

    def __init__(self, engine: JsEngine, path: Path, name: str, text: str, isolate: Isolate, loaded: Loaded) -> None:
        self.path, self.name, self.text = path, name, text
        self._engine = engine
        self._file = str(path)
        self.take(isolate, loaded)

    def take(self, isolate: Isolate, loaded: Loaded) -> None:
        """Be what was loaded into ``isolate``: the functions, and the realm that they live in."""
        self._isolate, self._run, self._values = isolate, isolate.run, isolate.values
        self._words, self._pending = isolate.values.words, isolate.pending
        self._thread = isolate.thread
        self.realm, names = loaded
        self._run_block, self._settle = self.realm.run_block, self.realm.settle
        self._names = frozenset(names)
        numbers = {to_octets(name): i for i, name in enumerate(names)} | {n: i for i, n in enumerate(names)}
        invoked = numbers | {"": len(names), _APART: len(names) + 1}
        self._functions = numbers | {_INVOKED + name: _FIRST_INVOKED - i for name, i in invoked.items()}

    def functions(self) -> frozenset[str]:
        """Return the names of the functions that the script defines."""
        return self._names

    def has(self, function: str) -> bool:
        """Tell whether the script defines ``function``."""
        return function in self._functions

    def call(self, function: str, argument: str | None = None) -> None:
        """Call ``function``. Raise ScriptError; nothing happens when there is no such function."""
        number = self._functions.get(function)
        if number is None:
            return
        if get_ident() != self._thread:
            self._hand_over(function, argument)
            return
        run, words = self._run, self._words
        outermost = not run.outermost
        if not outermost:
            run.may_nest(self._file, function)
        words[3] = number
        words[4] = NULL if argument is None else self._values.put(argument)  # a call of KSR may have left its own there
        run.block = block = run.block + 1
        settling = False
        if outermost:
            run.outermost = block
            run.file = self._file
            ended = self._run_block()
            if self._pending[0] and ended is not None:
                settling = True
                ended = self._settle()
            run.outermost = 0
        else:
            run.nested += 1
            ended = self._run_block()
            if self._pending[0] and ended is not None:
                settling = True
                ended = self._settle()
            run.nested -= 1
        if ended is None or run.struck or run.error is not None:
            error = run.failure(block, self._file, stopped=ended is None, nested=not outermost, begun=settling)
            if outermost and isinstance(error, (ScriptMemory, ScriptTimeout)):
                self._engine.relieve(self)
            if error is not None:
                raise error
            if ended is None:  # stopped before it began
                self.call(function, argument)
        if not block & _PAUSES:
            self._engine.pause()

    def is_lost(self) -> bool:
        """Tell whether it is in an isolate that was given up, and could not be loaded into another one."""
        return self._isolate.gate.is_shut

    def _hand_over(self, function: str, argument: str | None) -> None:
        if self.is_lost():
            raise ScriptError(self._file, None, "could not be started anew when V8 was")
        self._engine.hand_over(self._file, lambda: self.call(function, argument))

    def invoke(self, function: str, arguments: Sequence[str]) -> Xval:
        """Call ``function`` for a script. Raise ScriptError."""
        if function not in self._functions:
            raise ScriptError(self._file, None, f"no function {function}")
        isolate = self._isolate
        isolate.result = None
        self.call(_INVOKED + function, json.dumps([from_octets(one) for one in arguments]))
        return isolate.result

    def evaluate(self, text: str, *, apart: bool) -> None:
        """Run ``text`` with the script's globals, or with those of V8 alone. Raise ScriptError."""
        self.call(_INVOKED + (_APART if apart else ""), json.dumps([from_octets(text)]))

    def where(self) -> str:
        """Return ``file:line`` of the call that is running."""
        return self._isolate.where() if self._run.outermost else ""

    def free(self) -> None:
        """Let V8 free what it has of the script, on its thread; what was lost is freed by itself."""
        if not self.is_lost():
            self._isolate.free(self.realm)

    def close(self) -> None:
        """Let V8 free the script."""
        if self._functions:
            self._functions = {}
            self._engine.release(self)
