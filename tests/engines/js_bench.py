"""What the tests of the JavaScript engine share: exports with no server behind them, and both ways to run blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polykemi.engines.base import Host, Limits
from polykemi.engines.js import JsEngine
from polykemi.engines.js_script import JsScript
from polykemi.errors import ScriptError, SipError
from polykemi.kemi.context import Current, Exit, Process, RouteContext
from polykemi.kemi.registry import Registry, Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module
from tests import support
from tests.waiting import until

MESSAGE = support.message("OPTIONS sip:alice@example.test SIP/2.0")
MAIN = "ksr_request_route"


class Fake(Module):
    """Exports with no server behind them; ``said`` holds what scripts have passed."""

    def __init__(self, said: list[Any]) -> None:
        self.said = said


class Core(Fake):
    name = ""

    @export()
    def info(self, ctx: RouteContext, text: str) -> None:
        """Keep ``text``."""
        self.said.append(text)

    @export()
    def set_drop(self, ctx: RouteContext) -> None:
        """Mark the block as dropped."""
        ctx.dropped = True


class Pv(Fake):
    name = "pv"

    @export()
    def get(self, ctx: RouteContext, name: str) -> Xval:
        """Return what ``ctx.cache`` has."""
        value: Xval = ctx.cache.get(name)
        return value

    @export()
    def sets(self, ctx: RouteContext, name: str, value: str) -> bool:
        """Set a text."""
        ctx.cache[name] = value
        return True

    @export()
    def seti(self, ctx: RouteContext, name: str, value: int) -> bool:
        """Set a number."""
        ctx.cache[name] = value
        return True

    @export()
    def six(self, ctx: RouteContext, a: str, b: int, c: str, d: int, e: str, f: int) -> int:
        """Keep all arguments."""
        self.said.append((a, b, c, d, e, f))
        return 6


class Kx(Fake):
    name = "kx"

    @export(constant=True)
    def get_method(self, ctx: RouteContext) -> Xval:
        """Return the method, and keep that this was asked."""
        self.said.append("asked")
        return ctx.cache.get("method", "OPTIONS")  # type: ignore[no-any-return]

    @export(by_method=True)
    def is_method(self, ctx: RouteContext, method: str) -> bool:
        """Compare the method, and keep that this was asked."""
        self.said.append(f"is {method}")
        return ctx.method == method


class Tm(Fake):
    name = "tm"

    @export(routes=Route.REQUEST)
    def t_relay(self, ctx: RouteContext) -> Process[int]:
        """Run a branch route."""
        block = RouteContext(Route.BRANCH, "ksr_branch_manage", ctx.message, ctx.flow, ctx.now)
        ctx.cache["block"] = block
        yield block
        self.said.append("relayed")
        return -1 if block.error or block.dropped else 1

    @export()
    def run(self, ctx: RouteContext, name: str) -> Process[int]:
        """Run the branch route ``name``, and then an event route."""
        ctx.cache[name] = RouteContext(Route.BRANCH, name, ctx.message, ctx.flow, ctx.now)
        yield ctx.cache[name]
        event = RouteContext(Route.EVENT, "on_event", ctx.message, ctx.flow, ctx.now)
        event.event = f"ran:{name}"
        yield event
        return 7

    @export()
    def refuse(self, ctx: RouteContext) -> Process[int]:
        """Fail as a process, as malformed SIP does."""
        yield from ()
        raise SipError(400, "Bad")


class Odd(Fake):
    name = "odd"

    @export()
    def crash(self, ctx: RouteContext) -> int:
        """Fail as a bug of ours would."""
        raise KeyError("not there")

    @export()
    def bad_sip(self, ctx: RouteContext) -> int:
        """Fail as malformed SIP does."""
        raise SipError(400, "Bad")

    @export()
    def leave_from_process(self, ctx: RouteContext) -> Process[int]:
        """End the route from inside a process."""
        yield from ()
        raise Exit

    @export()
    def no_value(self, ctx: RouteContext) -> None:
        """Give nothing."""


class X(Fake):
    name = "x"

    @export()
    def exit(self, ctx: RouteContext) -> None:
        """End the block."""
        raise Exit

    @export()
    def drop(self, ctx: RouteContext) -> None:
        """Mark as dropped and end the block."""
        ctx.dropped = True
        raise Exit


class Bench:
    """An engine under test, its scripts and what they said."""

    def __init__(self, mode: str, directory: Path) -> None:
        self.mode, self.directory = mode, directory
        self.current = Current()
        self.said: list[Any] = []
        self.modules: list[Fake] = [module(self.said) for module in (Core, Pv, Kx, Tm, Odd, X)]
        self.host = Host(registry=Registry(self.modules), current=self.current, drive=self.drive)
        self.engines: list[JsEngine] = []
        self.scripts: list[JsScript] = []

    def drive(self, process: Generator[RouteContext, None, Any]) -> Any:
        """Run a process with the blocks that it wants, as the router does."""
        try:
            while True:
                self.run_block(self.scripts[-1], process.send(None))
        except StopIteration as end:
            return end.value

    @property
    def engine(self) -> JsEngine:
        """The engine that was made last."""
        return self.engines[-1]

    def load(self, source: str | bytes, limits: Limits | None = None, **host: Any) -> JsScript:
        """Return a script of a new engine; it runs the blocks that an export wants."""
        self.engines.append(JsEngine(replace(self.host, limits=limits or Limits(5.0), **host)))
        return self.also(source)

    def also(self, source: str | bytes, name: str = "script.js") -> JsScript:
        """Return one more script of that engine; it runs the blocks that an export wants from now on."""
        script = self.engine.load(self.file(source, name))
        self.scripts.append(script)
        return script

    def file(self, source: str | bytes, name: str = "script.js") -> Path:
        path = self.directory / name
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return path

    def block(self, callback: str = MAIN, kind: Route = Route.REQUEST) -> RouteContext:
        ctx = support.request_context(MESSAGE, kind=kind)
        ctx.callback = callback
        return ctx

    def run(self, script: JsScript, *blocks: RouteContext) -> RouteContext:
        """Run ``blocks``, one by default, and return the last."""
        todo = blocks or (self.block(),)
        if self.mode == "resident":
            self.serve(lambda: self.run_blocks(script, todo))
        else:
            self.run_blocks(script, todo)
        return todo[-1]

    def run_blocks(self, script: JsScript, blocks: Sequence[RouteContext]) -> None:
        """Run ``blocks`` from this thread."""
        for ctx in blocks:
            self.run_block(script, ctx)
        assert self.current.ctx is None

    def run_block(self, script: JsScript, ctx: RouteContext) -> None:
        """Run one block from this thread; its error goes into it."""
        outer, self.current.ctx = self.current.ctx, ctx
        try:
            script.call(ctx.callback, ctx.event if ctx.kind == Route.EVENT else None)
        except ScriptError as error:
            ctx.error = error
        assert self.current.ctx is ctx
        self.current.ctx = outer

    def serve(self, *work: Callable[[], object]) -> None:
        """Let the engine serve a loop in which ``work`` is done, one call after the other; the last is ``stop``."""
        loop = asyncio.new_event_loop()
        failures: list[BaseException] = []

        def do(index: int) -> None:
            try:
                work[index]()
            except BaseException as failure:  # noqa: BLE001
                failures.append(failure)
            if failures or index + 1 == len(work):
                self.engine.stop()
            else:
                loop.call_soon(do, index + 1)

        loop.call_soon(do, 0)
        self.engine.serve(loop)
        loop.close()
        if failures:
            raise failures[0]

    def says(self, body: str) -> list[Any]:
        """Run ``body`` as a request route and return what it said."""
        ctx = self.run(self.load(f"function {MAIN}() {{\n{body}\n}}"))
        assert ctx.error is None, ctx.error
        return self.said

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


def benches(mode: str, directory: Path) -> Iterator[Bench]:
    """Yield one bench, for a fixture."""
    bench = Bench(mode, directory)
    yield bench
    bench.close()
    # what was given up takes a processor from the tests behind it, and counts as this process's time
    lost = [one for engine in bench.engines for one in engine._lost]
    until(lambda: all(one.gate.is_reached for one in lost), "the end of what V8 was given up in")
