"""What is measured: a server with an engine, in a form. How each is started stands in polykemi_server and kamailio_server."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from polykemi.storage.provisioned import FILE_NAME, Database

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
SCRIPTS = {"lua": HERE / "scripts/bench.lua", "python": HERE / "scripts/bench.py", "js": HERE / "scripts/bench.js"}
DOMAIN, MEMORY_DOMAIN = "bench.test", "memory.test"  # the password comes from the database, from htable
USERS, CALLEES = 10_000, 100

_OPTIONS = (
    "OPTIONS sip:bench.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKready{i}\r\n"
    "Max-Forwards: 70\r\nFrom: <sip:ready@bench.test>;tag=1\r\nTo: <sip:bench.test>\r\nCall-ID: ready{i}\r\n"
    "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)


@dataclass(frozen=True)
class Subject:
    """What stands in one line of a table. ``form`` of polykemi: pure, compiled, or empty for what is there."""

    product: str  # polykemi or kamailio
    engine: str  # lua, python, js or native
    form: str = ""

    def __str__(self) -> str:
        return f"{self.product} {self.engine}" + (f" ({self.form})" if self.form else "")


class RouteTime(NamedTuple):
    """How often the request route ran, and how long it took in all, in microseconds."""

    runs: int
    total: float

    @property
    def average(self) -> float:
        """Return the microseconds that one run took."""
        return self.total / self.runs if self.runs else 0.0

    def since(self, before: RouteTime) -> RouteTime:
        """Return what has been added to ``before``."""
        return RouteTime(self.runs - before.runs, self.total - before.total)


class Server(Protocol):
    """A running server."""

    pid: int
    port: int

    def route_time(self) -> RouteTime | None:
        """Return the time in the request route since the start, None when this server does not tell."""

    def stop(self) -> None:
        """End it."""


class DidNotStart(Exception):
    """A server did not answer; its last words are the text."""


def user(i: int) -> tuple[str, str]:
    """Return name and password of a user."""
    return f"u{i:05}", f"pw-{i:05}"


CALLERS = [user(i) for i in range(USERS)]
CALLED = [user(i) for i in range(USERS, USERS + CALLEES)]


def make_database(directory: Path) -> Path:
    """Make the one SQLite file whose copies both servers get: subscribers, and what only Kamailio needs."""
    rows = directory / "subscribers.csv"
    rows.write_text("".join(f"{name},{DOMAIN},{password}\n" for name, password in CALLERS + CALLED))
    with Database.at(directory) as database:
        database.import_csv(rows)
    path = directory / FILE_NAME
    connection = sqlite3.connect(path)  # the write-ahead log, which polykemi switches on, stays on in this file
    connection.executescript((HERE / "kamailio/tables.sql").read_text())
    connection.close()
    return path


def copy_database(database: Path, directory: Path) -> Path:
    """Give a server a copy of its own."""
    return Path(shutil.copy(database, directory / FILE_NAME))


def wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Send OPTIONS until a 200 comes: the script is loaded then. Raise DidNotStart with the end of ``log``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.1)
        for i in range(150):
            if process.poll() is not None:
                break
            try:
                sock.sendto(_OPTIONS.format(port=sock.getsockname()[1], i=i).encode(), ("127.0.0.1", port))
                if sock.recv(4096).startswith(b"SIP/2.0 200"):
                    time.sleep(0.2)  # what it does last at its start is not part of the figures
                    return
            except TimeoutError:
                pass
            except ConnectionError:
                time.sleep(0.1)
    end_process(process)
    raise DidNotStart(log.read_text(errors="replace").strip()[-600:] or "no answer")


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Stop it with SIGTERM, after 15 seconds with SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
