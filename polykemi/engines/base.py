"""The contract of an engine (DESIGN: engines)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from polykemi.kemi.context import Current, RouteContext
from polykemi.kemi.probes import Probes
from polykemi.kemi.registry import Registry, Xval

LOAD_FACTOR: Final = 10.0  # loading a script, with all that it imports, may take ten times as long as a route block


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine may use: seconds of wall time a route block, octets of heap (0: no limit)."""

    seconds: float = 1.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """What an engine is given: the functions to bind and how to run route blocks in the middle of an export."""

    registry: Registry
    current: Current
    drive: Callable[[Generator[RouteContext, None, Any]], Any]  # runs a Process to its end, returns its value
    limits: Limits = Limits()
    path: tuple[str, ...] = ()  # patterns as in Lua's package.path, where modules are besides the script's directory
    strict: bool = False  # a call that cannot be made raises in the script
    probes: Probes = field(default_factory=Probes)  # what sees the calls of KSR functions


class Engine(Protocol):
    """A script language. One instance holds one script; ``load`` again replaces it when the new one loads.

    ``name`` is lua, js or python. Engines are called from the event loop; a ``LoopHost`` may host it instead.
    """

    name: str

    def load(self, path: Path) -> None:
        """Load the script at ``path``. Raise ScriptLoadError with file and line; the running script stays then."""

    def functions(self) -> frozenset[str]:
        """Return the names of the functions that the script defines."""

    def has(self, function: str) -> bool:
        """Tell whether the script defines ``function``."""

    def call(self, function: str, argument: str | None = None) -> None:
        """Call ``function`` with the context that stands in ``Host.current``. Raise ScriptError.

        KSR.x.exit() and KSR.x.drop() end the call normally. A function that is not there is ignored, as in Kamailio. ``argument`` is the event name, None for all other blocks.
        """

    def invoke(self, function: str, arguments: Sequence[str]) -> Xval:
        """Call ``function`` for a script (of any language) and return its number or text; null for all else.

        The context is that of the caller. Raise ScriptError, also when there is no such function.
        """

    def evaluate(self, text: str, *, apart: bool) -> None:
        """Run ``text`` with the globals of the script, or apart from them. Raise ScriptError."""

    def where(self) -> str:
        """Return ``file:line`` of the script's call that is running."""

    def close(self) -> None:
        """Give everything back; the engine is not used afterwards."""


@runtime_checkable
class LoopHost(Engine, Protocol):
    """An engine whose language lives on a thread of its own: to be called cheaply, it runs the event loop there."""

    def serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run ``loop`` until ``stop``."""

    def stop(self) -> None:
        """Make ``serve`` return when the running route block has ended; called on the loop's thread."""
