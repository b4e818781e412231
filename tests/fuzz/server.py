"""Changed messages against a running server, a process of its own, over UDP, TCP and WebSocket.

It has to stay alive, to answer an OPTIONS in between, to keep its memory, and to log no exception. All sockets are on the loopback
interface, and the server's script sends nothing elsewhere: requests go to a next hop that answers with changed responses.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Self

from bench.ports import free_port
from tests.fuzz import seeds
from tests.fuzz.mutator import Mutator
from tests.waiting import PATIENCE, cpu_time

ROOT: Final = Path(__file__).parents[2]
HOST: Final = "127.0.16.1"  # of the server; what sends is 127.0.16.2, what asks whether it is alive 127.0.16.3
SCRIPT: Final = Path(__file__).parent / "route.lua"
CONFIG: Final = """
domains = ["fuzz.test"]
[overload] # a busy machine is not what is tested
delay = 0
[modules.tm]
fr_timer = 1000
fr_inv_timer = 2000
max_inv_lifetime = 3000
[modules.xhttp]
event_callback = "ksr_xhttp_event"
[modules.registrar]
max_expires = 30
[modules.htable]
htable = ["t=>size=4;autoexpire=10;"]
"""
PROBE: Final = (
    "OPTIONS sip:fuzz.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.16.3:9;branch=z9hG4bKprobe{n};rport\r\nFrom: <sip:p@fuzz.test>;tag=1\r\n"
    "To: <sip:fuzz.test>\r\nCall-ID: probe{n}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
SIGNS: Final = ("Traceback", "internal error", "script error", "Segmentation")  # of what must not be in the log
PROBE_EVERY: Final = 100  # messages
PROVISIONAL: Final = (b"180 Ringing", b"100 Trying", b"183 Progress")
FINAL: Final = (b"486 Busy", b"404 Not Found", b"503 No", b"302 Moved")
STATUSES: Final = (*FINAL, PROVISIONAL[0], *FINAL, PROVISIONAL[1], *FINAL, PROVISIONAL[2], b"200 OK")
STATUS_LINE: Final = re.compile(rb"SIP/2\.0 (\d{3}) ")
LONGEST: Final = 3.0  # seconds of CPU time that an answer may take, with all that is before it in the queue
MOST_GROWTH: Final = 24 << 20  # octets of memory after the first half of the run


class Failure(AssertionError):
    """What went wrong, with the messages before it."""


@dataclass(slots=True)
class Run:
    """What was done and seen."""

    sent: Counter[str] = field(default_factory=Counter)  # by transport
    received: Counter[str] = field(default_factory=Counter)  # by status or method
    probes: int = 0
    slowest: float = 0.0  # seconds until a probe was answered
    memory: list[int] = field(default_factory=list)  # octets, at each probe

    def __str__(self) -> str:
        sent = ", ".join(f"{n} over {transport}" for transport, n in sorted(self.sent.items()))
        answers = ", ".join(f"{n} {what}" for what, n in self.received.most_common(12))
        half, last = self.memory[len(self.memory) // 2] >> 10, self.memory[-1] >> 10
        return (
            f"{sum(self.sent.values())} messages ({sent}); came back: {answers}; {self.probes} probes answered, the slowest in "
            f"{1000 * self.slowest:.0f} ms; memory {self.memory[0] >> 10} KiB at first, {half} half way, {last} at the end"
        )


def frame(data: bytes) -> bytes:
    """Return a binary frame of a client, masked with zeros: the same every time (RFC 6455 section 5.2)."""
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xff" + size.to_bytes(8, "big")
    return b"\x82" + length + bytes(4) + data


class Target:
    """The server, and all that talks to it. ``data`` is a directory for what it keeps and logs."""

    def __init__(self, data: Path, seed: int = 0) -> None:
        self.data, self.port = data, free_port()
        self.random, self._hop_random = Random(seed), Random(seed)  # what is sent does not depend on when answers come
        self._mutator, self._hop_mutator = Mutator(self.random), Mutator(self._hop_random)
        self._statuses = itertools.cycle(STATUSES)
        self._last: deque[tuple[str, bytes]] = deque(maxlen=300)
        self._checked = 0  # octets of the log
        self._phone = self._socket("127.0.16.2")
        self._asker = self._socket("127.0.16.3")
        self._asker.settimeout(1)
        self._hop = self._socket("127.0.16.4")
        self._streams: dict[str, socket.socket] = {}
        self.run = Run()

    def _socket(self, host: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        sock.setblocking(False)
        return sock

    def __enter__(self) -> Self:
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "route.lua").write_text(
            SCRIPT.read_text().replace("NEXT_HOP", f"127.0.16.4:{self._hop.getsockname()[1]}")
        )
        (self.data / "polykemi.toml").write_text(CONFIG)
        command = [
            sys.executable,
            "-m",
            "polykemi",
            "serve",
            "--config",
            str(self.data / "polykemi.toml"),
            "--engine",
            "lua",
        ]
        command += [str(self.data / "route.lua"), "--data", str(self.data)]
        for proto in ("udp", "tcp"):
            command += ["--listen", f"{proto}:{HOST}:{self.port}"]
        with (self.data / "server.log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        if not any(line == "ready\n" for line in self.process.stdout):
            raise Failure(f"the server does not start: {self.log()}")
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._phone, self._asker, self._hop, *self._streams.values()):
            sock.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # both: it shall not wait for open transactions
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def log(self) -> str:
        """Return what the server has logged."""
        return (self.data / "server.log").read_text(errors="replace")

    # ---- one message
    def fuzz(self) -> None:
        """Send one changed message, and let the next hop answer what has come to it."""
        transport = self.random.choice(("UDP", "UDP", "TCP", "WS"))
        number = self.random.randrange(4200)
        port = self._phone.getsockname()[1]
        data = seeds.response(number) if number % 17 == 0 else seeds.request(number, transport=transport, port=port)
        data = self._mutator.change(data)
        self._last.append((transport, data))
        self.run.sent[transport] += 1
        if transport == "UDP":
            self._phone.sendto(data, (HOST, self.port))
        else:
            self._send_over(transport, data)
        self._hear()

    def _send_over(self, transport: str, data: bytes) -> None:
        """Send over a connection, sometimes in two parts, and close it at times.

        All is drawn before the first of it can fail: when the server closes a connection does not change what comes next.
        """
        if transport == "WS":
            data = frame(data)
            if self.random.random() < 0.1:
                data = self._mutator.value(data)
        at = self.random.randrange(len(data) + 1) if self.random.random() < 0.2 else 0
        is_last = self.random.random() < 0.02
        try:
            sock = self._streams.get(transport) or self._connect(transport)
            sock.sendall(data[:at])
            sock.sendall(data[at:])
        except (ConnectionError, TimeoutError):
            is_last = True
        if is_last:
            self._forget(transport)

    def _connect(self, transport: str) -> socket.socket:
        sock = socket.create_connection((HOST, self.port), PATIENCE, source_address=("127.0.16.2", 0))
        self._streams[transport] = sock
        if transport == "WS":
            sock.sendall(seeds.HTTP[0])
            if not sock.recv(4096).startswith(b"HTTP/1.1 101 "):
                raise Failure("no WebSocket")
        return sock

    def _forget(self, transport: str) -> None:
        sock = self._streams.pop(transport, None)
        if sock is not None:
            sock.close()

    def _hear(self) -> None:
        """Take what the server has sent; answer its requests with changed responses."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._count(self._phone.recv(65536))
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = self._hop.recvfrom(65536)
                self._count(data)
                if source[0] == HOST and self._hop_random.random() < 0.8 and not data.startswith((b"SIP/", b"ACK ")):
                    answer = self._answer(data)
                    self._last.append(("next hop", answer))
                    self._hop.sendto(answer, source)
        for transport, sock in list(self._streams.items()):
            with contextlib.suppress(BlockingIOError, TimeoutError):
                sock.setblocking(False)
                try:
                    data = sock.recv(1 << 18)
                except ConnectionError:
                    data = b""
                sock.settimeout(PATIENCE)
                self.run.received.update(status.decode() for status in STATUS_LINE.findall(data))
                if not data:
                    self._forget(transport)
            sock.settimeout(PATIENCE) if transport in self._streams else None

    def _answer(self, request: bytes) -> bytes:
        head = request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        kept = [
            line for line in head if line[:4].lower() in (b"via:", b"from", b"to: ", b"call", b"cseq", b"reco", b"v: s")
        ]
        lines = [b"SIP/2.0 " + next(self._statuses), *kept, b"Contact: <sip:bob@127.0.16.4>", b"Content-Length: 0"]
        answer = b"\r\n".join(lines) + b"\r\n\r\n"
        return self._hop_mutator.change(answer) if self._hop_random.random() < 0.6 else answer

    def _count(self, data: bytes) -> None:
        line = data.partition(b"\r\n")[0].decode("latin-1")
        self.run.received[line[8:11] if line.startswith("SIP/2.0 ") else "request"] += 1

    # ---- is it well?
    def probe(self) -> None:
        """Raise Failure unless the server is alive, answers, and has logged nothing bad."""
        if self.process.poll() is not None:
            raise self.failure(f"the server has ended with {self.process.returncode}")
        self.run.probes += 1
        wanted, began, used = f"probe{self.run.probes}\r\n", time.monotonic(), cpu_time(self.process.pid)
        reply = b""
        while f"Call-ID: {wanted}".encode() not in reply:
            self._asker.sendto(PROBE.format(n=self.run.probes).encode(), (HOST, self.port))  # again: it may get lost
            try:
                reply = self._asker.recv(65536)
            except TimeoutError:  # a busy machine may be the cause: what counts is what the server itself has needed
                used_since, waited = cpu_time(self.process.pid) - used, time.monotonic() - began
                if used_since > LONGEST or waited > PATIENCE:
                    raise self.failure(f"no answer within {waited:.0f} s, {used_since:.1f} s of CPU time") from None
        if not reply.startswith(b"SIP/2.0 200 "):
            raise self.failure(f"the OPTIONS was answered with {reply!r}")
        self.run.slowest = max(self.run.slowest, time.monotonic() - began)
        self.run.memory.append(self._memory())
        with (self.data / "server.log").open("rb") as log:
            log.seek(self._checked)
            lines = log.read()
        self._checked += len(lines)
        for sign in SIGNS:
            if sign.encode() in lines:
                at = lines.index(sign.encode())
                raise self.failure(f"in the log: {lines[max(0, at - 200) : at + 3000].decode(errors='replace')}")

    def _memory(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) << 10

    def failure(self, what: str) -> Failure:
        """Return what went wrong; the last messages go to a file."""
        path = self.data / "last-messages.txt"
        path.write_text("".join(f"{transport} {data!r}\n" for transport, data in self._last))
        return Failure(f"{what}\nafter {self.run}\nthe last messages are in {path}" if self.run.memory else what)


def fuzz(data: Path, *, seed: int, messages: int = 0, seconds: float = 0.0) -> Run:
    """Fuzz a server with ``messages``, or for ``seconds``. Raise Failure."""
    until = time.monotonic() + seconds
    with Target(data, seed) as target:
        target.probe()
        done = 0
        while done < messages or time.monotonic() < until:
            target.fuzz()
            done += 1
            if done % PROBE_EVERY == 0:
                target.probe()
        target.probe()
        memory = target.run.memory
        if memory[-1] - memory[len(memory) // 2] > MOST_GROWTH:
            raise target.failure("the memory has grown")
        return target.run
