"""Questions to other servers: the right answer is taken, silence ends, a closed port is told at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.transport.peers import PeerSockets
from tests.waiting import PATIENCE


@pytest.fixture
def peers() -> Iterator[PeerSockets]:
    made = PeerSockets()
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(PATIENCE)
        yield sock


def answer_once(sock: socket.socket, *answers: bytes) -> threading.Thread:
    def run() -> None:
        _, source = sock.recvfrom(1000)
        for one in answers:
            sock.sendto(one, source)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_answer_that_is_meant_is_taken(peers: PeerSockets, server: socket.socket) -> None:
    address = f"udp:127.0.0.1:{server.getsockname()[1]}"
    thread = answer_once(server, b"1 late", b"2 right", b"2 more")
    assert peers.ask(address, b"2 question", 5, lambda answer: answer.startswith(b"2 ")) == b"2 right"
    thread.join()
    thread = answer_once(server, b"3 next")
    assert peers.ask(address, b"3 question", 5, lambda answer: True) == b"3 next"  # "2 more" was drained
    thread.join()


def test_silence_ends(peers: PeerSockets, server: socket.socket) -> None:
    assert peers.ask(f"udp:127.0.0.1:{server.getsockname()[1]}", b"x", 0.01, lambda answer: True) is None


def test_a_closed_port_is_told_at_once(peers: PeerSockets, server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    with pytest.raises(OSError):
        peers.ask(f"udp:127.0.0.1:{port}", b"x", 60, lambda answer: True)


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:5060", "udp:5060", "unix:/nowhere/at/all"])
def test_what_is_no_address_is_told(peers: PeerSockets, address: str) -> None:
    with pytest.raises(OSError):
        peers.ask(address, b"x", 1, lambda answer: True)


def test_unix_sockets(peers: PeerSockets, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def run() -> None:
            for answer in (b"pong", b""):
                connection, _ = listener.accept()
                assert connection.recv(100) == b"ping"
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        address = f"unix:{tmp_path / 's'}"
        assert peers.ask(address, b"ping", 5, lambda answer: True) == b"pong"
        with pytest.raises(OSError):
            peers.ask(address, b"ping", 5, lambda answer: True)
        thread.join()
