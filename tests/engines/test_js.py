"""JavaScript as scripts see it: values, KSR, the end of a route, errors, blocks inside blocks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polykemi.engines.base import Host, Limits
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.kemi.binding import as_int
from polykemi.kemi.probes import Probes
from polykemi.kemi.registry import Registry, Xval
from polykemi.kemi.route import Route
from polykemi.modules.core import Core
from polykemi.testing.harness import Call, recorder
from tests import support
from tests.engines.js_bench import MAIN, Bench, Pv, benches


@pytest.fixture(params=["resident", "hosted"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """An engine that hosts the event loop, and one that is called from it."""
    yield from benches(request.param, tmp_path)


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Bench]:
    """An engine that is called from the event loop."""
    yield from benches("hosted", tmp_path)


# ---- values


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('"text"', "text"),
        ("null", ""),
        ("undefined", ""),
        ("12n", "12"),
        ("12.5", "12.5"),
        ("true", "true"),
        ('"\\u00e9"', "\u00c3\u00a9"),
        ('"\\ud83d\\ude00"', "\u00f0\u009f\u0098\u0080"),
        ('"\\udcff"', "\u00ff"),
        ('"\\ud800"', "?"),
        ('"x".repeat(100)', "x" * 100),
        ('"\\u4e00".repeat(100)', "\u00e4\u00b8\u0080" * 100),
    ],
)
def test_a_text_parameter_takes_what_converts(bench: Bench, given: str, expected: str) -> None:
    assert bench.says(f"KSR.info({given}); KSR.info({given}); KSR.info({given})") == [expected] * 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("42", 42),
        ('" 12 "', 12),
        ("1e12", 2147483647),
        ("-1e12", -2147483648),
        ("-1.9", -1),
        ("true", 1),
        ("2147483648", 2147483647),
    ],
)
def test_an_integer_parameter_takes_what_converts(bench: Bench, given: str, expected: int) -> None:
    ctx = bench.run(bench.load(f'function {MAIN}() {{ KSR.pv.seti("n", {given}); }}'))
    assert ctx.cache["n"] == expected


@pytest.mark.parametrize("value", ["0x10", "-0x10", "+0X1f", "\\t1.5e1\\n", ".5", "5.", "1e3"])
def test_a_number_in_a_text_is_the_number_that_it_is_in_other_languages(bench: Bench, value: str) -> None:
    ctx = bench.run(bench.load(f'function {MAIN}() {{ KSR.pv.seti("n", "{value}"); }}'))
    assert ctx.cache["n"] == as_int(value.replace("\\t", "\t").replace("\\n", "\n"), str)


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
    script = bench.load(f'function {MAIN}() {{ var v = KSR.pv.get("v"); KSR.info(typeof v + ":" + v); }}')
    blocks = [bench.block() for _ in range(4)]
    for ctx in blocks:
        ctx.cache["v"] = value
    bench.run(script, *blocks)
    assert bench.said == [expected] * 4


def test_texts_of_megabytes_cross_whole_in_both_directions(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{
            var wide = "\\u4e00" + "\\ud83d\\ude00".repeat(300000), narrow = "n".repeat(70000);
            KSR.pv.six(wide, 1, narrow, 2, "short", 3);
            KSR.pv.sets("again", KSR.pv.get("long"));
        }}"""
    )
    ctx = bench.block()
    ctx.cache["long"] = "0123456789" * 100_000 + "\u00c3\u00a9"
    assert bench.run(script, ctx).error is None
    ((wide, one, narrow, two, short, three),) = bench.said
    assert wide == ("\u4e00" + "\U0001f600" * 300_000).encode().decode("latin-1")
    assert (narrow, short, one, two, three) == ("n" * 70_000, "short", 1, 2, 3)
    assert ctx.cache["again"] == ctx.cache["long"]


