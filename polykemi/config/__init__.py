"""``polykemi.toml`` and the command line, as typed frozen settings.

Everything in the file is optional and what the command line says wins. Relative paths in the file are relative to it.
Every error is a ConfigError of one line: ``file:line: [table] key: what was expected and what came``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, get_type_hints

from polykemi.config.addresses import parse_domain, parse_listen
from polykemi.config.control import ControlSettings, control, listen_address
from polykemi.config.hep import hep
from polykemi.config.limits import limits
from polykemi.config.log import log
from polykemi.config.network import dns, load_tls, overload, tcp, tls, udp
from polykemi.config.reload import ReloadSettings, reload
from polykemi.config.service import ServiceSettings, service
from polykemi.config.table import FILE_NAME, T, Table, convert, one_of, read, shown, size, unknown
from polykemi.engines.base import Limits
from polykemi.errors import ConfigError
from polykemi.kemi.binding import from_octets, to_octets
from polykemi.kemi.limits import ScriptLimits
from polykemi.kemi.route import CONFIG_NAMES, Route
from polykemi.logs import LogSettings
from polykemi.overload import OverloadLimits
from polykemi.sip.flow import Listener, UdpSettings
from polykemi.transport.limits import StreamLimits
from polykemi.transport.mirror import HepSettings
from polykemi.transport.resolver import DnsSettings
from polykemi.transport.tls_profiles import TlsSettings

__all__ = [
    "FILE_NAME",
    "ControlSettings",
    "EngineSettings",
    "ModuleSettings",
    "RouteSettings",
    "Settings",
    "load",
    "load_tls",
    "parse_listen",
    "typed_params",
    "unknown",
]

DATA: Final = Path("polykemi.data")
ENGINES: Final = {"lua": ".lua", "js": ".js", "python": ".py"}  # name -> suffix of its scripts
HEAP: Final = {"lua": 128 << 20}  # engine -> octets of heap when the file says nothing; others: what the language does
ALLOWED: Final = {  # engine -> what ``allow`` may open of its language
    "lua": ("debug", "ffi", "io", "jit", "os", "package", "python"),
    "js": ("files", "wasm"),
}
_NOT_FOR_PYTHON: Final = {
    "allow": "a Python script runs in the server's own interpreter: nothing can be kept from it",
    "max_memory": "a Python script has no heap of its own: see [overload] memory",
}

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
    "hep",
    "control",
    "udp",
    "tcp",
    "tls",
    "dns",
    "overload",
    "limits",
    "reload",
    "service",
)
_NAMELESS: Final = Route.REQUEST | Route.REPLY | Route.ONSEND  # one block each, the name is fixed

Param = int | float | str | bool | list[Any] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine: its script, and what that may use and reach."""

    name: str
    script: Path
    limits: Limits = field(default_factory=Limits)


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
    log: LogSettings = field(default_factory=LogSettings)
    metrics: tuple[str, int] | None = None  # host and port of the Prometheus endpoint
    hep: HepSettings | None = None  # where messages are mirrored to
    control: ControlSettings = field(default_factory=ControlSettings)
    udp: UdpSettings = field(default_factory=UdpSettings)
    tcp: StreamLimits = field(default_factory=StreamLimits)
    dns: DnsSettings = field(default_factory=DnsSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    overload: OverloadLimits = field(default_factory=OverloadLimits)
    limits: ScriptLimits = field(default_factory=ScriptLimits)
    reload: ReloadSettings = field(default_factory=ReloadSettings)
    service: ServiceSettings = field(default_factory=ServiceSettings)
    file: Path | None = None
    again: Callable[[], Settings] | None = field(default=None, compare=False, repr=False)  # reads all of it anew


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
    listen, domains = tuple(listen), tuple(domains)
    given = {"engine": engine, "script": script, "listen": listen, "domains": domains, "data": data, "serving": serving}
    root = Table(path, (), read(path) if path else {})
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
        domains=_flags("--domain", domains, parse_domain) or root.texts("domains", parse_domain),
        data=data or root.relative("data") or DATA,
        engines=engines,
        routes=routes,
        modules=_modules(root.table("modules")),
        strict=_strict(root.table("ksr")),
        log=log(root.table("log")),
        metrics=_metrics(root.table("metrics")),
        hep=hep(root.table("hep")),
        control=control(root.table("control")),
        udp=udp(root.table("udp")),
        tcp=tcp(root.table("tcp")),
        dns=dns(root.table("dns")),
        tls=tls(root.table("tls"), listening if serving else ()),
        overload=overload(root.table("overload")),
        limits=limits(root.table("limits")),
        reload=reload(root.table("reload")),
        service=service(root.table("service")),
        file=path,
        again=partial(load, path, **given),  # type: ignore[arg-type]
    )


