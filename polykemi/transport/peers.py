"""Asks other servers from inside of a route block, and waits for their answers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import Final

_LARGEST: Final = 0x40000  # octets of an answer


class PeerSockets:
    """One connected socket for each peer over UDP, kept; one connection a question for peers on unix sockets.

    Connected, a socket hears at once from the network that nobody listens there, and takes answers of this peer only.
    """

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def ask(self, address: str, data: bytes, seconds: float, accept: Callable[[bytes], bool]) -> bytes | None:
        """Send ``data`` and return the first answer that ``accept`` takes, None when there is none. Raise OSError."""
        kind, _, rest = address.partition(":")
        if kind == "unix":
            return _ask_unix(rest, data, seconds, accept)
        sock = self._sockets.get(address)
        if sock is None:
            sock = self._sockets[address] = _connect(kind, rest)
        try:
            _drain(sock)
            sock.send(data)
            until = monotonic() + seconds
            while (left := until - monotonic()) > 0:
                sock.settimeout(left)
                answer = sock.recv(_LARGEST)
                if accept(answer):
                    return answer
        except TimeoutError:
            pass
        except OSError:
            self._sockets.pop(address).close()
            raise
        return None

    def close(self) -> None:
        """Close all sockets."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _connect(kind: str, rest: str) -> socket.socket:
    """Return a socket for ``host:port``; a name is resolved here, once."""
    family = {"udp": socket.AF_INET, "udp6": socket.AF_INET6}.get(kind)
    host, _, port = rest.rpartition(":")
    if family is None or not host:
        raise OSError(f"expected udp:host:port, udp6:host:port or unix:path, got {kind}:{rest}")
    where = socket.getaddrinfo(host.strip("[]"), port, family, socket.SOCK_DGRAM)[0][4]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    return sock


def _drain(sock: socket.socket) -> None:
    """Take away what came too late for the question before, errors too."""
    sock.settimeout(0)
    while True:
        try:
            sock.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            continue


def _ask_unix(path: str, data: bytes, seconds: float, accept: Callable[[bytes], bool]) -> bytes | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        try:
            sock.connect(path)
            sock.sendall(data)
            answer = sock.recv(_LARGEST)
        except TimeoutError:
            return None
    if not answer:
        raise OSError("closed without an answer")
    return answer if accept(answer) else None