def test_a_block_without_an_argument_gets_none_whatever_was_called_before(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}(...given) {{ KSR.info(`${{given.length}}`); KSR.pv.six("a", 1, "b", 2, "c", 3); KSR.tm.run("branch"); }}
        function branch(...given) {{ KSR.info(`${{given.length}}`); }}"""
    )
    bench.run(script, bench.block(), bench.block())
    assert [one for one in bench.said if isinstance(one, str)] == ["0"] * 4


def test_a_text_beyond_the_limit_is_an_error_of_the_script(bench: Bench) -> None:
    ctx = bench.run(bench.load(f'function {MAIN}() {{ KSR.info("x".repeat(20000000)); }}'))
    assert isinstance(ctx.error, ScriptError)
    assert "RangeError" in str(ctx.error)


def test_nothing_crosses_of_a_call_with_a_text_beyond_the_limit(hosted: Bench) -> None:
    source = f"""function {MAIN}() {{ KSR.pv.six("x".repeat(70000), 1, "x".repeat(4000000).repeat(5).slice(1), 2, "e", 3); }}"""
    source = source.replace('"x".repeat(4000000).repeat(5).slice(1)', "long")
    script = hosted.load(f"let long = 'x'; for (let i = 0; i < 25; i++) long += long; {source}")
    assert "RangeError" in str(hosted.run(script).error)
    assert not hosted.engine.isolate.values._pieces


def test_many_different_texts_cross_unmixed(bench: Bench) -> None:
    body = """
        for (var round = 0; round < 3; round++) for (var i = 0; i < 6000; i++) {
            var text = "key " + i;
            KSR.pv.sets("last", text); KSR.pv.sets("last", text);
            if (KSR.pv.get("last") !== text || KSR.pv.get("last") !== text) KSR.info(text);
        }
    """
    assert bench.says(body) == []


@pytest.mark.parametrize(
    "value",
    [
        '"12abc"',
        '"0b11"',
        '"0o7"',
        '"1_0"',
        '"\\u00a05"',
        '""',
        '"."',
        "NaN",
        "null",
        "undefined",
        "Infinity",
        "{valueOf() { return 5; }}",
    ],
)
def test_an_integer_parameter_refuses_what_does_not_convert(bench: Bench, value: str) -> None:
    assert bench.says(f'KSR.info("" + KSR.pv.seti("n", {value}))') == ["false"]


def test_values_are_converted_without_calls_into_the_script(bench: Bench) -> None:
    body = 'KSR.pv.six("a", 1, {toString() { KSR.info("inner"); return "x"; }}, 2, "e", 3)'
    assert bench.says(body) == []


def test_functions_without_a_result_give_what_kamailio_gives(bench: Bench) -> None:
    assert bench.says('KSR.info("" + KSR.odd.no_value()); KSR.info("" + KSR.info("x"))') == ["false", "x", "false"]


def test_an_export_that_meets_malformed_sip_gives_its_failure(bench: Bench) -> None:
    assert bench.says('KSR.info("" + KSR.odd.bad_sip()); KSR.info("" + KSR.tm.refuse())') == ["-1", "-1"]


# ---- wrong calls


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("KSR.pv.get()", ["KSR.pv.get", "argument name", "got nothing"]),
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


def test_calls_that_do_not_fit_leave_nothing_behind(hosted: Bench) -> None:
    probes = Probes()
    script = hosted.load(f"function {MAIN}() {{ KSR.pv.get(); KSR.info(Symbol()); }}", probes=probes)
    hosted.run(script)
    before = len(probes._probes)
    hosted.run(script, hosted.block(), hosted.block())
    assert len(probes._probes) == before


def test_a_function_that_makes_no_sense_here_fails_and_says_where(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    script = bench.load("function onreply() {\n\n  KSR.info('' + KSR.tm.t_relay());\n}")
    bench.run(script, bench.block("onreply", Route.ONREPLY))
    assert bench.said == ["-1"]
    assert "KSR.tm.t_relay: makes no sense in onreply_route" in caplog.text
    assert "script.js:3" in caplog.text


def test_arguments_beyond_the_last_are_ignored(bench: Bench) -> None:
    assert bench.says('KSR.info("a", "b", 3)') == ["a"]


def test_symbols_and_objects_are_no_text(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.says('KSR.info("" + KSR.info(Symbol("x"))); KSR.info("" + KSR.info({}))') == ["false", "false"]
    assert "expected a text, got symbol" in caplog.text
    assert "expected a text, got object" in caplog.text


# ---- KSR as scripts see it


def test_modules_that_are_not_loaded_are_absent(bench: Bench) -> None:
    body = """KSR.info([!KSR.auth, !KSR.pv.nothing, typeof KSR_auth, KSR_tm === KSR.tm, typeof KSR_x.exit,
                         Object.keys(KSR.x).join()].join(" "))"""
    assert bench.says(body) == ["true true undefined true function drop,exit"]


def test_scripts_reach_nothing_of_the_runtime(bench: Bench) -> None:
    body = """KSR.info(Object.getOwnPropertyNames(globalThis).filter(function (n) {
        return /^(host|shared|words|entries|boot|load|main|runBlock|Values)$/.test(n); }).join());
        KSR.info(typeof KSR.info.caller + typeof KSR.info.arguments)"""
    with_caller = bench.run(bench.load(f"function {MAIN}() {{ {body} }}"))
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
    script = bench.load(source)
    blocks = [bench.block() for _ in range(3)]
    for ctx in blocks:
        ctx.cache["v"] = "some text"
    bench.run(script, *blocks)
    assert bench.said == ["some text!", ("a", 1, "b", 2, "c", 3)] * 3
    assert isinstance(blocks[-1].error, ScriptError)
    assert blocks[-1].error.line == 10
    bench.run(bench.also("const ksr_request_route = () => KSR.info('next')"))
    assert bench.said[-1] == "next"


def test_a_script_has_no_part_in_the_texts_that_other_scripts_are_given(bench: Bench) -> None:
    evil = bench.load(
        f"""const given = [];
        for (const owner of [Array.prototype, Object.prototype]) {{
            Object.defineProperty(owner, 0, {{ set(v) {{ given.push(this); }}, get() {{ return 90; }}, configurable: true }});
        }}
        for (const name of ["get", "set", "clear"]) {{
            const call = function (map, ...rest) {{ given.push(map); return Reflect.apply(this, map, rest); }};
            try {{ Object.defineProperty(Map.prototype[name], "call", {{ value: call }}); }} catch (e) {{ }}
        }}
        Map.prototype.set = Map.prototype.clear = Map.prototype.get = function () {{ given.push(this); }};
        function {MAIN}() {{ for (let i = 0; i < 4; i++) {{ KSR.pv.get("v"); KSR.pv.six("a" + i % 1, 1, "b" + i % 1, 2, "c", 3); }} }}
        function tell() {{ KSR.info("given " + given.length); }}"""
    )
    good = bench.also(f"function {MAIN}() {{ KSR.info(KSR.pv.get('v')); KSR.info('a0'); }}", "good.js")
    blocks = [bench.block() for _ in range(3)]
    for ctx in blocks:
        ctx.cache["v"] = "alice"
    bench.run(evil, blocks[0], blocks[1], bench.block("tell"))
    bench.run(good, blocks[2])
    assert bench.said == [("a0", 1, "b0", 2, "c", 3)] * 8 + ["given 0", "alice", "a0"]


def test_a_script_loads_whatever_it_has_made_of_object_prototype(bench: Bench) -> None:
    script = bench.load(
        f"Object.prototype.get = Object.prototype.value = () => 1; function {MAIN}() {{ KSR.info([[1], 2].flat().join()); }}"
    )
    bench.run(script)
    assert bench.said == ["1,2"]


def test_what_a_script_adds_to_ksr_is_gone_after_the_next_load(bench: Bench) -> None:
    bench.load('KSR.pv.extra = KSR.extra = () => "mine"; KSR.info = null; function a() {}')
    with pytest.raises(ScriptLoadError):
        bench.also("nothing.here()", "broken.js")
    bench.run(bench.also(f"function {MAIN}() {{ KSR.info(typeof KSR.pv.extra + typeof KSR.extra); }}"))
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
    bench.run(bench.load(source), first, second)
    assert bench.said == ["asked", "asked", "relayed", "asked", "AAAA", "asked", "asked", "relayed", "asked", "BBBB"]


METHODS = ["INVITE", "BYE", "REGISTER", "INVITE", "BYE", *(f"M{n}" for n in range(40)), "M1", "M39", "INVITE"]


@pytest.mark.parametrize("mode", ["resident", "hosted"])
def test_method_tests_are_answered_as_the_module_answers_them(mode: str, tmp_path: Path) -> None:
    said: list[Any] = []
    services = support.services(Core)
    core: Any = services.modules[""]
    host = Host(Registry([core, Pv(said)]), services.current, lambda process: None)
    for bench in benches(mode, tmp_path):
        bench.host, bench.current = host, services.current
        script = bench.load(f"""function {MAIN}() {{
            KSR.pv.sets("answers", [KSR.is_INVITE(), KSR.is_BYE(), KSR.is_method("bye"), KSR.is_method("M39"), KSR.is_method(5),
                KSR.is_method_in("IR"), KSR.is_method_in("B")].join());
        }}""")
        blocks = []
        for method in METHODS:
            blocks.append(
                support.request_context(support.message(f"{method} sip:a@example.test SIP/2.0", cseq=f"1 {method}"))
            )
            blocks.append(
                support.request_context(support.message("SIP/2.0 200 OK", cseq=f"1 {method}"), kind=Route.REPLY)
            )
        blocks.append(support.request_context(support.message("SIP/2.0 200 OK", cseq="malformed"), kind=Route.REPLY))
        for ctx in blocks:
            ctx.callback = MAIN
        bench.run(script, *blocks)
        for ctx in blocks[:-1]:
            asked = [core.is_INVITE(ctx), core.is_BYE(ctx), *(core.is_method(ctx, m) for m in ("bye", "M39", "5"))]
            asked += [core.is_method_in(ctx, "IR"), core.is_method_in(ctx, "B")]
            assert ctx.cache["answers"] == ",".join(str(answer).lower() for answer in asked)
        assert blocks[-1].cache["answers"] == ",".join(["false"] * 7)


def test_a_function_of_the_method_crosses_once_for_each_method_and_text(bench: Bench) -> None:
    source = f"""function {MAIN}() {{
        for (var i = 0; i < 3; i++) KSR.info("" + KSR.kx.is_method("OPTIONS") + KSR.kx.is_method("BYE"));
        for (i = 0; i < 20; i++) KSR.kx.is_method("M" + i);
    }}"""
    bench.run(bench.load(source), bench.block(), bench.block())
    asked = ["is OPTIONS", "is BYE", *["truefalse"] * 3, *(f"is M{n}" for n in range(20))]
    again = [*["truefalse"] * 3, *(f"is M{n}" for n in range(14, 20))]  # 16 texts are kept
    assert bench.said == [*asked, *again]


def test_who_watches_sees_every_call_even_of_constants(bench: Bench) -> None:
    source = f"function {MAIN}() {{ KSR.kx.get_method(); KSR.kx.get_method(); KSR.tm.t_relay(); KSR.pv.seti('n', 5);"
    source += " KSR.kx.is_method('BYE'); KSR.kx.is_method('BYE'); }"
    calls: list[Call] = []
    watcher, probes = recorder(calls), Probes()
    script = bench.load(source, probes=probes)
    bench.run(script)  # V8 holds the results by now
    for _ in range(2):
        probes.watch(watcher)
        bench.run(script)
        probes.unwatch(watcher)
        assert calls == [
            ("KSR.kx.get_method", (), "OPTIONS"),
            ("KSR.kx.get_method", (), "OPTIONS"),
            ("KSR.tm.t_relay", (), 1),
            ("KSR.pv.seti", ("n", 5), True),
            *[("KSR.kx.is_method", ("BYE",), False)] * 2,
        ]
        calls.clear()
        bench.said.clear()
        bench.run(script)
        assert calls == []


# ---- ending a route


def test_exit_and_drop_end_the_route_without_an_error(bench: Bench) -> None:
    script = bench.load(
        """function stay() { KSR.info("before"); KSR.x.exit(); KSR.info("after"); }
           function gone() { KSR.x.drop(7); KSR.info("after"); }
           function inside() { KSR.odd.leave_from_process(); KSR.info("after"); }"""
    )
    stay, gone, inside = bench.block("stay"), bench.block("gone"), bench.block("inside")
    bench.run(script, stay, gone, inside)
    assert bench.said == ["before"]
    assert [ctx.error for ctx in (stay, gone, inside)] == [None] * 3
    assert [ctx.dropped for ctx in (stay, gone, inside)] == [False, True, False]


def test_a_catch_all_does_not_let_the_route_go_on_after_exit(bench: Bench) -> None:
    body = 'try { KSR.x.exit(); } catch (e) { KSR.pv.sets("caught", e); } KSR.info("after");'
    script = bench.load(f"function {MAIN}() {{ {body} }}")
    first, second = bench.block(), bench.block()
    bench.run(script, first, second)
    assert (bench.said, first.error, first.cache, second.error) == ([], None, {}, None)


def test_exit_throws_the_text_that_kamailio_throws(bench: Bench) -> None:
    script = bench.load(
        f"""var caught;
        function {MAIN}() {{ try {{ KSR.x.exit(); }} catch (e) {{ caught = typeof e + e; }} }}
        function tell() {{ KSR.info(caught); throw "~~ksr~exit~~"; }}"""
    )
    assert bench.run(script, bench.block(), bench.block("tell")).error is None
    assert bench.said == ["string~~ksr~exit~~"]


# ---- errors


def test_an_error_of_the_script_names_its_file_line_cause_and_stack(bench: Bench) -> None:
    script = bench.load(f"function deep() {{\n  nothing.here();\n}}\nfunction {MAIN}() {{\n  deep();\n}}")
    failed, fine = bench.block(), bench.block("deep_but_missing")
    bench.run(script, failed, fine)
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
    script = bench.load(f'function {MAIN}() {{ throw {thrown}; }} function fine() {{ KSR.info("fine"); }}')
    failed, fine = bench.block(), bench.block("fine")
    bench.run(script, failed, fine)
    assert isinstance(failed.error, ScriptError)
    assert failed.error.cause == cause
    assert (fine.error, bench.said) == (None, ["fine"])


def test_endless_recursion_is_an_error_of_that_route_only(bench: Bench) -> None:
    script = bench.load(f'function {MAIN}() {{ {MAIN}(); }} function fine() {{ KSR.info("fine"); }}')
    failed = bench.block()
    bench.run(script, failed, bench.block("fine"))
    assert "Maximum call stack size exceeded" in str(failed.error)
    assert bench.said == ["fine"]


def test_results_are_not_mixed_up_when_the_stack_was_full(hosted: Bench) -> None:
    script = hosted.load(
        f"""let left = 0, failed = 0; const wrong = [];
        function deep(key) {{
            try {{ deep(key); }} catch (e) {{}}
            try {{ if (left-- > 0) KSR.pv.get(key), KSR.pv.get(key); }} catch (e) {{ failed++; }}
        }}
        function {MAIN}() {{
            for (let i = 0; i < 160; i++) {{
                left = i % 160;
                deep("k" + i);
                for (let j = 0; j < 3; j++) if (KSR.pv.get("k" + i) !== "v" + i) wrong.push(i);
            }}
            KSR.info((failed > 0) + " " + wrong.join());
        }}"""
    )
    ctx = hosted.block()
    ctx.cache.update({f"k{i}": f"v{i}" for i in range(160)})
    assert hosted.run(script, ctx).error is None
    assert hosted.said == ["true "]


def test_a_bug_in_an_export_fails_the_route_and_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    ctx = bench.run(bench.load(f"function {MAIN}() {{\n KSR.odd.crash();\n}}"))
    assert isinstance(ctx.error, ScriptError)
    assert ctx.error.line == 2
    assert "KSR.odd.crash: KeyError: 'not there'" in ctx.error.cause
    assert caplog.records[0].exc_info is not None


def test_a_stack_that_a_script_made_up_is_taken_as_text(bench: Bench) -> None:
    ctx = bench.run(
        bench.load(f"""function {MAIN}() {{
        var e = new Error("two\\nlines \\ud800"); e.stack = "at ksr:script/99:5:1 at ksr:script/" + "9".repeat(5000) + ":1"; throw e; }}""")
    )
    assert isinstance(ctx.error, ScriptError)
    assert ctx.error.cause == "Error: two lines ?"
    assert "ksr:script/99:5:1" in ctx.error.traceback


def test_async_functions_and_promises_belong_to_their_route_block(bench: Bench) -> None:
    script = bench.load(
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
    bench.run(script, first, broken, later)
    assert bench.said == ["relayed", "relayed 1", "later"]
    assert (first.error, later.error) == (None, None)
    assert isinstance(broken.error, ScriptError)
    assert broken.error.line == 7


def test_ksr_is_closed_for_what_a_stopped_route_block_left_behind(bench: Bench) -> None:
    script = bench.load(
        f"""var failures = [];
        function {MAIN}() {{
            Promise.resolve("late").then(KSR.info).catch(function (e) {{ failures.push(String(e)); }});
            for (;;) {{}}
        }}
        function tell() {{ KSR.info(failures.join()); }}""",
        Limits(0.2),
    )
    bench.run(script, bench.block(), bench.block("tell"))
    assert bench.said == ["Error: KSR is called when no route block runs"]


def test_what_a_block_has_left_to_promises_when_it_ended_does_not_call_ksr_in_the_next_one(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ Promise.resolve("late").then(KSR.info); KSR.x.exit(); }}
        function broken() {{ Promise.resolve("late").then(KSR.info); throw new Error("broken"); }}
        function endless() {{ (function again() {{ Promise.resolve().then(again); }})(); for (;;) {{}} }}
        function fine() {{ KSR.info("fine"); }}""",
        Limits(0.2),
    )
    blocks = [bench.block(name) for name in (MAIN, "fine", "broken", "fine", "endless", "fine")]
    bench.run(script, *blocks)
    assert bench.said == ["fine"] * 3
    assert [type(ctx.error) for ctx in blocks[::2]] == [type(None), ScriptError, ScriptTimeout]


