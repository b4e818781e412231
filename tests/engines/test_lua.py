"""The Lua engine: what only Lua has. What all engines have in common is in tests/conformance."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from lupa.luajit21 import LuaRuntime

from polykemi import config
from polykemi.engines.base import Host, Limits
from polykemi.engines.lua import LuaEngine, LuaScript
from polykemi.errors import ConfigError, ScriptError, ScriptLoadError, ScriptMemory, ScriptTimeout
from polykemi.kemi.context import Current, RouteContext
from polykemi.kemi.registry import Registry, Xval, export
from polykemi.kemi.route import Route
from tests.conformance.conftest import FLOW, OPTIONS, Bench


@pytest.fixture
def lua(tmp_path: Path) -> Bench:
    """A Lua engine with generous limits."""
    return Bench("lua", tmp_path, Limits(seconds=5.0))


# ---- sandbox

_HOST_THINGS = [
    "io",
    "python",
    "ffi",
    "jit",
    "newproxy",
    "string.dump",
    "os.execute",
    "os.remove",
    "os.rename",
    "os.tmpname",
    "os.getenv",
    "os.setlocale",
    "package.loadlib",
    "package.loaders",
    "package.searchpath",
    "package.preload.ffi",
    "package.loaded.io",
    "package.loaded.ffi",
    "package.loaded.jit",
    "package.loaded.python",
    "debug.getinfo",
    "debug.sethook",
    "debug.getregistry",
    "debug.getupvalue",
    "debug.setmetatable",
    "debug.setlocal",
    "package.loaded.debug.getinfo",
    "package.loaded.os.execute",
]


def test_a_script_reaches_nothing_of_the_host(lua: Bench) -> None:
    lua.route(lua="\n".join(f"show({thing})" for thing in _HOST_THINGS))
    assert dict(zip(_HOST_THINGS, lua.seen, strict=True)) == dict.fromkeys(_HOST_THINGS, "null")


@pytest.mark.parametrize("name", ["ffi", "io", "jit", "jit.util", "python", "table.new", "string.buffer", "lupa"])
def test_require_gives_no_library_of_the_host(lua: Bench, name: str) -> None:
    with pytest.raises(ScriptError, match=f"module '{name}' not found"):
        lua.route(lua=f"require '{name}'")


def test_module_gives_no_library_of_the_host(lua: Bench) -> None:
    lua.route(lua="local show = show module('io') show(popen, open)")
    assert lua.seen == ["null", "null"]


@pytest.mark.parametrize("name", ["__globals__", "__self__", "__class__", "__call__", "x"])
def test_a_ksr_function_is_a_function_without_attributes(lua: Bench, name: str) -> None:
    lua.route(lua="show(type(KSR.lab.none), type(KSR.x.exit), getmetatable(KSR.lab.none))")
    assert lua.seen == ["str function", "str function", "null"]
    with pytest.raises(ScriptError, match="attempt to index"):
        lua.route(lua=f"return KSR.lab.none.{name}")


def test_an_error_of_the_server_is_text_to_the_script_that_catches_it(lua: Bench) -> None:
    lua.route(
        lua="""
        show(select(2, pcall(KSR.lab.broken)))
        show(select(2, xpcall(KSR.lab.broken, function(e) show(e) return 7 end)))
        show(select(2, coroutine.resume(coroutine.create(KSR.lab.broken))))
        show(select(2, pcall(coroutine.wrap(function() KSR.lab.broken() end))))
        """
    )
    text = "str ZeroDivisionError: a bug in a module"
    assert lua.seen[:4] == [text, text, "num 7", text]
    assert lua.seen == []


def test_bytecode_is_not_loaded(lua: Bench, tmp_path: Path) -> None:
    plain = LuaRuntime(encoding=None)
    code: bytes = plain.execute(b"return string.dump(function() return 1 end)")
    (tmp_path / "code.lua").write_bytes(code)
    quoted = "".join(f"\\{octet:03d}" for octet in code)
    lua.route(
        lua=f"""
        local code = "{quoted}"
        show(load(code), loadstring(code), load(code, "x", "b"), loadfile("code.lua"))
        show(load(function() local c = code code = nil return c end))
        show(pcall(require, "code"))
        """
    )
    assert [seen for seen in lua.seen if seen not in ("null", "false")] == [
        "str attempt to load chunk with wrong mode"
    ] * 2 + ["str error loading module 'code': attempt to load chunk with wrong mode"]
    with pytest.raises(ScriptLoadError, match="wrong mode"):
        lua.engine.load(tmp_path / "code.lua")


def test_text_is_loaded_as_lua_does(lua: Bench) -> None:
    lua.route(
        lua="""
        show(load("return 1 + 1")(), loadstring("return ...")(7))
        local parts = {"return ", "12", ""}
        show(load(function() return table.remove(parts, 1) end)())
        show(load("return x", "=t", "t", {x = 5})())
        show(select(2, load("return return", "=t")))
        """
    )
    assert lua.seen == ["num 2", "num 7", "num 12", "num 5", "str t:1: unexpected symbol near 'return'"]


def test_a_script_that_spoils_its_libraries_spoils_only_itself(lua: Bench) -> None:
    lua.script(
        lua="""
        for _, library in pairs({string, table, coroutine, os, debug}) do for k in pairs(library) do library[k] = nil end end
        error, type, select, pairs, tostring = nil, nil, nil, nil, nil
        function ksr_request_route() pcall(KSR.x.exit) KSR.lab.number(1) end
        function fail() return nil + 1 end
        """
    )
    lua.call()
    assert lua.given == []
    with pytest.raises(ScriptError, match="attempt to perform arithmetic") as caught:
        lua.call("fail")
    assert caught.value.line == 5


# ---- files


def test_require_loads_files_of_the_scripts_directory_once(lua: Bench, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tools.lua").write_text("loads = (loads or 0) + 1\nreturn {name = ...}")
    lua.route(
        lua="""
        local tools = require "lib.tools"
        show(tools.name, require("lib.tools") == tools, loads, package.loaded["lib.tools"] == tools)
        """
    )
    assert lua.seen == ["str lib.tools", "true", "num 1", "true"]


@pytest.mark.parametrize("name", ["../secret", "..secret", "/tmp/secret", "link", "sub.link.secret", "\\0", "."])
def test_no_file_outside_of_the_scripts_directory_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.lua").write_text("return 'secret'")
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "link.lua").symlink_to(tmp_path / "secret.lua")
    (inside / "sub" / "link").symlink_to(tmp_path)
    lua = Bench("lua", inside, Limits())
    lua.route(lua=f'show(pcall(require, "{name}")) show(loadfile("{name}.lua")) show(pcall(dofile, "{name}.lua"))')
    assert not [seen for seen in lua.seen if seen in ("str secret", "function", "true")]


def test_dofile_and_loadfile_read_the_scripts_directory(lua: Bench, tmp_path: Path) -> None:
    (tmp_path / "part.lua").write_text("#!/usr/bin/lua\nfunction part() KSR.lab.number(3) end return 5")
    lua.script(
        lua=f'a = dofile("part.lua") b = loadfile("{tmp_path}/part.lua")() function ksr_request_route() part() show(a, b) end'
    )
    lua.call()
    assert lua.given == [(3,)]
    assert lua.seen == ["num 5", "num 5"]


def test_errors_name_the_required_file_and_its_line(lua: Bench, tmp_path: Path) -> None:
    part = tmp_path / "part.lua"
    part.write_text("\nfunction part()\n  error('broken') end")
    lua.script(lua="require 'part' function ksr_request_route() part() end")
    with pytest.raises(ScriptError) as caught:
        lua.call()
    assert str(caught.value) == f"{part}:3: broken"
    part.write_text("\nfunction (")
    with pytest.raises(ScriptLoadError, match=r"part\.lua:2: "):
        lua.script(lua="require 'part'")
    lua.route(lua="show(pcall(require, 'part')) package.loaded.part = 4 show(require 'part')")
    assert lua.seen[-1] == "num 4"


def test_paths_of_any_length_and_alphabet_stand_whole_in_errors(tmp_path: Path) -> None:
    directory = tmp_path / ("ä" * 40) / ("x" * 60)
    directory.mkdir(parents=True)
    lua = Bench("lua", directory, Limits())
    with pytest.raises(ScriptError) as caught:
        lua.route(lua="error('here')")
    assert (caught.value.file, caught.value.line, caught.value.cause) == (str(lua.path), 3, "here")


# ---- the end of a route


@pytest.mark.parametrize(
    "body",
    [
        "pcall(KSR.x.exit)",
        "pcall(pcall, KSR.lab.leave)",
        "xpcall(KSR.x.exit, function() show(9) end)",
        "xpcall(error, function() KSR.x.exit() end)",
        "coroutine.resume(coroutine.create(KSR.x.exit))",
        "pcall(coroutine.wrap(function() KSR.lab.leave() end))",
        "for _ in coroutine.wrap(function() KSR.x.exit() end) do end",
        "pcall(string.gsub, 'a', '.', function() KSR.x.exit() end)",
        "pcall(load, function() KSR.x.exit() end)",
        "pcall(require, 'exits')",
        "pcall(dofile, 'exits.lua')",
        "pcall(os.exit)",
        "error('~~ksr~exit~~', 0)",
    ],
)
def test_an_exit_gets_through_everything_that_catches_errors(lua: Bench, tmp_path: Path, body: str) -> None:
    (tmp_path / "exits.lua").write_text("KSR.x.exit()")
    lua.route(lua=f"{body} show('still here')")
    assert lua.seen == []


def test_errors_are_caught_as_lua_does(lua: Bench) -> None:
    lua.route(
        lua="""
        show(pcall(function(...) return ... end, 1, nil, "x"))
        show(pcall(error, {}))
        show(pcall(error))
        show(pcall(error, "~~ksr~exit~~ not"))
        show(xpcall(function(a, b) return a + b end, print, 1, 2))
        show(xpcall(function() error("e", 0) end, function(e) return e .. "!" end))
        """
    )
    assert lua.seen == [
        *("true", "num 1", "null", "str x"),
        *("false", "table"),
        *("false", "null"),
        *("false", "str ~~ksr~exit~~ not"),
        *("true", "num 3"),
        *("false", "str e!"),
    ]


def test_coroutines_work_as_in_lua(lua: Bench) -> None:
    lua.route(
        lua="""
        local co = coroutine.create(function(a) local b = coroutine.yield(a + 1) error({b}) end)
        show(coroutine.resume(co, 1))
        local ok, e = coroutine.resume(co, 5)
        show(ok, e[1], coroutine.status(co))
        show(coroutine.resume(co))
        local wrapped = coroutine.wrap(function() for i = 1, 2 do coroutine.yield(KSR.lab.number(i)) end end)
        show(wrapped(), wrapped())
        show(pcall(coroutine.wrap(function() error("x", 0) end)))
        """
    )
    assert lua.seen[:9] == [
        "true",
        "num 2",
        "false",
        "num 5",
        "str dead",
        "false",
        "str cannot resume dead coroutine",
        "num 1",
        "num 2",
    ]


def test_a_route_block_may_be_run_from_inside_of_a_coroutine(lua: Bench, caplog: pytest.LogCaptureFixture) -> None:
    lua.script(
        lua="""
        function ksr_request_route()
            local co = coroutine.wrap(function()
                local n = KSR.lab.block("BRANCH")
                KSR.lab.pair(n)
                coroutine.yield(n)
                KSR.x.exit()
            end)
            show(co())
            co()
            show(2)
        end
        function BRANCH() collectgarbage() show(coroutine.wrap(function() return KSR.lab.number(8) end)()) end
        """
    )
    for _ in range(200):
        lua.call()
        assert lua.seen == ["num 8", "block BRANCH over", "num 1"]
    assert len(caplog.messages) == 200
    assert caplog.messages[-1].endswith(f"{lua.path}:5")


def test_the_route_itself_is_no_coroutine_to_the_script(lua: Bench) -> None:
    lua.route(lua="show(coroutine.running(), coroutine.isyieldable()) show(pcall(coroutine.yield, 1))")
    assert lua.seen == ["null", "false", "false", "str attempt to yield across C-call boundary"]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("error('x')", "x"),
        ("error('x', 0)", "x"),
        ("error('')", ""),
        ("error(5)", "5"),
        ("error({})", "(error object is a table value)"),
        ("error()", "(error object is a nil value)"),
        ("error('~~ksr~exit~~')", "~~ksr~exit~~"),
        ("KSR.auth.x()", "attempt to index field 'auth' (a nil value)"),
    ],
)
def test_any_error_value_is_a_script_error_with_the_line(lua: Bench, body: str, cause: str) -> None:
    with pytest.raises(ScriptError) as caught:
        lua.route(lua=body)
    assert (caught.value.file, caught.value.line, caught.value.cause) == (str(lua.path), 3, cause)
    assert "polykemi" not in caught.value.traceback


def test_a_recursion_without_end_is_a_script_error(lua: Bench) -> None:
    lua.script(lua="function ksr_request_route() return 1 + ksr_request_route() end")
    with pytest.raises(ScriptError, match="stack overflow"):
        lua.call()
    lua.route(lua="show(1)")
    assert lua.seen == ["num 1"]


# ---- limits


@pytest.mark.parametrize(
    "loop",
    [
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() end) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do pcall(KSR.lab.broken) end",
        "pcall(string.gsub, 'a', '.', function() while true do end end)",
    ],
)
def test_the_time_limit_gets_through_everything_that_catches_errors(tmp_path: Path, loop: str) -> None:
    lua = Bench("lua", tmp_path, Limits(seconds=0.02))
    with pytest.raises(ScriptError, match="time limit reached") as caught:
        lua.route(lua=loop)
    assert caught.value.line == 3


def test_the_time_limit_holds_while_a_script_loads(tmp_path: Path) -> None:
    lua = Bench("lua", tmp_path, Limits(seconds=0.02))
    with pytest.raises(ScriptLoadError, match=r"route\.lua:2: time limit reached"):
        lua.script(lua="while true do end")


def test_without_limits_a_long_route_ends_by_itself(tmp_path: Path) -> None:
    lua = Bench("lua", tmp_path, Limits(seconds=0))
    lua.route(lua="for i = 1, 1000000 do end show(1)")
    assert lua.seen == ["num 1"]


MEMORY = 8 << 20


def test_garbage_does_not_count_against_the_memory_limit(tmp_path: Path) -> None:
    lua = Bench("lua", tmp_path, Limits(seconds=20.0, memory=MEMORY))
    lua.route(lua="for i = 1, 300000 do local t = ('x'):rep(100) .. i end show(1)")
    assert lua.seen == ["num 1"]


@pytest.mark.parametrize(
    "body",
    [
        "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(100) .. i end",
        "local t = {} while true do pcall(function() while true do t[#t + 1] = ('x'):rep(100) .. #t end end) end",
        "local s = 'x' for i = 1, 40 do s = s .. s end",
        "local s = ('x'):rep(1e9)",
    ],
)
def test_a_route_that_takes_too_much_memory_is_stopped_and_the_next_one_runs(tmp_path: Path, body: str) -> None:
    lua = Bench("lua", tmp_path, Limits(seconds=20.0, memory=MEMORY))
    with pytest.raises(ScriptMemory, match="memory limit reached"):
        lua.route(lua=body)
    lua.route(lua="show(1)")
    assert lua.seen == ["num 1"]


class Big:
    """KSR.big: a function with long results."""

    name = "big"

    @export()
    def text(self, ctx: RouteContext, number: int) -> Xval:
        """Return a text of 60,000 octets."""
        return f"{number:060000}"


@pytest.mark.parametrize("call", ["KSR.big.text(i)", "select(2, pcall(KSR.big.text, i))"])
def test_the_memory_may_end_while_a_result_of_ksr_is_taken(tmp_path: Path, call: str) -> None:
    current = Current()
    host = Host(Registry([Big()]), current, drive=lambda _: None, limits=Limits(seconds=20.0, memory=MEMORY))
    script = tmp_path / "a.lua"
    script.write_text(
        f"function ksr_request_route() local t = {{}} for i = 1, 1000 do t[i] = {call} end end\n"
        "function good() n = KSR.big.text(1) end"
    )
    engine = LuaEngine(host)
    loaded = engine.load(script)
    current.ctx = RouteContext(Route.REQUEST, "ksr_request_route", OPTIONS, FLOW, 1_800_000_000.0)
    for _ in range(3):
        with pytest.raises(ScriptMemory, match="memory limit reached"):
            loaded.call("ksr_request_route")
        loaded.call("good")
    engine.close()


def test_a_script_that_holds_all_memory_ends_before_anything_is_put_into_it(tmp_path: Path) -> None:
    lua = Bench("lua", tmp_path, Limits(seconds=20.0, memory=MEMORY))
    lua.script(
        lua="""
        function ksr_request_route()
            kept = kept or {}
            kept[1] = ("x"):rep(8000000) kept[2] = ("y"):rep(8000000) kept[3] = nil
            local free = 3 * 8388608 - collectgarbage("count") * 1024 - 20000
            kept[3] = ("z"):rep(free)
        end
        function event(name) show(name, kept) end
        """
    )
    lua.call()
    with pytest.raises(ScriptMemory):
        lua.call("event", "a name that was never heard of")
    lua.call("event", "another")
    assert lua.seen == ["str another", "null"]


class Late:
    """KSR.late: the time of the route is over as it returns."""

    name = "late"
    script: LuaScript

    @export()
    def now(self, ctx: RouteContext) -> int:
        """Do what the watch does."""
        self.script.deadline = 1e-9
        assert self.script.pace is not None
        self.script.pace.hurry()
        return 1


def test_a_coroutine_that_the_time_limit_has_ended_does_not_count_as_depth(tmp_path: Path) -> None:
    late, current = Late(), Current()
    engine = LuaEngine(Host(Registry([late]), current, drive=lambda _: None, limits=Limits(seconds=20.0)))
    file = tmp_path / "a.lua"
    file.write_text(
        "function ksr_request_route() coroutine.wrap(KSR.late.now)() end\n"
        "function good() return coroutine.wrap(function() return 1 end)() end"
    )
    script = late.script = engine.load(file)
    current.ctx = RouteContext(Route.REQUEST, "ksr_request_route", OPTIONS, FLOW, 1_800_000_000.0)
    for _ in range(200):
        with pytest.raises(ScriptTimeout):
            script.call("ksr_request_route")
    assert script.invoke("good", ()) == 1
    engine.close()


def test_a_script_that_keeps_too_much_is_started_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lua = Bench("lua", tmp_path, Limits(seconds=20.0, memory=MEMORY))
    (tmp_path / "part.lua").write_text("return 'part'")
    lua.script(
        lua="""
        part, kept = require "part", {}
        function ksr_request_route() for i = 1, 1e9 do kept[#kept + 1] = ("x"):rep(100) .. i end end
        function count() show(#kept, part) end
        """
    )
    lua.path.write_text("not lua any more")
    (tmp_path / "part.lua").unlink()
    for _ in range(3):
        with pytest.raises(ScriptMemory):
            lua.call()
        lua.call("count")
        assert lua.seen == ["num 0", "str part"]
    assert "started anew" in caplog.text


# ---- life


def test_print_goes_to_the_log(lua: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        lua.route(lua="print('a', 1, nil, true)")
    assert caplog.messages == ["a\t1\tnil\ttrue"]


def test_libraries_that_scripts_use_are_there(lua: Bench) -> None:
    lua.route(
        lua="""
        show(KSRVERSION, type(os.time()), type(os.date()), type(os.clock()), bit.band(6, 3), math.floor(1.5))
        show(type(debug.traceback("x")), collectgarbage("count") > 0, collectgarbage(), collectgarbage("stop"))
        show(package.path:find("?.lua", 1, true) ~= nil, _VERSION)
        """
    )
    assert lua.seen == [
        *("str 2.0", "str number", "str string", "str number", "num 2", "num 1"),
        *("str string", "true", "num 0", "num 0", "true", "str Lua 5.1"),
    ]


def test_the_engine_may_be_called_from_another_thread_than_the_one_that_made_it(lua: Bench) -> None:
    lua.script(lua="function ksr_request_route() pcall(KSR.lab.broken) show(KSR.lab.text('x')) KSR.x.exit() end")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(100):
                lua.call()
        except BaseException as error:  # noqa: BLE001 - the test's thread reports it
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert lua.seen == ["str x"] * 100


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("call", ["KSR.lab.text({})", "KSR.lab.text('x', {})", "KSR.lab.broken({})"])
@pytest.mark.parametrize("inside", ["%s", "coroutine.wrap(function() %s end)()", "pcall(function() %s end)"])
def test_what_a_script_passes_is_gone_with_the_call(tmp_path: Path, strict: bool, call: str, inside: str) -> None:
    # lupa's objects use the Lua thread that made the call when they go, and Lua may have freed that
    def tables() -> int:
        return sum(type(one).__name__ == "_LuaTable" for one in gc.get_objects())

    lua = Bench("lua", tmp_path, Limits(5.0), strict=strict)
    lua.script(lua="function ksr_request_route() " + inside % call + " end")
    errors = []
    gc.collect()
    gc.disable()
    try:
        before = tables()
        for _ in range(3):
            with contextlib.suppress(ScriptError):
                lua.call()
            errors.append(sys.exc_info())
        assert tables() == before
    finally:
        gc.enable()


@pytest.mark.pure
def test_a_reload_gives_the_old_script_back(lua: Bench) -> None:
    states: list[weakref.ref[Any]] = []
    for _ in range(5):
        lua.route(lua="show(1)")
        assert isinstance(lua.loaded, LuaScript)
        states.append(weakref.ref(lua.loaded._state))
    gc.collect()
    assert [state() is None for state in states] == [True] * 4 + [False]
    lua.engine.close()
    assert not lua.loaded.has("ksr_request_route")
    with pytest.raises(ScriptError, match="the script is closed"):
        lua.call()


def test_a_call_after_a_reload_runs_the_new_script(lua: Bench) -> None:
    lua.script(lua="function ksr_request_route() show(1) end")
    lua.call()
    lua.script(lua="function ksr_request_route() show(2) end")
    lua.call()
    assert lua.seen == ["num 1", "num 2"]


# ---- modules


def test_cjson_writes_what_lua_cjson_writes(lua: Bench) -> None:
    lua.route(
        lua=r"""
        local cjson = require "cjson"
        show(cjson.encode({1, "two", true, cjson.null, {}}), cjson.encode({a = 1.5}), cjson.encode("/\"\n\1\127\200"))
        show(cjson.encode({[1] = 1, [3] = 3}), cjson.encode({[5] = "x", y = 1} and {[0] = "x"}), cjson.encode(1e15))
        show(cjson.encode(0.1), cjson.encode(nil), cjson.encode(false))
        show(select(2, pcall(cjson.encode, {[1] = 1, [100] = 2})), select(2, pcall(cjson.encode, print)))
        show(select(2, pcall(cjson.encode, 0 / 0)), select(2, pcall(cjson.encode, {[true] = 1})))
        local deep = {} deep.deep = deep
        show(select(2, pcall(cjson.encode, deep)))
        """
    )
    assert lua.seen == [
        'str [1,"two",true,null,{}]',
        'str {"a":1.5}',
        'str "\\/\\"\\n\\u0001\\u007f\xc8"',
        "str [1,null,3]",
        'str {"0":"x"}',
        "str 1e+15",
        "str 0.1",
        "str null",
        "str false",
        "str Cannot serialise table: excessively sparse array",
        "str Cannot serialise function: type not supported",
        "str Cannot serialise number: must not be NaN or Inf",
        "str Cannot serialise table: table key must be a number or string",
        "str Cannot serialise, excessive depth (1001)",
    ]


def test_cjson_reads_json(lua: Bench) -> None:
    lua.route(
        lua=r"""
        local cjson = require "cjson"
        local t = cjson.decode(' {"a": [1, -2.5e1, true, null], "b": {"c": "x\\u00e9\\ud83d\\ude00\\/\\n"}, "d": []} ')
        show(t.a[1], t.a[2], t.a[3], t.a[4] == cjson.null, #t.a, t.b.c, next(t.d))
        show(cjson.decode("12"), cjson.decode('"x"'), type(cjson.null), cjson.encode(cjson.decode("[[],{},[{}]]")))
        """
    )
    assert lua.seen == [
        *("num 1", "num -25", "true", "true", "num 4", "str x\xc3\xa9\xf0\x9f\x98\x80/\n", "null"),
        *("num 12", "str x", "str userdata", "str [{},{},[{}]]"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Expected value but found T_END at character 1"),
        ("{", "Expected object key string but found T_END at character 2"),
        ("[1", "Expected comma or array end but found T_END at character 3"),
        ("[1 2]", "Expected comma or array end but found T_NUMBER at character 4"),
        ('{"a" 1}', "Expected colon but found T_NUMBER at character 6"),
        ('{"a":}', "Expected value but found T_OBJ_END at character 6"),
        ("[1,]", "Expected value but found T_ARR_END at character 4"),
        ("nope", "Expected value but found invalid token at character 1"),
        ("1 2", "Expected the end but found T_NUMBER at character 3"),
        ('"abc', "Expected value but found unexpected end of string at character 5"),
        ('"\\\\x"', "Expected value but found invalid escape code at character 2"),
        ("[" * 1001, "Found too many nested data structures (1001) at character 1001"),
    ],
)
def test_cjson_says_what_is_wrong_with_a_text(lua: Bench, text: str, problem: str) -> None:
    lua.route(
        lua=f"""
        show(select(2, pcall(require("cjson").decode, '{text}')))
        show(require("cjson.safe").decode('{text}'))
        """
    )
    assert lua.seen == [f"str {problem}", "null", f"str {problem}"]


def test_cjson_has_the_settings_of_lua_cjson(lua: Bench) -> None:
    lua.route(
        lua="""
        local cjson, safe = require("cjson").new(), require("cjson.safe")
        cjson.encode_sparse_array(true)
        cjson.encode_number_precision(3)
        cjson.encode_invalid_numbers("null")
        show(cjson.encode({[100] = 1 / 3}), cjson.encode(1 / 0), require("cjson").encode(1 / 3))
        show(safe.encode(print))
        show(safe.new().decode("[1]")[1], require("cjson") == require("cjson"), cjson._VERSION)
        """
    )
    assert lua.seen == [
        *('str {"100":0.333}', "str null", "str 0.33333333333333", "null"),
        *("str Cannot serialise function: type not supported", "num 1", "true", "str 2.1.0"),
    ]


def test_modules_are_found_by_the_configured_path(tmp_path: Path) -> None:
    library = tmp_path / "library"
    (library / "deep").mkdir(parents=True)
    (library / "deep" / "tools.lua").write_text("return {name = ...}")
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "part").mkdir()
    (tmp_path / "script" / "part" / "init.lua").write_text("return 'part'")
    script = tmp_path / "script" / "a.lua"
    script.write_text(
        'local tools = require "deep.tools"\nassert(tools.name == "deep.tools" and require "part" == "part")\n'
        "function ksr_request_route() end"
    )
    (tmp_path / "polykemi.toml").write_text(f"[engines.lua]\nscript = '{script}'\npath = ['library/?.lua']\n")
    settings = config.load(tmp_path / "polykemi.toml")
    assert settings.engines[0].limits.path == (f"{library}/?.lua",)
    current = Current()
    host = Host(Registry([]), current, drive=lambda _: None, limits=settings.engines[0].limits)
    engine = LuaEngine(host)
    assert engine.load(script).has("ksr_request_route")
    with pytest.raises(ScriptLoadError, match=r"module 'deep.tools' not found:"):
        LuaEngine(Host(Registry([]), current, drive=lambda _: None)).load(script)
    (tmp_path / "polykemi.toml").write_text(f"[engines.lua]\nscript = '{script}'\npath = ['library']\n")
    with pytest.raises(ConfigError, match=r"path: expected patterns such as /usr/share/lua/5\.1/\?\.lua, got"):
        config.load(tmp_path / "polykemi.toml")


# ---- what the configuration allows


def allowing(tmp_path: Path, *names: str) -> Bench:
    """Return a bench whose script may reach ``names``."""
    return Bench("lua", tmp_path, Limits(seconds=5.0), allow=frozenset(names))


def test_what_is_allowed_is_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("content")
    allowed = allowing(tmp_path, "io", "os")
    allowed.route(
        lua=f"show(io.open('{tmp_path}/a.txt'):read('*a')) show(os.getenv('HOME') ~= nil) show(python) show(ffi)"
    )
    allowed.route(lua="show(debug.getinfo) show(package.loadlib) show((pcall(require, 'ffi')))")
    assert allowed.seen == ["str content", "true", "null", "null", "null", "null", "false"]


def test_an_exit_ends_the_route_with_os_too(tmp_path: Path) -> None:
    allowed = allowing(tmp_path, "os")
    allowed.route(lua="show(1) os.exit(3) show(2)")
    assert allowed.seen == ["num 1"]


def test_with_package_modules_are_found_anywhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "found.lua").write_text("return 'here'")
    (tmp_path / "script").mkdir()
    allowed = allowing(tmp_path / "script", "package")
    allowed.route(
        lua=f"package.path = package.path .. ';{tmp_path}/elsewhere/?.lua' show(require('found')) show(package.cpath ~= '')"
    )
    assert allowed.seen == ["str here", "true"]


def test_ffi_debug_jit_and_python_are_there_when_they_are_allowed(tmp_path: Path) -> None:
    allowed = allowing(tmp_path, "ffi", "debug", "jit", "python")
    allowed.route(
        lua="show(require('ffi').sizeof('int')) show(debug.getinfo(1).currentline > 0) show(jit.version_num > 20000)"
    )
    allowed.route(lua="show(tostring(python.eval('1 + 1')))")
    assert allowed.seen == ["num 4", "true", "true", "str 2"]
