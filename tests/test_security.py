"""What scripts cannot reach, what messages cannot make them do, and what the sample scripts do not relay."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from polykemi.modules.cfgutils import Cfgutils
from polykemi.modules.corex_files import Files
from polykemi.modules.xmlrpc import _BadDocument, _call
from polykemi.sip.flow import Listener
from polykemi.storage.provisioned import Database
from polykemi.testing import Sent, ServerUnderTest
from tests.support import message, request_context, services

ROUTES = Path(__file__).parent.parent / "routes"
UDP, TCP = Listener("udp", "192.0.2.1", 5060), Listener("tcp", "192.0.2.1", 5060)
EXTENSIONS = {"lua": "lua", "js": "js", "python": "py"}


def shown(directory: Path, scripts: Mapping[str, str], data: bytes = b"", **more: Any) -> tuple[list[str], list[Sent]]:
    """Run ``data`` through scripts that show texts with KSR.is_method; return these, in order, and what has left."""
    paths = {}
    for engine, script in scripts.items():
        paths[engine] = directory / f"script.{EXTENSIONS[engine]}"
        paths[engine].write_text(script)
    with ServerUnderTest(paths, domains=["example.test"], **more) as server:
        sent = server.receive(data or message("OPTIONS sip:example.test SIP/2.0"), "192.0.2.10:5060")
        assert "core.internal_errors" not in server.node.services.counters
        return [call.arguments[0] for call in server.calls if call.path == "KSR.is_method"], sent


# ---- files
@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of the directory ``inside``, which has a symbolic link to it."""
    path = tmp_path / "secret.lua"
    path.write_text("SECRET = 'secret'")
    (tmp_path / "secret.js").write_text("module.exports = 'secret'")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.lua").symlink_to(path)
    (inside / "link.js").symlink_to(tmp_path / "secret.js")
    (inside / "up").symlink_to(tmp_path)
    return path


WAYS_OUT = (
    "../secret.lua",
    "link.lua",
    "up/secret.lua",
    "x/../../secret.lua",
    "./../secret.lua",
    "",
    ".",
    "..",
    "\0",
    "a\0b",
)


@pytest.mark.parametrize("name", [*WAYS_OUT, "{secret}", "up/new", "../new"])
def test_corex_has_no_file_outside_of_its_directory(secret: Path, name: str) -> None:
    files = Files(str(secret.parent / "inside"))
    name = name.replace("{secret}", str(secret))
    assert files.read(name) is None
    assert not files.write(name, b"changed")
    assert secret.read_text() == "SECRET = 'secret'"
    assert not (secret.parent / "new").exists()


def test_corex_has_the_files_of_its_directory(secret: Path) -> None:
    files = Files(str(secret.parent / "inside"))
    assert files.write("new", b"a\0\xff")
    assert files.read("new") == b"a\0\xff"
    assert files.read("./new") == b"a\0\xff"
    os.mkfifo(secret.parent / "inside" / "pipe")
    assert files.read("pipe") is None  # waits for nobody
    assert not files.write("pipe", b"x")
    assert Files("").read(str(secret)) is None


LUA_FILES = """
local function show(f, ...)
    local ok, result = pcall(f, ...)
    KSR.is_method(tostring(ok and result or nil))
end
function ksr_request_route()
    for _, name in ipairs({ %s }) do
        show(dofile, name)
        show(loadfile, name)
        KSR.is_method(tostring(KSR.app_lua.dofile(name)))
    end
    package.path = "%s/?.lua;../?.lua;?.lua;up/?.lua;/?.lua"
    show(require, "secret")
    show(require, "link")
    show(require, "../secret")
    show(require, "..secret")
    KSR.is_method(tostring(SECRET))
end
"""


def test_lua_has_no_file_outside_of_its_directory(secret: Path) -> None:
    names = ", ".join(
        json.dumps(name).replace("\\u0000", "\\0") for name in (*WAYS_OUT[:5], *WAYS_OUT[6:], str(secret))
    )
    texts, _ = shown(secret.parent / "inside", {"lua": LUA_FILES % (names, secret.parent)})
    assert len(texts) == 3 * 10 + 5
    assert set(texts) == {"nil", "-1"}


