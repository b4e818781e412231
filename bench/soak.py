"""A day in the life of a server, made short: mixed load, phones that vanish, loss, rubbish, reloads; and nothing may be left.

    make soak                        ten minutes
    make soak ARGS="--minutes 60"    an hour

The server runs as a user starts it, with the Lua sample script (and dialogs, and WebSocket). Python phones (soak_phones.py)
register, call each other, subscribe, ask, over UDP with 2 % loss, TCP, TLS and WebSocket, and vanish; sipp's phones call too,
with 2 % loss; others send malformed messages; an operator reloads modules, configuration and script. First comes a warm-up,
then silence until all timers are over, then the load proper, then silence again: what is there more than after the first silence
is a leak.

Fails when memory has grown (tracemalloc, and anonymous RSS), when a transaction, a dialog, a WebSocket or an open file is
left, when an exception or a script error stands in the log, when the server has stopped, or when a kind of load was not
answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from bench.ports import free_port
from bench.servers import ROOT
from bench.soak_phones import KINDS, Network, life, rubbish
from polykemi.control.client import SOCKET, call
from polykemi.errors import RpcError, UsageError
from polykemi.storage.provisioned import Database

QUICK: Final = 60.0  # seconds; shorter runs do not wait for all timers
LONGEST: Final = 120.0  # seconds until a short run gives up what it waits for: the machine may have much to do
DOMAIN: Final = "soak.test"
HOST: Final = "127.0.0.1"  # sipp's scenarios know no other
SCENARIOS: Final = ROOT / "tests" / "e2e" / "scenarios"
LOST: Final = 0.02  # of the packets
MOST_TRACED: Final = 4 << 20  # octets that caches may still grow by between the two silences
MOST_RSS: Final = 24 << 20  # and what lies between blocks
MOST_OBJECTS: Final = 20_000
RELOADS: Final = (
    *("permissions.addressReload", "domain.reload", "dialplan.reload", "cfg.reload", "app.reload", "app.rollback"),
    "stats.get_statistics",
)

SCRIPT: Final = """
local soak_request_route = ksr_request_route
function ksr_request_route()
    if KSR.is_method_in("IABCU") then KSR.dialog.dlg_manage() end
    if KSR.is_INVITE() then KSR.htable.sht_seti("calls", KSR.pv.gete("$ci"), 1) end
    soak_request_route()
