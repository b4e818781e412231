"""JSON-RPC over HTTP: who may ask, and what is taken."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from polykemi.control.http import LONGEST_BODY, HttpServer
from polykemi.control.http_rpc import PATH, rpc_over_http
from polykemi.control.jsonrpc import JsonRpc
from polykemi.kemi.rpc import Later, rpc
from tests.waiting import PATIENCE, until

TOKEN = "s3cret-s3cret-s3cret"
REQUEST = b'{"jsonrpc":"2.0","method":"test.add","params":[1,2],"id":"a"}'


class Calls:
    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    @rpc("test.add")
    def add(self, one: int, other: int) -> int:
        """Add."""
        return one + other

    @rpc("test.later")
    def later(self) -> Later:
        """Answer in the loop's next pass."""
        out = Later()
        asyncio.get_running_loop().call_soon(out.settle, "at last")
        return out

    @rpc("test.wait")
    def wait(self) -> Later:
        """Answer when somebody calls ``waiting``."""
        out = Later()
        self.waiting.append(partial(out.settle, "at last"))
        return out


class Served:
    """A server whose loop runs in a thread of its own."""

    def __init__(self, token: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.server = HttpServer("127.0.0.1", 0)
        commands = JsonRpc()
        self.calls = Calls()
        commands.add(self.calls)
        self.server.open(self.loop, {}, {PATH: rpc_over_http(commands.answer, token)})
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def send(self, *pieces: bytes) -> tuple[int, bytes, bytes]:
        """Return status, head and body of what comes back."""
        address = ("127.0.0.1", int(self.server.url.rpartition(":")[2]))
        with socket.create_connection(address, PATIENCE) as sock:
            for piece in pieces:
                sock.sendall(piece)
            data = b""
            while piece := sock.recv(65536):
                data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), head, body

    def post(self, body: bytes = REQUEST, *headers: str, kind: str = "application/json") -> tuple[int, bytes, bytes]:
        """Send a POST in one go."""
        lines = ["POST /RPC HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", f"Content-Type: {kind}", *headers]
        return self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def stop(self) -> None:
        """End it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.server.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture(params=[""])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    one = Served(request.param)
    yield one
    one.stop()


def test_a_request_is_answered_with_its_id(served: Served) -> None:
    status, head, body = served.post(kind="application/json; charset=utf-8")
    assert (status, json.loads(body)) == (200, {"jsonrpc": "2.0", "result": 3, "id": "a"})
    assert b"\r\nContent-Type: application/json\r\n" in head


def test_an_answer_may_come_later(served: Served) -> None:
    status, _, body = served.post(b'{"jsonrpc":"2.0","method":"test.later","id":1}')
    assert (status, json.loads(body)["result"]) == (200, "at last")


def test_what_comes_behind_a_request_is_not_kept_while_its_answer_is_waited_for(served: Served) -> None:
    request = b'{"jsonrpc":"2.0","method":"test.wait","id":1}'
    head = b"POST /RPC HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(request)
    with socket.create_connection(("127.0.0.1", int(served.server.url.rpartition(":")[2])), PATIENCE) as sock:
        sock.sendall(head + request)
        until(lambda: bool(served.calls.waiting))
        (connection,) = served.server._connections
        for _ in range(100):
            sock.sendall(bytes(65536))
            assert len(connection._received) <= len(head + request)
        served.loop.call_soon_threadsafe(served.calls.waiting[0])
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_request_may_come_octet_by_octet(served: Served) -> None:
    request = b"POST /RPC HTTP/1.1\r\ncontent-TYPE:application/json\r\nContent-Length: %d\r\n\r\n" % len(REQUEST)
    assert served.send(*(bytes([octet]) for octet in request + REQUEST))[0] == 200


def test_a_client_that_waits_for_permission_gets_it(served: Served) -> None:
    head = b"POST /RPC HTTP/1.1\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    status, head, body = served.send(head % len(REQUEST), REQUEST)
    assert (status, head) == (100, b"HTTP/1.1 100 Continue")
    assert body.startswith(b"HTTP/1.1 200 OK\r\n")


def test_notifications_have_no_answer_and_mistakes_have_one(served: Served) -> None:
    assert served.post(b'{"jsonrpc":"2.0","method":"test.add","params":[1,2]}')[::2] == (204, b"")
    status, _, body = served.post(b"nonsense")
    assert (status, json.loads(body)["error"]["code"]) == (200, -32700)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /RPC HTTP/1.1\r\n\r\n", 405),
        (b"OPTIONS /RPC HTTP/1.1\r\n\r\n", 405),  # a browser asks first: it is not allowed to send JSON
        (b"POST /rpc HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /RPC HTTP/1.1\r\nContent-Type: application/json\r\n\r\n", 411),
        (b"POST /RPC HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /RPC HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /RPC HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (LONGEST_BODY + 1), 413),
        (b"POST /RPC HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        (b"POST /RPC HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 415),
    ],
)
def test_everything_else_is_refused(served: Served, request_: bytes, answer: int) -> None:
    assert served.send(request_)[0] == answer


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_of_a_page_can_send_is_not_taken(served: Served, kind: str) -> None:
    assert served.post(kind=kind)[0] == 415


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8080"])
def test_pages_of_a_browser_cannot_ask(served: Served, origin: str) -> None:
    assert served.post(REQUEST, f"Origin: {origin}")[0] == 403


@pytest.mark.parametrize("served", [TOKEN], indirect=True)
def test_with_a_token_only_who_knows_it_may_ask(served: Served) -> None:
    assert served.post(REQUEST, f"Authorization: Bearer {TOKEN}")[0] == 200
    assert served.post(REQUEST, f"authorization: bearer {TOKEN}")[0] == 200
    for wrong in (f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer \xe4"):
        status, head, body = served.post(REQUEST, f"Authorization: {wrong}")
        assert (status, body) == (401, b"Unauthorized\n"), wrong
        assert head.endswith(b"\r\nWWW-Authenticate: Bearer")
    assert served.post(REQUEST)[0] == 401
