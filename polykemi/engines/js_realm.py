"""What each script has of V8 for itself: a context with js_runtime.js in it, so that no script sees another's globals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final

from polykemi.engines.js_values import SIZE
from polykemi.engines.v8 import V8
from polykemi.engines.v8_native import Callback, Handle, Local

# that each realm evaluates; what js_runtime.js, the last one, gives is called with what those between give
_FILES: Final = ("js_library.js", "js_values.js", "js_calls.js", "js_sources.js", "js_guards.js", "js_runtime.js")


class Realm:
    """One context: ``load``, ``run_block`` and ``settle`` are those of js_runtime.js."""

    def __init__(
        self, v8: V8, context: Handle, functions: Sequence[Callable[[], Local | None]], others: set[Realm]
    ) -> None:
        """``others``: all that are open; this one is among them until it is closed."""
        self._v8, self._context, self._functions, self._others = v8, context, functions, others
        self.load, self.run_block, self.settle = functions
        others.add(self)

    def close(self) -> None:
        """Let V8 free the context; on its thread."""
        self._others.discard(self)
        self._v8.native.drop(self._context, self._functions)


class Realms:
    """All that realms have in common: the shared buffer, the texts that both sides have numbered, what calls Python."""

    def __init__(self, v8: V8) -> None:
        self._v8 = v8
        files = resources.files("polykemi.engines")
        self._sources = [files.joinpath(name).read_text("utf-8") for name in _FILES]
        self._tables, self._exports = Handle(), ""
        self.wasm = False  # whether WebAssembly is there, in realms to come
        self._callbacks: list[Any] = []
        self._open: set[Realm] = set()
        self._shared, self.memory = v8.on_thread(lambda: v8.native.shared(SIZE))
        self.pending = v8.on_thread(v8.native.pending)

    def bind(self, exports: list[Any], functions: Sequence[Callable[[], None]]) -> None:
        """Let realms call ``functions``, which must not raise; ``exports`` says what they are (js_runtime.js)."""
        v8 = self._v8
        self._exports = json.dumps(exports)
        self._callbacks = [Callback(function) for function in functions]
        v8.callbacks += self._callbacks
        tables = resources.files("polykemi.engines").joinpath("js_tables.js").read_text("utf-8")
        self._tables = v8.on_thread(lambda: v8.native.keep(v8.native.evaluate(tables)))

    def new(self) -> Realm | None:
        """Return a new realm, None when JavaScript was stopped meanwhile; on V8's thread."""
        native = self._v8.native
        context = native.context()
        made = [native.evaluate(source, context) for source in self._sources]
        if not all(made):
            native.drop(context, ())
            return None
        _, *parts, boot = made
        entries = native.functions(context, self._callbacks)
        given = [
            native.local(self._shared),
            native.local(self._tables),
            entries,
            *parts,
            native.text(f'{{"exports":{self._exports},"wasm":{json.dumps(self.wasm)}}}'),
        ]
        functions = native.apply(context, boot, given) if all(given) else 0
        if not functions:
            native.drop(context, ())
            return None
        return Realm(self._v8, context, native.items(context, functions, 3), self._open)

    def close(self) -> None:
        """Let V8 free all contexts; on its thread."""
        for realm in tuple(self._open):
            realm.close()
