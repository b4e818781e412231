"""polykemi.toml and the command line: what is said is what holds, and what is wrong is named in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest

import polykemi.modules
from polykemi import config
from polykemi.config import ControlSettings, EngineSettings, Settings
from polykemi.engines.base import Limits
from polykemi.errors import ConfigError
from polykemi.kemi.binding import to_octets
from polykemi.kemi.route import Route
from polykemi.logs import LogSettings
from polykemi.sip.flow import Listener
from polykemi.transport.mirror import HepSettings
from polykemi.transport.resolver import DnsSettings
from polykemi.transport.tls_profiles import TlsProfile
from tests.pki import Pki


@dataclass(frozen=True, slots=True)
class Params:
    """One parameter of each type that modules have."""

    max_contacts: int = 0
    realm_prefix: str = ""
    latency: float = 0.5
    use_path: bool = False
    htable: tuple[str, ...] = ()
    mode: Literal["fast", "safe"] = "fast"
    limit: int | None = None
    flags: Mapping[str, int] | None = None
    key: int | str = 0
    ports: tuple[int, ...] = ()
    anything: Any = None

    def __post_init__(self) -> None:
        if self.max_contacts < 0:
            raise ValueError(f"max_contacts: expected 0 or more, got {self.max_contacts}")


class Registrar:
    """A module with parameters."""

    name = "registrar"
    Params = Params


@dataclass(frozen=True, slots=True)
class NoParams:
    """The parameters of a module that has none."""


class Core:
    """The module whose functions stand on KSR itself."""

    name = ""
    Params = NoParams


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polykemi.modules, "MODULES", {"core": Core, "registrar": Registrar, "sl": Core}, raising=False)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "polykemi.toml"
    path.write_bytes(text.encode())
    return path


def load(tmp_path: Path, text: str, **flags: Any) -> Settings:
    return config.load(written(tmp_path, text), **{"serving": False, **flags})


EVERYTHING = """
listen = ["udp:127.0.0.1:5062", "udp:[::1]"]
domains = ["Example.com", "[2001:DB8::1]"]
data = "state"
[engines]
lua = "lua/basic.lua"
python = "/scripts/failure.py"
[engines.js]
script = "basic.js"
timeout = 2
max_memory = "64M"
allow = ["wasm"]
[routes]
default = "lua"
reply_route = "js"
"failure_route:ksr_failure_manage" = "python"
[modules]
load = ["sl", "registrar"]
[modules.registrar]
max_contacts = 5
[log]
level = "debug"
levels = { tm = "error" }
format = "json"
to = "file"
file = "polykemi.log"
prefix = "$ci "
fields = ["at", "call_id"]
[metrics]
listen = "[::1]:9090"
[hep]
server = "tls:homer.example.test"
capture_id = 4_294_967_295
auth_key = "s\u00e9cret"
node = "edge-1"
methods = ["INVITE", "bye"]
sample = 0.5
[control]
socket = "c.sock"
datagram = "/run/rpc.sock"
http = "192.0.2.1:8080"
token = "abcdefghijklmnop"
"""


def test_everything_of_the_file_arrives(tmp_path: Path) -> None:
    settings = load(tmp_path, EVERYTHING, serving=True)
    assert settings.listen == (Listener("udp", "127.0.0.1", 5062), Listener("udp", "::1", 5060))
    assert settings.domains == ("example.com", "2001:db8::1")
    assert settings.data == tmp_path / "state"
    assert settings.engines == (
        EngineSettings("lua", tmp_path / "lua/basic.lua", Limits(memory=128 << 20)),
        EngineSettings("python", Path("/scripts/failure.py")),
        EngineSettings("js", tmp_path / "basic.js", Limits(2.0, 64 << 20, allow=frozenset({"wasm"}))),
    )
    assert settings.modules.load == ("sl", "registrar")
    assert settings.modules.params == {"registrar": {"max_contacts": 5}}
    assert settings.log == LogSettings(
        "debug", {"tm": "error"}, "json", "file", tmp_path / "polykemi.log", "daemon", "$ci ", ("call_id", "at")
    )
    assert settings.metrics == ("::1", 9090)
    assert settings.hep == HepSettings(
        *("tls", "homer.example.test", 9060),
        capture_id=4_294_967_295,
        auth_key="s\xc3\xa9cret",
        node="edge-1",
        methods=frozenset(("INVITE", "BYE")),
        sample=0.5,
    )
    paths = (tmp_path / "c.sock", Path("/run/rpc.sock"))
    assert settings.control == ControlSettings(*paths, ("192.0.2.1", 8080), "abcdefghijklmnop")
    assert settings.file == tmp_path / "polykemi.toml"


def test_a_route_block_runs_in_the_engine_of_its_name_else_of_its_kind_else_of_the_default(tmp_path: Path) -> None:
    routes = load(tmp_path, EVERYTHING).routes
    assert routes.engine_for(Route.FAILURE, "ksr_failure_manage") == "python"
    assert routes.engine_for(Route.FAILURE, "another") == "lua"
    assert routes.engine_for(Route.BRANCH, "ksr_failure_manage") == "lua"
    assert routes.engine_for(Route.REPLY, "ksr_reply_route") == "js"
    assert routes.engine_for(Route.REQUEST, "ksr_request_route") == "lua"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_on_loopback_the_control_plane_needs_no_token(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, f"[control]\nhttp = '{host}:8080'").control.http == (host.strip("[]"), 8080)


def test_without_a_file_and_without_flags_the_defaults_hold() -> None:
    settings = config.load(None, serving=False)
    assert settings == Settings()
    assert settings.listen == (Listener("udp", "0.0.0.0", 5060),)
    assert settings.data == Path("polykemi.data")
    assert settings.modules.load is None
    assert settings.log == LogSettings("info", to="stderr")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert (settings.listen, settings.data, settings.engines) == (Settings().listen, Settings().data, ())


def test_one_engine_needs_no_routes(tmp_path: Path) -> None:
    routes = load(tmp_path, '[engines]\njs = "a.js"').routes
    assert routes.engine_for(Route.FAILURE, "x") == "js"


def test_routes_of_every_kind_need_no_default(tmp_path: Path) -> None:
    kinds = ("request", "reply", "onsend", "branch", "onreply", "failure", "branch_failure", "event")
    lines = "\n".join(f'{kind}_route = "{"js" if kind == "reply" else "lua"}"' for kind in kinds)
    routes = load(tmp_path, f'[engines]\nlua = "a.lua"\njs = "a.js"\n[routes]\n{lines}').routes
    assert routes.engine_for(Route.REPLY, "") == "js"
    assert routes.engine_for(Route.EVENT, "x") == "lua"


# ---- the command line wins


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, EVERYTHING, listen=["127.0.0.1:7000"], domains=["other.test"], data=Path("elsewhere"))
    assert settings.listen == (Listener("udp", "127.0.0.1", 7000),)
    assert settings.domains == ("other.test",)
    assert settings.data == Path("elsewhere")


def test_an_engine_and_script_of_the_command_line_run_all_route_blocks(tmp_path: Path) -> None:
    settings = load(tmp_path, EVERYTHING, engine="js", script=Path("mine.js"), serving=True)
    assert settings.engines == (
        EngineSettings("js", Path("mine.js"), Limits(2.0, 64 << 20, allow=frozenset({"wasm"}))),
    )
    assert settings.routes.engine_for(Route.FAILURE, "ksr_failure_manage") == "js"
    assert settings.routes.engine_for(Route.REQUEST, "ksr_request_route") == "js"


def test_an_engine_alone_runs_the_script_that_the_file_names_for_it(tmp_path: Path) -> None:
    settings = load(tmp_path, EVERYTHING, engine="python", serving=True)
    assert settings.engines == (EngineSettings("python", Path("/scripts/failure.py")),)
    assert settings.routes.engine_for(Route.REPLY, "ksr_reply_route") == "python"


@pytest.mark.parametrize(("script", "engine"), [("a.lua", "lua"), ("a.js", "js"), ("a.py", "python")])
def test_a_script_alone_tells_its_engine_by_its_suffix(script: str, engine: str) -> None:
    (settings,) = config.load(None, script=Path(script)).engines
    assert (settings.name, settings.script, settings.limits.seconds) == (engine, Path(script), 1.0)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({}, "no script to run: give one, as in `polykemi serve --engine lua SCRIPT`, or name one in [engines] of"),
        ({"engine": "perl", "script": Path("a.pl")}, "--engine perl: unknown, expected lua, js or python"),
        ({"engine": "pyton"}, "--engine pyton: unknown, did you mean python?"),
        ({"engine": "js"}, "--engine js: expected a script, and polykemi.toml names none for js"),
        ({"script": Path("a.txt")}, "a.txt: which language? Say it with --engine lua, js or python"),
        ({"script": Path("a.js"), "listen": ["sctp:127.0.0.1"]}, "--listen sctp:127.0.0.1: sctp is not supported"),
        (
            {"script": Path("a.js"), "listen": ["tls:127.0.0.1"]},
            "polykemi.toml: [tls] certificate: expected a file in PEM, for the listener tls:127.0.0.1:5061",
        ),
        (
            {"script": Path("a.js"), "domains": ["a b"]},
            "--domain a b: expected a host name or an IP address, got 'a b'",
        ),
    ],
)
def test_a_wrong_flag_is_named(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(None, **flags)
    assert str(raised.value).startswith(says)


# ---- listen addresses


@pytest.mark.parametrize(
    ("text", "listener"),
    [
        ("udp:127.0.0.1:5070", Listener("udp", "127.0.0.1", 5070)),
        ("UDP:127.0.0.1", Listener("udp", "127.0.0.1", 5060)),
        ("127.0.0.1:5070", Listener("udp", "127.0.0.1", 5070)),
        ("127.0.0.1", Listener("udp", "127.0.0.1", 5060)),
        ("udp:sip.Example.com:0", Listener("udp", "sip.example.com", 0)),
        ("udp:[::1]:5070", Listener("udp", "::1", 5070)),
        ("[2001:DB8:0::1]", Listener("udp", "2001:db8::1", 5060)),
        ("udp:[::]", Listener("udp", "::", 5060)),
        ("tcp:127.0.0.1", Listener("tcp", "127.0.0.1", 5060)),
        ("tls:[::1]", Listener("tls", "::1", 5061)),
        ("ws:127.0.0.1", Listener("tcp", "127.0.0.1", 80)),
        ("wss:127.0.0.1:8443", Listener("tls", "127.0.0.1", 8443)),
        ("127.0.0.1 advertise 203.0.113.5", Listener("udp", "127.0.0.1", 5060, "203.0.113.5")),
        ('tcp:[::1]:5070 advertise "[2001:DB8::5]:5080"', Listener("tcp", "::1", 5070, "2001:db8::5", 5080)),
        ('127.0.0.1 name "inside"', Listener("udp", "127.0.0.1", 5060, name="inside")),
        ("127.0.0.1 name inside advertise sip.test", Listener("udp", "127.0.0.1", 5060, "sip.test", name="inside")),
    ],
)
def test_a_listen_address_is_taken(text: str, listener: Listener) -> None:
    assert config.parse_listen(text) == listener


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected udp:HOST:PORT (or tcp:, tls:, ws:, wss:), got ''"),
        ("udp:", "expected udp:HOST:PORT (or tcp:, tls:, ws:, wss:), got 'udp:'"),
        ("sctp:127.0.0.1:5060", "sctp is not supported, expected udp:HOST:PORT"),
        ("udp:127.0.0.1 advertise", "expected udp:HOST:PORT (or tcp:, tls:, ws:, wss:) [advertise HOST:PORT] [name NA"),
        ("udp:127.0.0.1 advertize 192.0.2.1", "expected udp:HOST:PORT"),
        ("udp:127.0.0.1 name a name b", "expected udp:HOST:PORT"),
        ("udp:127.0.0.1 advertise 192.0.2.256", "expected advertise HOST:PORT, got 'udp:127.0.0.1 advertise 192.0.2.2"),
        ("udp:127.0.0.1 name a,b", "expected name and a word, got 'udp:127.0.0.1 name a,b'"),
        ("udp:127.0.0.1:sip", "expected a port from 0 to 65535, got 'sip'"),
        ("udp:127.0.0.1:65536", "expected a port from 0 to 65535, got '65536'"),
        ("udp:127.0.0.1:", "expected a port from 0 to 65535, got ''"),
        ("udp:127.0.0.1:\u0661", "expected a port from 0 to 65535"),
        ("udp:256.0.0.1:5060", "expected udp:HOST:PORT (or tcp:, tls:, ws:, wss:), got 'udp:256.0.0.1:5060'"),
        (
            "udp:::1",
            "expected udp:HOST:PORT (or tcp:, tls:, ws:, wss:), got 'udp:::1' (an IPv6 address stands in brackets)",
        ),
        ("udp:[::1:5060", "expected udp:HOST:PORT"),
        ("udp:[localhost]:5060", "expected udp:HOST:PORT"),
        ("udp:[::1]5060", "expected udp:HOST:PORT"),
        ("udp:a host:5060", "expected udp:HOST:PORT"),
    ],
)
def test_a_wrong_listen_address_is_explained(text: str, says: str) -> None:
    with pytest.raises(ValueError) as raised:
        config.parse_listen(text)
    assert str(raised.value).startswith(says)


# ---- what is wrong in the file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('\nlistens = ["udp:127.0.0.1"]', "2: listens: unknown, did you mean listen?"),
        ("[engine]", "1: [engine]: unknown, did you mean engines?"),
        ("[zoo]", "1: [zoo]: unknown"),
        ('listen = "udp:127.0.0.1:x"', "1: listen: expected a port from 0 to 65535, got 'x'"),
        ("listen = 5060", "1: listen: expected a list of texts, got 5060"),
        ("domains = [1]", "1: domains: expected a text, got 1"),
        ('domains = ["münchen.de"]', "1: domains: expected a host name or an IP address, got 'münchen.de'"),
        ('data = "a\\u0000b"', "1: data: expected a path"),
        ("data = ''", '1: data: expected a path, got ""'),
        ("data = true", "1: data: expected a path, got true"),
        ("modules = 1", "1: modules: expected a table, got 1"),
        ('[engines]\nlua = "a.lua"\njsdt = "a.js"', "3: [engines] jsdt: unknown, did you mean js?"),
        ("[engines]\nlua = 1", "2: [engines] lua: expected a path, got 1"),
        ("[engines.lua]\ntimeout = 1.0", "1: [engines.lua]: expected a script"),
        ('[engines.lua]\nscript = "a"\ntime = 1', "3: [engines.lua] time: unknown, did you mean timeout?"),
        ('[engines.lua]\nscript = "a"\ntimeout = 0', "3: [engines.lua] timeout: expected seconds, more than 0"),
        ('[engines.lua]\nscript = "a"\ntimeout = nan', "3: [engines.lua] timeout: expected seconds, more than 0"),
        ('[engines.lua]\nscript = "a"\ntimeout = "1s"', '3: [engines.lua] timeout: expected a number, got "1s"'),
        ('[engines.lua]\nscript = "a"\nmax_memory = "lots"', "3: [engines.lua] max_memory: expected octets, or a size"),
        ('[engines.lua]\nscript = "a"\nmax_memory = -1', "3: [engines.lua] max_memory: expected octets, or a size"),
        ('[engines.lua]\nscript = "a"\nallow = 1', "3: [engines.lua] allow: expected a list of texts, got 1"),
        ('[engines.lua]\nscript = "a"\nallow = ["iO"]', "3: [engines.lua] allow: iO is unknown, expected debug"),
        ('[engines.js]\nscript = "a"\nallow = ["io"]', "3: [engines.js] allow: io is unknown, expected files or wasm"),
        (
            '[engines.python]\nscript = "a"\nmax_memory = 1',
            "3: [engines.python] max_memory: a Python script has no heap",
        ),
        ('[engines.python]\nscript = "a"\nallow = []', "3: [engines.python] allow: a Python script runs in the server"),
        ('[routes]\nrequest_route = "lua"', "2: [routes] request_route: [engines] names no script for lua"),
        ('[routes]\ndefault = "perl"', "2: [routes] default: perl is unknown, expected lua, js or python"),
        (
            '[engines]\njs = "a"\n[routes]\nreplyroute = "js"',
            "4: [routes] replyroute: unknown, did you mean reply_route?",
        ),
        (
            '[engines]\njs = "a"\n[routes]\n"fail_route:x" = "js"',
            "4: [routes] fail_route:x: unknown, did you mean failure_route?",
        ),
        ('[engines]\njs = "a"\n[routes]\n"default:x" = "js"', "4: [routes] default:x: expected default alone"),
        (
            '[engines]\njs = "a"\n[routes]\n"reply_route:x" = "js"',
            "4: [routes] reply_route:x: expected reply_route alone",
        ),
        (
            '[engines]\njs = "a"\n[routes]\n"failure_route:" = "js"',
            "4: [routes] failure_route:: expected failure_route:NAME",
        ),
        ('[engines]\nlua = "a"\njs = "a"', "1: [routes]: expected default = lua or js"),
        ('[modules]\nload = ["sl", "registar"]', "2: [modules] load: registar is unknown, did you mean registrar?"),
        ("[modules.slx]\na = 1", "1: [modules.slx]: unknown, did you mean sl?"),
        ("[modules]\nsl = 1", "2: [modules] sl: expected a table, got 1"),
        (
            '[modules]\nload = ["sl"]\n[modules.registrar]\nmax_contacts = 1',
            "3: [modules.registrar]: registrar is not in load",
        ),
        (
            "[modules.registrar]\nuse_path = true\nmax_contact = 1",
            "3: [modules.registrar] max_contact: unknown, did you mean max_contacts?",
        ),
        (
            '[modules.registrar]\nmax_contacts = "5"',
            '2: [modules.registrar] max_contacts: expected an integer, got "5"',
        ),
        (
            "[modules.registrar]\nmax_contacts = true",
            "2: [modules.registrar] max_contacts: expected an integer, got true",
        ),
        ("[modules.registrar]\nmax_contacts = -1", "2: [modules.registrar] max_contacts: expected 0 or more, got -1"),
        ("[modules.registrar]\nuse_path = 2", "2: [modules.registrar] use_path: expected true or false, got 2"),
        ("[modules.registrar]\nmode = 'slow'", '2: [modules.registrar] mode: expected fast or safe, got "slow"'),
        ("[modules.registrar]\nlimit = 1.5", "2: [modules.registrar] limit: expected an integer, got 1.5"),
        (
            "[modules.registrar]\nkey = [1, 'a']",
            "2: [modules.registrar] key: expected an integer or a text, got [1, 'a']",
        ),
        ("[modules.registrar]\nhtable = 5", "2: [modules.registrar] htable: expected a list of texts, got 5"),
        ("[modules.registrar]\nports = ['a']", '2: [modules.registrar] ports: expected an integer, got "a"'),
        ("[modules.registrar]\nports = 5", "2: [modules.registrar] ports: expected a list, each an integer, got 5"),
        ("[modules.registrar]\nflags = [1]", "2: [modules.registrar] flags: expected a table, got [1]"),
        ("[modules.registrar.flags]\na = 'x'", '1: [modules.registrar.flags]: a: expected an integer, got "x"'),
        ("[modules.core]\nx = 1", "2: [modules.core] x: unknown"),
        (
            "[log]\nlevel = 'loud'",
            "2: [log] level: loud is unknown, expected debug, info, notice, warning, error or critical",
        ),
        ("[log]\nlevl = 'info'", "2: [log] levl: unknown, did you mean level?"),
        ("[log]\nlevels = 'info'", '2: [log] levels: expected a table, got "info"'),
        ("[log.levels]\ntm = 'loud'", "2: [log.levels] tm: loud is unknown, expected debug, info, notice,"),
        ("[log]\nformat = 'xml'", "2: [log] format: xml is unknown, expected line or json"),
        ("[log]\nto = 'disk'", "2: [log] to: disk is unknown, expected stderr, file, syslog or journal"),
        ("[log]\nto = 'file'", "2: [log] to: expected file = PATH beside it"),
        ("[log]\nfile = 'a.log'", '2: [log] file: expected to = "file" beside it'),
        ("[log]\nfacility = 'local0'", '2: [log] facility: expected to = "syslog" beside it'),
        ("[log]\nto = 'syslog'\nfacility = 'local9'", "3: [log] facility: local9 is unknown, did you mean local"),
        ("[log]\nto = 'journal'\nformat = 'json'", "3: [log] format: the journal has fields of its own"),
        ("[log]\nfields = ['callid']", "2: [log] fields: callid is unknown, did you mean call_id?"),
        ("[metrics]\nlisten = 9090", "2: [metrics] listen: expected a text, got 9090"),
        ("[metrics]\nlisten = '9090'", "2: [metrics] listen: expected HOST:PORT, got '9090'"),
        ("[metrics]\nlisten = '127.0.0.1'", "2: [metrics] listen: expected HOST:PORT, got '127.0.0.1'"),
        ("[metrics]\nlisten = 'a:b'", "2: [metrics] listen: expected a port from 0 to 65535, got 'b'"),
        ("[metrics]\nlisten = '::1'", "2: [metrics] listen: expected HOST:PORT, got '::1' (an IPv6 address stands in"),
        ("[metrics]\nlisten = 'http://a:1'", "2: [metrics] listen: expected HOST:PORT, got 'http://a:1'"),
        ("[hep]\ncapture_id = 1", "1: [hep]: expected a server"),
        ("[hep]\nserver = 9060", "2: [hep] server: expected a text, got 9060"),
        ("[hep]\nserver = 'homer'", "2: [hep] server: expected udp:HOST:PORT (or tcp:, tls:), got 'homer'"),
        ("[hep]\nserver = 'ws:a:1'", "2: [hep] server: expected udp:HOST:PORT (or tcp:, tls:), got 'ws:a:1'"),
        (
            "[hep]\nserver = 'udp:::1'",
            "2: [hep] server: expected udp:HOST:PORT (or tcp:, tls:), got 'udp:::1' (an IPv6",
        ),
        ("[hep]\nserver = 'udp:a:0'", "2: [hep] server: expected a port from 1 to 65535, got '0'"),
        ("[hep]\nserver = 'udp:a'\ncapture_id = -1", "3: [hep] capture_id: expected 0 to 4294967295, got -1"),
        ("[hep]\nserver = 'udp:a'\nsample = 0", "3: [hep] sample: expected more than 0 and at most 1, got 0"),
        ("[hep]\nserver = 'udp:a'\nmethods = ['A B']", "3: [hep] methods: expected methods such as INVITE, got 'A B'"),
        (
            "[hep]\nserver = 'udp:a'\nauth_key = '" + "k" * 256 + "'",
            "3: [hep] auth_key: expected at most 255 octets, got 256",
        ),
        ("[hep]\nserver = 'udp:a'\nca = 'x.pem'", "3: [hep] ca: expected a server with tls:"),
        ("[hep]\nserver = 'udp:a'\nauth_key = 4711", "3: [hep] auth_key: expected a text"),
        ("[hep]\nserver = 'tls:a'\nca = 'x.pem'", "3: [hep] ca: "),
        ("[hep]\nserver = 'tls:a'\nca = 'polykemi.toml'", "3: [hep] ca: "),
        ("[hep]\nservers = 'udp:a'", "2: [hep] servers: unknown, did you mean server?"),
        ("[udp]\nmtu = -1", "2: [udp] mtu: expected 0 or more octets, got -1"),
        ("[udp]\nmtu_try_proto = 'sctp'", "2: [udp] mtu_try_proto: expected tcp or tls, got sctp"),
        ("[udp]\nmtus = 1300", "2: [udp] mtus: unknown, did you mean mtu?"),
        ("[tcp]\nmax_connections = 0", "2: [tcp] max_connections: expected more than 0, got 0"),
        ("[tcp]\nlifetime = 1", "2: [tcp] lifetime: unknown"),
        ("[tcp]\nconection_lifetime = 1", "2: [tcp] conection_lifetime: unknown, did you mean connection_lifetime?"),
        ("[metrics]\nport = 9090", "2: [metrics] port: unknown, expected listen"),
        ("[control]\nhttps = 'a'", "2: [control] https: unknown, did you mean http?"),
        ("[control]\nhttp = '8080'", "2: [control] http: expected HOST:PORT, got '8080'"),
        (
            "[control]\nhttp = '0.0.0.0:80'",
            "2: [control] http: whoever reaches 0.0.0.0 could command the server: set a",
        ),
        ("[control]\nhttp = '[::]:80'", "2: [control] http: whoever reaches :: could command the server: set a token,"),
        ("[control]\nhttp = 'sip.test:80'", "2: [control] http: whoever reaches sip.test could command the server"),
        (
            "[control]\nhttp = 'a:1'\ntoken = 'se cret'",
            "3: [control] token: expected 16 to 256 letters, digits and -._~",
        ),
        ("[control]\nhttp = 'a:1'\ntoken = ''", "3: [control] token: expected 16 to 256 letters, digits and -._~"),
        ("[control]\ntoken = 'abcdefghijklmnop'", "2: [control] token: expected http = HOST:PORT beside it"),
        ("[control]\nsocket = 'a'\ndatagram = 'a'", "3: [control] datagram: expected another path than that of socket"),
        ("[dns]\nnameservers = ['ns.test']", "2: [dns] nameservers: expected ADDRESS or ADDRESS:PORT of a name server"),
        ("[dns]\nretr_no = 0", "2: [dns] retr_no: expected more than 0, got 0"),
        ("[dns]\ncache_max_ttl = -1", "2: [dns] cache_max_ttl: expected seconds, got -1"),
        ("[dns]\ncache_min_ttl = 9\ncache_max_ttl = 5", "2: [dns] cache_min_ttl: expected at most cache_max_ttl, 5"),
        ("[dns]\ndns_try_naptr = 1", "2: [dns] dns_try_naptr: unknown, did you mean try_naptr?"),
        ("[dns]\nsrv_lb = 2", "2: [dns] srv_lb: expected true or false, got 2"),
        ("metrics = true", "1: metrics: expected a table, got true"),
        (
            "listen = [\n  'udp:127.0.0.1',\n  'udp:?',\n]",
            "1: listen: expected udp:HOST:PORT (or tcp:, tls:, ws:, wss:), got 'udp:?'",
        ),
        ("data = 'x'\n\n# a note\nlisten = [\n  5]", "4: listen: expected a text, got 5"),
    ],
)
def test_a_wrong_file_is_named_with_line_table_and_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'polykemi.toml'}:{says}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"listen = [\nnothing", ":2: Invalid value"),
        (b"a = 1\na = 2\n", ":2: Cannot overwrite a value"),
        (b'data = "', ":1: Unterminated string"),
        (b'a = 1\ndata = "\xff"\n', ":2: expected UTF-8 text"),
    ],
)
def test_a_file_that_is_no_toml_is_named_with_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "polykemi.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert str(raised.value).startswith(f"{path}{says}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory"):
        config.load(tmp_path / "none.toml")


# ---- module parameters


def test_parameters_take_the_place_of_the_modules_defaults() -> None:
    given = {
        "max_contacts": 5,
        "realm_prefix": "sip.ü",
        "latency": 2,
        "use_path": 1,
        "htable": ["a=>size=8", "b=>size=4"],
        "mode": "safe",
        "limit": 3,
        "flags": {"a": 1},
        "key": "ä",
        "ports": [5060, 5062],
        "anything": [1, "a"],
    }
    params = config.typed_params(Registrar, given)
    expected = Params(
        max_contacts=5,
        realm_prefix=to_octets("sip.ü"),
        latency=2.0,
        use_path=True,
        htable=("a=>size=8", "b=>size=4"),
        mode="safe",
        limit=3,
        flags={"a": 1},
        key=to_octets("ä"),
        ports=(5060, 5062),
        anything=[1, "a"],
    )
    assert params == expected
    assert type(params.latency) is float
    assert params.use_path is True
    assert config.typed_params(Registrar, {}) == Params()


def test_one_text_is_taken_for_a_list_of_one() -> None:
    assert config.typed_params(Registrar, {"htable": "a=>size=8"}).htable == ("a=>size=8",)


def test_a_wrong_parameter_without_a_file_is_named_too() -> None:
    with pytest.raises(ConfigError) as raised:
        config.typed_params(Registrar, {"max_contact": 1})
    assert str(raised.value) == "polykemi.toml: [modules.registrar] max_contact: unknown, did you mean max_contacts?"


# ---- TLS
def test_profiles_of_tls(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    pki.issue("other", "DNS:other.test")
    text = """
    listen = ["tls:127.0.0.1:5061"]
    [tls]
    certificate = "server.pem"
    key = "server.key"
    method = "TLSv1.3+"
    [tls.server."[::1]:5071"]
    verify_client = "optional"
    ca = "ca.pem"
    [tls.server.other]
    certificate = "other.pem"
    key = "other.key"
    server_name = "Other.test"
    server_name_mode = 1
    [tls.client]
    ca = "ca.pem"
    [tls.client."192.0.2.1:5061"]
    verify_certificate = false
    server_id = "lab"
    """
    script = tmp_path / "a.lua"
    tls = load(tmp_path, text, script=script).tls
    default = TlsProfile(
        "", tmp_path / "server.pem", tmp_path / "server.key", ca=None, method="TLSv1.3+", verify="none"
    )
    assert tls.servers == (
        default,
        replace(default, name="server.[::1]:5071", address="::1:5071", verify="optional", ca=pki.ca),
        replace(
            default,
            name="server.other",
            certificate=tmp_path / "other.pem",
            key=tmp_path / "other.key",
            server_name="other.test",
            server_name_mode=1,
        ),
    )
    called = TlsProfile("client", verify="require", ca=pki.ca)
    lab = replace(called, name="client.192.0.2.1:5061", address="192.0.2.1:5061", verify="none", server_id="lab")
    assert tls.clients == (called, lab)
    assert config.load_tls(tmp_path / "polykemi.toml", [Listener("tls", "127.0.0.1", 5061)]) == tls


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tls]\nkey = 'a'", "2: [tls] key: expected a certificate beside it"),
        ("[tls]\ncertificate = 'a.pem'", "2: [tls] certificate: {}/a.pem: No such file or directory"),
        ("[tls]\nmethod = 'SSLv3'", '2: [tls] method: expected TLSv1.2, TLSv1.2+, TLSv1.3 or TLSv1.3+, got "SSLv3"'),
        ("[tls]\nverify_client = 'yes'", '2: [tls] verify_client: expected none, optional or require, got "yes"'),
        ("[tls]\nverify_client = 'require'", "2: [tls] verify_client: expected a ca beside it"),
        ("[tls]\nca_list = 'a'", "2: [tls] ca_list: unknown"),
        ("[tls]\nserver_name_mode = 3", "2: [tls] server_name_mode: expected 0 (the name), 1 (subdomains too)"),
        ("[tls.server.x]\ncertificate = 'a'", "1: [tls.server.x]: expected a server_name, or a table named HOST:PORT"),
        ("[tls.server.x]\nserver_name = 'a'", "1: [tls.server.x]: expected a certificate, here or in [tls]"),
        (
            "[tls.client]\nverify_client = 'none'",
            "2: [tls.client] verify_client: unknown, did you mean verify_certific",
        ),
        ("[tls.client.x]\nserver_name = 'a'", "1: [tls.client.x]: expected a server_id, or a table named HOST:PORT"),
        (
            "[tls.client.'a:1']\nca = 'a'\n[tls]\ncertificate = 'server.pem'",
            "2: [tls.client.a:1] ca: {}/a: No",
        ),
    ],
)
def test_a_wrong_profile_is_named(tmp_path: Path, text: str, says: str) -> None:
    if "server.pem" in text:
        Pki(tmp_path)
        (tmp_path / "server.pem").write_bytes(
            (tmp_path / "server.pem").read_bytes() + (tmp_path / "server.key").read_bytes()
        )
    file = tmp_path / "polykemi.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        config.load(file, script=tmp_path / "a.lua", listen=["tls:127.0.0.1:5061"])
    assert str(raised.value).startswith(f"{file}:{says.format(tmp_path)}")


def test_the_page_about_dns_names_all_settings_with_their_defaults(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"```\n(\[dns\]\n.*?)```", (Path(__file__).parents[1] / "docs" / "dns.md").read_text(), re.DOTALL
    )
    file = tmp_path / "polykemi.toml"
    file.write_text(block)
    settings = config.load(file, serving=False).dns
    assert {f.name for f in fields(settings)} == set(re.findall(r"^([a-z0-9_]+) =", block, re.MULTILINE))
    assert replace(settings, nameservers=()) == DnsSettings()
    assert settings.nameservers == (("192.0.2.53", 53), ("2001:db8::53", 5353))
