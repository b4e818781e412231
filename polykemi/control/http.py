"""The least of HTTP/1.1 (RFC 9112): GET and POST requests, each on a connection of its own, served by the event loop.

What a client can make the server hold is bounded: connections, the length of a request, the time that it takes.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from polykemi.errors import UsageError
from polykemi.kemi.rpc import Later

LONGEST: Final = 8192  # octets of a request's head
LONGEST_BODY: Final = 65536
MOST: Final = 16  # connections at a time
SECONDS: Final = 10.0  # that a connection may last

_REQUEST: Final = re.compile(rb"([!-~]{1,32}) (/[!-~]*) HTTP/1\.[01]\r?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_HEADER: Final = re.compile(rb"^([!#-'*+.0-9A-Z^-z|~-]+):([^\r\n]*)", re.ASCII | re.MULTILINE)
_JSON: Final = "application/json"

# path -> its content type and what makes the content
Pages = Mapping[str, tuple[str, Callable[[], bytes]]]
Response = tuple[HTTPStatus, bytes | None]  # and its content, which is JSON
# path -> what is given the headers (names in lower case) and the body, and makes the response
Post = Callable[[Mapping[str, str], bytes], Response | Later]
Posts = Mapping[str, Post]


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

    def open(self, loop: asyncio.AbstractEventLoop, pages: Pages, posts: Posts = {}) -> None:  # noqa: B006  # is read
        """Begin to serve ``pages`` and ``posts``; called before ``loop`` runs."""
        connection = partial(_Connection, loop, pages, posts, self._connections)
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

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pages: Pages, posts: Posts, connections: set[_Connection]
    ) -> None:
        self._loop, self._pages, self._posts, self._connections = loop, pages, posts, connections
        self._received = b""
        self._head = 0  # octets, when all of it is there
        self._body = 0  # octets that come behind it
        self._headers: dict[str, str] = {}
        self._post: Post | None = None  # what takes the body
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
        """Take octets until the request is there."""
        if self._transport.is_closing() or (self._head and self._post is None):
            return  # what comes behind a request is nothing, also while its answer is waited for
        self._received += data
        if self._head:
            self._answer_post()
        elif end := _HEAD_END.search(self._received):
            self._head = end.end()
            self._request()
        elif len(self._received) > LONGEST:
            self._respond(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def abort(self) -> None:
        """Drop the client."""
        self._transport.abort()

    def _request(self) -> None:
        line = _REQUEST.match(self._received)
        path = line[2].partition(b"?")[0].decode() if line else ""
        page, post = self._pages.get(path), self._posts.get(path)
        if line is None:
            self._respond(HTTPStatus.BAD_REQUEST)
        elif page is None and post is None:
            self._respond(HTTPStatus.NOT_FOUND)
        elif line[1] == b"GET" and page is not None:
            kind, content = page
            self._respond(HTTPStatus.OK, content(), kind)
        elif line[1] == b"POST" and post is not None:
            self._post = post
            self._read_headers(line.end())
        else:
            allowed = ["GET"] * (page is not None) + ["POST"] * (post is not None)
            self._respond(HTTPStatus.METHOD_NOT_ALLOWED, headers=[f"Allow: {', '.join(allowed)}"])

    def _read_headers(self, start: int) -> None:
        """Read the headers of a POST, which begin at ``start``, and wait for its body."""
        for name, value in _HEADER.findall(self._received[: self._head], start):
            self._headers.setdefault(name.decode().lower(), value.strip(b" \t").decode("latin-1"))
        length = self._headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()) or "transfer-encoding" in self._headers:
            self._respond(HTTPStatus.LENGTH_REQUIRED)
        elif len(length) > 9 or int(length) > LONGEST_BODY:
            self._respond(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._body = int(length)
            if self._headers.get("expect", "").lower() == "100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._answer_post()

    def _answer_post(self) -> None:
        body = self._received[self._head : self._head + self._body]
        if self._post is not None and len(body) == self._body:
            post, self._post = self._post, None
            response = post(self._headers, body)
            if isinstance(response, Later):
                self._limit.cancel()
                response.then(self._respond_later)
            else:
                self._respond_post(response)

    def _respond_later(self, response: Response) -> None:
        if not self._transport.is_closing():
            self._limit = self._loop.call_later(SECONDS, self.abort)
            self._respond_post(response)

    def _respond_post(self, response: Response) -> None:
        status, content = response
        challenge = ["WWW-Authenticate: Bearer"] if status == HTTPStatus.UNAUTHORIZED else None
        self._respond(status, content, _JSON if content is not None else "text/plain", challenge)

    def _respond(
        self, status: HTTPStatus, body: bytes | None = None, kind: str = "text/plain", headers: list[str] | None = None
    ) -> None:
        """Send the response and close; the connection goes when the client has taken it, or when its time is over."""
        body = (b"" if status == HTTPStatus.NO_CONTENT else f"{status.phrase}\n".encode()) if body is None else body
        lines = [f"HTTP/1.1 {status} {status.phrase}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, "Connection: close", *(headers or []), "", ""])
        self._transport.write(head.encode() + body)
        self._transport.close()
