"""V8's own C++ interface, which mini_racer's library exports besides its own: calls between JavaScript and Python.

A callback is a plain function of C here: 0.07 us with the Python around it, where mini_racer's makes a handle for each
call and takes 0.85 us. And it may call JavaScript in turn: 0.3 us.

All but ``stop`` is for the isolate's thread, inside of a callback: there a context is entered and V8 has a scope for what
is left behind. Names and arguments are those of V8 14.4 (v8-isolate.h, v8-object.h, v8-function.h) in the Itanium C++ ABI;
``v8.py`` sees to it that it is this V8.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

_USED, _EXTERNAL = 4, 7  # words of v8::HeapStatistics: used_heap_size_, external_memory_

Callback: Final = ctypes.CFUNCTYPE(None)  # V8 passes its FunctionCallbackInfo, which nobody needs here

_ISOLATE: Final = ctypes.c_void_p
_LOCAL: Final = ctypes.c_void_p  # v8::Local<T>: the address of a slot that the garbage collector knows
_INT: Final = ctypes.c_int
_INDEX: Final = ctypes.c_uint32

_GET_CURRENT: Final = "_ZN2v87Isolate10GetCurrentEv"
_TERMINATE: Final = "_ZN2v87Isolate18TerminateExecutionEv"
_CANCEL_TERMINATE: Final = "_ZN2v87Isolate24CancelTerminateExecutionEv"
_CONTEXT: Final = "_ZN2v87Isolate17GetCurrentContextEv"
_GLOBAL: Final = "_ZN2v87Context6GlobalEv"
_GLOBALIZE: Final = "_ZN2v812api_internal18GlobalizeReferenceEPNS_8internal7IsolateEm"
_GET: Final = "_ZN2v86Object3GetENS_5LocalINS_7ContextEEEj"
_SET: Final = "_ZN2v86Object3SetENS_5LocalINS_7ContextEEEjNS1_INS_5ValueEEE"
_NEW: Final = (
    "_ZN2v88Function3NewENS_5LocalINS_7ContextEEEPFvRKNS_20FunctionCallbackInfoINS_5ValueEEEENS1_INS_4DataEEEi"
    "NS_19ConstructorBehaviorENS_14SideEffectTypeE"
)
_DISPOSE: Final = "_ZN2v812api_internal13DisposeGlobalEPm"
_MESSAGE: Final = "_ZN2v89Exception13CreateMessageEPNS_7IsolateENS_5LocalINS_5ValueEEE"
_LINE: Final = "_ZNK2v87Message13GetLineNumberENS_5LocalINS_7ContextEEE"
_STATISTICS: Final = "_ZN2v87Isolate17GetHeapStatisticsEPNS_14HeapStatisticsE"
_CALL: Final = "_ZN2v88Function4CallENS_5LocalINS_7ContextEEENS1_INS_5ValueEEEiPS5_"

NAMES: Final = (
    *(_GET_CURRENT, _TERMINATE, _CANCEL_TERMINATE, _CONTEXT, _GLOBAL),
    *(_GLOBALIZE, _GET, _SET, _NEW, _CALL),
    *(_DISPOSE, _MESSAGE, _LINE, _STATISTICS),
)


class Native:
    """One isolate. Values pass to and from ``v8.py`` as elements 0, 1, ... of JavaScript's global object."""

    def __init__(self, path: str) -> None:
        """``path`` is that of mini_racer's library."""
        self._library = library = ctypes.PyDLL(path)  # the GIL stays with the caller, as these are brief
        self._context = _function(library, _CONTEXT, _LOCAL, _ISOLATE)
        self._global = _function(library, _GLOBAL, _LOCAL, _LOCAL)
        self._globalize = _function(library, _GLOBALIZE, ctypes.c_void_p, _ISOLATE, ctypes.c_uint64)
        self._get = _function(library, _GET, _LOCAL, _LOCAL, _LOCAL, _INDEX)
        self._set = _function(library, _SET, ctypes.c_uint16, _LOCAL, _LOCAL, _INDEX, _LOCAL)
        self._new = _function(library, _NEW, _LOCAL, _LOCAL, Callback, _LOCAL, _INT, _INT, _INT)
        self._call = ctypes.CDLL(path)[_CALL]  # not brief: the GIL is free meanwhile
        self._call.restype = _LOCAL  # no argtypes: to check them takes 0.1 us a call
        self._dispose = _function(library, _DISPOSE, None, ctypes.c_void_p)
        self._message = _function(library, _MESSAGE, _LOCAL, _ISOLATE, _LOCAL)
        self._line = _function(library, _LINE, ctypes.c_uint64, _LOCAL, _LOCAL)
        self._statistics = _function(library, _STATISTICS, None, _ISOLATE, ctypes.c_void_p)
        self._terminate = _function(library, _TERMINATE, None, _ISOLATE)
        self._cancel_terminate = _function(library, _CANCEL_TERMINATE, None, _ISOLATE)
        self._isolate = ctypes.c_void_p()

    def attach(self) -> None:
        """Take the isolate of this thread."""
        self._isolate = ctypes.c_void_p(_function(self._library, _GET_CURRENT, _ISOLATE)())

    def put(self, callbacks: Sequence[Any]) -> None:
        """Put functions that call ``callbacks`` into the global object."""
        context = self._context(self._isolate)
        global_ = self._global(context)
        for i, callback in enumerate(callbacks):
            self._set(global_, context, i, self._new(context, callback, None, 0, 0, 0))

    def take(self, count: int) -> list[Callable[[], Any]]:
        """Return functions that call those in the global object, without arguments.

        They return None when the function threw or JavaScript was stopped; what it threw goes on in the JavaScript below.
        """
        context = self._context(self._isolate)
        global_ = self._global(context)
        return [self.caller(self._get(global_, context, i)) for i in range(count)]

    def caller(self, local: int | None) -> Callable[[], Any]:
        """Return a function that calls the JavaScript function ``local``, as those of ``take``."""
        context = self._context(self._isolate)
        kept = (self._keep(one) for one in (local, context, self._global(context)))
        return partial(self._call, *kept, _INT(0), ctypes.c_void_p())

    def drop(self, caller: Callable[[], Any]) -> None:
        """Let V8 free what ``caller`` calls; it must not be called any more."""
        for handle in caller.args[:3]:  # type: ignore[attr-defined]
            self._dispose(handle)

    def line(self, local: int | None) -> int | None:
        """Return the line that V8 has noted in an error when it was made, None when there is none."""
        maybe = self._line(self._message(self._isolate, local), self._context(self._isolate))
        return (maybe >> 32 or None) if maybe & 1 else None

    def used(self) -> int:
        """Return how many octets the heap holds, and buffers beside it."""
        words = (ctypes.c_uint64 * 32)()
        self._statistics(self._isolate, words)
        return int(words[_USED] + words[_EXTERNAL])

    def _keep(self, local: int | None) -> ctypes.c_void_p:
        """Return a handle to the same object that lives as long as the isolate."""
        return ctypes.c_void_p(self._globalize(self._isolate, ctypes.c_uint64.from_address(local or 0)))

    def stop(self) -> None:
        """Stop the JavaScript that runs, for any thread; ``go_on`` lets it run again."""
        self._terminate(self._isolate)

    def go_on(self) -> None:
        """Let JavaScript run again: after ``stop``, or when it was stopped as it used too much memory."""
        self._cancel_terminate(self._isolate)


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function
