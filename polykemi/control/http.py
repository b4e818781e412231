"""The least of HTTP/1.1 (RFC 9112): GET requests, each on a connection of its own, served by the event loop.

What a client can make the server hold is bounded: connections, the length of a request, the time that it takes.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from polykemi.errors import UsageError

LONGEST: Final = 8192  # octets of a request's head
MOST: Final = 16  # connections at a time
SECONDS: Final = 10.0  # that a connection may last

_REQUEST: Final = re.compile(rb"([!-~]{1,32}) (/[!-~]*) HTTP/1\.[01]\r?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")

# path -> its content type and what makes the content
Pages = dict[str, tuple[str, Callable[[], bytes]]]


class HttpServer:
    """A listening TCP socket, and the pages that it serves."""

    def __init__(self, host: str, port: int) -> None:
        """Bind. Raise UsageError."""
        family, shown = (socket.AF_INET6, f"[{host}]") if ":" in host else (socket.AF_INET, host)
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise UsageError(f"cannot listen on tcp:{shown}:{port}: {error.strerror}") from None
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[_Connection] = set()

    def open(self, loop: asyncio.AbstractEventLoop, pages: Pages) -> None:
        """Begin to serve ``pages``; called before ``loop`` runs."""
        connection = partial(_Connection, loop, pages, self._connections)
        self._server = loop.run_until_complete(loop.create_server(connection, sock=self._socket))

    def close(self) -> None:
        """Drop all connections; called when the loop runs no more."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        self._socket.close()


class _Connection(asyncio.Protocol):
    """One request and its response."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pages: Pages, connections: set[_Connection]) -> None:
        self._pages, self._connections = pages, connections
        self._received = b""
        self._limit = loop.call_later(SECONDS, self.abort)
        self._transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:  # uvloop's transports are not derived from asyncio's
        """Take a client."""
        self._transport = transport
        self._connections.add(self)
        if len(self._connections) > MOST:
            self._respond(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._limit.cancel()
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take octets until the head of the request is there."""
        if self._transport.is_closing():
            return
        self._received += data
        if _HEAD_END.search(self._received):
            self._request()
        elif len(self._received) > LONGEST:
            self._respond(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def abort(self) -> None:
        """Drop the client."""
        self._transport.abort()

    def _request(self) -> None:
        line = _REQUEST.match(self._received)
        page = self._pages.get(line[2].partition(b"?")[0].decode()) if line else None
        if line is None:
            self._respond(HTTPStatus.BAD_REQUEST)
        elif page is None:
            self._respond(HTTPStatus.NOT_FOUND)
        elif line[1] != b"GET":
            self._respond(HTTPStatus.METHOD_NOT_ALLOWED, headers=["Allow: GET"])
        else:
            kind, content = page
            self._respond(HTTPStatus.OK, content(), kind)

    def _respond(
        self, status: HTTPStatus, body: bytes | None = None, kind: str = "text/plain", headers: list[str] | None = None
    ) -> None:
        """Send the response and close; the connection goes when the client has taken it, or when its time is over."""
        body = f"{status.phrase}\n".encode() if body is None else body
        lines = [f"HTTP/1.1 {status} {status.phrase}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, "Connection: close", *(headers or []), "", ""])
        self._transport.write(head.encode() + body)
        self._transport.close()
