"""Measure what a message costs over UDP, TCP, TLS, WebSocket and secure WebSocket, with the same load in one run.

    .venv/bin/python -m bench.transports                          all of them, three rounds: two minutes
    .venv/bin/python -m bench.transports --transports udp,tls --rate 1000 --form compiled

One process of phones registers over ``--connections`` connections: REGISTER, 401, REGISTER with credentials, 200; the rate
counts both. The script is scripts/bench.lua. The server has CPU 0, the phones CPU 1; all transports in turn, then the
next round. CPU is that of the server in microseconds a message; ``/udp`` is the ratio to UDP within a round. Connections
are made before the load starts. ``waited`` is the longest time that a REGISTER took to its 200, in milliseconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import select
import shutil
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from wsproto.frame_protocol import FrameProtocol, Opcode

from bench.polykemi_server import CONFIG, POLYKEMI, environment
from bench.ports import free_port
from bench.procfs import Watch
from bench.rounds import directory
from bench.servers import CALLERS, DOMAIN, HERE, ROOT, copy_database, end_process, make_database, wait_until_it_answers
from bench.sipp import pin
from polykemi.sip.framing import Framer

TRANSPORTS = ("udp", "tcp", "tls", "ws", "wss")
GRACE = 5.0  # seconds that the last answers may take
_NONCE = re.compile(rb'nonce="([^"]+)"')
HANDSHAKE = (
    f"GET / HTTP/1.1\r\nHost: {DOMAIN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
)


class Link:
    """One phone's way to the server: messages in and out, none of which blocks once it is there."""

    def __init__(self, transport: str, port: int) -> None:
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self.socket = socket.socket(socket.AF_INET, kind)
        self.socket.connect(("127.0.0.1", port))
        self.transport = transport
        self.sent_by = "{}:{}".format(*self.socket.getsockname())
        if transport in ("tls", "wss"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket)
        self._framer = Framer()
        self._frames: FrameProtocol | None = None
        if transport in ("ws", "wss"):
            self.socket.sendall(HANDSHAKE.encode())
            if not self.socket.recv(4096).startswith(b"HTTP/1.1 101"):
                raise SystemExit("bench: no WebSocket")
            self._frames = FrameProtocol(client=True, extensions=[])
        self.socket.setblocking(False)  # noqa: FBT003

    def send(self, message: bytes) -> None:
        """Send one message."""
        self.socket.send(message if self._frames is None else self._frames.send_data(message.decode(), fin=True))

    def receive(self) -> list[bytes]:
        """Return what has come."""
        data = b""
        try:
            while True:
                more = self.socket.recv(65536)
                if self.transport == "udp":
                    return [more]
                if not more:
                    raise SystemExit("bench: the server has closed a connection")
                data += more
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        if self._frames is None:
            return self._framer.feed(data)
        self._frames.receive_bytes(data)
        return [
            f.payload.encode() if isinstance(f.payload, str) else b""
            for f in self._frames.received_frames()
            if f.opcode is Opcode.TEXT
        ]


