"""What is told of a script when it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from polykemi.kemi.inspection import inspect
from polykemi.testing import ServerUnderTest

FUNCTIONS = {"KSR.info", "KSR.pv.get", "KSR.pv.sets", "KSR.pv.is_null", "KSR.sl.send_reply"}
SCRIPTS = {
    "lua": """\
-- KSR.comment.one("x")
--[[ KSR.comment.two("x")
KSR.comment.three("x") ]]
local text = "KSR.text.one()" .. 'KSR.text.two()' .. [[KSR.text.three()]]
if KSR.maybe then KSR.sl.send_reply(200, "it's OK") end
KSR.nothing.at_all("x")
KSR.nothing.at_all("again")
KSR.no_core ( 1 )
KSR.pv.get("$rU") KSR.pv.get("$nope") KSR.pv.sets("$hdr(", "x")
KSR.pv.get("$sht(a=>" .. text .. ")")
my.KSR.other.one()
""",
    "js": """\
// KSR.comment.one("x")
/* KSR.comment.two("x")
KSR.comment.three("x") */
const text = "KSR.text.one()" + 'KSR.text.two()' + `KSR.text.three()`;
if (KSR.maybe) KSR.sl.send_reply(200, "it's OK");
KSR_nothing.at_all("x");
KSR.nothing.at_all("again");
KSR.no_core ( 1 );
KSR.pv.get("$rU"); KSR.pv.get("$nope"); KSR.pv.sets("$hdr(", "x");
KSR.pv.get("$sht(a=>" + text + ")");
my.KSR.other.one();
""",
    "python": """\