JS_FILES = """
function ksr_request_route() {
    for (const name of %s) {
        let found = "nothing";
        try { found = require(name); } catch (problem) { }
        KSR.is_method(String(found));
    }
}
"""


def test_javascript_has_no_file_outside_of_its_directory(secret: Path) -> None:
    (secret.parent / "inside" / "own.js").write_text("module.exports = 'own'")
    names = [
        *(
            "../secret",
            "../secret.js",
            "./link",
            "link.js",
            "up/secret",
            "./up/secret.js",
            "/etc/passwd",
            "fs",
            "a\0b",
            "",
        ),
        str(secret.parent / "secret.js"),
        "./own",
    ]
    texts, _ = shown(secret.parent / "inside", {"js": JS_FILES % json.dumps(names)})
    assert texts == ["nothing"] * 11 + ["own"]


# ---- the host
LUA_HOST = """
function probe()
    local found = {}
    local function look(name, value) if value ~= nil then found[#found + 1] = name end end
    look("io", io) look("ffi", ffi) look("jit", jit) look("python", python) look("newproxy", newproxy)
    for _, name in ipairs({ "execute", "getenv", "remove", "rename", "tmpname", "setlocale" }) do look("os." .. name, os[name]) end
    for name in pairs(debug) do if name ~= "traceback" then look("debug." .. name, true) end end
    look("string.dump", string.dump)
    look("package.loadlib", package.loadlib) look("package.loaders", package.loaders) look("searchers", package.searchers)
    for _, name in ipairs({ "io", "ffi", "jit", "jit.util", "python", "lfs" }) do
        look("require " .. name, (pcall(require, name)) or nil)
        look("loaded " .. name, package.loaded[name])
    end
    for level = 0, 3 do
        local ok, environment = pcall(getfenv, level)
        if ok then look("getfenv io", environment.io) look("getfenv debug", environment.debug and environment.debug.getinfo) end
    end
    for _, f in ipairs({ pcall, require, dofile, load, print, KSR.info, coroutine.wrap, string.format }) do
        local ok, environment = pcall(getfenv, f)
        if ok then look("getfenv io of a function", environment.io) look("native", environment.native_load) end
    end
    look("bytecode", (load("\\27LJ\\2\\0")))
    local ok, problem = pcall(KSR.pv.gete, {})
    look("an object of Python's", type(problem) == "userdata" or nil)
    return table.concat(found, ", ")
end
"""
INVOKE = {
    "lua": "function ksr_request_route() KSR.is_method('found: ' .. KSR.app_lua.run('probe')) %s end",
    "js": "function ksr_request_route() { KSR.is_method('found: ' + KSR.app_lua.run('probe')); %s }",
    "python": "import KSR\ndef ksr_request_route(msg):\n    KSR.is_method('found: ' + KSR.app_lua.run('probe')); %s\n",
}
TEXTS = (
    "io.open('{file}', 'w'):close()",
    "os.execute('touch {file}')",
    "local io = require('io') io.open('{file}', 'w'):close()",
    "getfenv(0).io.open('{file}', 'w'):close()",
    'python.eval(\'open("{file}", "w")\')',
)


@pytest.mark.parametrize("engine", INVOKE)
def test_a_script_of_any_language_has_no_way_to_the_host_through_lua(tmp_path: Path, engine: str) -> None:
    made = tmp_path / "made"
    calls = "; ".join(
        f"KSR.is_method('got ' {'..' if engine == 'lua' else '+'} {'tostring' if engine == 'lua' else 'String' if engine == 'js' else 'str'}"
        f"(KSR.app_lua.{function}({json.dumps(text.format(file=made))})))"
        for text in TEXTS
        for function in ("runstring", "dostring")
    )
    script = INVOKE[engine] % calls
    scripts = {"lua": LUA_HOST + script} if engine == "lua" else {engine: script, "lua": LUA_HOST}
    texts, _ = shown(tmp_path, scripts)
    assert texts == ["found: ", *["got -1"] * 2 * len(TEXTS)]
    assert not made.exists()


