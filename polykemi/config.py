"""``polykemi.toml`` and the command line, as typed frozen settings.

Everything in the file is optional and what the command line says wins. Relative paths in the file are relative to it.
Every error is a ConfigError of one line: ``file:line: [table] key: what was expected and what came``.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from polykemi.errors import ConfigError
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.route import CONFIG_NAMES, Route
from polykemi.overload import OverloadLimits
from polykemi.sip.flow import Listener, UdpSettings
from polykemi.sip.grammar import canonical_host, is_token
from polykemi.transport.limits import StreamLimits
from polykemi.transport.name_servers import parse_server
from polykemi.transport.resolver import DnsSettings
from polykemi.transport.tls_profiles import METHODS, VERIFY, BadProfile, TlsContexts, TlsProfile, TlsSettings

FILE_NAME: Final = "polykemi.toml"
DATA: Final = Path("polykemi.data")
ENGINES: Final = {"lua": ".lua", "js": ".js", "python": ".py"}  # name -> suffix of its scripts
LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_TABLES: Final = (
    "listen",
    "domains",
    "data",
    "engines",
    "ksr",
    "routes",
    "modules",
    "log",
    "metrics",
    "udp",
    "tcp",
    "tls",
    "dns",
    "overload",
)
_NAMELESS: Final = Route.REQUEST | Route.REPLY | Route.ONSEND  # one block each, the name is fixed
_PROTOCOLS: Final = {  # as written -> what is listened on, default port
    "udp": ("udp", 5060),
    "tcp": ("tcp", 5060),
    "tls": ("tls", 5061),
    "ws": ("tcp", 80),
    "wss": ("tls", 443),
    "sctp": ("sctp", 5060),
}
_LISTEN: Final = "udp:HOST:PORT (or tcp:, tls:, ws:, wss:)"
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,15}) ?([kMG]?)", re.ASCII)
_SIZE_UNITS: Final = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_AT_LINE: Final = re.compile(r" \(at line ([0-9]+), column [0-9]+\)")

T = TypeVar("T")
Param = int | float | str | bool | list[Any] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine: its script, and what a route block may use: seconds of wall time, octets of heap (0: no limit).

    ``path``: where Lua looks for modules besides the script's directory, as in ``package.path``.
    """

    name: str
    script: Path
    seconds: float = 1.0
    memory: int = 0
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """Which engine runs which route block: one named block, else its kind, else the default."""

    default: str
    by_kind: Mapping[Route, str] = field(default_factory=dict)
    by_name: Mapping[tuple[Route, str], str] = field(default_factory=dict)

    def engine_for(self, kind: Route, callback: str) -> str:
        """Return the name of the engine that runs ``callback`` as a block of ``kind``."""
        return self.by_name.get((kind, callback)) or self.by_kind.get(kind) or self.default


