"""How much the values of a Python script take: what its modules refer to, and what that refers to in turn."""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final

MOST: Final = 50_000  # objects that are looked at: some milliseconds

# code, and what belongs to others
_FOREIGN: Final = (
    type,
    types.BuiltinFunctionType,
    types.CodeType,
    types.FrameType,
    types.FunctionType,
    types.MethodType,
    types.ModuleType,
    types.TracebackType,
)


def held(modules: Iterable[ModuleType]) -> int:
    """Return how many octets the values take that ``modules`` hold, at least: the first ``MOST`` of them are counted.

    Functions, classes and modules are not, nor what the server has lent (messages, say).
    """
    waiting: deque[Any] = deque()
    for module in modules:
        waiting.extend(value for name, value in vars(module).items() if not name.startswith("__"))
    seen: set[int] = set()
    octets = 0
    while waiting and len(seen) < MOST:
        one = waiting.popleft()
        if id(one) in seen or isinstance(one, _FOREIGN) or type(one).__module__.partition(".")[0] == "polykemi":
            continue
        seen.add(id(one))
        octets += sys.getsizeof(one, 0)
        if gc.is_tracked(one):
            waiting.extend(gc.get_referents(one))
    return octets