# KSR.comment.one("x")
\'\'\' KSR.comment.two("x")
KSR.comment.three("x") \'\'\'
text = "KSR.text.one()" + 'KSR.text.two()' + f"KSR.text.three()"
if hasattr(KSR, "maybe"): KSR.sl.send_reply(200, "it's OK")
KSR.nothing.at_all("x")
KSR.nothing.at_all("again")
KSR.no_core ( 1 )
KSR.pv.get("$rU"); KSR.pv.get("$nope"); KSR.pv.sets("$hdr(", "x")
KSR.pv.get(f"$sht(a=>{text})")
my.KSR.other.one()
""",
}


def problem(name: str) -> str | None:
    """Know one variable."""
    return None if name in ("$rU", "$si") else "there is none"


@pytest.mark.parametrize("language", SCRIPTS)
def test_calls_and_variables_that_are_not_there_are_told_once_with_their_line(tmp_path: Path, language: str) -> None:
    script = tmp_path / "script"
    script.write_text(SCRIPTS[language])
    assert [str(one) for one in inspect(script, language, FUNCTIONS, problem, lambda kind, name: True)] == [
        f"{script}:6: there is no function KSR.nothing.at_all",
        f"{script}:8: there is no function KSR.no_core",
        f"{script}:9: '$nope' is no variable: there is none",
        f"{script}:9: '$hdr(' is no variable: there is none",
    ]


@pytest.mark.parametrize(
    ("language", "main", "other"),
    [
        ("lua", "local t = require 'lib.tools'", "lib/tools.lua"),
        ("lua", "dofile('tools.lua')", "tools.lua"),
        ("js", "const t = require('./lib/tools.js');", "lib/tools.js"),
        ("js", "const t = require('./tools');", "tools.js"),
        ("python", "import tools", "tools.py"),
        ("python", "from lib.tools import one", "lib/tools.py"),
    ],
)
def test_files_that_a_script_loads_are_looked_into(tmp_path: Path, language: str, main: str, other: str) -> None:
    script, part = tmp_path / "script", tmp_path / other
    part.parent.mkdir(exist_ok=True)
    script.write_text(main)
    part.write_text("\n\nKSR.nothing.at_all()")
    assert [str(one) for one in inspect(script, language, FUNCTIONS, problem, lambda kind, name: True)] == [
        f"{part}:3: there is no function KSR.nothing.at_all"
    ]


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("KSR.sl.sen_reply", ", did you mean KSR.sl.send_reply?"),
        ("KSR.siputils.is_method", ", did you mean KSR.is_method?"),
        ("KSR.siptrace.sip_trace", ", one of Kamailio's that is not here or not loaded"),
        ("KSR.own.thing", ""),
    ],
)
def test_what_is_not_there_is_told_with_what_may_be_meant(tmp_path: Path, call: str, hint: str) -> None:
    script = tmp_path / "script"
    script.write_text(f"{call}()")
    (finding,) = inspect(
        script,
        "lua",
        ["KSR.sl.send_reply", "KSR.siputils.is_user", "KSR.is_method"],
        lambda name: None,
        lambda kind, name: True,
    )
    assert str(finding) == f"{script}:1: there is no function {call}{hint}"


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("lua", "if KSR.pike and not KSR.pike.pike_check_req() then end", 0),
        ("js", "if (!KSR.pike || KSR.pike.pike_check_req() > 0) {}", 0),
        ("python", "if hasattr(KSR, 'pike'): KSR.pike.pike_check_req()", 0),
        ("lua", "if KSR.pike.pike_check_req() then end", 1),
        ("lua", "if KSR.sl then KSR.sl.sen_reply() end", 1),
    ],
)
def test_a_module_that_the_script_asks_for_may_be_missing(tmp_path: Path, language: str, text: str, count: int) -> None:
    script = tmp_path / "script"
    script.write_text(text)
    assert len(inspect(script, language, ["KSR.sl.send_reply"], lambda name: None, lambda kind, name: True)) == count


def test_a_file_that_is_gone_has_nothing_wrong(tmp_path: Path) -> None:
    assert inspect(tmp_path / "none.lua", "lua", FUNCTIONS, problem, lambda kind, name: True) == []


OPTIONS = (
    b"OPTIONS sip:bob@example.test SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1\r\n"
    b"From: <sip:alice@example.test>;tag=a\r\nTo: <sip:bob@example.test>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)


@pytest.mark.parametrize("engine", ["lua", "js", "python"])
def test_a_server_tells_of_its_scripts_once_at_load_and_once_at_run_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, engine: str
) -> None:
    script = tmp_path / f"script.{ {'lua': 'lua', 'js': 'js', 'python': 'py'}[engine] }"
    body = {
        "lua": 'function ksr_request_route()\n  KSR.pv.get("$nope")\n  KSR.no.such()\nend\n',
        "js": 'function ksr_request_route() {\n  KSR.pv.get("$nope");\n  KSR.no.such();\n}\n',
        "python": 'import KSR\ndef ksr_request_route():\n  KSR.pv.get("$nope")\n  KSR.no.such()\n',
    }[engine]
    script.write_text(body)
    line = 3 if engine == "python" else 2
    with ServerUnderTest({engine: script}, domains=["example.test"]) as server:
        assert [r.getMessage() for r in caplog.records] == [
            f"{script}:{line}: '$nope' is no variable: there is no $nope",
            f"{script}:{line + 1}: there is no function KSR.no.such",
        ]
        caplog.clear()
        server.receive(OPTIONS, "192.0.2.10:5060")
        server.receive(OPTIONS.replace(b"z9hG4bK1", b"z9hG4bK2"), "192.0.2.10:5060")
    errors = [r.getMessage() for r in caplog.records]
    assert errors.count(f"'$nope' is no variable: there is no $nope, at {script}:{line}") == 1
    assert (
        sum(one.startswith(f"script error in request_route ksr_request_route: {script}:{line + 1}") for one in errors)
        == 2
    )


@pytest.mark.parametrize("engine", ["lua", "js", "python"])
def test_names_without_end_are_warned_of_once_with_the_line_that_makes_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, engine: str
) -> None:
    script = tmp_path / f"script.{ {'lua': 'lua', 'js': 'js', 'python': 'py'}[engine] }"
    script.write_text(
        {
            "lua": 'function ksr_request_route()\n  for i = 1, 300 do\n    KSR.pv.get("$var(" .. i .. ")")\n  end\nend\n',
            "js": 'function ksr_request_route() {\n  for (var i = 0; i < 300; i++)\n    KSR.pv.get("$var(" + i + ")");\n}\n',
            "python": 'def ksr_request_route():\n  for i in range(300):\n    KSR.pv.get(f"$var({i})")\nimport KSR\n',
        }[engine]
    )
    modules = {"pv": {"pv_cache_limit": 100}}
    with ServerUnderTest({engine: script}, domains=["example.test"], modules=modules) as server:
        server.receive(OPTIONS, "192.0.2.10:5060")
        variables = server.node.services.variables
        assert len(variables._accessors) == len(variables.getters) == 100
    (warning,) = [r.getMessage() for r in caplog.records]
    assert warning.startswith(f"over 100 different variable names, at {script}:3: the oldest are forgotten")