def test_what_a_script_that_did_not_load_has_left_to_promises_does_not_call_ksr(bench: Bench) -> None:
    script = bench.load(f"function {MAIN}() {{ KSR.info('ran'); }}")
    with pytest.raises(ScriptLoadError):
        bench.also("Promise.resolve('late').then(KSR.info); nothing.here();", "broken.js")
    bench.run(script)
    assert bench.said == ["ran"]


def test_what_the_text_of_an_error_has_left_to_promises_does_not_call_ksr_in_the_next_block(bench: Bench) -> None:
    late = "{ toString() { Promise.resolve('late').then(KSR.info); return 'text'; } }"
    script = bench.load(
        f"function {MAIN}() {{ return Promise.reject({late}); }} function fine() {{ KSR.info('fine'); }}"
    )
    failed, fine = bench.block(), bench.block("fine")
    bench.run(script, failed, fine)
    assert str(failed.error).endswith(": text")

    def load() -> None:
        with pytest.raises(ScriptLoadError, match="text"):
            bench.also(f"throw {late}", "broken.js")

    if bench.mode == "resident":
        bench.serve(load, lambda: bench.run_blocks(script, [fine]))
    else:
        load()
        bench.run(script, fine)
    assert bench.said == ["fine"] * 2


def test_a_promise_of_a_branch_route_is_not_the_request_routes(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ KSR.tm.t_relay(); Promise.resolve("then").then(KSR.info); }}
        async function ksr_branch_manage() {{ throw new Error("branch"); }}"""
    )
    ctx = bench.run(script)
    assert "branch" in str(ctx.cache["block"].error)
    assert ctx.error is None
    assert bench.said == ["relayed", "then"]


def test_frames_of_the_stack_give_nothing_of_the_runtime(bench: Bench) -> None:
    body = """
        Error.prepareStackTrace = (_, frames) => frames.map((one) => [one.getFunction(), one.getThis()]).slice(1).flat();
        KSR.info(String(new Error().stack.every((one) => one === undefined || one === globalThis)));
    """
    assert bench.says(body) == ["true"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("[3, 1, 2].sort().concat([4], [[5]]).flat().join()", "1,2,3,4,5"),
        ("[1, [2, [3, [4]]]].flat(Infinity).join()", "1,2,3,4"),
        ("[1, , 3].flatMap((x, i) => [x, [i]]).length", "4"),
        ("[1, 2].fill(7).reverse().indexOf(7) + [5, 6].lastIndexOf(6) + [1, 2, 3].includes(2)", "2"),
        ("(function () { return Array.prototype.slice.call(arguments, 1).join(); })(1, 2, 3)", "2,3"),
        ("Array.prototype.map.call('abc', (c) => c + c).join()", "aa,bb,cc"),
        ("(() => { const a = [2, 1]; return a.sort() === a && a.reverse() === a && a.fill(0) === a; })()", "true"),
        ("(() => { const o = { length: 1, 0: 'x' }; return Array.prototype.reverse.call(o) === o; })()", "true"),
        (
            "Array.from({ length: 3 }, (_, i) => i * 2).join() + Array.from(new Set([1, 1, 2])).join() + Array.from('ab')",
            "0,2,41,2a,b",
        ),
        (
            "class A extends Array {}; String(A.from([1]) instanceof A && new A(1, 2).map((x) => x) instanceof A)",
            "true",
        ),
        ("Math.max.apply(null, [1, 5, 3]) + Math.min.apply(null, { length: 2, 0: 4, 1: 2 })", "7"),
        ("Reflect.construct(Date, [0]).getTime() + Reflect.apply(Math.abs, null, [-3])", "3"),
        ("String.raw`a${1}\\n` + 'x'.padStart(3, 'ab') + 'y'.repeat(2) + 'aXbX'.lastIndexOf('X')", "a1\\nabxyy3"),
        ("new ArrayBuffer(8) instanceof ArrayBuffer && new ArrayBuffer(8).constructor === ArrayBuffer", "true"),
        ("new ArrayBuffer(8, { maxByteLength: 16 }).resizable && ArrayBuffer.isView(new Uint8Array(2))", "true"),
        ("Array.isArray(new Proxy([], {})) && Proxy.revocable({ a: 1 }, {}).proxy.a === 1", "true"),
        ("(1234.5).toLocaleString('en') + new Intl.NumberFormat(['de', 'en']).format(1234.5)", "1,234.51.234,5"),
        (
            "new Intl.DateTimeFormat('en') instanceof Intl.DateTimeFormat && Intl.Collator.supportedLocalesOf(['en']).length === 1",
            "true",
        ),
        (
            "['a', 'b'].toLocaleString() + [1, 2].map.name + [].concat.length + JSON.stringify({ a: [1] }, null, 1).length",
            "a,bmap118",
        ),
        ("Object.keys({ a: 1, b: 2 }).join() + Object.entries([7]).join() + Object.assign({}, 'ab')[1]", "a,b0,7b"),
        ("typeof [].sort.prototype + [].sort.length", "undefined1"),
        (
            "Symbol.for('a') === Symbol.for('a') && Symbol.for('a') !== Symbol.for('b') && Symbol.for(1).description",
            "1",
        ),
        (
            "Symbol.keyFor(Symbol.for('a')) + Symbol.keyFor(Symbol('a')) + Symbol.keyFor(Symbol.iterator)",
            "aundefinedundefined",
        ),
        (
            "JSON.parse('[1, {\"a\": 2}]', (k, v) => k === 'a' ? v + 1 : v)[1].a + JSON.parse(' null ') + JSON.parse.length",
            "5",
        ),
        ("new Uint8Array([3, 1, 2]).sort().fill(9, 2).join() + new ArrayBuffer(4).slice(1).byteLength", "1,2,93"),
    ],
)
def test_the_language_is_what_it_was_where_it_has_bounds(bench: Bench, expression: str, value: str) -> None:
    *first, last = expression.rsplit("}; ", 1) if expression.startswith("class") else (expression,)
    before = "".join(f"{one}}};" for one in first)
    assert bench.says(f"{before} KSR.info(String({last}))") == [value]


# ---- nested blocks


def test_a_branch_route_runs_inside_t_relay_with_its_own_context(bench: Bench) -> None:
    source = f"""function {MAIN}() {{
        KSR.pv.sets("who", "request");
        KSR.info("" + KSR.tm.t_relay());
        KSR.info(KSR.pv.get("who"));
    }}
    function ksr_branch_manage() {{ KSR.info("branch " + KSR.pv.get("who")); KSR.x.drop(); }}"""
    ctx = bench.run(bench.load(source))
    assert bench.said == ["branch null", "relayed", "-1", "request"]
    assert ctx.cache["block"].dropped
    assert not ctx.dropped


def test_blocks_nest_and_events_get_their_name(bench: Bench) -> None:
    source = f"""function {MAIN}() {{ KSR.info("got " + KSR.tm.run("outer")); }}
    function outer() {{ KSR.info("outer"); KSR.tm.run("inner"); }}
    function inner() {{ KSR.info("inner"); }}
    function on_event(name) {{ KSR.info(name); }}"""
    assert bench.run(bench.load(source)).error is None
    assert bench.said == ["outer", "inner", "ran:inner", "ran:outer", "got 7"]


def test_blocks_that_nest_without_end_are_an_error_and_leave_nothing_behind(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ KSR.tm.run("{MAIN}"); }}
        function fine() {{ KSR.tm.run("nowhere"); KSR.info(KSR.pv.get("who")); }}"""
    )
    endless, fine = bench.block(), bench.block("fine")
    fine.cache["who"] = "fine"
    bench.run(script, endless, fine)
    innermost = endless
    while MAIN in innermost.cache:
        innermost = innermost.cache[MAIN]
    assert "more than 16 route blocks inside each other" in str(innermost.error)
    assert (endless.error, fine.error, bench.said) == (None, None, ["fine"])


