"""Running route blocks: in the engine that the configuration names, in the version that a message began with.

A block may run inside of another one's export; a script may call functions of a script in another language.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from polykemi import memory
from polykemi.engines.base import Script
from polykemi.errors import ScriptError, ScriptMemory, ScriptTimeout
from polykemi.kemi.context import Process, RouteContext
from polykemi.kemi.registry import Xval
from polykemi.kemi.route import ROUTE_NAMES, Route
from polykemi.kemi.route_stats import LIMIT, BlockStats, RouteStats
from polykemi.modules.base import Services
from polykemi.sip.flow import Flow
from polykemi.sip.message import Message
from polykemi.versions import Version

log = logging.getLogger("polykemi.router")


class Onlooker(Protocol):
    """Who looks at messages and their route blocks (``log.watch``, `polykemi trace`)."""

    def follow(self, process: Process[None], message: Message, flow: Flow, now: float) -> Process[None]:
        """A message has come in: return its process, or one around it.

        It runs to its end without another one between, so what holds from its begin to its end holds for this message alone.
        """

    def malformed(self, data: bytes, flow: Flow, cause: str, *, answered: bool) -> None:
        """Something has come in that is no proper message: it was dropped, or refused with an answer (``answered``)."""

    def began(self, ctx: RouteContext) -> None:
        """A route block begins; it may be inside of another one, or run by a timer."""

    def ended(self, ctx: RouteContext, seconds: float) -> None:
        """It has ended."""

    def sent(self, items: list[tuple[bytes, Flow]]) -> None:
        """A turn ends: what was stored is committed, ``items`` leave next."""


class Blocks:
    """What runs route blocks for one server (``modules.base.Routes``)."""

    def __init__(self, services: Services, clock: Callable[[], float] = time.perf_counter) -> None:
        self.services = services
        self.stats = RouteStats()
        self.version: Version  # that what begins now is routed by
        self.depth = services.limits.depth
        self.last_error: Exception | None = None  # of a script, in a rehearsal
        self.onlookers: tuple[Onlooker, ...] = ()
        self._reloaded = False  # there may be messages of other versions
        self._clock = clock
        self._ran: RouteContext | None = None  # what was given out last
        self._stack: list[str] = []  # engines that run now, the innermost last

    def lost(self, error: ScriptError) -> None:
        """The thread that runs blocks is stuck for good: what it runs has failed with ``error``, on this one all goes on."""
        if self._stack and self._ran is not None:
            self._ran.error = error
        self._stack = []
        self.services.current.ctx = None

    def take(self, version: Version) -> None:
        """Route what begins from now on by ``version``."""
        self.version = version
        self._reloaded = self._reloaded or version.number > 1

    def run(self, ctx: RouteContext) -> None:
        """Run one block in the engine that the configuration names for it; a failing script sets ``ctx.error``."""
        clock = self._clock
        stack = self._stack
        current = self.services.current
        outer = current.ctx
        shared = ctx.shared
        version = shared.version
        if version is None:
            version = shared.version = self.version if outer is None else outer.shared.version
        block = self.block(version, ctx.kind, ctx.callback)
        name = block.engine
        if stack and self._cannot_enter(name, ctx):
            return
        depth = len(stack)
        stack.append(name)
        current.ctx = ctx
        onlookers = self.onlookers
        if onlookers:
            for onlooker in onlookers:
                onlooker.began(ctx)
        began = clock()
        try:
            version.scripts[name].call(ctx.callback, ctx.event or None)
        except ScriptError as error:
            ctx.error = error
        finally:
            seconds = clock() - began
            block.add(seconds)
            if onlookers:
                for onlooker in onlookers:
                    onlooker.ended(ctx, seconds)
            current.ctx = outer
            del stack[depth:]  # what ran inside may have been lost with its thread

    def block(self, version: Version, kind: Route, callback: str) -> BlockStats:
        """Return the counters of a block, and with them the name of its engine, in ``version``."""
        blocks = version.blocks
        block: BlockStats | None = blocks.get((kind._value_, callback))
        if block is None:
            block = self.stats.of(kind, callback, version.routes.engine_for(kind, callback))
            if len(blocks) < LIMIT:
                blocks[kind._value_, callback] = block
        return block

    def nesting(self) -> int:
        """Return how many route blocks, and calls of scripts, run inside of each other now; asked for on any thread."""
        return len(self._stack)

    def _cannot_enter(self, name: str, ctx: RouteContext) -> bool:
        """Tell whether no block may run in the engine ``name`` inside of those that run now; ``ctx.error`` says why."""
        stack = self._stack
        if len(stack) >= self.depth:
            ctx.error = ScriptError(
                self.where() or name, None, f"{ctx.callback}: more than {self.depth} route blocks inside each other"
            )
            return True
        if name in stack and stack[-1] != name:
            cause = f"{ctx.callback}: {name} is waiting for {stack[-1]}: cannot be entered again"
            ctx.error = ScriptError(name, None, cause)
            return True
        return False

    def drive(self, process: Process[Any]) -> Any:
        """Run a Process, with the blocks that it asks for, to its end and return its value."""
        try:
            while True:
                ctx = process.send(None)
                self.run(ctx)
                if ctx.error is not None:
                    self.report(ctx)
        except StopIteration as end:
            return end.value

    def defines(self, kind: Route, callback: str, version: Any = None) -> bool:
        """Tell whether the script that runs blocks of this kind has the function (``modules.base.Routes``)."""
        if version is None:
            version = self._version_here()
        script: Script = version.scripts[self.block(version, kind, callback).engine]
        return script.has(callback)

    def _version_here(self) -> Version:
        """Return the version of the block that runs, the current one where none does."""
        ctx = self.services.current.ctx
        version: Version | None = ctx.shared.version if ctx is not None else None
        return version if version is not None else self.version

    # ---- calls from one script into another
    def invoke(self, engine: str, function: str, arguments: Sequence[str]) -> Xval:
        """Call a function of the script of ``engine`` (``modules.base.Routes``)."""
        return self._enter(engine, function, lambda entered: entered.invoke(function, arguments))

    def evaluate(self, engine: str, text: str, *, apart: bool) -> int:
        """Run ``text`` in ``engine`` (``modules.base.Routes``)."""
        done = self._enter(engine, "a text", lambda entered: entered.evaluate(text, apart=apart))
        return -1 if done == -1 else 1

    def _enter(self, name: str, what: str, work: Callable[[Script], Xval]) -> Xval:
        """Do ``work`` in another engine, on the message of the block that runs; -1 when it fails."""
        stack, scripts = self._stack, self._version_here().scripts
        try:
            if name not in scripts:
                raise ScriptError(name, None, f"{what}: [engines] names no script for {name}")
            if name in stack and stack[-1] != name:
                raise ScriptError(name, None, f"{what}: {name} is waiting for {stack[-1]}: cannot be entered again")
            if len(stack) >= self.depth:
                raise ScriptError(self.where(), None, f"{what}: more than {self.depth} calls inside each other")
            depth = len(stack)
            stack.append(name)
            try:
                return work(scripts[name])
            finally:
                del stack[depth:]  # see ``run``
        except ScriptError as error:
            self.services.count("core.failed_calls")
            log.error("script error in %s, called at %s: %s", what, self.where(), error, extra={"error": error})
            return -1

    def context(self) -> RouteContext | None:
        """Return the context that is worked on: of the block that runs, else of the last one of the message."""
        return self.services.current.ctx or self._ran

    def look(self, onlooker: Onlooker, on: bool) -> None:
        """Let ``onlooker`` see what comes from now on, or no more."""
        others = tuple(one for one in self.onlookers if one is not onlooker)
        self.onlookers = (*others, onlooker) if on else others

    def where(self) -> str:
        """Return ``file:line`` of the script's call that is running; empty when none is."""
        return self._version_here().scripts[self._stack[-1]].where() if self._stack else ""

    def read(self, engine: str, name: str) -> str | None:
        """Return the file ``name`` beside the script of ``engine``, one character an octet (``modules.base.Routes``)."""
        script = self._version_here().scripts.get(engine)
        if script is None or "\0" in name:
            return None
        directory = script.path.parent.resolve()
        path = (directory / os.fsdecode(name.encode("latin-1"))).resolve()
        try:
            return path.read_bytes().decode("latin-1") if path.is_relative_to(directory) else None
        except OSError:
            return None

    def report(self, ctx: RouteContext) -> None:
        """Log and count a script error."""
        error = ctx.error
        if error is None:
            return
        self.block(ctx.shared.version, ctx.kind, ctx.callback).fail(error)
        if self.services.is_rehearsal:  # elsewhere its traceback would keep the version that it happened in
            self.last_error = error
        self.services.count("core.script_errors")
        if isinstance(error, ScriptTimeout):
            self.services.count("core.script_timeouts")
        elif isinstance(error, ScriptMemory):
            self.services.count("core.script_memory")
        if isinstance(error, (ScriptMemory, ScriptTimeout)):
            memory.give_back()
        about = {"about": ctx, "error": error}
        log.error("script error in %s %s: %s", ROUTE_NAMES[ctx.kind], ctx.callback, error, extra=about)