JS_HOST = """
function ksr_request_route() {
    const found = [];
    for (const name of ["process", "Deno", "Bun", "fetch", "XMLHttpRequest", "importScripts", "WebAssembly_fs", "__dirname"])
        if (name in globalThis) found.push(name);
    for (const text of ["return process", "return import('fs')", "return require.main.require('fs')"]) {
        try { const got = KSR.info.constructor.constructor(text)(); if (got && !(got instanceof Promise)) found.push(text); } catch (problem) { }
    }
    KSR.is_method("found: " + found.join(", "));
}
"""


def test_a_script_in_javascript_has_no_way_to_the_host(tmp_path: Path) -> None:
    assert shown(tmp_path, {"js": JS_HOST})[0] == ["found: "]


def test_json_that_is_deep_is_refused_in_lua(tmp_path: Path) -> None:
    script = """
    local cjson, safe = require("cjson"), require("cjson.safe")
    function ksr_request_route()
        for _, depth in ipairs({ 900, 1001, 100000 }) do
            for _, text in ipairs({ string.rep("[", depth) .. string.rep("]", depth), string.rep('{"a":', depth) .. "1" .. string.rep("}", depth) }) do
                KSR.is_method(tostring(safe.decode(text) ~= nil) .. " " .. tostring((pcall(cjson.decode, text))))
            end
        end
        local t = {}
        t.t = t
        KSR.is_method(tostring(safe.encode(t)) .. " " .. tostring((pcall(cjson.encode, t))))
    end
    """
    assert shown(tmp_path, {"lua": script})[0] == ["true true"] * 2 + ["false false"] * 4 + ["nil false"]


@pytest.mark.parametrize(("seconds", "paused"), [(0, 0.0), (1, 1.0), (10**12, 1.0), (-(2**31), 0.0)])
def test_a_pause_holds_the_server_up_for_a_second_at_most(seconds: int, paused: float) -> None:
    one = services(Cfgutils)
    pauses: list[float] = []
    one.pause = pauses.append
    module: Cfgutils = one.modules["cfgutils"]
    assert module.sleep(request_context(message("OPTIONS sip:h SIP/2.0")), seconds) == 1
    assert module.usleep(request_context(message("OPTIONS sip:h SIP/2.0")), seconds * 1_000_000) == 1
    assert pauses == [paused, paused]


# ---- data that is no code
EVIL = "$var(secret) $(var(secret){s.len}) %s \\1 & ' OR 1=1; DELETE FROM subscriber; --"


def test_what_a_message_says_is_never_evaluated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = """
    function ksr_request_route()
        local evil = KSR.pv.get("$hdr(X-Evil)")
        KSR.pv.sets("$var(secret)", "S3CR3T")
        KSR.pv.sets("$var(x)", evil)
        KSR.is_method(KSR.pv.get("$var(x)"))
        KSR.pvx.evalx("$var(y)", "<$hdr(X-Evil)>")
        KSR.is_method(KSR.pv.get("$var(y)"))
        KSR.htable.sht_sets("t", evil, "kept")
        KSR.is_method(KSR.pv.get("$sht(t=>$hdr(X-Evil))"))
        KSR.is_method(KSR.pv.get("$(hdr(X-Evil){s.substr,0,12})"))
        KSR.is_method(KSR.pv.get("$(var(x){re.subst,/DELETE/$hdr(X-Evil)/})"))
        KSR.xlog.xinfo("evil: $hdr(X-Evil)\\n")
        KSR.info(evil)
        KSR.is_method(tostring(KSR.sqlops.sql_query("db", "SELECT " .. KSR.pv.get("$(hdr(X-Evil){sql.val.str})"), "r")))
        KSR.is_method(KSR.pv.get("$dbr(r=>[0,0])"))
        KSR.auth_db.auth_check("example.test", "subscriber]; DELETE FROM subscriber; --", 0)
        KSR.alias_db.lookup("subscriber]; DELETE FROM subscriber; --")
        KSR.group.is_user_in("sip:a@" .. evil, evil)
        KSR.textops.subst_hf("X-Evil", "/DELETE/$hdr(X-Evil)/", "a")
        KSR.hdr.append("X-Out: " .. evil .. "\\r\\n")
        KSR.pv.sets("$du", "sip:192.0.2.20")
        KSR.tm.t_relay()
    end
    """
    database = Database()
    database.add_subscriber("alice", "example.test", "wonderland")
    caplog.set_level("INFO", "polykemi")
    texts, sent = shown(
        tmp_path,
        {"lua": script},
        message("OPTIONS sip:alice@example.test SIP/2.0", f"X-Evil: {EVIL}", "Max-Forwards: 9"),
        database=database,
        modules={"htable": {"htable": ["t=>size=4;"]}, "sqlops": {"sqlcon": ["db=>polykemi"]}},
    )
    assert texts[:4] == [EVIL, f"<{EVIL}>", "kept", EVIL[:12]]
    assert texts[4] == EVIL.replace("DELETE", EVIL)
    assert texts[5:] == ["0", EVIL]
    assert f"evil: {EVIL}" in caplog.text
    assert "S3CR3T" not in caplog.text
    (relayed,) = sent
    assert f"X-Out: {EVIL}\r\n".encode() in relayed.data
    assert b"S3CR3T" not in relayed.data


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE a [<!ENTITY b "c">]><methodCall><methodName>&b;</methodName></methodCall>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><methodCall><methodName>a</methodName></methodCall>',
        "<methodCall>" * 20_000,
        "<methodCall><methodName>&b;</methodName></methodCall>",
        "<methodCall><methodName>a</methodName><params><param><value><int>"
        + "9" * 5000
        + "</int></value></param></params></methodCall>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_document_with_entities_is_no_call(document: str, encoding: str) -> None:
    with pytest.raises(_BadDocument):
        _call(document.encode(encoding))


