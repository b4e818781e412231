"""One server, three languages: request_route in Lua, reply_route in JavaScript, failure_route in Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.config import RouteSettings
from polykemi.kemi.route import Route
from polykemi.sip.build import response
from polykemi.sip.message import Request, parse
from polykemi.testing import ServerUnderTest

LUA = """
function ksr_request_route()
  KSR.hdr.append("X-Request: lua\\r\\n")
  KSR.tm.t_on_failure("ksr_failure_manage")
  KSR.tm.t_on_branch("ksr_branch_manage")
  KSR.pv.sets("$du", "sip:192.0.2.20:5060")
  KSR.tm.t_relay()
end
"""
JS = """
function ksr_reply_route() {
  KSR.hdr.append("X-Reply: js\\r\\n");
  if (KSR.kx.get_status() === 183) KSR.x.drop();
}
function ksr_branch_manage() { KSR.hdr.append("X-Branch: js\\r\\n"); }
"""
PYTHON = """
import KSR

def ksr_failure_manage():
    KSR.tm.t_reply(480, "Python says no")
"""
INVITE = (
    b"INVITE sip:bob@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
    b"From: <sip:alice@example.test>;tag=a\r\nTo: <sip:bob@example.test>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.10>\r\nContent-Length: 0\r\n\r\n"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerUnderTest]:
    """A server with a script in each language, each with route blocks of its own."""
    scripts = {"lua": tmp_path / "r.lua", "js": tmp_path / "r.js", "python": tmp_path / "r.py"}
    for source, path in zip((LUA, JS, PYTHON), scripts.values(), strict=True):
        path.write_text(source)
    routes = RouteSettings(
        default="lua",
        by_kind={Route.REPLY: "js", Route.BRANCH: "js"},
        by_name={(Route.FAILURE, "ksr_failure_manage"): "python"},
    )
    with ServerUnderTest(scripts, routes=routes, domains=["example.test"]) as under_test:
        yield under_test


def test_each_route_block_runs_in_the_language_that_the_configuration_names(server: ServerUnderTest) -> None:
    trying, forwarded = server.receive(INVITE, "192.0.2.10:5060")
    assert trying.start_line == "SIP/2.0 100 Trying"
    assert forwarded.to == "192.0.2.20:5060"
    assert b"\r\nX-Request: lua\r\n" in forwarded.data
    assert b"\r\nX-Branch: js\r\n" in forwarded.data
    request = parse(forwarded.data)
    assert isinstance(request, Request)
    assert server.receive(response(request, 183, "Progress", to_tag="b"), "192.0.2.20:5060") == []
    (ringing,) = server.receive(response(request, 180, "Ringing", to_tag="b"), "192.0.2.20:5060")
    assert b"\r\nX-Reply: js\r\n" in ringing.data
    sent = server.receive(response(request, 486, "Busy Here", to_tag="b"), "192.0.2.20:5060")
    assert [s.start_line for s in sent] == ["ACK sip:bob@example.test SIP/2.0", "SIP/2.0 480 Python says no"]


# ---- functions of one script that another calls

CALLS = {
    "lua": """
kept = 0
function twice(text) kept = kept + 1 return text .. text end
function number() return 42 end
function nothing() KSR.pv.sets("$var(seen)", "lua") end
function ends() KSR.x.exit() end
function fails() error("broken") end
function three(a, b, c) return a .. b .. c end
function ksr_request_route()
%s
end
""",
    "js": """
var kept = 0;
function twice(text) { kept++; return text + text; }
function number() { return 42; }
function nothing() { KSR.pv.sets("$var(seen)", "js"); }
function ends() { KSR.x.exit(); }
function fails() { throw new Error("broken"); }
function three(a, b, c) { return a + b + c; }
function ksr_request_route() {
%s
}
""",
    "python": """
import KSR
import sys

