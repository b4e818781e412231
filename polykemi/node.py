"""The composition root, the only file that knows every part: a server without sockets, its scripts loaded.

A test drives it by hand; ``server.py`` puts it on the network.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from polykemi import __version__
from polykemi.config import Settings, typed_params
from polykemi.control.app import App
from polykemi.control.jsonrpc import JsonRpc
from polykemi.control.plane import make_rpc
from polykemi.control.trace import Tracer, Tracing
from polykemi.engines import make_engine
from polykemi.engines.base import Engine, Host, Loading
from polykemi.errors import ConfigError, DataError
from polykemi.kemi.context import Current
from polykemi.kemi.figures import Counted, Figures
from polykemi.kemi.ids import Ids
from polykemi.kemi.inspection import Finding, inspect
from polykemi.kemi.log_levels import DebugLevel, Levels, level_of
from polykemi.kemi.network import Connections, Dns, Locator, NoConnections, NoTls, Offline, Peers, Tls, Unlocated
from polykemi.kemi.probes import Probes
from polykemi.kemi.registry import Registry
from polykemi.kemi.route import Route
from polykemi.modules import MODULES
from polykemi.modules.base import Module, Outbox, Services
from polykemi.overload import Overload
from polykemi.pv.accessor import Environment
from polykemi.pv.compiler import Variables
from polykemi.reconfigure import Reconfiguration, loaded_modules
from polykemi.reload import Versions
from polykemi.router import Router
from polykemi.sip.flow import Flow, Listener
from polykemi.storage.items import ItemStore, MemoryItems
from polykemi.storage.location import LocationStore
from polykemi.storage.provisioned import Database
from polykemi.transport.resolver import DnsSettings
from polykemi.versions import Version

log = logging.getLogger("polykemi.server")

_SHARED: Final = ("dns", "limits", "overload", "udp")  # settings that change while a server runs


@dataclass(frozen=True, slots=True)
class Node:
    """A server without sockets: what a test drives by hand and ``Server`` puts on the network."""

    services: Services
    router: Router
    modules: Mapping[str, Module]
    engines: Mapping[str, Engine]
    timed: tuple[Module, ...]  # the modules that have timers
    rpc: JsonRpc
    reconfiguration: Reconfiguration
    probes: Probes
    tracer: Tracer
    versions: Versions

    def timers(self, now: float) -> None:
        """Do what is due at ``now``; the router is to be pumped afterwards."""
        for module in self.timed:
            try:
                process = module.handle_timer(now)
            except DataError as error:  # the disk is full, say: the other modules' timers run all the same
                log.error("%s: %s", module.name, error)
            else:
                if process is not None:
                    self.router.put(process)

    def next_timeout(self) -> float | None:
        """Return when ``timers`` wants to be called next, in seconds since the epoch."""
        due = [t for m in self.timed if (t := m.next_timeout()) is not None]
        return min(due) if due else None

    def stop(self, now: float) -> None:
        """Let the modules store what they keep beyond the end of the server."""
        for module in self.modules.values():
            try:
                module.stop(now)
            except DataError as error:
                log.error("%s: %s", module.name, error)
        try:
            self.router.commit()
        except DataError as error:
            log.error("%s", error)

    def close(self) -> None:
        """Close engines and storage."""
        for engine in self.engines.values():
            engine.close()
        self.services.location.close()
        self.services.items.close()
        self.services.database.close()


def assemble(
    settings: Settings,
    *,
    listeners: tuple[Listener, ...],
    location: LocationStore,
    database: Database,
    send: Callable[[list[tuple[bytes, Flow]]], None],
    now: float,
    ended: Callable[[], None] = lambda: None,
    ids: Ids | None = None,
    connections: Connections | None = None,
    tls: Tls | None = None,
    peers: Peers | None = None,
    dns: Dns | None = None,
    locator: Locator | None = None,
    items: ItemStore | None = None,
    clock: Callable[[], float] = time.time,
    memory_limit: int = 0,
    loading: Loading | None = None,
    rehearsal: bool = False,
) -> Node:
    """Build all parts and load the scripts. Raises UsageError; nothing is left open then but what was given.

    Without ``peers`` and ``dns`` exports reach no other server and know no name; without ``locator`` what goes to a name
    leaves with that name for an address. ``memory_limit``: octets that the process may have where [overload] does not say.
    ``rehearsal``: see ``Services.is_rehearsal``.
    """
    if rehearsal:
        settings = replace(settings, **{name: replace(getattr(settings, name)) for name in _SHARED})
    domains = frozenset(d.lower() for d in settings.domains)
    ids = ids or Ids()
    connections = NoConnections() if connections is None else connections
    counters: dict[str, int] = {}
    figures: Figures = {}
    environment = Environment(
        listeners=listeners,
        started=now,
        version=__version__,
        hostname=socket.gethostname(),
        ids=ids,
        counters=Counted(counters, figures),
        process=os.environ,
        pid=os.getpid(),
        ident=connections.ident,
        limits=settings.limits,
    )
    services = Services(
        listeners=listeners,
        domains=domains,
        outbox=Outbox(),
        ids=ids,
        current=Current(),
        counters=counters,
        figures=figures,
        variables=Variables(environment=environment),
        location=location,
        database=database,
        routes=None,  # type: ignore[arg-type]  # the router, two lines below
        connections=connections,
        tls=NoTls() if tls is None else tls,
        peers=peers or Offline(),
        dns=dns or Offline(),
        udp=settings.udp,
        locator=Unlocated() if locator is None else locator,
        items=MemoryItems() if items is None else items,
        levels=Levels(apart=rehearsal),
        is_rehearsal=rehearsal,
    )
    _use(settings.dns, services)
    debug, levels = DebugLevel(), services.levels
    services.live.add("core", debug, lambda: levels.set(level_of(debug.debug)), now=lambda: DebugLevel(levels.debug()))
    services.live.add("core", settings.udp)
    services.live.add("core", settings.dns, partial(_use, settings.dns, services))
    services.live.add("overload", settings.overload)
    router = Router(services, send, ended, overload=Overload(settings.overload, memory_limit))
    services.live.add("limits", settings.limits, lambda: setattr(router, "depth", settings.limits.depth))
    services.routes = router
    services.variables.where = router.where
    modules = _modules(settings, services)
    services.modules = modules
    router.start()
    rpc = make_rpc(router, now)
    probes = Probes(counting=settings.metrics is not None)
    reconfiguration = Reconfiguration(settings, services)
    engines, versions = _engines(settings, router, probes, reconfiguration, loading or Loading(), now)
    tracer = Tracer(router, probes, clock, time.perf_counter)
    rpc.add(App(versions, [one.name for one in settings.engines]), reconfiguration, Tracing(tracer, rpc))
    for module in modules.values():
        module.start(now)
    timed = tuple(m for m in modules.values() if type(m).next_timeout is not Module.next_timeout)
    return Node(services, router, modules, engines, timed, rpc, reconfiguration, probes, tracer, versions)


def _use(dns: DnsSettings, services: Services) -> None:
    """Let the modules know of the settings of DNS that are about places."""
    services.blocklist.enabled, services.blocklist.expire = dns.use_dst_blocklist, dns.dst_blocklist_expire
    services.dns_failover = dns.use_failover


def _modules(settings: Settings, services: Services) -> dict[str, Module]:
    """Make the modules that the configuration loads; core, pv, hdr and x are always there, as in Kamailio."""
    loaded = loaded_modules(settings.modules)
    modules: dict[str, Module] = {}
    for name, module_class in MODULES.items():
        if name in loaded:
            for other in module_class.requires:
                if other not in loaded:
                    raise ConfigError(
                        f"{settings.file}: [modules] load: {name} needs {other}, which is not in the list"
                    )
            params = typed_params(module_class, settings.modules.params.get(name, {}), settings.file)
            modules[name] = module_class(services, params)
            services.variables.add(modules[name].pv_classes(), modules[name].transformations())
            services.live.add(name, params, modules[name].params_changed)
    return modules


def _engines(
    settings: Settings,
    router: Router,
    probes: Probes,
    reconfiguration: Reconfiguration,
    loading: Loading,
    now: float,
) -> tuple[dict[str, Engine], Versions]:
    """Make the engines, load and inspect their scripts, and give them to the router. Raise ScriptLoadError."""
    services = router.services
    registry = Registry(services.modules.values())
    host = Host(
        registry=registry,
        current=services.current,
        drive=router.drive,
        nesting=router.nesting,
        probes=probes,
        loading=loading,
        strict=settings.strict,
    )
    engines: dict[str, Engine] = {}
    try:
        for one in settings.engines:
            engines[one.name] = make_engine(one.name, replace(host, limits=one.limits))
        reconfiguration.engines = engines
        versions = Versions(
            router,
            engines,
            lambda: reconfiguration.settings,
            partial(_inspect, router, registry),
            keep=settings.reload.keep,
        )
        for finding in versions.begin(now):
            log.warning("%s", finding)
        loading.serving = True
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    return engines, versions


def _inspect(router: Router, registry: Registry, version: Version) -> list[Finding]:
    """Return what is wrong in the scripts of ``version``."""

    def defines(kind: Route, name: str) -> bool:
        return router.defines(kind, name, version)

    problem = router.services.variables.problem
    return [
        finding
        for name, script in version.scripts.items()
        for finding in inspect(script.path, name, registry.paths, problem, defines)
    ]
