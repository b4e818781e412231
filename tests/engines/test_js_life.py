"""The life of the JavaScript engine: loading, limits, the event loop inside, the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from polykemi.engines import v8
from polykemi.engines.base import Limits
from polykemi.engines.js_script import JsScript
from polykemi.engines.js_values import NULL, OCTETS, PIECES, SIZE, TEXTS, Values
from polykemi.errors import WEDGED, ScriptError, ScriptLoadError, ScriptMemory, ScriptTimeout, UsageError
from tests.engines.js_bench import MAIN, Bench, benches
from tests.waiting import PATIENCE


@pytest.fixture(params=["resident", "hosted"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """An engine that hosts the event loop, and one that is called from it."""
    yield from benches(request.param, tmp_path)


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
    script = bench.load(source)
    assert script.has(MAIN)
    assert MAIN in script.functions()
    bench.run(script)
    assert bench.said == ["ran"]


def test_functions_lists_what_the_script_defines_and_nothing_else(hosted: Bench) -> None:
    script = hosted.load(
        "function a() {} const b = () => 1, c = 5; var d = function* () {}; class E {} let o = {f: 1}; o.g = a;"
    )
    assert script.functions() == {"a", "b", "d", "E"}
    assert not script.has("c")
    assert not script.has("parseInt")


def test_a_function_that_is_missing_is_not_run(bench: Bench) -> None:
    assert bench.run(bench.load("var a = 1;"), bench.block("nowhere")).error is None


def test_callbacks_may_have_names_beyond_ascii(bench: Bench) -> None:
    script = bench.load("function r\u00e9ponse() { KSR.info('ran'); }")
    bench.run(script, bench.block("r\u00e9ponse"), bench.block("r\u00e9ponse".encode().decode("latin-1")))
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
        ("\nthrow 'text';", None, "text"),
        ("\nnew RegExp('(');", 2, "SyntaxError: Invalid regular expression"),
        (b"var a = 1;\n// \xff\n", 2, "is not UTF-8"),
    ],
)
def test_a_script_that_does_not_load_says_file_line_and_cause(
    bench: Bench, source: str | bytes, line: int | None, cause: str
) -> None:
    script = bench.load(f"function {MAIN}() {{ KSR.info('old'); }}")
    path = bench.file(source, "new.js")
    with pytest.raises(ScriptLoadError) as caught:
        bench.engine.load(path)
    assert (caught.value.file, caught.value.line) == (str(path), line)
    assert caught.value.cause.startswith(cause)
    bench.run(script)
    assert bench.said == ["old"]


def test_a_missing_script_says_so(hosted: Bench) -> None:
    hosted.load("")
    with pytest.raises(ScriptLoadError, match=r"none\.js: No such file or directory"):
        hosted.engine.load(hosted.directory / "none.js")


def test_calls_while_loading_give_false_and_are_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    script = bench.load(
        f"\nvar a = KSR.pv.get('x'), b = KSR.pv.sets('y');\nfunction {MAIN}() {{ KSR.info(a + ' ' + b); }}"
    )
    bench.run(script)
    assert bench.said == ["false false"]
    assert [r.getMessage().rpartition("/")[2] for r in caplog.records] == ["script.js:2"] * 2


def test_a_script_that_never_ends_loading_is_stopped_and_the_others_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polykemi.engines.base._START", 2.0)
    script = bench.load(f"function {MAIN}() {{ KSR.info('old'); }}", Limits(0.2))
    errors: list[str] = []

    def load() -> None:
        try:
            bench.also("for (;;) {}", "endless.js")
        except ScriptLoadError as error:
            errors.append(str(error))

    if bench.mode == "resident":
        bench.serve(load, lambda: bench.run_blocks(script, [bench.block()]))
    else:
        load()
        bench.run(script)
    assert errors == [f"{bench.directory}/endless.js:1: time limit reached: ran longer than 0.4 s"]
    assert bench.said == ["old"]


def test_a_script_that_needs_too_much_memory_to_load_is_refused(bench: Bench) -> None:
    script = bench.load(f"function {MAIN}() {{ KSR.info('old'); }}", Limits(5.0, 64 << 20))
    with pytest.raises(ScriptLoadError, match=r"script\.js: memory limit reached: more than 67108864 octets"):
        bench.also("var all = []; for (;;) all.push(new Array(1000).fill(0));")
    bench.run(script)
    assert bench.said == ["old"]


def test_a_script_that_is_ready_when_its_time_is_over_is_loaded(hosted: Bench) -> None:
    script = hosted.load(f"function {MAIN}() {{ KSR.info('ran'); }}")
    run = hosted.engine.isolate.run

    def load() -> str:
        run.stop(run.outermost)
        return "loaded"

    assert hosted.engine.hand_over("new.js", lambda: run.load("new.js", load, 0.0)) == "loaded"
    hosted.run(script)
    assert hosted.said == ["ran"]


def test_scripts_stand_beside_each_other_and_go_one_by_one_while_serving(resident: Bench) -> None:
    old = resident.load(f"const name = 'old'; function {MAIN}() {{ KSR.info(name); }}")
    errors: list[ScriptLoadError] = []
    new: list[JsScript] = []

    def load() -> None:
        new.append(
            resident.also(f"const name = 'new'; function {MAIN}() {{ KSR.info(name); }} function more() {{}}", "new.js")
        )
        try:
            resident.also("\nfunction (", "broken.js")
        except ScriptLoadError as error:
            errors.append(error)

    def run() -> None:
        for script in (old, new[0], old):
            resident.run_blocks(script, [resident.block()])

    def close() -> None:
        old.close()
        old.close()
        assert not old.has(MAIN)
        resident.run_blocks(old, [resident.block()])
        resident.run_blocks(new[0], [resident.block()])

    resident.serve(load, run, close)
    assert resident.said == ["old", "new", "old", "new"]
    assert [(error.file, error.line) for error in errors] == [(f"{resident.directory}/broken.js", 2)]
    assert (old.path.name, new[0].path.name) == ("script.js", "new.js")
    assert new[0].functions() == {MAIN, "more"}


def test_a_script_that_another_thread_closes_while_serving_is_freed_on_the_loops(resident: Bench) -> None:
    script = resident.load(f"function {MAIN}() {{}}")
    open_, threads = resident.engine.isolate._realms._open, list[int]()
    free = script.free

    def watched() -> None:
        threads.append(threading.get_ident())
        free()

    script.free = watched  # type: ignore[method-assign]

    def close() -> None:
        thread = threading.Thread(target=script.close)
        thread.start()
        thread.join()
        assert script.realm in open_

    def closed() -> None:
        assert script.realm not in open_
        assert threads == [threading.get_ident()]

    resident.serve(close, closed)
    assert threads


def test_scripts_see_nothing_of_each_other(bench: Bench) -> None:
    old = bench.load(
        f"""implicit = "old"; globalThis.more = 1; KSR.mine = KSR.pv.mine = 1; KSR.info = null;
        String.prototype.trim = () => "broken"; Array.prototype.map = null; Object.prototype.all = 1;
        function {MAIN}() {{ KSR.pv.sets("told", [implicit, " a ".trim(), typeof KSR.mine].join()); }}"""
    )
    new = bench.also(
        f"""function {MAIN}() {{
            KSR.info([typeof implicit, typeof more, typeof KSR.mine, typeof KSR.pv.mine, " a ".trim(), ({{}}).all, typeof {MAIN}x].join());
        }}"""
    )
    first, second, third = (bench.block() for _ in range(3))
    bench.run(old, first)
    bench.run(new, second)
    bench.run(old, third)
    assert second.error is None
    assert bench.said == ["undefined,undefined,undefined,undefined,a,,undefined"]
    assert first.cache["told"] == third.cache["told"] == "old,broken,number"


def test_texts_that_one_script_has_numbered_are_the_same_in_another(bench: Bench) -> None:
    source = f"""function {MAIN}() {{ for (var i = 0; i < 3; i++) KSR.pv.sets("k", KSR.pv.get("v") + "!"); }}"""
    one, two = bench.load(source), bench.also(source)
    for n in range(6):
        ctx = bench.block()
        ctx.cache["v"] = "even" if n % 2 else "odd"
        bench.run(two if n % 3 else one, ctx)
        assert ctx.cache["k"] == ctx.cache["v"] + "!"


def test_the_memory_of_a_script_goes_when_it_is_closed(hosted: Bench) -> None:
    source = f"var junk = new Array(100000).fill(0.5).map((v, i) => v * i); leak = junk; function {MAIN}() {{}}"
    hosted.load(source, Limits(5.0, 24 << 20))
    for _ in range(200):  # 160 MB in all
        script = hosted.engine.load(hosted.directory / "script.js")
        assert hosted.run(script).error is None
        script.close()
    kept = [hosted.engine.load(hosted.directory / "script.js") for _ in range(5)]
    with pytest.raises(ScriptLoadError, match="memory"):
        kept += [hosted.engine.load(hosted.directory / "script.js") for _ in range(50)]


@pytest.mark.parametrize(
    "code",
    [
        'eval("%DebugPrint(1)")',
        'new Function("%DebugPrint(1)")',
        'require("./natives")',
        '(0, eval)("%GetOptimizationStatus(1)")',
    ],
)
def test_scripts_have_no_syntax_of_v8s_own(bench: Bench, code: str) -> None:
    (bench.directory / "natives.js").write_text("%DebugPrint(1)")
    assert bench.says(f"try {{ {code}; KSR.info('ran'); }} catch (e) {{ KSR.info(e.name); }}") == ["SyntaxError"]


def test_a_script_is_not_loaded_inside_of_a_route_block(bench: Bench) -> None:
    causes: list[str] = []

    def load(process: object) -> int:
        with pytest.raises(ScriptLoadError) as caught:
            bench.also("")
        causes.append(caught.value.cause)
        return 1

    if bench.mode == "resident":
        script = bench.load(f"function {MAIN}() {{ KSR.tm.t_relay(); KSR.info('on'); }}", drive=load)
        assert bench.run(script).error is None
        assert causes == ["a script cannot be loaded inside of a route block"]
        assert bench.said == ["on"]


def test_loading_from_another_thread_while_serving_is_refused_and_does_not_hang(resident: Bench) -> None:
    resident.load(f"function {MAIN}() {{}}")
    errors: list[ScriptError] = []

    def load() -> None:
        try:
            resident.engine.load(resident.directory / "script.js")
        except ScriptError as error:
            errors.append(error)

    def from_another_thread() -> None:
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()

    resident.serve(from_another_thread)
    assert "JavaScript runs on another thread" in str(errors[0])


def test_the_engine_tells_what_memory_its_scripts_hold(bench: Bench) -> None:
    bench.load("var a;")
    before = bench.engine.memory()
    bench.also("var all = new Array(1000000).fill(0.5).map((v, i) => v * i), octets = new ArrayBuffer(4000000);")
    assert 0 < before < 64 << 20
    assert bench.engine.memory() - before >= 12_000_000


# ---- limits


def test_a_route_that_runs_too_long_is_stopped_and_the_next_ones_run(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ KSR.info("in"); for (;;) {{ try {{ for (;;) {{}} }} catch (e) {{}} }} }}
        function fine() {{ KSR.info(KSR.pv.get("v")); }}""",
        Limits(0.2),
    )
    blocks = [bench.block("fine"), bench.block(), bench.block("fine"), bench.block(), bench.block("fine")]
    for ctx in blocks:
        ctx.cache["v"] = "fine"
    bench.run(script, *blocks)
    assert bench.said == ["fine", "in", "fine", "in", "fine"]
    for ctx in blocks[1::2]:
        assert isinstance(ctx.error, ScriptTimeout)
        place = f"{bench.directory}/script.js:1"
        assert str(ctx.error) == f"{place}: time limit reached: ran longer than 0.2 s, after KSR.info"
    assert [ctx.error for ctx in blocks[::2]] == [None] * 3


