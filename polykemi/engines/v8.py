"""V8 on a thread of its own: all that touches entry points of mini_racer which are not public.

mini_racer's Python API gives JavaScript asynchronous functions only. Its library, however, calls the C callback that
``mr_init_context`` was given on the isolate's own thread and holds JavaScript until the callback returns. That is the way
onto the thread (``errand``); what is done there is done by V8's own interface (``v8_native.py``). Three laws follow:

* nothing may wait for mini_racer on the isolate's thread: it would wait for itself. ``errand`` only queues;
* the isolate's thread takes its Python thread state once and keeps it until ``close`` (otherwise one is made and
  destroyed for every call: 9 us);
* what calls of JavaScript leave behind (8 octets each, and what they stand for) goes when the errand ends, and V8 does some
  of its housekeeping only then: an errand that runs for long must come to an end now and then.
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
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from polykemi.engines.v8_native import NAMES, Native
from polykemi.errors import UsageError

log = logging.getLogger("polykemi.engines.v8")

VERSION: Final = "0.14.1"  # of mini-racer: what is checked below was read in this version
_FUNCTIONS: Final = (
    "mr_alloc_int_val",
    "mr_call_function",
    "mr_eval",
    "mr_alloc_string_val",
    "mr_free_context",
    "mr_free_value",
    "mr_heap_stats",
    "mr_init_context",
    "mr_make_js_callback",
)
MEMORY: Final = 256 << 20  # octets, where nothing is configured
_LONGEST_BUFFER: Final = 4 << 20  # octets of one ArrayBuffer: V8 lists its indices without looking up
_SMALL_BUFFER: Final = 4096  # octets: V8 ends the process where it makes a buffer for its own use and gets none
_ROOM: Final = 32 << 20  # octets of V8's heap more than what is looked at leads to expect
_BEYOND: Final = 256 << 20  # and what may be taken at once before JavaScript that is being stopped looks up
_ERRAND: Final = 1 << 40  # the number of the callback that runs errands; those of tasks are below

# types of mini_racer's values (value.h)
_UNDEFINED: Final = 11
_TEXT: Final = 5

_T = TypeVar("_T")


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

        library = _dll.init_mini_racer(ignore_duplicate_init=True)
        value = _dll.RawValueHandle._type_
        fields = [name for name, _ in value._fields_]
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"mini-racer {VERSION} is not as expected: {error}") from None
    missing = [name for name in (*_FUNCTIONS, *NAMES) if not hasattr(library, name)]
    if missing or fields != ["value", "len", "type"]:
        raise UsageError(f"mini-racer {VERSION} is not as expected: {', '.join(missing) or 'the layout of its values'}")
    return library


def kept(errand: Callable[[], _T]) -> tuple[Callable[[], None], Future[_T]]:
    """Return ``errand`` as one that does not raise, and where what it gives or raises is kept for another thread."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(errand())
        except BaseException as error:  # noqa: BLE001
            outcome.set_exception(error)

    return run, outcome