end
function ksr_xhttp_event(event) KSR.websocket.handle_handshake() end
"""
CONFIG: Final = """
[modules.xhttp]
event_callback = "ksr_xhttp_event"
[modules.tm]
fr_timer = {fr}
fr_inv_timer = {fr}
retr_timer1 = {t1}
[modules.dialog]
default_timeout = {dialog}
early_timeout = {dialog}
noack_timeout = {dialog}
end_timeout = 2
[modules.htable]
htable = ["ipban=>autoexpire=60;", "calls=>autoexpire=5;"]
timer_interval = 2
[modules.registrar]
max_contacts = 10
min_expires = 5
[modules.pike]
reqs_density_per_unit = 1000000
[overload]
delay = 5.0 # to look into it takes a second
[tcp]
connection_lifetime = 20.0
accept_iplimit = 2000
"""
CONNECTIONS: Final = ("websockets", "connections")
CHECKED: Final = (
    "REGISTER 200",
    "INVITE 200",
    "BYE 200",
    "OPTIONS 200",
    "SUBSCRIBE 200",
    "MESSAGE 200",
    "handshake 101",
)


class Server:
    """The server, and how to look into it."""

    def __init__(self, directory: Path, users: list[str], *, quick: bool, trace: bool) -> None:
        self.directory, self.data, self.port = directory, directory / "data", free_port()
        self.data.mkdir()
        database = Database.at(self.data)
        for user in users:
            database.add_subscriber(user, DOMAIN, f"secret-{user}")
        database.close()
        timers = {"fr": 3000, "t1": 50, "dialog": 4} if quick else {"fr": 10_000, "t1": 500, "dialog": 20}
        (directory / "polykemi.toml").write_text(CONFIG.format(**timers))
        script = directory / "route.lua"
        script.write_text((ROOT / "routes" / "lua" / "basic.lua").read_text() + SCRIPT)
        self._report = directory / "report.jsonl"
        command = [sys.executable, str(ROOT / "bench" / "soak_server.py"), str(self._report), "serve"]
        command += [
            "--config",
            str(directory / "polykemi.toml"),
            "--engine",
            "lua",
            str(script),
            "--data",
            str(self.data),
        ]
        command += ["--domain", DOMAIN, "--listen", f"udp:{HOST}:{self.port}", "--listen", f"tcp:{HOST}:{self.port}"]
        self.tls_port = free_port() if shutil.which("openssl") else 0
        if self.tls_port:
            self._make_certificate()
            command += ["--listen", f"tls:{HOST}:{self.tls_port}"]
        self.log = directory / "server.log"
        environment = {**os.environ, "SOAK_TRACE": "1" if trace else "0", "PYTHONPATH": _path()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + LONGEST
        while b"\nready\n" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def _make_certificate(self) -> None:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem"]
        named = ["-out", "certificate.pem", "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=IP:{HOST}"]
        subprocess.run(["openssl", "req", "-x509", *key, *named], cwd=self.directory, check=True, capture_output=True)
        with (self.directory / "polykemi.toml").open("a") as file:
            file.write(
                '[tls]\ncertificate = "certificate.pem"\nkey = "key.pem"\n[tls.client]\nca = "certificate.pem"\n'
            )

    def trusted(self) -> ssl.SSLContext:
        """Return the context of a phone that trusts the server."""
        return ssl.create_default_context(cafile=str(self.directory / "certificate.pem"))

    async def report(self, number: signal.Signals = signal.SIGUSR1) -> dict[str, Any]:
        """Return what the server holds (soak_server.report), with its RSS and open files."""
        return await asyncio.to_thread(self._look, number)

    def _look(self, number: signal.Signals) -> dict[str, Any]:
        lines = self._lines()
        until = time.monotonic() + 60
        self.process.send_signal(number)
        while self._lines() == lines:
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server does not answer: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        held: dict[str, Any] = json.loads(self._report.read_bytes().splitlines()[-1])
        process = Path(f"/proc/{self.process.pid}")
        held["rss"] = int(re.findall(r"RssAnon:\s+(\d+)", (process / "status").read_text())[0]) << 10
        held["files"] = len(list((process / "fd").iterdir()))
        return held

    def _lines(self) -> int:
        return self._report.read_bytes().count(b"\n") if self._report.exists() else 0

    def ask(self, method: str, *params: Any) -> Any:
        """Ask by RPC."""
        return call(self.data / SOCKET, method, params, LONGEST)

    def stop(self) -> int:
        """End it and return its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _path() -> str:
    """Return PYTHONPATH of the server: what it is, with the sources behind it (the compiled form goes first)."""
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH", ""), str(ROOT))))