def test_a_branch_route_that_runs_too_long_ends_the_request_route_too(bench: Bench) -> None:
    script = bench.load(
        f"function {MAIN}() {{ KSR.tm.t_relay(); KSR.info('on'); }} function ksr_branch_manage() {{ for (;;) {{}} }}",
        Limits(0.2),
    )
    ctx = bench.run(script)
    assert isinstance(ctx.error, ScriptTimeout)
    assert isinstance(ctx.cache["block"].error, ScriptTimeout)
    assert bench.said == ["relayed"]
    assert bench.run(script, bench.block("nowhere")).error is None


def test_promises_that_never_end_are_stopped(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ (function again() {{ Promise.resolve().then(again); }})(); }}
        function fine() {{ KSR.info("fine"); }}""",
        Limits(0.2),
    )
    endless = bench.block()
    bench.run(script, endless, bench.block("fine"))
    assert isinstance(endless.error, ScriptTimeout)
    assert bench.said == ["fine"]


def test_results_are_not_mixed_up_after_a_stop(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ for (;;) KSR.pv.get("v"); }}
        function fine() {{ KSR.info(KSR.pv.get("v") + KSR.pv.get("v") + KSR.pv.get("v")); }}""",
        Limits(0.2),
    )
    blocks = [bench.block(name) for name in (MAIN, "fine") * 3]
    for n, ctx in enumerate(blocks):
        ctx.cache["v"] = f"<{n // 4}>"
    bench.run(script, *blocks)
    assert bench.said == [f"<{n // 4}>" * 3 for n in range(1, 6, 2)]