def test_a_branch_route_that_finds_no_stack_leaves_nothing_behind(bench: Bench) -> None:
    script = bench.load(
        f"""function {MAIN}() {{ try {{ {MAIN}(); }} catch (e) {{ KSR.tm.t_relay(); }} }}
        function ksr_branch_manage() {{ }}
        function fine() {{ KSR.tm.t_relay(); KSR.info(KSR.pv.get("who")); }}"""
    )
    endless, fine = bench.block(), bench.block("fine")
    fine.cache["who"] = "fine"
    bench.run(script, endless, fine)
    assert fine.error is None
    assert bench.said[-1] == "fine"


def test_a_failing_branch_route_leaves_the_request_route_unharmed(bench: Bench) -> None:
    source = f"""function {MAIN}() {{ KSR.info("" + KSR.tm.t_relay()); }}
    function ksr_branch_manage() {{
        broken();
    }}"""
    ctx = bench.run(bench.load(source))
    assert ctx.error is None
    assert bench.said == ["relayed", "-1"]
    error = ctx.cache["block"].error
    assert isinstance(error, ScriptError)
    assert error.line == 3


def test_a_call_from_another_thread_while_one_waits_is_refused(hosted: Bench) -> None:
    script = hosted.load(f"function {MAIN}() {{ KSR.tm.t_relay(); }}", drive=lambda process: elsewhere())
    errors: list[ScriptError] = []

    def call() -> None:
        try:
            script.call(MAIN)
        except ScriptError as error:
            errors.append(error)

    def elsewhere() -> int:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return 1

    assert hosted.run(script).error is None
    assert "script.js: JavaScript runs on another thread" in str(errors[0])


