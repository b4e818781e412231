"""Kamailio under load: Debian's package with one worker, all its processes pinned to CPU 0."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bench.ports import free_port
from bench.servers import HERE, SCRIPTS, RouteTime, copy_database, end_process, wait_until_it_answers
from bench.sipp import BUFFER, pin

CONFIG = HERE / "kamailio/kamailio.cfg"
ENGINES = {  # engine -> module, Debian's package
    "native": ("db_sqlite.so", "kamailio-sqlite-modules"),
    "lua": ("app_lua.so", "kamailio-lua-modules"),
    "python": ("app_python3.so", "kamailio-python3-modules"),
    "js": ("app_jsdt.so", "kamailio-extra-modules"),
}
SHARED_MEMORY = 1024  # MB; each transaction is kept 5 s after its end
_ROUTE_TIME = re.compile(r"request-route executed in: ([0-9]+) usec")


def modules_directory() -> Path | None:
    """Return where the modules of the installed Kamailio are, None when there is none."""
    for root in (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"), Path("/usr/local/lib64")):
        for path in (*root.glob("kamailio/modules/tm.so"), *root.glob("*/kamailio/modules/tm.so")):
            return path.parent
    return None


def why_not(engine: str) -> str:
    """Return why Kamailio cannot run ``engine`` here, empty when it can."""
    directory = modules_directory()
    if shutil.which("kamailio") is None or directory is None:
        return "Kamailio is not installed (Debian: kamailio)"
    for needed in ("native", engine):
        module, package = ENGINES[needed]
        if not (directory / module).exists():
            return f"Kamailio's {module} is not installed (Debian: {package})"
    return ""


def version() -> str:
    """Return the first line of what Kamailio says about itself."""
    return subprocess.run(["kamailio", "-v"], capture_output=True, text=True, check=True).stdout.partition("\n")[0]


def route_time(log: str) -> RouteTime:
    """Sum what latency_cfg_log has written about the request route."""
    times = [int(found) for found in _ROUTE_TIME.findall(log)]
    return RouteTime(len(times), sum(times))


class KamailioServer:
    """One run of Kamailio. With ``log_routes`` it logs the time of each route, which costs CPU."""

    def __init__(self, engine: str, database: Path, directory: Path, *, log_routes: bool = False) -> None:
        self.port, self._log = free_port(), directory / "kamailio.log"
        self._logs_routes = log_routes
        values = {
            "LISTEN": f"udp:127.0.0.1:{self.port}",
            "MODULES": f'"{modules_directory()}/"',
            "DATABASE": f'"sqlite:///{copy_database(database, directory)}"',
            "SCRIPT": f'"{SCRIPTS.get(engine, "")}"',
        }
        defines = [f"{name}={value}" for name, value in values.items()] + [f"WITH_{engine.upper()}"]
        defines += ["WITH_ROUTE_TIME"] if log_routes else []
        command = [*pin(0), "kamailio", "-f", str(CONFIG), "-DD", "-E", "-m", str(SHARED_MEMORY), "-M", "16"]
        command += ["-b", str(BUFFER), "-P", str(directory / "pid"), "-Y", str(directory), "-w", str(directory)]
        command += [argument for define in defines for argument in ("-A", define)]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.pid = self._process.pid
        wait_until_it_answers(self._process, self.port, self._log)

    def route_time(self) -> RouteTime | None:
        """Read the log."""
        return route_time(self._log.read_text(errors="replace")) if self._logs_routes else None

    def stop(self) -> None:
        """End it; contacts are written to the database before."""
        end_process(self._process)