class Sipp:
    """A pair of sipp's phones: one takes calls, one makes them, with loss."""

    def __init__(self, server: Server, rate: float) -> None:
        self._server, self._rate = server, rate
        self._running: list[subprocess.Popen[bytes]] = []
        callee = free_port()
        self._start("register", "sipp-bob", free_port(), contact=callee, calls=1).wait(30)
        self._running = [self._start("answer", "sipp-bob", callee, lost=True)]
        self._running.append(self._start("call", "sipp-alice", free_port(), lost=True))

    def _start(
        self, scenario: str, user: str, port: int, *, contact: int = 0, calls: int = 1_000_000, lost: bool = False
    ) -> subprocess.Popen[bytes]:
        directory = Path(tempfile.mkdtemp(dir=self._server.directory))
        secret = f"secret-{user}"
        (directory / "users.csv").write_text(f"SEQUENTIAL\n{user};[authentication username={user} password={secret}]\n")
        command = ["sipp", f"{HOST}:{self._server.port}", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", HOST]
        command += ["-p", str(port), "-inf", "users.csv", "-key", "domain", DOMAIN, "-key", "callee", "sipp-bob"]
        command += ["-key", "contact", f"{HOST}:{contact or port}", "-m", str(calls), "-r", f"{self._rate:g}"]
        command += ["-nostdin", "-default_behaviors", "none", "-cp", str(free_port()), "-recv_timeout", "20000"]
        command += ["-lost", str(round(100 * LOST))] if lost else []
        return subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        """End them, in the middle of their calls."""
        for process in self._running:
            process.kill()
            process.wait()


async def operator(server: Server, counts: Counter[str], pause: float) -> None:
    """Reload modules, configuration and script, go back, and read statistics, again and again."""
    while True:
        for method in RELOADS:
            await asyncio.sleep(pause)
            try:
                await asyncio.to_thread(server.ask, method, *(("all",) if method.startswith("stats") else ()))
                counts["rpc"] += 1
            except (RpcError, UsageError) as error:
                counts[f"rpc failed: {method}: {error}"] += 1


async def load(server: Server, network: Network, phones: int, pace: float, rate: float, seconds: float) -> None:
    """Let all of them do what they do for ``seconds``, and longer when a kind of load was not answered by then."""
    users = [f"user{n}" for n in range(phones)]
    kinds = KINDS if network.tls else [kind for kind in KINDS if kind.transport != "TLS"]
    lives: list[Coroutine[Any, Any, None]] = [
        life(kinds[n % len(kinds)], network, user, f"secret-{user}", users, pace) for n, user in enumerate(users)
    ]
    lives += [rubbish(network, pace / 10), operator(server, network.counts, min(2.0, seconds / 10))]
    sipp = Sipp(server, rate) if shutil.which("sipp") else None
    tasks = [asyncio.create_task(one) for one in lives]
    try:
        until = time.monotonic() + LONGEST
        while True:
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()  # a bug in a phone
            if not unanswered(network) or time.monotonic() > until:
                break
            seconds = 1.0
    finally:
        if sipp is not None:
            sipp.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def silence(server: Server, seconds: float, names: tuple[str, ...]) -> dict[str, Any]:
    """Wait until nothing is open any more, but only so long, and return what is left and how much memory that takes."""
    until = time.monotonic() + seconds
    while True:
        held = await server.report()
        if not any(held[name] for name in names) or time.monotonic() > until:
            return held
        await asyncio.sleep(1)


def unanswered(network: Network) -> list[str]:
    """Return the kinds of load that have had no good answer yet."""
    return [name for name in (*CHECKED, *(["TLS opened"] if network.tls else [])) if not network.counts[name]]


def verdict(server: Server, network: Network, first: dict[str, Any], last: dict[str, Any], *, quick: bool) -> list[str]:
    """Return what is wrong; nothing, if all is well. ``quick``: the silences were shorter than timers are."""
    wrong = [f"a transaction is stuck: {one}" for one in [*first["stuck"], *last["stuck"]]]
    names = CONNECTIONS if quick else (*CONNECTIONS, "transactions", "dialogs")
    wrong += [f"{last[name]} {name} are left" for name in names if last[name]]
    wrong += [f"{last[name]} {name} are left" for name in ("timers", "dialog_timers") if last[name] > 200 and not quick]
    if last["files"] > first["files"] + 2:
        wrong.append(f"{last['files']} files are open, {first['files']} were")
    for name, most in (("traced", MOST_TRACED), ("rss", MOST_RSS), ("objects", MOST_OBJECTS)):
        if last[name] - first[name] > most:
            wrong.append(f"{name} has grown from {first[name]} to {last[name]}: {last['grown']}")
    log = server.log.read_text(errors="replace")
    for text in ("Traceback", "internal error", "script error", "Error:"):
        if text in log:
            at = log.index(text)
            wrong.append(f"the log holds {text!r}: {log[max(0, at - 500) : at + 1500]}")
    wrong += [f"no {name}" for name in unanswered(network)]
    wrong += [name for name in network.counts if name.startswith("rpc failed")]
    lost = sum(n for name, n in network.counts.items() if name.endswith("without an answer"))
    answered = sum(n for name, n in network.counts.items() if re.search(r" [2-6]\d\d$", name))
    if lost > answered // 50:
        wrong.append(f"{lost} requests had no answer, {answered} had")
    if server.process.poll() is not None:
        wrong.append(f"the server has ended with {server.process.returncode}")
    return wrong


async def soak(server: Server, network: Network, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Warm up, be silent, load, be silent; return what the server held in the two silences."""
    warm = options.seconds / 4
    end = (LONGEST, CONNECTIONS) if options.seconds < QUICK else (120.0, (*CONNECTIONS, "transactions", "dialogs"))
    shape = options.phones, options.pace, options.rate
    await load(server, network, *shape, warm)
    await silence(server, *end)
    first = await server.report(signal.SIGUSR2)
    print("first silence", _shown(first), flush=True)
    watching = asyncio.create_task(_watch(server, options.seconds / 10))
    await load(server, network, *shape, options.seconds)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    last = await silence(server, *end)
    print("last silence ", _shown(last), flush=True)
    return first, last


async def _watch(server: Server, pause: float) -> None:
    while True:
        await asyncio.sleep(pause)
        print("under load   ", _shown(held := await server.report()), *held["stuck"], flush=True)


def _shown(held: dict[str, Any]) -> str:
    sizes = f"traced {held['traced'] / 2**20:.1f} MiB, rss {held['rss'] / 2**20:.1f} MiB, "
    names = ("objects", "transactions", "timers", "dialogs", "dialog_timers", "connections", "websockets", "files")
    return sizes + ", ".join(f"{held[name]} {name}" for name in names)


def run(options: argparse.Namespace, directory: Path) -> list[str]:
    """Run a soak in ``directory`` and return what went wrong."""
    users = [*(f"user{n}" for n in range(options.phones)), "sipp-alice", "sipp-bob"]
    server = Server(directory, users, quick=options.seconds < QUICK, trace=options.trace)
    network = Network((HOST, server.port), DOMAIN, LOST, options.seed)
    if server.tls_port:
        network.tls = server.tls_port, server.trusted()
    began = time.monotonic()
    try:
        first, last = asyncio.run(soak(server, network, options))
        wrong = verdict(server, network, first, last, quick=options.seconds < QUICK)
        statistics = server.ask("stats.fetchn", "core", "tmx", "tcp", "dialog")
    finally:
        code = server.stop()
    if code != 0:
        wrong.append(f"the server ended with {code}")
    print(f"{time.monotonic() - began:.0f} s;", ", ".join(f"{n} {name}" for name, n in sorted(network.counts.items())))
    print(", ".join(f"{name} {n}" for name, n in statistics.items() if n))
    for line in last["grown"]:
        print("grown:", line)
    for path, size in last["sizes"].items():
        print(f"holds: {size} {path}, before {first['sizes'].get(path, 'few')}")
    return wrong


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=10, help="of the load proper; a quarter of it is the warm-up")
    options.add_argument("--phones", type=int, default=60, help="Python phones, a quarter over each transport")
    options.add_argument("--pace", type=float, default=1.0, help="seconds between two things that a phone does")
    options.add_argument("--rate", type=float, default=5, help="calls of sipp a second")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--no-trace", dest="trace", action="store_false", help="do not trace memory: twice the speed")
    options.add_argument("--keep", action="store_true", help="keep the directory with log and data")
    return options


def main() -> None:
    """Run it, and exit with 1 when something was wrong."""
    options = parser().parse_args()
    options.seconds = 60 * options.minutes
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    wrong = run(options, directory)
    for line in wrong:
        print("WRONG:", line)
    if options.keep or wrong:
        print("log and data are in", directory)
    else:
        shutil.rmtree(directory)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
