"""The datagram socket: what Kamailio's tools send is answered to the path that they have bound."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from polykemi.control.datagram import LONGEST, DatagramSocket
from polykemi.errors import UsageError
from polykemi.kemi.rpc import Later


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    make: Callable[[], asyncio.AbstractEventLoop] = request.param
    one = make()
    yield one
    one.close()


@pytest.fixture
def server(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[DatagramSocket]:
    one = DatagramSocket(tmp_path / "rpc.sock")
    yield one
    one.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "client"))
        sock.setblocking(False)
        yield sock


def turn(loop: asyncio.AbstractEventLoop, until: Callable[[], bool]) -> None:
    """Run the loop until something is so."""

    end = time.monotonic() + 5
    while not until():
        assert time.monotonic() < end
        loop.run_until_complete(asyncio.sleep(0))


def test_each_datagram_is_a_request(
    loop: asyncio.AbstractEventLoop, server: DatagramSocket, client: socket.socket
) -> None:
    seen: list[bytes] = []

    def answer(data: bytes) -> bytes | None:
        seen.append(data)
        return b"<" + data + b">" if data != b"silent" else None

    server.open(loop, answer)
    for data in (b"one", b"silent", b"two"):
        client.sendto(data, str(server.path))
    turn(loop, lambda: len(seen) == 3)
    assert [client.recv(100), client.recv(100)] == [b"<one>", b"<two>"]
    with pytest.raises(BlockingIOError):
        client.recv(100)


def test_an_answer_may_come_later(
    loop: asyncio.AbstractEventLoop, server: DatagramSocket, client: socket.socket
) -> None:
    waiting: list[Later] = []

    def answer(data: bytes) -> bytes | Later:
        if data != b"later":
            return data
        waiting.append(Later())
        return waiting[-1]

    server.open(loop, answer)
    client.sendto(b"later", str(server.path))
    turn(loop, lambda: bool(waiting))
    client.sendto(b"now", str(server.path))
    answers: list[bytes] = []

    def received() -> bool:
        try:
            answers.append(client.recv(100))
        except BlockingIOError:
            return False
        return True

    turn(loop, received)
    waiting[0].settle(b"at last")
    turn(loop, received)
    assert answers == [b"now", b"at last"]


def test_who_cannot_take_an_answer_harms_nobody(
    loop: asyncio.AbstractEventLoop, server: DatagramSocket, client: socket.socket, tmp_path: Path
) -> None:
    seen: list[bytes] = []

    def answer(data: bytes) -> bytes:
        seen.append(data)
        return data

    server.open(loop, answer)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"nameless", str(server.path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(tmp_path / "gone"))
        gone.sendto(b"gone", str(server.path))
    (tmp_path / "gone").unlink()
    turn(loop, lambda: len(seen) == 2)
    for n in range(300):  # nobody reads: the kernel takes no more at some time
        client.sendto(b"%d" % n, str(server.path))
        turn(loop, lambda: len(seen) == 3 + n)  # noqa: B023  # is called at once
    assert client.recv(100) == b"0"


def test_what_is_too_long_is_said(
    loop: asyncio.AbstractEventLoop, server: DatagramSocket, client: socket.socket
) -> None:
    asked: list[bytes] = []

    def answer(data: bytes) -> bytes:
        asked.append(data)
        return b"x" * 50_000_000

    server.open(loop, answer)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    answers: list[dict[str, dict[str, str]]] = []

    def received() -> bool:
        try:
            answers.append(json.loads(client.recv(10_000)))
        except BlockingIOError:
            return False
        return True

    client.sendto(b"x" * (LONGEST + 1), str(server.path))
    turn(loop, received)
    assert not asked
    client.sendto(b"much", str(server.path))
    turn(loop, received)
    assert [answer["error"]["message"] for answer in answers] == [
        f"expected a request of at most {LONGEST} octets",
        "an answer of 50000000 octets fits no datagram: ask with polykemi rpc, or over HTTP",
    ]


def test_the_socket_is_the_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60) / "s"  # more than an address holds
    path.parent.mkdir()
    server = DatagramSocket(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="a server that runs already listens there"):
        DatagramSocket(path)
    server.close()
    assert not path.exists()


def test_what_a_killed_server_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as killed:
        killed.bind(str(path))
    DatagramSocket(path).close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(str(path))
        stream.listen()
        with pytest.raises(UsageError, match="a server that runs already listens there"):
            DatagramSocket(path)
    path.unlink()
    path.write_text("precious")
    with pytest.raises(UsageError, match="there is a file that is no socket"):
        DatagramSocket(path)
    assert path.read_text() == "precious"
