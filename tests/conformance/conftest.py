"""One script in three languages on the bare engines: a module of test exports, a context, and what the script saw."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polykemi.engines import ENGINES, make_engine
from polykemi.engines.base import Engine, Host, Limits, Script
from polykemi.errors import ScriptError, SipError
from polykemi.kemi.context import Current, Exit, Process, RouteContext
from polykemi.kemi.registry import Data, Registry, Xval, export
from polykemi.kemi.route import Route
from polykemi.sip.flow import Flow, Listener
from polykemi.sip.message import parse
from polykemi.testing.harness import Call, recorder

EXTENSIONS = {"lua": "lua", "js": "js", "python": "py"}
FLOW = Flow(Listener("udp", "192.0.2.1", 5060), "192.0.2.10", 5062)
OPTIONS = parse(
    b"OPTIONS sip:bob@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK1\r\n"
    b"From: <sip:alice@example.test>;tag=1\r\nTo: <sip:bob@example.test>\r\nCall-ID: c1\r\nCSeq: 1 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)
RINGING = parse(
    b"SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:alice@example.test>;tag=1\r\n"
    b"To: <sip:bob@example.test>;tag=2\r\nCall-ID: c1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
)

# show(...) tells the test what the script holds; one line, so that the script begins on line 2
_SHOW = {
    "lua": (
        'local function show(...) for i = 1, select("#", ...) do local v = select(i, ...) local t = type(v) KSR.lab.saw('
        't == "nil" and "null" or t == "number" and "num " .. v or t == "string" and "str " .. v '
        'or t == "boolean" and tostring(v) or t) end end'
    ),
    "js": (
        'function show() { for (const v of arguments) KSR.lab.saw(v === null ? "null" : typeof v == "number" ? "num " + v '
        ': typeof v == "string" ? "str " + v : typeof v == "boolean" ? String(v) : typeof v) }'
    ),
    "python": (
        "import KSR; show = lambda *vs: [KSR.lab.saw('null' if v is None else str(v).lower() if isinstance(v, bool) "
        "else f'num {v}' if isinstance(v, int) else f'str {v}' if isinstance(v, str) else type(v).__name__) for v in vs]"
    ),
}
_FUNCTION = {
    "lua": "function {name}()\n{body}\nend",
    "js": "function {name}() {{\n{body}\n}}",
    "python": "def {name}():\n{body}",
}


class Ending:
    """KSR.x."""

    name = "x"

    @export(name="exit")
    def exit_(self, ctx: RouteContext) -> None:
        """End the route block."""
        raise Exit

    @export()
    def drop(self, ctx: RouteContext) -> None:
        """Drop and end the route block."""
        ctx.dropped = True
        raise Exit


class Core:
    """Functions that stand on KSR itself."""

    name = ""

    @export()
    def is_OPTIONS(self, ctx: RouteContext) -> bool:  # noqa: N802
        """Tell whether the request is an OPTIONS."""
        return ctx.method == "OPTIONS"


class Lab:
    """KSR.lab: one export for every shape of signature, which keep what they were given."""

    name = "lab"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.given: list[tuple[Any, ...]] = []

    @export()
    def saw(self, ctx: RouteContext, text: str) -> None:
        """Tell the test what the script sees."""
        self.seen.append(text)

    @export()
    def number(self, ctx: RouteContext, value: int) -> int:
        """Return ``value``."""
        self.given.append((value,))
        return value

    @export()
    def zero(self, ctx: RouteContext) -> int:
        """Return 0, as a handled retransmission does."""
        return 0

    @export()
    def flag(self, ctx: RouteContext, value: int) -> bool:
        """Return whether ``value`` is not 0."""
        return value != 0

    @export()
    def text(self, ctx: RouteContext, value: str) -> Xval:
        """Return ``value``."""
        self.given.append((value,))
        return value

    @export()
    def late(self, ctx: RouteContext) -> int:
        """Take longer than a route block may that has a twentieth of a second."""
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            pass
        return 1

    @export()
    def null(self, ctx: RouteContext) -> Xval:
        """Return null."""
        return None

    @export()
    def xnumber(self, ctx: RouteContext) -> Xval:
        """Return an integer as xval."""
        return 42

    @export()
    def octets(self, ctx: RouteContext) -> Xval:
        """Return octets that are no UTF-8."""
        return "a\xff\xe4b"

    @export()
    def name_(self, ctx: RouteContext) -> Xval:
        """Return a name in UTF-8."""
        return "J\xc3\xbcrgen \xe2\x82\xac"

    @export()
    def data(self, ctx: RouteContext, kind: str) -> Data:
        """Return lists and dictionaries, null or a text."""
        if kind == "two":
            return [{"name": ["J\xc3\xbcrgen", "a\xffb"]}, {"count": [7], "\xc3\xbc": "x"}, []]
        return "\xc3\xbc" if kind == "text" else None

    @export()
    def none(self, ctx: RouteContext) -> None:
        """Give nothing, take nothing."""
        self.given.append(())

    @export()
    def pair(self, ctx: RouteContext, first: int, second: str) -> int:
        """Take an integer and a text."""
        self.given.append((first, second))
        return 1

    @export()
    def six(self, ctx: RouteContext, a: int, b: str, c: int, d: str, e: int, f: str) -> int:
        """Take as many parameters as KEMI knows."""
        self.given.append((a, b, c, d, e, f))
        return 6

    @export()
    def leave(self, ctx: RouteContext) -> int:
        """End the route block, as some functions of modules do."""
        raise Exit

    @export()
    def refuse(self, ctx: RouteContext, kind: str) -> int:
        """Fail as an int function with a SIP error."""
        raise SipError(400, kind)

    @export()
    def refuse_bool(self, ctx: RouteContext) -> bool:
        """Fail as a bool function with a SIP error."""
        raise SipError(400, "bool")

    @export()
    def refuse_xval(self, ctx: RouteContext) -> Xval:
        """Fail as an xval function with a SIP error."""
        raise SipError(400, "xval")

    @export()
    def broken(self, ctx: RouteContext) -> int:
        """Fail as no export should."""
        raise ZeroDivisionError("a bug in a module")

    @export(routes=Route.BRANCH | Route.FAILURE)
    def in_branch(self, ctx: RouteContext) -> int:
        """Make sense in branch and failure routes only."""
        return 1

    @export()
    def block(self, ctx: RouteContext, callback: str) -> Process[int]:
        """Run the route block ``callback`` and return what became of it: 1, 2 dropped, -1 failed."""
        nested = RouteContext(Route.BRANCH, callback, ctx.message, ctx.flow, ctx.now)
        yield nested
        self.seen.append(f"block {callback} over")
        return -1 if nested.error is not None else 2 if nested.dropped else 1


class Bench:
    """An engine with the lab, and scripts for it: ``script`` whole ones, ``route`` the bodies of ksr_request_route."""

    def __init__(
        self,
        name: str,
        directory: Path,
        limits: Limits,
        *,
        strict: bool = False,
        allow: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.lab = Lab()
        self.calls: list[Call] = []
        self.current = Current()
        self.directory = directory
        self.path = directory / f"route.{EXTENSIONS[name]}"
        host = Host(
            registry=Registry([Core(), Ending(), self.lab]),
            current=self.current,
            drive=self._drive,
            limits=replace(limits, allow=allow),
            strict=strict,
        )
        host.probes.watch(recorder(self.calls))
        self.engine: Engine = make_engine(name, host)
        self.loaded: Script  # the last one

    def pick(self, **by_engine: Any) -> Any:
        """Return what is meant for this engine."""
        return by_engine[self.name]

    @property
    def seen(self) -> list[str]:
        """What the script showed since the last call of this."""
        seen, self.lab.seen = self.lab.seen, []
        return seen

    @property
    def given(self) -> list[tuple[Any, ...]]:
        """What exports were given since the last call of this."""
        given, self.lab.given = self.lab.given, []
        return given

    # ---- scripts
    def script(self, **by_engine: str) -> None:
        """Load a script; its first line is line 2 of the file."""
        text = textwrap.dedent(by_engine[self.name]).strip("\n")
        self.path.write_text(f"{_SHOW[self.name]}\n{text}\n", "utf-8")
        before = getattr(self, "loaded", None)
        self.loaded = self.engine.load(self.path)
        if before is not None:
            before.close()

    def route(self, **by_engine: str) -> None:
        """Load and run a ksr_request_route with this body, whose first line is line 3 of the file."""
        body = textwrap.indent(textwrap.dedent(by_engine[self.name]).strip("\n"), "    ")
        self.script(**{self.name: _FUNCTION[self.name].format(name="ksr_request_route", body=body)})
        self.call()

    def values(self, *expressions: str) -> list[str]:
        """Return what the script sees as the value of each expression; they read alike in all three languages."""
        self.route(**dict.fromkeys(ENGINES, "\n".join(f"show({e})" for e in expressions)))
        return self.seen

    def call(
        self, function: str = "ksr_request_route", event: str | None = None, message: Any = OPTIONS
    ) -> RouteContext:
        """Run one route block and return its context. Raise ScriptError."""
        kind = Route.EVENT if event is not None else Route.REQUEST if message.is_request else Route.REPLY
        ctx = RouteContext(kind, function, message, FLOW, 1_800_000_000.0)
        self.current.ctx = ctx
        try:
            self.loaded.call(function, event)
        finally:
            self.current.ctx = None
        return ctx

    def _run(self, ctx: RouteContext) -> None:
        outer, self.current.ctx = self.current.ctx, ctx
        try:
            self.loaded.call(ctx.callback)
        except ScriptError as error:
            ctx.error = error
        finally:
            self.current.ctx = outer

    def _drive(self, process: Process[Any]) -> Any:
        try:
            while True:
                self._run(process.send(None))
        except StopIteration as end:
            return end.value


MakeBench = Callable[..., Bench]


@pytest.fixture(params=list(ENGINES))
def make_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeBench]:
    """Make benches of one engine with limits of their own."""
    made: list[Bench] = []

    def make(*, strict: bool = False, **limits: Any) -> Bench:
        made.append(Bench(request.param, tmp_path, Limits(**limits), strict=strict))
        return made[-1]

    yield make
    for bench in made:
        bench.engine.close()


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """One engine with generous limits."""
    return make_bench(seconds=5.0)
