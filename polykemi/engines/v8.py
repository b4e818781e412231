"""V8 with synchronous Python functions: all that touches entry points of mini_racer which are not public.

mini_racer's Python API gives JavaScript asynchronous functions only. Its library, however, calls the C callback that
``mr_init_context`` was given on the isolate's own thread and holds JavaScript until the callback returns. That is the way
onto the thread (``errand``); what is done there is done by V8's own interface (``v8_native.py``). Three laws follow:

* nothing may wait for mini_racer on the isolate's thread: it would wait for itself. ``errand`` only queues;
* the isolate's thread takes its Python thread state once and keeps it until ``close`` (otherwise one is made and
  destroyed for every call: 9 us);
* what calls of JavaScript leave behind (8 octets each) goes when the errand ends, and V8 does some of its housekeeping
  only then: an errand that runs for long must come to an end now and then.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import itertools
import json
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from polykemi.engines.v8_native import NAMES, Callback, Native
from polykemi.errors import UsageError

log = logging.getLogger("polykemi.engines.v8")

VERSION: Final = "0.14.1"  # of mini-racer: what is checked below was read in this version
_FUNCTIONS: Final = (
    "mr_alloc_int_val",
    "mr_alloc_string_val",
    "mr_array_push",
    "mr_call_function",
    "mr_eval",
    "mr_free_context",
    "mr_free_value",
    "mr_get_object_item",
    "mr_hard_memory_limit_reached",
    "mr_heap_stats",
    "mr_init_context",
    "mr_make_js_callback",
    "mr_set_hard_memory_limit",
)
# gives js_runtime.js the word for "run what promises have to do now": mini_racer does that outside of every task, where
# it could not be stopped
_FLAG: Final = "--allow-natives-syntax"
_ERRAND: Final = 1 << 40  # the number of the callback that runs errands; those of tasks are below
# values go between mini_racer's handles and V8's own interface by way of the global object
_TO_GLOBAL: Final = "(function (values) { values.forEach((value, i) => { globalThis[i] = value; }); return values; })"
_FROM_GLOBAL: Final = """(() => {
  const values = [];
  for (let i = 0; i in globalThis; i++) { values.push(globalThis[i]); delete globalThis[i]; }
  return values;
})()"""

# types of mini_racer's values (value.h)
_UNDEFINED: Final = 11
_TEXT: Final = 5
_FIRST_ERROR: Final = 200

Handle = Any  # a pointer to a value that lives in the library; all are given back by ``close``


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: ``failed`` with V8's message, or with the text that it returned."""

    failed: bool
    text: str


def _library() -> Any:
    """Return mini_racer's library. Raise UsageError when it is not the one that this file knows."""
    try:
        version = importlib.metadata.version("mini-racer")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"JavaScript needs the package mini-racer=={VERSION}; it is not installed") from None
    if version != VERSION:
        raise UsageError(f"JavaScript needs the package mini-racer=={VERSION}; {version} is installed")
    try:
        from py_mini_racer import _dll

        library = _dll.init_mini_racer(flags=(*_dll.DEFAULT_V8_FLAGS, _FLAG), ignore_duplicate_init=True)
        value = _dll.RawValueHandle._type_
        fields = [name for name, _ in value._fields_]
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"mini-racer {VERSION} is not as expected: {error}") from None
    missing = [name for name in (*_FUNCTIONS, *NAMES) if not hasattr(library, name)]
    if missing or fields != ["value", "len", "type"]:
        raise UsageError(f"mini-racer {VERSION} is not as expected: {', '.join(missing) or 'the layout of its values'}")
    return library


