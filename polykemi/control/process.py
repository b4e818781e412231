"""The commands about the process: ``core``, ``pkg`` and ``shm``. Names and shapes are Kamailio's.

There is one process, so the memory of its own (``pkg``) and the memory that is shared (``shm``) are the same. All figures
are of the system's.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from polykemi import compiled, memory
from polykemi.errors import RpcError
from polykemi.kemi.rpc import rpc

_NO_MODULES: Final = ("core", "hdr", "x")  # Kamailio has them in its core
_FEATURES: Final = "USE_TCP, USE_TLS, USE_DNS_CACHE, USE_DNS_FAILOVER, USE_NAPTR, USE_DST_BLOCKLIST"  # its words


class Core:
    """What the server is."""

    def __init__(
        self,
        version: str,
        started: float,
        modules: Iterable[str] = (),
        kill: Callable[[int], None] = lambda number: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``started`` and what ``clock`` shows are seconds since the epoch; ``modules`` are the loaded ones, in order.

        ``kill`` sends the server a signal.
        """
        self._version, self._started, self._modules, self._kill, self._clock = version, started, modules, kill, clock

    @rpc("core.version")
    def version(self) -> str:
        """Return name and version."""
        return f"polykemi {self._version}"

    @rpc("core.uptime")
    def uptime(self) -> dict[str, Any]:
        """Return the time now, the time of the start, and the seconds between them."""
        now = self._clock()
        return {"now": time.ctime(now), "up_since": time.ctime(self._started), "uptime": int(now - self._started)}

    @rpc("core.info")
    def info(self) -> dict[str, str]:
        """Return the version, what it runs on and what it was built with."""
        return {
            "version": f"polykemi {self._version}",
            "id": f"{platform.machine()}/{sys.platform}",
            "compiler": f"Python {platform.python_version()}, {platform.python_compiler()}",
            "compiled": "mypyc" if compiled else "",
            "flags": _FEATURES,
        }

    @rpc("core.runinfo")
    def run_info(self) -> dict[str, Any]:
        """Return version and times in one."""
        now = self._clock()
        uptime = int(now - self._started)
        minutes, seconds = divmod(uptime, 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        info = self.info()
        return {
            "name": "polykemi",
            "version": self._version,
            "sourceid": info["id"],
            "compiler": info["compiler"],
            "compiled": info["compiled"],
            "time_now": time.ctime(now),
            "time_started": time.ctime(self._started),
            "uptime_secs": uptime,
            "utime_days": f"{days}d {hours}h {minutes}m {seconds}s",
        }

    @rpc("core.flags")
    def flags(self) -> str:
        """Return what was built in."""
        return _FEATURES

    @rpc("core.modules")
    def modules(self) -> list[str]:
        """List the loaded modules, the last one first."""
        return [name for name in reversed(list(self._modules)) if name not in _NO_MODULES]

    @rpc("core.ps")
    def ps(self) -> list[Any]:
        """List the process and its threads: number and name, one after the other."""
        return [value for one in threads() for value in one]

    @rpc("core.psx")
    def psx(self) -> list[dict[str, Any]]:
        """List the process and its threads with index, number and name."""
        return [{"IDX": n, "PID": ident, "DSC": name} for n, (ident, name) in enumerate(threads())]

    @rpc("core.psa")
    def psa(self) -> list[dict[str, Any]]:
        """List the process and its threads with all that is known of them; status 1: it runs, rank: its place."""
        return [
            {"index": n, "pid": ident, "status": 1, "rank": n, "description": name}
            for n, (ident, name) in enumerate(threads())
        ]

    @rpc("core.pwd")
    def pwd(self) -> list[str]:
        """Return the working directory."""
        try:
            return [os.fsencode(Path.cwd()).decode("latin-1")]
        except OSError as error:
            raise RpcError(500, f"the working directory: {error.strerror}") from None

    @rpc("core.arg")
    def arg(self) -> list[str]:
        """Return the command line."""
        return [os.fsencode(one).decode("latin-1") for one in sys.orig_argv]

    @rpc("core.kill")
    def kill(self, number: int = signal.SIGTERM) -> dict[str, Any]:
        """Send the server a signal: 15 (the default) ends it when open transactions have ended, 1 reloads its scripts."""
        try:
            self._kill(signal.Signals(number))
        except ValueError:
            raise RpcError(400, f"number: expected a signal such as {signal.SIGTERM:d}, got {number}") from None
        return {}

    @rpc("core.echo")
    def echo(self, *text: str) -> list[str]:
        """Return what is given, as texts."""
        return list(text)

    @rpc("core.prints")
    def prints(self, *text: str) -> list[str]:
        """Return what is given, as texts."""
        return list(text)

    @rpc("core.printi")
    def printi(self, *number: int) -> list[int]:
        """Return what is given, as numbers."""
        return list(number)


def threads() -> list[tuple[int, str]]:
    """Return number and name of the process, then those of its other threads, as the system knows them."""
    main = os.getpid()
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = [(main, "main process - event loop")]
    for task in sorted(Path("/proc/self/task").glob("*"), key=lambda path: int(path.name)):
        if (ident := int(task.name)) != main:
            try:
                found.append((ident, names.get(ident) or (task / "comm").read_text("latin-1").strip()))
            except OSError:  # it has ended
                continue
    return found


# Kamailio's statistics of its shared memory
SHMEM: Final = ("total_size", "free_size", "used_size", "real_used_size", "max_used_size", "fragments")


class Memory:
    """How much memory the process has, in octets."""

    def __init__(self, total: int) -> None:
        """``total``: octets that it may have."""
        self._total = total

    @rpc("core.shmmem")
    def shmmem(self) -> dict[str, int]:
        """Return what the process may have and has; used is its own, real_used all that is resident, with libraries."""
        return self._figures()

    @rpc("shm.stats")
    def shm_stats(self) -> dict[str, int]:
        """Return the same as core.shmmem."""
        return self._figures()

    @rpc("pkg.stats")
    def pkg_stats(self) -> list[dict[str, Any]]:
        """Return the same in the shape that Kamailio has for each of its processes."""
        now = self._figures()
        pid, name = threads()[0]
        return [
            {
                "entry": 0,
                "pid": pid,
                "rank": 0,
                "used": now["used"],
                "free": now["free"],
                "real_used": now["real_used"],
                "total_size": now["total"],
                "total_frags": now["fragments"],
                "desc": name,
            }
        ]

    def figure(self, name: str) -> int:
        """Return one of the statistics ``shmem``."""
        return self._figures()[name.removesuffix("_size")]

    def _figures(self) -> dict[str, int]:
        now = memory.figures()
        return {
            "total": self._total,
            "free": max(self._total - now.resident, 0),
            "used": now.own,
            "real_used": now.resident,
            "max_used": now.peak,
            "fragments": now.free_blocks,
        }