# ---- what scripts expect around the language


def test_require_loads_files_of_the_scripts_directory_once(bench: Bench) -> None:
    (bench.directory / "lib").mkdir()
    (bench.directory / "lib" / "tools.js").write_text(
        "loads = (globalThis.loads || 0) + 1;\nconst other = require('./other');\n"
        "exports.name = __filename.split('/').pop() + other.value; exports.fail = () => {\n  throw new Error('deep'); };"
    )
    (bench.directory / "lib" / "other.js").write_text("module.exports = { value: 7, back: require('./tools') };")
    (bench.directory / "lib" / "index.js").write_text("module.exports = 'index';")
    (bench.directory / "data.json").write_text('{"a": [1]}')
    body = """
        const tools = require("./lib/tools"), again = require("lib/tools.js");
        KSR.info([tools.name, tools === again, loads, require("./lib"), require("./data.json").a[0]].join());
        KSR.info(typeof tools.fail);
        try { require("./none"); } catch (e) { KSR.info(e.message); }
        tools.fail();
    """
    ctx = bench.run(bench.load(f"function {MAIN}() {{ {body} }}"))
    assert bench.said == [
        "tools.js7,true,1,index,1",
        "function",
        f"{bench.directory}/script.js: Cannot find module './none'",
    ]
    assert str(ctx.error).startswith(f"{bench.directory}/lib/tools.js:4: Error: deep")