def whereabouts(path: Path | None) -> tuple[Path | None, Path]:
    """Return the control socket and the data directory that ``path`` names, whatever is wrong with the rest of it: a server that
    runs is to be reached while its file is being written. Raise ConfigError.
    """
    root = Table(path, (), read(path) if path else {})
    return root.table("control").relative("socket"), root.relative("data") or DATA


def typed_params(module_class: type[Any], given: Mapping[str, Any], file: Path | None = None) -> Any:
    """Return ``module_class.Params`` filled with ``given``, the rest by default. Raise ConfigError."""
    table = Table(file, ("modules", module_class.name or "core"), given)
    hints = get_type_hints(module_class.Params) if given else {}
    table.only([f.name for f in fields(module_class.Params)])
    values: dict[str, Any] = {}
    for key, value in given.items():
        try:
            values[key] = converted = convert(value, hints[key])
        except ValueError as error:
            table.fail(key, _without_secrets(key, str(error)))
        if isinstance(converted, Path) and file is not None:
            values[key] = file.parent / converted
    try:
        return module_class.Params(**values)
    except ValueError as error:  # the module's own check
        key, colon, cause = str(error).partition(": ")
        table.fail(*((key, cause) if colon and key in given else ("", str(error))))


_SECRETS = ("secret", "password", "xkey", "url", "sqlcon")  # parts of names of parameters


def _without_secrets(key: str, cause: str) -> str:
    """Return why a parameter is wrong, without what stands there when that may be nobody's business: it goes into logs."""
    return cause.partition(", got ")[0] if any(part in key for part in _SECRETS) else cause


def _engines(table: Table) -> tuple[EngineSettings, ...]:
    table.only(ENGINES)
    engines = []
    for name, value in table.content.items():
        if isinstance(value, dict):
            one = table.table(name)
            for key, why in _NOT_FOR_PYTHON.items():
                if name == "python" and key in value:
                    one.fail(key, why)
            one.only(
                (
                    "script",
                    "timeout",
                    "max_memory",
                    *(["allow"] if name in ALLOWED else []),
                    *(["path"] if name == "lua" else []),
                )
            )
            if "script" not in value:
                one.fail("", "expected a script")
            seconds, memory = (
                one.get("timeout", float, 1.0),
                size(one, "max_memory") if "max_memory" in value else HEAP.get(name, 0),
            )
            if not 0 < seconds < 3600:
                one.fail("timeout", f"expected seconds, more than 0 and less than 3600, got {seconds:g}")
        else:
            one, seconds, memory = table, 1.0, HEAP.get(name, 0)
        path = _module_path(one) if one is not table else ()
        allow = _allowed(one, ALLOWED.get(name, ())) if one is not table else frozenset()
        script = one.relative("script" if one is not table else name)
        assert script is not None
        engines.append(EngineSettings(name, script, Limits(seconds, memory, path, allow)))
    return tuple(engines)


def _allowed(table: Table, names: tuple[str, ...]) -> frozenset[str]:
    given: list[str] = table.get("allow", list[str], [])
    for one in given:
        if one not in names:
            table.fail("allow", f"{one} is {unknown(one, names)}")
    return frozenset(given)


def _module_path(table: Table) -> tuple[str, ...]:
    """Return the patterns of ``path``, relative ones from the file's directory on."""
    patterns: list[str] = table.get("path", list[str], [])
    for one in patterns:
        if "?" not in one or ";" in one:
            table.fail("path", f"expected patterns such as /usr/share/lua/5.1/?.lua, got {shown(one)}")
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
            raise ConfigError(f"{script}: which language? Say it with --engine {one_of(ENGINES)}")
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}: {unknown(name, ENGINES)}")
    given = next((one for one in engines if one.name == name), None)
    if script is None and given is None:
        raise ConfigError(f"--engine {name}: expected a script, and {path or FILE_NAME} names none for {name}")
    if given is None:
        assert script is not None
        return EngineSettings(name, script, Limits(memory=HEAP.get(name, 0)))
    return replace(given, script=script) if script else given


def _routes(table: Table, engines: list[str]) -> RouteSettings:
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
        table.fail("", f"expected default = {one_of(engines)}")
    return RouteSettings(default, by_kind, by_name)


def _modules(table: Table) -> ModuleSettings:
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


def _strict(table: Table) -> bool:
    table.only(("strict",))
    return bool(table.get("strict", bool, False))


def _metrics(table: Table) -> tuple[str, int] | None:
    table.only(("listen",))
    return listen_address(table, "listen")


def _flags(flag: str, given: Iterable[str], parse: Callable[[str], T]) -> tuple[T, ...]:
    values = []
    for text in given:
        try:
            values.append(parse(text))
        except ValueError as error:
            raise ConfigError(f"{flag} {text}: {error}") from None
    return tuple(values)
