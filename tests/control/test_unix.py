"""The control socket: who may connect, what is left of servers that were killed, what a client can do to the server."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from polykemi.control import client, unix
from polykemi.control.jsonrpc import Client
from polykemi.control.paths import directory_of
from polykemi.control.unix import LONGEST, MOST, ControlSocket, connect
from polykemi.errors import RpcError, UsageError
from polykemi.kemi.rpc import Later
from tests.waiting import PATIENCE, until

PING = b'{"ping"}\n'


def echo(request: bytes, _client: Client | None = None) -> bytes | None:
    """Answer a request with itself, and none that begins with a dash."""
    return None if request.startswith(b"-") else b"<" + request + b">"


class Served:
    """A socket whose loop runs in a thread of its own."""

    def __init__(self, path: Path, answer: unix.Asked, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.path, self.loop = path, make_loop()
        self.socket = ControlSocket(path)
        self.socket.open(self.loop, answer)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def in_loop(self, function: Callable[[], Any]) -> Any:
        """Return what ``function`` gives when the loop calls it."""

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)

    def stop(self) -> None:
        """End it."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.socket.close()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A socket that gives requests back."""
    one = Served(tmp_path / unix.NAME, echo, request.param)
    yield one
    one.stop()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def served_later(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Served, list[Later]]]:
    """A socket that gives requests back, "later" when the test settles it."""
    waiting: list[Later] = []

    def answer(data: bytes, client: Client) -> bytes | Later | None:
        if data != b"later":
            return echo(data, client)
        waiting.append(Later())
        return waiting[-1]

    one = Served(tmp_path / unix.NAME, answer, request.param)
    yield one, waiting
    one.stop()