class V8:
    """One isolate on a thread of its own. ``memory`` is how many octets may live in its heap and in buffers beside it.

    That is looked at when so much is taken, garbage included, and again when half as much has been taken since; V8's own
    limit, at which it would end the process, is a little above. ``memory`` is never more than half of that which V8 comes
    with; 0 stands for MEMORY.
    """

    def __init__(self, memory: int = 0) -> None:
        self._dll = dll = _library()
        self._ended: dict[int, Callable[[], None]] = {}  # of the tasks that were started
        self._errands: deque[Callable[[], None]] = deque()
        self._numbers = itertools.count(1)
        self.native = Native(dll._name)
        # prototypes of our own, as other users of mini_racer in this process share the library object
        self._free = ctypes.PyDLL(dll._name)["mr_free_value"]  # PyDLL: the GIL stays with the caller, as it is brief
        self._free.argtypes, self._free.restype = [ctypes.c_uint64, ctypes.c_void_p], None
        signature = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_void_p)
        init = ctypes.CDLL(dll._name)["mr_init_context"]
        init.argtypes, init.restype = [signature], ctypes.c_uint64
        self._context = 0
        self.callbacks: list[Any] = [signature(self._dispatch)]  # what V8 may call until the context is freed
        self._context = context = init(self.callbacks[0])
        self._finalizer = weakref.finalize(self, _free_context, dll, context, self.callbacks)
        limit = json.loads(_text(dll.mr_heap_stats(context).contents))["heap_size_limit"]
        self._most: int = limit // 2
        self.thread = 0  # the identifier of the isolate's thread
        self.limit(memory)
        self.out_of_memory = False  # JavaScript was stopped as more than that lives
        self.spare = 0  # octets above the limit, for the time in which a script is started anew beside the old one
        self._asked = False  # whether as much lives
        self._lived = 0  # octets, at the last look, or less since
        self._undefined = dll.mr_alloc_int_val(context, 0, _UNDEFINED)
        self._run_errand = dll.mr_make_js_callback(context, _ERRAND)
        self._nothing: Any = None
        self._make_nothing()
        # called when JavaScript looks up after ``native.interrupt``, and when V8 is about to end the process
        self.on_interrupt: Callable[[], None] = lambda: None
        self.on_fatal: Callable[[], None] = lambda: None
        try:
            self.on_thread(lambda: self._settle(limit))
        except UsageError:
            self.close()
            raise

    def _make_nothing(self) -> None:
        """Let mini_racer evaluate an empty array: the arguments of every errand."""
        ended = threading.Event()
        number = next(self._numbers)
        self._ended[number] = ended.set
        self._dll.mr_eval(self._context, self._dll.mr_alloc_string_val(self._context, b"[]", 2, _TEXT), number)
        ended.wait()

    def _settle(self, heap_limit: int) -> None:
        """Take the GIL state once more than the callback gives it back, so that the thread keeps its thread state."""
        ctypes.pythonapi.PyGILState_Ensure()
        self.thread = threading.get_ident()
        native = self.native
        native.attach(heap_limit)
        self.callbacks += native.watch(
            self._looked_up, self._collected, self._near_limit, self._may_allocate, self._ending
        )
        self.bound()

    def _dispatch(self, number: int, raw: int) -> None:
        """mini_racer calls this on the isolate's thread: an errand's turn has come, or a task has ended."""
        if number == _ERRAND:
            self._free(self._context, raw)
            self._errands.popleft()()
            return
        if self._nothing is None:
            self._nothing = ctypes.cast(raw, self._dll.mr_free_value.argtypes[1])
        else:
            self._free(self._context, raw)
        try:
            self._ended.pop(number)()
        except Exception:
            log.exception("internal error at the end of a task")

    def limit(self, memory: int) -> None:
        """Let so many octets live from now on."""
        self.memory = min(memory or MEMORY, self._most)
        if self.thread:
            self.on_thread(self.bound)

    # ---- errands
    def errand(self, function: Callable[[], None], done: Callable[[], None]) -> None:
        """Queue a call of ``function``, which must not raise, on the isolate's thread; then ``done`` is called there."""
        self._errands.append(function)
        number = next(self._numbers)
        self._ended[number] = done
        self._dll.mr_call_function(self._context, self._run_errand, self._undefined, self._nothing, number)

    def on_thread(self, errand: Callable[[], _T]) -> _T:
        """Do ``errand`` on the isolate's thread, now when it is this one; return what it gives. Raise what it raises."""
        if threading.get_ident() == self.thread:
            return errand()
        ended = threading.Event()
        run, outcome = kept(errand)
        self.errand(run, ended.set)
        ended.wait()
        return outcome.result()

    # ---- memory; V8 calls these on the isolate's thread
    def _collected(self) -> None:
        used = self.native.used()
        if not self._asked and used > self._enough():
            self._asked = True
            self.native.interrupt()
        self._lived = min(self._lived, used)

    def _enough(self) -> int:
        """Return how many octets may be taken, garbage included, before it is asked how many live: that takes long."""
        return max(self.memory, self._lived + self.memory // 2) + self.spare

    def _looked_up(self) -> None:
        if self._asked:
            self.native.collect()
            self._asked = False
            self._lived = self.native.used()
            if self._lived > self.memory + self.spare:
                self._exhausted()
        self.on_interrupt()

    def bound(self) -> None:
        """Let V8's own limit be what it shall be, on its thread: it was higher for a while."""
        self.native.bound(self._bound())

    def _bound(self) -> int:
        return self.memory + self.memory // 2 + self.spare + _ROOM

    def _near_limit(self, current: int) -> int:
        """Return V8's own limit from now on, as it needs more than ``current``: where that is too much, to be able to stop."""
        if current < self._bound():
            return self._bound()
        self._exhausted()
        return current + _BEYOND

    def take_up(self) -> bool:
        """Let JavaScript run again when it was stopped as too much lives, on V8's thread; tell whether it was."""
        if not self.out_of_memory:
            return False
        self.out_of_memory = False
        self.native.go_on()
        self.bound()
        return True

    def _exhausted(self) -> None:
        self.out_of_memory = True
        self.native.stop()

    def _ending(self) -> None:
        self.on_fatal()

    def _may_allocate(self, size: int) -> bool:
        if size <= _SMALL_BUFFER:
            return True
        return size <= _LONGEST_BUFFER and self.native.used() + size <= self._enough()

    def abandon(self) -> None:
        """Leave the isolate as it is, for good: its thread does not come back."""
        if self._finalizer.detach() is not None:
            _abandoned.append(self)

    def close(self) -> None:
        """End the isolate and its thread, once what runs has ended."""
        if self._finalizer.alive:
            self.on_thread(_give_thread_state_back)
            self._finalizer()


_abandoned: Final[list[V8]] = []  # V8 may still call what they hold


def _text(value: Any) -> str:
    return bytes(value.value.bytes_val[: value.len]).decode("utf-8", "replace")


def _free_context(dll: Any, context: int, callbacks: list[Any]) -> None:
    """Free the context; ``callbacks`` must live until then."""
    dll.mr_free_context(context)
    callbacks.clear()


def _give_thread_state_back() -> None:
    """Undo ``V8._settle``: the callback that calls this gives the thread state up when it returns."""
    ctypes.pythonapi.PyGILState_Release(0)
