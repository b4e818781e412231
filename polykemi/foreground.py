"""A server in the foreground, as `polykemi serve` runs it: what it takes from its manager, what it says, how it ends."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
from collections.abc import Callable

from polykemi import __version__, compiled, memory
from polykemi.config import Settings
from polykemi.control.logs import warn_of_unknown
from polykemi.engines.stuck import leave
from polykemi.kemi.route import CONFIG_NAMES, Route
from polykemi.logs import Log
from polykemi.server import Server
from polykemi.systemd import Inherited, Notifier

log = logging.getLogger("polykemi.server")


def serve(settings: Settings, say: Callable[[str], None], *, watch: bool = False) -> None:
    """Run a server in the foreground until it is told to stop, and ``say`` what it is. Raises UsageError.

    With ``watch`` the scripts are reloaded when their files change.
    """
    with Log(settings.log) as written:
        has_stuck_threads = _serve(settings, say, written, watch=watch)
    if has_stuck_threads:
        leave()


def _serve(settings: Settings, say: Callable[[str], None], written: Log, *, watch: bool) -> bool:
    """Run it; tell whether threads are stuck in its loop for good."""
    faulthandler.enable()  # a watchdog's SIGABRT, and a crash, show which line of which script it was
    early: list[int] = []  # SIGHUPs: by default one ends a process that is about to begin
    signal.signal(signal.SIGHUP, lambda number, _: early.append(number))
    notifier, inherited = Notifier.take(os.environ), Inherited.take(os.environ)
    server = Server(settings, notifier, inherited)
    most, names = server.router.overload.memory, {one.name for one in settings.engines}
    if most and "python" in names and "js" not in names:  # V8 ends the process when an allocation fails
        memory.bound(most)
    try:
        router = server.router
        warn_of_unknown(settings.log.levels)  # before they are set, which makes them
        written.attach(router.services, router.context, router.where)
        server.open()
        if early:
            signal.raise_signal(signal.SIGHUP)
        for address, name in inherited.close():
            log.warning("the socket %s was passed (%s), and [listen] does not name it: it is closed", address, name)
            notifier.forget(address)
        if os.geteuid() == 0:
            log.warning("the server and its scripts run as root: [service] user names somebody with fewer rights")
        slowest = max(one.limits.seconds for one in settings.engines)
        if 0 < notifier.watchdog <= slowest:
            log.warning("the watchdog waits %g s, and a route block may run for %g s", notifier.watchdog, slowest)
        for line in describe(server):
            say(line)
        if watch:
            server.watch()
            say("watching the files of the scripts")
        say("ready")
        notifier.ready(f"listening on {', '.join(map(str, server.transports.bound))}")
        server.moved.append(written.here)
        server.loop.call_soon(written.here)  # JavaScript may have the loop run on a thread of its own
        server.run()
    finally:
        server.close()
    say("stopped")
    return server.loop.is_running()


def describe(server: Server) -> list[str]:
    """Return the lines that tell what a server is: addresses, route blocks, data."""
    lines = [f"polykemi {__version__}{', compiled' if compiled else ''}"]
    lines += [f"listening on {listener}" for listener in server.transports.bound]
    if server.settings.domains:
        lines.append(f"domains: {', '.join(server.settings.domains)}")
    scripts = {one.name: one.script for one in server.settings.engines}
    routes = server.settings.routes
    for name, kind in CONFIG_NAMES.items():
        engine = routes.engine_for(kind, "")
        lines.append(f"{name}: {engine} {scripts[engine]}")
    lines += [f"{_name(kind)}:{callback}: {e} {scripts[e]}" for (kind, callback), e in routes.by_name.items()]
    lines.append(f"data in {server.settings.data}")
    lines += server.control.describe()
    return lines if server.mirror is None else [*lines, server.mirror.describe()]


def _name(kind: Route) -> str:
    return next(name for name, k in CONFIG_NAMES.items() if k == kind)
