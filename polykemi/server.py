"""The composition root, the only file that knows every part. Reads in the order in which things happen:
assemble, open, run, drain, stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from polykemi import __version__, compiled, memory
from polykemi.config import Settings, load_tls, typed_params
from polykemi.control.app import App
from polykemi.control.jsonrpc import JsonRpc
from polykemi.control.plane import ControlPlane, make_rpc
from polykemi.control.sources import Sources
from polykemi.control.trace import Tracer, Tracing
from polykemi.engines import make_engine
from polykemi.engines.base import Engine, Host, Limits, LoopHost
from polykemi.errors import ConfigError, DataError, ScriptLoadError, UsageError
from polykemi.kemi.context import Current
from polykemi.kemi.ids import Ids
from polykemi.kemi.inspection import Finding, inspect
from polykemi.kemi.log_levels import DebugLevel, level_of
from polykemi.kemi.network import Connections, Dns, Locator, NoConnections, NoTls, Offline, Peers, Tls, Unlocated
from polykemi.kemi.probes import Probes
from polykemi.kemi.registry import Registry
from polykemi.kemi.route import CONFIG_NAMES, Route
from polykemi.logs import Log
from polykemi.modules import MODULES
from polykemi.modules.base import Module, Outbox, Services
from polykemi.overload import BEAT, Overload
from polykemi.process import DataLock, PidFile, drop_privileges
from polykemi.pv.accessor import Environment
from polykemi.pv.compiler import Variables
from polykemi.reconfigure import Reconfiguration, loaded_modules
from polykemi.rehearsal import rehearse
from polykemi.reload import Versions
from polykemi.router import Router
from polykemi.sip.flow import WEBSOCKETS, Flow, Listener
from polykemi.storage.items import ItemStore, LmdbItems, MemoryItems
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import LocationStore, MemoryLocation
from polykemi.storage.provisioned import Database
from polykemi.systemd import Inherited, Notifier
from polykemi.transport.dns import DnsClient
from polykemi.transport.manager import Transports
from polykemi.transport.mirror import HepSettings, Mirror
from polykemi.transport.name_servers import NameServers, servers_of
from polykemi.transport.peers import PeerSockets
from polykemi.transport.resolver import DnsSettings, Resolver
from polykemi.versions import Version

log = logging.getLogger("polykemi.server")

_GIVE_BACK = 5.0  # seconds between two attempts to free memory: it stops everything for a while


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
) -> Node:
    """Build all parts and load the scripts. Raises UsageError; nothing is left open then but what was given.

    Without ``peers`` and ``dns`` exports reach no other server and know no name; without ``locator`` what goes to a name
    leaves with that name for an address. ``memory_limit``: octets that the process may have where [overload] does not say.
    """
    domains = frozenset(d.lower() for d in settings.domains)
    ids = ids or Ids()
    connections = NoConnections() if connections is None else connections
    counters: dict[str, int] = {}
    environment = Environment(
        listeners=listeners,
        started=now,
        version=__version__,
        hostname=socket.gethostname(),
        ids=ids,
        counters=counters,
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
    )
    _use(settings.dns, services)
    debug, levels = DebugLevel(), services.levels
    services.live.add("core", debug, lambda: levels.set(level_of(debug.debug)), now=lambda: DebugLevel(levels.debug()))
    services.live.add("core", settings.udp)
    services.live.add("core", settings.dns, partial(_use, settings.dns, services))
    services.live.add("overload", settings.overload)
    router = Router(services, settings.routes, send, ended, overload=Overload(settings.overload, memory_limit))
    services.live.add("limits", settings.limits, lambda: setattr(router, "depth", settings.limits.depth))
    services.routes = router
    services.variables.where = router.where
    modules = _modules(settings, services)
    services.modules = modules
    router.start()
    rpc = make_rpc(router, now)
    probes = Probes(counting=settings.metrics is not None)
    reconfiguration = Reconfiguration(settings, services)
    engines, versions = _engines(settings, router, probes, reconfiguration, now)
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
    settings: Settings, router: Router, probes: Probes, reconfiguration: Reconfiguration, now: float
) -> tuple[dict[str, Engine], Versions]:
    """Make the engines, load and inspect their scripts, and give them to the router. Raise ScriptLoadError."""
    services = router.services
    registry = Registry(services.modules.values())
    host = Host(registry=registry, current=services.current, drive=router.drive, probes=probes, strict=settings.strict)
    engines: dict[str, Engine] = {}
    try:
        for one in settings.engines:
            engines[one.name] = make_engine(
                one.name, replace(host, limits=Limits(one.seconds, one.memory), path=one.path, allow=one.allow)
            )
        versions = Versions(
            router,
            engines,
            lambda: {one.name: one.script for one in reconfiguration.settings.engines},
            partial(_inspect, router, registry),
            keep=settings.reload.keep,
        )
        for finding in versions.begin(now):
            log.warning("%s", finding)
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


def open_data(data: Path) -> tuple[LocationStore, Database]:
    """Open (and make, when missing) what is stored under ``data``. Raises DataError."""
    database = Database(data / "polykemi.sqlite")
    try:
        return LmdbLocation(data / "location"), database
    except BaseException:
        database.close()
        raise


class Server:
    """A node on the network: sockets, timers, signals."""

    def __init__(
        self, settings: Settings, notifier: Notifier | None = None, inherited: Inherited | None = None
    ) -> None:
        """Get everything that is needed, or leave nothing behind: raises UsageError.

        ``notifier`` tells a manager of processes how the server is, ``inherited`` are the sockets that it has passed.
        """
        self.notifier = notifier or Notifier()
        self.settings = settings
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._armed: float | None = None  # when the loop's timer fires, seconds since the epoch
        self._timer: asyncio.TimerHandle | None = None
        self._stop_at: float | None = None  # set while draining
        self._give_back_at = 0.0  # next, on the monotonic clock
        self._started = time.time()
        self._watcher: Any = None
        with ExitStack() as undo:
            undo.callback(self.loop.close)
            name_servers = servers_of(settings.dns)
            self.resolver = Resolver(NameServers(name_servers, settings.dns).ask, settings.dns, done=self._turn)
            self.transports = Transports(
                settings.listen,
                self._receive,
                self._turn,
                self._failed,
                self._closed,
                settings.tcp,
                settings.tls,
                self._lost,
                resolver=self.resolver,
                inherited=inherited,
            )
            undo.callback(self.transports.close)
            self.mirror = self._mirror(settings.hep)
            if self.mirror is not None:
                undo.callback(self.mirror.close)
            self.transports.streams.read_tls = partial(load_tls, settings.file, settings.listen)
            service = settings.service
            if service.umask is not None:
                os.umask(service.umask)
            self._pid_file = PidFile(service.pid_file, service.user) if service.pid_file is not None else None
            if self._pid_file is not None:
                undo.callback(self._pid_file.close)
            drop_privileges(service.user, service.group, settings.data)
            self._lock = DataLock(settings.data)
            undo.callback(self._lock.close)
            location, database = open_data(settings.data)
            items = LmdbItems(settings.data / "htable")
            undo.callback(items.close)
            undo.callback(location.close)
            undo.callback(database.close)
            self.control = ControlPlane(settings.data, settings.control, settings.metrics)
            undo.callback(self.control.close)
            self._peers = PeerSockets()
            undo.callback(self._peers.close)
            self.node = assemble(
                settings,
                listeners=self.transports.listeners,
                location=location,
                database=database,
                send=self.transports.send,
                ended=self._arm,
                now=self._started,
                connections=self.transports.streams,
                tls=self.transports.streams,
                peers=self._peers,
                dns=DnsClient(name_servers if settings.dns.nameservers else ()),
                locator=self.resolver,
                memory_limit=memory.limit(),
                items=items,
            )
            self.node.services.live.add("tcp", settings.tcp, self.transports.streams.make_room)
            undo.pop_all()
        if any(listener.proto in WEBSOCKETS for listener in self.transports.bound):
            self.node.services.counters.update(self.transports.streams.counters)
            self.transports.streams.counters = self.node.services.counters
        self.node.services.counters.update(self.resolver.counters)
        self.resolver.counters = self.node.services.counters
        self.node.services.pause, self.node.services.abort = time.sleep, os.abort
        if self.mirror is not None:
            self.node.services.counters.update(self.mirror.counters)
            self.mirror.counters = self.node.services.counters
        self.node.services.kill = partial(os.kill, os.getpid())
        self.router = self.node.router
        if settings.reload.smoke is not None:
            self.node.versions.rehearse = partial(rehearse, self._scratch, settings.reload.smoke)
        # an engine that has a thread of its own (JavaScript) runs the loop there, so that it can be called from it
        self._resident = next((one for one in self.node.engines.values() if isinstance(one, LoopHost)), None)

    def _mirror(self, settings: HepSettings | None) -> Mirror | None:
        """Make what mirrors messages; a capture server that is ourselves is refused. Raise UsageError."""
        if settings is None:
            return None
        mirror = Mirror(settings)
        if any((one.host, one.port) == mirror.address for one in self.transports.bound):
            mirror.close()
            raise ConfigError(f"[hep] server: {settings} is a listener of this server")
        self.transports.mirror_to(mirror)
        return mirror

    def _scratch(self, send: Callable[[list[tuple[bytes, Flow]]], None]) -> Node:
        """Return a node like this one with the scripts as their files are now: it sees what is provisioned, and changes nothing."""
        database = Database(self.node.services.database.name, query_only=True)
        try:
            return assemble(
                replace(self.settings, engines=self.node.reconfiguration.settings.engines),
                listeners=self.transports.listeners,
                location=MemoryLocation(),
                database=database,
                send=send,
                now=time.time(),
            )
        except BaseException:
            database.close()
            raise

    def _receive(self, data: bytes, flow: Flow, now: float) -> None:
        self.router.receive(data, flow, now)

    def _turn(self) -> None:
        """Do what has come in."""
        self.router.pump()

    def _failed(self, data: bytes, flow: Flow) -> None:
        """Tell the transaction layer that the network did not take ``data``."""
        tm: Any = self.node.modules.get("tm")
        process = tm.transport_error(flow, data) if tm is not None else None
        if process is not None:
            self.router.put(process)

    def _lost(self, flow: Flow, now: float) -> None:
        """Tell the transaction layer that a connection has ended."""
        tm: Any = self.node.modules.get("tm")
        process = tm.lost(flow, now) if tm is not None else None
        if process is not None:
            self.router.put(process)

    def _closed(self, flow: Flow, ident: int, now: float) -> None:
        """Tell the websocket module that a WebSocket has ended."""
        websocket: Any = self.node.modules.get("websocket")
        if websocket is not None:
            websocket.closed(flow, ident, now)

    # ---- timers
    def _arm(self) -> None:
        """Make the loop call ``_timers`` when the next module wants it."""
        due = self.node.next_timeout()
        if due is None or (self._armed is not None and self._armed <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = due
        self._timer = self.loop.call_later(max(0.0, due - time.time()), self._timers)

    def _timers(self) -> None:
        self._armed = None
        self.node.timers(time.time())
        self._turn()

    def _beat(self, due: float) -> None:
        """Look how long messages wait: datagrams in their sockets, those of connections until the loop comes round."""
        began = time.monotonic()
        now = time.time()
        waited, lost = self.transports.backlog(now)
        if lost:
            self.node.services.count("core.lost_datagrams", lost)
        self.router.beat(max(waited, began - due), lost, memory.in_use(), now)
        if self.router.overload.is_out_of_memory and began >= self._give_back_at:
            memory.give_back()
            self._give_back_at = began + _GIVE_BACK
        self.node.versions.sweep()
        self.loop.call_later(BEAT, self._beat, began + BEAT)
        self._turn()  # ICMP may have told of something, and a socket is asked for what it has told

    # ---- life
    def open(self) -> None:
        """Get ready for ``run``: from now on signals end it, and what comes in is answered then."""
        sources = Sources(self.router, self.node.engines, self.node.probes, self.transports)
        self.control.open(self.loop, self.node.rpc, sources)
        for sock in self.transports.made:
            self.notifier.keep(sock)
        self.transports.open(self.loop)
        if self.mirror is not None:
            self.mirror.open(self.loop)
        for number in (signal.SIGINT, signal.SIGTERM):  # not the loop's handlers: they miss what comes before it runs
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGHUP, self._hang_up)

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then let open transactions finish."""
        self._arm()
        self._beat(time.monotonic())
        if self.notifier.watchdog:
            self._tell_alive()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # messages leave no cycles behind; looking for some costs 5 % of a call
        if self._resident is not None:
            self._resident.serve(self.loop)
        else:
            self.loop.run_forever()

    def _tell_alive(self) -> None:
        self.notifier.alive()
        self.loop.call_later(self.notifier.watchdog / 2, self._tell_alive)

    def watch(self) -> None:
        """Reload when a file of the scripts has changed, from now on."""
        from polykemi.watch import Watcher  # only who wants it pays for the library

        self._watcher = Watcher(self.node.versions.files().values(), self._hang_up)

    def _hang_up(self, *_: object) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._reload)

    def _reload(self) -> None:
        """Take configuration and scripts as they are now; what something is wrong with stays as it was, and the log says why."""
        versions = self.node.versions
        self.notifier.reloading()
        try:
            self.node.reconfiguration.apply(time.time())
        except UsageError as error:
            log.error("the configuration stays as it was: %s", error)
        with contextlib.suppress(ScriptLoadError):
            versions.reload(time.time())
        self.notifier.ready(f"version {versions.current} of the scripts")

    def _signalled(self, *_: object) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Take no new work and stop as soon as no transaction is open; a second signal stops at once."""
        if self._stop_at is not None:
            self._end()
            return
        seconds = self.settings.service.drain
        self._stop_at = time.time() + seconds
        self.notifier.stopping(f"no new requests; open transactions have {seconds:g} s")
        self.router.drain()
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        tm: Any = self.node.modules.get("tm")
        if tm is None or not tm.active() or self._stop_at is None or time.time() >= self._stop_at:
            self._end()
        else:
            self.loop.call_later(0.05, self._end_when_idle)

    def _end(self) -> None:
        if self._resident is not None:
            self._resident.stop()
        self.loop.stop()

    def close(self) -> None:
        """Close everything; what was stored is committed."""
        if self._watcher is not None:
            self._watcher.close()
        self.transports.close()
        if self.mirror is not None:
            self.mirror.close()
        self.resolver.close()
        self.control.close()
        self.node.stop(time.time())
        self._peers.close()
        self.node.close()
        self._lock.close()
        if self._pid_file is not None:
            self._pid_file.close()
        self.notifier.close()
        self.loop.close()

    def describe(self) -> list[str]:
        """Return the lines that tell what this server is: addresses, route blocks, data."""
        lines = [f"polykemi {__version__}{', compiled' if compiled else ''}"]
        lines += [f"listening on {listener}" for listener in self.transports.bound]
        if self.settings.domains:
            lines.append(f"domains: {', '.join(self.settings.domains)}")
        scripts = {one.name: one.script for one in self.settings.engines}
        routes = self.settings.routes
        for name, kind in CONFIG_NAMES.items():
            engine = routes.engine_for(kind, "")
            lines.append(f"{name}: {engine} {scripts[engine]}")
        lines += [f"{_name(kind)}:{callback}: {e} {scripts[e]}" for (kind, callback), e in routes.by_name.items()]
        lines.append(f"data in {self.settings.data}")
        lines += self.control.describe()
        return lines if self.mirror is None else [*lines, self.mirror.describe()]


def _name(kind: Route) -> str:
    return next(name for name, k in CONFIG_NAMES.items() if k == kind)


def serve(settings: Settings, say: Callable[[str], None], *, watch: bool = False) -> None:
    """Run a server in the foreground until it is told to stop, and ``say`` what it is. Raises UsageError.

    With ``watch`` the scripts are reloaded when their files change.
    """
    with Log(settings.log) as written:
        _serve(settings, say, written, watch=watch)


def _serve(settings: Settings, say: Callable[[str], None], written: Log, *, watch: bool) -> None:
    faulthandler.enable()  # a watchdog's SIGABRT, and a crash, show which line of which script it was
    notifier, inherited = Notifier.take(os.environ), Inherited.take(os.environ)
    server = Server(settings, notifier, inherited)
    names = {one.name for one in settings.engines}
    if (
        "python" in names and "js" not in names and server.settings.overload.memory
    ):  # V8 ends the process when that fails
        memory.bound(server.settings.overload.memory)
    try:
        router = server.router
        written.attach(router.services, router.context, router.where)
        server.open()
        for address, name in inherited.close():
            log.warning("the socket %s was passed (%s), and [listen] does not name it: it is closed", address, name)
            notifier.forget(address)
        if os.geteuid() == 0:
            log.warning("the server and its scripts run as root: [service] user names somebody with fewer rights")
        slowest = max(one.seconds for one in settings.engines)
        if 0 < notifier.watchdog <= slowest:
            log.warning("the watchdog waits %g s, and a route block may run for %g s", notifier.watchdog, slowest)
        for line in server.describe():
            say(line)
        if watch:
            server.watch()
            say("watching the files of the scripts")
        say("ready")
        notifier.ready(f"listening on {', '.join(map(str, server.transports.bound))}")
        server.loop.call_soon(written.here)  # JavaScript may have the loop run on a thread of its own
        server.run()
    finally:
        server.close()
    say("stopped")