def test_a_result_is_sent_whole_until_javascript_has_kept_it() -> None:
    shared = memoryview(bytearray(SIZE))
    values, noted = Values(shared), shared[76:80].cast("i")
    assert [values.put("text") for _ in range(3)] == [OCTETS, OCTETS, OCTETS]
    noted[0] = values.words[2]
    assert [values.put("text") for _ in range(2)] == [TEXTS, TEXTS]
    values.stopped(1, nested=False)
    assert values.put("text") == TEXTS
    assert [values.put("more") for _ in range(2)] == [OCTETS, OCTETS]
    assert values.words[2] == 1
    values.stopped(1, nested=False)  # before it has kept it
    assert values.put("other") == OCTETS
    assert values.put("more") == OCTETS


def test_what_a_stopped_load_has_not_taken_is_no_argument_of_the_next_block() -> None:
    values = Values(memoryview(bytearray(SIZE)))
    values.words[4] = values.put("a source" * 100_000)
    assert values.words[4] == PIECES
    values.stopped(1, nested=False)
    assert values.words[4] == NULL
    values.rest()
    assert values.words[1] == 0


def test_a_long_text_crosses_in_a_time_that_grows_with_its_length() -> None:
    values = Values(memoryview(bytearray(SIZE)))
    began, length, pieces = time.process_time(), 32 << 20, 0
    assert values.put("x" * length) == PIECES
    while size := values.words[1]:
        pieces += size
        values.rest()
    assert pieces == length
    assert time.process_time() - began < 3  # where the rest was copied with each piece it took 10 s


