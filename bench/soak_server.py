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
from pathlib import Path
from typing import Any

from polykemi import cli, server
from polykemi.sip import message

LATE = 5.0  # seconds that a timer may be late under load

_node: list[Any] = []
_first: list[tracemalloc.Snapshot] = []


def _assemble(*arguments: Any, **more: Any) -> Any:
    _node[:] = [_ASSEMBLE(*arguments, **more)]
    return _node[0]


_ASSEMBLE = server.assemble


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


def report() -> dict[str, Any]:
    """Return what the server holds, without what caches hold."""
    for one in gc.get_objects():
        if isinstance(one, functools._lru_cache_wrapper):
            one.cache_clear()
    message._shapes.clear()
    message._likely.clear()
    gc.collect()
    modules = _node[0].modules
    connections = _node[0].services.connections
    held: dict[str, Any] = {
        "transactions": len(modules["tm"].layer),
        "timers": len(modules["tm"].layer._timers),
        "dialogs": len(modules["dialog"].table),
        "dialog_timers": len(modules["dialog"].table._due),
        "connections": len(connections),
        "websockets": len(modules["websocket"]._peers),
        "stuck": stuck(modules["tm"].layer, time.time()),
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

    def write(number: int, frame: object) -> None:
        if number == signal.SIGUSR2:
            keep()
        with path.open("a") as file:
            file.write(json.dumps(report()) + "\n")

    signal.signal(signal.SIGUSR1, write)
    signal.signal(signal.SIGUSR2, write)
    server.assemble = _assemble
    if os.environ.get("SOAK_TRACE") == "1":
        tracemalloc.start(1)
    sys.argv[:] = ["polykemi", *sys.argv[2:]]
    cli.main()


main()
