"""systemd's protocols: what is said to a manager of processes, and the sockets that it passes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from polykemi.errors import UsageError
from polykemi.systemd import Inherited, Notifier
from tests.waiting import PATIENCE

HOST = "127.0.68.3"


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind("\0" + path[1:] if path[:1] == "@" else path)

    def heard(self) -> dict[str, str]:
        """Return the assignments of one notice."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))


@pytest.fixture(params=["file", "abstract"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "file" else f"@polykemi-{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def manager(place: str) -> Iterator[Manager]:
    one = Manager(place)
    yield one
    one.socket.close()


@pytest.fixture
def notifier(place: str, manager: Manager) -> Iterator[Notifier]:
    one = Notifier(place)
    yield one
    one.close()


def test_a_manager_hears_of_each_step_of_a_life(manager: Manager, notifier: Notifier) -> None:
    notifier.ready("listening\non two lines")
    assert manager.heard() == {"READY": "1", "STATUS": "listening on two lines"}
    notifier.reloading()
    heard = manager.heard()
    assert heard["RELOADING"] == "1"
    assert int(heard["MONOTONIC_USEC"]) > 0
    notifier.alive()
    assert manager.heard() == {"WATCHDOG": "1"}
    notifier.stopping("no new requests")
    assert manager.heard() == {"STOPPING": "1", "STATUS": "no new requests"}


def test_a_socket_is_handed_over_under_its_address(manager: Manager, notifier: Notifier) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        port = sock.getsockname()[1]
        notifier.keep(sock)
        data, descriptors, _, _ = socket.recv_fds(manager.socket, 4096, 4)
        assert data.decode().split("\n") == ["FDSTORE=1", "FDPOLL=0", f"FDNAME=udp-{HOST}-{port}"]
        with socket.socket(fileno=descriptors[0]) as received:
            assert received.getsockname() == (HOST, port)
        notifier.forget(f"udp:{HOST}:{port}")
        assert manager.heard() == {"FDSTOREREMOVE": "1", "FDNAME": f"udp-{HOST}-{port}"}


def test_nobody_has_to_listen(tmp_path: Path) -> None:
    for one in (Notifier(), Notifier(str(tmp_path / "nobody"))):
        one.ready("")
        one.alive()
        one.close()
        one.alive()


@pytest.mark.parametrize(
    ("pid", "watchdog"), [("", 4.0), (str(os.getpid()), 4.0), ("1", 0.0)], ids=["any", "own", "other"]
)
def test_what_the_environment_says_is_for_this_process_alone(pid: str, watchdog: float) -> None:
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": pid, "HOME": "/"}
    one = Notifier.take(environ)
    assert one.watchdog == watchdog
    assert environ == {"HOME": "/"}
    one.close()
    assert Notifier.take({"WATCHDOG_USEC": "4000000"}).watchdog == 0.0


# ---- sockets


def bound(kind: int, host: str = HOST) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    sock.bind((host, 0))
    return sock


def test_listeners_find_their_sockets_by_address() -> None:
    udp, tcp, other = bound(socket.SOCK_DGRAM), bound(socket.SOCK_STREAM), bound(socket.SOCK_STREAM, "::1")
    port, other_port = tcp.getsockname()[1], other.getsockname()[1]
    inherited = Inherited([(udp, "a"), (tcp, "b"), (other, "c")])
    assert inherited.find("tls", HOST, port) is tcp  # TLS is what is spoken on it
    assert inherited.find("tcp", HOST, port) is None  # it has been given away
    assert inherited.find("udp", HOST, 1) is None
    assert inherited.find("udp", HOST, 0) is udp
    assert inherited.close() == [(f"tcp:[::1]:{other_port}", "c")]
    assert other.fileno() == -1
    udp.close()
    tcp.close()


def test_what_no_server_can_listen_on_is_refused() -> None:
    with bound(socket.SOCK_DGRAM, "0.0.0.0") as sock, pytest.raises(UsageError) as refused:
        Inherited([(sock, "polykemi.socket")])
    port = str(refused.value).split(":")[-2].rstrip(")")
    expected = f"(polykemi.socket, udp:0.0.0.0:{port}): expected one for each address"
    assert str(refused.value) == f"a socket for all addresses was passed {expected}"
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(UsageError, match="neither UDP nor TCP"):
        Inherited([(sock, "x")])


def test_a_socket_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As sd_listen_fds_with_names(3) says; systemd-socket-activate passes an empty list of names."""
    sock = bound(socket.SOCK_DGRAM)
    port = sock.getsockname()[1]
    monkeypatch.setattr("polykemi.systemd.FIRST_FD", sock.detach())
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ""}
    assert Inherited.take(environ).close() == [(f"udp:{HOST}:{port}", "unknown")]


def test_what_is_passed_to_another_process_stays_there() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x"}
    assert Inherited.take(environ).close() == []
    assert environ == {}