def test_a_route_that_needs_too_much_memory_fails_alone(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ var all = []; for (;;) all.push(new Array(1000).fill(all.length)); }}
        function fine() {{ KSR.info("fine"); }}""",
        Limits(30.0, 64 << 20),
    )
    failed, fine = bench.block(), bench.block("fine")
    bench.run(script, failed, fine)
    assert isinstance(failed.error, ScriptMemory)
    assert failed.error.cause == "memory limit reached: more than 67108864 octets"
    assert bench.said == ["fine"]


def test_memory_is_looked_at_when_the_limit_is_reached_and_then_after_half_as_much_again(
    hosted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted.load("", Limits(5.0, 100 << 20))
    v8 = hosted.engine.isolate.v8
    used, seen = [0], list[str]()
    monkeypatch.setattr(v8.native, "used", lambda: used[0] << 20)
    for name in ("interrupt", "collect", "stop"):
        monkeypatch.setattr(v8.native, name, lambda name=name: seen.append(name))
    for used[0] in (50, 100, 101):  # garbage was collected
        v8._collected()
    assert seen == ["interrupt"]
    used[0] = 75  # live
    v8._looked_up()
    for used[0] in (101, 125, 126):
        v8._collected()
    assert seen == ["interrupt", "collect", "interrupt"]
    used[0] = 101
    v8._looked_up()
    assert seen == ["interrupt", "collect", "interrupt", "collect", "stop"]
    assert v8.out_of_memory
    for used[0] in (40, 101):  # what was stopped has let go of it
        v8._collected()
    assert seen[5:] == ["interrupt"]


def test_v8_takes_no_more_than_half_as_much_again_and_what_it_needs_to_stop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    collected = v8.V8._collected

    def collect(isolate: v8.V8) -> None:
        used.append(isolate.native.used() >> 20)
        collected(isolate)

    monkeypatch.setattr(v8.V8, "_collected", collect)
    script = bench.load(
        f"function {MAIN}() {{ const all = []; for (;;) all.push(new Array(1000).fill(0)); }}", Limits(30.0, 64 << 20)
    )
    for _ in range(3):
        assert isinstance(bench.run(script).error, ScriptMemory)
    assert max(used) < 160  # where V8 has its own limit it does not look before 350


def test_more_may_live_when_the_limit_is_raised(hosted: Bench) -> None:
    source = (
        f"const all = []; function {MAIN}() {{ for (let i = 0; i < 8000; i++) all.push(new Array(1000).fill(i)); }}"
    )
    script = hosted.load(source, Limits(30.0, 24 << 20))
    assert isinstance(hosted.run(script).error, ScriptMemory)
    hosted.engine.limit(Limits(30.0, 100 << 20))
    assert hosted.run(script).error is None
    hosted.engine.limit(Limits(30.0, 24 << 20))
    assert isinstance(hosted.run(script).error, ScriptMemory)


def test_a_script_that_hoards_in_globals_is_started_anew_with_the_modules_that_it_was_loaded_with(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    (bench.directory / "name.js").write_text("module.exports = 'first'")
    script = bench.load(
        f"""const all = [], name = require("./name");
        function {MAIN}() {{ for (;;) all.push(new Array(1000).fill(all.length)); }}
        function tell() {{ KSR.info(name + all.length); }}""",
        Limits(30.0, 32 << 20),
    )
    other = bench.also(f"function {MAIN}() {{ KSR.info('other'); }}", "other.js")
    (bench.directory / "name.js").write_text("module.exports = 'second'")
    for _ in range(3):
        failed = bench.block()
        bench.run(script, failed, bench.block("tell"))
        assert isinstance(failed.error, ScriptMemory)
        bench.run(other)
    assert bench.said == ["first0", "other"] * 3
    assert "script is started anew" in caplog.text
    assert bench.engine.memory() < 16 << 20


def test_symbols_with_a_name_go_with_the_script_that_has_made_them(bench: Bench) -> None:
    script = bench.load(
        f"let n = 0; function {MAIN}() {{ for (;;) Symbol.for('x'.repeat(1000) + n++); }}", Limits(30.0, 24 << 20)
    )
    assert isinstance(bench.run(script).error, ScriptMemory)
    assert bench.engine.memory() < 12 << 20


def test_a_script_that_hoards_is_started_anew_even_if_time_stops_it(bench: Bench) -> None:
    script = bench.load(
        f"""const all = [];
        function {MAIN}() {{ for (var i = 0; i < 1000; i++) all.push(new Array(1000).fill(i)); for (;;) {{}} }}
        function tell() {{ KSR.info(""  + all.length); }}""",
        Limits(0.2, 12 << 20),
    )
    blocks = [bench.block(name) for name in (MAIN, MAIN, MAIN, MAIN, "tell")]
    bench.run(script, *blocks)
    assert len(bench.said) == 1
    assert int(bench.said[0]) < 4000


@pytest.mark.parametrize(
    "code",
    [
        "const all = []; for (;;) all.push(new Uint8Array(1000000));",
        "new ArrayBuffer(2 ** 33)",
        "new Float64Array(50000000)",
        "const all = []; for (;;) { const b = new ArrayBuffer(1000); all.push(b.transfer(1000000)); }",
    ],
)
def test_buffers_count_as_memory(bench: Bench, code: str) -> None:
    script = bench.load(
        f"function {MAIN}() {{ {code} }} function fine() {{ KSR.info('fine'); }}", Limits(30.0, 32 << 20)
    )
    failed = bench.block()
    bench.run(script, failed, bench.block("fine"))
    assert isinstance(failed.error, ScriptError)
    assert isinstance(failed.error, ScriptMemory) or "RangeError" in failed.error.cause
    assert bench.said == ["fine"]


def test_a_block_that_is_stopped_after_calls_of_ksr_fails(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ KSR.pv.six("a", 1, "b", 2, "c", 3); const all = []; for (;;) all.push([all.length]); }}""",
        Limits(30.0, 32 << 20),
    )
    assert isinstance(bench.run(script).error, ScriptMemory)
    assert bench.said == [("a", 1, "b", 2, "c", 3)]


