"""A node on the network. Reads in the order in which things happen: open, run, reload, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from polykemi import memory
from polykemi.config import Settings, load_tls
from polykemi.control.plane import ControlPlane
from polykemi.control.sources import Sources
from polykemi.engines.base import Loading, LoopHost
from polykemi.errors import ConfigError, ScriptError, ScriptLoadError, UsageError
from polykemi.node import Node, assemble
from polykemi.overload import BEAT
from polykemi.process import DataLock, PidFile, drop_privileges
from polykemi.rehearsal import rehearse
from polykemi.sip.flow import WEBSOCKETS, Flow
from polykemi.storage.items import LmdbItems
from polykemi.storage.lmdb_location import LmdbLocation
from polykemi.storage.location import LocationStore, MemoryLocation
from polykemi.storage.provisioned import Database
from polykemi.systemd import Inherited, Notifier
from polykemi.transport.dns import DnsClient
from polykemi.transport.manager import Transports
from polykemi.transport.mirror import HepSettings, Mirror
from polykemi.transport.name_servers import NameServers, servers_of
from polykemi.transport.peers import PeerSockets
from polykemi.transport.resolver import Resolver

log = logging.getLogger("polykemi.server")

_GIVE_BACK = 5.0  # seconds between two attempts to free memory: it stops everything for a while


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
        self._has_ended = False
        self._give_back_at = 0.0  # next, on the monotonic clock
        self._started = time.time()
        self._watcher: Any = None
        self._wake = -1  # an eventfd whose reader does a turn, where only readers may do so
        self.moved: list[Callable[[], None]] = []  # called when the loop goes on on another thread, there
        with ExitStack() as undo:
            undo.callback(self.loop.close)
            name_servers = servers_of(settings.dns)
            self.resolver = Resolver(NameServers(name_servers, settings.dns).ask, settings.dns, done=self._turn_soon)
            self.transports = Transports(
                settings.listen,
                self._receive,
                self._turn,
                self._failed,
                self._closed,
                settings.tcp,
                settings.tls,
                self._lost_connection,
                resolver=self.resolver,
                inherited=inherited,
                soon=self._turn_soon,
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
                self.node.reconfiguration.settings,
                listeners=self.transports.listeners,
                location=MemoryLocation(),
                database=database,
                send=send,
                now=time.time(),
                loading=Loading(serving=True),
                rehearsal=True,
            )
        except BaseException:
            database.close()
            raise

    def _receive(self, data: bytes, flow: Flow, now: float) -> None:
        self.router.receive(data, flow, now)

    def _turn(self) -> None:
        """Do what has come in; called by readers of UDP sockets (``LoopHost.enter``)."""
        if self._resident is None:
            self.router.pump()
        else:
            self._resident.enter(self.router.pump)

    def _turn_soon(self) -> None:
        """Do what has come in: by way of a reader where that has to be."""
        if self._wake < 0:
            self.router.pump()
        else:
            os.eventfd_write(self._wake, 1)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was read before a thread was stuck
            os.eventfd_read(self._wake)
        self._turn()

    def _lost(self, error: ScriptError) -> None:
        """Go on on another thread: a reader is stuck on the one before, and what ran there has failed."""
        for tell in self.moved:
            tell()
        self.transports.listen_anew()
        self.loop.remove_reader(self._wake)
        self.loop.add_reader(self._wake, self._woken)
        self.router.lost(error)
        self._turn_soon()

    def _failed(self, data: bytes, flow: Flow) -> None:
        """Tell the transaction layer that the network did not take ``data``."""
        tm: Any = self.node.modules.get("tm")
        process = tm.transport_error(flow, data) if tm is not None else None
        if process is not None:
            self.router.put(process)

    def _lost_connection(self, flow: Flow, now: float) -> None:
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
        self._turn_soon()

    def _beat(self, due: float) -> None:
        """Look how long messages wait: datagrams in their sockets, those of connections until the loop comes round."""
        began = time.monotonic()
        self.loop.call_later(BEAT, self._beat, began + BEAT)  # first: it goes on whatever happens here
        now = time.time()
        waited, lost = self.transports.backlog(now)
        if lost:
            self.node.services.count("core.lost_datagrams", lost)
        self.router.beat(max(waited, began - due), lost, memory.in_use(), now)
        if self.router.overload.is_out_of_memory and began >= self._give_back_at:
            memory.give_back()
            self._give_back_at = began + _GIVE_BACK
        self.node.versions.sweep()
        self._turn_soon()  # ICMP may have told of something, and a socket is asked for what it has told

    # ---- life
    def open(self) -> None:
        """Get ready for ``run``: from now on signals end it, and what comes in is answered then."""
        if self._resident is not None:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self.loop.add_reader(self._wake, self._woken)
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
        for number in (signal.SIGUSR1, signal.SIGUSR2):  # Kamailio writes into its log then; it does not end
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, signal.SIG_IGN)

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
            self._resident.serve(self.loop, self._lost)
        else:
            while not self._has_ended:  # a script may stop the loop, too
                self.loop.run_forever()

    def _tell_alive(self) -> None:
        self.notifier.alive()
        self.loop.call_later(self.notifier.watchdog / 2, self._tell_alive)

    def watch(self) -> None:
        """Reload when a file of the scripts has changed, from now on."""
        from polykemi.watch import Watcher  # only who wants it pays for the library

        self._watcher = Watcher(lambda: self.node.versions.files().values(), self._hang_up)

    def _hang_up(self, *_: object) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._reload)

    def _reload(self) -> None:
        """Take configuration and scripts as they are now, and tell the manager when that is done."""
        self.notifier.reloading()
        try:
            self._take_anew()
        finally:  # systemd waits for it, whatever has happened
            self.notifier.ready(f"version {self.node.versions.current} of the scripts")

    def _take_anew(self) -> None:
        """What something is wrong with stays as it was, and the log says why."""
        try:
            self.node.reconfiguration.apply(time.time())
        except UsageError as error:
            log.error("the configuration stays as it was: %s", error)
        with contextlib.suppress(ScriptLoadError):
            self.node.versions.reload(time.time())

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
        self.router.pump()  # what ``_turn_soon`` has left
        self._has_ended = True
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
        if self._wake >= 0:
            os.close(self._wake)
        if not self.loop.is_running():  # it is for good when a thread is stuck in it
            self.loop.close()
