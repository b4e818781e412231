"""The contract of an engine (DESIGN: engines)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from polykemi.errors import ScriptError, ScriptLoadError
from polykemi.kemi.context import Current, RouteContext
from polykemi.kemi.probes import Probes
from polykemi.kemi.registry import Registry, Xval

# time limits of a route block that loading a script, with all that it imports, may take at the start
_START: Final = 10.0
_RELOAD: Final = 1.0  # seconds that it may take, at least, in a running server


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scripts of one engine may use, and reach."""

    seconds: float = 1.0  # of wall time, a route block; 0: no limit
    memory: int = 0  # octets of heap; 0: no limit
    path: tuple[str, ...] = ()  # patterns as in Lua's package.path, where modules are besides the script's directory
    allow: frozenset[str] = frozenset()  # what they may reach besides KSR (``config.ALLOWED``)


def read_script(path: Path) -> bytes:
    """Return what stands in the file of a script. Raise ScriptLoadError, also for a pipe or a device: all else would wait for it."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ScriptLoadError(str(path), None, "is no file")
        return path.read_bytes()
    except OSError as error:
        raise ScriptLoadError(str(path), None, error.strerror or str(error)) from None


class Loading:
    """How long scripts may take to load: at the start ten times as long as a route block may run.

    In a running server all else waits meanwhile: they have as long as a route block, or a second.
    """

    def __init__(self, *, serving: bool = False) -> None:
        self.serving = serving

    def factor(self, seconds: float) -> float:
        """Return how many times the limit of a route block, ``seconds`` (0.0: none), that is."""
        if not self.serving:
            return _START
        return max(1.0, _RELOAD / seconds) if seconds else 1.0


@dataclass(frozen=True, slots=True)
class Host:
    """What an engine is given: the functions to bind and how to run route blocks in the middle of an export."""

    registry: Registry
    current: Current
    drive: Callable[[Generator[RouteContext, None, Any]], Any]  # runs a Process to its end, returns its value
    limits: Limits = Limits()
    loading: Loading = field(default_factory=Loading)
    strict: bool = False  # a call that cannot be made raises in the script
    nesting: Callable[[], int] = int  # how many route blocks, and calls of scripts, run inside of each other now
    probes: Probes = field(default_factory=Probes)  # what sees the calls of KSR functions


class Script(Protocol):
    """One load of a script: what one version of the routing logic has of this engine.

    Scripts of one engine stand beside each other and share nothing but KSR. They are called from the event loop.
    """

    path: Path

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
        """Give everything back; the script is not called afterwards."""


class Engine(Protocol):
    """A script language; ``name`` is lua, js or python."""

    name: str

    def load(self, path: Path) -> Script:
        """Load the script at ``path``, beside those that run. Raise ScriptLoadError with file and line; nothing changes then.

        Called between two route blocks, on the thread of the event loop once that runs.
        """

    def limit(self, limits: Limits) -> None:
        """Let these hold: the time at once, all of them for scripts that are loaded from now on."""

    def memory(self) -> int:
        """Return how many octets all scripts of this engine hold; 0 where that cannot be told."""

    def close(self) -> None:
        """Give everything back, with all scripts; the engine is not used afterwards."""


@runtime_checkable
class LoopHost(Engine, Protocol):
    """An engine whose language lives on a thread of its own: to be called cheaply, it runs the event loop there."""

    def serve(self, loop: asyncio.AbstractEventLoop, lost: Callable[[ScriptError], None] | None = None) -> None:
        """Run ``loop`` until ``stop``.

        When the language is stuck inside of ``enter`` for good the loop goes on on another thread, with the same scripts:
        ``lost`` is called there with the error of what ran, whose frames stay where they are.
        """

    def enter(self, work: Callable[[], None]) -> None:
        """Do ``work``, which calls scripts; called by a reader of the loop, which ``lost`` has to take for new (``add_reader``)."""

    def stop(self) -> None:
        """Make ``serve`` return when the running route block has ended; called on the loop's thread."""