def test_an_error_while_a_module_loads_names_the_module(bench: Bench) -> None:
    (bench.directory / "bad.js").write_text("\nnone();")
    with pytest.raises(ScriptLoadError, match=r"bad\.js:2: (Uncaught )?ReferenceError: none is not defined"):
        bench.load(f"require('./bad');\nfunction {MAIN}() {{}}")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "./link", "\\0", "", "./lib\\0.js"])
def test_require_reads_nothing_outside_of_the_scripts_directory(bench: Bench, name: str) -> None:
    (bench.directory.parent / "secret.js").write_text("module.exports = 'secret';")
    (bench.directory / "link.js").symlink_to(bench.directory.parent / "secret.js")
    assert bench.says(f'try {{ KSR.info(require("{name}")); }} catch (e) {{ KSR.info(e.name); }}') == ["Error"]


def test_a_module_that_cannot_be_parsed_is_named(bench: Bench) -> None:
    (bench.directory / "bad.js").write_text("let let = 1")
    (said,) = bench.says('try { require("./bad"); } catch (e) { KSR.info(e.name + " " + e.message); }')
    assert said.startswith(f"SyntaxError {bench.directory}/bad.js: ")


def test_a_module_that_failed_is_loaded_anew_wherever_it_is_asked_for(bench: Bench) -> None:
    (bench.directory / "first.js").write_text("const second = require('./second'); exports.more = second; none();")
    (bench.directory / "second.js").write_text(
        "require('./first'); exports.again = () => { try { require('./first'); } catch (e) { return e.name; } };"
    )
    body = "try { require('./first'); } catch (e) { KSR.info(e.name); } KSR.info(require('./second').again());"
    assert bench.says(body) == ["ReferenceError", "ReferenceError"]


