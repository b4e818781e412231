"""Drive the server with sipp, engine by engine, and print the CPU that a registration costs.

    make bench                      three rounds, 10,000 registrations at 2,000 a second each
    make bench ARGS="--rounds 1 --engines lua"

Each registration is a REGISTER, its challenge, the REGISTER with credentials and the 200: two messages for the server.
Where there are two CPUs the server is pinned to the first and sipp to the second. CPU is user + system time of the
server's process, from /proc, over the load alone. Compare the ratios of one run, not figures of different runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = {"lua": "routes/lua/basic.lua", "js": "routes/js/basic.js", "python": "routes/py/basic.py"}
USERS = 1000
TICK = os.sysconf("SC_CLK_TCK")
CONFIG = "[modules.pike]\nreqs_density_per_unit = 1000000\n[modules.registrar]\nmax_contacts = 1\n"


def pin(cpu: int) -> list[str]:
    """Return the prefix that pins a command, where there is more than one CPU."""
    return ["taskset", "-c", str(cpu)] if (os.cpu_count() or 1) > 1 and shutil.which("taskset") else []


def free_port() -> int:
    """Return a UDP port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """Return user + system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def measure(engine: str, n: int, rate: int, directory: Path) -> dict[str, float]:
    """Run one server under one load."""
    rows = [(f"u{i:05}", f"pw-{i:05}") for i in range(USERS)]
    (directory / "subscribers.csv").write_text("".join(f"{u},bench.test,{p}\n" for u, p in rows))
    users = "".join(f"{u};[authentication username={u} password={p}]\n" for u, p in rows)
    (directory / "users.csv").write_text("SEQUENTIAL\n" + users)
    (directory / "polykemi.toml").write_text(CONFIG)
    data, port = directory / "data", free_port()
    polykemi = [sys.executable, "-m", "polykemi"]
    command = [*polykemi, "subscriber", "import", str(directory / "subscribers.csv"), "--data", str(data)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    command = [*pin(0), *polykemi, "serve", "--config", str(directory / "polykemi.toml"), "--engine", engine]
    command += [SCRIPTS[engine], "--listen", f"udp:127.0.0.1:{port}", "--domain", "bench.test", "--data", str(data)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        while (line := server.stdout.readline()) != "ready\n":
            if not line:
                raise SystemExit("the server did not start")
        mine = str(free_port())
        sipp = [*pin(1), "sipp", f"127.0.0.1:{port}", "-sf", str(ROOT / "tests/e2e/scenarios/register.xml")]
        sipp += ["-i", "127.0.0.1", "-p", mine, "-inf", "users.csv", "-key", "domain", "bench.test"]
        sipp += ["-key", "contact", f"127.0.0.1:{mine}", "-m", str(n), "-r", str(rate), "-l", str(n), "-nostdin"]
        sipp += ["-buff_size", "4194304", "-timer_resol", "1", "-max_recv_loops", "2000", "-max_sched_loops", "2000"]
        sipp += ["-default_behaviors", "none", "-cp", str(free_port())]
        before, began = cpu_seconds(server.pid), time.monotonic()
        load = subprocess.Popen(
            sipp,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(load.pid, 0)
        load.returncode = os.waitstatus_to_exitcode(status)
        if load.returncode != 0:
            raise SystemExit(f"sipp ended with {load.returncode}: the server did not keep up")
        wall = time.monotonic() - began
        return {
            "cpu_us_per_message": (cpu_seconds(server.pid) - before) / (2 * n) * 1e6,
            "registrations_per_second": n / wall,
            "client_busy": (usage.ru_utime + usage.ru_stime) / wall,
        }
    finally:
        server.terminate()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def main() -> None:
    """Measure the engines in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="lua,js,python")
    parser.add_argument("--n", type=int, default=10_000, help="registrations a round")
    parser.add_argument("--rate", type=int, default=2_000, help="registrations started per second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures of all rounds here")
    options = parser.parse_args()
    if shutil.which("sipp") is None:
        raise SystemExit("bench needs sipp (Debian: sip-tester)")
    engines = options.engines.split(",")
    figures: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    for _ in range(options.rounds):
        for engine in engines:  # alternating, so that what disturbs the machine meets all alike
            with tempfile.TemporaryDirectory() as directory:
                figures[engine].append(measure(engine, options.n, options.rate, Path(directory)))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    base = statistics.median(f["cpu_us_per_message"] for f in figures[engines[0]])
    print(f"REGISTER with authentication, {options.rate}/s, medians of {options.rounds} rounds")
    print(f"{'engine':8} {'CPU us/message':>15} {'ratio':>6} {'reg/s':>8} {'sipp busy':>10}")
    for engine in engines:
        cpu, rate, busy = (
            statistics.median(f[key] for f in figures[engine])
            for key in ("cpu_us_per_message", "registrations_per_second", "client_busy")
        )
        print(f"{engine:8} {cpu:15.1f} {cpu / base:6.2f} {rate:8.0f} {busy:10.2f}")


if __name__ == "__main__":
    main()