# ---- HTTP
HTTP = (
    b'POST /RPC HTTP/1.1\r\nHost: h\r\nContent-Length: 47\r\n\r\n{"jsonrpc":"2.0","method":"core.version","id":1}',
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    (
        b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
    ),
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"GET / HTTP/1.1\r\n folded\r\n\r\n",
    b"GET  HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n:\r\n\xff\r\n\r\n",
)


@pytest.mark.parametrize("listener", [UDP, TCP], ids=["udp", "tcp"])
@pytest.mark.parametrize("params", [{}, {"event_callback": "http"}], ids=["default", "xhttp"])
@pytest.mark.parametrize("data", HTTP, ids=range(len(HTTP)))
def test_http_gets_only_what_the_script_gives(
    tmp_path: Path, listener: Listener, params: dict[str, str], data: bytes
) -> None:
    script = tmp_path / "script.lua"
    script.write_text(
        "function ksr_request_route() KSR.sl.send_reply(200, 'OK') end function http() KSR.info('seen') end"
    )
    modules: dict[str, dict[str, Any]] = {"xhttp": params, "jsonrpcs": {"transport": 1}}
    with ServerUnderTest({"lua": script}, listeners=[listener], modules=modules) as server:
        sent = server.receive(data, "192.0.2.10:4000")
        refused = listener is TCP and b"\r\n folded" in data  # no header to be continued: RFC 9112 section 2.2
        assert [one.start_line for one in sent] == (["HTTP/1.1 400 Bad Request"] if refused else [])
        assert "core.internal_errors" not in server.node.services.counters
        assert [call.path for call in server.calls] in ([], ["KSR.info"] if params else [])


# ---- the sample scripts
@pytest.fixture(
    params=[(engine, listener) for engine in EXTENSIONS for listener in (UDP, TCP)],
    ids=lambda p: f"{p[0]}-{p[1].proto}",
)
def sample(request: pytest.FixtureRequest) -> Iterator[ServerUnderTest]:
    """A server that runs a sample script."""
    engine, listener = request.param
    directory = "py" if engine == "python" else engine
    database = Database()
    database.add_subscriber("alice", "example.test", "wonderland")
    with ServerUnderTest(
        {engine: ROUTES / directory / f"basic.{EXTENSIONS[engine]}"},
        domains=["example.test"],
        listeners=[listener],
        database=database,
    ) as server:
        yield server


