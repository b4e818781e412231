"""V8's own C++ interface, which mini_racer's library exports besides its own: contexts, and calls between them and Python.

A callback is a plain function of C here: 0.07 us with the Python around it, where mini_racer's makes a handle for each
call and takes 0.85 us. And it may call JavaScript in turn: 0.3 us.

All but ``stop`` and ``interrupt`` is for the isolate's thread, inside of a callback: there V8 has a scope for what is left
behind, which goes when the callback ends. Names and arguments are those of V8 14.4 (v8-isolate.h, v8-context.h, v8-object.h,
v8-function.h, v8-debug.h, v8-microtask-queue.h) in the Itanium C++ ABI; ``v8.py`` sees to it that it is this V8.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from polykemi.errors import UsageError

Local = int  # v8::Local<T>: the address of a slot that the garbage collector knows; 0 where JavaScript was stopped
Handle = ctypes.c_void_p  # the same, until ``drop``

Callback: Final = ctypes.CFUNCTYPE(None)  # V8 passes its FunctionCallbackInfo, which nobody needs here
AfterGc: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
Allocate: Final = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
Interrupt: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
Fatal: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
NearLimit: Final = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)

_PTR: Final = ctypes.c_void_p
_INT: Final = ctypes.c_int
_INDEX: Final = ctypes.c_uint32
_SIZE: Final = ctypes.c_size_t

# name in ``Native`` -> symbol, result, arguments; those in _LONG run JavaScript, so the GIL is free meanwhile
_SHORT: Final[dict[str, tuple[str, Any, tuple[Any, ...]]]] = {
    "current": ("_ZN2v87Isolate10GetCurrentEv", _PTR, ()),
    "terminate": ("_ZN2v87Isolate18TerminateExecutionEv", None, (_PTR,)),
    "cancel_terminate": ("_ZN2v87Isolate24CancelTerminateExecutionEv", None, (_PTR,)),
    "request_interrupt": ("_ZN2v87Isolate16RequestInterruptEPFvPS0_PvES2_", None, (_PTR, Interrupt, _PTR)),
    "statistics": ("_ZN2v87Isolate17GetHeapStatisticsEPNS_14HeapStatisticsE", None, (_PTR, _PTR)),
    "low_memory": ("_ZN2v87Isolate21LowMemoryNotificationEv", None, (_PTR,)),
    "add_near_limit": ("_ZN2v87Isolate24AddNearHeapLimitCallbackEPFmPvmmES1_", None, (_PTR, NearLimit, _PTR)),
    "remove_near_limit": ("_ZN2v87Isolate27RemoveNearHeapLimitCallbackEPFmPvmmEm", None, (_PTR, NearLimit, _SIZE)),
    "on_fatal": ("_ZN2v87Isolate18SetOOMErrorHandlerEPFvPKcRKNS_10OOMDetailsEE", None, (_PTR, Fatal)),
    "after_gc": (
        "_ZN2v87Isolate21AddGCEpilogueCallbackEPFvPS0_NS_6GCTypeENS_15GCCallbackFlagsEPvES4_S2_",
        None,
        (_PTR, AfterGc, _PTR, _INT),
    ),
    "allocator": ("_ZN2v87Isolate23GetArrayBufferAllocatorEv", _PTR, (_PTR,)),
    "current_context": ("_ZN2v87Isolate17GetCurrentContextEv", _PTR, (_PTR,)),
    "new_context": (
        (
            "_ZN2v87Context3NewEPNS_7IsolateEPNS_22ExtensionConfigurationENS_10MaybeLocalINS_14ObjectTemplateEEE"
            "NS5_INS_5ValueEEENS_33DeserializeInternalFieldsCallbackEPNS_14MicrotaskQueueE"
            "NS_30DeserializeContextDataCallbackENS_29DeserializeAPIWrapperCallbackE"
        ),
        _PTR,
        (_PTR,) * 12,
    ),
    "token": ("_ZN2v87Context16GetSecurityTokenEv", _PTR, (_PTR,)),
    "set_token": ("_ZN2v87Context16SetSecurityTokenENS_5LocalINS_5ValueEEE", None, (_PTR, _PTR)),
    "enter": ("_ZN2v87Context5EnterEv", None, (_PTR,)),
    "exit": ("_ZN2v87Context4ExitEv", None, (_PTR,)),
    "global_": ("_ZN2v87Context6GlobalEv", _PTR, (_PTR,)),
    "queue": ("_ZN2v87Context17GetMicrotaskQueueEv", _PTR, (_PTR,)),
    "globalize": ("_ZN2v812api_internal18GlobalizeReferenceEPNS_8internal7IsolateEm", _PTR, (_PTR, ctypes.c_uint64)),
    "dispose": ("_ZN2v812api_internal13DisposeGlobalEPm", None, (_PTR,)),
    "scope_next": ("_ZN2v88internal11HandleScope20current_next_addressEPNS0_7IsolateE", _PTR, (_PTR,)),
    "scope_limit": ("_ZN2v88internal11HandleScope21current_limit_addressEPNS0_7IsolateE", _PTR, (_PTR,)),
    "scope_level": ("_ZN2v88internal11HandleScope21current_level_addressEPNS0_7IsolateE", _PTR, (_PTR,)),
    "scope_end": ("_ZN2v88internal11HandleScope16DeleteExtensionsEPNS0_7IsolateE", None, (_PTR,)),
    "text": (
        "_ZN2v86String11NewFromUtf8EPNS_7IsolateEPKcNS_13NewStringTypeEi",
        _PTR,
        (_PTR, ctypes.c_char_p, _INT, _INT),
    ),
    "length": ("_ZNK2v86String6LengthEv", _INT, (_PTR,)),
    "write": ("_ZNK2v86String14WriteOneByteV2EPNS_7IsolateEjjPhi", None, (_PTR, _PTR, _INDEX, _INDEX, _PTR, _INT)),
    "array": ("_ZN2v85Array3NewEPNS_7IsolateEPNS_5LocalINS_5ValueEEEm", _PTR, (_PTR, _PTR, _SIZE)),
    "get": ("_ZN2v86Object3GetENS_5LocalINS_7ContextEEEj", _PTR, (_PTR, _PTR, _INDEX)),
    "data": ("_ZNK2v817SharedArrayBuffer4DataEv", _PTR, (_PTR,)),
    "function": (
        (
            "_ZN2v88Function3NewENS_5LocalINS_7ContextEEEPFvRKNS_20FunctionCallbackInfoINS_5ValueEEEENS1_INS_4DataEEEi"
            "NS_19ConstructorBehaviorENS_14SideEffectTypeE"
        ),
        _PTR,
        (_PTR, Callback, _PTR, _INT, _INT, _INT),
    ),
    "compile": (
        "_ZN2v86Script7CompileENS_5LocalINS_7ContextEEENS1_INS_6StringEEEPNS_12ScriptOriginE",
        _PTR,
        (_PTR,) * 3,
    ),
    "message": ("_ZN2v89Exception13CreateMessageEPNS_7IsolateENS_5LocalINS_5ValueEEE", _PTR, (_PTR, _PTR)),
    "line": ("_ZNK2v87Message13GetLineNumberENS_5LocalINS_7ContextEEE", ctypes.c_uint64, (_PTR, _PTR)),
    "stack": ("_ZN2v810StackTrace17CurrentStackTraceEPNS_7IsolateEiNS0_17StackTraceOptionsE", _PTR, (_PTR, _INT, _INT)),
    "frames": ("_ZNK2v810StackTrace13GetFrameCountEv", _INT, (_PTR,)),
    "frame": ("_ZNK2v810StackTrace8GetFrameEPNS_7IsolateEj", _PTR, (_PTR, _PTR, _INDEX)),
    "frame_name": ("_ZNK2v810StackFrame24GetScriptNameOrSourceURLEv", _PTR, (_PTR,)),
    "frame_location": ("_ZNK2v810StackFrame11GetLocationEv", ctypes.c_uint64, (_PTR,)),
}
_LONG: Final[dict[str, tuple[str, Any, tuple[Any, ...]]]] = {
    "run": ("_ZN2v86Script3RunENS_5LocalINS_7ContextEEE", _PTR, (_PTR, _PTR)),
    "checkpoint": ("_ZN2v815MicrotasksScope17PerformCheckpointEPNS_7IsolateE", None, (_PTR,)),
    "call": ("_ZN2v88Function4CallENS_5LocalINS_7ContextEEENS1_INS_5ValueEEEiPS5_", _PTR, ()),  # no argtypes: 0.1 us
}
NAMES: Final = tuple(symbol for symbol, _, _ in (*_SHORT.values(), *_LONG.values()))

_STACK_OPTIONS: Final = 0x7F | 0x100  # v8::StackTrace: kDetailed, kExposeFramesAcrossSecurityOrigins
_DEEPEST: Final = 64  # frames that are looked at
_USED, _LIMIT, _EXTERNAL = 4, 5, 7  # words of v8::HeapStatistics: used_heap_size_, heap_size_limit_, external_memory_
_ALL_GC: Final = 31  # v8::GCType
_ALLOCATOR_METHODS: Final = 8  # at least as many as a v8::ArrayBuffer::Allocator has, with its two destructors
_ALLOCATING: Final = (2, 3)  # those that allocate
_QUEUE_WORDS: Final = 16  # of v8::internal::MicrotaskQueue, that are looked through


class Native:
    """One isolate."""

    def __init__(self, path: str) -> None:
        """``path`` is that of mini_racer's library."""
        self._f: Any = SimpleNamespace()
        for library, table in ((ctypes.PyDLL(path), _SHORT), (ctypes.CDLL(path), _LONG)):
            for name, (symbol, result, arguments) in table.items():
                function = library[symbol]
                function.restype = result
                if arguments:
                    function.argtypes = arguments
                setattr(self._f, name, function)
        self._isolate = _PTR()
        self._main = Handle()  # mini_racer's context
        self._interrupt: Any = None
        self._near: Any = None

    def attach(self, heap_limit: int) -> None:
        """Take the isolate of this thread, whose ``heap_limit`` is known. Raise UsageError when V8 is not laid out as expected."""
        self._isolate = _PTR(self._f.current())
        self._main = self.keep(self._f.current_context(self._isolate))
        if self._statistics()[_LIMIT] != heap_limit:
            raise UsageError("V8's heap statistics are not as expected")

    @contextmanager
    def scope(self) -> Iterator[None]:
        """A v8::HandleScope: what is made inside is free to go when it ends."""
        f, isolate = self._f, self._isolate
        next_, limit = (ctypes.c_uint64.from_address(place(isolate)) for place in (f.scope_next, f.scope_limit))
        level = ctypes.c_int.from_address(f.scope_level(isolate))
        before = next_.value, limit.value
        level.value += 1
        try:
            yield
        finally:
            level.value -= 1
            next_.value = before[0]
            if limit.value != before[1]:
                limit.value = before[1]
                f.scope_end(isolate)

    # ---- contexts
    def context(self) -> Handle:
        """Return a new context; ``drop`` it."""
        context = self._f.new_context(self._isolate, *[None] * 11)
        if not context:
            raise MemoryError
        self._f.set_token(context, self._f.token(self._main))  # contexts may use each other's objects
        return self.keep(context)

    def evaluate(self, source: str, context: Handle | None = None) -> Local:
        """Return what the script ``source`` gives."""
        context = context or self._main
        script = self._f.compile(context, self.text(source), None)
        return (self._f.run(script, context) if script else 0) or 0

    def text(self, text: str) -> Local:
        """Return a string."""
        data = text.encode("utf-8", "replace")
        return self._f.text(self._isolate, data, 0, len(data)) or 0

    def functions(self, context: Handle, callbacks: Sequence[Any]) -> Local:
        """Return an array of functions that call ``callbacks``, which must not raise."""
        f = self._f
        made = [f.function(context, callback, None, 0, 0, 0) for callback in callbacks]
        f.enter(context)
        array = f.array(self._isolate, (_PTR * len(made))(*made), len(made))
        f.exit(context)
        return array or 0

    def apply(self, context: Handle, function: Local, arguments: Sequence[Local]) -> Local:
        """Return what a call of ``function`` gives."""
        given = (_PTR * len(arguments))(*arguments)
        return self._f.call(_PTR(function), context, _PTR(self._f.global_(context)), _INT(len(arguments)), given) or 0

    def items(self, context: Handle, array: Local, count: int) -> list[Callable[[], Local | None]]:
        """Return functions that call those in ``array``, without arguments; ``drop`` them.

        They return None when the function threw or JavaScript was stopped; what it threw goes on in the JavaScript below.
        """
        f = self._f
        receiver = f.global_(context)
        return [
            partial(f.call, self.keep(f.get(array, context, i)), context, self.keep(receiver), _INT(0), _PTR())
            for i in range(count)
        ]

    def drop(self, context: Handle, callers: Sequence[Callable[[], Local | None]]) -> None:
        """Let V8 free a context and what ``items`` has given of it, which must not be called any more."""
        for caller in callers:
            function, _, receiver, *_ = caller.args  # type: ignore[attr-defined]
            self._f.dispose(function)
            self._f.dispose(receiver)
        self._f.dispose(context)

    def keep(self, local: Local) -> Handle:
        """Return a handle to the same object."""
        return Handle(self._f.globalize(self._isolate, ctypes.c_uint64.from_address(local)))

    def local(self, handle: Handle) -> Local:
        """Return what an argument may be of ``handle``."""
        return handle.value or 0

    # ---- memory
    def shared(self, size: int) -> tuple[Handle, memoryview]:
        """Return a SharedArrayBuffer, for good, and its octets."""
        buffer = self.evaluate(f"new SharedArrayBuffer({size})")
        octets = (ctypes.c_ubyte * size).from_address(self._f.data(buffer))
        return self.keep(buffer), memoryview(octets).cast("B")

    def used(self) -> int:
        """Return how many octets the heap holds, garbage included, and buffers beside it."""
        words = self._statistics()
        return words[_USED] + words[_EXTERNAL]

    def _statistics(self) -> list[int]:
        words = (ctypes.c_uint64 * 32)()
        self._f.statistics(self._isolate, words)
        return list(words)

    def bound(self, octets: int) -> None:
        """Let V8's own limit be so many octets of heap, or a quarter more than it holds; it is never higher than before."""
        self._f.remove_near_limit(self._isolate, self._near, octets)
        self._f.add_near_limit(self._isolate, self._near, None)

    def collect(self) -> None:
        """Free all that can be freed."""
        self._f.low_memory(self._isolate)

    def watch(
        self,
        interrupted: Callable[[], None],
        collected: Callable[[], None],
        near_limit: Callable[[int], int],
        may_allocate: Callable[[int], bool],
        fatal: Callable[[], None],
    ) -> list[Any]:
        """Call these, which must not raise, from now on; return what must live as long as the isolate.

        ``interrupted`` after ``interrupt``; ``collected`` when the garbage collector ran; ``near_limit`` when the heap cannot
        grow below its limit, which it is given: it gives the next one; ``may_allocate`` is asked for each ArrayBuffer;
        ``fatal`` when V8 cannot go on without more memory: it ends the process when that returns.
        """
        self._interrupt = Interrupt(lambda isolate, data: interrupted())
        after_gc = AfterGc(lambda isolate, kind, flags, data: collected())

        self._near = NearLimit(lambda data, current, initial: near_limit(current))
        self._f.after_gc(self._isolate, after_gc, None, _ALL_GC)
        self._f.add_near_limit(self._isolate, self._near, None)
        on_fatal = Fatal(lambda place, details: fatal())
        self._f.on_fatal(self._isolate, on_fatal)
        return [self._interrupt, after_gc, self._near, on_fatal, *self._ask_allocator(may_allocate)]

    def _ask_allocator(self, may_allocate: Callable[[int], bool]) -> list[Any]:
        """Put ``may_allocate`` in front of the two virtual functions of the isolate's v8::ArrayBuffer::Allocator that allocate."""
        place = _PTR.from_address(self._f.allocator(self._isolate))
        methods = (_PTR * _ALLOCATOR_METHODS).from_address(place.value or 0)
        changed = (_PTR * _ALLOCATOR_METHODS)(*methods)
        kept: list[Any] = [changed]
        for i in _ALLOCATING:
            plain = Allocate(methods[i] or 0)

            def allocate(self: int, size: int, plain: Any = plain) -> int | None:
                return plain(self, size) if may_allocate(size) else None

            kept += [plain, Allocate(allocate)]
            changed[i] = ctypes.cast(kept[-1], _PTR)
        place.value = ctypes.addressof(changed)
        return kept

    # ---- promises
    def pending(self) -> memoryview:
        """Return a view whose only item is how many jobs of promises wait. Raise UsageError when it cannot be found."""
        queue = (ctypes.c_uint64 * _QUEUE_WORDS).from_address(self._f.queue(self._main))
        before = list(queue)
        self.evaluate("for (let i = 0; i < 3; i++) Promise.resolve().then(() => {});")
        grown = [i for i in range(_QUEUE_WORDS) if queue[i] - before[i] == 3]
        self.checkpoint()
        if len(grown) != 1 or queue[grown[0]] != 0:
            raise UsageError("V8's queue of microtasks is not as expected")
        return memoryview(queue).cast("B").cast("Q")[grown[0] : grown[0] + 1]

    def checkpoint(self) -> None:
        """Let promises do what they have to."""
        self._f.checkpoint(self._isolate)

    # ---- what runs
    def place(self) -> list[tuple[str, int]]:
        """Return name and line of the frames of JavaScript that run now, the innermost first."""
        f = self._f
        out: list[tuple[str, int]] = []
        with self.scope():
            stack = f.stack(self._isolate, _DEEPEST, _STACK_OPTIONS)
            for i in range(f.frames(stack) if stack else 0):
                frame = f.frame(stack, self._isolate, i)
                name = f.frame_name(frame)
                if name:
                    out.append((self._read(name), (f.frame_location(frame) & 0xFFFFFFFF) + 1))
        return out

    def _read(self, text: Local) -> str:
        length = min(self._f.length(text), 256)
        octets = (ctypes.c_ubyte * length)()
        self._f.write(text, self._isolate, 0, length, octets, 0)
        return bytes(octets).decode("latin-1")

    def line(self, local: Local) -> int | None:
        """Return the line that V8 has noted in an error when it was made, None when there is none."""
        maybe = self._f.line(self._f.message(self._isolate, local), self._main)
        return (maybe >> 32 or None) if maybe & 1 else None

    def interrupt(self) -> None:
        """Let the isolate's thread call what ``watch`` was given when JavaScript next looks up; for any thread."""
        self._f.request_interrupt(self._isolate, self._interrupt, None)

    def stop(self) -> None:
        """Stop the JavaScript that runs, for any thread; ``go_on`` lets it run again."""
        self._f.terminate(self._isolate)

    def go_on(self) -> None:
        """Let JavaScript run again: after ``stop``, or when it was stopped as it used too much memory."""
        self._f.cancel_terminate(self._isolate)