class Phones:
    """Registers users in turn over the links."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links
        self.started: dict[int, float] = {}  # by number of the registration
        self.done = 0
        self.waited = 0.0

    def start(self, i: int) -> None:
        """Begin registration ``i``."""
        self.started[i] = time.monotonic()
        self._send(self.links[i % len(self.links)], i, 1, "")

    def _send(self, link: Link, i: int, cseq: int, credentials: str) -> None:
        name = CALLERS[i % len(CALLERS)][0]
        proto = link.transport.upper()
        message = (
            f"REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/{proto} {link.sent_by};branch=z9hG4bK{i}-{cseq};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{name}@{DOMAIN}>;tag=t{i}\r\nTo: <sip:{name}@{DOMAIN}>\r\n"
            f"Call-ID: {i}-bench\r\nCSeq: {cseq} REGISTER\r\nContact: <sip:{name}@{link.sent_by};transport={link.transport}>\r\n"
            f"{credentials}Expires: 3600\r\nUser-Agent: bench\r\nContent-Length: 0\r\n\r\n"
        )
        link.send(message.encode())

    def take(self, link: Link) -> None:
        """Go on with what ``link`` has brought."""
        for message in link.receive():
            at = message.index(b"\r\nCall-ID: ") + 11
            i = int(message[at : message.index(b"-", at)])
            if message.startswith(b"SIP/2.0 401"):
                found = _NONCE.search(message)
                assert found is not None
                self._send(link, i, 2, _credentials(*CALLERS[i % len(CALLERS)], found[1].decode()))
            elif message.startswith(b"SIP/2.0 200"):
                self.waited = max(self.waited, time.monotonic() - self.started.pop(i))
                self.done += 1
            else:
                raise SystemExit(f"bench: {message[:60]!r}")


def _credentials(name: str, password: str, nonce: str) -> str:
    def md5(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    uri = f"sip:{DOMAIN}"
    response = md5(f"{md5(f'{name}:{DOMAIN}:{password}')}:{nonce}:{md5(f'REGISTER:{uri}')}")
    fields = f'username="{name}", realm="{DOMAIN}", nonce="{nonce}", uri="{uri}", response="{response}"'
    return f"Authorization: Digest {fields}, algorithm=MD5\r\n"


def load(phones: Phones, n: int, rate: float) -> None:
    """Start ``n`` registrations, ``rate`` a second, and wait for the last answers."""
    poll = select.epoll()
    by_file = {link.socket.fileno(): link for link in phones.links}
    for file in by_file:
        poll.register(file, select.EPOLLIN)
    began, i = time.monotonic(), 0
    while phones.done < n and time.monotonic() < began + n / rate + GRACE:
        due = min(n, int((time.monotonic() - began) * rate) + 1)
        while i < due:
            phones.start(i)
            i += 1
        for file, _ in poll.poll(0.001):
            phones.take(by_file[file])
    poll.close()


def measure(transport: str, options: argparse.Namespace, database: Path, here: Path) -> tuple[float, int, float]:
    """Return the server's CPU in microseconds a message, how many registrations failed, and the longest, in seconds."""
    copy_database(database, here)
    script, log, config, port = here / "bench.lua", here / "log", here / "polykemi.toml", free_port()
    script.write_text((HERE / "scripts/websocket.lua").read_text() + (HERE / "scripts/bench.lua").read_text())
    base = {"ws": "tcp", "wss": "tls"}.get(transport, transport)
    modules = CONFIG.replace('["kx", ', '["kx", "xhttp", "websocket", ')
    modules += '[modules.xhttp]\nevent_callback = "ksr_xhttp_event"\n[overload]\ndelay = 0\n'
    config.write_text(modules + (tls_table(here) if base == "tls" else ""))
    command = [*pin(0), *POLYKEMI, "serve", "--config", str(config), "--engine", "lua", str(script)]
    command += ["--listen", f"udp:127.0.0.1:{port}", "--domain", DOMAIN, "--data", str(here)]
    if base != "udp":
        command += ["--listen", f"{base}:127.0.0.1:{port}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(options.form), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        wait_until_it_answers(process, port, log)
        phones = Phones([Link(transport, port) for _ in range(options.connections)])
        n = int(options.rate * options.seconds / 2)
        load(phones, n // 4, options.rate / 2)  # to warm up
        phones.done, phones.waited = 0, 0.0
        watch = Watch(process.pid)
        load(phones, n, options.rate / 2)
        watch.end()
        return watch.server_cpu * 1e6 / (2 * n), n - phones.done, phones.waited
    finally:
        end_process(process)


def tls_table(here: Path) -> str:
    """Make a certificate, and return the configuration that names it."""
    key, certificate = here / "key.pem", here / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", f"/CN={DOMAIN}", "-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Measure all transports in turn, round after round, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transports", default=",".join(TRANSPORTS), help="some of them, with commas")
    parser.add_argument("--rate", type=float, default=2000, help="messages a second (default: 2000)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in a round (default: 4)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--form", default="", choices=("", "pure", "compiled"))
    options = parser.parse_args(arguments)
    names = options.transports.split(",")
    for name in names:
        if name not in TRANSPORTS:
            parser.error(f"--transports {name}: expected some of {','.join(TRANSPORTS)}")
    if shutil.which("openssl") is None:
        raise SystemExit("bench: openssl is not installed")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the server is pinned to 0
    figures: dict[str, list[tuple[float, int, float]]] = {name: [] for name in names}
    with directory() as base:
        database = make_database(Path(base))
        for _ in range(options.rounds):
            for name in names:
                with directory() as here:
                    figures[name].append(measure(name, options, database, Path(here)))
    first = figures[names[0]]
    say(f"{'':6}{'us/message':>12}{'/' + names[0]:>8}{'failed':>8}{'waited':>8}")
    for name, rounds in figures.items():
        ratio = statistics.median(one[0] / base[0] for one, base in zip(rounds, first, strict=True))
        cpu, waited = statistics.median(one[0] for one in rounds), max(one[2] for one in rounds)
        say(f"{name:6}{cpu:12.1f}{ratio:8.2f}{sum(one[1] for one in rounds):8}{waited * 1000:8.0f}")


if __name__ == "__main__":
    main()
