"""The control plane's Unix socket: requests and answers are lines of JSON. Only the server's own user can connect.

The event loop serves it, and everything else has its turn between two requests. What a client can make the server hold is
bounded: connections, the length of a request, requests not yet answered, answers not yet read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from polykemi.control.jsonrpc import INVALID_REQUEST, SERVER_ERROR, Answer, Client, failure
from polykemi.control.paths import address_of, bind, directory_of, unbind
from polykemi.errors import UsageError
from polykemi.kemi.rpc import Later

NAME: Final = "control.sock"  # in the data directory
LONGEST: Final = 65536  # octets of a request
MOST: Final = 32  # connections at a time

Asked = Callable[[bytes, Client], Answer]


class ControlSocket:
    """The socket that a server is asked through, from its start to its end."""

    def __init__(self, path: Path) -> None:
        """Bind ``path`` with mode 0600; a socket that nobody listens on any more is replaced. Raise UsageError."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[_Connection] = set()
        try:
            self._file = bind(self._socket, path)
        except UsageError:
            self._socket.close()
            raise
        self._socket.listen()

    def open(self, loop: asyncio.AbstractEventLoop, answer: Asked) -> None:
        """Begin to answer; called before ``loop`` runs."""
        connection = partial(_Connection, loop, answer, self._connections)
        self._server = loop.run_until_complete(loop.create_unix_server(connection, sock=self._socket))

    def close(self) -> None:
        """Drop all connections and remove the socket; called when the loop runs no more."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        self._socket.close()
        unbind(self.path, self._file)


def connect(path: Path, seconds: float) -> socket.socket:
    """Return a connection to the server whose socket is ``path``; each call on it may take ``seconds``. Raise OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        with directory_of(path) as directory:
            sock.connect(address_of(path, directory))
    except BaseException:
        sock.close()
        raise
    return sock


class _Connection(asyncio.Protocol):
    """One client (``jsonrpc.Client``). Its requests are answered in their order, one in a pass of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Asked, connections: set[_Connection]) -> None:
        self._loop, self._answer, self._connections = loop, answer, connections
        self.closed: list[Callable[[], None]] = []
        self.relieved: list[Callable[[], None]] = []
        self._received = bytearray()
        self._reading = True
        self._ended = False  # the client sends no more
        self._full = False  # the client does not read what it asked for
        self._waiting = False  # for an answer that comes later
        self._next: asyncio.Handle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:  # uvloop's transports are not derived from asyncio's
        """Take a client."""
        self._transport = transport
        if len(self._connections) < MOST:
            self._connections.add(self)
        else:
            self._refuse(SERVER_ERROR, f"expected at most {MOST} connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._connections.discard(self)
        if self._next is not None:
            self._next.cancel()
        for tell in self.closed:
            tell()

    def data_received(self, data: bytes) -> None:
        """Take octets, and no more of them while there is a request's length."""
        self._received += data
        if len(self._received) > LONGEST:
            self._reading = False
            self._transport.pause_reading()
        self._go_on()

    def eof_received(self) -> bool:
        """Answer what is there, then close: a last request may come without a newline."""
        self._ended = True
        self._go_on()
        return True

    def pause_writing(self) -> None:
        """Answer no more until the client has read."""
        self._full = True

    def resume_writing(self) -> None:
        """Go on."""
        self._full = False
        for tell in self.relieved:
            tell()
        self._go_on()

    def push(self, line: bytes) -> bool:
        """Send a line that is no answer; tell whether there was room for it."""
        if self._full or self._transport.is_closing():
            return False
        self._transport.write(line + b"\n")  # may call pause_writing
        return True

    def abort(self) -> None:
        """Drop the client."""
        self._transport.abort()

    def _go_on(self) -> None:
        if self._next is None and not self._full and not self._waiting and not self._transport.is_closing():
            self._step()

    def _step(self) -> None:
        """Answer one request; the next one has to wait for the loop's next pass."""
        self._next = None
        end = self._received.find(b"\n")
        if end > LONGEST or (end < 0 and len(self._received) > LONGEST):
            self._refuse(INVALID_REQUEST, f"expected a request of at most {LONGEST} octets")
            return
        if end < 0 and not (self._ended and self._received):
            self._wait()
            return
        request = bytes(self._received[: end if end >= 0 else None])
        del self._received[: len(request) + 1]
        answer = self._answer(request, self) if request.strip() else None
        if isinstance(answer, Later):
            self._waiting = True
            answer.then(self._send)
        else:
            self._send(answer)

    def _send(self, answer: bytes | None) -> None:
        self._waiting = False
        if self._transport.is_closing():
            return
        if answer is not None:
            self._transport.write(answer + b"\n")  # may call pause_writing
        if not self._full:
            self._next = self._loop.call_soon(self._step)

    def _wait(self) -> None:
        """All is answered."""
        if self._ended:
            self._transport.close()
        elif not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _refuse(self, code: int, cause: str) -> None:
        self._transport.write(failure(code, cause) + b"\n")
        self._transport.close()
