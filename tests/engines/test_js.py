"""The JavaScript engine, in both of its ways: hosting the event loop, and called from it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from polykemi.engines import v8
from polykemi.engines.base import Host, Limits
from polykemi.engines.js import JsEngine
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout, SipError, UsageError
from polykemi.kemi.context import Current, Exit, Process, RouteContext
from polykemi.kemi.registry import Registry, Xval, export
from polykemi.kemi.route import Route
from polykemi.modules.base import Module
from tests import support

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


class Blocks:
    """Work for a resident engine: the blocks given, then an end."""

    def __init__(self, engine: JsEngine, blocks: Sequence[RouteContext]) -> None:
        self.engine, self.blocks = engine, list(blocks)
        self.idle: Callable[[], None] = engine.stop

    def next(self) -> RouteContext | None:
        """Return the next block."""
        if self.blocks:
            return self.blocks.pop(0)
        self.idle()
        return None


class Bench:
    """An engine under test, its scripts and what they said."""

    def __init__(self, mode: str, directory: Path) -> None:
        self.mode, self.directory = mode, directory
        self.current = Current()
        self.said: list[Any] = []
        modules = [module(self.said) for module in (Core, Pv, Kx, Tm, Odd, X)]
        self.host = Host(registry=Registry(modules), current=self.current, drive=self.not_driven)
        self.engines: list[JsEngine] = []

    def not_driven(self, process: Generator[RouteContext, None, Any]) -> Any:
        raise AssertionError("V8 pulls a process, nobody drives it")

    def engine(self, source: str = "", limits: Limits | None = None, **host: Any) -> JsEngine:
        """Return a new engine with a script."""
        engine = JsEngine(replace(self.host, limits=limits or Limits(5.0), **host))
        self.engines.append(engine)
        if source:
            engine.load(self.script(source))
        return engine

    def script(self, source: str | bytes, name: str = "script.js") -> Path:
        path = self.directory / name
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return path

    def block(self, callback: str = MAIN, kind: Route = Route.REQUEST) -> RouteContext:
        ctx = support.request_context(MESSAGE, kind=kind)
        ctx.callback = callback
        return ctx

    def run(self, engine: JsEngine, *blocks: RouteContext) -> RouteContext:
        """Run ``blocks``, one by default, and return the last."""
        todo = blocks or (self.block(),)
        if self.mode == "resident":
            loop = asyncio.new_event_loop()
            engine.serve(loop, Blocks(engine, todo))
            loop.close()
        else:
            for ctx in todo:
                self.current.ctx = ctx
                try:
                    engine.call(ctx.callback, ctx.event if ctx.kind == Route.EVENT else None)
                except ScriptError as error:
                    ctx.error = error
                assert self.current.ctx is ctx
                self.current.ctx = None
        return todo[-1]

    def says(self, body: str) -> list[Any]:
        """Run ``body`` as a request route and return what it said."""
        ctx = self.run(self.engine(f"function {MAIN}() {{\n{body}\n}}"))
        assert ctx.error is None, ctx.error
        return self.said


@pytest.fixture(params=["resident", "hosted"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(request.param, tmp_path)
    yield made
    for engine in made.engines:
        engine.close()


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("hosted", tmp_path)
    yield made
    for engine in made.engines:
        engine.close()


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("resident", tmp_path)
    yield made
    for engine in made.engines:
        engine.close()


# ---- values


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('"text"', "text"),
        ("null", "null"),
        ("undefined", "undefined"),
        ("12.5", "12.5"),
        ("true", "true"),
        ("{}", "[object Object]"),
        ('"\\u00e9"', "\u00c3\u00a9"),
        ('"\\ud83d\\ude00"', "\u00f0\u009f\u0098\u0080"),
        ('"\\udcff"', "\u00ff"),
        ('"\\ud800"', "?"),
        ('"x".repeat(100)', "x" * 100),
        ('"\\u4e00".repeat(100)', "\u00e4\u00b8\u0080" * 100),
    ],
)
def test_a_text_parameter_takes_any_value_as_kamailio_does(bench: Bench, given: str, expected: str) -> None:
    assert bench.says(f"KSR.info({given}); KSR.info({given}); KSR.info({given})") == [expected] * 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("42", 42),
        ('"12abc"', 0),
        ('" 12 "', 12),
        ("NaN", 0),
        ("1e12", 2147483647),
        ("-1e12", -2147483648),
        ("-1.9", -1),
        ("null", 0),
        ("undefined", 0),
        ("true", 1),
        ("Infinity", 2147483647),
        ("2147483648", 2147483647),
        ("{valueOf() { return 5; }}", 5),
    ],
)
def test_an_integer_parameter_takes_any_value_as_kamailio_does(bench: Bench, given: str, expected: int) -> None:
    ctx = bench.run(bench.engine(f'function {MAIN}() {{ KSR.pv.seti("n", {given}); }}'))
    assert ctx.cache["n"] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "object:null"),
        (0, "number:0"),
        (-7, "number:-7"),
        (2147483647, "number:2147483647"),
        (2147483648, "number:2147483648"),
        (-(1 << 40), "number:-1099511627776"),
        ("", "string:"),
        ("plain", "string:plain"),
        ("\u00c3\u00a9", "string:\u00c3\u00a9"),
        ("\u00ff broken", "string:\u00ff broken"),
        ("x" * 5000, "string:" + "x" * 5000),
        ("\u00e4\u00b8\u0080" * 70, "string:" + "\u00e4\u00b8\u0080" * 70),
    ],
)
def test_results_come_back_as_the_same_octets(bench: Bench, value: Xval, expected: str) -> None:
    engine = bench.engine(f'function {MAIN}() {{ var v = KSR.pv.get("v"); KSR.info(typeof v + ":" + v); }}')
    blocks = [bench.block() for _ in range(4)]
    for ctx in blocks:
        ctx.cache["v"] = value
    bench.run(engine, *blocks)
    assert bench.said == [expected] * 4


def test_texts_of_megabytes_cross_whole_in_both_directions(bench: Bench) -> None:
    engine = bench.engine(
        f"""function {MAIN}() {{
            var wide = "\\u4e00" + "\\ud83d\\ude00".repeat(300000), narrow = "n".repeat(70000);
            KSR.pv.six(wide, 1, narrow, 2, "short", 3);
            KSR.pv.sets("again", KSR.pv.get("long"));
        }}"""
    )
    ctx = bench.block()
    ctx.cache["long"] = "0123456789" * 100_000 + "\u00c3\u00a9"
    assert bench.run(engine, ctx).error is None
    ((wide, one, narrow, two, short, three),) = bench.said
    assert wide == ("\u4e00" + "\U0001f600" * 300_000).encode().decode("latin-1")
    assert (narrow, short, one, two, three) == ("n" * 70_000, "short", 1, 2, 3)
    assert ctx.cache["again"] == ctx.cache["long"]


def test_a_text_beyond_the_limit_is_an_error_of_the_script(bench: Bench) -> None:
    ctx = bench.run(bench.engine(f'function {MAIN}() {{ KSR.info("x".repeat(20000000)); }}'))
    assert isinstance(ctx.error, ScriptError)
    assert "RangeError" in str(ctx.error)


def test_many_different_texts_cross_unmixed(bench: Bench) -> None:
    body = """
        for (var round = 0; round < 3; round++) for (var i = 0; i < 6000; i++) {
            var text = "key " + i;
            KSR.pv.sets("last", text); KSR.pv.sets("last", text);
            if (KSR.pv.get("last") !== text || KSR.pv.get("last") !== text) KSR.info(text);
        }
    """
    assert bench.says(body) == []


def test_a_conversion_that_calls_ksr_itself_does_not_disturb_the_call(bench: Bench) -> None:
    body = 'KSR.pv.six("a", {valueOf() { KSR.info("inner"); return 1; }}, {toString() { return KSR.pv.get("no") + ""; }}, 2, "e", 3)'
    assert bench.says(body) == ["inner", ("a", 1, "null", 2, "e", 3)]


def test_functions_without_a_result_give_what_kamailio_gives(bench: Bench) -> None:
    assert bench.says('KSR.info("" + KSR.odd.no_value()); KSR.info("" + KSR.info("x"))') == ["false", "x", "0"]


def test_an_export_that_meets_malformed_sip_gives_its_failure(bench: Bench) -> None:
    assert bench.says('KSR.info("" + KSR.odd.bad_sip()); KSR.info("" + KSR.tm.refuse())') == ["-1", "-1"]


# ---- wrong calls


def test_missing_arguments_throw_when_some_were_given(bench: Bench) -> None:
    ctx = bench.run(bench.engine(f'function {MAIN}() {{\n  KSR.pv.sets("a");\n}}'))
    assert isinstance(ctx.error, ScriptError)
    assert ctx.error.cause == "RangeError: invalid stack index 1"
    assert ctx.error.line == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("KSR.pv.get()", ["KSR.pv.get", "argument name", "missing"]),
        ("KSR.set_drop(1)", ["KSR.set_drop", "takes no arguments, 1 given"]),
        ('KSR.pv.get("a", 2, 3, 4, 5, 6, 7)', ["KSR.pv.get", "at most 6 arguments, 7 given"]),
    ],
)
def test_a_refused_call_gives_false_and_logs_function_script_and_line(
    bench: Bench, caplog: pytest.LogCaptureFixture, call: str, words: list[str]
) -> None:
    assert bench.says(f"var a = 1;\nKSR.info('' + {call});") == ["false"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    for word in [*words, f"{bench.directory}/script.js:3"]:
        assert word in record.getMessage()


def test_a_function_that_makes_no_sense_here_fails_and_says_where(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    engine = bench.engine("function onreply() {\n\n  KSR.info('' + KSR.tm.t_relay());\n}")
    bench.run(engine, bench.block("onreply", Route.ONREPLY))
    assert bench.said == ["-1"]
    assert "KSR.tm.t_relay: makes no sense in onreply_route" in caplog.text
    assert "script.js:3" in caplog.text


def test_arguments_beyond_the_last_are_ignored(bench: Bench) -> None:
    assert bench.says('KSR.info("a", "b", 3)') == ["a"]


def test_symbols_are_no_text(bench: Bench) -> None:
    ctx = bench.run(bench.engine(f'function {MAIN}() {{ KSR.info(Symbol("x")); }}'))
    assert isinstance(ctx.error, ScriptError)
    assert ctx.error.cause.startswith("TypeError")


# ---- KSR as scripts see it


def test_modules_that_are_not_loaded_are_absent(bench: Bench) -> None:
    body = """KSR.info([!KSR.auth, !KSR.pv.nothing, typeof KSR_auth, KSR_tm === KSR.tm, typeof KSR_x.exit,
                         Object.keys(KSR.x).join()].join(" "))"""
    assert bench.says(body) == ["true true undefined true function drop,exit"]


def test_scripts_reach_nothing_of_the_runtime(bench: Bench) -> None:
    body = """KSR.info(Object.getOwnPropertyNames(globalThis).filter(function (n) {
        return /^(host|shared|words|entries|boot|load|main|runBlock|Values)$/.test(n); }).join());
        KSR.info(typeof KSR.info.caller + typeof KSR.info.arguments)"""
    with_caller = bench.run(bench.engine(f"function {MAIN}() {{ {body} }}"))
    assert bench.said[0] == ""
    assert with_caller.error is not None or bench.said[1] == "undefinedundefined"


def test_a_script_that_breaks_the_language_does_not_break_the_engine(bench: Bench) -> None:
    source = """
        String.fromCharCode = String = Map = Error = RangeError = Reflect = JSON = Object = Array = null;
        ''.__proto__.charCodeAt = function () { return 1; };
        ''.__proto__.slice = ''.__proto__.indexOf = null;
        new globalThis.Set().constructor.prototype.add = null;
        [].__proto__[Symbol.iterator] = null;
        [].__proto__.map = [].__proto__.push = null;
        /x/.__proto__.exec = null;
        eval = Symbol = null;
        function ksr_request_route() { KSR.info(KSR.pv.get("v") + "!"); KSR.pv.six("a", 1, "b", 2, "c", 3); broken(); }
    """
    engine = bench.engine(source)
    blocks = [bench.block() for _ in range(3)]
    for ctx in blocks:
        ctx.cache["v"] = "some text"
    bench.run(engine, *blocks)
    assert bench.said == ["some text!", ("a", 1, "b", 2, "c", 3)] * 3
    assert isinstance(blocks[-1].error, ScriptError)
    assert blocks[-1].error.line == 10
    engine.load(bench.script("const ksr_request_route = () => KSR.info('next')"))
    bench.run(engine)
    assert bench.said[-1] == "next"


def test_what_a_script_adds_to_ksr_is_gone_after_the_next_load(bench: Bench) -> None:
    engine = bench.engine('KSR.pv.extra = KSR.extra = () => "mine"; KSR.info = null; function a() {}')
    with pytest.raises(ScriptLoadError):
        engine.load(bench.script("nothing.here()", "broken.js"))
    engine.load(bench.script(f"function {MAIN}() {{ KSR.info(typeof KSR.pv.extra + typeof KSR.extra); }}"))
    bench.run(engine)
    assert bench.said == ["undefinedundefined"]


def test_a_constant_function_crosses_once_a_route(bench: Bench) -> None:
    source = f"""function {MAIN}() {{
        var first = KSR.kx.get_method();
        KSR.tm.t_relay();
        KSR.info(first + KSR.kx.get_method() + KSR.kx.get_method() + KSR.kx.get_method());
    }}
    function ksr_branch_manage() {{ KSR.kx.get_method(); KSR.kx.get_method(); }}"""
    first, second = bench.block(), bench.block()
    first.cache["method"], second.cache["method"] = "A", "B"
    bench.run(bench.engine(source), first, second)
    assert bench.said == ["asked", "asked", "relayed", "asked", "AAAA", "asked", "asked", "relayed", "asked", "BBBB"]


def test_a_trace_sees_every_call_even_of_constants(bench: Bench) -> None:
    calls: list[tuple[str, tuple[Any, ...], Any]] = []
    source = f"function {MAIN}() {{ KSR.kx.get_method(); KSR.kx.get_method(); KSR.tm.t_relay(); KSR.pv.seti('n', 5); }}"
    bench.run(bench.engine(source, trace=lambda *call: calls.append(call)))
    assert calls == [
        ("KSR.kx.get_method", (), "OPTIONS"),
        ("KSR.kx.get_method", (), "OPTIONS"),
        ("KSR.tm.t_relay", (), 1),
        ("KSR.pv.seti", ("n", 5), True),
    ]


# ---- ending a route


def test_exit_and_drop_end_the_route_without_an_error(bench: Bench) -> None:
    engine = bench.engine(
        """function stay() { KSR.info("before"); KSR.x.exit(); KSR.info("after"); }
           function gone() { KSR.x.drop(7); KSR.info("after"); }
           function inside() { KSR.odd.leave_from_process(); KSR.info("after"); }"""
    )
    stay, gone, inside = bench.block("stay"), bench.block("gone"), bench.block("inside")
    bench.run(engine, stay, gone, inside)
    assert bench.said == ["before"]
    assert [ctx.error for ctx in (stay, gone, inside)] == [None] * 3
    assert [ctx.dropped for ctx in (stay, gone, inside)] == [False, True, False]


def test_a_catch_all_does_not_let_the_route_go_on_after_exit(bench: Bench) -> None:
    body = 'try { KSR.x.exit(); } catch (e) { KSR.pv.sets("caught", e); } KSR.info("after");'
    engine = bench.engine(f"function {MAIN}() {{ {body} }}")
    first, second = bench.block(), bench.block()
    bench.run(engine, first, second)
    assert (bench.said, first.error, first.cache, second.error) == ([], None, {}, None)


def test_exit_throws_the_text_that_kamailio_throws(bench: Bench) -> None:
    engine = bench.engine(
        f"""var caught;
        function {MAIN}() {{ try {{ KSR.x.exit(); }} catch (e) {{ caught = typeof e + e; }} }}
        function tell() {{ KSR.info(caught); throw "~~ksr~exit~~"; }}"""
    )
    assert bench.run(engine, bench.block(), bench.block("tell")).error is None
    assert bench.said == ["string~~ksr~exit~~"]


# ---- errors


def test_an_error_of_the_script_names_its_file_line_cause_and_stack(bench: Bench) -> None:
    engine = bench.engine(f"function deep() {{\n  nothing.here();\n}}\nfunction {MAIN}() {{\n  deep();\n}}")
    failed, fine = bench.block(), bench.block("deep_but_missing")
    bench.run(engine, failed, fine)
    error = failed.error
    assert isinstance(error, ScriptError)
    assert (error.file, error.line) == (f"{bench.directory}/script.js", 2)
    assert error.cause == "ReferenceError: nothing is not defined"
    assert f"at {MAIN} ({bench.directory}/script.js:5" in error.traceback
    assert "js_runtime" not in error.traceback
    assert fine.error is None


@pytest.mark.parametrize(
    ("thrown", "cause"),
    [
        ('"text"', "text"),
        ("null", "null"),
        ("{toString() { throw 1; }}", "a value that has no text was thrown"),
        ("Object.create(null)", "a value that has no text was thrown"),
        ('Object.defineProperty(new Error("x"), "stack", {get() { throw 2; }})', "Error: x"),
    ],
)
def test_whatever_is_thrown_is_an_error_of_that_route_only(bench: Bench, thrown: str, cause: str) -> None:
    engine = bench.engine(f'function {MAIN}() {{ throw {thrown}; }} function fine() {{ KSR.info("fine"); }}')
    failed, fine = bench.block(), bench.block("fine")
    bench.run(engine, failed, fine)
    assert isinstance(failed.error, ScriptError)
    assert failed.error.cause == cause
    assert (fine.error, bench.said) == (None, ["fine"])


def test_endless_recursion_is_an_error_of_that_route_only(bench: Bench) -> None:
    engine = bench.engine(f'function {MAIN}() {{ {MAIN}(); }} function fine() {{ KSR.info("fine"); }}')
    failed = bench.block()
    bench.run(engine, failed, bench.block("fine"))
    assert "Maximum call stack size exceeded" in str(failed.error)
    assert bench.said == ["fine"]


def test_a_bug_in_an_export_fails_the_route_and_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    ctx = bench.run(bench.engine(f"function {MAIN}() {{\n KSR.odd.crash();\n}}"))
    assert isinstance(ctx.error, ScriptError)
    assert ctx.error.line == 2
    assert "KSR.odd.crash: KeyError: 'not there'" in ctx.error.cause
    assert caplog.records[0].exc_info is not None


def test_a_stack_that_a_script_made_up_is_taken_as_text(bench: Bench) -> None:
    ctx = bench.run(
        bench.engine(f"""function {MAIN}() {{
        var e = new Error("two\\nlines \\ud800"); e.stack = "at ksr:script/99:5:1 at ksr:script/" + "9".repeat(5000) + ":1"; throw e; }}""")
    )
    assert isinstance(ctx.error, ScriptError)
    assert ctx.error.cause == "Error: two lines ?"
    assert "ksr:script/99:5:1" in ctx.error.traceback


def test_async_functions_and_promises_belong_to_their_route_block(bench: Bench) -> None:
    engine = bench.engine(
        f"""async function {MAIN}() {{
            await null; KSR.info("relayed " + KSR.tm.t_relay()); await null; KSR.x.exit(); KSR.info("after");
        }}
        async function ksr_branch_manage() {{ throw new Error("branch"); }}
        async function broken() {{
            await null;
            nothing.here();
        }}
        function later() {{ Promise.resolve("later").then(KSR.info); }}"""
    )
    first, broken, later = bench.block(), bench.block("broken"), bench.block("later")
    bench.run(engine, first, broken, later)
    assert bench.said == ["relayed", "relayed 1", "later"]
    assert (first.error, later.error) == (None, None)
    assert isinstance(broken.error, ScriptError)
    assert broken.error.line == 7


def test_ksr_is_closed_for_what_a_stopped_route_block_left_behind(bench: Bench) -> None:
    engine = bench.engine(
        f"""var failures = [];
        function {MAIN}() {{
            Promise.resolve("late").then(KSR.info).catch(function (e) {{ failures.push(String(e)); }});
            for (;;) {{}}
        }}
        function tell() {{ KSR.info(failures.join()); }}""",
        Limits(0.05),
    )
    bench.run(engine, bench.block(), bench.block("tell"))
    assert bench.said == ["Error: KSR is called when no route block runs"]


# ---- nested blocks


def test_a_branch_route_runs_inside_t_relay_with_its_own_context(bench: Bench) -> None:
    source = f"""function {MAIN}() {{
        KSR.pv.sets("who", "request");
        KSR.info("" + KSR.tm.t_relay());
        KSR.info(KSR.pv.get("who"));
    }}
    function ksr_branch_manage() {{ KSR.info("branch " + KSR.pv.get("who")); KSR.x.drop(); }}"""
    ctx = bench.run(bench.engine(source))
    assert bench.said == ["branch null", "relayed", "-1", "request"]
    assert ctx.cache["block"].dropped
    assert not ctx.dropped


def test_blocks_nest_and_events_get_their_name(bench: Bench) -> None:
    source = f"""function {MAIN}() {{ KSR.info("got " + KSR.tm.run("outer")); }}
    function outer() {{ KSR.info("outer"); KSR.tm.run("inner"); }}
    function inner() {{ KSR.info("inner"); }}
    function on_event(name) {{ KSR.info(name); }}"""
    assert bench.run(bench.engine(source)).error is None
    assert bench.said == ["outer", "inner", "ran:inner", "ran:outer", "got 7"]


def test_a_failing_branch_route_is_reported_and_leaves_the_request_route_unharmed(bench: Bench) -> None:
    reported: list[RouteContext] = []
    source = f"""function {MAIN}() {{ KSR.info("" + KSR.tm.t_relay()); }}
    function ksr_branch_manage() {{
        broken();
    }}"""
    ctx = bench.run(bench.engine(source, report=reported.append))
    assert ctx.error is None
    assert bench.said == ["relayed", "-1"]
    assert reported == [ctx.cache["block"]]
    error = ctx.cache["block"].error
    assert isinstance(error, ScriptError)
    assert error.line == 3


def test_blocks_of_other_engines_are_run_by_the_host(hosted: Bench) -> None:
    ran: list[str] = []
    reported: list[RouteContext] = []

    def run(ctx: RouteContext) -> None:
        ran.append(ctx.callback)
        outer, hosted.current.ctx = hosted.current.ctx, ctx
        try:
            engine.call(MAIN)
        except ScriptError as error:
            ctx.error = error
        hosted.current.ctx = outer

    engine = hosted.engine(
        f"function {MAIN}() {{ KSR.info('' + KSR.tm.t_relay()); }}",
        engine_of=lambda ctx: "lua",
        run=run,
        report=reported.append,
    )
    ctx = hosted.run(engine)
    assert ran == ["ksr_branch_manage"]
    assert hosted.said == ["relayed", "-1"]
    assert reported == [ctx.cache["block"]]
    assert f"{MAIN}: JavaScript is waiting for this call" in str(reported[0].error)


# ---- loading


@pytest.mark.parametrize(
    "source",
    [
        f"function {MAIN}() {{ KSR.info('ran'); }}",
        f"const {MAIN} = function () {{ KSR.info('ran'); }};",
        f"let {MAIN} = () => KSR.info('ran')",
        f"var {MAIN} = function () {{ KSR.info('ran'); }}",
        f"{MAIN} = function () {{ KSR.info('ran'); }}",
        f"this.{MAIN} = function () {{ KSR.info('ran'); }}",
        "globalThis['ksr_' + 'request_route'] = function () { KSR.info('ran'); }",
        f"'use strict'; function {MAIN}() {{ KSR.info('ran'); }} // the end",
        f"#!/usr/bin/env node\nclass K {{}}\nimplicit = 1; function {MAIN}() {{ KSR.info('ran'); }}",
        f"\ufefffunction {MAIN}() {{ KSR.info('ran'); }} //# sourceURL=other.js",
    ],
)
def test_functions_are_found_however_they_are_defined(bench: Bench, source: str) -> None:
    engine = bench.engine(source)
    assert engine.has(MAIN)
    assert MAIN in engine.functions()
    bench.run(engine)
    assert bench.said == ["ran"]


def test_functions_lists_what_the_script_defines_and_nothing_else(hosted: Bench) -> None:
    engine = hosted.engine(
        "function a() {} const b = () => 1, c = 5; var d = function* () {}; class E {} let o = {f: 1}; o.g = a;"
    )
    assert engine.functions() == {"a", "b", "d", "E"}
    assert not engine.has("c")
    assert not engine.has("parseInt")


def test_a_function_that_is_missing_is_not_run(bench: Bench) -> None:
    assert bench.run(bench.engine("var a = 1;"), bench.block("nowhere")).error is None


def test_callbacks_may_have_names_beyond_ascii(bench: Bench) -> None:
    engine = bench.engine("function r\u00e9ponse() { KSR.info('ran'); }")
    bench.run(engine, bench.block("r\u00e9ponse"), bench.block("r\u00e9ponse".encode().decode("latin-1")))
    assert bench.said == ["ran", "ran"]


@pytest.mark.parametrize(
    ("source", "line", "cause"),
    [
        ("function a() {}\nvar x = ;\n", 2, "SyntaxError: Unexpected token ';'"),
        ("function a( {", 1, "SyntaxError"),
        ("function a() {\n", 2, "SyntaxError: Unexpected end of input"),
        ("\n\nreturn 5;", 3, "SyntaxError: Illegal return statement"),
        ("function a() {}\n}); (function () {", 2, "SyntaxError"),
        ("let a = 1;\nlet a = 2;", 2, "SyntaxError: Identifier 'a' has already been declared"),
        ("\n\n\nnothing.here();", 4, "ReferenceError: nothing is not defined"),
        ("function f() {\n  nothing.here();\n}\nf();", 2, "ReferenceError: nothing is not defined"),
        ("\nthrow 'text';", 2, "text"),
        ("\nnew RegExp('(');", 2, "SyntaxError: Invalid regular expression"),
        (b"var a = 1;\n// \xff\n", 2, "is not UTF-8"),
    ],
)
def test_a_script_that_does_not_load_says_file_line_and_cause(
    bench: Bench, source: str | bytes, line: int, cause: str
) -> None:
    engine = bench.engine(f"function {MAIN}() {{ KSR.info('old'); }}")
    path = bench.script(source, "new.js")
    with pytest.raises(ScriptLoadError) as caught:
        engine.load(path)
    assert (caught.value.file, caught.value.line) == (str(path), line)
    assert caught.value.cause.startswith(cause)
    bench.run(engine)
    assert bench.said == ["old"]


def test_a_missing_script_says_so(hosted: Bench) -> None:
    with pytest.raises(ScriptLoadError, match=r"none\.js: No such file or directory"):
        hosted.engine().load(hosted.directory / "none.js")


def test_calls_while_loading_give_false_and_are_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    engine = bench.engine(
        f"\nvar a = KSR.pv.get('x'), b = KSR.pv.sets('y');\nfunction {MAIN}() {{ KSR.info(a + ' ' + b); }}"
    )
    bench.run(engine)
    assert bench.said == ["false false"]
    assert [r.getMessage().rpartition("/")[2] for r in caplog.records] == ["script.js:2"] * 2


def test_a_script_that_never_ends_loading_is_stopped(hosted: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polykemi.engines.js.LOAD_SECONDS", 0.05)
    with pytest.raises(ScriptLoadError, match=r"script\.js: ran longer than 0\.05 s"):
        hosted.engine("for (;;) {}")


def test_a_script_can_be_replaced_while_serving(resident: Bench) -> None:
    engine = resident.engine(f"function {MAIN}() {{ KSR.info('old'); }}")
    new = resident.script(f"function {MAIN}() {{ KSR.info('new'); }}", "new.js")
    broken = resident.script("function (", "broken.js")
    work = Blocks(engine, [resident.block()])
    errors: list[ScriptLoadError] = []
    loop = uvloop.new_event_loop()

    def reload() -> None:
        try:
            engine.load(broken)
        except ScriptLoadError as error:
            errors.append(error)
        engine.load(new)
        work.blocks.append(resident.block())
        work.idle = engine.stop
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=reload)

    def begin() -> None:
        work.idle = lambda: None
        thread.start()

    work.idle = begin
    engine.serve(loop, work)
    thread.join()
    loop.close()
    assert resident.said == ["old", "new"]
    assert errors[0].line == 1


def test_loading_on_the_thread_that_serves_is_refused_and_does_not_hang(resident: Bench) -> None:
    engine = resident.engine(f"function {MAIN}() {{}}")
    work = Blocks(engine, [])
    work.idle = lambda: engine.load(resident.directory / "script.js")
    loop = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="from another"):
        engine.serve(loop, work)
    loop.close()


# ---- limits


def test_a_route_that_runs_too_long_is_stopped_and_the_next_ones_run(bench: Bench) -> None:
    engine = bench.engine(
        f"""function {MAIN}() {{ KSR.info("in"); for (;;) {{ try {{ for (;;) {{}} }} catch (e) {{}} }} }}
        function fine() {{ KSR.info(KSR.pv.get("v")); }}""",
        Limits(0.05),
    )
    blocks = [bench.block("fine"), bench.block(), bench.block("fine"), bench.block(), bench.block("fine")]
    for ctx in blocks:
        ctx.cache["v"] = "fine"
    bench.run(engine, *blocks)
    assert bench.said == ["fine", "in", "fine", "in", "fine"]
    for ctx in blocks[1::2]:
        assert isinstance(ctx.error, ScriptTimeout)
        assert str(ctx.error) == f"{bench.directory}/script.js: ran longer than 0.05 s"
    assert [ctx.error for ctx in blocks[::2]] == [None] * 3


def test_a_branch_route_that_runs_too_long_ends_the_request_route_too(bench: Bench) -> None:
    engine = bench.engine(
        f"function {MAIN}() {{ KSR.tm.t_relay(); KSR.info('on'); }} function ksr_branch_manage() {{ for (;;) {{}} }}",
        Limits(0.05),
    )
    ctx = bench.run(engine)
    assert isinstance(ctx.error, ScriptTimeout)
    assert isinstance(ctx.cache["block"].error, ScriptTimeout)
    assert bench.said == []
    assert bench.run(engine, bench.block("nowhere")).error is None


def test_promises_that_never_end_are_stopped(bench: Bench) -> None:
    engine = bench.engine(
        f"""function {MAIN}() {{ (function again() {{ Promise.resolve().then(again); }})(); }}
        function fine() {{ KSR.info("fine"); }}""",
        Limits(0.05),
    )
    endless = bench.block()
    bench.run(engine, endless, bench.block("fine"))
    assert isinstance(endless.error, ScriptTimeout)
    assert bench.said == ["fine"]


def test_results_are_not_mixed_up_after_a_stop(bench: Bench) -> None:
    engine = bench.engine(
        f"""function {MAIN}() {{ for (;;) KSR.pv.get("v"); }}
        function fine() {{ KSR.info(KSR.pv.get("v") + KSR.pv.get("v") + KSR.pv.get("v")); }}""",
        Limits(0.02),
    )
    blocks = [bench.block(name) for name in (MAIN, "fine") * 5]
    for n, ctx in enumerate(blocks):
        ctx.cache["v"] = f"<{n // 4}>"
    bench.run(engine, *blocks)
    assert bench.said == [f"<{n // 4}>" * 3 for n in range(1, 10, 2)]


def test_a_route_that_needs_too_much_memory_fails_alone(bench: Bench) -> None:
    engine = bench.engine(
        f"""function {MAIN}() {{ var all = []; for (;;) all.push(new Array(1000).fill(all.length)); }}
        function fine() {{ KSR.info("fine"); }}""",
        Limits(30.0, 64 << 20),
    )
    failed, fine = bench.block(), bench.block("fine")
    bench.run(engine, failed, fine)
    assert isinstance(failed.error, ScriptError)
    assert failed.error.cause == "needs more memory than its 67108864 octets"
    assert bench.said == ["fine"]


def test_memory_stays_level_over_many_calls(bench: Bench) -> None:
    engine = bench.engine(
        f"""var n = 0;
        function {MAIN}() {{ for (var i = 0; i < 50; i++) {{ KSR.pv.sets("key", "value " + n++); KSR.pv.get("key"); }} }}"""
    )
    blocks = 300 if bench.mode == "hosted" else 1500

    def resident_octets() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    ctx = bench.block()
    bench.run(engine, *[ctx] * blocks)
    before = resident_octets()
    bench.run(engine, *[ctx] * blocks)
    bench.run(engine, *[ctx] * blocks)
    grown = resident_octets() - before
    assert grown < 40 * 2 * blocks * 100 + (4 << 20)  # 100 octets a call would be lost without the message pump


# ---- life


def test_the_loop_runs_inside_and_stop_ends_it_from_any_thread(resident: Bench) -> None:
    engine = resident.engine(f"function {MAIN}() {{ KSR.info('ran'); }}")
    loop = uvloop.new_event_loop()
    work = Blocks(engine, [])
    work.idle = lambda: None

    async def client() -> None:
        for _ in range(3):
            work.blocks.append(resident.block())
            loop.stop()
            await asyncio.sleep(0)
        threading.Thread(target=engine.stop).start()

    task = loop.create_task(client())
    engine.serve(loop, work)
    loop.run_until_complete(task)
    loop.close()
    assert resident.said == ["ran"] * 3


def test_stop_before_serve_makes_serve_return(resident: Bench) -> None:
    engine = resident.engine("var a;")
    engine.stop()
    work = Blocks(engine, [])
    work.idle = lambda: None
    loop = asyncio.new_event_loop()
    engine.serve(loop, work)
    loop.close()


def test_a_signal_reaches_the_thread_that_serves(resident: Bench) -> None:
    engine = resident.engine("var a;")
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: signal.raise_signal(signal.SIGINT))
    work = Blocks(engine, [])
    work.idle = lambda: None
    with pytest.raises(KeyboardInterrupt):
        engine.serve(loop, work)
    loop.close()


def test_an_error_in_the_work_ends_serve_with_that_error(resident: Bench) -> None:
    engine = resident.engine(f"function {MAIN}() {{ KSR.info('ran'); }}")

    def fail() -> None:
        raise LookupError("broken work")

    work = Blocks(engine, [])
    work.idle = fail
    loop = asyncio.new_event_loop()
    with pytest.raises(LookupError, match="broken work"):
        engine.serve(loop, work)
    loop.close()
    resident.run(engine)
    assert resident.said == ["ran"]


def test_engines_follow_each_other_in_one_process_and_leave_no_thread(bench: Bench) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    for n in range(3):
        engine = bench.engine(f"function {MAIN}() {{ KSR.info('{n}'); }}")
        bench.run(engine)
        bench.engines.pop().close()
    assert bench.said == ["0", "1", "2"]
    assert threads() <= before  # one of an earlier test may have ended meanwhile


def test_the_interpreter_ends_when_an_engine_was_not_closed() -> None:
    program = "from polykemi.engines.v8 import V8\nV8().eval('[]')\nprint('end')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)


def test_another_version_of_mini_racer_is_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.99.0")
    with pytest.raises(UsageError, match=r"needs the package mini-racer==0\.14\.1; 0\.99\.0 is installed"):
        v8.V8()


def test_a_library_without_the_entry_points_is_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v8, "_FUNCTIONS", ("mr_eval", "mr_not_there"))
    with pytest.raises(UsageError, match=r"mini-racer 0\.14\.1 is not as expected: mr_not_there"):
        v8.V8()
