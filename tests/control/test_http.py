"""The metrics endpoint: what it answers, and what a client can do to it."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from polykemi.control import http as server
from polykemi.control.http import LONGEST, MOST, HttpServer
from polykemi.errors import UsageError
from tests.waiting import PATIENCE


class Served:
    """A server with one page, whose loop runs in a thread of its own."""

    def __init__(self, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = make_loop()
        self.server = HttpServer("127.0.0.1", 0)
        self.address = ("127.0.0.1", int(self.server.url.rpartition(":")[2]))
        self.asked = 0
        self.server.open(self.loop, {"/page": ("text/x-page", self.page)})
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def page(self) -> bytes:
        """Return what the page shows, and count that it was asked for."""
        self.asked += 1
        return b"p" * 100_000

    def connect(self) -> socket.socket:
        """Return a connection."""
        return socket.create_connection(self.address, PATIENCE)

    def send(self, *pieces: bytes) -> bytes:
        """Return what comes back until the server closes."""
        with self.connect() as sock:
            for piece in pieces:
                sock.sendall(piece)
            return receive(sock)

    def clients(self) -> int:
        """Return how many connections the server has."""

        async def count() -> int:
            return len(self.server._connections)

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(10)

    def stop(self) -> None:
        """End it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.server.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server with one page."""
    one = Served(request.param)
    yield one
    one.stop()


def receive(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def status(response: bytes) -> int:
    return int(response.split(b" ")[1])


def test_a_page_is_made_when_it_is_asked_for(served: Served) -> None:
    for n in (1, 2):
        client = http.client.HTTPConnection(*served.address, timeout=PATIENCE)
        client.request("GET", "/page?x=1", headers={"Accept": "text/plain"})
        response = client.getresponse()
        assert (response.status, response.getheader("Content-Type")) == (200, "text/x-page")
        assert response.getheader("Connection") == "close"
        assert response.read() == b"p" * 100_000
        assert served.asked == n
        client.close()


def test_a_request_may_come_octet_by_octet(served: Served) -> None:
    request = b"GET /page HTTP/1.0\r\nHost: a\r\n\r\n"
    assert status(served.send(*(bytes([octet]) for octet in request))) == 200


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /page/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /other HTTP/1.1\r\n\r\n", 404),
        (b"POST /page HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"HEAD /page HTTP/1.1\r\n\r\n", 405),
        (b"GET /page\r\n\r\n", 400),
        (b"GET /page HTTP/2.0\r\n\r\n", 400),
        (b"GET http://a/page HTTP/1.1\r\n\r\n", 400),
        (b"GET /p\xe4ge HTTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /page HTTP/1.1\r\nA: " + b"a" * LONGEST, 431),
        (b"a" * (LONGEST + 1), 431),
    ],
)
def test_everything_else_is_refused(served: Served, request_: bytes, answer: int) -> None:
    response = served.send(request_)
    assert status(response) == answer
    assert (b"\r\nAllow: GET\r\n" in response) == (answer == 405)
    assert served.asked == 0


def test_a_client_that_goes_early_does_no_harm(served: Served) -> None:
    with served.connect() as sock:
        sock.sendall(b"GET /page HT")
    assert status(served.send(b"GET /page HTTP/1.1\r\n\r\n")) == 200


def test_the_number_of_clients_is_bounded(served: Served) -> None:
    waiting = [served.connect() for _ in range(MOST)]
    while served.clients() < MOST:
        pass
    assert status(served.send(b"")) == 503
    waiting.pop().close()
    while served.clients() >= MOST:
        pass
    assert status(served.send(b"GET /page HTTP/1.1\r\n\r\n")) == 200
    for sock in waiting:
        sock.close()


def test_a_client_that_says_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(server, "SECONDS", 0.02)
    with served.connect() as sock:
        sock.sendall(b"GET /")
        assert sock.recv(100) == b""


@pytest.mark.parametrize(
    ("address", "says"),
    [(("127.0.0.1", None), "Address already in use"), (("192.0.2.250", 0), "Cannot assign requested address")],
)
def test_an_address_that_cannot_be_had_is_one_line(served: Served, address: Any, says: str) -> None:
    host, port = address[0], served.address[1] if address[1] is None else address[1]
    with pytest.raises(UsageError) as raised:
        HttpServer(host, port)
    assert str(raised.value) == f"cannot listen on tcp:{host}:{port}: {says}"
