"""sipp as the load: it starts calls at a fixed rate, whatever the answers do, and counts what came of them."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from bench.ports import free_port

SCENARIOS = Path(__file__).parent / "sipp"
BUFFER = 4 << 20  # octets of the sockets' buffers, as polykemi's and Kamailio's
_FATAL = (253, 254, 255)  # exit codes of a sipp that made no calls

RECEIVE = 8000  # milliseconds after which a call that waits for a message has failed


class Statistics(NamedTuple):
    """The totals of a finished run; ``seconds`` from the first start to the last end."""

    successful: int
    failed: int
    retransmissions: int
    seconds: float


def statistics(text: str) -> Statistics:
    """Read the last line of a file that sipp wrote with -trace_stat. Raise ValueError when it holds no line of figures."""
    rows = list(csv.reader(text.splitlines(), delimiter=";"))
    if len(rows) < 2:
        raise ValueError("sipp wrote no statistics")
    last = dict(zip(rows[0], rows[-1], strict=False))
    return Statistics(
        int(last["SuccessfulCall(C)"]),
        int(last["FailedCall(C)"]),
        int(last["Retransmissions(C)"]),
        # ElapsedTime has whole seconds; a moment is date, time and seconds since the epoch between tabs
        float(last["CurrentTime"].split("\t")[-1]) - float(last["StartTime"].split("\t")[-1]),
    )


def pin(cpu: int) -> list[str]:
    """Return the prefix that pins a command, where there is more than one CPU."""
    return ["taskset", "-c", str(cpu)] if (os.cpu_count() or 1) > 1 and shutil.which("taskset") else []


def write_users(path: Path, users: list[tuple[str, str]]) -> None:
    """Write names and passwords as the scenarios take them, each line in turn."""
    lines = [f"{name};[authentication username={name} password={password}]\n" for name, password in users]
    path.write_text("SEQUENTIAL\n" + "".join(lines))


class Sipp:
    """A running sipp."""

    def __init__(self, scenario: str, server: int, directory: Path, arguments: list[str], port: int) -> None:
        self._statistics, self._log = directory / f"{scenario}.csv", directory / f"{scenario}.log"
        command = [*pin(1), "sipp", f"127.0.0.1:{server}", "-sf", str(SCENARIOS / f"{scenario}.xml")]
        command += ["-i", "127.0.0.1", "-p", str(port), "-cp", str(free_port()), "-buff_size", str(BUFFER), "-nostdin"]
        command += ["-timer_resol", "1", "-max_recv_loops", "2000", "-max_sched_loops", "2000"]
        command += ["-watchdog_minor_maxtriggers", "100000", "-watchdog_major_maxtriggers", "100000"]
        command += ["-default_behaviors", "none", "-aa", "-deadcall_wait", "0"]
        command += ["-trace_stat", "-fd", "1", "-stf", str(self._statistics), *arguments]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self._process.pid

    def wait(self, seconds: float) -> float:
        """Wait until all calls have ended, but only so long, and return the seconds of CPU that sipp has used."""
        end = time.monotonic() + seconds
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                return usage.ru_utime + usage.ru_stime
            if time.monotonic() > end:
                self._process.terminate()
                end += 2
            time.sleep(0.005)

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def statistics(self) -> Statistics:
        """Return what came of the calls. Raise ValueError when sipp could not start any."""
        if self._process.returncode in _FATAL or not self._statistics.exists():
            raise ValueError(f"sipp failed: {self._log.read_text(errors='replace').strip()[-300:]}")
        return statistics(self._statistics.read_text())


def call(
    scenario: str,
    server: int,
    directory: Path,
    *,
    users: list[tuple[str, str]],
    domain: str,
    n: int,
    rate: float,
    contact: int | None = None,
    hold: int = 0,
) -> Sipp:
    """Start ``n`` calls, ``rate`` a second. ``contact``: the port to register; ``hold``: milliseconds of a pause."""
    port = free_port()
    write_users(directory / f"{scenario}-users.csv", users)
    arguments = ["-inf", f"{scenario}-users.csv", "-key", "domain", domain]
    arguments += ["-key", "contact", f"127.0.0.1:{contact or port}", "-m", str(n), "-r", f"{rate:g}"]
    arguments += ["-l", str(max(n, 100)), "-d", str(hold), "-recv_timeout", str(RECEIVE)]
    return Sipp(scenario, server, directory, arguments, port)


def answer(scenario: str, server: int, directory: Path) -> tuple[Sipp, int]:
    """Start the called side and return it with its port, when it has bound it."""
    port = free_port()
    sipp = Sipp(scenario, server, directory, [], port)
    for _ in range(100):
        if f":{port:04X} " in Path("/proc/net/udp").read_text():
            break
        time.sleep(0.02)
    return sipp, port
