"""What holds between a script and KSR, in Lua, JavaScript and Python alike, or in each as in Kamailio's own engine.

Where a test picks values by engine, Kamailio's engines differ and each is followed. The comments restate its rules.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from polykemi.engines import ENGINES
from polykemi.engines.base import Limits
from polykemi.errors import ScriptError, ScriptLoadError, ScriptTimeout
from polykemi.kemi.route import Route
from tests.conformance.conftest import RINGING, Bench, MakeBench

Log = pytest.LogCaptureFixture


# ---- results ---------------------------------------------------------------------------------------------------------


def test_an_int_result_reaches_the_script_unchanged_and_stops_nothing(bench: Bench) -> None:
    # 0 and negative codes have no effect of their own, as they would have in a native configuration
    assert bench.values("KSR.lab.number(7)", "KSR.lab.zero()", "KSR.lab.number(-3)") == ["num 7", "num 0", "num -3"]


def test_whether_zero_is_true_is_the_languages_affair(bench: Bench) -> None:
    # "if not KSR.f()" on an int function is a bug of the script; it has the same effect as in Kamailio
    bench.route(
        lua='if KSR.lab.zero() then show("true") else show("false") end',
        js='if (KSR.lab.zero()) show("true"); else show("false");',
        python='show("true") if KSR.lab.zero() else show("false")',
    )
    assert bench.seen == [bench.pick(lua="str true", js="str false", python="str false")]


def test_a_bool_result_is_the_languages_own_true_or_false(bench: Bench) -> None:
    assert bench.values("KSR.lab.flag(1)", "KSR.lab.flag(0)", "KSR.is_OPTIONS()") == ["true", "false", "true"]


def test_a_function_without_result_gives_what_kamailios_engine_gives(bench: Bench) -> None:
    # false in Lua and JavaScript, the C result in Python
    none = bench.pick(lua="false", js="false", python="num 0")
    assert bench.values("KSR.lab.none()") == [none]
    assert bench.values('KSR.lab.saw("x")') == ["x", none]


def test_an_xval_is_null_a_number_or_a_text(bench: Bench) -> None:
    values = bench.values("KSR.lab.null()", "KSR.lab.xnumber()", 'KSR.lab.text("sip:a@b")', 'KSR.lab.text("")')
    assert values == ["null", "num 42", "str sip:a@b", "str "]


def test_a_sip_error_of_an_export_is_a_failed_call_and_the_script_goes_on(bench: Bench) -> None:
    values = bench.values('KSR.lab.refuse("x")', "KSR.lab.refuse_bool()", "KSR.lab.refuse_xval()", "1")
    assert values == ["num -1", "false", "null", "num 1"]


def test_a_call_that_makes_no_sense_in_this_block_fails_with_minus_one_and_a_log_line(
    bench: Bench, caplog: Log
) -> None:
    assert bench.values("KSR.lab.in_branch()", "1") == ["num -1", "num 1"]
    assert f"KSR.lab.in_branch: makes no sense in request_route, at {bench.path}:3" in caplog.text


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_arguments_of_the_right_type_arrive_as_they_are(bench: Bench) -> None:
    assert bench.values('KSR.lab.six(1, "b", -3, "", 0, "f")') == ["num 6"]
    assert bench.given == [(1, "b", -3, "", 0, "f")]


def test_too_few_arguments_are_logged_and_give_false(bench: Bench, caplog: Log) -> None:
    assert bench.values("KSR.lab.number()", "KSR.lab.pair(1)", "1") == ["false", "false", "num 1"]
    assert bench.given == []
    assert "KSR.lab.number: argument value (int): expected an argument, got nothing" in caplog.text
    assert "KSR.lab.pair: argument second (str): expected an argument, got nothing" in caplog.text
    assert f"{bench.path}:3" in caplog.text
    assert f"{bench.path}:4" in caplog.text


def test_surplus_arguments_are_ignored_where_kamailio_ignores_them(bench: Bench) -> None:
    # Lua and JavaScript: up to six in all, none for a function that takes none; Python: always
    assert bench.values('KSR.lab.pair(1, "a", 3, 4, 5, 6)') == ["num 1"]
    assert bench.given == [(1, "a")]
    assert bench.values('KSR.lab.pair(1, "a", 3, 4, 5, 6, 7)') == [bench.pick(lua="false", js="false", python="num 1")]
    assert bench.given == bench.pick(lua=[], js=[], python=[(1, "a")])
    assert bench.values("KSR.lab.zero(1)") == [bench.pick(lua="false", js="false", python="num 0")]


@pytest.mark.parametrize(
    ("argument", "number"),
    [
        ('"12"', 12),
        ('" 7 "', 7),
        ('"0x10"', 16),
        ('"3.9"', 3),
        ('"-5"', -5),
        ('"1e3"', 1000),
        ("3.9", 3),
        ("-3.9", -3),
        ('"abc"', None),
        ('"12abc"', None),
        ('"Infinity"', None),
        ('""', None),
        ('" "', None),
    ],
)
def test_what_stands_for_an_integer(bench: Bench, argument: str, number: int | None) -> None:
    assert bench.values(f"KSR.lab.number({argument})") == ["false" if number is None else f"num {number}"]


_TRUE = {"lua": "true", "js": "true", "python": "True"}
_NULL = {"lua": "nil", "js": "null", "python": "None"}
_LIST = {"lua": "{}", "js": "[]", "python": "[]"}
_FUNCTION = {"lua": "print", "js": "show", "python": "print"}


@pytest.mark.parametrize(("literal", "number"), [(_TRUE, 1), (_NULL, None), (_LIST, None), (_FUNCTION, None)])
def test_what_else_may_stand_for_an_integer(bench: Bench, literal: dict[str, str], number: int | None) -> None:
    bench.route(**{name: f"show(KSR.lab.number({text}))" for name, text in literal.items()})
    assert bench.seen == ["false" if number is None else f"num {number}"]


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (dict.fromkeys(ENGINES, "12"), "12"),
        (dict.fromkeys(ENGINES, "1.5"), "1.5"),
        (dict.fromkeys(ENGINES, "-0.1"), "-0.1"),
        (dict.fromkeys(ENGINES, "4294967296"), "4294967296"),
        (dict.fromkeys(ENGINES, "12.0"), "12"),
        (_TRUE, "true"),
        (_NULL, ""),
        ({"lua": "nil", "js": "undefined", "python": "None"}, ""),
        (_LIST, None),
        (_FUNCTION, None),
    ],
)
def test_what_stands_for_a_text(bench: Bench, literal: dict[str, str], text: str | None) -> None:
    # null is the empty text as in Kamailio's Lua; its JavaScript makes "null" of it, its Python refuses
    bench.route(**{name: f"show(KSR.lab.text({one}))" for name, one in literal.items()})
    assert bench.seen == ["false" if text is None else f"str {text}"]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ('KSR.lab.pair("abc", "x")', 'KSR.lab.pair: argument first (int): expected an integer, got "abc" ({string})'),
        ("KSR.lab.text({list})", "KSR.lab.text: argument value (str): expected a text, got {type}"),
        ("KSR.lab.pair(1, {list})", "KSR.lab.pair: argument second (str): expected a text, got {type}"),
        ("KSR.lab.pair(1)", "KSR.lab.pair: argument second (str): expected an argument, got nothing"),
    ],
)
def test_a_refused_argument_is_logged_with_function_expectation_value_and_line(
    make_bench: MakeBench, caplog: Log, call: str, what: str
) -> None:
    bench = make_bench(seconds=5.0)
    kind = bench.pick(lua="table", js="object", python="list")
    string = bench.pick(lua="string", js="string", python="str")
    written, told = call.replace("{list}", _LIST[bench.name]), what.format(type=kind, string=string)
    bench.route(**{bench.name: f"show({written})"})
    assert bench.seen == ["false"]
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.ERROR, f"{told} at {bench.path}:3")]
    strict = make_bench(strict=True, seconds=5.0)
    with pytest.raises(ScriptError) as caught:
        strict.route(**{strict.name: f"KSR.lab.number(1)\n{written}"})
    assert told in str(caught.value)
    assert caught.value.line == 4


def test_a_script_can_catch_what_is_wrong_in_a_strict_server(make_bench: MakeBench) -> None:
    bench = make_bench(strict=True, seconds=5.0)
    bench.route(
        lua='show(select(2, pcall(KSR.lab.number, "x")))',
        js='try { KSR.lab.number("x"); } catch (e) { show(e.message); }',
        python="try: KSR.lab.number('x')\nexcept TypeError as e: show(str(e))",
    )
    string = bench.pick(lua="string", js="string", python="str")
    assert bench.seen == [f'str KSR.lab.number: argument value (int): expected an integer, got "x" ({string})']


# ---- lists and dictionaries ------------------------------------------------------------------------------------------


def test_lists_and_dictionaries_are_the_languages_own(bench: Bench) -> None:
    bench.route(
        lua="""
            local d = KSR.lab.data("two")
            show(#d, d[1].name[1], d[1].name[2], d[2].count[1], d[2]["\\195\\188"], next(d[3]))
        """,
        js="""
            const d = KSR.lab.data("two");
            show(d.length, d[0].name[0], d[0].name[1], d[1].count[0], d[1]["ü"], Array.isArray(d[2]) && null);
        """,
        python="""
            d = KSR.lab.data("two")
            show(len(d), d[0]["name"][0], d[0]["name"][1], d[1]["count"][0], d[1]["ü"], None if d[2] == [] else 1)
        """,
    )
    assert bench.seen == ["num 3", "str J\xc3\xbcrgen", "str a\xffb", "num 7", "str x", "null"]
    assert bench.values('KSR.lab.data("null")', 'KSR.lab.data("text")') == ["null", "str \xc3\xbc"]


def test_a_list_is_a_new_one_for_each_call(bench: Bench) -> None:
    bench.route(
        lua='local d = KSR.lab.data("two") d[1].name = 5 show(KSR.lab.data("two")[1].name[1])',
        js='const d = KSR.lab.data("two"); d[0].name = 5; show(KSR.lab.data("two")[0].name[0]);',
        python='d = KSR.lab.data("two"); d[0]["name"] = 5; show(KSR.lab.data("two")[0]["name"][0])',
    )
    assert bench.seen == ["str J\xc3\xbcrgen"]


def test_texts_cross_as_utf8(bench: Bench) -> None:
    # inside of polykemi a text is its octets; a script in Python or JavaScript sees characters
    bench.route(**dict.fromkeys(("lua", "js", "python"), 'show(KSR.lab.text("Jürgen €"), KSR.lab.name_())'))
    assert bench.given == [("J\xc3\xbcrgen \xe2\x82\xac",)]
    assert bench.seen == ["str J\xc3\xbcrgen \xe2\x82\xac"] * 2


def test_octets_that_are_no_utf8_go_through_a_script_unharmed(bench: Bench) -> None:
    # Kamailio's Python would raise UnicodeDecodeError and JavaScript spoil them; they came from the network
    bench.route(**dict.fromkeys(("lua", "js", "python"), "show(KSR.lab.text(KSR.lab.octets()))"))
    assert bench.given == [("a\xff\xe4b",)]
    assert bench.seen == ["str a\xff\xe4b"]


def test_a_nul_octet_is_an_octet(bench: Bench) -> None:
    bench.route(**dict.fromkeys(("lua", "js", "python"), r'show(KSR.lab.text("a\0b"))'))
    assert bench.given == [("a\0b",)]


def test_long_texts_arrive_whole(bench: Bench) -> None:
    bench.route(
        lua='local t = ("äb"):rep(50000) show(KSR.lab.text(t) == t)',
        js='const t = "äb".repeat(50000); show(KSR.lab.text(t) === t)',
        python='t = "äb" * 50000; show(KSR.lab.text(t) == t)',
    )
    assert bench.seen == ["true"]
    assert bench.given == [("\xc3\xa4b" * 50000,)]


# ---- outside of message processing -----------------------------------------------------------------------------------


def test_calls_while_the_script_loads(bench: Bench, caplog: Log) -> None:
    # Lua and JavaScript have no message then: logged, false. Python gets a made-up OPTIONS request
    bench.script(
        lua="loaded = KSR.lab.number(1)\nfunction ksr_request_route() show(loaded) end",
        js="var loaded = KSR.lab.number(1);\nfunction ksr_request_route() { show(loaded); }",
        python="loaded = KSR.lab.number(1)\ndef ksr_request_route(): show(loaded, KSR.lab.text('x'))",
    )
    bench.call()
    assert bench.seen[0] == bench.pick(lua="false", js="false", python="num 1")
    logged = f"KSR.lab.number: called outside of message processing at {bench.path}:2"
    assert (logged in caplog.text) == bench.pick(lua=True, js=True, python=False)


# ---- ending a route --------------------------------------------------------------------------------------------------

_ENDS = ["KSR.x.exit()", "KSR.x.drop()", "KSR.lab.leave()"]


@pytest.mark.parametrize("end", _ENDS)
def test_nothing_runs_after_the_end_of_a_route_and_nothing_is_logged(bench: Bench, end: str, caplog: Log) -> None:
    bench.script(
        lua=f"local function deep() show(1) {end} show(2) end\nfunction ksr_request_route() deep() show(3) end",
        js=f"function deep() {{ show(1); {end}; show(2); }}\nfunction ksr_request_route() {{ deep(); show(3); }}",
        python=f"def deep(): show(1); {end}; show(2)\ndef ksr_request_route(): deep(); show(3)",
    )
    ctx = bench.call()
    assert bench.seen == ["num 1"]
    assert ctx.dropped == ("drop" in end)
    assert caplog.records == []
    bench.call()
    assert bench.seen == ["num 1"]


@pytest.mark.parametrize("end", _ENDS)
def test_handling_of_errors_in_the_script_does_not_hold_an_exit_up(bench: Bench, end: str) -> None:
    # pcall in Lua, try in JavaScript, except Exception in Python
    bench.route(
        lua=f"pcall(function() {end} end) show(1)",
        js=f"try {{ {end}; }} catch (e) {{ show(e); }} show(1);",
        python=f"try: {end}\nexcept Exception: show(1)\nshow(2)",
    )
    assert bench.seen == []


def test_the_languages_own_exit_ends_the_route_and_not_the_server(bench: Bench) -> None:
    bench.route(
        lua="os.exit(1) show(1)",
        js="throw '~~ksr~exit~~'; show(1);",
        python="import sys\nshow(0)\nsys.exit(1)\nshow(1)",
    )
    assert bench.seen == bench.pick(lua=[], js=[], python=["num 0"])


# ---- callbacks -------------------------------------------------------------------------------------------------------

_THREE = {
    "lua": "function ksr_request_route() end\nfunction MANAGE() end\nother = 5",
    "js": "function ksr_request_route() {}\nconst MANAGE = function () {};\nvar other = 5;",
    "python": "def ksr_request_route(): pass\ndef MANAGE(): pass\nother = 5",
}


def test_an_engine_knows_the_functions_of_its_script(bench: Bench) -> None:
    bench.script(**_THREE)
    assert bench.loaded.has("ksr_request_route")
    assert bench.loaded.has("MANAGE")
    assert {"ksr_request_route", "MANAGE"} <= bench.loaded.functions()
    for name in ("other", "nothing", "print", "KSR", "toString", "__init__", ""):
        assert not bench.loaded.has(name)
        assert name not in bench.loaded.functions()


def test_what_a_route_returns_is_ignored(bench: Bench) -> None:
    bench.route(lua="show(1) return -255", js="show(1); return -255;", python="show(1)\nreturn -255")
    assert bench.seen == ["num 1"]


def test_an_event_route_gets_the_event_name(bench: Bench) -> None:
    bench.script(
        lua="function ksr_event(evname) show(evname) end",
        js="function ksr_event(evname) { show(evname); }",
        python="def ksr_event(evname): show(evname)",
    )
    bench.call("ksr_event", event="htable:mod-init")
    assert bench.seen == ["str htable:mod-init"]


def test_other_routes_get_no_argument_from_lua_and_javascript(bench: Bench) -> None:
    # a Python function that takes an argument gets the message object, as a method does in app_python3
    bench.script(
        lua="function ksr_reply_route(...) show(select('#', ...)) end",
        js="function ksr_reply_route() { show(arguments.length); }",
        python="def ksr_reply_route(msg): show(msg.Type)",
    )
    bench.call("ksr_reply_route", message=RINGING)
    assert bench.seen == [bench.pick(lua="num 0", js="num 0", python="str SIP_REPLY")]


def test_globals_of_a_script_live_on_from_call_to_call(bench: Bench) -> None:
    bench.script(
        lua="count = 0\nfunction ksr_request_route() count = count + 1 show(count) end",
        js="var count = 0;\nfunction ksr_request_route() { count++; show(count); }",
        python="count = 0\ndef ksr_request_route():\n    global count\n    count += 1; show(count)",
    )
    bench.call()
    bench.call()
    assert bench.seen == ["num 1", "num 2"]


def test_a_missing_module_or_function_can_be_tested_for(bench: Bench) -> None:
    bench.route(
        lua="show(not KSR.auth, not KSR.lab, not KSR.lab.nope, not KSR.lab.none, KSR.auth)",
        js="show(!KSR.auth, !KSR.lab, !KSR.lab.nope, !KSR.lab.none, KSR.auth)",
        python="show(*(not hasattr(o, n) for o, n in ((KSR,'auth'), (KSR,'lab'), (KSR.lab,'nope'), (KSR.lab,'none'))), None)",
    )
    assert bench.seen == ["true", "false", "true", "false", bench.pick(lua="null", js="undefined", python="null")]


# ---- route blocks inside of exports ----------------------------------------------------------------------------------

_NESTED = {
    "lua": "function ksr_request_route() show(KSR.lab.block('BRANCH')) end\nfunction BRANCH() {body} end",
    "js": "function ksr_request_route() {{ show(KSR.lab.block('BRANCH')); }}\nfunction BRANCH() {{ {body} }}",
    "python": "def ksr_request_route(): show(KSR.lab.block('BRANCH'))\ndef BRANCH(): {body}",
}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("show(KSR.lab.in_branch())", ["num 1", "block BRANCH over", "num 1"]),
        ("KSR.x.exit()", ["block BRANCH over", "num 1"]),
        ("KSR.x.drop()", ["block BRANCH over", "num 2"]),
        ("nothing.at.all()", ["block BRANCH over", "num -1"]),
    ],
    ids=["runs", "exits", "drops", "fails"],
)
def test_a_block_that_an_export_runs_ends_by_itself_and_the_caller_goes_on(
    bench: Bench, body: str, expected: list[str]
) -> None:
    bench.script(**{name: script.format(body=body) for name, script in _NESTED.items()})
    bench.call()
    assert bench.seen == expected


def test_blocks_may_run_blocks(bench: Bench) -> None:
    bench.script(
        lua="function ksr_request_route() show(KSR.lab.block('A')) end\nfunction A() KSR.lab.block('B') end\nfunction B() show(2) end",
        js="function ksr_request_route() { show(KSR.lab.block('A')); }\nfunction A() { KSR.lab.block('B'); }\nfunction B() { show(2); }",
        python="def ksr_request_route(): show(KSR.lab.block('A'))\ndef A(): KSR.lab.block('B')\ndef B(): show(2)",
    )
    bench.call()
    assert bench.seen == ["num 2", "block B over", "block A over", "num 1"]


def test_a_block_has_the_context_that_it_was_given(bench: Bench, caplog: Log) -> None:
    bench.script(**{name: script.format(body="KSR.lab.in_branch()") for name, script in _NESTED.items()})
    ctx = bench.call()
    assert ctx.kind is Route.REQUEST
    assert caplog.records == []


# ---- errors, limits, reload ------------------------------------------------------------------------------------------

_FAILING = {
    "lua": "local function deep(x)\n    return x.a.b\nend\nfunction ksr_request_route()\n    show(1)\n    deep({})\n    show(2)\nend",
    "js": "function deep(x) {\n    return x.a.b;\n}\nfunction ksr_request_route() {\n    show(1);\n    deep({});\n    show(2);\n}",
    "python": "def deep(x):\n    return x['a']['b']\n\ndef ksr_request_route():\n    show(1)\n    deep({})\n    show(2)\n",
}


def test_a_failing_route_tells_file_line_and_cause_and_harms_no_later_one(bench: Bench) -> None:
    bench.script(**_FAILING)
    for _ in range(2):
        with pytest.raises(ScriptError) as caught:
            bench.call()
        assert (caught.value.file, caught.value.line) == (str(bench.path), 3)
        assert caught.value.cause
        assert f"{bench.path.name}:7" in caught.value.traceback.replace('", line ', ":")
        assert bench.seen == ["num 1"]


def test_a_function_that_does_not_exist_is_ignored(bench: Bench) -> None:
    # a name given to t_on_failure is looked up when the block runs; a wrong one costs the block, not the message
    bench.script(**_THREE)
    bench.call("NOWHERE")
    bench.call("J\xc3\xbcrgen")
    bench.call("MANAGE")


def test_a_bug_in_an_export_is_an_error_of_the_line_that_called_it(bench: Bench) -> None:
    with pytest.raises(ScriptError, match="a bug in a module") as caught:
        bench.route(**dict.fromkeys(("lua", "js", "python"), "show(1)\nKSR.lab.broken()\nshow(2)"))
    assert (caught.value.file, caught.value.line) == (str(bench.path), 4)


@pytest.mark.parametrize(
    "loop",
    [
        {"lua": "while true do end", "js": "for (;;) {}", "python": "while True: pass"},
        {
            "lua": "while true do KSR.lab.zero() end",
            "js": "for (;;) KSR.lab.zero();",
            "python": "while True: KSR.lab.zero()",
        },
        {
            "lua": "while true do pcall(function() while true do end end) end",
            "js": "for (;;) { try { for (;;) {} } catch (e) {} }",
            "python": "while True:\n    try:\n        while True: pass\n    except Exception: pass",
        },
    ],
    ids=["empty", "calling", "catching"],
)
def test_an_endless_loop_is_stopped_and_the_next_route_runs(make_bench: MakeBench, loop: dict[str, str]) -> None:
    bench = make_bench(seconds=0.05)
    with pytest.raises(ScriptTimeout) as caught:
        bench.route(**loop)
    assert caught.value.file == str(bench.path)
    bench.route(**dict.fromkeys(("lua", "js", "python"), "show(1)"))
    assert bench.seen[-1:] == ["num 1"]


def test_a_looping_block_inside_of_an_export_is_stopped(make_bench: MakeBench) -> None:
    # Lua and Python stop that block alone; V8 can only be stopped as a whole, with the block that called the export
    bench = make_bench(seconds=0.1)
    bench.script(
        lua=_NESTED["lua"].format(body="while true do end"),
        js=_NESTED["js"].format(body="for (;;) {}"),
        python="def ksr_request_route(): show(KSR.lab.block('BRANCH'))\ndef BRANCH():\n    while True: pass",
    )
    try:
        bench.call()
    except ScriptTimeout:  # the time of the block that called the export is used up as well
        assert "num -1" not in bench.seen
    else:
        assert bench.name != "js"
        assert bench.seen == ["block BRANCH over", "num -1"]
    bench.route(**dict.fromkeys(("lua", "js", "python"), "show(1)"))
    assert bench.seen == ["num 1"]


_BROKEN = {"lua": "x = 1\nfunction (", "js": "var x = 1;\nfunction (", "python": "x = 1\ndef ("}
_RAISING = {
    "lua": "x = 1\nerror('no way')",
    "js": "var x = 1;\nthrow new Error('no way');",
    "python": "x = 1\nraise OSError('no way')",
}


@pytest.mark.parametrize("script", [_BROKEN, _RAISING], ids=["syntax", "raises"])
def test_a_script_that_does_not_load_is_named_with_its_line_and_the_running_one_stays(
    bench: Bench, script: dict[str, str]
) -> None:
    bench.route(**dict.fromkeys(("lua", "js", "python"), "show(1)"))
    with pytest.raises(ScriptLoadError) as caught:
        bench.script(**script)
    assert (caught.value.file, caught.value.line) == (str(bench.path), 3)
    assert caught.value.cause
    bench.call()
    assert bench.seen == ["num 1", "num 1"]


def test_a_script_that_is_not_there_does_not_load(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ScriptLoadError, match="nowhere"):
        bench.engine.load(tmp_path / "nowhere.script")


def test_a_script_that_loads_replaces_the_running_one_whole(bench: Bench) -> None:
    bench.script(**_THREE)
    bench.route(**dict.fromkeys(("lua", "js", "python"), "show(2)"))
    assert bench.seen == ["num 2"]
    assert not bench.loaded.has("MANAGE")
    bench.route(lua="show(other)", js="show(typeof other)", python="show('other' in globals())")
    assert bench.seen == [bench.pick(lua="null", js="str undefined", python="false")]


def test_every_call_is_watched_with_its_arguments_and_result(bench: Bench) -> None:
    bench.script(
        lua="function ksr_request_route() KSR.lab.text('ü') KSR.lab.pair(1, 'a') KSR.lab.block('B') KSR.x.exit() end function B() end",
        js="function ksr_request_route() { KSR.lab.text('ü'); KSR.lab.pair(1, 'a'); KSR.lab.block('B'); KSR.x.exit(); } function B() {}",
        python="def ksr_request_route(): KSR.lab.text('ü'); KSR.lab.pair(1, 'a'); KSR.lab.block('B'); KSR.x.exit()\ndef B(): pass",
    )
    bench.calls.clear()
    bench.call()
    called: list[tuple[str, tuple[Any, ...], Any]] = [
        ("KSR.lab.text", ("\xc3\xbc",), "\xc3\xbc"),
        ("KSR.lab.pair", (1, "a"), 1),
        ("KSR.lab.block", ("B",), 1),
        ("KSR.x.exit", (), None),
    ]
    assert bench.calls == called


@pytest.mark.parametrize("engine", ENGINES)
def test_a_block_whose_time_is_over_in_a_call_names_that(engine: str, tmp_path: Path) -> None:
    bench = Bench(engine, tmp_path, Limits(seconds=0.05))
    try:
        for call in ("", "KSR.lab.late", ""):
            text = f"{call}()" if call else ""
            with pytest.raises(ScriptTimeout, match="time limit reached") as caught:
                bench.route(
                    lua=f"{text}\nwhile true do end", js=f"{text}\nfor (;;) {{}}", python=f"{text}\nwhile True: pass"
                )
            assert caught.value.call == call
            assert (f", in {call}" in caught.value.cause) == bool(call)
    finally:
        bench.engine.close()
