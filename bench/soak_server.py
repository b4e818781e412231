"""The server under bench/soak.py: polykemi as ever, that also writes down what it holds when it gets SIGUSR1.

    python bench/soak_server.py REPORT polykemi's arguments ...

A line of JSON is appended to REPORT: open transactions, dialogs, connections, and what tracemalloc knows. With
SOAK_TRACE=1 in the environment memory is traced, which costs half of the speed.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import sys
import time
import tracemalloc
import types
from collections import deque
from pathlib import Path
from typing import Any

from polykemi import cli, memory, server
from polykemi.sip import header, message

SMALL = 300  # items of a container that is not worth a line
LATE = 5.0  # seconds that a timer may be late under load

_servers: list[server.Server] = []  # the one that runs
_first: list[tracemalloc.Snapshot] = []

_open = server.Server.open


def _remember(one: server.Server) -> None:
    _servers[:] = [one]
    _open(one)


def stuck(layer: Any, now: float) -> list[str]:
    """Return the transactions that no timer will ever end."""
    found = []
    for t in {id(t): t for t in layer.server_transactions()}.values():
        if getattr(t, "is_waiting", False):
            if t.suspended is None and not any(branch.key in layer._clients for branch in t.branches):
                found.append(t)
        elif t.limit_at < now - LATE:
            found.append(t)
    found += [client for client in layer.client_transactions() if client.limit_at < now - LATE]
    return [f"{t.key} in state {t.state}, limit {t.limit} at {t.limit_at}" for t in found]


def census(root: object, name: str, depth: int = 5) -> dict[str, int]:
    """Return the sizes of the containers that ``root`` and what it is made of hold, by path; small ones are left out."""
    found: dict[str, int] = {}
    seen: set[int] = set()

    def look(one: object, path: str, left: int) -> None:
        if id(one) in seen or left < 0:
            return
        seen.add(id(one))
        if isinstance(one, dict | list | set | deque):
            if len(one) > SMALL:
                found[path] = len(one)
            elif isinstance(one, dict):
                for key, value in one.items():
                    look(value, f"{path}[{str(key)[:40]}]", left - 1)
        elif type(one).__module__.startswith("polykemi"):
            for key in attributes(one):
                look(getattr(one, key, None), f"{path}.{key}", left - 1)

    look(root, name, depth)
    return found


def attributes(one: object) -> list[str]:
    """Return the names of what an object holds, compiled or not."""
    held = (types.MemberDescriptorType, types.GetSetDescriptorType)
    of_class = [key for c in type(one).__mro__[:-1] for key, value in vars(c).items() if isinstance(value, held)]
    return [key for key in (*of_class, *getattr(one, "__dict__", ())) if not key.startswith("__")]


def empty_caches() -> None:
    """Empty the caches: they are bounded, but fill as long as phones come from new ports. uvloop keeps 2,048 addresses."""
    for name, module in list(sys.modules.items()):
        for one in list(vars(module).values()) if name.startswith("polykemi.") else ():
            if isinstance(one, functools._lru_cache_wrapper) and one is not memory._statm:  # which holds an open file
                one.cache_clear()
    message._shapes.clear()
    message._likely.clear()
    header._senders.clear()
    running: Any = _servers[0]
    running.transports._ways.clear()
    hops = running.node.modules["tm"].relayer.hops
    hops._names.clear()
    for of_listener in hops._hops.values():
        of_listener.clear()


def report() -> dict[str, Any]:
    """Return what the server holds, without what caches hold."""
    empty_caches()
    gc.collect()
    memory.give_back()
    modules: Any = _servers[0].node.modules
    connections: Any = _servers[0].node.services.connections
    held: dict[str, Any] = {
        "transactions": len(modules["tm"].layer),
        "timers": len(modules["tm"].layer._timers),
        "dialogs": len(modules["dialog"].table),
        "dialog_timers": len(modules["dialog"].table._due),
        "connections": len(connections),
        "websockets": len(modules["websocket"]._peers),
        "stuck": stuck(modules["tm"].layer, time.time()),
        "sizes": census(_servers[0], "server"),
        "traced": 0,
        "objects": len(gc.get_objects()),
        "grown": [],
    }
    if tracemalloc.is_tracing():
        held["traced"] = tracemalloc.get_traced_memory()[0]
        snapshot = tracemalloc.take_snapshot()
        if _first:
            most = snapshot.compare_to(_first[0], "lineno")[:15]
            held["grown"] = [f"{d.size_diff:+d} {d.count_diff:+d} {d.traceback}" for d in most if d.size_diff > 0]
    return held


def keep() -> None:
    """Compare with this moment from now on."""
    if tracemalloc.is_tracing():
        gc.collect()
        _first[:] = [tracemalloc.take_snapshot()]


def main() -> None:
    """Serve."""
    path = Path(sys.argv[1])

    def write(number: int) -> None:
        if number == signal.SIGUSR2:
            keep()
        with path.open("a") as file:
            file.write(json.dumps(report()) + "\n")

    def between_messages(number: int, frame: object) -> None:
        _servers[0].loop.call_soon_threadsafe(write, number)

    signal.signal(signal.SIGUSR1, between_messages)
    signal.signal(signal.SIGUSR2, between_messages)
    server.Server.open = _remember  # type: ignore[method-assign, assignment]
    if os.environ.get("SOAK_TRACE") == "1":
        tracemalloc.start(1)
    sys.argv[:] = ["polykemi", *sys.argv[2:]]
    cli.main()


main()