METHODS = ("INVITE", "REGISTER", "MESSAGE", "OPTIONS", "SUBSCRIBE", "PUBLISH", "ACK", "CANCEL", "BYE", "X")
SENDERS = ("<sip:eve@elsewhere.test>", "<sip:alice@example.test>", "<sip:alice@192.0.2.1>", "<tel:+1>")
VICTIM = "sip:victim@203.0.113.9"
URIS = (
    *(
        VICTIM,
        f"{VICTIM};transport=tcp",
        "sip:203.0.113.9",
        "sip:x@192.0.2.1:5070",
        "sips:victim@elsewhere.test",
        "tel:+900",
    ),
    *("sip:alice@example.test", "sip:alice@example.test;maddr=203.0.113.9", "sip:alice@192.0.2.1;transport=tcp"),
)
ROUTE_SETS: tuple[tuple[str, ...], ...] = (
    (),
    ("Route: <sip:203.0.113.9;lr>",),
    ("Route: <sip:192.0.2.1;lr>, <sip:203.0.113.9;lr>",),
    ("Route: <sip:192.0.2.1;lr>", "Route: <sip:203.0.113.9>"),
)
MADE_UP = (
    *ROUTE_SETS[1:],
    ("Route: <sip:192.0.2.1;lr;ftag=e>",),
    ("Route: <sip:192.0.2.1;lr;ftag=e;ticket=>",),
    ("Route: <sip:192.0.2.1;lr;ftag=e;ticket=0123456789abcdef01234567>",),
)


def test_a_sample_script_relays_nothing_for_strangers(sample: ServerUnderTest) -> None:
    """Of what is in no dialog, and of what says that it is: whoever was let pass has a ticket in its Route."""
    transport = sample.node.services.listeners[0].proto.upper()
    tries = [(uri, routes, "") for uri in URIS for routes in ROUTE_SETS]
    tries += [(uri, (), ";tag=x") for uri in URIS] + [(VICTIM, routes, ";tag=x") for routes in MADE_UP]
    tries += [(uri, (f"Route: <{VICTIM}>",), ";tag=x") for uri in ("sip:192.0.2.1", "sip:192.0.2.1;lr;ftag=e")]
    for number, (method, sender, (uri, routes, tag)) in enumerate(product(METHODS, SENDERS, tries)):
        source = f"198.51.{number // 250}.{number % 250 + 1}:5060"  # each another, for pike
        data = message(
            f"{method} {uri} SIP/2.0",
            "Max-Forwards: 9",
            "Contact: <sip:eve@203.0.113.9>",
            *routes,
            via=f"SIP/2.0/{transport} {source};branch=z9hG4bK{number}",
            from_=f"{sender};tag=e",
            to=f"<sip:alice@example.test>{tag}" if method == "REGISTER" else f"<{uri}>{tag}",
            call_id=str(number),
        )
        sent = sample.receive(data, source)
        assert all(one.to == source and one.start_line.startswith("SIP/2.0 ") for one in sent), (data, sent)
        assert sent or method in ("ACK", "CANCEL"), data
        assert method == "OPTIONS" or not any(one.start_line.startswith("SIP/2.0 2") for one in sent), (data, sent)
    assert {one.start_line[:8] for one in sample.advance(60)} <= {"SIP/2.0 "}


def test_a_ticket_is_good_for_its_own_dialog_alone(sample: ServerUnderTest) -> None:
    """The callee has it from Record-Route; in another call, or with other tags, it opens nothing."""
    services = sample.node.services
    proto = services.listeners[0].proto
    target = f"{VICTIM};transport={proto}"
    ticket = services.modules["x"].sign(None, "one e")
    number = 0

    def bye(call_id: str, from_tag: str, to_tag: str) -> list[str]:
        nonlocal number
        number += 1
        data = message(
            f"BYE {target} SIP/2.0",
            "Max-Forwards: 9",
            f"Route: <sip:192.0.2.1;lr;ftag=e;ticket={ticket}>",
            via=f"SIP/2.0/{proto.upper()} 198.51.100.{number}:5060;branch=z9hG4bK{number}",
            from_=f"<sip:eve@elsewhere.test>;tag={from_tag}",
            to=f"<sip:alice@example.test>;tag={to_tag}",
            call_id=call_id,
        )
        return [one.start_line for one in sample.receive(data, f"198.51.100.{number}:5060")]

    assert bye("one", "e", "a") == [f"BYE {target} SIP/2.0"]
    assert bye("one", "a", "e") == [f"BYE {target} SIP/2.0"]
    assert bye("two", "e", "a") == bye("one", "f", "a") == bye("one", "", "a") == ["SIP/2.0 404 Not here"]
