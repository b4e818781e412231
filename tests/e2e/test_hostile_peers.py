"""Peers that mean no good, over TCP and WebSocket: the server goes on for all others, bounded in memory, with few words."""

from __future__ import annotations

import random
import re
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from wsproto.frame_protocol import FrameProtocol

from tests.e2e.conftest import ServerProcess
from tests.e2e.stream_phone import HANDSHAKE
from tests.waiting import PATIENCE, cpu_time

SCRIPT = """
function ksr_request_route() KSR.sl.sl_send_reply(200, "OK") end
function ksr_xhttp_event(event) KSR.websocket.handle_handshake() end
"""
CONFIG = """
[tcp]
max_connections = 300
accept_iplimit = 200
connection_lifetime = 1.0
msg_read_timeout = 0.8
[modules.xhttp]
event_callback = "ksr_xhttp_event"
"""
OPTIONS = (
    b"OPTIONS sip:e2e.test SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bKa\r\nFrom: <sip:a@b>;tag=1\r\n"
    b"To: <sip:b@b>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
RANDOM = random.Random(1)
RESET = struct.pack("ii", 1, 0)
MOST_MEMORY = 40  # MiB that an attack may add


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("hostile")
    (data / "route.lua").write_text(SCRIPT)
    (data / "polykemi.toml").write_text(CONFIG)
    process = ServerProcess(data, ["--config", str(data / "polykemi.toml"), "--engine", "lua", str(data / "route.lua")])
    began = time.monotonic()
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log()
    assert "internal error" not in process.log()
    spells = (
        time.monotonic() - began
    ) / 10 + 2  # of ten seconds; in each 20 lines at most, and one about those refused
    assert len(process.log()) < spells * 20_000
    assert process.log().count("refused ") < spells


def connect(server: ServerProcess, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE, source_address=(source, 0))


def memory(server: ServerProcess) -> int:
    """Return the MiB that the server has."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) // 1024


def answers(server: ServerProcess, source: str = "127.0.0.2") -> float:
    """Return how many seconds of CPU time the server needs until somebody else is answered."""
    used = cpu_time(server.process.pid)
    with closing(connect(server, source)) as sock:
        sock.sendall(OPTIONS)
        assert sock.recv(4096).startswith(b"SIP/2.0 200 OK\r\n")
    return cpu_time(server.process.pid) - used


def attack(server: ServerProcess, data: bytes, seconds: float = 0.5, *, before: bytes = b"") -> bool:
    """Send ``data`` again and again and read nothing; tell whether the server has closed the connection."""
    before_memory, until = memory(server), time.monotonic() + seconds
    with closing(connect(server)) as sock:
        if before:
            sock.sendall(before)
            assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        sock.settimeout(0.1)
        slowest = 0.0
        try:
            while time.monotonic() < until:
                with suppress(TimeoutError):
                    sock.send(data)
                slowest = max(slowest, answers(server))
        except (ConnectionError, BrokenPipeError):
            return True
        finally:
            assert slowest < 1
            assert memory(server) - before_memory < MOST_MEMORY
    return False


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + RANDOM.randbytes(500)  # TLS
NO_LENGTH = OPTIONS.replace(b"Content-Length: 0\r\n", b"")
LONG = OPTIONS.replace(b"Length: 0", b"Length: 99999999")


@pytest.mark.parametrize(
    "data",
    [RANDOM.randbytes(70_000), b"a" * 70_000, OPTIONS[:-4] + b"\r\nX: y" * 20_000, NO_LENGTH, LONG, HELLO * 140],
    ids=["random", "no-line", "headers", "no-length", "long-body", "tls"],
)
def test_what_cannot_be_followed_closes_the_connection(server: ServerProcess, data: bytes) -> None:
    with closing(connect(server)) as sock, suppress(ConnectionError):  # it may be closed before all is sent
        sock.sendall(data.replace(b"\r\n\r\n", b"\r\n.\r\n") if data[:7] != b"OPTIONS" else data)
        while sock.recv(4096):
            pass
    assert answers(server) < 1


def test_half_a_message_and_slow_ones_end_with_the_lifetime(server: ServerProcess) -> None:
    with ExitStack() as stack:
        halves = [stack.enter_context(closing(connect(server))) for _ in range(20)]
        for sock in halves:
            sock.sendall(OPTIONS[:100])
        slow = stack.enter_context(closing(connect(server)))
        with suppress(ConnectionError):
            for octet in OPTIONS * 9:  # would take 20 s
                slow.sendall(bytes([octet]))
                time.sleep(0.008)
            pytest.fail("a slow one is kept")
        for sock in halves:
            with suppress(ConnectionError):
                assert sock.recv(1) == b""
    assert answers(server) < 1


WEBSOCKET = HANDSHAKE.format(domain="e2e.test").encode()
POST = b"POST / HTTP/1.1\r\nHost: e2e.test\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("before", "octets"),
    [
        (b"", OPTIONS),
        (OPTIONS.replace(b"Length: 0", b"Length: 500"), b"x" * 500),
        (POST, b"1\r\nx\r\n" * 100),
        (WEBSOCKET, b"\x82\xfe\x01\xf4abcd" + b"x" * 500),
        (WEBSOCKET, b"\x02\x81abcdx" + b"\x89\x81abcdx" * 100),  # Pings between two fragments
    ],
    ids=["header", "body", "chunks", "frame", "pings"],
)
def test_octets_that_trickle_in_do_not_keep_a_connection(server: ServerProcess, before: bytes, octets: bytes) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(connect(server, "127.0.17.1"))) for _ in range(50)]
        for sock in slow:
            sock.sendall(before)
            sock.settimeout(0.0)
        until, at = time.monotonic() + PATIENCE, 0
        while slow:
            assert time.monotonic() < until
            for sock in list(slow):
                try:
                    sock.send(octets[at : at + 1])
                    while sock.recv(4096):
                        pass
                    slow.remove(sock)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    slow.remove(sock)
            at = min(at + 1, len(octets) - 2)
            assert answers(server) < 1
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("data", "is_closed"),
    [(b"\r\n\r\n" * 60_000, None), (OPTIONS * 500, None), (b"\r\n" * 7 + b"x" * 70_000, True)],
    ids=["pings", "requests", "garbage"],
)
def test_who_sends_all_the_time_does_not_hold_up_others(
    server: ServerProcess, data: bytes, is_closed: bool | None
) -> None:
    closed = attack(server, data, PATIENCE if is_closed else 0.5)
    assert is_closed is None or closed is is_closed


def masked(make: Callable[[FrameProtocol], bytes | bytearray]) -> bytes:
    return bytes(make(FrameProtocol(True, [])))


@pytest.mark.parametrize(
    ("data", "is_closed"),
    [
        (masked(lambda frames: frames.ping(b"")) * 20_000, None),
        (masked(lambda frames: frames.send_data("hello", fin=True)) * 2_000, None),
        (masked(lambda frames: frames.send_data(b"", fin=False)) + b"\x00\x80abcd" * 20_000, True),
        (masked(lambda frames: frames.send_data(b"", fin=False)) + b"\x00\x81abcdx" * 20_000, True),
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffabcd" + b"x" * 60_000, True),
        (RANDOM.randbytes(60_000), True),
    ],
    ids=["pings", "rubbish", "fragments", "octets", "endless", "random"],
)
def test_frames_without_end_do_not_hold_up_others(server: ServerProcess, data: bytes, is_closed: bool | None) -> None:
    closed = attack(server, data, PATIENCE if is_closed else 0.5, before=WEBSOCKET)
    assert is_closed is None or closed is is_closed


def test_twenty_thousand_half_open_connections(server: ServerProcess) -> None:
    before, files = memory(server), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    kept: list[socket.socket] = []
    try:
        for n in range(20_000):
            sock = connect(server, f"127.0.17.{n % 8 + 1}")
            if n % 2:
                sock.send(OPTIONS[: n % len(OPTIONS)])
            kept.append(sock)
            if len(kept) > files[1] - 200:  # those that wait longest are closed already
                kept.pop(0).close()
            if n % 1000 == 0:
                assert answers(server, "127.0.0.9") < 1
                assert memory(server) - before < MOST_MEMORY
    finally:
        for sock in kept:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
    assert answers(server, "127.0.0.9") < 1
    assert memory(server) - before < MOST_MEMORY


def test_a_message_in_frames_of_one_octet_is_a_message(server: ServerProcess) -> None:
    data = OPTIONS.replace(b"TCP", b"WS")
    with closing(connect(server)) as sock:
        sock.sendall(HANDSHAKE.format(domain="e2e.test").encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        frames = FrameProtocol(True, [])
        octets = [data[i : i + 1].decode() for i in range(len(data))]
        for i, octet in enumerate(octets):
            sock.send(frames.send_data(octet, fin=i == len(octets) - 1))
            if i % 50 == 0:
                sock.send(frames.ping(b"x"))  # in between
        received = b""
        while b"SIP/2.0 200 OK" not in received:
            more = sock.recv(4096)
            assert more
            received += more


def test_thousands_of_connections(server: ServerProcess) -> None:
    before = memory(server)
    for _ in range(1500):  # gone before they are taken
        sock = connect(server)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
    assert answers(server) < 1
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(closing(connect(server, "127.0.0.3")))
        assert answers(server) < 1  # one address has used up what it may have, others have not
        with closing(connect(server, "127.0.0.3")) as refused, suppress(ConnectionError):
            assert refused.recv(1) == b""
        for _ in range(300):
            stack.enter_context(closing(connect(server, "127.0.0.4")))
        assert answers(server, "127.0.0.5") < 1  # those that say nothing make room
    assert answers(server) < 1
    assert memory(server) - before < MOST_MEMORY
    assert "refused " in server.log()
