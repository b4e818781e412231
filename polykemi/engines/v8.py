"""V8 with synchronous Python functions: all that touches entry points of mini_racer which are not public.

mini_racer's Python API gives JavaScript asynchronous functions only. Its library, however, calls the C callback that
``mr_init_context`` was given on the isolate's own thread and holds JavaScript until the callback returns. Three laws follow:

* nothing may call into V8 from inside a callback: it would wait for itself. ``start`` only queues and may be called there;
* the isolate's thread takes its Python thread state once and keeps it until ``close`` (otherwise one is made and
  destroyed for every call: 9 us instead of 1 us);
* mini_racer frees the handles that callbacks leave behind only in V8's message pump: a task that runs for long must come
  back to it now and then (otherwise 100 octets leak at every call).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import itertools
import json
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from polykemi.errors import UsageError

log = logging.getLogger("polykemi.engines.v8")

VERSION: Final = "0.14.1"  # of mini-racer: what is checked below was read in this version
_FUNCTIONS: Final = (
    "mr_alloc_int_val",
    "mr_alloc_string_val",
    "mr_array_push",
    "mr_call_function",
    "mr_cancel_task",
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
_ENTRY: Final = 1 << 40  # callback numbers of entries start here, those of tasks below

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
    missing = [name for name in _FUNCTIONS if not hasattr(library, name)]
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
        self._entries: list[Callable[[], None]] = []
        self._tasks: dict[int, tuple[Callable[[Outcome], None], bool]] = {}  # done, keep the result
        self._numbers = itertools.count(1)
        free = ctypes.PyDLL(dll._name)["mr_free_value"]  # PyDLL: the GIL stays with the caller, as it is brief
        free.argtypes, free.restype = [ctypes.c_uint64, ctypes.c_void_p], None
        self._free = free
        signature = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_void_p)
        # prototypes of our own, as other users of mini_racer in this process share the library object
        init = ctypes.CDLL(dll._name)["mr_init_context"]
        init.argtypes, init.restype = [signature], ctypes.c_uint64
        self._context = 0
        callback = signature(self._dispatcher())
        self._context = context = init(callback)
        self._finalizer = weakref.finalize(self, _free_context, dll, context, callback)
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
        self._call(self.entry(self._settle))
        self._leave = self.entry(_give_thread_state_back)

    def _settle(self) -> None:
        """Take the GIL state once more than the callback gives it back, so that the thread keeps its thread state."""
        ctypes.pythonapi.PyGILState_Ensure()
        self.thread = threading.get_ident()

    def _dispatcher(self) -> Callable[[int, int], None]:
        entries, tasks, free, value_type = self._entries, self._tasks, self._free, self._value

        def dispatch(number: int, raw: int) -> None:  # on the isolate's thread
            if number >= _ENTRY:
                free(self._context, raw)
                entries[number - _ENTRY]()
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
    def entry(self, function: Callable[[], None]) -> Handle:
        """Return a JavaScript function that calls ``function``, which must not raise."""
        self._entries.append(function)
        return self._dll.mr_make_js_callback(self._context, _ENTRY + len(self._entries) - 1)

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

    def _call(self, function: Handle) -> Handle:
        return self._wait(
            lambda number: self._dll.mr_call_function(self._context, function, self._undefined, self._nothing, number)
        )

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
        """Return ``text`` as a JavaScript value; give it back with ``release``."""
        data = text.encode("utf-8", "replace")
        return self._dll.mr_alloc_string_val(self._context, data, len(data), _TEXT)

    def release(self, handle: Handle) -> None:
        """Give a value back."""
        self._free(self._context, handle)

    def start(self, function: Handle, done: Callable[[Outcome], None], this: Handle = None) -> int:
        """Queue a call of ``function``; ``done`` is called on the isolate's thread when it has ended. Return the task."""
        number = next(self._numbers)
        self._tasks[number] = done, False
        task: int = self._dll.mr_call_function(
            self._context, function, self._undefined if this is None else this, self._nothing, number
        )
        return task

    def cancel(self, task: int) -> None:
        """End ``task`` wherever it is; nothing happens when it has ended.

        V8 may notice only in the next task when this one ends at the same moment: see ``JsEngine``.
        """
        self._dll.mr_cancel_task(self._context, task)

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
            self._call(self._leave)
            self._finalizer()
            self._entries.clear()


def _text(value: Any) -> str:
    return bytes(value.value.bytes_val[: value.len]).decode("utf-8", "replace")


def _free_context(dll: Any, context: int, callback: object) -> None:
    """Free the context; ``callback`` must live until then."""
    dll.mr_free_context(context)


def _give_thread_state_back() -> None:
    """Undo ``V8._settle``: the callback that calls this gives the thread state up when it returns."""
    ctypes.pythonapi.PyGILState_Release(0)
