"""How often the count hook of a Lua state comes: every so many instructions, or at the next one.

A hook that counts instructions comes too late where each instruction takes long (a loop that copies a large string). LuaJIT lets
any thread set the hook at any time (``lua_sethook`` is safe in a signal handler), and lupa runs Lua without the GIL.
"""

from __future__ import annotations

import ctypes
from typing import Final

from lupa import luajit21

_MASK_COUNT: Final = 8  # LUA_MASKCOUNT
_AT_ONCE: Final = 1  # instructions

_lua: Final = ctypes.PyDLL(luajit21.__file__)
_lua.lua_gethook.argtypes, _lua.lua_gethook.restype = [ctypes.c_void_p], ctypes.c_void_p
_lua.lua_sethook.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]


class Pace:
    """Of the hook of one Lua state; ``address`` is what Lua's tostring gives for a thread of it that lives as long."""

    def __init__(self, address: str, instructions: int) -> None:
        self._state = int(address.partition("0x")[2], 16)
        self._instructions = instructions
        self.hurried = False

    def hurry(self) -> None:
        """Let the hook come at the next instruction; called on any thread."""
        self.hurried = True
        self._set(_AT_ONCE)

    def relax(self) -> None:
        """Let it come every so many instructions again; called by the hook."""
        self.hurried = False
        self._set(self._instructions)

    def _set(self, instructions: int) -> None:
        _lua.lua_sethook(self._state, _lua.lua_gethook(self._state), _MASK_COUNT, instructions)