@dataclass(frozen=True, slots=True)
class ModuleSettings:
    """The modules to load (None: all) and their parameters as the file gives them; see ``typed_params``."""

    load: tuple[str, ...] | None = None
    params: Mapping[str, Mapping[str, Param]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be configured."""

    listen: tuple[Listener, ...] = (Listener("udp", "0.0.0.0", 5060),)
    domains: tuple[str, ...] = ()
    data: Path = DATA
    engines: tuple[EngineSettings, ...] = ()
    routes: RouteSettings = RouteSettings("")
    modules: ModuleSettings = ModuleSettings()
    strict: bool = False  # [ksr]: a call of KSR that cannot be made raises in the script
    log_level: str = "info"
    metrics: tuple[str, int] | None = None  # host and port of the Prometheus endpoint
    udp: UdpSettings = field(default_factory=UdpSettings)
    tcp: StreamLimits = field(default_factory=StreamLimits)
    dns: DnsSettings = field(default_factory=DnsSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    overload: OverloadLimits = field(default_factory=OverloadLimits)
    file: Path | None = None


def load(
    path: Path | None,
    *,
    engine: str | None = None,
    script: Path | None = None,
    listen: Iterable[str] = (),
    domains: Iterable[str] = (),
    data: Path | None = None,
    serving: bool = True,
) -> Settings:
    """Read ``path`` (None: no file) and lay the command line over it.

    An engine or a script of the command line runs all route blocks, whatever the file says. With ``serving`` a script is
    needed. Raise ConfigError.
    """
    root = _Table(path, (), _read(path) if path else {})
    root.only(_TABLES)
    engines = _engines(root.table("engines"))
    if engine or script:
        engines = (_chosen(path, engines, engine, script),)
        routes = RouteSettings(engines[0].name)
    else:
        routes = _routes(root.table("routes"), [one.name for one in engines])
    if serving and not engines:
        hint = f", or name one in [engines] of {path or FILE_NAME}"
        raise ConfigError(f"no script to run: give one, as in `polykemi serve --engine lua SCRIPT`{hint}")
    listening = _flags("--listen", listen, parse_listen) or root.texts("listen", parse_listen) or Settings().listen
    return Settings(
        listen=listening,
        domains=_flags("--domain", domains, _domain) or root.texts("domains", _domain),
        data=data or root.relative("data") or DATA,
        engines=engines,
        routes=routes,
        modules=_modules(root.table("modules")),
        strict=_strict(root.table("ksr")),
        log_level=_log_level(root.table("log")),
        metrics=_metrics(root.table("metrics")),
        udp=_udp(root.table("udp")),
        tcp=_tcp(root.table("tcp")),
        dns=_dns(root.table("dns")),
        tls=_tls(root.table("tls"), listening if serving else ()),
        overload=_overload(root.table("overload")),
        file=path,
    )


def parse_listen(text: str) -> Listener:
    """Parse ``PROTO:HOST:PORT [advertise HOST:PORT] [name NAME]``; udp when there is no protocol. Raise ValueError.

    The default port is 5060, that of tls 5061. WebSocket is spoken on connections of tcp and tls, on each of them: ``ws``
    (default port 80) is another word for tcp, ``wss`` (443) for tls.
    """
    address, *words = text.split() or [""]
    head, colon, rest = address.partition(":")
    proto, rest = (head.lower(), rest) if colon and head.lower() in _PROTOCOLS else ("udp", address)
    if proto == "sctp":
        raise ValueError(f"sctp is not supported, expected {_LISTEN}, got {text!r}")
    given = dict(zip(words[::2], words[1::2], strict=False))
    if 2 * len(given) != len(words) or not given.keys() <= {"advertise", "name"}:
        raise ValueError(f"expected {_LISTEN} [advertise HOST:PORT] [name NAME], got {text!r}")
    proto, default = _PROTOCOLS[proto]
    host, port = _host_and_port(rest, default, f"expected {_LISTEN}, got {text!r}")
    listener = Listener(proto, canonical_host(host), port)
    if "advertise" in given:
        expected = f"expected advertise HOST:PORT, got {text!r}"
        shown, shown_port = _host_and_port(given["advertise"].strip('"'), 0, expected)
        listener = listener._replace(advertised_host=canonical_host(shown), advertised_port=shown_port)
    name = given.get("name", "").strip('"')
    if "name" in given and not is_token(name):
        raise ValueError(f"expected name and a word, got {text!r}")
    return listener._replace(name=name)


def _host_and_port(text: str, default: int | None, expected: str) -> tuple[str, int]:
    """Split ``HOST:PORT``, or ``HOST`` where there is a default port. Raise ValueError that begins with ``expected``."""
    if text[:1] == "[":
        host, bracket, port = text[1:].partition("]")
        valid = bool(bracket) and _is_ip6(host) and port[:1] in ("", ":")
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = text.partition(":")
        valid = _is_host(host)
    if not valid or not (colon or default is not None):
        raise ValueError(f"{expected}{' (an IPv6 address stands in brackets)' if _is_ip6(text) else ''}")
    if not colon:
        assert default is not None
        return host, default
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"expected a port from 0 to 65535, got {port!r}")
    return host, int(port)


def typed_params(module_class: type[Any], given: Mapping[str, Any], file: Path | None = None) -> Any:
    """Return ``module_class.Params`` filled with ``given``, the rest by default. Raise ConfigError."""
    table = _Table(file, ("modules", module_class.name or "core"), given)
    hints = get_type_hints(module_class.Params)
    table.only([f.name for f in fields(module_class.Params)])
    values: dict[str, Any] = {}
    for key, value in given.items():
        try:
            values[key] = converted = _convert(value, hints[key])
        except ValueError as error:
            table.fail(key, _without_secrets(key, str(error)))
        if isinstance(converted, Path) and file is not None:
            values[key] = file.parent / converted
    try:
        return module_class.Params(**values)
    except ValueError as error:  # the module's own check
        table.fail("", str(error))


_SECRETS = ("secret", "password", "xkey", "url", "sqlcon")  # parts of names of parameters


def _without_secrets(key: str, cause: str) -> str:
    """Return why a parameter is wrong, without what stands there when that may be nobody's business: it goes into logs."""
    return cause.partition(", got ")[0] if any(part in key for part in _SECRETS) else cause


def unknown(name: str, known: Collection[str]) -> str:
    """Say that ``name`` is not one of ``known``: the closest one, or all when they are few."""
    if close := difflib.get_close_matches(name, known, n=1):
        return f"unknown, did you mean {close[0]}?"
    return f"unknown, expected {_one_of(known)}" if 0 < len(known) < 9 else "unknown"


class _Table:
    """A table of the file that knows where it stands, for errors."""

    def __init__(self, file: Path | None, path: tuple[str, ...], content: Mapping[str, Any]) -> None:
        self.file, self.path, self.content = file, path, content

    def fail(self, key: str, cause: str) -> NoReturn:
        """Raise the ConfigError about ``key`` ("": about the table itself)."""
        path = (*self.path, key) if key else self.path
        names = path if isinstance(self.content.get(key), dict) else self.path
        table = f"[{'.'.join(names)}]" if names else ""
        key = "" if names is path else key
        place = f"{self.file}:{_line(self.file, path)}" if self.file else FILE_NAME
        raise ConfigError(f"{place}: {' '.join(filter(None, (table, key)))}: {cause}")

    def only(self, known: Collection[str]) -> None:
        """Refuse keys that are not ``known``."""
        for key in self.content:
            if key not in known:
                self.fail(key, unknown(key, known))

    def get(self, key: str, kind: Any, default: Any = None) -> Any:
        """Return the value of ``key`` as the type ``kind``."""
        if key not in self.content:
            return default
        try:
            return _convert(self.content[key], kind)
        except ValueError as error:
            self.fail(key, str(error))

    def table(self, key: str) -> _Table:
        """Return the table ``key``, empty when it is not there."""
        content = self.content.get(key, {})
        if not isinstance(content, dict):
            self.fail(key, f"expected a table, got {_shown(content)}")
        return _Table(self.file, (*self.path, key), content)

    def texts(self, key: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Return the list of texts ``key``, each parsed."""
        try:
            return tuple(parse(from_octets(text)) for text in self.get(key, list[str], []))
        except ValueError as error:
            self.fail(key, str(error))

    def relative(self, key: str) -> Path | None:
        """Return the path ``key``, relative to the file's directory; None when it is not there."""
        path: Path | None = self.get(key, Path)
        return self.file.parent / path if path and self.file else path


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: expected UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        at = _AT_LINE.search(str(error))
        line = int(at[1]) if at else path.read_bytes().count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: {_AT_LINE.sub('', str(error))}") from None


def _line(file: Path, path: tuple[str, ...]) -> int:
    """Return the line where ``path`` begins: the one after which the beginning of the file holds it for the first time."""
    lines = file.read_text(encoding="utf-8").split("\n")
    begin = 1
    for end in range(1, len(lines) + 1):
        try:
            found: Any = tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # inside of a value of several lines
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return begin
        begin = end + 1
    return 1


def _engines(table: _Table) -> tuple[EngineSettings, ...]:
    table.only(ENGINES)
    engines = []
    for name, value in table.content.items():
        if isinstance(value, dict):
            one = table.table(name)
            one.only(("script", "timeout", "max_memory", *(["path"] if name == "lua" else [])))
            if "script" not in value:
                one.fail("", "expected a script")
            seconds, memory = one.get("timeout", float, 1.0), _size(one, "max_memory")
            if not 0 < seconds < 3600:
                one.fail("timeout", f"expected seconds, more than 0 and less than 3600, got {seconds:g}")
        else:
            one, seconds, memory = table, 1.0, 0
        path = _module_path(one) if one is not table else ()
        script = one.relative("script" if one is not table else name)
        assert script is not None
        engines.append(EngineSettings(name, script, seconds, memory, path))
    return tuple(engines)


def _module_path(table: _Table) -> tuple[str, ...]:
    """Return the patterns of ``path``, relative ones from the file's directory on."""
    patterns: list[str] = table.get("path", list[str], [])
    for one in patterns:
        if "?" not in one or ";" in one:
            table.fail("path", f"expected patterns such as /usr/share/lua/5.1/?.lua, got {_shown(one)}")
    directory = table.file.parent.absolute() if table.file else Path()
    return tuple(to_octets(str(directory / from_octets(one))) for one in patterns)


def _chosen(
    path: Path | None, engines: tuple[EngineSettings, ...], name: str | None, script: Path | None
) -> EngineSettings:
    """Return the one engine that the command line names; its limits are those of the file."""
    if name is None:
        assert script is not None
        name = next((n for n, suffix in ENGINES.items() if suffix == script.suffix), None)
        if name is None:
            raise ConfigError(f"{script}: which language? Say it with --engine {_one_of(ENGINES)}")
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}: {unknown(name, ENGINES)}")
    given = next((one for one in engines if one.name == name), None)
    if script is None and given is None:
        raise ConfigError(f"--engine {name}: expected a script, and {path or FILE_NAME} names none for {name}")
    if given is None:
        assert script is not None
        return EngineSettings(name, script)
    return replace(given, script=script) if script else given


def _routes(table: _Table, engines: list[str]) -> RouteSettings:
    by_kind: dict[Route, str] = {}
    by_name: dict[tuple[Route, str], str] = {}
    for key in table.content:
        name, colon, callback = key.partition(":")
        kind = CONFIG_NAMES.get(name)
        if kind is None and name != "default":
            table.fail(key, unknown(name, ("default", *CONFIG_NAMES)))
        if colon and (kind is None or kind & _NAMELESS):
            table.fail(key, f"expected {name} alone")
        if colon and not callback:
            table.fail(key, f"expected {name}:NAME")
        engine = table.get(key, str)
        if engine not in ENGINES:
            table.fail(key, f"{engine} is {unknown(engine, ENGINES)}")
        if engine not in engines:
            table.fail(key, f"[engines] names no script for {engine}")
        if kind is not None and colon:
            by_name[kind, to_octets(callback)] = engine
        elif kind is not None:
            by_kind[kind] = engine
    default = table.content.get("default", engines[0] if len(engines) == 1 else "")
    if not default and len(engines) > 1 and len(by_kind) < len(CONFIG_NAMES):
        table.fail("", f"expected default = {_one_of(engines)}")
    return RouteSettings(default, by_kind, by_name)


def _modules(table: _Table) -> ModuleSettings:
    if not table.content:
        return ModuleSettings()
    from polykemi.modules import MODULES

    loaded: list[str] | None = table.get("load", list[str])
    for name in loaded or ():
        if name not in MODULES:
            table.fail("load", f"{name} is {unknown(name, MODULES)}")
    params = {name: table.table(name).content for name in table.content if name != "load"}
    for name, given in params.items():
        if name not in MODULES:
            table.fail(name, unknown(name, ["load", *MODULES]))
        if loaded is not None and name not in loaded:
            table.fail(name, f"{name} is not in load")
        typed_params(MODULES[name], given, table.file)
    return ModuleSettings(None if loaded is None else tuple(loaded), params)


def _strict(table: _Table) -> bool:
    table.only(("strict",))
    return bool(table.get("strict", bool, False))


def _log_level(table: _Table) -> str:
    table.only(("level",))
    level: str = table.get("level", str, "info")
    if level not in LOG_LEVELS:
        table.fail("level", f"{level} is {unknown(level, LOG_LEVELS)}")
    return level


def _metrics(table: _Table) -> tuple[str, int] | None:
    table.only(("listen",))
    address: str | None = table.get("listen", str)
    if address is None:
        return None
    try:
        return _host_and_port(from_octets(address), None, f"expected HOST:PORT, got {from_octets(address)!r}")
    except ValueError as error:
        table.fail("listen", str(error))


def _udp(table: _Table) -> UdpSettings:
    hints = get_type_hints(UdpSettings)
    table.only([f.name for f in fields(UdpSettings)])
    values = {key: table.get(key, hints[key]) for key in table.content}
    try:
        return UdpSettings(**values)
    except ValueError as error:
        key, _, cause = str(error).partition(": ")
        table.fail(key, cause)


def _tcp(table: _Table) -> StreamLimits:
    hints = get_type_hints(StreamLimits)
    table.only([f.name for f in fields(StreamLimits)])
    values = {}
    for key in table.content:
        values[key] = table.get(key, hints[key])
        if not isinstance(values[key], bool) and values[key] <= 0:
            table.fail(key, f"expected more than 0, got {values[key]}")
    return StreamLimits(**values)


def _dns(table: _Table) -> DnsSettings:
    hints = get_type_hints(DnsSettings)
    table.only([f.name for f in fields(DnsSettings)])
    values: dict[str, Any] = {"nameservers": table.texts("nameservers", parse_server)}
    for key in table.content:
        if key == "nameservers":
            continue
        value = values[key] = table.get(key, hints[key])
        if key in ("retr_time", "retr_no", "servers_no", "dst_blocklist_expire") and value <= 0:
            table.fail(key, f"expected more than 0, got {value}")
        if key in ("cache_min_ttl", "cache_max_ttl", "cache_negative_ttl") and value < 0:
            table.fail(key, f"expected seconds, got {value:g}")
    settings = DnsSettings(**values)
    if settings.cache_min_ttl > settings.cache_max_ttl:
        table.fail("cache_min_ttl", f"expected at most cache_max_ttl, {settings.cache_max_ttl:g}")
    return settings


_TLS_FILES: Final = ("certificate", "key", "ca", "crl")
_TLS_KEYS: Final = (*_TLS_FILES, "ciphers", "method")
_OF_SERVERS: Final = ("verify_client", "server_name", "server_name_mode")
_OF_CLIENTS: Final = ("verify_certificate", "server_name", "server_id")


def load_tls(path: Path | None, listeners: Iterable[Listener]) -> TlsSettings:
    """Read the table [tls] of ``path`` anew, and try the files that it names. Raise ConfigError."""
    return _tls(_Table(path, (), _read(path) if path else {}).table("tls"), listeners)


def _tls(table: _Table, listeners: Iterable[Listener]) -> TlsSettings:
    """Return the profiles of TLS; those that ``listeners`` need are tried."""
    table.only((*_TLS_KEYS, *_OF_SERVERS, "server", "client"))
    places = {"": table}
    servers, clients = table.table("server"), table.table("client")
    default = _tls_profile(table, TlsProfile())
    profiles = [default]
    for name in servers.content:
        place = places[f"server.{name}"] = servers.table(name)
        place.only((*_TLS_KEYS, *_OF_SERVERS))
        profiles.append(_tls_profile(place, replace(default, name=f"server.{name}", address=_address(name) or "")))
        if not (profiles[-1].server_name or profiles[-1].address):
            place.fail("", f"expected a server_name, or a table named HOST:PORT, got {name}")
    clients.only(
        (*_TLS_KEYS, *_OF_CLIENTS, *(key for key, value in clients.content.items() if isinstance(value, dict)))
    )
    places["client"] = clients
    called = [_tls_profile(clients, TlsProfile("client", verify="require"))]
    for name, value in clients.content.items():
        if isinstance(value, dict):
            place = places[f"client.{name}"] = clients.table(name)
            place.only((*_TLS_KEYS, *_OF_CLIENTS))
            called.append(_tls_profile(place, replace(called[0], name=f"client.{name}", address=_address(name) or "")))
            if not (called[-1].server_id or called[-1].address):
                place.fail("", f"expected a server_id, or a table named HOST:PORT, got {name}")
    settings = TlsSettings(tuple(profiles), tuple(called))
    needed = [one for one in listeners if one.proto == "tls"]
    for profile in profiles[1:] if needed else ():
        if profile.certificate is None:
            places[profile.name].fail("", "expected a certificate, here or in [tls]")
    for one in needed:
        if settings.server(one).certificate is None:
            table.fail("certificate", f"expected a file in PEM, for the listener {one}")
    if needed:
        try:
            TlsContexts(settings)
        except BadProfile as error:
            places[error.profile.name].fail(error.key, error.cause)
    return settings


def _tls_profile(table: _Table, base: TlsProfile) -> TlsProfile:
    """Return the profile of ``table``; what is not in it is that of ``base``, but a certificate comes with its key."""
    values: dict[str, Any] = {key: path for key in _TLS_FILES if (path := table.relative(key)) is not None}
    if "certificate" in values:
        values.setdefault("key", None)
    elif "key" in values and base.certificate is None:
        table.fail("key", "expected a certificate beside it")
    for key in ("ciphers", "method", "server_name", "server_id"):
        values[key] = table.get(key, str, getattr(base, key))
    values["server_name"] = values["server_name"].lower()
    if values["method"] not in METHODS:
        table.fail("method", f"expected {_one_of(METHODS)}, got {_shown(values['method'])}")
    values["server_name_mode"] = table.get("server_name_mode", int, base.server_name_mode)
    if not 0 <= values["server_name_mode"] <= 2:
        table.fail(
            "server_name_mode",
            f"expected 0 (the name), 1 (subdomains too) or 2 (these alone), got {values['server_name_mode']}",
        )
    values["verify"] = table.get("verify_client", str, base.verify)
    if values["verify"] not in VERIFY:
        table.fail("verify_client", f"expected {_one_of(VERIFY)}, got {_shown(values['verify'])}")
    if "verify_certificate" in table.content:
        values["verify"] = "require" if table.get("verify_certificate", bool) else "none"
    profile = replace(base, **values)
    if "verify_client" in table.content and profile.verify != "none" and profile.ca is None:
        table.fail("verify_client", "expected a ca beside it: whose certificates are taken")
    return profile


def _address(text: str) -> str | None:
    """Return ``HOST:PORT`` without the brackets of IPv6, None for what is none."""
    try:
        host, port = _host_and_port(text, None, "")
    except ValueError:
        return None
    return f"{host}:{port}"


def _overload(table: _Table) -> OverloadLimits:
    hints = get_type_hints(OverloadLimits)
    table.only([f.name for f in fields(OverloadLimits)])
    values = {key: _size(table, key) if key == "memory" else table.get(key, hints[key]) for key in table.content}
    for key, value in values.items():
        if not value >= 0:  # nan too
            table.fail(key, f"expected 0 or more, got {value}")
    return OverloadLimits(**values)


def _flags(flag: str, given: Iterable[str], parse: Callable[[str], T]) -> tuple[T, ...]:
    values = []
    for text in given:
        try:
            values.append(parse(text))
        except ValueError as error:
            raise ConfigError(f"{flag} {text}: {error}") from None
    return tuple(values)


def _domain(text: str) -> str:
    """Return a domain in lower case, an IPv6 address without its brackets. Raise ValueError."""
    host = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    if not (_is_host(host) or _is_ip6(host)):
        raise ValueError(f"expected a host name or an IP address, got {text!r}")
    return canonical_host(host)


def _size(table: _Table, key: str) -> int:
    """Return octets: a number, or a text such as ``64M``."""
    value = table.get(key, int | str, 0)
    match = _SIZE.fullmatch(str(value))
    if not match:
        table.fail(key, f"expected octets, or a size such as 64M, got {_shown(value)}")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _convert(value: Any, kind: Any) -> Any:
    """Return a TOML value as the type ``kind``. Raise ValueError saying what was expected and what came.

    Text becomes octets; one text is taken for a list of texts, an integer for a float, 0 and 1 for a bool.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        some = [one for one in inner if one is not types.NoneType]
        if len(some) == 1:
            return _convert(value, some[0])
        for one in some:
            try:
                return _convert(value, one)
            except ValueError:
                continue
    elif origin is Literal:
        if value in inner:
            return value
        raise ValueError(f"expected {_one_of([str(i) for i in inner])}, got {_shown(value)}")
    elif origin in (list, tuple, frozenset):
        if isinstance(value, str | list):
            return origin(_convert(item, inner[0]) for item in ([value] if isinstance(value, str) else value))
    elif origin in (dict, Mapping):
        if isinstance(value, dict):
            return {to_octets(k): _convert_item(k, v, inner[1]) for k, v in value.items()}
    elif kind is bool:
        if isinstance(value, bool) or (type(value) is int and value in (0, 1)):
            return bool(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind is Path:
        if isinstance(value, str) and value and "\0" not in value:
            return Path(value)
    elif kind is str:
        if isinstance(value, str):
            return to_octets(value)
    elif type(value) is kind:
        return value
    raise ValueError(f"expected {_kind_name(kind)}, got {_shown(value)}")


def _convert_item(key: str, value: Any, kind: Any) -> Any:
    try:
        return _convert(value, kind)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _kind_name(kind: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a text", Path: "a path", bool: "true or false"}
    if kind in names:
        return names[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind_name(one) for one in inner if one is not types.NoneType)
    if origin in (list, tuple, frozenset):
        return "a list of texts" if inner[0] is str else f"a list, each {_kind_name(inner[0])}"
    return "a table"


def _shown(value: Any) -> str:
    """Return a TOML value as an error shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _one_of(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _is_host(text: str) -> bool:
    """Tell whether ``text`` is a host name or an IPv4 address; digits and dots alone are no name (RFC 1123 section 2.1)."""
    if text.replace(".", "").isdecimal():
        try:
            return bool(ipaddress.IPv4Address(text))
        except ValueError:
            return False
    return bool(_HOST.fullmatch(text))


def _is_ip6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False
