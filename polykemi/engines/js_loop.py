"""The event loop goes on on another thread when the one that ran it is stuck in a callback for good.

libuv lets ``uv_run`` be entered inside of a callback of another ``uv_run``, as long as that one never goes on. uvloop does not,
so its libuv is called here without it. What is stuck has to be a reader (``add_reader``), and be added anew: nothing else
of uvloop's works on when a callback of its kind has not come back.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from typing import Any, Final

import uvloop

_UNTIL_STOPPED: Final = 0  # libuv's UV_RUN_DEFAULT


def resumption(loop: asyncio.AbstractEventLoop) -> Callable[[], None] | None:
    """Return what runs ``loop`` until it is stopped while it is stuck on another thread; None where that is not possible."""
    library: Any = uvloop.loop
    if not isinstance(loop, uvloop.Loop) or not hasattr(library, "libuv_get_loop_t_ptr"):
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    try:
        run = ctypes.CDLL(library.__file__)["uv_run"]
        handle = ctypes.c_void_p(pointer(library.libuv_get_loop_t_ptr(loop), None))
    except (AttributeError, OSError, ValueError):
        return None

    def resume() -> None:
        asyncio._set_running_loop(loop)
        stuck = asyncio.current_task(loop)
        if stuck is not None:
            asyncio.tasks._leave_task(loop, stuck)
        try:
            run(handle, _UNTIL_STOPPED)
        finally:
            asyncio._set_running_loop(None)

    return resume