def test_what_is_not_allowed_is_not_there_and_what_is_allowed_is(bench: Bench) -> None:
    (bench.directory.parent / "above.js").write_text("module.exports = 'above'")
    body = "KSR.info([typeof SharedArrayBuffer, typeof WebAssembly].join()); KSR.info(require('../above'));"
    source = f"function {MAIN}() {{ {body} }}"
    assert "Cannot find module" in str(bench.run(bench.load(source)).error)
    assert bench.run(bench.load(source, Limits(5.0, allow=frozenset({"files", "wasm"})))).error is None
    assert bench.said == ["undefined,undefined", "undefined,object", "above"]


def test_an_engine_that_has_nothing_to_do_is_not_stuck(resident: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polykemi.engines.js._LAST_PATIENCE", 0.0)
    resident.load("var a;", Limits(0.05))
    before = resident.engine.isolate
    loop = uvloop.new_event_loop()
    loop.call_later(0.3, resident.engine.stop)
    resident.engine.serve(loop)
    loop.close()
    assert resident.engine.isolate is before


WEDGED_PROGRAM = """
import pathlib, sys
from polykemi.engines import js
from polykemi.engines.base import Limits
from tests.engines.js_bench import MAIN, Bench
js._MOST_LOST, js._LAST_PATIENCE = 0, 0.25
bench = Bench(sys.argv[1], pathlib.Path(sys.argv[2]))
# it would take V8 half a minute
script = bench.load("function ksr_request_route() { const a = 2n ** (2n ** 29n) - 1n; a * a; }", Limits(0.1))
bench.run(script)
"""


@pytest.mark.parametrize("mode", ["resident", "hosted"])
def test_an_engine_that_was_stuck_too_often_ends_the_process_with_a_status_of_its_own(
    mode: str, tmp_path: Path
) -> None:
    parts = [os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])]  # tests too, in the form that is tested
    done = subprocess.run(
        [sys.executable, "-c", WEDGED_PROGRAM, mode, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, parts))},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == WEDGED, done.stderr
    assert f"{tmp_path}/script.js: {MAIN} has been stuck in native code for" in done.stderr


