"""End to end: the server as a user starts it, sipp as its phones. Skips where sipp is not installed."""

from __future__ import annotations

import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from bench.ports import free_port
from polykemi.sip.flow import bracketed
from tests.e2e.peers import tool
from tests.e2e.tunnel import Tunnel
from tests.pki import Pki
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
SCENARIOS = Path(__file__).parent / "scenarios"
SCRIPTS = {"lua": "routes/lua/basic.lua", "js": "routes/js/basic.js", "python": "routes/py/basic.py"}
DOMAIN = "e2e.test"
PASSWORDS = {"alice": "wonderland", "bob": "builder", "carol": "christmas"}


def listens(port: int) -> bool:
    """Tell whether somebody listens on a TCP port."""
    tables = [table.read_text() for table in Path("/proc/net").glob("tcp*")]  # tcp6 where the machine has IPv6
    return any(re.search(rf":{port:04X} 0+:0000 0A ", text) for text in tables)


def is_bound(port: int) -> bool:
    """Tell whether somebody has a UDP port."""
    return any(f":{port:04X} " in table.read_text() for table in Path("/proc/net").glob("udp*"))


def wait_for_listener(port: int) -> None:
    """Wait until somebody listens on a TCP port: who connects before is refused."""
    until(lambda: listens(port))


class HasPort(Protocol):
    """A server that phones may use."""

    port: int
    tls_port: int