def twice(text): return text + text
def number(): return 42
def nothing(): KSR.pv.sets("$var(seen)", "python")
def ends(): sys.exit()
def fails(): raise ValueError("broken")
def method(msg, text): return msg.Method + text
def ksr_request_route():
%s
""",
}
FROM = {
    "lua": "    KSR.is_method(tostring(%s))",
    "js": "    KSR.is_method(String(%s));",
    "python": "    KSR.is_method(str(%s))",
}


def calls(tmp_path: Path, engine: str, expressions: list[str]) -> list[str]:
    """Return what a request route in ``engine`` gets, where each engine has a script."""
    scripts = {}
    for name, suffix in (("lua", "lua"), ("js", "js"), ("python", "py")):
        body = "\n".join(FROM[engine] % one for one in expressions) if name == engine else FROM[name] % '"x"'
        scripts[name] = tmp_path / f"calls.{suffix}"
        scripts[name].write_text(CALLS[name] % body)
    (tmp_path / "part.txt").write_text('KSR.pv.sets("$var(seen)", "file")')
    with ServerUnderTest(scripts, routes=RouteSettings(default=engine), domains=["example.test"]) as server:
        server.receive(INVITE, "192.0.2.10:5060")
        return [call.arguments[0] for call in server.calls if call.path == "KSR.is_method"]


@pytest.mark.parametrize("engine", ["lua", "js", "python"])
@pytest.mark.parametrize("target", ["app_lua", "app_jsdt"])
def test_a_script_calls_functions_of_a_script_in_another_language(tmp_path: Path, engine: str, target: str) -> None:
    ksr = f"KSR.{target}"
    assert calls(
        tmp_path,
        engine,
        [
            f'{ksr}.run_p1("twice", "Jürgen")',
            f'{ksr}.run_p1("twice", "{"x" * 9000}")',
            f'{ksr}.run("number")',
            f'{ksr}.run("nothing")',
            'KSR.pv.get("$var(seen)")',
            f'{ksr}.run("ends")',
            f'{ksr}.run("fails")',
            f'{ksr}.run("none")',
            f'{ksr}.run_p3("three", "a", "b", "c")',
            f"{ksr}.runstring(\"kept = 7; KSR.pv.seti('$var(seen)', kept)\")",
            'KSR.pv.get("$var(seen)")',
            f"{ksr}.dostring(\"KSR.pv.sets('$var(seen)', 'text')\")",
            f'{ksr}.dostring("twice(1)")',
            'KSR.pv.get("$var(seen)")',
            f'{ksr}.runstring("return (")',
            f'{ksr}.dofile("part.txt")',
            f'{ksr}.dofile("none.txt")',
            'KSR.pv.get("$var(seen)")',
        ],
    ) == [
        "J\xc3\xbcrgenJ\xc3\xbcrgen",
        "x" * 18000,
        "42",
        "1",
        "lua" if target == "app_lua" else "js",
        "1",
        "-1",
        "-1",
        "abc",
        "1",
        "7",
        "1",
        "-1",
        "text",
        "-1",
        "1",
        "-1",
        "file",
    ]


@pytest.mark.parametrize("engine", ["lua", "js", "python"])
def test_a_script_calls_functions_of_a_python_script(tmp_path: Path, engine: str) -> None:
    ksr = "KSR.app_python3"
    assert calls(
        tmp_path,
        engine,
        [
            f'{ksr}.exec_p1("twice", "Jürgen")',
            f'{ksr}.exec("number")',
            f'{ksr}.execx("nothing")',
            'KSR.pv.get("$var(seen)")',
            f'{ksr}.exec("ends")',
            f'{ksr}.exec("fails")',
            f'{ksr}.exec("none")',
            f'{ksr}.exec_p1("method", "!")',
            'KSR.app_python3s.exec("number")',
        ],
    ) == ["J\xc3\xbcrgenJ\xc3\xbcrgen", "42", "-1", "python", "-1", "-1", "-1", "INVITE!", "42"]


def test_an_engine_that_waits_is_not_entered_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scripts = {"lua": tmp_path / "a.lua", "js": tmp_path / "a.js"}
    scripts["lua"].write_text(
        'function ksr_request_route()\n KSR.is_method(tostring(KSR.app_jsdt.run("there")))\nend\nfunction back() return 5 end'
    )
    scripts["js"].write_text('function there() { return 10 + KSR.app_lua.run("back"); }')
    with ServerUnderTest(scripts, routes=RouteSettings(default="lua"), domains=["example.test"]) as server:
        server.receive(INVITE, "192.0.2.10:5060")
        assert [call.arguments[0] for call in server.calls if call.path == "KSR.is_method"] == ["9"]
    assert f"called at {scripts['js']}:1: lua: back: lua is waiting for js" in caplog.text