def test_memory_stays_level_over_many_calls(resident: Bench) -> None:
    script = resident.load(f"function {MAIN}() {{ for (var i = 0; i < 20; i++) KSR.odd.no_value(); }}")
    blocks = [resident.block()] * 1000
    octets: list[int] = []

    def run() -> None:
        resident.run_blocks(script, blocks)
        octets.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    resident.serve(*[run] * 60)
    assert octets[-1] - octets[10] < 4 << 20


# ---- life


def test_the_loop_runs_inside_and_stop_ends_it_from_any_thread(resident: Bench) -> None:
    script = resident.load(f"function {MAIN}() {{ KSR.info('ran'); }}")
    loop = uvloop.new_event_loop()

    async def client() -> None:
        for _ in range(3):
            resident.run_blocks(script, [resident.block()])
            await asyncio.sleep(0)
        threading.Thread(target=resident.engine.stop).start()

    task = loop.create_task(client())
    resident.engine.serve(loop)
    loop.run_until_complete(task)
    loop.close()
    assert resident.said == ["ran"] * 3


def test_the_loop_goes_on_when_v8s_message_pump_has_had_its_turn(
    resident: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polykemi.engines.js_script._PAUSES", 1)
    script = resident.load(f"function {MAIN}() {{ KSR.info('ran'); KSR.tm.run('{MAIN}x'); }} function {MAIN}x() {{}}")
    resident.serve(*[lambda: resident.run_blocks(script, [resident.block()] * 3)] * 5)
    assert resident.said == ["ran"] * 15


def test_stop_before_serve_makes_serve_return(resident: Bench) -> None:
    resident.load("var a;")
    resident.engine.stop()
    loop = asyncio.new_event_loop()
    resident.engine.serve(loop)
    loop.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also in a process of the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_signal_reaches_the_thread_that_serves(resident: Bench) -> None:
    resident.load("var a;")
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        resident.engine.serve(loop)
    loop.close()


@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_the_route_block_that_is_waited_for(hosted: Bench) -> None:
    script = hosted.load(
        f"function {MAIN}() {{ KSR.info('in'); for (;;) {{}} }} function fine() {{ KSR.info('fine'); }}"
    )

    class Said(list[str]):
        def append(self, text: str) -> None:
            super().append(text)
            signal.raise_signal(signal.SIGINT) if text == "in" else None

    hosted.said = said = Said()
    for module in hosted.modules:
        module.said = said
    with pytest.raises(KeyboardInterrupt):
        hosted.run(script)
    hosted.current.ctx = None
    hosted.run(script, hosted.block("fine"))
    assert said == ["in", "fine"]


def test_what_ends_the_loop_ends_serve_with_that_error(resident: Bench) -> None:
    script = resident.load(f"function {MAIN}() {{ KSR.info('ran'); }}")

    def fail() -> None:
        raise SystemExit("broken")

    loop = asyncio.new_event_loop()
    loop.call_soon(fail)
    with pytest.raises(SystemExit, match="broken"):
        resident.engine.serve(loop)
    loop.close()
    resident.run(script)
    assert resident.said == ["ran"]


def test_engines_follow_each_other_in_one_process_and_leave_no_thread(bench: Bench) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    for n in range(3):
        script = bench.load(f"function {MAIN}() {{ KSR.info('{n}'); }}")
        bench.run(script)
        bench.engines.pop().close()
    assert bench.said == ["0", "1", "2"]
    assert threads() <= before  # one of an earlier test may have ended meanwhile


def test_the_interpreter_ends_when_an_engine_was_not_closed() -> None:
    program = "from polykemi.engines.v8 import V8\nV8().on_thread(lambda: None)\nprint('end')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)


def test_another_version_of_mini_racer_is_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.99.0")
    with pytest.raises(UsageError, match=r"needs the package mini-racer==0\.14\.1; 0\.99\.0 is installed"):
        v8.V8()


def test_a_library_without_the_entry_points_is_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v8, "_FUNCTIONS", ("mr_eval", "mr_not_there"))
    with pytest.raises(UsageError, match=r"mini-racer 0\.14\.1 is not as expected: mr_not_there"):
        v8.V8()


def test_a_library_without_v8s_own_interface_is_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v8, "NAMES", ("_ZN2v88Function8NotThereEv",))
    with pytest.raises(UsageError, match=r"mini-racer 0\.14\.1 is not as expected: _ZN2v88Function8NotThereEv"):
        v8.V8()