class V8:
    """One isolate with one JavaScript context, on a thread of its own. ``memory`` is its heap limit in octets.

    The limit is never more than three quarters of V8's own, at which V8 would end the process; 0 stands for that much.
    """

    def __init__(self, memory: int = 0) -> None:
        self._dll = dll = _library()
        self._value = dll.mr_free_value.argtypes[1]
        self._tasks: dict[int, tuple[Callable[[Outcome], None], bool]] = {}  # done, keep the result
        self._errands: deque[Callable[[], None]] = deque()
        self._numbers = itertools.count(1)
        self._native = Native(dll._name)
        # prototypes of our own, as other users of mini_racer in this process share the library object
        self._free = ctypes.PyDLL(dll._name)["mr_free_value"]  # PyDLL: the GIL stays with the caller, as it is brief
        self._free.argtypes, self._free.restype = [ctypes.c_uint64, ctypes.c_void_p], None
        signature = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_void_p)
        init = ctypes.CDLL(dll._name)["mr_init_context"]
        init.argtypes, init.restype = [signature], ctypes.c_uint64
        self._context = 0
        self._callbacks: list[Any] = [signature(self._dispatcher())]  # what V8 may call until the context is freed
        self._context = context = init(self._callbacks[0])
        self._finalizer = weakref.finalize(self, _free_context, dll, context, self._callbacks)
        stats = json.loads(_text(dll.mr_heap_stats(context).contents))
        most = stats["heap_size_limit"] * 3 // 4
        self.memory = min(memory, most) if memory else most
        self._limit_memory()
        self._undefined = dll.mr_alloc_int_val(context, 0, _UNDEFINED)
        self._nothing = self.eval("[]")
        try:
            self.eval("%PerformMicrotaskCheckpoint()")
        except RuntimeError:
            self._finalizer()
            raise UsageError(f"V8 was started in this process without its flag {_FLAG}") from None
        self.thread = 0  # the identifier of the isolate's thread
        self._run_errand = dll.mr_make_js_callback(context, _ERRAND)
        self.on_thread(self._settle)

    def _settle(self) -> None:
        """Take the GIL state once more than the callback gives it back, so that the thread keeps its thread state."""
        ctypes.pythonapi.PyGILState_Ensure()
        self.thread = threading.get_ident()
        self._native.attach()

    def _dispatcher(self) -> Callable[[int, int], None]:
        tasks, free, value_type = self._tasks, self._free, self._value

        def dispatch(number: int, raw: int) -> None:  # on the isolate's thread
            if number == _ERRAND:
                free(self._context, raw)
                self._errands.popleft()()
                return
            value = ctypes.cast(raw, value_type).contents
            kind = value.type
            text = ""
            if kind == _TEXT or kind >= _FIRST_ERROR:
                text = _text(value)
            done, keep = tasks.pop(number)
            if keep:
                self._kept = ctypes.cast(raw, value_type)
            else:
                free(self._context, raw)
            try:
                done(Outcome(kind >= _FIRST_ERROR, text))
            except Exception:
                log.exception("internal error at the end of a task")

        return dispatch

    # ---- set-up; each of these waits for the isolate's thread
    def entries(self, functions: Iterable[Callable[[], None]]) -> Handle:
        """Return a JavaScript array of functions that call ``functions``, which must not raise."""
        callbacks = [Callback(function) for function in functions]
        self._callbacks += callbacks
        self.on_thread(lambda: self._native.put(callbacks))
        return self.eval(_FROM_GLOBAL)

    def callers(self, functions: Sequence[Handle]) -> list[Callable[[], Any]]:
        """Return Python functions that call JavaScript's, for errands and for what JavaScript calls in them.

        They return None when V8 was stopped meanwhile, or the function threw.
        """
        self.make(self.eval(_TO_GLOBAL), "", self.array([self.array(functions)]))
        out: list[Callable[[], Any]] = []
        self.on_thread(lambda: out.extend(self._native.take(len(functions))))
        self.eval(_FROM_GLOBAL)
        return out

    def caller(self, local: int | None) -> Callable[[], Any]:
        """Return a Python function that calls the function ``local``, which a caller has returned; on the thread."""
        return self._native.caller(local)

    def drop(self, caller: Callable[[], Any]) -> None:
        """Let V8 free the function that ``caller`` calls; on the thread."""
        self._native.drop(caller)

    def line(self, local: int | None) -> int | None:
        """Return the line where ``local``, what was thrown, says that it comes from; on the thread."""
        return self._native.line(local)

    def used(self) -> int:
        """Return how many octets the heap holds, and buffers beside it."""
        out: list[int] = []
        self.on_thread(lambda: out.append(self._native.used()))
        return out[0]

    def array(self, items: Sequence[Handle]) -> Handle:
        """Return a JavaScript array of ``items``."""
        array = self.eval("[]")
        for item in items:
            self._dll.mr_array_push(self._context, array, item)
        return array

    def eval(self, source: str) -> Handle:
        """Evaluate ``source`` and return the object that comes out. Raise RuntimeError."""
        code = self.text(source)
        return self._wait(lambda number: self._dll.mr_eval(self._context, code, number))

    def make(self, function: Handle, this: str, arguments: Handle) -> Handle:
        """Call ``function`` and return the object that comes out. Raise RuntimeError."""
        text = self.text(this)
        return self._wait(lambda number: self._dll.mr_call_function(self._context, function, text, arguments, number))

    def item(self, value: Handle, name: str) -> Handle:
        """Return a property of an object."""
        return self._dll.mr_get_object_item(self._context, value, self.text(name))

    def memoryview(self, shared: Handle) -> memoryview:
        """Return the octets of a SharedArrayBuffer. Not to be touched after ``close``."""
        value = shared.contents
        return memoryview((ctypes.c_ubyte * value.len).from_address(value.value.value_ptr)).cast("B")

    def on_thread(self, errand: Callable[[], None]) -> None:
        """Do ``errand``, which must not raise, on the isolate's thread, now when it is this one."""
        if threading.get_ident() == self.thread:
            errand()
            return
        ended = threading.Event()
        self.errand(errand, lambda _: ended.set())
        ended.wait()

    def _wait(self, begin: Callable[[int], int]) -> Handle:
        ended = threading.Event()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            ended.set()

        number = next(self._numbers)
        self._tasks[number] = done, True
        begin(number)
        ended.wait()
        if outcomes[0].failed:
            raise RuntimeError(outcomes[0].text)
        return self._kept

    # ---- tasks
    def text(self, text: str) -> Handle:
        """Return ``text`` as a JavaScript value."""
        data = text.encode("utf-8", "replace")
        return self._dll.mr_alloc_string_val(self._context, data, len(data), _TEXT)

    def _start(self, function: Handle, done: Callable[[Outcome], None]) -> None:
        """Queue a call of ``function``; ``done`` is called on the isolate's thread when it has ended."""
        number = next(self._numbers)
        self._tasks[number] = done, False
        self._dll.mr_call_function(self._context, function, self._undefined, self._nothing, number)

    def errand(self, function: Callable[[], None], done: Callable[[Outcome], None]) -> None:
        """Queue a call of ``function``, which must not raise, on the isolate's thread; then ``done`` is called there."""
        self._errands.append(function)
        self._start(self._run_errand, done)

    def stop(self) -> None:
        """Stop the JavaScript that an errand has called; from any thread. What is called next is stopped too, if it ended."""
        self._native.stop()

    def go_on(self) -> None:
        """Let JavaScript run again after ``stop``, or when it used too much memory; from an errand."""
        self._native.go_on()

    # ---- memory
    def _limit_memory(self) -> None:
        self._dll.mr_set_hard_memory_limit(self._context, self.memory)

    def out_of_memory(self) -> bool:
        """Tell whether a task was ended as the heap went beyond its limit; ``lift_memory_limit`` comes next."""
        return bool(self._dll.mr_hard_memory_limit_reached(self._context))

    def lift_memory_limit(self) -> str:
        """Let the next task run, under the same limit; return what the last one did, in words."""
        self._limit_memory()
        return f"needs more memory than its {self.memory} octets"

    def close(self) -> None:
        """End the isolate and its thread, once what runs has ended."""
        if self._finalizer.alive:
            self.on_thread(_give_thread_state_back)
            self._finalizer()


def _text(value: Any) -> str:
    return bytes(value.value.bytes_val[: value.len]).decode("utf-8", "replace")


def _free_context(dll: Any, context: int, callbacks: list[Any]) -> None:
    """Free the context; ``callbacks`` must live until then."""
    dll.mr_free_context(context)
    callbacks.clear()


def _give_thread_state_back() -> None:
    """Undo ``V8._settle``: the callback that calls this gives the thread state up when it returns."""
    ctypes.pythonapi.PyGILState_Release(0)