def test_links_that_lead_to_each_other_are_no_module(bench: Bench) -> None:
    (bench.directory / "a.js").symlink_to(bench.directory / "b.js")
    (bench.directory / "b.js").symlink_to(bench.directory / "a.js")
    assert bench.says("try { require('./a'); } catch (e) { KSR.info(e.message.slice(-23)); }") == [
        "Cannot find module './a'"[-23:]
    ]


def test_the_console_writes_into_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench.says(
        """console.log("a", 1, {b: [null]}, undefined); console.warn("ü"); console.error(new Error("x").message);
        const c = {}; c.c = c; console.info(c); console.debug()"""
    )
    assert [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "polykemi.script"] == [
        ("INFO", 'a 1 {"b":[null]} undefined'),
        ("WARNING", "\u00c3\u00bc"),
        ("ERROR", "x"),
        ("INFO", "[object Object]"),
        ("DEBUG", ""),
    ]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('[...new TextEncoder().encode("aü€😀\\ud800")].join()', "97,195,188,226,130,172,240,159,152,128,239,191,189"),
        ('new TextDecoder().decode(new TextEncoder().encode("aü€😀")) === "aü€😀"', "true"),
        ("new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 65]))", "A"),
        ("new TextDecoder().decode(new Uint8Array([65, 0xff, 66, 0xc0, 0x80])) === 'A\\ufffdB\\ufffd\\ufffd'", "true"),
        ("new TextDecoder().decode(new Uint8Array([0xed, 0xa0, 0x80])) === '\\ufffd\\ufffd\\ufffd'", "true"),
        ("new TextDecoder().decode(new Uint8Array([0xf5, 0x80])) === '\\ufffd\\ufffd'", "true"),
        ("new TextDecoder().decode(new Uint8Array([0xe2, 0x82])) === '\\ufffd'", "true"),
        ("new TextDecoder().decode()", ""),
        ("new TextDecoder('utf8', {fatal: true}).encoding", "utf-8"),
        ('new URL("HTTP://u:p@Example.COM:80/a/../b?x=1&y=%20#h").href', "http://u:p@example.com/b?x=1&y=%20#h"),
        ('new URL("https://h:8443/p").host', "h:8443"),
        ('new URL("https://h:8443/p").origin', "https://h:8443"),
        ('new URL("http://h").pathname', "/"),
        ('new URL("../c?d", "http://h/a/b/e").href', "http://h/a/c?d"),
        ('new URL("?q", new URL("http://h/a")).href', "http://h/a?q"),
        ('new URL("//o/x", "https://h").href', "https://o/x"),
        ('new URL("sip:bob@example.com;a=b").pathname', "bob@example.com;a=b"),
        ('new URL("http://[2001:db8::1]:5060/").hostname', "[2001:db8::1]"),
        ('new URL("http://h/?a=1&b=2+3&a=%C3%BC").searchParams.getAll("a").join()', "1,\u00c3\u00bc"),
        ('const u = new URL("http://h/?a=1"); u.searchParams.set("a", "x y&"); u.href', "http://h/?a=x+y%26"),
        ('JSON.stringify({u: new URL("http://h")})', '{"u":"http://h/"}'),
        ('[...new URLSearchParams({a: 1, b: "ü"})].join("|")', "a,1|b,\u00c3\u00bc"),
        ('new URLSearchParams("?b=2&a=1&b").toString()', "b=2&a=1&b="),
        ('URL.canParse("nope") + "," + URL.canParse("http://")', "false,false"),
        ("typeof new URL('http://h').searchParams.get('x')", "object"),
    ],
)
def test_the_environment_has_texts_and_urls(bench: Bench, expression: str, value: str) -> None:
    *first, last = expression.rsplit("; ", 1) if expression.startswith("const") else (expression,)
    before = ";".join(first)
    assert bench.says(f"{before}; KSR.info(String({last}))") == [value]


@pytest.mark.parametrize(
    "expression",
    [
        'new URL("nope")',
        'new URL("http://h:99999/")',
        "new TextDecoder('utf-8', {fatal: true}).decode(new Uint8Array([255]))",
    ],
)
def test_what_is_malformed_throws_a_type_error(bench: Bench, expression: str) -> None:
    assert bench.says(f"try {{ {expression}; }} catch (e) {{ KSR.info(e.name); }}") == ["TypeError"]