class ServerProcess:
    """A polykemi of its own: port, data directory, subscribers."""

    def __init__(self, data: Path, arguments: list[str], host: str = "127.0.0.1", *, tls: bool = False) -> None:
        """``tls``: listen on ``tls_port`` too; the certificates are the configuration's."""
        self.data, self._arguments, self.host, self.port, self.engine = data, arguments, host, free_port(host), ""
        self.tls_port = free_port(host) if tls else 0
        self.start()

    def launch(self) -> None:
        """Start (again), without waiting for anything."""
        with (self.data / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "polykemi", "serve", *self._arguments]
            for proto in ("udp", "tcp"):
                command += ["--listen", f"{proto}:{bracketed(self.host)}:{self.port}"]
            if self.tls_port:
                command += ["--listen", f"tls:{bracketed(self.host)}:{self.tls_port}"]
            command += ["--domain", DOMAIN, "--data", str(self.data)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)

    def start(self) -> None:
        """Start (again) and wait until it is ready."""
        self.launch()
        assert self.process.stdout is not None
        self.greeting = []
        for line in self.process.stdout:
            self.greeting.append(line.strip())
            if line == "ready\n":
                return
        pytest.fail(f"the server did not start: {self.log()}")

    def log(self) -> str:
        """Return what it has logged so far."""
        return (self.data / "server.log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


class Phone:
    """A running sipp; ``port`` is where it listens itself."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, port: int) -> None:
        self._process, self._directory, self.port = process, directory, port

    def done(self, seconds: float = PATIENCE) -> None:
        """Wait until the scenario has succeeded."""
        code = self._process.wait(seconds)
        if code != 0:
            errors = "\n".join(p.read_text(errors="replace") for p in self._directory.glob("*.err"))
            pytest.fail(f"sipp ended with {code}\n{errors[-3000:]}")

    def kill(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


PhoneFactory = Callable[..., Phone]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The CA that all peers trust, and the certificate that the servers and the phones have."""
    return Pki(tmp_path_factory.mktemp("pki"))


def tls_tables(pki: Pki) -> str:
    """Return what a configuration says of them."""
    files = f'certificate = "{pki.path("server.pem")}"\nkey = "{pki.path("server.key")}"\n'
    return f'[tls]\n{files}[tls.client]\nca = "{pki.ca}"\n'


@pytest.fixture
def phone(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PhoneFactory]:
    """Start sipp with one of the scenarios."""
    tool("sipp", "Debian: sip-tester")
    running: list[Phone] = []
    tunnels: list[Tunnel] = []

    def tunnel(port: int, to: int, **contexts: ssl.SSLContext) -> int:
        tunnels.append(Tunnel(port, to, **contexts))
        return port

    def start(
        server: HasPort,
        scenario: str,
        *,
        user: str = "alice",
        password: str | None = None,
        port: int | None = None,
        contact: int | None = None,
        callee: str = "bob",
        calls: int = 1,
        rate: int = 10,
        lost: int = 0,
        transport: str = "u1",
        contact_transport: str = "",
        host: str = "127.0.0.1",
    ) -> Phone:
        """Run ``scenario`` as ``user``; ``contact`` is the port that it registers, ``lost`` a percentage of its packets.

        ``transport``: sipp's ``-t``; t1 is TCP over one connection, tn one for each call; l1 and ln are those of TLS, for
        which it gets tunnels, as Debian's has no TLS. ``host``: where both sides are.
        """
        directory = tmp_path / f"sipp{len(running)}"
        directory.mkdir()
        secret = PASSWORDS.get(user, "") if password is None else password
        (directory / "users.csv").write_text(f"SEQUENTIAL\n{user};[authentication username={user} password={secret}]\n")
        port, remote, text = port or free_port(host), server.port, (SCENARIOS / f"{scenario}.xml").read_text()
        shown = bracketed(host)
        if transport[0] == "l":
            pki: Pki = request.getfixturevalue("pki")
            remote = tunnel(free_port(), server.tls_port, makes=pki.client())
            text = text.replace("[transport]", "TLS").replace("[local_port]", str(port))
            contact, port, transport = contact or port, free_port(), f"t{transport[1:]}"
            tunnel(contact, port, takes=pki.server())
        (directory / "scenario.xml").write_text(text)
        command = ["sipp", f"{shown}:{remote}", "-sf", "scenario.xml", "-i", shown]
        command += ["-p", str(port), "-inf", "users.csv", "-key", "domain", DOMAIN, "-key", "callee", callee]
        parameter = f";transport={contact_transport}" if contact_transport else ""
        command += ["-key", "contact", f"{shown}:{contact or port}{parameter}", "-m", str(calls), "-r", str(rate)]
        command += ["-t", transport, "-max_socket", "100"]
        command += [
            "-nostdin",
            "-timeout",
            str(int(PATIENCE) - 10),
            "-timeout_error",
            "-trace_err",
            "-error_file",
            "sipp.err",
        ]
        command += ["-default_behaviors", "none", "-cp", str(free_port())] + (["-lost", str(lost)] if lost else [])
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        running.append(Phone(process, directory, port))
        if transport == "u1":  # whoever calls a phone that is not there yet is told so by ICMP, and does not try again
            until(lambda: is_bound(port) or process.poll() is not None)
        return running[-1]

    yield start
    for one in running:
        one.kill()
    for other in tunnels:
        other.close()


def make_data(directory: Path) -> Path:
    """Make a data directory with the subscribers of the tests."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{user},{DOMAIN},{password}\n" for user, password in PASSWORDS.items())
    (directory / "users.csv").write_text(rows)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "polykemi",
            "subscriber",
            "import",
            str(directory / "users.csv"),
            "--data",
            str(directory),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return directory


@pytest.fixture(scope="module", params=list(SCRIPTS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for each engine, with its sample script."""
    data = make_data(tmp_path_factory.mktemp(f"data-{request.param}"))
    config = data / "polykemi.toml"
    text = "[modules.tm]\nfr_inv_timer = 1500\n[modules.pike]\nreqs_density_per_unit = 10000\n[overload]\ndelay = 0\n"
    has_tls = shutil.which("openssl") is not None  # which makes the certificates
    config.write_text(text + (tls_tables(request.getfixturevalue("pki")) if has_tls else ""))
    arguments = ["--config", str(config), "--engine", request.param, SCRIPTS[request.param]]
    process = ServerProcess(data, arguments, tls=has_tls)
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log()