def receive(sock: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def test_only_the_owner_may_connect_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = ControlSocket(tmp_path / "s")
    finally:
        os.umask(before)
    try:
        mode = (tmp_path / "s").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    finally:
        made.close()
    assert not (tmp_path / "s").exists()


def test_the_socket_of_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    made = ControlSocket(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with connect(path, 1):
        pass
    made.close()


def test_a_server_that_runs_keeps_its_socket(tmp_path: Path) -> None:
    first = ControlSocket(tmp_path / "s")
    with pytest.raises(UsageError) as raised:
        ControlSocket(tmp_path / "s")
    assert str(raised.value) == f"cannot listen on {tmp_path}/s: a server that runs already listens there"
    with connect(tmp_path / "s", 1):
        pass
    first.close()


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(UsageError, match="no socket"):
        ControlSocket(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


def test_who_holds_the_directorys_lock_does_not_hold_up_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read a directory can lock it."""
    monkeypatch.setattr("polykemi.process.PATIENCE", 0.0)
    with directory_of(tmp_path / "s") as directory:
        fcntl.flock(directory, fcntl.LOCK_SH)
        with pytest.raises(
            UsageError, match=f"cannot listen on {tmp_path}/s: another process holds a lock of {tmp_path}"
        ):
            ControlSocket(tmp_path / "s")
    ControlSocket(tmp_path / "s").close()


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on .*/none/s: No such file or directory"):
        ControlSocket(tmp_path / "none" / "s")


def test_a_name_that_is_too_long_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on .*/x+: AF_UNIX path too long"):
        ControlSocket(tmp_path / ("x" * 120))


def test_a_socket_that_is_another_servers_by_now_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = ControlSocket(path)
    path.unlink()
    second = ControlSocket(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_a_path_that_is_too_long_for_an_address_works(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 200) / "s"
    path.parent.mkdir()
    served = Served(path, echo, uvloop.new_event_loop)
    with connect(path, 5) as sock:
        sock.sendall(b"a\n")
        assert sock.recv(100) == b"<a>\n"
    with pytest.raises(UsageError, match="runs already"):
        ControlSocket(path)
    served.stop()
    assert not path.exists()


def test_requests_are_answered_in_their_order_however_they_arrive(served: Served) -> None:
    with connect(served.path, PATIENCE) as sock:
        for octet in b"a\n-\n\n  \nb":
            sock.sendall(bytes([octet]))
        sock.sendall(b"\nc\nd")
        sock.shutdown(socket.SHUT_WR)  # the last request has no newline
        assert receive(sock) == b"<a>\n<b>\n<c>\n<d>\n"


def test_an_answer_that_comes_later_holds_up_its_own_client_alone(served_later: tuple[Served, list[Later]]) -> None:
    served, waiting = served_later
    with connect(served.path, 5) as patient, connect(served.path, 5) as other:
        patient.sendall(b"later\nsecond\n")
        patient.shutdown(socket.SHUT_WR)
        until(lambda: waiting, "the request is there")
        other.sendall(b"a\n")
        assert other.recv(100) == b"<a>\n"
        served.in_loop(lambda: waiting[0].settle(b"<at last>"))
        assert receive(patient) == b"<at last>\n<second>\n"


def test_a_client_that_does_not_wait_for_its_answer_harms_nobody(served_later: tuple[Served, list[Later]]) -> None:
    served, waiting = served_later
    with connect(served.path, 5) as sock:
        sock.sendall(b"later\n")
        until(lambda: waiting, "the request is there")
    served.in_loop(lambda: waiting[0].settle(b"nobody there"))
    until(lambda: not served.in_loop(lambda: list(served.socket._connections)), "the client is gone")
    with connect(served.path, 5) as sock:
        sock.sendall(b"a\n")
        assert sock.recv(100) == b"<a>\n"


def test_many_requests_at_once_leave_the_loop_its_turns(served: Served) -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        served.loop.call_soon(turn)

    served.loop.call_soon_threadsafe(turn)
    with connect(served.path, PATIENCE) as sock:
        sock.sendall(b"a\n" * 1000)
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock) == b"<a>\n" * 1000
    assert turns >= 1000


@pytest.mark.parametrize("tail", [b"", b"\n"])
def test_a_request_that_is_too_long_is_refused(served: Served, tail: bytes) -> None:
    with connect(served.path, PATIENCE) as sock:
        sock.sendall(b"a" * LONGEST + b"\n")
        sock.sendall(b"b" * (LONGEST + 1) + tail)
        answers = receive(sock).split(b"\n")
    assert answers[0] == b"<" + b"a" * LONGEST + b">"
    assert json.loads(answers[1])["error"]["code"] == -32600
    assert answers[2:] == [b""]


def test_a_client_that_reads_nothing_makes_the_server_hold_little(served: Served) -> None:
    with connect(served.path, PATIENCE) as sock:
        sock.setblocking(False)
        sent = 0
        line = b"x" * 1000 + b"\n"
        idle = 0
        while idle < 50:  # until nothing is taken any more
            try:
                sent += sock.send(line * 50)
                idle = 0
            except BlockingIOError:
                idle += 1
                served.in_loop(lambda: None)
        (connection,) = served.in_loop(lambda: list(served.socket._connections))
        assert len(connection._received) < 4 * LONGEST + 300_000
        assert connection._transport.get_write_buffer_size() < 200_000
        sock.settimeout(PATIENCE)
        taken = 0
        while taken < 10_000:
            taken += len(sock.recv(65536))
    with connect(served.path, PATIENCE) as sock:
        sock.sendall(b"a\n")
        assert sock.recv(100) == b"<a>\n"


def test_the_number_of_clients_is_bounded_and_a_place_that_is_free_again_is_given(served: Served) -> None:
    clients = [connect(served.path, PATIENCE) for _ in range(MOST)]
    for sock in clients:
        sock.sendall(b"a\n")
        assert sock.recv(100) == b"<a>\n"
    with connect(served.path, PATIENCE) as sock:
        assert json.loads(receive(sock))["error"]["code"] == -32000
        client.send(sock, {})  # too late, and no error: what has come says why
    with pytest.raises(RpcError, match=f"expected at most {MOST} connections"):
        client.call(served.path, "x")
    clients.pop().close()
    while len(served.in_loop(lambda: list(served.socket._connections))) == MOST:
        pass
    with connect(served.path, PATIENCE) as sock:
        sock.sendall(b"a\n")
        assert sock.recv(100) == b"<a>\n"
    for one in clients:
        one.close()


def test_stopping_drops_the_clients(served: Served) -> None:
    with connect(served.path, PATIENCE) as sock:
        sock.sendall(b"a\n")
        assert sock.recv(100) == b"<a>\n"
        served.stop()
        assert sock.recv(100) == b""
    assert not served.path.exists()


# ---- the client


def answering(path: Path, answer: bytes) -> Served:
    return Served(path, lambda request, client: answer, uvloop.new_event_loop)


def test_a_call_returns_the_result(tmp_path: Path) -> None:
    seen: list[Any] = []

    def answer(request: bytes, _client: Client) -> bytes:
        seen.append(json.loads(request))
        return b'{"jsonrpc":"2.0","result":{"a":1},"id":1}'

    served = Served(tmp_path / "s", answer, uvloop.new_event_loop)
    assert client.call(tmp_path / "s", "x.y", ["ü", 1]) == {"a": 1}
    assert seen == [{"jsonrpc": "2.0", "method": "x.y", "params": ["ü", 1], "id": 1}]
    served.stop()


def test_an_error_of_the_server_is_raised_with_its_code(tmp_path: Path) -> None:
    served = answering(tmp_path / "s", b'{"jsonrpc":"2.0","error":{"code":404,"message":"not here"},"id":1}')
    with pytest.raises(RpcError, match="not here") as raised:
        client.call(tmp_path / "s", "x.y")
    assert raised.value.code == 404
    served.stop()


@pytest.mark.parametrize("answer", [b"what?", b"[]", b"1", b'{"jsonrpc":"2.0"}', b'{"error":1}', b'{"error":{}}'])
def test_what_is_no_answer_is_said_so(tmp_path: Path, answer: bytes) -> None:
    served = answering(tmp_path / "s", answer)
    with pytest.raises(UsageError, match="gave no JSON-RPC answer"):
        client.call(tmp_path / "s", "x.y")
    served.stop()


def test_a_server_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        client.call(tmp_path / "s", "x.y")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        with pytest.raises(UsageError, match="none runs behind"):
            client.call(tmp_path / "s", "x.y")
        silent.listen()
        with pytest.raises(UsageError, match=r"no answer for 0\.01 s"):
            client.call(tmp_path / "s", "x.y", seconds=0.01)
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match="cannot reach a server"):
        client.call(tmp_path / "f" / "s", "x.y")
